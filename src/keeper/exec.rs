//! Executing a program: what a child does between clone(2) and execve(2).
//!
//! The keeper starts its children like this, and ganger its keeper. On Linux, the child shares
//! its parent's memory until it executes its program, as after vfork(2), but the parent does not
//! wait for it. So nothing is copied: no page tables, and no pages that are written meanwhile.
//! In return, the child must not disturb its parent. It doesn't allocate, it can't panic, and
//! its system calls don't go through the C library, which would change the parent's `errno`.

use std::ffi::CString;
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::protocol::SpawnStep;

#[cfg(not(target_os = "linux"))]
use copied::SharedMemory;
#[cfg(target_os = "linux")]
use shared::SharedMemory;

/// Soft and hard limit of open files.
pub(super) type FileLimits = (u64, u64);

/// Everything that the child needs. Its signals have their default actions.
pub(super) struct ChildSetup {
    /// The paths at which the program is tried.
    pub(super) programs: Vec<CString>,
    pub(super) argv: CStringArray,
    /// The arguments if the program is a script without an interpreter line, which `sh` then
    /// runs; the second one is to be replaced by its path.
    pub(super) script: CStringArray,
    pub(super) env: CStringArray,
    pub(super) dir: CString,
    pub(super) stdin: RawFd,
    pub(super) output: RawFd,
    pub(super) session: Session,
    /// A socket that it inherits.
    pub(super) listener: Option<InheritedSocket>,
    /// The mount namespace that it enters.
    pub(super) mounts: Option<RawFd>,
    pub(super) limits: FileLimits,
    /// The parent with which the child dies, by its process id as the child sees it: 0 if the
    /// child is in a namespace. None if it outlives its parent.
    pub(super) parent: Option<Pid>,
}

/// The session of a child when it executes its program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Session {
    /// Its parent's. Until then, the child has the environment of its parent. With the marker of
    /// an earlier session in it, a child with a session of its own would be taken for an orphan.
    Inherited,
    /// Its own.
    Own,
    /// Its own, and its output becomes the controlling terminal.
    OnTerminal,
}

/// A child, as it sees itself.
struct Child {
    setup: ChildSetup,
    /// Closed by execve(2), or written to when a step fails.
    failure: RawFd,
}

/// An array of C strings, terminated by a null pointer, as execve(2) takes it.
pub(super) struct CStringArray {
    pointers: Vec<*const libc::c_char>,
    /// The strings that `pointers` point to.
    _strings: Vec<CString>,
}

impl CStringArray {
    pub(super) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]);
        Self { pointers: pointers.collect(), _strings: strings }
    }
}

/// A socket that the child inherits in the way of `sd_listen_fds(3)`.
pub(super) struct InheritedSocket {
    socket: RawFd,
    /// `LISTEN_PID=…`, which the child completes because only it knows its process id.
    pid: Box<[u8]>,
}

impl InheritedSocket {
    /// The key of the variable with the process id for which the socket is meant.
    pub(super) const PID_KEY: &[u8] = b"LISTEN_PID=";

    /// The number of the first inherited socket (`SD_LISTEN_FDS_START`). In the keeper this
    /// descriptor is in use from the start, so that it is none of those that the child needs.
    const FIRST_SOCKET_FD: RawFd = 3;

    /// Adds the variable to `env`, where the child completes it.
    pub(super) fn new(socket: RawFd, env: &mut CStringArray) -> Self {
        // Room for the digits of any process id, and the null at the end.
        let pid = [Self::PID_KEY, &[0; 11]].concat().into_boxed_slice();
        env.pointers.insert(0, pid.as_ptr().cast());
        Self { socket, pid }
    }

