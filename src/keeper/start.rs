//! How ganger gets its keeper.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use super::client::REPLY_TIMEOUT;
use super::kill::ExistingDescendants;
use super::protocol::{Decoder, Report};
use super::{ISOLATE, NAME, process_table};

/// A keeper that has been started, before there is a runtime to talk to it.
#[derive(Debug)]
pub struct StartedKeeper {
    pub(super) stream: StdStream,
    pub(super) pid: Pid,
    pub(super) existing: ExistingDescendants,
}

/// Starts a keeper, and makes this process the one that its orphans fall to.
///
/// This process raises its own limit of open files only after that, so that the
/// keeper knows the one that children are to get. To `isolate` them fails where
/// the system forbids it.
pub fn start_keeper(isolate: bool) -> anyhow::Result<StartedKeeper> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut existing = ExistingDescendants::before_keeper();
    let (ours, theirs) = StdStream::pair()?;
    let program = if cfg!(target_os = "linux") {
        // Also there when the file has been replaced by a newer one.
        "/proc/self/exe".into()
    } else {
        std::env::current_exe()?
    };
    let _watch = kill_suspended_keeper();
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

/// Until this is dropped, a keeper that is suspended on its way is killed: starting a
/// program takes until it runs, whatever keeps it from it. Other children may be
/// suspended as they like.
fn kill_suspended_keeper() -> Option<Sender<()>> {
    let (watched, over) = channel();
    let others = process_table::children(getpid());
    let watch = move || {
        while over.recv_timeout(REPLY_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            let children = process_table::children(getpid());
            for keeper in children.into_iter().filter(|pid| !others.contains(pid)) {
                if process_table::is_suspended(keeper) {
                    let _ = kill(keeper, Signal::SIGKILL);
                }
            }
        }
    };
    // Without it, the worst is to wait.
    std::thread::Builder::new().stack_size(32 << 10).spawn(watch).ok()?;
    Some(watched)
}

/// Nothing else is said before it was asked for.
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
                other => bail!("the keeper says {other:?}"),
            }
        }
    }
}

impl StartedKeeper {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }
}
