//! **What they say**: everything that processes write, and what ganger says of
//! them, as one stream of whole lines.
//!
//! Two threads do it beside the engine, so that neither a flood of output nor a
//! blocked terminal delays a signal: the mux reads, cuts and queues; a writer
//! writes. They exchange two buffers, and take commands over a channel.

pub mod format;
pub mod lines;
mod mux;
pub mod recent;
mod sink;
mod sources;
pub mod subscribers;
mod writer;

use std::io;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use mio::{Poll, Token, Waker};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::notice::Notice;
use format::{Label, Style};
use mux::{Mux, MuxSetup};
pub use sources::SourceId;
use subscribers::OutputQueries;

/// What the mux is told.
#[derive(Debug)]
enum Command {
    Add(Box<Addition>),
    WatchForText { id: SourceId, text: Box<[u8]> },
    Drain { id: SourceId },
    Print(Notice),
    ReleaseTerminal,
    Stopping,
    Finish,
}

/// Something new to read.
#[derive(Debug)]
struct Addition {
    id: SourceId,
    name: Arc<str>,
    file: OwnedFd,
    label: Option<Label>,
}

/// What the mux tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogEvent {
    /// Nobody reads standard output any more.
    StdoutClosed,
    /// This source has said what was awaited of it.
    TextMatched(SourceId),
    /// The terminal, if there was one, is let go.
    TerminalReleased,
    /// Everything is written, or given up; nothing more comes.
    Finished,
}

/// The engine's handle to the mux.
#[derive(Debug)]
pub struct Logs {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    events: UnboundedReceiver<LogEvent>,
    queries: OutputQueries,
}

impl Logs {
    /// Starts the threads, which write to standard output, and notices to
    /// standard error; `colored` says whether those are. So many bytes are `kept` of
    /// each process.
    pub fn start(style: Style, colored: bool, recent_bytes: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(usize::MAX))?);
        let (commands, receive) = channel();
        let (query, queries) = channel();
        let (send, events) = unbounded_channel();
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let setup = MuxSetup {
            poll,
            waker: Arc::clone(&waker),
            commands: receive,
            queries,
            events: send,
            style,
            notice_style: Style { color: colored, ..style },
            terminal: stdout.is_terminal(),
            recent_bytes,
        };
        let separate = !mux::is_same_file(&stdout, &stderr);
        let mux = Mux::new(setup, stdout.as_fd(), separate.then(|| stderr.as_fd()))?;
        std::thread::Builder::new().name("mux".into()).stack_size(128 << 10).spawn(|| mux.run())?;
        let queries = OutputQueries::new(query, Arc::clone(&waker));
        Ok(Self { commands, waker, events, queries })
    }

    /// Reads from `file`, which must not block, until its end; without a label,
    /// what it reads is only remembered.
    pub fn add_source(&self, id: SourceId, name: Arc<str>, file: OwnedFd, label: Option<Label>) {
        self.send(Command::Add(Box::new(Addition { id, name, file, label })));
    }

    /// [`LogEvent::TextMatched`] follows when this source, which may still be to come, has said
    /// `text`; what was awaited of it before no longer is.
    pub fn watch_for_text(&self, id: SourceId, text: &str) {
        self.send(Command::WatchForText { id, text: text.as_bytes().into() });
    }

    /// Asks about what is kept, also while nobody reads the stream.
    #[must_use]
    pub fn queries(&self) -> &OutputQueries {
        &self.queries
    }

    /// Reads at once what a process that has ended left in its pipe, before
    /// anything that is said later.
    pub fn drain_source(&self, id: SourceId) {
        self.send(Command::Drain { id });
    }

    /// Says something, behind all that was read before.
    pub fn print_message(&self, notice: Notice) {
        self.send(Command::Print(notice));
    }

    /// Writes what was said so far, and then nothing to a terminal any more;
    /// [`LogEvent::TerminalReleased`] follows.
    pub fn release_terminal(&self) {
        self.send(Command::ReleaseTerminal);
    }

    /// From now on, output that nobody reads is discarded after a while.
    pub fn begin_stopping(&self) {
        self.send(Command::Stopping);
    }

    /// Reads what is left, and has everything written; [`LogEvent::Finished`] follows.
    pub fn finish(&self) {
        self.send(Command::Finish);
    }

    /// What the mux tells next. Nothing is lost if this is cancelled.
    pub async fn next_event(&mut self) -> LogEvent {
        self.events.recv().await.unwrap_or(LogEvent::Finished)
    }

    /// A mux that is gone has said so.
    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }
}