    /// Runs in the child: completes `LISTEN_PID` and moves the socket to its number.
    fn install(&mut self) -> nix::Result<()> {
        let mut digits = [b'0'; 10];
        let mut rest = direct::getpid().unsigned_abs();
        for digit in digits.iter_mut().rev() {
            *digit += u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        let digits = digits.iter().skip_while(|digit| **digit == b'0');
        for (byte, digit) in self.pid.iter_mut().skip(Self::PID_KEY.len()).zip(digits) {
            *byte = *digit;
        }
        direct::duplicate(self.socket, Self::FIRST_SOCKET_FD)
    }
}

/// Why a child could not be started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SpawnError {
    pub(super) step: SpawnStep,
    pub(super) errno: Errno,
}

impl SpawnError {
    /// The length of the message about it: a step, and an errno.
    const BYTES: usize = 5;

    fn encode(self) -> [u8; Self::BYTES] {
        let step = match self.step {
            SpawnStep::Fork => 0,
            SpawnStep::Dir => 1,
            SpawnStep::Exec => 2,
        };
        let [a, b, c, d] = (self.errno as i32).to_ne_bytes();
        [step, a, b, c, d]
    }

    /// Reads the message; none if it is not complete.
    fn decode(message: &[u8]) -> Option<Self> {
        let (step, errno) = message.split_first()?;
        let step = match step {
            0 => SpawnStep::Fork,
            1 => SpawnStep::Dir,
            _ => SpawnStep::Exec,
        };
        let errno = i32::from_ne_bytes(errno.try_into().ok()?);
        Some(Self { step, errno: Errno::from_raw(errno) })
    }
}

/// The pipe that shows whether the program of a child was executed.
#[derive(Debug)]
pub(super) struct ExecOutcome {
    pipe: PipeReader,
    /// What has arrived of a failure.
    failure: Vec<u8>,
    /// What the child uses until the pipe ends.
    memory: Option<SharedMemory>,
}

impl ExecOutcome {
    /// The descriptor that becomes readable when something of the outcome is known.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Reads what has arrived of the outcome; none if it is not known yet. Waits unless the
    /// descriptor is readable.
    pub(super) fn read(&mut self) -> Option<Result<(), SpawnError>> {
        let mut message = [0; SpawnError::BYTES];
        match self.pipe.read(&mut message) {
            Ok(0) => {}
            Ok(count) => {
                self.failure.extend(&message[..count]);
                return None;
            }
            Err(_) => return None,
        }
        // At its end, the child has executed its program or has exited: the system first lets
        // go of the memory, and then closes the descriptors.
        if let Some(memory) = self.memory.take() {
            memory.free();
        }
        // Without a failure, the program was executed, or the child was killed before that.
        Some(SpawnError::decode(&self.failure).map_or(Ok(()), Err))
    }

    /// Waits until the outcome is known.
    pub(super) fn wait(mut self) -> Result<(), SpawnError> {
        loop {
            if let Some(outcome) = self.read() {
                return outcome;
            }
        }
    }
}

impl ChildSetup {
    /// Starts a child, which executes its program.
    pub(super) fn start(self) -> nix::Result<(Pid, ExecOutcome)> {
        let (pipe, failure) = std::io::pipe()
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE)))?;
        // The child has its own copy of the descriptors. `failure` is closed here.
        let child = Child { setup: self, failure: failure.as_raw_fd() };
        let (pid, memory) = child.start()?;
        Ok((pid, ExecOutcome { pipe, failure: Vec::new(), memory: Some(memory) }))
    }
}

impl Child {
    /// Executes the program, or reports the failure and exits.
    fn exec(&mut self) -> ! {
        let error = match self.setup.apply() {
            Err(error) => error,
            Ok(()) => SpawnError { step: SpawnStep::Exec, errno: self.setup.try_programs() },
        };
        direct::write(self.failure, &error.encode());
        direct::exit(127)
    }
}

impl ChildSetup {
    fn apply(&mut self) -> Result<(), SpawnError> {
        self.set_up_process().map_err(|errno| SpawnError { step: SpawnStep::Exec, errno })?;
        direct::chdir(&self.dir).map_err(|errno| SpawnError { step: SpawnStep::Dir, errno })
    }

