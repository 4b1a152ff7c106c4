//! Waiting for children (waitid(2)). Signals are plain numbers, because nix refuses real-time
//! signals.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::protocol::WaitStatus;

/// Waits for a change of state of a child, or of any child if none is named. Returns `None` if
/// there is none and `options` has `WNOHANG`.
fn wait(child: Option<Pid>, options: i32) -> nix::Result<Option<libc::siginfo_t>> {
    let (kind, id) = match child {
        Some(pid) => (libc::P_PID, pid.as_raw().unsigned_abs()),
        None => (libc::P_ALL, 0),
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    #[expect(unsafe_code, reason = "nix refuses real-time signals")]
    // SAFETY: waitid(2) writes this type. All of it was zero before, which is valid and means
    // that no child has changed its state.
    let info = unsafe {
        Errno::result(libc::waitid(kind, id, info.as_mut_ptr(), options))?;
        info.assume_init()
    };
    Ok((info.si_signo != 0).then_some(info))
}

/// The exit status of a child, if it has exited. It stays a zombie.
pub(super) fn exit_status(child: Pid) -> Option<WaitStatus> {
    let info = wait(Some(child), libc::WEXITED | libc::WNOWAIT | libc::WNOHANG).ok().flatten()?;
    #[expect(unsafe_code, reason = "siginfo is a union")]
    // SAFETY: this field is set for SIGCHLD, and waitid(2) returns no other signal.
    let status = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_EXITED => Some(WaitStatus::Code(status)),
        _ => Some(WaitStatus::Signal(status)),
    }
}

/// Whether a child has been suspended since the last call.
pub(super) fn is_suspended(child: Pid) -> bool {
    matches!(wait(Some(child), libc::WSTOPPED | libc::WNOHANG), Ok(Some(_)))
}

/// Reaps a child, if it has exited. Returns whether it had.
pub(super) fn reap(child: Pid) -> bool {
    matches!(wait(Some(child), libc::WEXITED | libc::WNOHANG), Ok(Some(_)))
}

/// Waits at most `timeout` for a child that was killed, and reaps it.
pub(super) fn reap_within(child: Pid, timeout: Duration) {
    let since = Instant::now();
    while matches!(wait(Some(child), libc::WEXITED | libc::WNOHANG), Ok(None) | Err(Errno::EINTR))
        && since.elapsed() < timeout
    {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Reaps all children that have exited. Returns true if no child is left.
pub(super) fn reap_all() -> bool {
    loop {
        match wait(None, libc::WEXITED | libc::WNOHANG) {
            Ok(None) => return false,
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}
