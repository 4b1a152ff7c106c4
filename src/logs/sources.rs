//! The sources of output: the pipe or terminal of each process, with its unfinished line.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Instant;

use anstream::adapter::StripBytes;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use regex::bytes::Regex;

use super::format::Label;
use super::hints::Hints;
use super::lines::{LineSplitter, MAX_LINE_BYTES, SplitLines};
use super::sink::Sink;
use super::subscribers::Subscribers;
use super::terminal::{Layout, TerminalLines};
use super::{Addition, SourceFile, SourceId};
use crate::pty::PtyReader;

/// The most bytes that a pipe can hold.
pub(super) const MAX_PIPE_BYTES: usize = 1 << 20;

struct Source {
    token: Token,
    name: Arc<str>,
    file: Readable,
    label: Option<Label>,
    splitter: Box<dyn SplitLines>,
    /// When the unfinished line is to be shown.
    show_at: Option<Instant>,
    /// Whether it may be readable.
    ready: bool,
    /// Whether all writers have closed it, so that it must be read to its end.
    ending: bool,
    /// Whether it is in the queue of readable sources.
    queued: bool,
}

/// A file that is read.
enum Readable {
    Pipe(File),
    Terminal(PtyReader),
}

impl Readable {
    /// Returns how much was read, and whether there may be more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).map(|count| (count, count == buffer.len())),
            Self::Terminal(terminal) => terminal.read(buffer),
        }
    }
}

/// Removes escape sequences from output that comes in pieces. A newline ends every sequence, so
/// that one without an end hides no further line.
#[derive(Default)]
struct PlainBytes(StripBytes);

impl PlainBytes {
    /// Appends what is left of these bytes.
    fn append(&mut self, bytes: &[u8], to: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n");
            for plain in self.0.strip_next(text.unwrap_or(piece)) {
                to.extend_from_slice(plain);
            }
            if text.is_some() {
                to.push(b'\n');
                self.0 = StripBytes::new();
            }
        }
    }
}

/// A text to find in the output of a source. Escape sequences are left out of the search.
struct TextWatch {
    text: Box<[u8]>,
    /// The end of the last output, which may contain the beginning of the text.
    end: Vec<u8>,
    plain: PlainBytes,
}

impl TextWatch {
    fn new(text: Box<[u8]>) -> Self {
        Self { text, end: Vec::new(), plain: PlainBytes::default() }
    }

    /// Whether these bytes, together with those before them, contain the text.
    fn matches(&mut self, bytes: &[u8]) -> bool {
        let mut seen = std::mem::take(&mut self.end);
        self.plain.append(bytes, &mut seen);
        let matches = memchr::memmem::find(&seen, &self.text).is_some();
        let kept = seen.len().min(self.text.len() - 1);
        seen.drain(..seen.len() - kept);
        self.end = seen;
        matches
    }
}

/// How much of a line is matched: more would cost time that the output of others needs.
const MAX_MATCHED_BYTES: usize = 4 << 10;

/// A pattern to find in the lines of a source. Escape sequences are left out of the search.
struct LineWatch {
    pattern: Regex,
    /// The beginning of the current line.
    line: Vec<u8>,
    plain: PlainBytes,
}

impl LineWatch {
    fn new(pattern: Regex) -> Self {
        Self { pattern, line: Vec::new(), plain: PlainBytes::default() }
    }

    /// The first line that ends in these bytes and matches.
    fn find(&mut self, bytes: &[u8]) -> Option<String> {
        let mut plain = Vec::new();
        self.plain.append(bytes, &mut plain);
        for part in plain.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_MATCHED_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if !part.ends_with(b"\n") {
                continue;
            }
            let line = self.line.trim_ascii_end();
            let is_match = self.pattern.is_match(line);
            let text = is_match.then(|| String::from_utf8_lossy(line).into_owned());
            self.line.clear();
            if text.is_some() {
                return text;
            }
        }
        None
    }
}

/// All sources.
pub(super) struct Sources {
    by_id: HashMap<SourceId, Source>,
    /// The sources by their token in the poll.
    by_token: HashMap<Token, SourceId>,
    next_token: usize,
    /// The readable sources, in the order in which they are read.
    ready: VecDeque<SourceId>,
    buffer: Vec<u8>,
    /// How lines are shown, if the output goes to a terminal. Unfinished lines, which may be
    /// prompts, are shown only there.
    terminal: Option<Layout>,
    /// The source whose unfinished line was written last.
    row: Option<SourceId>,
    /// The texts to watch for.
    text_watches: HashMap<SourceId, TextWatch>,
    /// The sources that may get a hint.
    pub(super) hints: Hints,
    /// The sources that have written their text.
    pub(super) matched: Vec<SourceId>,
    /// The patterns to watch for.
    line_watches: HashMap<SourceId, LineWatch>,
    /// The sources that have written a line that matches, with the line.
    pub(super) matched_lines: Vec<(SourceId, String)>,
    /// The clients, and the recent output.
    pub(super) subscribers: Subscribers,
}

