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

use super::format::Style;
use super::sink::{Sink, WriteError};
use super::sources::{MAX_PIPE_BYTES, SourceId, Sources};
use super::subscribers::LogQuery;
use super::{Addition, Command, LogEvent};
use crate::notice::Notice;

const WAKER: Token = Token(usize::MAX);
const STDOUT: Token = Token(usize::MAX - 1);
/// Rounds that follow each other faster than this, and bring little, are made
/// to wait: otherwise a program that writes line by line wakes us for each.
const COALESCE_WINDOW: Duration = Duration::from_millis(1);
const COALESCE_MAX_BYTES: usize = 32 << 10;
const COALESCE_DELAY: Duration = Duration::from_micros(250);
/// So many queries are taken in for a round, and answered for so long.
const MAX_QUERIES: usize = 64;
const MAX_QUERY_TIME: Duration = Duration::from_millis(1);

/// What the thread is made from.
pub(super) struct MuxSetup {
    pub(super) poll: Poll,
    pub(super) waker: Arc<Waker>,
    pub(super) commands: Receiver<Command>,
    pub(super) queries: Receiver<LogQuery>,
    pub(super) events: UnboundedSender<LogEvent>,
    pub(super) style: Style,
    /// How notices are put out, which may go elsewhere.
    pub(super) notice_style: Style,
    /// Whether the stream goes to a terminal.
    pub(super) terminal: bool,
    /// How much is remembered of each process, in bytes.
    pub(super) recent_bytes: usize,
}

pub(super) struct Mux {
    poll: Poll,
    waker: Arc<Waker>,
    commands: Receiver<Command>,
    events: UnboundedSender<LogEvent>,
    style: Style,
    notice_style: Style,
    sources: Sources,
    /// What is still to be done, in order.
    tasks: VecDeque<Task>,
    /// What clients ask.
    queries: Receiver<LogQuery>,
    /// What they asked before the present round began: it is answered once that is done which
    /// the engine has asked for before, as far as there is room.
    pending_queries: VecDeque<LogQuery>,
    output: Sink,
    /// Where notices go, if that is elsewhere.
    notices: Option<Sink>,
    stopping: Option<Instant>,
    finished: bool,
    stdout_closed: bool,
}

/// A command, or what is left of it: it waits while the queue is full.
enum Task {
    Add(Box<Addition>),
    /// So many bytes, if they are there.
    Drain {
        id: SourceId,
        max_bytes: usize,
    },
    Print(Notice),
    ReleaseTerminal,
    Finish,
}

