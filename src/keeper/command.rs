//! The processes of a command that is no process of an app: `ganger with` leaves none of them.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid};
use tokio::process::Command;

use super::kill::{ExistingDescendants, kill_all_descendants};
use super::protocol::SESSION_VAR;
use super::stale_sessions::{kill_orphans_of, signal_session};

/// The processes of a command, from its start on.
#[derive(Debug)]
pub struct CommandSession {
    /// Identifies the command in the marker of its descendants.
    marker: String,
    existing: ExistingDescendants,
}

impl CommandSession {
    /// Begins: descendants that lose their parent become children of this process from now on.
    pub fn begin() -> std::io::Result<Self> {
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_child_subreaper(true)?;
        let marker = format!("with-{}-{:08x}", getpid(), fastrand::u32(..));
        Ok(Self { existing: ExistingDescendants::before_command(marker.clone()), marker })
    }

    /// The marker, by which another process can kill what the command leaves.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Marks a command, which is killed when this process is.
    pub fn mark(&self, command: &mut Command) {
        command.env(SESSION_VAR, format!("{}/0", self.marker));
        #[cfg(target_os = "linux")]
        {
            let parent = getpid();
            let die_with_parent = move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // It may be gone already.
                if nix::unistd::getppid() == parent {
                    Ok(())
                } else {
                    Err(std::io::Error::from_raw_os_error(libc::ESRCH))
                }
            };
            #[expect(unsafe_code, reason = "it takes a step between fork and exec")]
            // SAFETY: two system calls, and no allocation.
            unsafe {
                command.pre_exec(die_with_parent)
            };
        }
    }

    /// Sends a signal to the command's process, whose environment may be without the marker, and to
    /// all that it has started. Returns whether any was found.
    #[must_use]
    pub fn signal(&self, process: Pid, signal: Signal) -> bool {
        signal_session(&self.marker, &[process], signal as i32)
    }

    /// Whether a process of the command is left.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        signal_session(&self.marker, &[], 0)
    }

    /// Kills whatever is left of the command.
    pub fn kill_rest(&self) {
        // What may not be killed belongs to another user.
        let _ = kill_all_descendants(&self.existing);
        kill_orphans_of(std::slice::from_ref(&self.marker));
    }
}

/// How many searches in a row must find nothing, and the pause between two searches: a process
/// that is about to execute its program has no environment for a moment.
const SEARCHES: usize = 5;
const SEARCH_PAUSE: Duration = Duration::from_millis(50);

/// How long the processes of a command are killed again and again. One that does not exit within
/// this time is held by the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Kills what is left of the command with this marker, whose process has died. The marker is that
/// of this command alone, so whatever has it is killed: on a terminal or not, and whether or not
/// the process that started it has exited yet.
pub fn kill_command(marker: &str) {
    let since = Instant::now();
    let mut searches = 0;
    while searches < SEARCHES && since.elapsed() < KILL_TIMEOUT {
        searches = if signal_session(marker, &[], libc::SIGKILL) { 0 } else { searches + 1 };
        std::thread::sleep(SEARCH_PAUSE);
    }
}
