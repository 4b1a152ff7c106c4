//! Ending what must not survive.

use std::collections::HashSet;
use std::fs::File;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, getpid, getsid};

use super::process_table::{Environment, Identity, ProcStat, children, descendants, read_variable};
use super::protocol::{Descendant, SESSION_VAR};
use super::{process_table, wait};

/// Sends a signal to a process that was seen, and to no other that may have got
/// its process id since.
#[cfg(target_os = "linux")]
pub(super) fn send(to: &ProcStat, signal: i32) -> nix::Result<()> {
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
    if process_table::stat(to.pid).is_none_or(|now| now.started != to.started) {
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
pub(super) fn send(to: &ProcStat, signal: i32) -> nix::Result<()> {
    raw_kill(to.pid, signal)
}

/// Sends a signal to the group that a child leads.
///
/// A leader stays a zombie until its group is empty, so that neither its process
/// id nor its group's can be given out again.
pub(super) fn send_to_group(leader: Pid, signal: i32) -> nix::Result<()> {
    raw_kill(Pid::from_raw(-leader.as_raw()), signal)
}

/// Sends a signal to a child of this process, which has not been waited for.
pub(super) fn send_to_child(child: Pid, signal: i32) -> nix::Result<()> {
    raw_kill(child, signal)
}

/// Sends a signal to the group that a child leads, and to those of `members`
/// which are not in it.
///
/// A process that left the group since it was seen may have missed the signal,
/// and gets it, at the worst a second time.
pub(super) fn send_to_all(leader: Pid, members: &[ProcStat], signal: i32) {
    let _ = send_to_group(leader, signal);
    for member in members.iter().filter(|member| member.pid != leader) {
        let is_outside = |stat: &ProcStat| stat.group != leader;
        if is_outside(member) || process_table::stat(member.pid).as_ref().is_some_and(is_outside) {
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
pub(super) const SWEEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Descriptors that are held open, so that a sweep can have them: it must not find
/// nothing for the reason that it can read nothing.
pub(super) fn reserve_descriptors() -> Vec<File> {
    (0..8).filter_map(|_| File::open("/dev/null").ok()).collect()
}

/// Descendants of this process that the keeper did not start: what was there
/// before (the jobs of a shell that became ganger, say), and what comes of it.
#[derive(Debug, Default)]
pub(super) struct ExistingDescendants {
    processes: HashSet<Identity>,
    /// A session is inherited or new, never joined. So a process in one of these,
    /// which are older than the keeper, does not descend from the keeper.
    sessions: HashSet<Pid>,
    /// Of the keeper, as the marker in the environment of its descendants has it.
    pub(super) session: String,
}

impl ExistingDescendants {
    /// All that descends from this process now, before it has a keeper.
    pub(super) fn before_keeper() -> Self {
        let found = descendants(children(getpid()));
        let own = getsid(None).ok();
        Self {
            sessions: found.iter().map(|stat| stat.session).chain(own).collect(),
            processes: found.iter().map(ProcStat::identity).collect(),
            session: String::new(),
        }
    }

    /// Tells the keeper's descendants by the marker in their environment, too.
    pub(super) fn set_keeper(&mut self, keeper: Pid) {
        self.session = process_table::keeper_session(keeper).unwrap_or_default();
    }

    /// What of a walk, parents before children, descends from the keeper.
    fn exclude_from(&self, walk: Vec<ProcStat>) -> Vec<ProcStat> {
        let mut excluded = HashSet::new();
        let descends_from_keeper = |stat: &ProcStat| {
            let is_existing = self.processes.contains(&stat.identity())
                || self.sessions.contains(&stat.session)
                || excluded.contains(&stat.parent)
                || self.is_orphan_of_existing(stat);
            if is_existing {
                excluded.insert(stat.pid);
            }
            !is_existing
        };
        walk.into_iter().filter(descends_from_keeper).collect()
    }

    /// Whether an orphan in a session of its own comes from a bystander: it has an
    /// environment, and the marker is not in it. Without existing at the start
    /// there is nothing else that it could come from than the keeper.
    fn is_orphan_of_existing(&self, stat: &ProcStat) -> bool {
        if self.processes.is_empty() || stat.parent != getpid() {
            return false;
        }
        match read_variable(stat.pid, SESSION_VAR) {
            Environment::Unknown | Environment::Empty => false,
            Environment::Without => true,
            Environment::With(marker) => {
                marker.split_once('/').is_none_or(|(session, _)| session != self.session)
            }
        }
    }
}

/// Kills every descendant of this process but `existing` until none is left, and
/// returns those that it may not kill or that don't go.
///
/// A process that loses its parent becomes this process's child, if it is a
/// subreaper, so a later round finds it. The end is certain when there is no child
/// to wait for, or none but existing.
pub(super) fn kill_all_descendants(existing: &ExistingDescendants) -> Vec<Descendant> {
    let since = Instant::now();
    let mut round = 0;
    let left = || existing.exclude_from(descendants(children(getpid())));
    loop {
        let mut refused = Vec::new();
        let mut killed = false;
        for stat in left().into_iter().filter(|stat| stat.alive) {
            match send(&stat, libc::SIGKILL) {
                Err(Errno::EPERM) => refused.push(stat.to_descendant()),
                Ok(()) | Err(_) => killed = true,
            }
        }
        if wait::reap_all() {
            return Vec::new();
        }
        // What changes parents during one look is there in the next.
        if !killed && refused.is_empty() && left().is_empty() && left().is_empty() {
            return Vec::new();
        }
        if since.elapsed() > SWEEP_TIMEOUT || (!killed && !refused.is_empty()) {
            return left().iter().filter(|stat| stat.alive).map(ProcStat::to_descendant).collect();
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
    #[cfg(target_os = "linux")]
    fn a_process_that_leaves_the_group_while_it_is_signalled_gets_the_signal() {
        let mut group = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let mut left = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = |child: &std::process::Child| Pid::from_raw(child.id().cast_signed());
        let mut seen = process_table::stat(pid(&left)).unwrap();
        seen.group = pid(&group);
        send_to_all(pid(&group), &[seen], libc::SIGTERM);
        assert_eq!(group.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(left.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    fn stat(pid: i32, parent: i32, session: i32) -> ProcStat {
        let pids = [pid, parent, session].map(Pid::from_raw);
        let [pid, parent, session] = pids;
        let (group, has_terminal, alive) = (session, false, true);
        ProcStat { pid, parent, group, session, has_terminal, started: 1, alive, name: "x".into() }
    }

    #[test]
    fn bystanders_are_told_by_identity_session_and_parent() {
        let existing = ExistingDescendants {
            processes: HashSet::from([(Pid::from_raw(10), 1)]),
            sessions: HashSet::from([Pid::from_raw(7)]),
            session: "1_5-1".into(),
        };
        let walk = vec![
            stat(5, 1, 5),   // the keeper
            stat(10, 1, 10), // was there before
            stat(11, 10, 11),
            stat(12, 1, 7), // in a session that was there before
            stat(20, 5, 20),
            stat(21, 20, 21),
        ];
        let left = existing.exclude_from(walk);
        let pids: Vec<i32> = left.iter().map(|stat| stat.pid.as_raw()).collect();
        assert_eq!(pids, [5, 20, 21]);
    }
}
