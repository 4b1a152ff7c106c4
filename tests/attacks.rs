//! Attacks on the guarantees: no descendant survives, nothing stalls ganger, no process is killed
//! that ganger did not start, and the exit code is true.

mod exec;
mod foreign;
mod many;
mod namespaces;
mod nested;
mod pauses;
mod requests;
mod threads;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scenario::{
    Finished, Running, Scenario, children, command_line, hostile, is_alive, tagged,
};

/// The time that ganger may take to stop on a busy machine, in addition to the processes' own time.
pub const MARGIN: Duration = Duration::from_secs(4);

/// The keeper of a ganger, which may have other children, too.
pub fn keeper_of(ganger: Pid) -> Option<Pid> {
    let is_keeper = |pid: &Pid| command_line(*pid).starts_with(b"procfile-keeper\0");
    children(ganger).into_iter().find(is_keeper)
}

/// Kills ganger and its keeper at the same time.
pub fn kill_both(running: &mut Running) {
    let both = [keeper_of(running.pid()).unwrap(), running.pid()];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in both {
            kill(pid, signal).unwrap();
        }
    }
    running.wait();
    running.wait_until("the keeper's exit", |_| !is_alive(both[0]));
}

/// Starts another ganger of the same user, and waits until it has exited.
pub fn start_next(folder: &Path) -> Finished {
    Scenario::procfile("a: true\n").beside(folder).args("start").run().code(0)
}

/// The session marker that all processes of a running ganger inherit.
pub fn session_marker_of(ganger: Pid) -> String {
    let processes = children(keeper_of(ganger).unwrap());
    processes.into_iter().find_map(session_marker).unwrap()
}

fn session_marker(process: Pid) -> Option<String> {
    // The first thread of a process may have ended.
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).ok()?.flatten();
    threads.into_iter().find_map(|thread| {
        let environ = std::fs::read(thread.path().join("environ")).ok()?;
        let environ = String::from_utf8_lossy(&environ).into_owned();
        let mark = environ.split('\0').find_map(|pair| pair.strip_prefix("GANGER_SESSION="))?;
        Some(mark.to_owned())
    })
}

/// A process that ganger did not start, and must not signal.
pub struct Bystander(Child);

impl Bystander {
    /// Starts a process that has `variable` in its environment.
    pub fn with(variable: &str, value: &str) -> Self {
        let mut command = Command::new(hostile());
        command.args(["leaf", "bystander"]).env(variable, value).stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills the processes with this tag that are left, at the end of the test.
pub struct Cleanup<'a>(pub &'a str);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        for pid in tagged(self.0) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
