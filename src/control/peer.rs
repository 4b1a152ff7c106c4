//! The process at the other end of a socket.

use std::os::fd::AsFd;

/// Its process id. It has none here if it runs in another namespace.
#[cfg(target_os = "linux")]
pub(super) fn pid(stream: &impl AsFd) -> Option<i32> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

    let peer = getsockopt(stream, PeerCredentials).ok()?;
    (peer.pid() > 0).then(|| peer.pid())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn pid(_stream: &impl AsFd) -> Option<i32> {
    None
}

/// Reports when the process has exited.
#[cfg(target_os = "linux")]
pub(super) struct End(Option<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl End {
    /// For the process at the other end of this socket.
    pub(super) fn of(stream: &impl AsFd) -> Self {
        Self(pid(stream).and_then(pidfd))
    }

    /// Waits until the process has exited, as far as the system can report it.
    pub(super) fn wait(self) {
        use nix::errno::Errno;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        let Some(end) = self.0 else { return };
        let mut polled = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        while poll(&mut polled, PollTimeout::NONE) == Err(Errno::EINTR) {}
    }
}

/// `pidfd_open(2)`: readable once the process has ended, waited for or not.
#[cfg(target_os = "linux")]
fn pidfd(pid: i32) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::{FromRawFd, OwnedFd};

    #[expect(unsafe_code, reason = "there is no safe way to open one")]
    // SAFETY: the call takes two numbers, and returns a new descriptor, which no other value owns,
    // or -1.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let descriptor = i32::try_from(descriptor).ok().filter(|it| *it >= 0)?;
        Some(OwnedFd::from_raw_fd(descriptor))
    }
}

/// On other systems, the response ends when ganger is about to exit, some milliseconds earlier.
#[cfg(not(target_os = "linux"))]
pub(super) struct End;

#[cfg(not(target_os = "linux"))]
impl End {
    pub(super) fn of(_stream: &impl AsFd) -> Self {
        Self
    }

    pub(super) fn wait(self) {}
}
