//! Starting a child: fork(2), a new session, its descriptors, execve(2).
//!
//! The keeper does not wait until the program is executed. That may take for ever, for example
//! if a virus scanner has to allow it or its disk does not respond. The child reports a failure
//! through a pipe that execve(2) closes.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, fork};

use super::isolation::Isolation;
use super::protocol::{SESSION_VAR, SpawnRequest, SpawnStep, Stdin};

/// A child that is about to execute its program.
pub(super) struct Spawned {
    /// Its process id.
    pub(super) pid: Pid,
    pub(super) outcome: ExecOutcome,
}

/// The pipe that shows whether the program of a child was executed.
pub(super) struct ExecOutcome(File);

impl ExecOutcome {
    /// The descriptor that becomes readable when the outcome is known.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits for the outcome.
    pub(super) fn read(&mut self) -> Result<(), SpawnError> {
        let mut message = [0; MESSAGE_BYTES];
        match self.0.read_exact(&mut message) {
            // Closed by execve(2), or because the child was killed before that.
            Err(_) => Ok(()),
            Ok(()) => {
                let [step, errno @ ..] = message;
                let step = if step == 1 { SpawnStep::Dir } else { SpawnStep::Exec };
                Err(SpawnError { step, errno: Errno::from_raw(i32::from_ne_bytes(errno)) })
            }
        }
    }
}

/// Why a child could not be started.
pub(super) struct SpawnError {
    pub(super) step: SpawnStep,
    pub(super) errno: Errno,
}

/// Soft and hard limit of open files.
pub(super) type FileLimits = (u64, u64);

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
        let raw = nix::fcntl::fcntl(&self.read, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(0))?;
        #[expect(unsafe_code, reason = "fcntl returns a bare number")]
        // SAFETY: the descriptor was just returned to us.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }
}

impl SpawnContext {
    /// The processes that become the parents of orphans.
    pub(super) fn reapers(&self) -> Vec<Pid> {
        let init = self.isolation.iter().map(|isolation| isolation.init);
        init.chain([nix::unistd::getpid()]).collect()
    }
}

/// Everything that the child needs after fork(2).
struct ChildSetup<'a> {
    /// The paths at which the program is tried.
    programs: Vec<CString>,
    argv: CStringArray,
    /// The arguments if the program is a script without an interpreter line, which `sh` then
    /// runs; the second one is to be replaced by its path.
    script: CStringArray,
    env: CStringArray,
    dir: CString,
    stdin: OwnedFd,
    output: OwnedFd,
    listener: Option<PassedSocket>,
    context: &'a SpawnContext,
    /// The keeper's process id as the child sees it: 0 if the child is in a namespace.
    keeper: Pid,
    /// Closed by execve(2), or written to when a step fails.
    failure: OwnedFd,
}

/// An array of C strings, terminated by a null pointer, as execve(2) takes it.
struct CStringArray {
    pointers: Vec<*const libc::c_char>,
    /// The strings that `pointers` point to.
    _strings: Vec<CString>,
}

impl CStringArray {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]);
        Self { pointers: pointers.collect(), _strings: strings }
    }
}

/// A socket that the child inherits in the way of `sd_listen_fds(3)`.
struct PassedSocket {
    socket: OwnedFd,
    /// `LISTEN_PID=…`, which the child completes because only it knows its process id.
    pid: Vec<u8>,
}

/// The number of the first inherited socket (`SD_LISTEN_FDS_START`). In the keeper this
/// descriptor is in use from the start, so that it is none of those that the child needs.
const FIRST_SOCKET_FD: i32 = 3;

const LISTEN_PID_KEY: &[u8] = b"LISTEN_PID=";

impl PassedSocket {
    fn new(socket: OwnedFd) -> Self {
        // Room for the digits of any process id, and the null at the end.
        Self { socket, pid: [LISTEN_PID_KEY, &[0; 11]].concat() }
    }

    /// Runs in the child: completes `LISTEN_PID` and moves the socket to its number.
    fn install(&mut self) -> nix::Result<()> {
        let mut digits = [0; 10];
        let mut rest = nix::unistd::getpid().as_raw().unsigned_abs();
        let mut first = digits.len();
        while rest > 0 {
            first -= 1;
            digits[first] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        let digits = &digits[first..];
        self.pid[LISTEN_PID_KEY.len()..][..digits.len()].copy_from_slice(digits);
        #[expect(unsafe_code, reason = "nix does not duplicate to a fixed number")]
        // SAFETY: the socket is open, and the child does not use what had that number.
        Errno::result(unsafe { libc::dup2(self.socket.as_raw_fd(), FIRST_SOCKET_FD) }).map(drop)
    }
}

/// Whether this variable describes inherited sockets. It may have been inherited by ganger.
fn is_socket_variable(pair: &[u8]) -> bool {
    [LISTEN_PID_KEY, b"LISTEN_FDS=", b"LISTEN_FDNAMES="].iter().any(|key| pair.starts_with(key))
}

/// Starts a program, which writes to `output` and inherits `listener`.
pub(super) fn spawn(
    request: &SpawnRequest,
    session: &str,
    output: OwnedFd,
    listener: Option<OwnedFd>,
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
    let listener = listener.map(PassedSocket::new);
    let mut own = vec![session_var];
    if let Some(name) = &request.listener {
        own.extend([b"LISTEN_FDS=1".to_vec(), [b"LISTEN_FDNAMES=", name.as_slice()].concat()]);
    }
    let env = request.env.iter().filter(|pair| !is_session_var(pair) && !is_socket_variable(pair));
    let env = env.chain(&own).map(text).collect::<Result<Vec<_>, _>>()?;
    let mut env = CStringArray::new(env);
    if let Some(listener) = &listener {
        env.pointers.insert(0, listener.pid.as_ptr().cast());
    }
    let stdin = match request.stdin {
        Stdin::Pipe => context.silent_stdin.open(),
        Stdin::Null => {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            nix::fcntl::open("/dev/null", flags, Mode::empty())
        }
    };
    let stdin = stdin.map_err(in_fork)?;
    let argv = texts(&request.argv)?;
    let script = [c"sh".into(), c"".into()].into_iter().chain(argv.iter().skip(1).cloned());
    let (read, failure) = pipe().map_err(in_fork)?;
    let setup = ChildSetup {
        programs: texts(&program_paths(request))?,
        script: CStringArray::new(script.collect()),
        argv: CStringArray::new(argv),
        env,
        dir: text(&request.dir)?,
        stdin,
        output,
        listener,
        context,
        keeper: if context.isolation.is_some() { Pid::from_raw(0) } else { nix::unistd::getpid() },
        failure,
    };
    let pid = fork_exec(setup).map_err(in_fork)?;
    Ok(Spawned { pid, outcome: ExecOutcome(File::from(read)) })
}

/// A pipe that no program inherits.
fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    match std::io::pipe() {
        Ok((read, write)) => Ok((read.into(), write.into())),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE))),
    }
}

