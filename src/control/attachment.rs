//! One attached client: the output of a process goes to it, and what it types goes to the
//! process, both unchanged.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::task::Poll;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::app::App;
use super::attached::{AttachEvent, Membership};
use super::paint::add_returns;
use crate::exit::Exit;
use crate::logs::subscribers::{Output, Subscription};
use crate::notice::{DiscardReason, Notice};
use crate::pty::{Pty, RESET_MODES, WindowSize};
use crate::supervise::supervisor::{ProcessId, Status};

/// How much is read at once of what a client types.
const INPUT_BYTES: usize = 4 << 10;
/// The pause before input is sent again to a process that has not read the input before.
const RETRY_DELAY: Duration = Duration::from_millis(10);
/// How long a terminal has another size, so that a program notices and draws its screen again.
const REDRAW_DELAY: Duration = Duration::from_millis(50);

/// An attached client.
pub(super) struct Attachment {
    pub(super) app: App,
    pub(super) name: String,
    /// The process that it is attached to; another one after a restart.
    pub(super) id: ProcessId,
    /// Its terminal; none while it is down.
    pub(super) pty: Option<Pty>,
    pub(super) window: WindowSize,
    pub(super) membership: Membership,
    /// What it shows at first.
    pub(super) painted: Vec<u8>,
    pub(super) output: Subscription,
    pub(super) _slot: OwnedSemaphorePermit,
}

/// Whether the client stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stay {
    Attached,
    Detached,
}

impl Attachment {
    /// Serves the client until it or the process is gone. `input` is what it has typed already.
    pub(super) async fn run(mut self, stream: UnixStream, input: &[u8]) {
        // A client that is gone is no news.
        let _ = self.serve(&stream, input.to_vec()).await;
    }