    fn set_up_process(&mut self) -> nix::Result<()> {
        #[cfg(target_os = "linux")]
        {
            if let Some(parent) = self.parent {
                direct::die_with_parent()?;
                if direct::getppid() != parent.as_raw() {
                    return Err(Errno::ESRCH);
                }
            }
            if let Some(mounts) = self.mounts {
                direct::enter_mount_namespace(mounts)?;
            }
        }
        match self.session {
            Session::Inherited => {}
            Session::Own | Session::OnTerminal => direct::setsid()?,
        }
        direct::duplicate(self.stdin, libc::STDIN_FILENO)?;
        direct::duplicate(self.output, libc::STDOUT_FILENO)?;
        direct::duplicate(self.output, libc::STDERR_FILENO)?;
        match self.session {
            Session::Inherited | Session::Own => {}
            Session::OnTerminal => direct::set_controlling_terminal(self.output)?,
        }
        if let Some(listener) = &mut self.listener {
            listener.install()?;
        }
        direct::reset_signals();
        direct::unblock_signals()?;
        direct::limit_files(self.limits)
    }

    /// Executes the first program that can be executed; returns only the error if there is none.
    fn try_programs(&mut self) -> Errno {
        let mut reason = Errno::ENOENT;
        for program in &self.programs {
            match direct::execve(program, &self.argv, &self.env) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                // A script without an interpreter line is run by the shell.
                Errno::ENOEXEC => {
                    if let Some(argument) = self.script.pointers.get_mut(1) {
                        *argument = program.as_ptr();
                    }
                    return direct::execve(c"/bin/sh", &self.script, &self.env);
                }
                errno => reason = errno,
            }
        }
        reason
    }
}

#[cfg(target_os = "linux")]
mod shared {
    use std::mem::MaybeUninit;

    use nix::errno::Errno;
    use nix::unistd::Pid;

    use super::Child;

    /// The size of a child's stack. Few functions are called on it, and none recursively.
    const STACK_BYTES: usize = 32 << 10;

    /// Aligned as calls require it.
    #[repr(align(16))]
    struct Stack(#[expect(dead_code, reason = "for its size")] [u8; STACK_BYTES]);

    /// The memory that a child uses and its parent must not touch. It is leaked unless it is
    /// freed.
    #[derive(Debug)]
    pub(super) struct SharedMemory {
        child: *mut Child,
        stack: *mut MaybeUninit<Stack>,
    }

    impl SharedMemory {
        fn new(child: Child) -> Self {
            let child = Box::into_raw(Box::new(child));
            Self { child, stack: Box::into_raw(Box::new_uninit()) }
        }

        /// Frees the memory of a child that has executed its program or has exited.
        pub(super) fn free(self) {
            #[expect(unsafe_code, reason = "the memory was lent to a process")]
            // SAFETY: both were made by `Box::into_raw` in `new`, and `self` is consumed.
            unsafe {
                drop(Box::from_raw(self.child));
                drop(Box::from_raw(self.stack));
            }
        }
    }

    impl Child {
        /// Starts the child. It uses the memory until it executes its program.
        pub(super) fn start(self) -> nix::Result<(Pid, SharedMemory)> {
            let memory = SharedMemory::new(self);
            // The stack grows from its end downwards.
            let stack = memory.stack.wrapping_add(1).cast();
            let flags = libc::CLONE_VM | libc::SIGCHLD;
            #[expect(unsafe_code, reason = "this is how a process is made")]
            // SAFETY: the child writes only to its stack and its `Child`, which are not used here
            // before it has executed its program or exited. It makes its own copy of
            // everything else but the memory: descriptors, signals, working directory.
            let pid = unsafe { libc::clone(run_child, stack, flags, memory.child.cast()) };
            match Errno::result(pid) {
                Ok(pid) => Ok((Pid::from_raw(pid), memory)),
                Err(errno) => {
                    memory.free();
                    Err(errno)
                }
            }
        }
    }

    extern "C" fn run_child(child: *mut libc::c_void) -> libc::c_int {
        #[expect(unsafe_code, reason = "clone(2) passes an untyped pointer")]
        // SAFETY: it is what `start` passed, and nothing else uses it.
        let child = unsafe { &mut *child.cast::<Child>() };
        child.exec()
    }
}

#[cfg(not(target_os = "linux"))]
mod copied {
    use nix::unistd::{ForkResult, Pid, fork};

