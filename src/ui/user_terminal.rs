//! The user's terminal while a client or a full screen has it, and its restoration.
//!
//! A parent process of the client waits for it and restores the terminal if the client is killed,
//! which the client can't.

use std::io::{self, Write};

use anyhow::Context;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, raise, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::pty::RESET_MODES;

/// Saves and restores the title of the window (xterm control sequences, "window manipulation").
const SAVE_TITLE: &str = "\x1b[22;0t";
const RESTORE_TITLE: &str = "\x1b[23;0t";

/// The terminal as it was before the client.
#[derive(Clone, Debug)]
pub struct UserTerminal {
    modes: Termios,
}

/// One of the two processes after [`UserTerminal::fork_guard`].
pub enum GuardSide {
    /// The process that the user started, with its exit code.
    Guard(u8),
    /// The client.
    Client,
}

impl UserTerminal {
    /// The terminal that standard input is.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { modes: tcgetattr(io::stdin()).context("failed to read the terminal's modes")? })
    }

    /// Forks this process, which has only one thread yet. The parent waits for the client, and
    /// restores the terminal if a signal has killed it.
    pub fn fork_guard(&self) -> anyhow::Result<GuardSide> {
        let guard = getpid();
        #[expect(unsafe_code, reason = "this is how a process is made")]
        // SAFETY: there is one thread, so the child may do what the parent could.
        match unsafe { fork() }.context("failed to start the client")? {
            ForkResult::Child => {
                end_with_parent(guard);
                Ok(GuardSide::Client)
            }
            ForkResult::Parent { child } => Ok(GuardSide::Guard(self.guard(child)?)),
        }
    }

    /// Waits until the client has ended, and returns its exit code. Forwards signals to it.
    fn guard(&self, client: Pid) -> anyhow::Result<u8> {
        for ignored in [Signal::SIGTSTP, Signal::SIGTTOU] {
            #[expect(unsafe_code, reason = "dispositions belong to the whole process")]
            // SAFETY: no handler is installed.
            let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
        }
        let forwarded = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
        let mut signals: SigSet = forwarded.into_iter().collect();
        signals.add(Signal::SIGCHLD);
        signals.thread_block().context("failed to listen for signals")?;
        loop {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
            match waitpid(client, Some(flags)).context("the client is lost")? {
                WaitStatus::Exited(_, code) => return Ok(u8::try_from(code).unwrap_or(1)),
                WaitStatus::Signaled(_, signal, _) => {
                    self.restore();
                    return Ok(u8::try_from(128 + signal as i32).unwrap_or(1));
                }
                WaitStatus::Stopped(..) => {
                    // The shell waits for this process alone.
                    let _ = raise(Signal::SIGSTOP);
                    let _ = kill(client, Signal::SIGCONT);
                }
                _ => {}
            }
            match signals.wait().context("failed to wait for a signal")? {
                Signal::SIGCHLD => {}
                signal => drop(kill(client, signal)),
            }
        }
    }

    /// Has every key passed on, until the result is dropped.
    pub fn enter_raw(&self) -> io::Result<RawMode<'_>> {
        let mut raw = self.modes.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let mut stdout = io::stdout();
        let raw = RawMode(self);
        stdout.write_all(SAVE_TITLE.as_bytes())?;
        stdout.flush()?;
        Ok(raw)
    }

    /// Has single keys read, without echo, until the result is dropped. Unlike in raw mode, keys
    /// such as Ctrl-C send signals, and output is as usual.
    pub fn enter_key_mode(&self) -> io::Result<KeyMode<'_>> {
        let mut modes = self.modes.clone();
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        Ok(KeyMode(self))
    }

    fn restore(&self) {
        let mut stdout = io::stdout();
        // A terminal that is gone needs nothing.
        let _ = write!(stdout, "{RESET_MODES}{RESTORE_TITLE}").and_then(|()| stdout.flush());
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.modes);
    }
}

/// Has the client stop if its parent is killed: the shell would take the terminal back.
fn end_with_parent(parent: Pid) {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    if getppid() != parent {
        let _ = raise(Signal::SIGTERM);
    }
}

/// The terminal passes every key on.
pub struct RawMode<'a>(&'a UserTerminal);

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// The terminal passes single keys on.
pub struct KeyMode<'a>(&'a UserTerminal);

impl Drop for KeyMode<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0.modes);
    }
}
