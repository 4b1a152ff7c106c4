//! Starting a child: its arguments, environment and descriptors, and clone(2).
//!
//! The keeper does not wait until the program is executed. That may take for ever, for example
//! if a virus scanner has to allow it or its disk does not respond. The child reports a failure
//! through a pipe that execve(2) closes.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, SigSet};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::exec::{
    CStringArray, ChildSetup, ExecOutcome, FileLimits, InheritedSocket, Session, SpawnError,
};
use super::isolation::Isolation;
use super::protocol::{SESSION_VAR, SpawnRequest, SpawnStep, Stdin};

/// A child that is about to execute its program.
pub(super) struct Spawned {
    /// Its process id.
    pub(super) pid: Pid,
    pub(super) outcome: ExecOutcome,
}

/// What all children have in common.
pub(super) struct SpawnContext {
    pub(super) limits: FileLimits,
    pub(super) isolation: Option<Isolation>,
    pub(super) silent_stdin: SilentPipe,
}

/// The standard input of children: a pipe into which nothing is ever written and that never
/// ends.
pub(super) struct SilentPipe {
    read: OwnedFd,
    _write: OwnedFd,
}

impl SilentPipe {
    pub(super) fn new() -> nix::Result<Self> {
        let (read, write) = pipe()?;
        Ok(Self { read, _write: write })
    }

    /// Opens the end to read from. On Linux, each child gets its own pipe, opened for reading
    /// and writing (fifo(7)): the child holds both ends, and the keeper holds no descriptor.
    fn open(&self) -> nix::Result<OwnedFd> {
        if cfg!(target_os = "linux") {
            let (read, _write) = pipe()?;
            // The pipe stays empty, and a user has a limit for the memory of all pipes.
            #[cfg(target_os = "linux")]
            let _ = nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1));
            let path = format!("/proc/self/fd/{}", read.as_raw_fd());
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
            if let Ok(opened) = nix::fcntl::open(path.as_str(), flags, Mode::empty()) {
                return Ok(opened);
            }
        }
        // Without /proc, all children share one pipe.
        duplicate(&self.read)
    }
}

impl SpawnContext {
    /// The processes that become the parents of orphans.
    pub(super) fn reapers(&self) -> Vec<Pid> {
        let init = self.isolation.iter().map(|isolation| isolation.init);
        init.chain([nix::unistd::getpid()]).collect()
    }
}

/// Whether this variable describes inherited sockets. It may have been inherited by ganger.
fn is_socket_variable(pair: &[u8]) -> bool {
    [InheritedSocket::PID_KEY, b"LISTEN_FDS=", b"LISTEN_FDNAMES="]
        .iter()
        .any(|key| pair.starts_with(key))
}

/// Starts a program, which writes to `output` and inherits `listener`.
pub(super) fn spawn(
    request: &SpawnRequest,
    session: &str,
    output: &OwnedFd,
    listener: Option<&OwnedFd>,
    context: &SpawnContext,
) -> Result<Spawned, SpawnError> {
    let session_var = [SESSION_VAR.as_bytes(), b"=", session.as_bytes()].concat();
    let in_fork = |errno| SpawnError { step: SpawnStep::Fork, errno };
    let text = |bytes: &Vec<u8>| CString::new(bytes.clone()).map_err(|_| in_fork(Errno::EINVAL));
    let texts = |list: &[Vec<u8>]| list.iter().map(text).collect::<Result<Vec<_>, _>>();
    // ganger itself may run under another ganger, whose marker is replaced.
    let is_session_var = |pair: &&Vec<u8>| {
        pair.strip_prefix(SESSION_VAR.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
    };
    let mut own = vec![session_var];
    if let Some(name) = &request.listener {
        own.extend([b"LISTEN_FDS=1".to_vec(), [b"LISTEN_FDNAMES=", name.as_slice()].concat()]);
    }
    let env = request.env.iter().filter(|pair| !is_session_var(pair) && !is_socket_variable(pair));
    let env = env.chain(&own).map(text).collect::<Result<Vec<_>, _>>()?;
    let stdin = match request.stdin {
        Stdin::Pipe => context.silent_stdin.open(),
        Stdin::Null => {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            nix::fcntl::open("/dev/null", flags, Mode::empty())
        }
        Stdin::Terminal => duplicate(output),
    };
    let stdin = stdin.map_err(in_fork)?;
    let argv = texts(&request.argv)?;
    let script = [c"sh".into(), c"".into()].into_iter().chain(argv.iter().skip(1).cloned());
    let is_isolated = context.isolation.is_some();
    let mut env = CStringArray::new(env);
    let inherited = listener.map(AsRawFd::as_raw_fd);
    let inherited = inherited.map(|socket| InheritedSocket::new(socket, &mut env));
    let setup = ChildSetup {
        programs: texts(&program_paths(request))?,
        script: CStringArray::new(script.collect()),
        argv: CStringArray::new(argv),
        env,
        dir: text(&request.dir)?,
        stdin: stdin.as_raw_fd(),
        output: output.as_raw_fd(),
        session: if request.terminal { Session::OnTerminal } else { Session::Own },
        listener: inherited,
        mounts: context.isolation.as_ref().map(|isolation| isolation.mounts.as_raw_fd()),
        limits: context.limits,
        parent: Some(if is_isolated { Pid::from_raw(0) } else { nix::unistd::getpid() }),
    };
    let (pid, outcome) = setup.start().map_err(in_fork)?;
    Ok(Spawned { pid, outcome })
}

/// A pipe that no program inherits.
fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    match std::io::pipe() {
        Ok((read, write)) => Ok((read.into(), write.into())),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE))),
    }
}

/// Duplicates a descriptor, for no program to inherit.
fn duplicate(descriptor: &OwnedFd) -> nix::Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(0))?;
    #[expect(unsafe_code, reason = "fcntl returns a bare number")]
    // SAFETY: the descriptor was just returned to us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The paths at which the program is tried, like execvp(3).
fn program_paths(request: &SpawnRequest) -> Vec<Vec<u8>> {
    const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let Some(program) = request.argv.first() else { return Vec::new() };
    if program.contains(&b'/') {
        return vec![program.clone()];
    }
    let path = request.env.iter().find_map(|pair| pair.strip_prefix(b"PATH="));
    let folders = path.unwrap_or(PATH).split(|&byte| byte == b':');
    let join = |folder: &[u8]| match folder {
        [] => [b"./", program.as_slice()].concat(),
        folder => [folder, b"/", program].concat(),
    };
    folders.map(join).collect()
}

/// Installs a handler for SIGCHLD that does nothing but interrupt the keeper's wait.
pub(super) fn wake_on_sigchld() -> nix::Result<()> {
    extern "C" fn do_nothing(_: i32) {}
    let action = nix::sys::signal::SigAction::new(
        SigHandler::Handler(do_nothing),
        nix::sys::signal::SaFlags::SA_NOCLDSTOP,
        SigSet::empty(),
    );
    #[expect(unsafe_code, reason = "a handler is how a signal interrupts a wait")]
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGCHLD, &action) }?;
    Ok(())
}