impl Sources {
    pub(super) fn new(terminal: Option<Layout>, recent_bytes: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            by_token: HashMap::new(),
            next_token: 0,
            ready: VecDeque::new(),
            buffer: vec![0; MAX_LINE_BYTES],
            terminal,
            row: None,
            text_watches: HashMap::new(),
            hints: Hints::default(),
            matched: Vec::new(),
            line_watches: HashMap::new(),
            matched_lines: Vec::new(),
            subscribers: Subscribers::new(recent_bytes),
        }
    }

    pub(super) fn add(&mut self, registry: &Registry, addition: Addition) {
        let Addition { id, name, source, label } = addition;
        let (file, is_terminal) = match source {
            SourceFile::Pipe(file) => (Readable::Pipe(file.into()), false),
            SourceFile::Terminal(file) => (Readable::Terminal(PtyReader::new(file)), true),
        };
        self.subscribers.begin_run(&name);
        let token = Token(self.next_token);
        self.next_token += 1;
        let raw = match &file {
            Readable::Pipe(pipe) => pipe.as_raw_fd(),
            Readable::Terminal(terminal) => terminal.as_fd().as_raw_fd(),
        };
        let registered = registry.register(&mut SourceFd(&raw), token, Interest::READABLE);
        debug_assert!(registered.is_ok(), "it can be waited for: {registered:?}");
        let splitter: Box<dyn SplitLines> = match self.terminal {
            Some(layout) => Box::new(TerminalLines::new(layout)),
            None => Box::<LineSplitter>::default(),
        };
        let (ready, ending, queued) = (false, false, false);
        let show_at = None;
        let source = Source { token, name, file, label, splitter, show_at, ready, ending, queued };
        if source.label.is_some() && !is_terminal {
            self.hints.watch(Instant::now(), id, &source.name);
        }
        self.by_id.insert(id, source);
        self.by_token.insert(token, id);
    }

    pub(super) fn watch_for_text(&mut self, id: SourceId, text: Box<[u8]>) {
        self.text_watches.insert(id, TextWatch::new(text));
    }

    pub(super) fn watch_for_line(&mut self, id: SourceId, pattern: Regex) {
        self.line_watches.insert(id, LineWatch::new(pattern));
    }

    /// A source is readable. `ending` is set if its writers have closed it.
    pub(super) fn mark_readable(&mut self, token: Token, ending: bool) {
        let Some(id) = self.by_token.get(&token) else { return };
        let Some(source) = self.by_id.get_mut(id) else { return };
        source.ready = true;
        source.ending |= ending;
        if !source.queued {
            source.queued = true;
            self.ready.push_back(*id);
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether the output goes to a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Takes note of the terminal's width.
    pub(super) fn set_columns(&mut self, columns: Option<usize>) {
        let Some(layout) = self.terminal.as_mut().filter(|layout| layout.columns != columns) else {
            return;
        };
        layout.columns = columns;
        for source in self.by_id.values_mut() {
            source.splitter.set_columns(columns);
        }
    }

    /// The output goes to the terminal no more.
    pub(super) fn release_terminal(&mut self) {
        self.terminal = None;
        self.row = None;
    }

    /// When [`Self::show_prompts`] is to be called next.
    pub(super) fn next_prompt_at(&self) -> Option<Instant> {
        let sources = self.is_terminal().then(|| self.by_id.values());
        sources.into_iter().flatten().filter_map(|source| source.show_at).min()
    }

    /// Reads once from each readable source. Returns how many bytes were read.
    pub(super) fn read_round(&mut self, stamp: &[u8], to: &mut Sink) -> usize {
        let mut read = 0;
        for _ in 0..self.ready.len() {
            if to.is_full() {
                break;
            }
            let Some(id) = self.ready.pop_front() else { break };
            read += self.read(id, stamp, to).unwrap_or_default();
            if let Some(source) = self.by_id.get_mut(&id) {
                source.queued = source.ready;
                if source.queued {
                    self.ready.push_back(id);
                }
            }
        }
        read
    }

    /// Reads what a source contains, as far as there is room in the queue. Returns `None` when that
    /// is done, otherwise how many of `max_bytes` are left.
    pub(super) fn drain(
        &mut self,
        id: SourceId,
        max_bytes: usize,
        stamp: &[u8],
        to: &mut Sink,
    ) -> Option<usize> {
        let mut left = max_bytes;
        loop {
            if to.is_full() {
                return Some(left);
            }
            match self.read(id, stamp, to) {
                Some(count) if count < left => left -= count,
                Some(_) | None => return None,
            }
        }
    }

    /// Reads what all sources contain, and ends them. Returns true when that is done.
    pub(super) fn end_all(&mut self, stamp: &[u8], to: &mut Sink) -> bool {
        let all: Vec<SourceId> = self.by_id.keys().copied().collect();
        if !all.iter().all(|id| self.drain(*id, MAX_PIPE_BYTES, stamp, to).is_none()) {
            return false;
        }
        for id in all {
            self.end_source(id, stamp, to);
        }
        true
    }

    /// Reads once from a source. Returns `None` if nothing was read, and removes the source at its
    /// end.
    fn read(&mut self, id: SourceId, stamp: &[u8], to: &mut Sink) -> Option<usize> {
        let source = self.by_id.get_mut(&id)?;
        match source.file.read(&mut self.buffer) {
            Ok((0, _)) => {
                self.end_source(id, stamp, to);
                None
            }
            Ok((count, has_more)) => {
                // Even if the file is empty, its end may follow.
                source.ready = has_more || source.ending;
                let bytes = &self.buffer[..count];
                self.subscribers.publish(&source.name, bytes);
                self.hints.note_output(id, bytes);
                if self
                    .text_watches
                    .get_mut(&id)
                    .is_some_and(|text_watches| text_watches.matches(bytes))
                {
                    self.text_watches.remove(&id);
                    self.matched.push(id);
                }
                let line = self.line_watches.get_mut(&id).and_then(|watch| watch.find(bytes));
                if let Some(line) = line {
                    self.line_watches.remove(&id);
                    self.matched_lines.push((id, line));
                }
                self.split_lines(id, count, stamp, to);
                Some(count)
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::WouldBlock => source.ready = false,
                    ErrorKind::Interrupted => {}
                    _ => self.end_source(id, stamp, to),
                }
                None
            }
        }
    }

    fn split_lines(&mut self, id: SourceId, count: usize, stamp: &[u8], to: &mut Sink) {
        let is_terminal = self.is_terminal();
        let buffer = std::mem::take(&mut self.buffer);
        self.write_row(id, to, |source, label, out| {
            source.splitter.push(&buffer[..count], label.prefix(stamp), out);
            if is_terminal {
                let is_new_line = memchr::memchr(b'\n', &buffer[..count]).is_some();
                let since = source.show_at.filter(|_| !is_new_line);
                let soon = || Instant::now() + source.splitter.partial_delay();
                source.show_at = source.splitter.has_partial().then(|| since.unwrap_or_else(soon));
            }
        });
        self.buffer = buffer;
    }

    /// Removes a source and writes its last line. Closing the file removes it from the poll.
    fn end_source(&mut self, id: SourceId, stamp: &[u8], to: &mut Sink) {
        self.write_row(id, to, |source, label, out| {
            source.splitter.finish(label.prefix(stamp), out);
        });
        self.row.take_if(|row| *row == id);
        if let Some(source) = self.by_id.remove(&id) {
            self.by_token.remove(&source.token);
            self.subscribers.end_process(&source.name);
        }
        self.text_watches.remove(&id);
        self.hints.remove(id);
        self.line_watches.remove(&id);
        self.ready.retain(|ready| *ready != id);
    }

    /// Shows the unfinished lines that have waited long enough.
    pub(super) fn show_prompts(&mut self, now: Instant, stamp: &[u8], to: &mut Sink) {
        if !self.is_terminal() {
            return;
        }
        let due = |source: &Source| source.show_at.is_some_and(|at| at <= now);
        let due: Vec<SourceId> =
            self.by_id.iter().filter(|(_, source)| due(source)).map(|(id, _)| *id).collect();
        for id in due {
            self.write_row(id, to, |source, label, out| {
                source.show_at = None;
                source.splitter.flush_partial(label.prefix(stamp), out);
            });
        }
    }

    /// Writes something for a source, and begins a new row first if another source's unfinished
    /// line was written last.
    fn write_row(
        &mut self,
        id: SourceId,
        to: &mut Sink,
        put: impl FnOnce(&mut Source, &Label, &mut Vec<u8>),
    ) {
        let Some(source) = self.by_id.get_mut(&id) else { return };
        let Some(label) = source.label.take() else { return };
        let out = to.queue();
        let start = out.len();
        put(source, &label, out);
        source.label = Some(label);
        if out.len() == start {
            return;
        }
        let unfinished = out.last() != Some(&b'\n');
        if self.row.is_some_and(|row| row != id) {
            self.start_new_row(out, start);
        }
        self.row = unfinished.then_some(id);
    }

    /// Begins a new row at `at`, if an unfinished line was written last.
    pub(super) fn start_new_row(&mut self, out: &mut Vec<u8>, at: usize) {
        if let Some(row) = self.row.take() {
            out.insert(at, b'\n');
            if let Some(source) = self.by_id.get_mut(&row) {
                source.splitter.interrupt_row();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_without_an_end_hides_no_further_line() {
        let mut watch = LineWatch::new(Regex::new("^ready$").expect("a valid pattern"));
        assert_eq!(watch.find(b"\x1b]0;title\nno\n"), None);
        assert_eq!(watch.find(b"\x1b[1mrea\x1b[0"), None);
        assert_eq!(watch.find(b"mdy\n"), Some("ready".to_owned()));
        let mut watch = TextWatch::new(b"ready"[..].into());
        assert!(!watch.matches(b"\x1bPwithout end\nrea"));
        assert!(watch.matches(b"dy"));
    }
}
