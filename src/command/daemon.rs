//! `start -D`: the app goes on in the background, and whoever started it returns
//! when all of it is up.
//!
//! Until then the two share a terminal, so that what goes wrong is seen where it
//! was asked for; then ganger lets go of it. Output that was redirected stays so.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::ask::TIMED_OUT;
use crate::control::planner::Orders;
use crate::notice::Notice;
use crate::supervise::command::{Handle, Stopping};
use crate::supervise::supervisor::{Pace, Status};

/// One of the two that there are after [`split`].
pub(super) enum Side {
    /// The one that was started, with its exit code.
    Foreground(u8),
    /// The one that goes on.
    Background(Background),
}

/// How the background tells the foreground that it may return.
pub(super) struct Background(OwnedFd);

/// Makes two of this process, which has only one thread yet.
pub(super) fn split() -> anyhow::Result<Side> {
    let (read, write) = std::io::pipe().context("failed to make a pipe")?;
    #[expect(unsafe_code, reason = "this is how a process is made")]
    // SAFETY: there is one thread, so the child may do whatever the parent could.
    match unsafe { fork() }.context("failed to go into the background")? {
        ForkResult::Child => {
            drop(read);
            setsid().context("failed to leave the terminal")?;
            Ok(Side::Background(Background(write.into())))
        }
        ForkResult::Parent { child } => {
            drop(write);
            Ok(Side::Foreground(attend(child, read.into())?))
        }
    }
}

/// Waits until all is up, or it has ended; passes on who wants it to stop.
fn attend(background: Pid, told: OwnedFd) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.context("failed to wait for the start")?.block_on(async {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        let (mut int, mut term) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let told = pipe::Receiver::from_owned_fd(told)?;
        let mut code = [0];
        loop {
            tokio::select! {
                _ = told.readable() => match told.try_read(&mut code) {
                    Ok(1) => return Ok(code[0]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Ok(_) | Err(_) => return Ok(exit_code(background)),
                },
                // The background has a session of its own, which no terminal signals.
                Some(()) = int.recv() => drop(kill(background, Signal::SIGINT)),
                Some(()) = term.recv() => drop(kill(background, Signal::SIGTERM)),
            }
        }
    })
}

fn exit_code(background: Pid) -> u8 {
    let code = match waitpid(background, None) {
        Ok(WaitStatus::Exited(_, code)) => code,
        Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
        Ok(_) | Err(_) => 1,
    };
    u8::try_from(code).unwrap_or(1)
}

impl Background {
    /// Lets go of the terminal and of the foreground when all are up.
    pub(super) async fn release(self, mut engine: Handle) -> Result<(), Stopping> {
        let code = loop {
            let snapshot = engine.look().await?;
            // What ends now never was up: its end is what the foreground returns.
            if !snapshot.ending && snapshot.processes.iter().all(is_settled) {
                break snapshot.processes.iter().map(code_of).find(|code| *code != 0);
            }
            engine.changed().await?;
        };
        engine.detach().await?;
        leave_terminal();
        // Whoever started it may be gone.
        let _ = File::from(self.0).write_all(&[code.unwrap_or_default()]);
        Ok(())
    }
}

/// Whether nothing more has to come of its start.
fn is_settled(status: &Status) -> bool {
    !status.is_wanted() || status.state.is_ready() || status.late
}

/// What came of it, as an exit code.
fn code_of(status: &Status) -> u8 {
    match status.last {
        Some(exit) if status.has_failed() => exit.code(),
        _ if status.late => TIMED_OUT,
        Some(_) | None => 0,
    }
}

/// Nothing of it is used any more; as long as it is open, it can't be closed.
fn leave_terminal() {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    if std::io::stdin().is_terminal() {
        let _ = nix::unistd::dup2_stdin(null.as_fd());
    }
    if std::io::stdout().is_terminal() {
        let _ = nix::unistd::dup2_stdout(null.as_fd());
    }
    if std::io::stderr().is_terminal() {
        let _ = nix::unistd::dup2_stderr(null.as_fd());
    }
}

/// Reads the files again at each SIGHUP, as a daemon does.
pub(super) async fn reload_on_hangup(engine: Handle, orders: Orders) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    while hangups.recv().await.is_some() {
        let outcome = orders.reload(Pace::AtOnce).await;
        let outcome = outcome.map(|changes| changes.to_string()).map_err(|it| it.to_string());
        if engine.say(Notice::Reloaded { outcome }).is_err() {
            break;
        }
    }
    Ok(())
}
