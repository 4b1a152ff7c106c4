//! **Output**: merges the output of all processes and ganger's own messages into one stream of
//! whole lines.
//!
//! Two threads do this beside the engine, so that neither a flood of output nor a blocked
//! terminal delays a signal. The mux reads, splits into lines and queues; a writer writes. They
//! exchange two buffers. The engine sends them commands over a channel.

pub mod cursor;
pub mod format;
mod hints;
pub mod lines;
mod mux;
pub mod recent;
mod sink;
mod sources;
pub mod subscribers;
pub mod terminal;
mod writer;

use std::io;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::{Poll, Token, Waker};
use regex::bytes::Regex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::notice::Notice;
use format::{Label, Style};
use mux::{Mux, MuxSetup};
use recent::RecentOutput;
use subscribers::OutputQueries;
use terminal::{Layout, LongLines};

/// Identifies a source: one incarnation of one process. The engine assigns it.
pub type SourceId = u64;

/// A command from the engine to the mux.
#[derive(Debug)]
enum Command {
    Add(Box<Addition>),
    WatchForText { id: SourceId, text: Box<[u8]> },
    WatchForLine { id: SourceId, pattern: Regex },
    Drain { id: SourceId },
    Print(Notice),
    ReleaseOutput,
    Stopping,
    Finish,
}

/// A new source to read from.
#[derive(Debug)]
struct Addition {
    id: SourceId,
    name: Arc<str>,
    source: SourceFile,
    label: Option<Label>,
}

/// The file that a source is read from; it must be non-blocking.
#[derive(Debug)]
pub enum SourceFile {
    /// A pipe.
    Pipe(OwnedFd),
    /// The master of a terminal.
    Terminal(OwnedFd),
}

/// An event from the mux to the engine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LogEvent {
    /// The reader of standard output has closed it.
    StdoutClosed,
    /// This source has written the text that was watched for.
    TextMatched(SourceId),
    /// This source has written a line that matches the pattern that was watched for.
    LineMatched(SourceId, String),
    /// Only regular files are still used.
    OutputReleased,
    /// Everything is written or given up. No event follows.
    Finished,
}

/// The engine's handle to the mux.
#[derive(Debug)]
pub struct Logs {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    events: UnboundedReceiver<LogEvent>,
    queries: OutputQueries,
    recent: Receiver<RecentOutput>,
}

/// The mux and its writers, which are not started yet. To start a thread takes time, which the
/// start of the first process must not wait for.
pub struct OutputThreads(MuxSetup);

impl OutputThreads {
    /// Starts the threads.
    pub fn start(self) -> io::Result<()> {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let separate = !mux::is_same_file(&stdout, &stderr);
        let mux = Mux::new(self.0, stdout.as_fd(), separate.then(|| stderr.as_fd()))?;
        std::thread::Builder::new().name("mux".into()).stack_size(128 << 10).spawn(|| mux.run())?;
        Ok(())
    }
}

impl Logs {
    /// The handle, and the threads, which do what they are asked once they are started. They
    /// write output to standard output and messages to standard error. `colored` decides whether
    /// messages are coloured, `long_lines` what happens to lines that are longer than a row, if
    /// it is a terminal, and `recent_bytes` how much output is kept of each process.
    pub fn new(
        style: Style,
        colored: bool,
        long_lines: LongLines,
        recent_bytes: usize,
    ) -> io::Result<(Self, OutputThreads)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(usize::MAX))?);
        let (commands, receive) = channel();
        let (query, queries) = channel();
        let (give, recent) = channel();
        let (send, events) = unbounded_channel();
        let layout = Layout { columns: None, long_lines, color: style.color };
        let setup = MuxSetup {
            poll,
            waker: Arc::clone(&waker),
            commands: receive,
            queries,
            events: send,
            recent: give,
            style,
            notice_style: Style { color: colored, ..style },
            terminal: io::stdout().is_terminal().then_some(layout),
            recent_bytes,
        };
        let queries = OutputQueries::new(query, Arc::clone(&waker));
        Ok((Self { commands, waker, events, queries, recent }, OutputThreads(setup)))
    }

    /// Reads from `source` until its end. Without a label, its output is kept but not shown.
    pub fn add_source(
        &self,
        id: SourceId,
        name: Arc<str>,
        source: SourceFile,
        label: Option<Label>,
    ) {
        self.send(Command::Add(Box::new(Addition { id, name, source, label })));
    }

    /// Watches for `text` in the output of a source, which may be added later, and sends
    /// [`LogEvent::TextMatched`] when it appears. Replaces an earlier text.
    pub fn watch_for_text(&self, id: SourceId, text: &str) {
        self.send(Command::WatchForText { id, text: text.as_bytes().into() });
    }

    /// Watches for a line that matches in the output of a source, which is added later, and sends
    /// [`LogEvent::LineMatched`] once.
    pub fn watch_for_line(&self, id: SourceId, pattern: Regex) {
        self.send(Command::WatchForLine { id, pattern });
    }

    /// A handle for queries about the output. They are answered even if the stream is blocked.
    #[must_use]
    pub fn queries(&self) -> &OutputQueries {
        &self.queries
    }

    /// Reads at once what a process that has exited left in its pipe, before any later message is
    /// printed.
    pub fn drain_source(&self, id: SourceId) {
        self.send(Command::Drain { id });
    }

    /// Prints a message, after all output that was read before.
    pub fn print_message(&self, notice: Notice) {
        self.send(Command::Print(notice));
    }

    /// Writes everything so far, and from then on nothing to a terminal, pipe or socket any more.
    /// [`LogEvent::OutputReleased`] follows.
    pub fn release_output(&self) {
        self.send(Command::ReleaseOutput);
    }

    /// ganger is stopping: from now on, output is discarded if its reader stays blocked.
    pub fn begin_stopping(&self) {
        self.send(Command::Stopping);
    }

    /// Reads what is left and writes everything. [`LogEvent::Finished`] follows.
    pub fn finish(&self) {
        self.send(Command::Finish);
    }

    /// Waits for the next event. Nothing is lost if this is cancelled.
    pub async fn next_event(&mut self) -> LogEvent {
        self.events.recv().await.unwrap_or(LogEvent::Finished)
    }

    /// The recent output, once everything is finished.
    #[must_use]
    pub fn take_recent(&self) -> Option<RecentOutput> {
        self.recent.try_recv().ok()
    }

    /// A mux that has ended has sent `Finished`.
    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }
}