impl Mux {
    /// `notices` is given where it is another file than `output`.
    pub(super) fn new(
        setup: MuxSetup,
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
            sources: Sources::new(setup.terminal, setup.recent_bytes),
            tasks: VecDeque::new(),
            queries: setup.queries,
            pending_queries: VecDeque::new(),
            stopping: None,
            finished: false,
            stdout_closed: false,
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
                    STDOUT if event.is_write_closed() || event.is_error() => {
                        self.handle_stdout_closed();
                    }
                    STDOUT => {}
                    token => self.sources.mark_readable(token, event.is_read_closed()),
                }
            }
            self.take_queries();
            self.take_commands();
            let stamp = self.style.timestamp_now();
            self.run_tasks(&stamp);
            self.answer_queries();
            let read = self.sources.read_round(&stamp, &mut self.output);
            for matched in self.sources.matched.drain(..) {
                let _ = self.events.send(LogEvent::TextMatched(matched));
            }
            self.sources.show_prompts(Instant::now(), &stamp, &mut self.output);
            self.write_queued();
            if read > 0 {
                let now = Instant::now();
                let is_soon =
                    last_round.is_some_and(|last| now.duration_since(last) < COALESCE_WINDOW);
                if is_soon && read < COALESCE_MAX_BYTES {
                    std::thread::sleep(COALESCE_DELAY);
                }
                last_round = Some(Instant::now());
            }
        }
        let _ = self.events.send(LogEvent::Finished);
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
        let may_release =
            matches!(self.tasks.front(), Some(Task::ReleaseTerminal)) && self.is_drained();
        if may_release
            || !self.pending_queries.is_empty()
            || (self.sources.has_ready() && !self.output.is_full())
        {
            return Some(Duration::ZERO);
        }
        let prompt = self.sources.next_prompt_at();
        let stuck = self.output.deadline(self.stopping, now);
        let notices = self.notices.as_mut().and_then(|sink| sink.deadline(self.stopping, now));
        let next = prompt.into_iter().chain(stuck).chain(notices).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add(addition)) => self.tasks.push_back(Task::Add(addition)),
                Ok(Command::WatchForText { id, text }) => self.sources.watch_for_text(id, text),
                Ok(Command::Drain { id }) => {
                    self.tasks.push_back(Task::Drain { id, max_bytes: MAX_PIPE_BYTES });
                }
                Ok(Command::Print(notice)) => self.tasks.push_back(Task::Print(notice)),
                Ok(Command::ReleaseTerminal) => self.tasks.push_back(Task::ReleaseTerminal),
                // Not in turn: what waits may wait for this.
                Ok(Command::Stopping) => {
                    self.stopping.get_or_insert_with(Instant::now);
                }
                Ok(Command::Finish) => self.tasks.push_back(Task::Finish),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.tasks.push_back(Task::Finish);
                    return;
                }
            }
        }
    }

    /// Answers clients for a while, and then goes on with what is more important.
    fn answer_queries(&mut self) {
        let since = Instant::now();
        while since.elapsed() < MAX_QUERY_TIME
            && let Some(query) = self.pending_queries.pop_front()
        {
            self.sources.subscribers.answer_query(query);
        }
        self.take_queries();
    }

    /// Before the commands are taken that were given before them.
    fn take_queries(&mut self) {
        if self.pending_queries.is_empty() {
            self.pending_queries.extend(self.queries.try_iter().take(MAX_QUERIES));
        }
    }

    /// Does what was asked for, in order, as far as there is room in the queue.
    fn run_tasks(&mut self, stamp: &[u8]) {
        while let Some(task) = self.tasks.pop_front() {
            match task {
                Task::Add(addition) => self.sources.add(self.poll.registry(), *addition),
                // Before anything that is said of its end.
                Task::Drain { id, max_bytes } => {
                    if let Some(max_bytes) =
                        self.sources.drain(id, max_bytes, stamp, &mut self.output)
                    {
                        self.tasks.push_front(Task::Drain { id, max_bytes });
                        return;
                    }
                }
                Task::Print(notice) => self.print_message(&notice),
                Task::ReleaseTerminal => {
                    if !self.is_drained() {
                        self.tasks.push_front(Task::ReleaseTerminal);
                        return;
                    }
                    self.release_terminal();
                    let _ = self.events.send(LogEvent::TerminalReleased);
                }
                // What is in the pipes, and not what holds them open.
                Task::Finish => {
                    self.finished = self.sources.end_all(stamp, &mut self.output);
                    if !self.finished {
                        self.tasks.push_front(Task::Finish);
                        return;
                    }
                }
            }
        }
    }

    fn print_message(&mut self, notice: &Notice) {
        let bytes = self.notice_style.format_message(&notice.to_string());
        let sink = match &mut self.notices {
            Some(sink) => sink,
            None => {
                let out = self.output.queue();
                self.sources.start_new_row(out, out.len());
                &mut self.output
            }
        };
        sink.queue().extend_from_slice(&bytes);
    }

    /// Lets go of the terminal: its end is none of ganger's business any more.
    fn release_terminal(&mut self) {
        if self.output.is_terminal() {
            self.sources.disable_prompts();
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

    fn handle_stdout_closed(&mut self) {
        self.output.close();
        if !self.stdout_closed {
            self.stdout_closed = true;
            let _ = self.events.send(LogEvent::StdoutClosed);
        }
    }

    /// Moves on what is queued.
    fn write_queued(&mut self) {
        let now = Instant::now();
        let mut error = self.output.advance(self.stopping, now);
        if self.finished && self.output.is_drained() {
            error = error.or_else(|| self.output.take_discarded());
        }
        match error {
            Some(WriteError::Closed) => self.handle_stdout_closed(),
            Some(WriteError::Discarded(bytes, why)) => {
                let notice = Notice::Discarded { bytes, why };
                if self.notices.is_some() {
                    self.print_message(&notice);
                } else if self.output.is_writable() {
                    self.print_message(&notice);
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
