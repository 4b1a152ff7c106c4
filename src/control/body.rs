//! Response bodies that count as used memory until they are read.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use serde::Serialize;

use super::app::App;
use super::error::Error;
use super::memory::{ListRoom, shrink};

/// The size of a piece. The rest of the body counts as used memory until it is read.
pub(super) const PIECE_BYTES: usize = 16 << 10;

/// A response with this JSON.
pub(super) fn json(text: Vec<u8>, mut room: ListRoom) -> Response {
    if let Some(room) = &mut room {
        shrink(room, text.len());
    }
    let body = Body::new(Whole { text, sent: 0, _room: room });
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// A response with a list of names, with the memory that is reserved for it.
pub(super) fn names<T: Serialize>(list: &T, room: ListRoom) -> Result<Response, Error> {
    Ok(json(serde_json::to_vec(list).map_err(Error::bad_request)?, room))
}

/// Reserves memory for the names of all processes, which is more than most responses need.
pub(super) async fn room_for_names(app: &App) -> Result<ListRoom, Error> {
    let snapshot = app.engine.snapshot().await?;
    let size: usize = snapshot.processes.iter().map(|it| it.plan.name.len() + 3).sum();
    app.memory.for_list(size + 128).await
}

/// A body that is complete.
struct Whole {
    text: Vec<u8>,
    sent: usize,
    _room: ListRoom,
}

impl hyper::body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let end = self.text.len().min(self.sent + PIECE_BYTES);
        // A copy, so that the last piece does not keep the whole body in memory.
        let piece = Bytes::copy_from_slice(&self.text[self.sent..end]);
        self.sent = end;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.text.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.text.len() - self.sent) as u64)
    }
}