/// The length of a failure message: a step, and an errno.
const MESSAGE_BYTES: usize = 5;

fn fork_exec(mut setup: ChildSetup) -> nix::Result<Pid> {
    #[expect(unsafe_code, reason = "this is how a process is made")]
    // SAFETY: the keeper has one thread, so the child may do whatever it could.
    match unsafe { fork() }? {
        ForkResult::Child => exec_child(&mut setup),
        ForkResult::Parent { child } => Ok(child),
    }
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

/// Runs in the child: executes the program, or reports the failure and exits.
fn exec_child(setup: &mut ChildSetup) -> ! {
    let (step, errno) = match set_up_child(setup) {
        Err(failed) => failed,
        Ok(()) => (2, try_programs(setup)),
    };
    let mut message = [step; MESSAGE_BYTES];
    message[1..].copy_from_slice(&(errno as i32).to_ne_bytes());
    let _ = nix::unistd::write(&setup.failure, &message);
    #[expect(unsafe_code, reason = "what the keeper registered must not run twice")]
    // SAFETY: _exit(2) has no preconditions.
    unsafe {
        libc::_exit(127)
    }
}

/// Executes the first program that can be executed; returns only the error if there is none.
fn try_programs(setup: &mut ChildSetup) -> Errno {
    let mut reason = Errno::ENOENT;
    for program in &setup.programs {
        match execve(program, &setup.argv, &setup.env) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // A script without an interpreter line is run by the shell.
            Errno::ENOEXEC => {
                setup.script.pointers[1] = program.as_ptr();
                return execve(c"/bin/sh", &setup.script, &setup.env);
            }
            errno => reason = errno,
        }
    }
    reason
}

fn execve(program: &CStr, argv: &CStringArray, env: &CStringArray) -> Errno {
    #[expect(unsafe_code, reason = "nix would build the arrays again for each folder of PATH")]
    // SAFETY: the pointers are to live strings, and a null pointer ends each array.
    unsafe {
        libc::execve(program.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr())
    };
    Errno::last()
}

fn set_up_child(setup: &mut ChildSetup) -> Result<(), (u8, Errno)> {
    let other = |errno| (2, errno);
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(other)?;
        if nix::unistd::getppid() != setup.keeper {
            return Err((2, Errno::ESRCH));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = setup.keeper;
    #[cfg(target_os = "linux")]
    if let Some(isolation) = &setup.context.isolation {
        nix::sched::setns(&isolation.mounts, nix::sched::CloneFlags::CLONE_NEWNS).map_err(other)?;
    }
    nix::unistd::setsid().map_err(other)?;
    nix::unistd::dup2_stdin(&setup.stdin).map_err(other)?;
    nix::unistd::dup2_stdout(&setup.output).map_err(other)?;
    nix::unistd::dup2_stderr(&setup.output).map_err(other)?;
    if let Some(listener) = &mut setup.listener {
        listener.install().map_err(other)?;
    }
    reset_signals();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(other)?;
    setrlimit(Resource::RLIMIT_NOFILE, setup.context.limits.0, setup.context.limits.1)
        .map_err(other)?;
    nix::unistd::chdir(setup.dir.as_c_str()).map_err(|errno| (1, errno))
}

/// Resets all signals to their default action, also those that ganger inherited as ignored.
fn reset_signals() {
    for signal in 1..=64 {
        // The C library reserves two signals for itself, but a parent may have ignored those
        // too, so the system call is used directly. Its `struct sigaction` (rt_sigaction(2)) is
        // all zero for the default action.
        #[cfg(target_os = "linux")]
        #[expect(unsafe_code, reason = "nix and the C library know only some signals")]
        // SAFETY: the action outlives the call and has the kernel's size. The kernel refuses
        // signals whose action can't be changed.
        unsafe {
            let action = [0u64; 4];
            let old = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), old, 8);
        }
        #[cfg(not(target_os = "linux"))]
        #[expect(unsafe_code, reason = "nix knows only some signals")]
        // SAFETY: the default action is no handler; unknown numbers are refused.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
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
