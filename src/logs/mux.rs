//! The mux: the thread that reads the output of all processes and merges it into one stream.
//!
//! A round reads once from every source that is readable, so that no source starves another,
//! and then passes on the result. When the queue is full, nothing is read: the processes wait
//! for the reader of the stream, and nothing is lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc::UnboundedSender;

use super::format::{OWN_NAME, Style};
use super::recent::RecentOutput;
use super::sink::{Sink, WriteError};
use super::sources::{MAX_PIPE_BYTES, Sources};
use super::subscribers::LogQuery;
use super::terminal::Layout;
use super::{Addition, Command, LogEvent, SourceId};
use crate::notice::Notice;

const WAKER: Token = Token(usize::MAX);
const STDOUT: Token = Token(usize::MAX - 1);
/// A round that follows the last one within the window, and reads no more than these bytes, is
/// followed by a delay. Otherwise a program that writes line by line would wake the mux for
/// each line.
const COALESCE_WINDOW: Duration = Duration::from_millis(1);
const COALESCE_MAX_BYTES: usize = 32 << 10;
const COALESCE_DELAY: Duration = Duration::from_micros(250);
/// How many queries are received for a round, and how long they may take to answer.
const MAX_QUERIES: usize = 64;
const MAX_QUERY_TIME: Duration = Duration::from_millis(1);

/// What the mux needs to start.
pub(super) struct MuxSetup {
    pub(super) poll: Poll,
    pub(super) waker: Arc<Waker>,
    pub(super) commands: Receiver<Command>,
    pub(super) queries: Receiver<LogQuery>,
    pub(super) events: UnboundedSender<LogEvent>,
    /// What gets recent output at the end.
    pub(super) recent: Sender<RecentOutput>,
    pub(super) style: Style,
    /// The style of messages, which may go to another file.
    pub(super) notice_style: Style,
    /// How lines are shown, if the stream goes to a terminal.
    pub(super) terminal: Option<Layout>,
    /// How much output is kept of each process, in bytes.
    pub(super) recent_bytes: usize,
}

pub(super) struct Mux {
    poll: Poll,
    waker: Arc<Waker>,
    commands: Receiver<Command>,
    events: UnboundedSender<LogEvent>,
    recent: Sender<RecentOutput>,
    style: Style,
    notice_style: Style,
    /// The name of ganger's messages.
    own_name: Arc<str>,
    sources: Sources,
    /// The tasks to do, in order.
    tasks: VecDeque<Task>,
    /// Queries from clients.
    queries: Receiver<LogQuery>,
    /// Queries that were received before this round. They are answered after the commands that
    /// the engine sent before them, as far as there is room in the queue.
    pending_queries: VecDeque<LogQuery>,
    output: Sink,
    /// Where messages go, if that is another file than `output`.
    notices: Option<Sink>,
    stopping: Option<Instant>,
    finished: bool,
    stdout_closed: bool,
}

/// A command, or the rest of one. It waits while the queue is full.
enum Task {
    Add(Box<Addition>),
    /// Reads at most this many bytes, as far as they are there.
    Drain {
        id: SourceId,
        max_bytes: usize,
    },
    Print(Notice),
    ReleaseOutput,
    Finish,
}

