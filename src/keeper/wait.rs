//! Waiting for children (waitid(2)), with the numbers as the system gives them:
//! nix refuses real-time signals.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::protocol::WaitStatus;

/// What became of a child, or of any child where none is named; `None` if nothing has,
/// and `options` has `WNOHANG`.
fn wait(child: Option<Pid>, options: i32) -> nix::Result<Option<libc::siginfo_t>> {
    let (kind, id) = match child {
        Some(pid) => (libc::P_PID, pid.as_raw().unsigned_abs()),
        None => (libc::P_ALL, 0),
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    #[expect(unsafe_code, reason = "nix refuses real-time signals")]
    // SAFETY: what waitid(2) writes has this type, and all of it was zero before,
    // which is valid and means that nothing has happened.
    let info = unsafe {
        Errno::result(libc::waitid(kind, id, info.as_mut_ptr(), options))?;
        info.assume_init()
    };
    Ok((info.si_signo != 0).then_some(info))
}

/// How a child ended, if it has; it stays a zombie.
pub(super) fn exit_status(child: Pid) -> Option<WaitStatus> {
    let info = wait(Some(child), libc::WEXITED | libc::WNOWAIT | libc::WNOHANG).ok().flatten()?;
    #[expect(unsafe_code, reason = "siginfo is a union")]
    // SAFETY: for SIGCHLD, which alone waitid(2) tells of, this field is set.
    let status = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_EXITED => Some(WaitStatus::Code(status)),
        _ => Some(WaitStatus::Signal(status)),
    }
}

/// Whether a child has just been suspended.
pub(super) fn is_suspended(child: Pid) -> bool {
    matches!(wait(Some(child), libc::WSTOPPED | libc::WNOHANG), Ok(Some(_)))
}

/// Waits for a child, if it has ended: it is no zombie any more.
pub(super) fn reap(child: Pid) {
    let _ = wait(Some(child), libc::WEXITED | libc::WNOHANG);
}

/// Waits for a child that is about to exit.
pub(super) fn reap_exiting(child: Pid) {
    while matches!(wait(Some(child), libc::WEXITED), Err(Errno::EINTR)) {}
}

/// Waits for a child that has been killed, but no longer than `timeout`.
pub(super) fn reap_within(child: Pid, timeout: Duration) {
    let since = Instant::now();
    while matches!(wait(Some(child), libc::WEXITED | libc::WNOHANG), Ok(None) | Err(Errno::EINTR))
        && since.elapsed() < timeout
    {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits for all children that have ended; true if there is no child at all.
pub(super) fn reap_all() -> bool {
    loop {
        match wait(None, libc::WEXITED | libc::WNOHANG) {
            Ok(None) => return false,
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}
