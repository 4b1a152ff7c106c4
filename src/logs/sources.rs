//! What is being read: the pipe of every process, and its unfinished line.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anstream::adapter::StripBytes;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::Addition;
use super::format::Label;
use super::lines::{LineSplitter, MAX_LINE_BYTES};
use super::sink::Sink;
use super::subscribers::Subscribers;

/// A source is one life of one process; what that means is the engine's business.
pub type SourceId = u64;

/// A line whose end does not come is shown after this, on a terminal.
const PROMPT_DELAY: Duration = Duration::from_millis(100);
/// The most that a pipe holds of what an ended process wrote.
pub(super) const MAX_PIPE_BYTES: usize = 1 << 20;

struct Source {
    token: Token,
    name: Arc<str>,
    file: File,
    label: Option<Label>,
    splitter: LineSplitter,
    /// When a line that is still unfinished is shown.
    show_at: Option<Instant>,
    /// Whether there may be something to read.
    ready: bool,
    /// Whether nobody can write to it any more, so that its end is to be read.
    ending: bool,
    /// Whether it is in the queue of those to be read.
    queued: bool,
}

/// Something that is still to be said; colours and the like are no part of it.
struct TextWatch {
    text: Box<[u8]>,
    /// The end of what came last, where a part of it may stand.
    end: Vec<u8>,
    strip: StripBytes,
}

impl TextWatch {
    fn new(text: Box<[u8]>) -> Self {
        Self { text, end: Vec::new(), strip: StripBytes::new() }
    }

    /// Whether these bytes, with those before them, say it.
    fn matches(&mut self, bytes: &[u8]) -> bool {
        let mut seen = std::mem::take(&mut self.end);
        for plain in self.strip.strip_next(bytes) {
            seen.extend_from_slice(plain);
        }
        let matches = memchr::memmem::find(&seen, &self.text).is_some();
        let kept = seen.len().min(self.text.len() - 1);
        seen.drain(..seen.len() - kept);
        self.end = seen;
        matches
    }
}

/// All sources.
pub(super) struct Sources {
    by_id: HashMap<SourceId, Source>,
    /// By the numbers that the poll knows them by.
    by_token: HashMap<Token, SourceId>,
    next_token: usize,
    /// Those with something to read, in turn.
    ready: VecDeque<SourceId>,
    buffer: Vec<u8>,
    /// Whether unfinished lines are shown: where somebody may have to answer them.
    prompts: bool,
    /// Whose unfinished line the cursor stands behind.
    row: Option<SourceId>,
    /// What is awaited of some sources.
    text_watches: HashMap<SourceId, TextWatch>,
    /// Those that have said it.
    pub(super) matched: Vec<SourceId>,
    /// What is kept of it, and passed on to clients.
    pub(super) subscribers: Subscribers,
}

impl Sources {
    pub(super) fn new(prompts: bool, recent_bytes: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            by_token: HashMap::new(),
            next_token: 0,
            ready: VecDeque::new(),
            buffer: vec![0; MAX_LINE_BYTES],
            prompts,
            row: None,
            text_watches: HashMap::new(),
            matched: Vec::new(),
            subscribers: Subscribers::new(recent_bytes),
        }
    }

    pub(super) fn add(&mut self, registry: &Registry, addition: Addition) {
        let Addition { id, name, file, label } = addition;
        let token = Token(self.next_token);
        self.next_token += 1;
        let raw = file.as_raw_fd();
        let registered = registry.register(&mut SourceFd(&raw), token, Interest::READABLE);
        debug_assert!(registered.is_ok(), "a pipe can be waited for: {registered:?}");
        let (file, splitter) = (File::from(file), LineSplitter::default());
        let (ready, ending, queued) = (false, false, false);
        let source =
            Source { token, name, file, label, splitter, show_at: None, ready, ending, queued };
        self.by_id.insert(id, source);
        self.by_token.insert(token, id);
    }

    pub(super) fn watch_for_text(&mut self, id: SourceId, text: Box<[u8]>) {
        self.text_watches.insert(id, TextWatch::new(text));
    }

    /// There is something to read, or `ending`: the end is.
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

    /// From now on, nobody is there to answer them.
    pub(super) fn disable_prompts(&mut self) {
        self.prompts = false;
        self.row = None;
    }

    /// When [`Self::show_prompts`] has something to do.
    pub(super) fn next_prompt_at(&self) -> Option<Instant> {
        let sources = self.prompts.then(|| self.by_id.values());
        sources.into_iter().flatten().filter_map(|source| source.show_at).min()
    }

    /// Reads from each source that has something, once; returns how much came.
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

    /// Reads what is there, as far as there is room for it. `None` when that is
    /// done, else how much of `most` there may still be.
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

    /// Ends all sources with what is there. True when that is done.
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

    /// Reads once; `None` if nothing was there. At its end the source is gone.
    fn read(&mut self, id: SourceId, stamp: &[u8], to: &mut Sink) -> Option<usize> {
        let source = self.by_id.get_mut(&id)?;
        match source.file.read(&mut self.buffer) {
            Ok(0) => {
                self.end_source(id, stamp, to);
                None
            }
            Ok(count) => {
                // Less than was asked for: there was no more, but perhaps its end.
                source.ready = count == self.buffer.len() || source.ending;
                let bytes = &self.buffer[..count];
                self.subscribers.publish(&source.name, bytes);
                if self
                    .text_watches
                    .get_mut(&id)
                    .is_some_and(|text_watches| text_watches.matches(bytes))
                {
                    self.text_watches.remove(&id);
                    self.matched.push(id);
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
        let prompts = self.prompts;
        let buffer = std::mem::take(&mut self.buffer);
        self.write_row(id, to, |source, label, out| {
            source.splitter.push(&buffer[..count], label.prefix(stamp), out);
            let partial = prompts && source.splitter.has_partial();
            source.show_at = partial.then(|| Instant::now() + PROMPT_DELAY);
        });
        self.buffer = buffer;
    }

    /// A source has ended, or nobody waits for its end: its last line goes out.
    /// Closing its file is what takes it out of the poll.
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
        self.ready.retain(|ready| *ready != id);
    }

    /// Shows the unfinished lines whose time has come.
    pub(super) fn show_prompts(&mut self, now: Instant, stamp: &[u8], to: &mut Sink) {
        if !self.prompts {
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

    /// Has a source put something out, on a row of its own.
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

    /// Begins a new row at `at`, if the cursor stands behind an unfinished line.
    pub(super) fn start_new_row(&mut self, out: &mut Vec<u8>, at: usize) {
        if let Some(row) = self.row.take() {
            out.insert(at, b'\n');
            if let Some(source) = self.by_id.get_mut(&row) {
                source.splitter.interrupt_row();
            }
        }
    }
}
