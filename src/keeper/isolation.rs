//! Children in a process-id namespace of their own (`pid_namespaces(7)`).
//!
//! A first process is made in it, whose end is the end of all others there; it
//! dies with the keeper (`PR_SET_PDEATHSIG`). So whoever kills ganger and its
//! keeper at one instant kills all, and the kernel lets nobody out. The keeper
//! itself stays outside, where process ids are those that everybody sees.
//!
//! Without the privilege to make one, it is made in a user namespace
//! (`user_namespaces(7)`), where this user is known, and nobody else.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::protocol::IsolationError;
use super::wait;

/// A namespace, as long as its first process runs.
pub(super) struct Isolation {
    /// The first process.
    pub(super) init: Pid,
    /// Where the file systems are those of the namespace, `/proc` above all.
    pub(super) mounts: OwnedFd,
}

impl Isolation {
    /// Makes the namespace for all children to come.
    pub(super) fn enter() -> Result<Self, IsolationError> {
        enter()
    }

    /// Whether there is still a namespace to start anything in.
    pub(super) fn is_alive(&self) -> bool {
        wait::exit_status(self.init).is_none()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;

    use nix::errno::Errno;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::signal::{SigSet, Signal};
    use nix::unistd::{ForkResult, fork, getegid, geteuid};

    use super::Isolation;
    use crate::keeper::protocol::{IsolationError, IsolationStep};
    use crate::keeper::wait;

    pub(super) fn enter() -> Result<Isolation, IsolationError> {
        match unshare(CloneFlags::CLONE_NEWPID) {
            Err(Errno::EPERM) => unshare_as_user()?,
            other => other.map_err(|errno| isolation_error(IsolationStep::Namespace, errno))?,
        }
        let pipe = || std::io::pipe().map_err(|error| errno(&error));
        let (mut read, write) =
            pipe().map_err(|errno| isolation_error(IsolationStep::Namespace, errno))?;
        #[expect(unsafe_code, reason = "this is how a process is made")]
        // SAFETY: the keeper has one thread, so the child may do whatever it could.
        let forked = unsafe { fork() };
        let init = match forked.map_err(|errno| isolation_error(IsolationStep::Namespace, errno))? {
            ForkResult::Child => run_init(write.into()),
            ForkResult::Parent { child } => child,
        };
        drop(write);
        let mut answer = [0; 4];
        let unmounted = |errno| isolation_error(IsolationStep::Mount, errno);
        read.read_exact(&mut answer).map_err(|error| unmounted(errno(&error)))?;
        match i32::from_ne_bytes(answer) {
            0 => {}
            errno => return Err(unmounted(Errno::from_raw(errno))),
        }
        let mounts = File::open(format!("/proc/{init}/ns/mnt"));
        Ok(Isolation { init, mounts: mounts.map_err(|error| unmounted(errno(&error)))?.into() })
    }

    /// The way for one who has no privilege: this user and group stay what they are.
    fn unshare_as_user() -> Result<(), IsolationError> {
        let (user, group) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)
            .map_err(|errno| isolation_error(IsolationStep::User, errno))?;
        let write = |file: &str, text: String| {
            let written = std::fs::write(format!("/proc/self/{file}"), text);
            written.map_err(|error| isolation_error(IsolationStep::User, errno(&error)))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", format!("{user} {user} 1"))?;
        write("gid_map", format!("{group} {group} 1"))
    }

    /// The first process: whoever loses its parent in the namespace falls to it.
    fn run_init(report: OwnedFd) -> ! {
        let errno = set_up_init().err().map_or(0, |errno| errno as i32);
        // A keeper that is gone already doesn't hear it, and no signal tells of its end.
        let reported = File::from(report).write_all(&errno.to_ne_bytes());
        if errno == 0 && reported.is_ok() {
            // Not even the socket to ganger, which is to end with the keeper.
            close_all_descriptors();
            let mut children = SigSet::empty();
            children.add(Signal::SIGCHLD);
            loop {
                wait::reap_all();
                let _ = children.wait();
            }
        }
        #[expect(unsafe_code, reason = "what the keeper registered must not run twice")]
        // SAFETY: _exit(2) has no preconditions.
        unsafe {
            libc::_exit(1)
        }
    }

    fn set_up_init() -> nix::Result<()> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        nix::sys::prctl::set_name(c"keeper-init")?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing: Option<&str> = None;
        // What is mounted outside later shows here, and not the other way round.
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, nothing)
    }

    fn close_all_descriptors() {
        #[expect(unsafe_code, reason = "nix has no close_range")]
        // SAFETY: nothing that is open is used any more.
        unsafe {
            libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0);
        }
    }

    fn isolation_error(step: IsolationStep, errno: Errno) -> IsolationError {
        IsolationError { step, errno: errno as i32 }
    }

    fn errno(error: &std::io::Error) -> Errno {
        Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

#[cfg(target_os = "linux")]
use linux::enter;

#[cfg(not(target_os = "linux"))]
fn enter() -> Result<Isolation, IsolationError> {
    use super::protocol::IsolationStep;
    Err(IsolationError { step: IsolationStep::Namespace, errno: libc::ENOSYS })
}
