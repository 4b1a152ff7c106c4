//! The output of processes as lines for one client, made piece by piece as it reads them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::OwnedSemaphorePermit;

use super::api;
use super::body::PIECE_BYTES;
use super::in_flight::InFlight;
use super::json_lines::JsonLines;
use super::memory::shrink;
use super::names::type_of;
use crate::logs::cursor::LogCursor;
use crate::logs::format::{Color, Label, OWN_NAME, Style};
use crate::logs::lines::{LineSplitter, SplitLines};
use crate::logs::recent::ExcerptReader;
use crate::logs::subscribers::{Output, Subscription};
use crate::logs::terminal::{Layout, TerminalLines};
use crate::notice::{DiscardReason, Notice};

/// The bytes that are split into lines at once: every byte may be a line, with a prefix.
const INPUT_BYTES: usize = 1 << 10;
/// The number of such rounds before other clients have their turn.
const MAX_ROUNDS: usize = 128;
/// The memory for unfinished lines of all processes together.
const MAX_OPEN_BYTES: usize = 128 << 10;

/// Splits the output of processes into lines, in the format that the client asked for.
pub(super) enum Lines {
    Text(TextLines),
    Json(JsonLines),
    Raw(RawOutput),
}

impl Lines {
    /// A process has written a few bytes.
    pub(super) fn push(&mut self, name: &Arc<str>, at: SystemTime, bytes: &[u8]) {
        match self {
            Self::Text(lines) => lines.push(name, at, bytes),
            Self::Json(lines) => lines.push(name, at, bytes),
            Self::Raw(output) => output.0.extend_from_slice(bytes),
        }
    }

    /// A process writes nothing more.
    fn end(&mut self, name: &Arc<str>) {
        match self {
            Self::Text(lines) => lines.end(name),
            // Its line comes as a whole, once it is complete.
            Self::Json(lines) => lines.forget(name),
            Self::Raw(_) => {}
        }
    }

    fn note_gap(&mut self, bytes: u64) {
        match self {
            Self::Text(lines) => lines.note_gap(bytes),
            Self::Json(lines) => lines.note_gap(Some(bytes)),
            Self::Raw(output) => output.note_gap(bytes),
        }
    }

    /// Notes that a reader can go on here.
    pub(super) fn note_cursor(&mut self, cursor: &LogCursor) {
        match self {
            Self::Text(lines) => lines.note_cursor(cursor),
            Self::Json(lines) => lines.note_cursor(cursor),
            Self::Raw(_) => {}
        }
    }

    /// What is to be sent next.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Text(lines) => &mut lines.out,
            Self::Json(lines) => &mut lines.out,
            Self::Raw(output) => &mut output.0,
        }
    }
}

/// The bytes as they were written, with the beginning of an unfinished line.
#[derive(Default)]
pub(super) struct RawOutput(Vec<u8>);

impl RawOutput {
    fn note_gap(&mut self, bytes: u64) {
        let notice = Notice::Discarded { bytes, why: DiscardReason::SlowReader };
        self.0.push(b'\n');
        self.0.extend(Style::default().format_message(&notice.to_string()));
    }
}

/// Lines as `start` prints them.
pub(super) struct TextLines {
    style: Style,
    /// Whether a NUL stands between the prefix and the line, and a line with the cursor between
    /// recent output and the output to come.
    marked: bool,
    /// By process type.
    colors: Arc<HashMap<String, Color>>,
    /// The process that wrote last.
    last: Option<(Arc<str>, Label)>,
    /// Unfinished lines, and when their last bytes came.
    open: HashMap<Arc<str>, (Box<dyn SplitLines>, SystemTime)>,
    open_bytes: usize,
    /// How lines are shown, if the client shows them on a terminal.
    terminal: Option<Layout>,
    out: Vec<u8>,
}

impl TextLines {
    pub(super) fn new(
        style: Style,
        marked: bool,
        colors: Arc<HashMap<String, Color>>,
        terminal: Option<Layout>,
    ) -> Self {
        let (last, open) = (None, HashMap::new());
        Self { style, marked, colors, last, open, open_bytes: 0, terminal, out: Vec::new() }
    }

    fn new_splitter(&self) -> Box<dyn SplitLines> {
        match self.terminal {
            Some(layout) => Box::new(TerminalLines::new(layout)),
            None => Box::<LineSplitter>::default(),
        }
    }

