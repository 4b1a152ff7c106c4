//! Starting the keeper.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream as StdStream;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::exec::{CStringArray, ChildSetup, ExecOutcome, Session};
use super::kill::ExistingDescendants;
use super::protocol::{Decoder, REPLY_TIMEOUT, Report};
use super::{ISOLATE, NAME};

/// A keeper that was started, before there is a runtime to communicate with it.
#[derive(Debug)]
pub struct StartedKeeper {
    pub(super) stream: StdStream,
    pub(super) pid: Pid,
    /// Whether it was executed.
    pub(super) outcome: Option<ExecOutcome>,
    pub(super) existing: ExistingDescendants,
}

/// Starts a keeper, and makes this process a subreaper, to which the keeper's descendants fall
/// when it dies. Does not wait until the keeper runs.
///
/// This process must raise its own limit of open files only afterwards: children get the limit
/// that the keeper inherits. Fails if `isolate` is requested and the system forbids it.
pub fn start_keeper(isolate: bool) -> anyhow::Result<StartedKeeper> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut existing = ExistingDescendants::before_keeper();
    let (ours, theirs) = StdStream::pair()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let program = if cfg!(target_os = "linux") {
        // This works even if the file has been replaced by a newer version.
        c"/proc/self/exe".into()
    } else {
        CString::new(std::env::current_exe()?.into_os_string().into_vec())?
    };
    let args = [Some(NAME), isolate.then_some(ISOLATE)].into_iter().flatten();
    let setup = ChildSetup {
        programs: vec![program],
        argv: CStringArray::new(args.map(CString::new).collect::<Result<_, _>>()?),
        script: CStringArray::new(Vec::new()),
        env: CStringArray::new(Vec::new()),
        dir: c"/".into(),
        stdin: theirs.as_raw_fd(),
        output: null.as_raw_fd(),
        session: Session::Inherited,
        listener: None,
        mounts: None,
        limits: getrlimit(Resource::RLIMIT_NOFILE)?,
        parent: None,
    };
    let (pid, outcome) = setup.start()?;
    // A child starts on the processor of its parent, also if another one is idle, and moves when
    // it executes its program. It gets the time for that now.
    std::thread::yield_now();
    drop(theirs);
    if isolate {
        wait_until_isolated(&ours).inspect_err(|_| {
            let _ = kill(pid, Signal::SIGKILL);
        })?;
    }
    ours.set_nonblocking(true)?;
    existing.set_keeper(pid);
    Ok(StartedKeeper { stream: ours, pid, outcome: Some(outcome), existing })
}

/// Waits for the first report: whether children are isolated.
fn wait_until_isolated(mut keeper: &StdStream) -> anyhow::Result<()> {
    keeper.set_read_timeout(Some(REPLY_TIMEOUT))?;
    let (mut decoder, mut bytes) = (Decoder::default(), [0; 64]);
    loop {
        match keeper.read(&mut bytes).context("the keeper does not respond")? {
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
