//! Making a child: fork(2), a session of its own, its descriptors, execve(2).
//!
//! The keeper does not wait until the program is executed, which may take for
//! ever: a scanner has to allow it, or its disk does not answer. The child
//! reports a failure through a pipe that execve(2) closes.

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

/// What tells whether the program of a child is executed.
pub(super) struct ExecOutcome(File);

impl ExecOutcome {
    /// What becomes readable when it is known.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits until it is known.
    pub(super) fn read(&mut self) -> Result<(), SpawnError> {
        let mut message = [0; MESSAGE_BYTES];
        match self.0.read_exact(&mut message) {
            // Closed by execve(2), or because the child was killed on its way there.
            Err(_) => Ok(()),
            Ok(()) => {
                let [step, errno @ ..] = message;
                let step = if step == 1 { SpawnStep::Dir } else { SpawnStep::Exec };
                Err(SpawnError { step, errno: Errno::from_raw(i32::from_ne_bytes(errno)) })
            }
        }
    }
}

/// What could not be done, and why.
pub(super) struct SpawnError {
    pub(super) step: SpawnStep,
    pub(super) errno: Errno,
}

/// Soft and hard limit of open files.
pub(super) type FileLimits = (u64, u64);

/// What every child is started with.
pub(super) struct SpawnContext {
    pub(super) limits: FileLimits,
    pub(super) isolation: Option<Isolation>,
    pub(super) silent_stdin: SilentPipe,
}

/// What children read: a pipe into which nothing is ever written and that never ends.
pub(super) struct SilentPipe {
    read: OwnedFd,
    _write: OwnedFd,
}

impl SilentPipe {
    pub(super) fn new() -> nix::Result<Self> {
        let (read, write) = pipe()?;
        Ok(Self { read, _write: write })
    }

    /// The end to read from. On Linux, each child gets a pipe of its own, opened to read
    /// and write (fifo(7)): it holds both ends itself, and costs the keeper no descriptor.
    fn open(&self) -> nix::Result<OwnedFd> {
        if cfg!(target_os = "linux") {
            let (read, _write) = pipe()?;
            // Nothing is ever in it, and a user may have only so much of pipes.
            #[cfg(target_os = "linux")]
            let _ = nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1));
            let path = format!("/proc/self/fd/{}", read.as_raw_fd());
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
            if let Ok(opened) = nix::fcntl::open(path.as_str(), flags, Mode::empty()) {
                return Ok(opened);
            }
        }
        // Without /proc, one for all has to do.
        let raw = nix::fcntl::fcntl(&self.read, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(0))?;
        #[expect(unsafe_code, reason = "fcntl returns a bare number")]
        // SAFETY: the descriptor was just returned to us.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }
}

impl SpawnContext {
    /// The processes to which orphans fall.
    pub(super) fn reapers(&self) -> Vec<Pid> {
        let init = self.isolation.iter().map(|isolation| isolation.init);
        init.chain([nix::unistd::getpid()]).collect()
    }
}

/// What the child is made from.
struct ChildSetup<'a> {
    /// Where the program may be.
    programs: Vec<CString>,
    argv: CStringArray,
    /// The same, where the program is a script for the shell; the second of them
    /// is to be replaced by its path.
    script: CStringArray,
    env: CStringArray,
    dir: CString,
    stdin: OwnedFd,
    output: OwnedFd,
    listener: Option<PassedSocket>,
    context: &'a SpawnContext,
    /// As the child sees it: who is outside of its namespace has no number.
    keeper: Pid,
    /// Closed by execve, or written to when it fails.
    failure: OwnedFd,
}

/// An array of C strings, terminated by a null pointer, as execve(2) takes it.
struct CStringArray {
    pointers: Vec<*const libc::c_char>,
    /// What they point to.
    _strings: Vec<CString>,
}

impl CStringArray {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]);
        Self { pointers: pointers.collect(), _strings: strings }
    }
}

/// A socket to be passed, as `sd_listen_fds(3)` expects it.
struct PassedSocket {
    socket: OwnedFd,
    /// The variable that says whom it is meant for, which only the child can know.
    pid: Vec<u8>,
}

/// Where the first socket that is passed has to be. In the keeper this number has
/// been taken since its start, so it is none of those that the child needs.
const FIRST_SOCKET_FD: i32 = 3;

const LISTEN_PID_KEY: &[u8] = b"LISTEN_PID=";

impl PassedSocket {
    fn new(socket: OwnedFd) -> Self {
        // Room for the digits of any process id, and the end of the string.
        Self { socket, pid: [LISTEN_PID_KEY, &[0; 11]].concat() }
    }

    /// In the child.
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
        #[expect(unsafe_code, reason = "the number is what counts")]
        // SAFETY: the socket is open, and nobody needs what had that number.
        Errno::result(unsafe { libc::dup2(self.socket.as_raw_fd(), FIRST_SOCKET_FD) }).map(drop)
    }
}

/// What a process is told of its sockets, by others than its own ganger perhaps.
fn is_socket_variable(pair: &[u8]) -> bool {
    [LISTEN_PID_KEY, b"LISTEN_FDS=", b"LISTEN_FDNAMES="].iter().any(|key| pair.starts_with(key))
}

/// Starts a program, which writes to `output` and is given `listener`.
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
    // ganger itself may run under another ganger, whose mark is not ours.
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

/// A step, and the number of an error.
const MESSAGE_BYTES: usize = 5;

fn fork_exec(mut setup: ChildSetup) -> nix::Result<Pid> {
    #[expect(unsafe_code, reason = "this is how a process is made")]
    // SAFETY: the keeper has one thread, so the child may do whatever it could.
    match unsafe { fork() }? {
        ForkResult::Child => exec_child(&mut setup),
        ForkResult::Parent { child } => Ok(child),
    }
}

/// The paths at which the program is tried: as execvp(3) does.
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

/// The child's side: never returns.
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

/// Returns only if no program was found that can be executed, with the reason.
fn try_programs(setup: &mut ChildSetup) -> Errno {
    let mut reason = Errno::ENOENT;
    for program in &setup.programs {
        match execve(program, &setup.argv, &setup.env) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // A script without a first line that says so is one for the shell.
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
    #[expect(unsafe_code, reason = "nix would make the lists anew for each folder of PATH")]
    // SAFETY: the pointers are to strings that live, and a null ends either list.
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

/// Whatever was ignored is no longer, be it that ganger was started that way.
fn reset_signals() {
    for signal in 1..=64 {
        // The C library keeps two numbers to itself, but a parent may have
        // ignored those as well: so the kernel is asked. The action is its
        // `struct sigaction` (rt_sigaction(2)), in which zero is the default.
        #[cfg(target_os = "linux")]
        #[expect(unsafe_code, reason = "nix and the C library know only some signals")]
        // SAFETY: the action outlives the call and has the kernel's size; what
        // can't be changed is refused.
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

/// Nothing is done by the handler but to wake the keeper from its wait.
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
