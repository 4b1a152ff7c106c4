//! Starting the keeper.

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use super::kill::ExistingDescendants;
use super::protocol::{Decoder, REPLY_TIMEOUT, Report};
use super::{ISOLATE, NAME, process_table};

/// A keeper that was started, before there is a runtime to communicate with it.
#[derive(Debug)]
pub struct StartedKeeper {
    pub(super) stream: StdStream,
    pub(super) pid: Pid,
    pub(super) existing: ExistingDescendants,
}

/// Starts a keeper, and makes this process a subreaper, to which the keeper's descendants fall
/// when it dies.
///
/// This process must raise its own limit of open files only afterwards: children get the limit
/// that the keeper inherits. Fails if `isolate` is requested and the system forbids it.
pub fn start_keeper(isolate: bool) -> anyhow::Result<StartedKeeper> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut existing = ExistingDescendants::before_keeper();
    let (ours, theirs) = StdStream::pair()?;
    let program = if cfg!(target_os = "linux") {
        // This works even if the file has been replaced by a newer version.
        "/proc/self/exe".into()
    } else {
        std::env::current_exe()?
    };
    let _guard = kill_suspended_keeper(existing.pids());
    let keeper = Command::new(program)
        .arg0(NAME)
        .args(isolate.then_some(ISOLATE))
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if isolate {
        wait_until_isolated(&ours)?;
    }
    ours.set_nonblocking(true)?;
    let pid = i32::try_from(keeper.id()).expect("a process id is an i32");
    let pid = Pid::from_raw(pid);
    existing.set_keeper(pid);
    Ok(StartedKeeper { stream: ours, pid, existing })
}

/// Kills a keeper that is suspended before it runs, until the returned value is dropped: to
/// start a program waits until it runs. The `others` are left alone.
fn kill_suspended_keeper(others: HashSet<Pid>) -> Option<Sender<()>> {
    let (guard, dropped) = channel();
    let kill_if_suspended = move || {
        while dropped.recv_timeout(REPLY_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            let children = process_table::children(getpid());
            for keeper in children.into_iter().filter(|pid| !others.contains(pid)) {
                if process_table::is_suspended(keeper) {
                    let _ = kill(keeper, Signal::SIGKILL);
                }
            }
        }
    };
    // If there is no thread for it, ganger waits as long as the keeper is suspended.
    std::thread::Builder::new().stack_size(32 << 10).spawn(kill_if_suspended).ok()?;
    Some(guard)
}

/// Waits for the first report: whether children are isolated.
fn wait_until_isolated(mut keeper: &StdStream) -> anyhow::Result<()> {
    let (mut decoder, mut bytes) = (Decoder::default(), [0; 64]);
    loop {
        match keeper.read(&mut bytes)? {
            0 => bail!("the keeper has died"),
            count => decoder.push(&bytes[..count]),
        }
        if let Some(report) = decoder.take()? {
            match report {
                Report::Isolated(isolated) => return Ok(isolated?),
                other => bail!("the keeper sent {other:?}"),
            }
        }
    }
}

impl StartedKeeper {
    /// The keeper's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }
}