    async fn serve(&mut self, stream: &UnixStream, mut input: Vec<u8>) -> io::Result<()> {
        let mut types = self.membership.types;
        let mut engine = self.app.engine.clone();
        send(stream, &std::mem::take(&mut self.painted)).await?;
        if !types {
            self.notify(stream, Notice::Watching { name: self.name.clone() }).await?;
        }
        self.redraw().await;
        loop {
            self.type_input(&mut input);
            tokio::select! {
                // While the process is down it waits: the message about its restart comes first.
                output = next_output(&mut self.output), if self.pty.is_some() => match output {
                    Some(output) => self.forward(stream, output).await?,
                    None => return self.end_run(stream, None, false).await,
                },
                Some(event) = self.membership.events.recv() => match event {
                    AttachEvent::Types => {
                        types = true;
                        // What was typed before was meant for nothing.
                        let mut buffer = [0; INPUT_BYTES];
                        // The runtime may not have noticed it yet, so it is read directly.
                        while matches!(rustix::io::read(stream, &mut buffer), Ok(1..)) {}
                        let name = self.name.clone();
                        self.notify(stream, Notice::TypingPassed { name }).await?;
                    }
                    AttachEvent::Redraw => self.redraw().await,
                },
                ready = stream.readable(), if input.is_empty() => {
                    ready?;
                    let mut buffer = [0; INPUT_BYTES];
                    match stream.try_read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(count) if types => input.extend_from_slice(&buffer[..count]),
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                changed = engine.changed() => {
                    if changed.is_err() {
                        return self.end_run(stream, None, false).await;
                    }
                    if self.follow(stream).await? == Stay::Detached {
                        return Ok(());
                    }
                }
                () = sleep(RETRY_DELAY), if !input.is_empty() => {}
            }
        }
    }

    /// Sends input to the process, as much as it accepts. What is typed while it is down is lost.
    fn type_input(&self, input: &mut Vec<u8>) {
        match self.pty.as_ref().map(|pty| pty.write(input)) {
            Some(Ok(count)) => drop(input.drain(..count)),
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Some(Err(_)) | None => input.clear(),
        }
    }

    async fn forward(&self, stream: &UnixStream, output: Output) -> io::Result<()> {
        match output {
            Output::Bytes { bytes, .. } => {
                if self.pty.as_ref().is_none_or(Pty::adds_returns) {
                    send(stream, &add_returns(&bytes)).await
                } else {
                    send(stream, &bytes).await
                }
            }
            Output::Gap(bytes) => {
                let why = DiscardReason::SlowReader;
                self.notify(stream, Notice::Discarded { bytes, why }).await?;
                self.redraw().await;
                Ok(())
            }
        }
    }

    /// Follows the process through its exits and restarts.
    async fn follow(&mut self, stream: &UnixStream) -> io::Result<Stay> {
        let Ok(snapshot) = self.app.engine.snapshot().await else {
            self.end_run(stream, None, false).await?;
            return Ok(Stay::Detached);
        };
        let status = snapshot.find(&self.name);
        if status.is_some_and(|status| status.id == self.id && status.state.is_running()) {
            return Ok(Stay::Attached);
        }
        let restarts = !snapshot.ending && status.is_some_and(Status::is_wanted);
        self.end_run(stream, status.and_then(|status| status.last), restarts).await?;
        let Some(status) = status.filter(|_| restarts) else { return Ok(Stay::Detached) };
        if status.state.is_running() && status.pid().is_some() {
            self.id = status.id;
            let Ok(pty) = self.app.engine.terminal(self.id).await else {
                self.end_run(stream, None, false).await?;
                return Ok(Stay::Detached);
            };
            self.pty = pty;
            let (name, pid) = (self.name.clone(), status.pid());
            self.notify(stream, Notice::AttachedRestarted { name, pid }).await?;
        }
        Ok(Stay::Attached)
    }

    /// Shows the end of a run of the process, once, and whether another one follows. The exit is
    /// not known if ganger itself is about to end.
    async fn end_run(
        &mut self,
        stream: &UnixStream,
        exit: Option<Exit>,
        restarts: bool,
    ) -> io::Result<()> {
        let has_exited = self.pty.take().is_some();
        if has_exited {
            self.finish_output(stream).await?;
            send(stream, RESET_MODES.as_bytes()).await?;
        }
        if has_exited || !restarts {
            let name = self.name.clone();
            self.notify(stream, Notice::AttachedExited { name, exit, restarts }).await?;
        }
        Ok(())
    }

    /// Sends what the process wrote last: the mux has read it when it answers a query.
    async fn finish_output(&mut self, stream: &UnixStream) -> io::Result<()> {
        let _ = self.app.engine.output().memory_by_process().await;
        loop {
            let next = poll_fn(|context| match self.output.poll_next(context) {
                Poll::Ready(output) => Poll::Ready(output),
                Poll::Pending => Poll::Ready(None),
            });
            let Some(output) = next.await else { return Ok(()) };
            self.forward(stream, output).await?;
        }
    }

    /// Has a program that draws by itself do so again: it notices only that the size changes.
    async fn redraw(&self) {
        // The engine has resized the terminal for this client when it answers.
        let Ok(Some(_)) = self.app.engine.terminal(self.id).await else { return };
        let Some(pty) = self.pty.as_ref().filter(|pty| !pty.reads_lines()) else { return };
        let size = WindowSize::of(pty).unwrap_or(self.window);
        let other = WindowSize { rows: size.rows.saturating_sub(1).max(1), ..size };
        // The terminal may be closed.
        let _ = pty.set_size(other);
        sleep(REDRAW_DELAY).await;
        if WindowSize::of(pty) == Some(other) {
            let _ = pty.set_size(size);
        }
    }

    /// Shows a message on rows of its own.
    async fn notify(&self, stream: &UnixStream, notice: Notice) -> io::Result<()> {
        send(stream, format!("\r\n[ganger: {notice}]\r\n").as_bytes()).await
    }
}

async fn next_output(output: &mut Subscription) -> Option<Output> {
    poll_fn(|context| output.poll_next(context)).await
}

/// Sends all of `bytes`, however long the client takes.
async fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
