//! The answer to `GET /logs`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::lines::Lines;
use super::names;
use super::routes::{App, Error, bad, choose, full};
use crate::logs::format::Style;

#[derive(Deserialize)]
pub(super) struct Logs {
    /// Patterns, separated by commas; all, if not given.
    names: Option<String>,
    /// How many lines at most.
    n: Option<usize>,
    /// None that is older, in seconds.
    since: Option<f64>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    color: bool,
    #[serde(default)]
    timestamp: bool,
    #[serde(default)]
    no_prefix: bool,
}

/// As `start` shows it, however long it goes on.
pub(super) async fn logs(
    State(app): State<App>,
    Query(query): Query<Logs>,
) -> Result<Response, Error> {
    let room = app.stay()?;
    let snapshot = app.engine.look().await?;
    let patterns: Vec<&str> = query.names.as_deref().unwrap_or("*").split(',').collect();
    let filter = names::filter(&patterns)?;
    let oldest = |seconds| {
        let age = Duration::try_from_secs_f64(seconds).map_err(bad)?;
        Ok::<_, Error>(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
    };
    let since = query.since.map(oldest).transpose()?;
    let most = query.n.unwrap_or(usize::MAX);
    let (lines, said) = app.engine.logs(filter, since, most, query.follow).await?;
    for pattern in patterns.iter().filter(|_| query.names.is_some()) {
        // One that has gone may have said something; this one never was there.
        let means = names::filter(&[pattern])?.0;
        if !lines.iter().any(|line| means(&line.name)) {
            choose(pattern, &snapshot)?;
        }
    }
    let Logs { color, timestamp, no_prefix, .. } = query;
    let style = Style { color, timestamp, prefix: !no_prefix, width: 0 };
    let names = snapshot.processes.iter().map(|status| status.plan.name.as_str());
    let text = Lines::new(style.fit(names), snapshot.colors);
    // There may be much of it, and the engine has other things to do.
    let text = spawn_blocking(move || text.recall(&lines)).await.map_err(bad)?;
    if let Some(said) = said {
        return Ok(Body::new(text.follow(said, app.answers, room)).into_response());
    }
    let text = text.finish();
    let weight = u32::try_from(text.len() >> 10).unwrap_or(u32::MAX).saturating_add(1);
    let held = Arc::clone(&app.memory).try_acquire_many_owned(weight);
    let held = held.map_err(|_| full("others have not read what they asked for".to_owned()))?;
    Ok(Body::new(Whole { text: Some(text), _held: (room, held) }).into_response())
}

/// A body that is there as a whole, and has its room until it is read.
struct Whole {
    text: Option<Vec<u8>>,
    _held: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl hyper::body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.text.take().map(|text| Ok(Frame::data(text.into()))))
    }
}
