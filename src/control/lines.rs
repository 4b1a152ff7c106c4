//! What processes said and say, as lines, for one who asks.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::server::Answers;
use crate::logs::follow::Said;
use crate::logs::format::{Color, Label, Style};
use crate::logs::lines::Cutter;
use crate::logs::recent::Line;
use crate::notice::{Discarded, Notice};

/// Makes lines of what processes say.
pub(super) struct Lines {
    style: Style,
    /// By process type.
    colors: Vec<(String, Color)>,
    /// And when it last said something.
    open: HashMap<Arc<str>, (Label, Cutter, SystemTime)>,
    out: Vec<u8>,
}

impl Lines {
    pub(super) fn new(style: Style, colors: Vec<(String, Color)>) -> Self {
        Self { style, colors, open: HashMap::new(), out: Vec::new() }
    }

    /// Takes in what was remembered.
    pub(super) fn recall(mut self, lines: &[Line]) -> Self {
        for line in lines {
            self.say(&line.name, line.at, &line.bytes);
        }
        self
    }

    fn say(&mut self, name: &Arc<str>, at: SystemTime, bytes: &[u8]) {
        let kind = name.rsplit_once('.').map_or(&**name, |(kind, _)| kind);
        let color = self.colors.iter().find(|(known, _)| known == kind);
        let color = color.map_or(0, |(_, color)| *color);
        let new = || (self.style.label(name, color), Cutter::default(), at);
        let (label, cutter, last) = self.open.entry(Arc::clone(name)).or_insert_with(new);
        *last = at;
        let stamp = self.style.stamp_of(at);
        for chunk in bytes.chunks(crate::logs::lines::LONGEST) {
            cutter.feed(chunk, label.prefix(&stamp), &mut self.out);
        }
    }

    fn lose(&mut self, bytes: u64) {
        // What was begun doesn't go on where it stopped.
        self.end();
        let notice = Notice::Discarded { bytes, why: Discarded::Slow };
        self.out.extend(self.style.notice(&notice.to_string()));
    }

    fn end(&mut self) {
        for (_, (label, mut cutter, last)) in self.open.drain() {
            cutter.finish(label.prefix(&self.style.stamp_of(last)), &mut self.out);
        }
    }

    /// All of it, with what is unfinished.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end();
        self.out
    }

    /// The same, and then what comes.
    pub(super) fn follow(
        self,
        said: mpsc::Receiver<Said>,
        answers: Answers,
        room: OwnedSemaphorePermit,
    ) -> Following {
        Following { lines: self, said, answers, _room: room }
    }
}

/// A body that goes on as long as there is somebody to speak and to listen.
pub(super) struct Following {
    lines: Lines,
    said: mpsc::Receiver<Said>,
    answers: Answers,
    _room: OwnedSemaphorePermit,
}

impl Body for Following {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            if !this.lines.out.is_empty() {
                let bytes = Bytes::from(std::mem::take(&mut this.lines.out));
                this.answers.note_taken();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match ready!(this.said.poll_recv(context)) {
                Some(Said::Bytes { name, at, bytes }) => this.lines.say(&name, at, &bytes),
                Some(Said::Lost(bytes)) => this.lines.lose(bytes),
                None => return Poll::Ready(None),
            }
        }
    }
}
