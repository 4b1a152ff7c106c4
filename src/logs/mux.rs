//! The thread that reads what all processes write, and makes one stream of it.
//!
//! A round reads once from every source that has something, so that none starves
//! another, and then hands on what came of it. When the queue is full, nothing
//! is read: the processes wait for whoever reads the stream, and nothing is lost.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc::UnboundedSender;

use super::format::{Label, Style};
use super::lines::{Cutter, LONGEST};
use super::sink::{Sink, Trouble};
use super::{Command, Event};
use crate::notice::Notice;

/// A source is one life of one process; what that means is the engine's business.
pub type SourceId = u64;

const WAKER: Token = Token(usize::MAX);
const STDOUT: Token = Token(usize::MAX - 1);
/// A line whose end does not come is shown after this, on a terminal.
const PROMPT_AFTER: Duration = Duration::from_millis(100);
/// Rounds that follow each other faster than this, and bring little, are made
/// to wait: otherwise a program that writes line by line wakes us for each.
const SOON: Duration = Duration::from_millis(1);
const LITTLE: usize = 32 << 10;
const BREATH: Duration = Duration::from_micros(250);
/// The most that a pipe holds of what an ended process wrote.
const PIPE_MAX: usize = 1 << 20;

struct Source {
    file: File,
    label: Option<Label>,
    cutter: Cutter,
    /// When a line that is still unfinished is shown.
    show_at: Option<Instant>,
    ready: bool,
}

/// What the thread is made from.
pub(super) struct Setup {
    pub(super) poll: Poll,
    pub(super) waker: Arc<Waker>,
    pub(super) commands: Receiver<Command>,
    pub(super) events: UnboundedSender<Event>,
    pub(super) style: Style,
    /// Whether the stream goes to a terminal.
    pub(super) terminal: bool,
}

pub(super) struct Mux {
    poll: Poll,
    commands: Receiver<Command>,
    events: UnboundedSender<Event>,
    style: Style,
    terminal: bool,
    sources: HashMap<SourceId, Source>,
    /// Those with something to read, in turn.
    ready: VecDeque<SourceId>,
    /// What is still to be done, in order.
    inbox: VecDeque<Task>,
    buffer: Vec<u8>,
    output: Sink,
    /// Where notices go, if that is elsewhere.
    notices: Option<Sink>,
    /// Whose unfinished line the cursor stands behind.
    row: Option<SourceId>,
    stopping: Option<Instant>,
    finished: bool,
    closed: bool,
}

/// A command, or what is left of it: it waits while the queue is full.
enum Task {
    Add {
        id: SourceId,
        file: OwnedFd,
        label: Option<Label>,
    },
    /// So many bytes, if they are there.
    Drain {
        id: SourceId,
        most: usize,
    },
    Say(Notice),
    EndAll,
}

impl Mux {
    /// `notices` is given where it is another file than `output`.
    pub(super) fn new(
        setup: Setup,
        output: BorrowedFd,
        notices: Option<BorrowedFd>,
    ) -> io::Result<Self> {
        let sink = |file| Sink::new(file, Arc::clone(&setup.waker));
        // Not every file can be waited for; whose end can't be seen this way
        // shows itself at the next line.
        let _ = setup.poll.registry().register(
            &mut SourceFd(&output.as_raw_fd()),
            STDOUT,
            Interest::WRITABLE,
        );
        Ok(Self {
            output: sink(output)?,
            notices: notices.map(sink).transpose()?,
            poll: setup.poll,
            commands: setup.commands,
            events: setup.events,
            style: setup.style,
            terminal: setup.terminal,
            sources: HashMap::new(),
            ready: VecDeque::new(),
            inbox: VecDeque::new(),
            buffer: vec![0; LONGEST],
            row: None,
            stopping: None,
            finished: false,
            closed: false,
        })
    }

