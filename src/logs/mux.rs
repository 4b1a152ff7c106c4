//! The thread that reads what all processes write, and makes one stream of it.
//!
//! A round reads once from every source that has something, so that none starves
//! another, and then hands on what came of it. When the queue is full, nothing
//! is read: the processes wait for whoever reads the stream, and nothing is lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc::UnboundedSender;

use super::follow::Query;
use super::format::Style;
use super::sink::{Sink, Trouble};
use super::sources::{PIPE_MAX, SourceId, Sources};
use super::{Addition, Command, Event};
use crate::notice::Notice;

const WAKER: Token = Token(usize::MAX);
const STDOUT: Token = Token(usize::MAX - 1);
/// Rounds that follow each other faster than this, and bring little, are made
/// to wait: otherwise a program that writes line by line wakes us for each.
const SOON: Duration = Duration::from_millis(1);
const LITTLE: usize = 32 << 10;
const BREATH: Duration = Duration::from_micros(250);
/// So many queries are taken in for a round, and answered for so long.
const MAX_QUERIES: usize = 64;
const MAX_ANSWER_TIME: Duration = Duration::from_millis(1);

/// What the thread is made from.
pub(super) struct Setup {
    pub(super) poll: Poll,
    pub(super) waker: Arc<Waker>,
    pub(super) commands: Receiver<Command>,
    pub(super) queries: Receiver<Query>,
    pub(super) events: UnboundedSender<Event>,
    pub(super) style: Style,
    /// How notices are put out, which may go elsewhere.
    pub(super) notice_style: Style,
    /// Whether the stream goes to a terminal.
    pub(super) terminal: bool,
    /// How much is remembered of each process, in bytes.
    pub(super) kept: usize,
}

pub(super) struct Mux {
    poll: Poll,
    waker: Arc<Waker>,
    commands: Receiver<Command>,
    events: UnboundedSender<Event>,
    style: Style,
    notice_style: Style,
    sources: Sources,
    /// What is still to be done, in order.
    inbox: VecDeque<Task>,
    /// What clients ask.
    queries: Receiver<Query>,
    /// What they asked before the present round began: it is answered once that is done which
    /// the engine has asked for before, as far as there is room.
    asked: VecDeque<Query>,
    output: Sink,
    /// Where notices go, if that is elsewhere.
    notices: Option<Sink>,
    stopping: Option<Instant>,
    finished: bool,
    closed: bool,
}