    use super::Child;

    /// A child has a copy of all memory, so nothing is shared.
    #[derive(Debug)]
    pub(super) struct SharedMemory;

    impl SharedMemory {
        #[expect(clippy::unused_self, reason = "there is something to free on Linux")]
        pub(super) fn free(self) {}
    }

    impl Child {
        /// Starts the child.
        pub(super) fn start(mut self) -> nix::Result<(Pid, SharedMemory)> {
            #[expect(unsafe_code, reason = "this is how a process is made")]
            // SAFETY: the child calls nothing that a lock in another thread could block.
            match unsafe { fork() }? {
                ForkResult::Child => self.exec(),
                ForkResult::Parent { child } => Ok((child, SharedMemory)),
            }
        }
    }
}

/// System calls that don't change `errno`.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a system call takes numbers and pointers")]
mod direct {
    use std::ffi::CStr;
    use std::os::fd::RawFd;

    use nix::errno::Errno;
    use syscalls::{Sysno, syscall};

    use super::{CStringArray, FileLimits};

    fn checked(result: Result<usize, syscalls::Errno>) -> nix::Result<()> {
        result.map(drop).map_err(|errno| Errno::from_raw(errno.into_raw()))
    }

    fn process_id(result: Result<usize, syscalls::Errno>) -> i32 {
        i32::try_from(result.unwrap_or_default()).unwrap_or_default()
    }

    pub(super) fn getpid() -> i32 {
        // SAFETY: it takes no argument.
        process_id(unsafe { syscall!(Sysno::getpid) })
    }

    pub(super) fn getppid() -> i32 {
        // SAFETY: it takes no argument.
        process_id(unsafe { syscall!(Sysno::getppid) })
    }

