//! A user at a process that this client is attached to: what is typed goes to the process, and what
//! the process writes comes to the terminal.

use std::collections::VecDeque;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use hyper::Method;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal as SignalNumber;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::user_terminal::{RawMode, UserTerminal};
use crate::control::client::{Client, Upgraded, UpgradedStream, processes_uri};
use crate::keys::detach::DetachKeys;
use crate::keys::filter::{KeyAction, KeyFilter};
use crate::pty::WindowSize;

/// How much is read at once.
const BUFFER_BYTES: usize = 16 << 10;

/// The path of a request to attach to a process, with the size of the user's window. With `waits`,
/// it is answered when the process runs.
#[must_use]
pub fn attach_uri(process: &str, watches: bool, waits: bool) -> String {
    let WindowSize { rows, columns } = window();
    let verb = format!("/attach?rows={rows}&columns={columns}&watch={watches}&wait={waits}");
    processes_uri(process, &verb)
}

/// The size of the user's window.
fn window() -> WindowSize {
    WindowSize::of(io::stdout()).unwrap_or_default()
}

/// What the user types. It is read on a thread of its own, because a terminal that is shared with
/// the shell must not be made non-blocking; the thread ends when this is dropped.
#[derive(Debug)]
pub struct Typed {
    pieces: mpsc::UnboundedReceiver<Vec<u8>>,
    _alive: PipeWriter,
}

impl Typed {
    /// Begins to read.
    pub fn read() -> io::Result<Self> {
        let (send, pieces) = mpsc::unbounded_channel();
        let (ended, alive) = io::pipe()?;
        std::thread::Builder::new().name("keys".into()).spawn(move || {
            let mut buffer = [0; 4 << 10];
            loop {
                let stdin = io::stdin();
                let mut ready = [
                    PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                    PollFd::new(ended.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut ready, PollTimeout::NONE) {
                    Err(Errno::EINTR) => continue,
                    Err(_) => return,
                    Ok(_) if ready[1].any() == Some(true) => return,
                    Ok(_) => {}
                }
                match stdin.lock().read(&mut buffer) {
                    Ok(count @ 1..) if send.send(buffer[..count].to_vec()).is_ok() => {}
                    Ok(_) | Err(_) => return,
                }
            }
        })?;
        Ok(Self { pieces, _alive: alive })
    }

    /// What is typed next; none if the terminal is gone.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.pieces.recv().await
    }
}

/// The signals by which others end or suspend this client.
#[derive(Debug)]
pub struct ClientSignals([(SignalNumber, Signal); 4]);

impl ClientSignals {
    /// Handles them from now on.
    pub fn listen() -> io::Result<Self> {
        let listen = |number: SignalNumber| {
            signal(SignalKind::from_raw(number as i32)).map(|stream| (number, stream))
        };
        Ok(Self([
            listen(SignalNumber::SIGTERM)?,
            listen(SignalNumber::SIGHUP)?,
            listen(SignalNumber::SIGINT)?,
            listen(SignalNumber::SIGTSTP)?,
        ]))
    }

    /// The next one.
    pub async fn next(&mut self) -> SignalNumber {
        let [(term, a), (hup, b), (int, c), (tstp, d)] = &mut self.0;
        tokio::select! {
            _ = a.recv() => *term,
            _ = b.recv() => *hup,
            _ = c.recv() => *int,
            _ = d.recv() => *tstp,
        }
    }
}

/// What a session can't decide by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionEvent {
    /// The user detached, or the terminal is gone.
    Detached,
    /// ganger closed the connection, and has said why.
    Closed,
    /// The user wants the app to stop.
    StopApp,
    /// The user wants everything to be suspended.
    SuspendApp,
    /// This client got a signal.
    Signal(SignalNumber),
}

/// A user at an attached process.
pub struct Session<'a> {
    terminal: &'a UserTerminal,
    client: &'a Client,
    /// The number of this client.
    number: String,
    reader: ReadHalf<UpgradedStream>,
    writer: WriteHalf<UpgradedStream>,
    filter: KeyFilter,
    /// What was typed and is not carried out yet.
    actions: VecDeque<KeyAction>,
    resized: Signal,
    raw: Option<RawMode<'a>>,
}

impl<'a> Session<'a> {
    /// Begins a session. The terminal is in raw mode until it is dropped.
    pub fn begin(
        terminal: &'a UserTerminal,
        client: &'a Client,
        connection: Upgraded,
        filter: KeyFilter,
    ) -> io::Result<Self> {
        let (reader, writer) = tokio::io::split(connection.stream);
        Ok(Self {
            terminal,
            client,
            number: connection.number,
            reader,
            writer,
            filter,
            actions: VecDeque::new(),
            resized: signal(SignalKind::window_change())?,
            raw: Some(terminal.enter_raw()?),
        })
    }

    /// Says which process has the terminal, and how to leave it. Every key goes to it by now.
    pub fn announce(&self, process: &str, keys: &DetachKeys) {
        eprint!("ganger: attached to {process}, {keys} detaches\r\n");
    }

    /// Passes on what is typed and written, until something else is to be done.
    pub async fn next(
        &mut self,
        typed: &mut Typed,
        signals: &mut ClientSignals,
    ) -> io::Result<SessionEvent> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            while let Some(action) = self.actions.pop_front() {
                match action {
                    KeyAction::Input(input) => {
                        if self.writer.write_all(&input).await.is_err() {
                            return Ok(SessionEvent::Closed);
                        }
                    }
                    KeyAction::Detach => return Ok(SessionEvent::Detached),
                    KeyAction::StopApp => return Ok(SessionEvent::StopApp),
                    KeyAction::SuspendApp => return Ok(SessionEvent::SuspendApp),
                }
            }
            tokio::select! {
                read = self.reader.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return Ok(SessionEvent::Closed),
                    Ok(count) => {
                        let mut stdout = io::stdout();
                        stdout.write_all(&buffer[..count])?;
                        stdout.flush()?;
                    }
                },
                typed = typed.next() => match typed {
                    Some(typed) => self.actions.extend(self.filter.push(&typed, Instant::now())),
                    None => return Ok(SessionEvent::Detached),
                },
                _ = self.resized.recv() => self.send_window().await,
                number = signals.next() => return Ok(SessionEvent::Signal(number)),
            }
        }
    }

    /// Gives the terminal back, because this client is about to be suspended.
    pub fn pause(&mut self) {
        self.raw = None;
    }

    /// Goes on after [`Self::pause`].
    pub async fn resume(&mut self) -> io::Result<()> {
        self.raw = Some(self.terminal.enter_raw()?);
        self.send_window().await;
        Ok(())
    }

    /// Sends the size of the window; the program draws its screen again.
    async fn send_window(&self) {
        let WindowSize { rows, columns } = window();
        let uri = format!("/attachments/{}?rows={rows}&columns={columns}", self.number);
        // A connection that is closed is noticed where output is read.
        let _ = self.client.send(Method::PUT, &uri, Vec::new()).await.map(drop);
    }
}