/// A command, or what is left of it: it waits while the queue is full.
enum Task {
    Add(Box<Addition>),
    /// So many bytes, if they are there.
    Drain {
        id: SourceId,
        most: usize,
    },
    Say(Notice),
    Detach,
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
        let (output_sink, notices) = (sink(output)?, notices.map(sink).transpose()?);
        // Not every file can be waited for; whose end can't be seen this way
        // shows itself at the next line.
        let _ = setup.poll.registry().register(
            &mut SourceFd(&output.as_raw_fd()),
            STDOUT,
            Interest::WRITABLE,
        );
        Ok(Self {
            output: output_sink,
            notices,
            poll: setup.poll,
            waker: setup.waker,
            commands: setup.commands,
            events: setup.events,
            style: setup.style,
            notice_style: setup.notice_style,
            sources: Sources::new(setup.terminal, setup.kept),
            inbox: VecDeque::new(),
            queries: setup.queries,
            asked: VecDeque::new(),
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
                    token => self.sources.on_readable(token, event.is_read_closed()),
                }
            }
            self.take_queries();
            self.take_commands();
            let stamp = self.style.stamp();
            self.work(&stamp);
            self.answer_queries();
            let read = self.sources.read_round(&stamp, &mut self.output);
            for matched in self.sources.matched.drain(..) {
                let _ = self.events.send(Event::Matched(matched));
            }
            self.sources.show_prompts(Instant::now(), &stamp, &mut self.output);
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
        self.finished && self.is_drained()
    }

    fn is_drained(&self) -> bool {
        let drained = |sink: &Sink| sink.is_drained();
        drained(&self.output) && self.notices.as_ref().is_none_or(drained)
    }

    /// How long nothing has to be done if nothing happens.
    fn timeout(&mut self, now: Instant) -> Option<Duration> {
        let may_detach = matches!(self.inbox.front(), Some(Task::Detach)) && self.is_drained();
        if may_detach
            || !self.asked.is_empty()
            || (self.sources.has_ready() && !self.output.is_full())
        {
            return Some(Duration::ZERO);
        }
        let prompt = self.sources.next_prompt();
        let stuck = self.output.deadline(self.stopping, now);
        let notices = self.notices.as_mut().and_then(|sink| sink.deadline(self.stopping, now));
        let next = prompt.into_iter().chain(stuck).chain(notices).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add(addition)) => self.inbox.push_back(Task::Add(addition)),
                Ok(Command::Expect { id, text }) => self.sources.expect(id, text),
                Ok(Command::Drain { id }) => {
                    self.inbox.push_back(Task::Drain { id, most: PIPE_MAX });
                }
                Ok(Command::Say(notice)) => self.inbox.push_back(Task::Say(notice)),
                Ok(Command::Detach) => self.inbox.push_back(Task::Detach),
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

    /// Answers clients for a while, and then goes on with what is more important.
    fn answer_queries(&mut self) {
        let since = Instant::now();
        while since.elapsed() < MAX_ANSWER_TIME
            && let Some(query) = self.asked.pop_front()
        {
            self.sources.subscribers.answer(query);
        }
        self.take_queries();
    }

    /// Before the commands are taken that were given before them.
    fn take_queries(&mut self) {
        if self.asked.is_empty() {
            self.asked.extend(self.queries.try_iter().take(MAX_QUERIES));
        }
    }

    /// Does what was asked for, in order, as far as there is room in the queue.
    fn work(&mut self, stamp: &[u8]) {
        while let Some(task) = self.inbox.pop_front() {
            match task {
                Task::Add(addition) => self.sources.add(self.poll.registry(), *addition),
                // Before anything that is said of its end.
                Task::Drain { id, most } => {
                    if let Some(most) = self.sources.drain(id, most, stamp, &mut self.output) {
                        self.inbox.push_front(Task::Drain { id, most });
                        return;
                    }
                }
                Task::Say(notice) => self.say(&notice),
                Task::Detach => {
                    if !self.is_drained() {
                        self.inbox.push_front(Task::Detach);
                        return;
                    }
                    self.detach();
                    let _ = self.events.send(Event::Detached);
                }
                // What is in the pipes, and not what holds them open.
                Task::EndAll => {
                    self.finished = self.sources.end_all(stamp, &mut self.output);
                    if !self.finished {
                        self.inbox.push_front(Task::EndAll);
                        return;
                    }
                }
            }
        }
    }

    fn say(&mut self, notice: &Notice) {
        let bytes = self.notice_style.notice(&notice.to_string());
        let sink = match &mut self.notices {
            Some(sink) => sink,
            None => {
                let out = self.output.queue();
                self.sources.leave_row(out, out.len());
                &mut self.output
            }
        };
        sink.queue().extend_from_slice(&bytes);
    }

    /// Lets go of the terminal: its end is none of ganger's business any more.
    fn detach(&mut self) {
        if self.output.is_terminal() {
            self.sources.forget_prompts();
            let _ = self.poll.registry().deregister(&mut SourceFd(&io::stdout().as_raw_fd()));
        }
        for sink in [&mut self.output].into_iter().chain(&mut self.notices) {
            if sink.is_terminal() {
                let null = File::options().write(true).open("/dev/null");
                match null.and_then(|null| Sink::new(null.as_fd(), Arc::clone(&self.waker))) {
                    Ok(null) => *sink = null,
                    Err(_) => sink.close(),
                }
            }
        }
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
            Some(Trouble::Discarded(bytes, why)) => {
                let notice = Notice::Discarded { bytes, why };
                if self.notices.is_some() {
                    self.say(&notice);
                } else if self.output.is_good() {
                    self.say(&notice);
                    let _ = self.output.advance(self.stopping, now);
                }
                // Else it would go where nothing can be written.
            }
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
