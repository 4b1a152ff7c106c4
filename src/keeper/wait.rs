//! Waiting for children (waitid(2)), with the numbers as the system gives them:
//! nix refuses real-time signals.

use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::protocol::Wait;

/// What became of a child, or of any if there is none; `None` if nothing has.
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
        Errno::result(libc::waitid(kind, id, info.as_mut_ptr(), options | libc::WNOHANG))?;
        info.assume_init()
    };
    Ok((info.si_signo != 0).then_some(info))
}

/// How a child ended, if it has; it stays a zombie.
pub(super) fn ended(child: Pid) -> Option<Wait> {
    let info = wait(Some(child), libc::WEXITED | libc::WNOWAIT).ok().flatten()?;
    #[expect(unsafe_code, reason = "siginfo is a union")]
    // SAFETY: for SIGCHLD, which alone waitid(2) tells of, this field is set.
    let status = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_EXITED => Some(Wait::Code(status)),
        _ => Some(Wait::Signal(status)),
    }
}

/// Whether a child has just been suspended.
pub(super) fn is_suspended(child: Pid) -> bool {
    matches!(wait(Some(child), libc::WSTOPPED), Ok(Some(_)))
}

/// Takes leave of a child that has ended.
pub(super) fn reap(child: Pid) {
    let _ = wait(Some(child), libc::WEXITED);
}

/// The same for all that have ended; true if there is no child at all.
pub(super) fn reap_all() -> bool {
    loop {
        match wait(None, libc::WEXITED) {
            Ok(None) => return false,
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}