impl Mux {
    /// `notices` is the file for messages, if it is another one than `output`.
    pub(super) fn new(
        setup: MuxSetup,
        output: BorrowedFd,
        notices: Option<BorrowedFd>,
    ) -> io::Result<Self> {
        let sink = |file| Sink::new(file, Arc::clone(&setup.waker));
        let (output_sink, notices) = (sink(output)?, notices.map(sink).transpose()?);
        // Not every file can be polled. If it can't, the next write shows that it is closed.
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
            recent: setup.recent,
            style: setup.style,
            notice_style: setup.notice_style,
            own_name: OWN_NAME.into(),
            sources: Sources::new(setup.terminal, setup.recent_bytes),
            tasks: VecDeque::new(),
            queries: setup.queries,
            pending_queries: VecDeque::new(),
            stopping: None,
            finished: false,
            stdout_closed: false,
        })
    }

    /// Runs until it gets the request to finish and everything is written.
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
            if self.sources.is_terminal() {
                self.sources.set_columns(terminal_columns());
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
            for (id, line) in self.sources.matched_lines.drain(..) {
                let _ = self.events.send(LogEvent::LineMatched(id, line));
            }
            let now = Instant::now();
            self.sources.show_prompts(now, &stamp, &mut self.output);
            for hint in self.sources.hints.take_due(now) {
                self.print_message(&hint);
            }
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
        let _ = self.recent.send(self.sources.subscribers.take_recent());
        let _ = self.events.send(LogEvent::Finished);
    }

    fn is_finished(&self) -> bool {
        self.finished && self.is_drained()
    }

    fn is_drained(&self) -> bool {
        let drained = |sink: &Sink| sink.is_drained();
        drained(&self.output) && self.notices.as_ref().is_none_or(drained)
    }

    /// How long the mux may sleep if nothing happens.
    fn timeout(&mut self, now: Instant) -> Option<Duration> {
        let may_release =
            matches!(self.tasks.front(), Some(Task::ReleaseOutput)) && self.is_drained();
        if may_release
            || !self.pending_queries.is_empty()
            || (self.sources.has_ready() && !self.output.is_full())
        {
            return Some(Duration::ZERO);
        }
        let prompt = self.sources.next_prompt_at();
        let stuck = self.output.deadline(self.stopping, now);
        let notices = self.notices.as_mut().and_then(|sink| sink.deadline(self.stopping, now));
        let hint = self.sources.hints.deadline();
        let next = prompt.into_iter().chain(hint).chain(stuck).chain(notices).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add(addition)) => self.tasks.push_back(Task::Add(addition)),
                Ok(Command::WatchForLine { id, pattern }) => {
                    self.sources.watch_for_line(id, pattern);
                }
                Ok(Command::WatchForText { id, text }) => self.sources.watch_for_text(id, text),
                Ok(Command::Drain { id }) => {
                    self.tasks.push_back(Task::Drain { id, max_bytes: MAX_PIPE_BYTES });
                }
                Ok(Command::Print(notice)) => self.tasks.push_back(Task::Print(notice)),
                Ok(Command::ReleaseOutput) => self.tasks.push_back(Task::ReleaseOutput),
                // Not queued: a task that waits may wait for this.
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

    /// Answers queries, but only for a limited time, because output is more important.
    fn answer_queries(&mut self) {
        let since = Instant::now();
        while since.elapsed() < MAX_QUERY_TIME
            && let Some(query) = self.pending_queries.pop_front()
        {
            self.sources.subscribers.answer_query(query);
        }
        self.take_queries();
    }

    /// Receives queries. This is done before the commands are received, so that every command that
    /// was sent before a query takes effect before the answer.
    fn take_queries(&mut self) {
        if self.pending_queries.is_empty() {
            self.pending_queries.extend(self.queries.try_iter().take(MAX_QUERIES));
        }
    }

    /// Does the tasks in order, as far as there is room in the queue.
    fn run_tasks(&mut self, stamp: &[u8]) {
        while let Some(task) = self.tasks.pop_front() {
            match task {
                Task::Add(addition) => self.sources.add(self.poll.registry(), *addition),
                // The output comes before any message about the exit.
                Task::Drain { id, max_bytes } => {
                    if let Some(max_bytes) =
                        self.sources.drain(id, max_bytes, stamp, &mut self.output)
                    {
                        self.tasks.push_front(Task::Drain { id, max_bytes });
                        return;
                    }
                }
                Task::Print(notice) => self.print_message(&notice),
                Task::ReleaseOutput => {
                    if !self.is_drained() {
                        self.tasks.push_front(Task::ReleaseOutput);
                        return;
                    }
                    self.release_output();
                    let _ = self.events.send(LogEvent::OutputReleased);
                }
                // Reads what the pipes contain, even if a process still holds them open.
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
        let text = notice.to_string();
        let bytes = self.notice_style.format_message(&text);
        self.sources.subscribers.publish(&self.own_name, format!("{text}\n").as_bytes());
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

    /// Stops using the terminal, pipe or socket of the caller, which may wait for its end. A regular
    /// file stays.
    fn release_output(&mut self) {
        if !self.output.is_regular_file() {
            self.sources.release_terminal();
            let _ = self.poll.registry().deregister(&mut SourceFd(&io::stdout().as_raw_fd()));
        }
        for sink in [&mut self.output].into_iter().chain(&mut self.notices) {
            if !sink.is_regular_file() {
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

    /// Writes what is queued, and reports errors.
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
                // Otherwise the message would go to the file that can't be written.
            }
            None => {}
        }
        if let Some(notices) = &mut self.notices {
            let _ = notices.advance(self.stopping, now);
        }
    }
}

/// The width of the terminal that is standard output.
fn terminal_columns() -> Option<usize> {
    let (columns, _rows) = terminal_size::terminal_size_of(io::stdout())?;
    (columns.0 > 0).then_some(columns.0.into())
}

/// Whether two descriptors refer to the same terminal, pipe or file.
pub(super) fn is_same_file(one: impl AsFd, other: impl AsFd) -> bool {
    let id = |fd: BorrowedFd| {
        nix::sys::stat::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino, stat.st_rdev))
    };
    match (id(one.as_fd()), id(other.as_fd())) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}