    /// Runs until it has been told to finish and everything is written.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut last_round = None;
        while !self.is_finished() {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    STDOUT if event.is_write_closed() || event.is_error() => self.on_closed(),
                    STDOUT => {}
                    Token(id) => self.on_readable(id as SourceId),
                }
            }
            self.take_commands();
            let stamp = self.style.stamp();
            self.work(&stamp);
            let read = self.read_round(&stamp);
            self.show_prompts(&stamp);
            self.advance();
            if read > 0 {
                let now = Instant::now();
                let soon = last_round.is_some_and(|last| now.duration_since(last) < SOON);
                if soon && read < LITTLE {
                    std::thread::sleep(BREATH);
                }
                last_round = Some(Instant::now());
            }
        }
        let _ = self.events.send(Event::Finished);
    }

    fn is_finished(&self) -> bool {
        let drained = |sink: &Sink| sink.is_drained();
        self.finished && drained(&self.output) && self.notices.as_ref().is_none_or(drained)
    }

    /// How long nothing has to be done if nothing happens.
    fn timeout(&mut self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() && !self.output.is_full() {
            return Some(Duration::ZERO);
        }
        let sources = if self.terminal { Some(self.sources.values()) } else { None };
        let prompts = sources.into_iter().flatten().filter_map(|source| source.show_at);
        let stuck = self.output.deadline(self.stopping, now);
        let notices = self.notices.as_mut().and_then(|sink| sink.deadline(self.stopping, now));
        let next = prompts.chain(stuck).chain(notices).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn on_readable(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get_mut(&id)
            && !source.ready
        {
            source.ready = true;
            self.ready.push_back(id);
        }
    }

    fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add { id, file, label }) => {
                    self.inbox.push_back(Task::Add { id, file, label });
                }
                Ok(Command::Drain { id }) => {
                    self.inbox.push_back(Task::Drain { id, most: PIPE_MAX });
                }
                Ok(Command::Say(notice)) => self.inbox.push_back(Task::Say(notice)),
                // Not in turn: what waits may wait for this.
                Ok(Command::Stopping) => {
                    self.stopping.get_or_insert_with(Instant::now);
                }
                Ok(Command::Finish) => self.inbox.push_back(Task::EndAll),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.inbox.push_back(Task::EndAll);
                    return;
                }
            }
        }
    }

    /// Does what was asked for, in order, as far as there is room in the queue.
    fn work(&mut self, stamp: &[u8]) {
        while let Some(task) = self.inbox.pop_front() {
            match task {
                Task::Add { id, file, label } => self.add(id, file, label),
                Task::Drain { id, most } => {
                    if let Some(most) = self.drain(id, most, stamp) {
                        self.inbox.push_front(Task::Drain { id, most });
                        return;
                    }
                }
                Task::Say(notice) => self.say(&notice),
                Task::EndAll => {
                    // What is in the pipes first; what holds them open is not waited for.
                    let left: Vec<SourceId> = self.sources.keys().copied().collect();
                    if self.drained_all(&left, stamp) {
                        for id in left {
                            self.end(id, stamp);
                        }
                        self.finished = true;
                    } else {
                        self.inbox.push_front(Task::EndAll);
                        return;
                    }
                }
            }
        }
    }

    fn drained_all(&mut self, ids: &[SourceId], stamp: &[u8]) -> bool {
        ids.iter().all(|id| self.drain(*id, PIPE_MAX, stamp).is_none())
    }

    /// A process has ended: what it wrote before is read before anything that
    /// is said of its end. `None` when that is done, else how much there may be.
    fn drain(&mut self, id: SourceId, most: usize, stamp: &[u8]) -> Option<usize> {
        let mut left = most;
        loop {
            if self.output.is_full() {
                return Some(left);
            }
            match self.read(id, stamp) {
                Some(count) if count < left => left -= count,
                Some(_) | None => return None,
            }
        }
    }

    fn add(&mut self, id: SourceId, file: OwnedFd, label: Option<Label>) {
        let token = usize::try_from(id).map(Token).expect("ids fit a token");
        let raw = file.as_raw_fd();
        let registered =
            self.poll.registry().register(&mut SourceFd(&raw), token, Interest::READABLE);
        debug_assert!(registered.is_ok(), "a pipe can be waited for: {registered:?}");
        let (file, cutter) = (File::from(file), Cutter::default());
        self.sources.insert(id, Source { file, label, cutter, show_at: None, ready: false });
    }

    /// Reads from each source that has something, once.
    fn read_round(&mut self, stamp: &[u8]) -> usize {
        let mut read = 0;
        for _ in 0..self.ready.len() {
            if self.output.is_full() {
                break;
            }
            let Some(id) = self.ready.pop_front() else { break };
            read += self.read(id, stamp).unwrap_or_default();
            if self.sources.get(&id).is_some_and(|source| source.ready) {
                self.ready.push_back(id);
            }
        }
        read
    }

    /// Reads once; `None` if nothing was there. At its end the source is gone.
    fn read(&mut self, id: SourceId, stamp: &[u8]) -> Option<usize> {
        let source = self.sources.get_mut(&id)?;
        match source.file.read(&mut self.buffer) {
            Ok(0) => {
                self.end(id, stamp);
                None
            }
            Ok(count) => {
                // Less than was asked for: there was no more.
                source.ready = count == self.buffer.len();
                self.take_in(id, count, stamp);
                Some(count)
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::WouldBlock => source.ready = false,
                    ErrorKind::Interrupted => {}
                    _ => self.end(id, stamp),
                }
                None
            }
        }
    }

    fn take_in(&mut self, id: SourceId, count: usize, stamp: &[u8]) {
        let terminal = self.terminal;
        let buffer = std::mem::take(&mut self.buffer);
        self.emit(id, |source, label, out| {
            source.cutter.feed(&buffer[..count], label.prefix(stamp), out);
            let partial = terminal && source.cutter.has_partial();
            source.show_at = partial.then(|| Instant::now() + PROMPT_AFTER);
        });
        self.buffer = buffer;
    }

    /// Has a source put something out, on a row of its own.
    fn emit(&mut self, id: SourceId, put: impl FnOnce(&mut Source, &Label, &mut Vec<u8>)) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        let Some(label) = source.label.take() else { return };
        let out = self.output.queue();
        let start = out.len();
        put(source, &label, out);
        source.label = Some(label);
        if out.len() > start
            && let Some(other) = self.row.take_if(|row| *row != id)
        {
            out.insert(start, b'\n');
            if let Some(other) = self.sources.get_mut(&other) {
                other.cutter.break_row();
            }
        }
    }

    fn show_prompts(&mut self, stamp: &[u8]) {
        if !self.terminal {
            return;
        }
        let now = Instant::now();
        let due = |source: &Source| source.show_at.is_some_and(|at| at <= now);
        let due: Vec<SourceId> =
            self.sources.iter().filter(|(_, source)| due(source)).map(|(id, _)| *id).collect();
        for id in due {
            self.emit(id, |source, label, out| {
                source.show_at = None;
                source.cutter.show(label.prefix(stamp), out);
            });
            self.row = Some(id);
        }
    }

    /// A source has ended, or nobody waits for its end: its last line goes out.
    fn end(&mut self, id: SourceId, stamp: &[u8]) {
        self.emit(id, |source, label, out| source.cutter.finish(label.prefix(stamp), out));
        self.row.take_if(|row| *row == id);
        if let Some(source) = self.sources.remove(&id) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&source.file.as_raw_fd()));
        }
        self.ready.retain(|ready| *ready != id);
    }

    fn say(&mut self, notice: &Notice) {
        let bytes = self.style.notice(&notice.to_string());
        let sink = match &mut self.notices {
            Some(sink) => sink,
            None => {
                if let Some(id) = self.row.take() {
                    self.output.queue().push(b'\n');
                    if let Some(source) = self.sources.get_mut(&id) {
                        source.cutter.break_row();
                    }
                }
                &mut self.output
            }
        };
        sink.queue().extend_from_slice(&bytes);
    }

    fn on_closed(&mut self) {
        self.output.close();
        if !self.closed {
            self.closed = true;
            let _ = self.events.send(Event::StdoutClosed);
        }
    }

    /// Moves on what is queued.
    fn advance(&mut self) {
        let now = Instant::now();
        let mut trouble = self.output.advance(self.stopping, now);
        if self.finished && self.output.is_drained() {
            trouble = trouble.or_else(|| self.output.take_discarded());
        }
        match trouble {
            Some(Trouble::Closed) => self.on_closed(),
            Some(Trouble::Discarded(bytes, why)) => self.say(&Notice::Discarded { bytes, why }),
            None => {}
        }
        if let Some(notices) = &mut self.notices {
            let _ = notices.advance(self.stopping, now);
        }
    }
}

/// Whether two descriptors are one terminal, pipe or file.
pub(super) fn is_same_file(one: impl AsFd, other: impl AsFd) -> bool {
    let id = |fd: BorrowedFd| {
        nix::sys::stat::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino, stat.st_rdev))
    };
    match (id(one.as_fd()), id(other.as_fd())) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}
