//! A process-id namespace for all children (`pid_namespaces(7)`).
//!
//! The first process in the namespace dies with the keeper (`PR_SET_PDEATHSIG`), and the kernel
//! then kills all others in it. So nothing survives even if ganger and its keeper are killed at
//! one instant. The keeper itself stays outside, where its process ids are those of
//! the rest of the system.
//!
//! Without the privilege to create one, the namespace is created in a user namespace
//! (`user_namespaces(7)`) that knows only this user.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::protocol::IsolationError;
use super::wait;

/// The namespace, which exists as long as its first process runs.
pub(super) struct Isolation {
    /// The first process.
    pub(super) init: Pid,
    /// The mount namespace whose `/proc` shows the process ids of the namespace.
    pub(super) mounts: OwnedFd,
}

impl Isolation {
    /// Creates the namespace, in which all later children are started.
    pub(super) fn enter() -> Result<Self, IsolationError> {
        enter()
    }

    /// Whether the namespace still exists.
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

    /// Creates the namespace without privileges. User and group stay the same in it.
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

    /// Runs the first process of the namespace, which reaps the orphans in it.
    fn run_init(report: OwnedFd) -> ! {
        let errno = set_up_init().err().map_or(0, |errno| errno as i32);
        // If the keeper died before the death signal was set, only this write shows it.
        let reported = File::from(report).write_all(&errno.to_ne_bytes());
        if errno == 0 && reported.is_ok() {
            // The socket to ganger must end when the keeper dies, so it is closed here too.
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
        // Later mounts from outside appear here, and not the other way round.
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, nothing)
    }

    fn close_all_descriptors() {
        #[expect(unsafe_code, reason = "nix has no close_range")]
        // SAFETY: no descriptor is used any more.
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