    fn label(&self, name: &Arc<str>) -> Label {
        let label = if **name == *OWN_NAME {
            self.style.own_label()
        } else {
            let color = self.colors.get(type_of(name));
            self.style.label(name, color.copied().unwrap_or_default())
        };
        if self.marked { label.with_mark() } else { label }
    }

    fn note_cursor(&mut self, cursor: &LogCursor) {
        if self.marked {
            self.out.extend_from_slice(format!("{}{cursor}\n", api::CURSOR_MARK).as_bytes());
        }
    }

    /// A process has written a few bytes.
    fn push(&mut self, name: &Arc<str>, at: SystemTime, bytes: &[u8]) {
        let label = match self.last.take() {
            Some((last, label)) if Arc::ptr_eq(&last, name) => label,
            Some(_) | None => self.label(name),
        };
        let stamp = self.style.timestamp_at(at);
        let (mut splitter, _) = self.open.remove(name).unwrap_or_else(|| (self.new_splitter(), at));
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

    /// Notes that bytes are missing: unfinished lines can't be continued.
    fn note_gap(&mut self, bytes: u64) {
        let names: Vec<Arc<str>> = self.open.keys().cloned().collect();
        for name in &names {
            self.end(name);
        }
        let notice = Notice::Discarded { bytes, why: DiscardReason::SlowReader };
        self.out.extend(self.style.format_message(&notice.to_string()));
    }
}

/// The latest output from the mux, and how much of it is still to be split.
struct Pending {
    name: Arc<str>,
    at: SystemTime,
    offset: u64,
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
    /// Where a later reader goes on.
    cursor: LogCursor,
    /// Whether that was not noted since it changed.
    cursor_is_due: bool,
    in_flight: InFlight,
    _held: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl LogBody {
    /// `cursor` is where the client has stopped before. `held` is dropped with it.
    pub(super) fn new(
        lines: Lines,
        reader: ExcerptReader,
        mut cursor: LogCursor,
        room: OwnedSemaphorePermit,
        following: Option<Subscription>,
        in_flight: InFlight,
        held: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
    ) -> Self {
        for (name, offset) in reader.next() {
            cursor.advance(name, *offset);
        }
        let kept = Some((reader, room));
        let (pending, cursor_is_due) = (None, false);
        Self { lines, kept, following, pending, cursor, cursor_is_due, in_flight, _held: held }
    }

    /// Formats some of the recent output. Returns false at its end.
    fn read_kept(&mut self) -> bool {
        let Some((reader, room)) = &mut self.kept else { return false };
        let Some(piece) = reader.next_piece() else {
            self.kept = None;
            self.lines.note_cursor(&self.cursor);
            return false;
        };
        self.lines.push(piece.name, piece.at, piece.bytes);
        // A follower may get the rest of an unfinished line.
        if piece.is_end && self.following.is_none() {
            self.lines.end(piece.name);
        }
        shrink(room, reader.memory());
        true
    }

    /// Formats new output.
    fn read_pending(&mut self) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let rest = &pending.bytes[pending.start..];
        let piece = &rest[..rest.len().min(INPUT_BYTES)];
        self.lines.push(&pending.name, pending.at, piece);
        if let Some(end) = memchr::memrchr(b'\n', piece) {
            let read = pending.start + end + 1;
            self.cursor.advance(&pending.name, pending.offset + read as u64);
            self.cursor_is_due = true;
        }
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
            let is_more = this.lines.out().len() < PIECE_BYTES && rounds < MAX_ROUNDS;
            rounds += 1;
            if is_more && (this.read_kept() || this.read_pending()) {
                continue;
            }
            if !this.lines.out().is_empty() {
                let bytes = Bytes::from(std::mem::take(this.lines.out()));
                this.in_flight.note_progress();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if !is_more {
                // Other clients have their turn.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(following) = &mut this.following else { return Poll::Ready(None) };
            let next = following.poll_next(context);
            // A burst of output is over.
            if !matches!(next, Poll::Ready(Some(_))) && this.cursor_is_due {
                this.cursor_is_due = false;
                if let Lines::Json(lines) = &mut this.lines {
                    lines.note_cursor(&this.cursor);
                    if next.is_ready() {
                        this.following = None;
                    }
                    continue;
                }
            }
            match ready!(next) {
                Some(Output::Bytes { name, at, offset, bytes, room }) => {
                    let pending = Pending { name, at, offset, bytes, start: 0, _room: room };
                    this.pending = Some(pending);
                }
                Some(Output::Gap(bytes)) => this.lines.note_gap(bytes),
                None => return Poll::Ready(None),
            }
        }
    }
}
