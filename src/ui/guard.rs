//! The parent of a client that has taken the terminal: it restores the terminal if the client is
//! killed, which the client can't.

use std::io::{Write, stdin, stdout};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid};

/// Ends mouse reports, bracketed paste, the keyboard protocol of kitty, the alternate screen and
/// colours, and shows the cursor (xterm, "Control Sequences").
const RESET_SEQUENCES: &str = "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\
                               \x1b[<u\x1b[?1049l\x1b[0m\x1b[?25h";

/// One of the two processes after [`fork_guarded`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ForkSide {
    /// The client.
    Client,
    /// Its parent, once the client has ended with this exit code.
    Guard(u8),
}

/// Forks this process, which has only one thread yet.
pub fn fork_guarded() -> anyhow::Result<ForkSide> {
    let modes = tcgetattr(stdin()).context("failed to read the modes of the terminal")?;
    let guard = nix::unistd::getpid();
    #[expect(unsafe_code, reason = "this is how a process is made")]
    // SAFETY: there is one thread, so the child may do what the parent could.
    match unsafe { fork() }.context("failed to start the client")? {
        ForkResult::Child => {
            end_with_parent(guard);
            Ok(ForkSide::Client)
        }
        ForkResult::Parent { child } => Ok(ForkSide::Guard(wait_for_client(child, &modes)?)),
    }
}

/// Has the client stop if the guard is killed: the shell would take the terminal back.
fn end_with_parent(guard: Pid) {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    if getppid() != guard {
        let _ = kill(nix::unistd::getpid(), Signal::SIGTERM);
    }
}

/// Waits until the client has ended, and forwards signals to it.
fn wait_for_client(client: Pid, modes: &Termios) -> anyhow::Result<u8> {
    let forwarded = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
    let mut signals: SigSet = forwarded.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("failed to listen for signals")?;
    loop {
        match waitpid(client, Some(WaitPidFlag::WNOHANG)).context("the client is lost")? {
            WaitStatus::Exited(_, code) => return Ok(u8::try_from(code).unwrap_or(1)),
            WaitStatus::Signaled(_, signal, _) => {
                restore(modes);
                return Ok(u8::try_from(128 + signal as i32).unwrap_or(1));
            }
            _ => {}
        }
        match signals.wait().context("failed to wait for a signal")? {
            Signal::SIGCHLD => {}
            signal => drop(kill(client, signal)),
        }
    }
}

fn restore(modes: &Termios) {
    // If this fails, the terminal is gone.
    let _ = stdout().write_all(RESET_SEQUENCES.as_bytes()).and_then(|()| stdout().flush());
    let _ = tcsetattr(stdin(), SetArg::TCSAFLUSH, modes);
}
