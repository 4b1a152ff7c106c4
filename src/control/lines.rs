//! What processes write, as lines for one client, made piece by piece as it reads them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::OwnedSemaphorePermit;

use super::body::PIECE_BYTES;
use super::in_flight::InFlight;
use super::memory::shrink;
use super::names::type_of;
use crate::logs::format::{Color, Label, Style};
use crate::logs::lines::LineSplitter;
use crate::logs::recent::ExcerptReader;
use crate::logs::subscribers::{Output, Subscription};
use crate::notice::{DiscardReason, Notice};

/// How much is split into lines at once: every byte may be a line, with a prefix.
const INPUT_BYTES: usize = 1 << 10;
/// So often that is done before other clients have their turn.
const MAX_ROUNDS: usize = 128;
/// The memory for unfinished lines, those of all processes together.
const MAX_OPEN_BYTES: usize = 128 << 10;

/// Splits the output of processes into lines.
pub(super) struct Lines {
    style: Style,
    /// By process type.
    colors: Arc<HashMap<String, Color>>,
    /// The process that wrote last.
    last: Option<(Arc<str>, Label)>,
    /// Lines that have begun, and when they went on.
    open: HashMap<Arc<str>, (LineSplitter, SystemTime)>,
    open_bytes: usize,
    out: Vec<u8>,
}

impl Lines {
    pub(super) fn new(style: Style, colors: Arc<HashMap<String, Color>>) -> Self {
        let (last, open) = (None, HashMap::new());
        Self { style, colors, last, open, open_bytes: 0, out: Vec::new() }
    }

    fn label(&self, name: &Arc<str>) -> Label {
        let color = self.colors.get(type_of(name));
        self.style.label(name, color.copied().unwrap_or_default())
    }

    /// A process has written a few bytes.
    fn push(&mut self, name: &Arc<str>, at: SystemTime, bytes: &[u8]) {
        let label = match self.last.take() {
            Some((last, label)) if Arc::ptr_eq(&last, name) => label,
            Some(_) | None => self.label(name),
        };
        let stamp = self.style.timestamp_at(at);
        let (mut splitter, _) = self.open.remove(name).unwrap_or((LineSplitter::default(), at));
        self.open_bytes -= splitter.pending_bytes();
        splitter.push(bytes, label.prefix(&stamp), &mut self.out);
        if self.open_bytes + splitter.pending_bytes() > MAX_OPEN_BYTES {
            splitter.break_line(label.prefix(&stamp), &mut self.out);
        }
        if splitter.is_mid_line() {
            self.open_bytes += splitter.pending_bytes();
            self.open.insert(Arc::clone(name), (splitter, at));
        }
        self.last = Some((Arc::clone(name), label));
    }

    /// A process writes nothing more.
    fn end(&mut self, name: &Arc<str>) {
        if let Some((mut splitter, at)) = self.open.remove(name) {
            self.open_bytes -= splitter.pending_bytes();
            let stamp = self.style.timestamp_at(at);
            splitter.finish(self.label(name).prefix(&stamp), &mut self.out);
        }
    }

    /// Notes that bytes are missing: unfinished lines don't go on where they stopped.
    fn note_gap(&mut self, bytes: u64) {
        let names: Vec<Arc<str>> = self.open.keys().cloned().collect();
        for name in &names {
            self.end(name);
        }
        let notice = Notice::Discarded { bytes, why: DiscardReason::SlowReader };
        self.out.extend(self.style.format_message(&notice.to_string()));
    }
}

/// What came last from the mux, and how much of it is still to be cut.
struct Pending {
    name: Arc<str>,
    at: SystemTime,
    bytes: Arc<[u8]>,
    start: usize,
    _room: OwnedSemaphorePermit,
}

/// A response body: recent output, then the output to come.
pub(super) struct LogBody {
    lines: Lines,
    kept: Option<(ExcerptReader, OwnedSemaphorePermit)>,
    following: Option<Subscription>,
    pending: Option<Pending>,
    in_flight: InFlight,
    _held: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl LogBody {
    /// `held` is what goes with it.
    pub(super) fn new(
        lines: Lines,
        reader: ExcerptReader,
        room: OwnedSemaphorePermit,
        following: Option<Subscription>,
        in_flight: InFlight,
        held: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
    ) -> Self {
        let kept = Some((reader, room));
        Self { lines, kept, following, pending: None, in_flight, _held: held }
    }

    /// Formats some of the recent output. Returns false at its end.
    fn read_kept(&mut self) -> bool {
        let Some((reader, room)) = &mut self.kept else { return false };
        let Some(piece) = reader.next_piece() else {
            self.kept = None;
            return false;
        };
        self.lines.push(piece.name, piece.at, piece.bytes);
        // A line that a follower has the beginning of may go on.
        if piece.is_end && self.following.is_none() {
            self.lines.end(piece.name);
        }
        shrink(room, reader.memory());
        true
    }

    /// Formats output that has just come.
    fn read_pending(&mut self) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let rest = &pending.bytes[pending.start..];
        let piece = &rest[..rest.len().min(INPUT_BYTES)];
        self.lines.push(&pending.name, pending.at, piece);
        pending.start += piece.len();
        if pending.start == pending.bytes.len() {
            self.pending = None;
        }
        true
    }
}

impl Body for LogBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let mut rounds = 0;
        loop {
            let is_more = this.lines.out.len() < PIECE_BYTES && rounds < MAX_ROUNDS;
            rounds += 1;
            if is_more && (this.read_kept() || this.read_pending()) {
                continue;
            }
            if !this.lines.out.is_empty() {
                let bytes = Bytes::from(std::mem::take(&mut this.lines.out));
                this.in_flight.note_progress();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if !is_more {
                // Others are to have their turn.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(following) = &mut this.following else { return Poll::Ready(None) };
            match ready!(following.poll_next(context)) {
                Some(Output::Bytes { name, at, bytes, room }) => {
                    this.pending = Some(Pending { name, at, bytes, start: 0, _room: room });
                }
                Some(Output::Gap(bytes)) => this.lines.note_gap(bytes),
                None => return Poll::Ready(None),
            }
        }
    }
}