    /// Asks the system for SIGKILL when the parent dies.
    pub(super) fn die_with_parent() -> nix::Result<()> {
        // SAFETY: it takes two numbers.
        checked(unsafe { syscall!(Sysno::prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
    }

    pub(super) fn enter_mount_namespace(mounts: RawFd) -> nix::Result<()> {
        // SAFETY: it takes two numbers.
        checked(unsafe { syscall!(Sysno::setns, mounts, libc::CLONE_NEWNS) })
    }

    pub(super) fn setsid() -> nix::Result<()> {
        // SAFETY: it takes no argument.
        checked(unsafe { syscall!(Sysno::setsid) })
    }

    pub(super) fn set_controlling_terminal(terminal: RawFd) -> nix::Result<()> {
        // SAFETY: it takes three numbers.
        checked(unsafe { syscall!(Sysno::ioctl, terminal, libc::TIOCSCTTY, 0) })
    }

    /// Duplicates a descriptor to a number that is another one's.
    pub(super) fn duplicate(descriptor: RawFd, number: RawFd) -> nix::Result<()> {
        // SAFETY: it takes three numbers, and the child does not use what had that number.
        checked(unsafe { syscall!(Sysno::dup3, descriptor, number, 0) })
    }

    /// Resets all signals to their default action, also those that ganger inherited as ignored.
    pub(super) fn reset_signals() {
        // `struct sigaction` (rt_sigaction(2)) is all zero for the default action.
        let action = [0u64; 4];
        for signal in 1..=64 {
            // SAFETY: the action outlives the call and has the kernel's size. The kernel refuses
            // signals whose action can't be changed.
            let _ = unsafe { syscall!(Sysno::rt_sigaction, signal, action.as_ptr(), 0, 8) };
        }
    }

    pub(super) fn unblock_signals() -> nix::Result<()> {
        let none = 0u64;
        // SAFETY: the set outlives the call and has the size that is passed.
        checked(unsafe {
            syscall!(Sysno::rt_sigprocmask, libc::SIG_SETMASK, std::ptr::from_ref(&none), 0, 8)
        })
    }

    pub(super) fn limit_files((soft, hard): FileLimits) -> nix::Result<()> {
        let limits = [soft, hard];
        // SAFETY: the limits are a `struct rlimit64`, and outlive the call.
        checked(unsafe { syscall!(Sysno::prlimit64, 0, libc::RLIMIT_NOFILE, limits.as_ptr(), 0) })
    }

    pub(super) fn chdir(dir: &CStr) -> nix::Result<()> {
        // SAFETY: it takes a string that ends with a null.
        checked(unsafe { syscall!(Sysno::chdir, dir.as_ptr()) })
    }

    /// Returns only if the program could not be executed.
    pub(super) fn execve(program: &CStr, argv: &CStringArray, env: &CStringArray) -> Errno {
        let (argv, env) = (argv.pointers.as_ptr(), env.pointers.as_ptr());
        // SAFETY: the pointers are to live strings, and a null pointer ends each array.
        let result = unsafe { syscall!(Sysno::execve, program.as_ptr(), argv, env) };
        checked(result).err().unwrap_or(Errno::UnknownErrno)
    }

    pub(super) fn write(descriptor: RawFd, bytes: &[u8]) {
        // SAFETY: the pointer and the length are those of a slice.
        let _ = unsafe { syscall!(Sysno::write, descriptor, bytes.as_ptr(), bytes.len()) };
    }

    pub(super) fn exit(status: i32) -> ! {
        loop {
            // SAFETY: it takes a number. What the parent registered for its exit does not run.
            let _ = unsafe { syscall!(Sysno::exit_group, status) };
        }
    }
}

/// The same by the C library: the child has an `errno` of its own.
#[cfg(not(target_os = "linux"))]
#[expect(unsafe_code, reason = "nix has no way to do this without allocating")]
mod direct {
    use std::ffi::CStr;
    use std::os::fd::RawFd;

    use nix::errno::Errno;
    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

    use super::{CStringArray, FileLimits};

    pub(super) fn getpid() -> i32 {
        nix::unistd::getpid().as_raw()
    }

    pub(super) fn setsid() -> nix::Result<()> {
        nix::unistd::setsid().map(drop)
    }

    pub(super) fn set_controlling_terminal(terminal: RawFd) -> nix::Result<()> {
        // SAFETY: it takes three numbers.
        Errno::result(unsafe { libc::ioctl(terminal, libc::TIOCSCTTY.into(), 0) }).map(drop)
    }

    pub(super) fn duplicate(descriptor: RawFd, number: RawFd) -> nix::Result<()> {
        // SAFETY: it takes two numbers, and the child does not use what had that number.
        Errno::result(unsafe { libc::dup2(descriptor, number) }).map(drop)
    }

    pub(super) fn reset_signals() {
        for signal in 1..=64 {
            // SAFETY: the default action is no handler; unknown numbers are refused.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }

    pub(super) fn unblock_signals() -> nix::Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
    }

    pub(super) fn limit_files((soft, hard): FileLimits) -> nix::Result<()> {
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)
    }

    pub(super) fn chdir(dir: &CStr) -> nix::Result<()> {
        nix::unistd::chdir(dir)
    }

    pub(super) fn execve(program: &CStr, argv: &CStringArray, env: &CStringArray) -> Errno {
        let (argv, env) = (argv.pointers.as_ptr(), env.pointers.as_ptr());
        // SAFETY: the pointers are to live strings, and a null pointer ends each array.
        unsafe { libc::execve(program.as_ptr(), argv, env) };
        Errno::last()
    }

    pub(super) fn write(descriptor: RawFd, bytes: &[u8]) {
        // SAFETY: the pointer and the length are those of a slice.
        unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
    }

    pub(super) fn exit(status: i32) -> ! {
        // SAFETY: _exit(2) has no preconditions. What the keeper registered does not run.
        unsafe { libc::_exit(status) }
    }
}
