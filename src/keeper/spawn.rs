//! Making a child: fork(2), a session of its own, its descriptors, execve(2).

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};

use super::protocol::{Spawn, Stdin, Step};

/// A child that runs its program.
pub(super) struct Spawned {
    /// Its process id.
    pub(super) pid: Pid,
    /// The other end of what it reads; it must stay open.
    pub(super) stdin: Option<OwnedFd>,
}

/// What could not be done, and why.
pub(super) struct Failed {
    pub(super) step: Step,
    pub(super) errno: Errno,
}

/// Soft and hard limit of open files.
pub(super) type Limits = (u64, u64);

/// What the child is made from; all memory is taken before the fork.
struct Image {
    /// Where the program may be.
    programs: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    dir: CString,
    stdin: OwnedFd,
    output: OwnedFd,
    limits: Limits,
    keeper: Pid,
}

/// Starts a program, which writes to `output`, and waits until it runs.
pub(super) fn spawn(
    request: &Spawn,
    mark: String,
    output: OwnedFd,
    limits: Limits,
) -> Result<Spawned, Failed> {
    let in_fork = |errno| Failed { step: Step::Fork, errno };
    let text = |bytes: &Vec<u8>| CString::new(bytes.clone()).map_err(|_| in_fork(Errno::EINVAL));
    let texts = |list: &[Vec<u8>]| list.iter().map(text).collect::<Result<Vec<_>, _>>();
    let mut env = texts(&request.env)?;
    env.push(text(&mark.into_bytes())?);
    let (stdin, held) = match request.stdin {
        Stdin::Silent => {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(in_fork)?;
            (read, Some(write))
        }
        Stdin::Null => {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            (nix::fcntl::open("/dev/null", flags, Mode::empty()).map_err(in_fork)?, None)
        }
    };
    let argv = texts(&request.argv)?;
    let programs = texts(&programs(request))?;
    let (dir, keeper) = (text(&request.dir)?, nix::unistd::getpid());
    let image = Image { programs, argv, env, dir, stdin, output, limits, keeper };
    // Closed by execve, or written to when it fails.
    let (failure, in_child) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(in_fork)?;
    #[expect(unsafe_code, reason = "fork is how a process is made")]
    // SAFETY: the keeper has one thread, so the child may do whatever it could.
    let forked = unsafe { nix::unistd::fork() }.map_err(in_fork)?;
    match forked {
        ForkResult::Child => become_program(&image, in_child),
        ForkResult::Parent { child: pid } => {
            drop((image, in_child));
            let mut message = [0; 5];
            match File::from(failure).read_exact(&mut message) {
                Err(_) => Ok(Spawned { pid, stdin: held }),
                Ok(()) => {
                    let _ = nix::sys::wait::waitpid(pid, None);
                    let [step, errno @ ..] = message;
                    let step = if step == 1 { Step::Dir } else { Step::Exec };
                    Err(Failed { step, errno: Errno::from_raw(i32::from_ne_bytes(errno)) })
                }
            }
        }
    }
}

/// The paths at which the program is tried: as execvp(3) does.
fn programs(request: &Spawn) -> Vec<Vec<u8>> {
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

/// Returns only if no program was found that can be executed, with the reason.
fn execute(image: &Image) -> Errno {
    let mut reason = Errno::ENOENT;
    for program in &image.programs {
        match nix::unistd::execve(program, &image.argv, &image.env) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            // A script without a first line that says so is one for the shell.
            Err(Errno::ENOEXEC) => {
                let mut argv = vec![c"sh", program.as_c_str()];
                argv.extend(image.argv.iter().skip(1).map(CString::as_c_str));
                return match nix::unistd::execve(c"/bin/sh", &argv, &image.env) {
                    Err(errno) => errno,
                };
            }
            Err(errno) => reason = errno,
        }
    }
    reason
}

/// The child's side: never returns.
fn become_program(image: &Image, failure: OwnedFd) -> ! {
    let (step, errno) = match prepare(image) {
        Err(failed) => failed,
        Ok(()) => (2, execute(image)),
    };
    let mut message = vec![step];
    message.extend((errno as i32).to_ne_bytes());
    let _ = File::from(failure).write_all(&message);
    #[expect(unsafe_code, reason = "what the keeper registered must not run twice")]
    // SAFETY: _exit(2) has no preconditions.
    unsafe {
        libc::_exit(127)
    }
}

fn prepare(image: &Image) -> Result<(), (u8, Errno)> {
    let other = |errno| (2, errno);
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(other)?;
        if nix::unistd::getppid() != image.keeper {
            return Err((2, Errno::ESRCH));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = image.keeper;
    nix::unistd::setsid().map_err(other)?;
    nix::unistd::dup2_stdin(&image.stdin).map_err(other)?;
    nix::unistd::dup2_stdout(&image.output).map_err(other)?;
    nix::unistd::dup2_stderr(&image.output).map_err(other)?;
    default_signals();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(other)?;
    setrlimit(Resource::RLIMIT_NOFILE, image.limits.0, image.limits.1).map_err(other)?;
    nix::unistd::chdir(image.dir.as_c_str()).map_err(|errno| (1, errno))
}

/// Whatever was ignored is no longer, be it that ganger was started that way.
fn default_signals() {
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
pub(super) fn wake_on_child() -> nix::Result<()> {
    extern "C" fn nothing(_: i32) {}
    let action = nix::sys::signal::SigAction::new(
        SigHandler::Handler(nothing),
        nix::sys::signal::SaFlags::SA_NOCLDSTOP,
        SigSet::empty(),
    );
    #[expect(unsafe_code, reason = "a handler is how a signal interrupts a wait")]
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGCHLD, &action) }?;
    Ok(())
}
