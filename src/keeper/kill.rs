//! Ending what must not survive.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, getpid};

use super::protocol::Member;
use super::tree::{self, Seen};
use super::wait;

/// Sends a signal to a process that was seen, and to no other that may have got
/// its number since.
#[cfg(target_os = "linux")]
pub(super) fn send(to: &Seen, signal: i32) -> nix::Result<()> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    #[expect(unsafe_code, reason = "nix has no pidfd")]
    // SAFETY: pidfd_open(2) takes a number and flags, and returns a descriptor or -1.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, to.pid.as_raw(), 0) };
    let raw = match Errno::result(opened) {
        Ok(raw) => i32::try_from(raw).map_err(|_| Errno::EBADF)?,
        // Linux before 5.3, or a sandbox.
        Err(Errno::ENOSYS | Errno::EPERM) => return raw_kill(to.pid, signal),
        Err(errno) => return Err(errno),
    };
    #[expect(unsafe_code, reason = "nix has no pidfd")]
    // SAFETY: the descriptor was just returned to us.
    let process = unsafe { OwnedFd::from_raw_fd(raw) };
    if tree::look(to.pid).is_none_or(|now| now.started != to.started) {
        return Err(Errno::ESRCH);
    }
    let info = std::ptr::null::<libc::siginfo_t>();
    #[expect(unsafe_code, reason = "nix has no pidfd")]
    // SAFETY: the descriptor is open, and no siginfo is the same as kill(2)'s.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, info, 0) };
    Errno::result(sent).map(drop)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn send(to: &Seen, signal: i32) -> nix::Result<()> {
    raw_kill(to.pid, signal)
}

/// Sends a signal to the group that a child leads.
///
/// A leader stays a zombie until its group is empty, so that neither its number
/// nor its group's can be anybody else's.
pub(super) fn send_to_group(leader: Pid, signal: i32) -> nix::Result<()> {
    raw_kill(Pid::from_raw(-leader.as_raw()), signal)
}

/// Sends a signal to the group that a child leads, and to those of `members`
/// who are not in it.
///
/// Whoever left the group since it was seen may have missed the signal, and gets
/// it, at the worst a second time.
pub(super) fn send_to_all(leader: Pid, members: &[Seen], signal: i32) {
    let _ = send_to_group(leader, signal);
    for member in members.iter().filter(|member| member.pid != leader) {
        let is_out = |seen: &Seen| seen.group != leader;
        if is_out(member) || tree::look(member.pid).as_ref().is_some_and(is_out) {
            let _ = send(member, signal);
        }
    }
}

/// kill(2) with any number: nix knows no real-time signals.
fn raw_kill(pid: Pid, signal: i32) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "nix knows no real-time signals")]
    // SAFETY: kill(2) takes two numbers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// How long a sweep waits for what has been killed to go.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Kills every descendant of this process until none is left, and returns those
/// that it may not kill or that don't go.
///
/// Whoever loses its parent becomes this process's child, if it is a subreaper,
/// so a later round finds it; nobody is left when there is no child to wait for.
pub(super) fn sweep() -> Vec<Member> {
    let since = Instant::now();
    let mut round = 0;
    loop {
        let mut refused = Vec::new();
        let mut killed = false;
        for seen in tree::walk(tree::children(getpid())).into_iter().filter(|seen| seen.alive) {
            match send(&seen, libc::SIGKILL) {
                Err(Errno::EPERM) => refused.push(seen.member()),
                Ok(()) | Err(_) => killed = true,
            }
        }
        if wait::reap_all() {
            return Vec::new();
        }
        let impatient = since.elapsed() > PATIENCE;
        if impatient || (!killed && !refused.is_empty()) {
            let left = tree::walk(tree::children(getpid()));
            return left.iter().filter(|seen| seen.alive).map(Seen::member).collect();
        }
        // The first rounds race a program that forks and exits; the later ones
        // wait for the system to take down what has been killed.
        round += 1;
        if round > 100 {
            std::thread::sleep(Duration::from_millis(1));
        } else {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn who_leaves_the_group_while_it_is_signalled_is_reached() {
        let mut group = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let mut left = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = |child: &std::process::Child| Pid::from_raw(child.id().cast_signed());
        let mut seen = tree::look(pid(&left)).unwrap();
        seen.group = pid(&group);
        send_to_all(pid(&group), &[seen], libc::SIGTERM);
        assert_eq!(group.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(left.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
}
