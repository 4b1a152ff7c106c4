//! Sending signals, and killing every process that must not survive.

use std::collections::HashSet;
use std::fs::File;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, getpid, getsid};

use super::process_table::{Environment, Identity, ProcStat, children, descendants, read_variable};
use super::protocol::{Descendant, SESSION_VAR};
use super::{process_table, wait};

/// Sends a signal to a process that was seen in the process table, and never to another one
/// that has got its process id since.
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
/// A leader stays a zombie until its group is empty, so that its process id and the id of the
/// group can't be given out again.
pub(super) fn send_to_group(leader: Pid, signal: i32) -> nix::Result<()> {
    raw_kill(Pid::from_raw(-leader.as_raw()), signal)
}

/// Sends a signal to a child of this process that has not been reaped.
pub(super) fn send_to_child(child: Pid, signal: i32) -> nix::Result<()> {
    raw_kill(child, signal)
}

/// Sends a signal to the group that a child leads, and to the members outside of it.
///
/// A process that has left the group since it was seen may have missed the signal. It gets it
/// too, possibly for the second time.
pub(super) fn send_to_all(leader: Pid, members: &[ProcStat], signal: i32) {
    let _ = send_to_group(leader, signal);
    for member in members.iter().filter(|member| member.pid != leader) {
        let is_outside = |stat: &ProcStat| stat.group != leader;
        if is_outside(member) || process_table::stat(member.pid).as_ref().is_some_and(is_outside) {
            let _ = send(member, signal);
        }
    }
}

/// kill(2) with any signal number: nix refuses real-time signals.
fn raw_kill(pid: Pid, signal: i32) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "nix refuses real-time signals")]
    // SAFETY: kill(2) takes two numbers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// How long a sweep waits until all killed processes have exited.
pub(super) const SWEEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Reserves descriptors for a sweep, which reads `/proc`. Without a free descriptor it would
/// find no process and take that for success.
pub(super) fn reserve_descriptors() -> Vec<File> {
    let null = File::open("/dev/null").ok();
    let copies = (1..8).filter_map(|_| null.as_ref()?.try_clone().ok()).collect::<Vec<_>>();
    null.into_iter().chain(copies).collect()
}

/// The descendants that this process had before its keeper was started, such as the jobs of a
/// shell that executed ganger. They and their descendants are never killed.
#[derive(Debug, Default)]
pub(super) struct ExistingDescendants {
    processes: HashSet<Identity>,
    /// Sessions that are older than the keeper. A process inherits its session or starts a new
    /// one, so a process in one of these does not descend from the keeper.
    sessions: HashSet<Pid>,
    /// Identifies the keeper in the markers of its descendants.
    pub(super) session: String,
}

impl ExistingDescendants {
    /// All current descendants of this process, which has no keeper yet.
    pub(super) fn before_keeper() -> Self {
        let found = descendants(children(getpid()));
        let own = getsid(None).ok();
        Self {
            sessions: found.iter().map(|stat| stat.session).chain(own).collect(),
            processes: found.iter().map(ProcStat::identity).collect(),
            session: String::new(),
        }
    }

    /// All current descendants of this process, which is about to start a command with this
    /// session in its marker. The command stays in the session of this process.
    pub(super) fn before_command(session: String) -> Self {
        let found = descendants(children(getpid()));
        let own = getsid(None).ok();
        let sessions = found.iter().map(|stat| stat.session).filter(|it| Some(*it) != own);
        Self {
            sessions: sessions.collect(),
            processes: found.iter().map(ProcStat::identity).collect(),
            session,
        }
    }

    /// Recognizes descendants of this keeper by their marker, too.
    pub(super) fn set_keeper(&mut self, keeper: Pid) {
        self.session = process_table::keeper_session(keeper).unwrap_or_default();
    }

    /// Returns the processes of a walk, parents before children, that descend from the keeper.
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

    /// Whether an orphan in a session of its own descends from an existing process: it has an
    /// environment, and the keeper's marker is not in it. If there were no existing processes,
    /// every orphan descends from the keeper.
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

/// Kills every descendant of this process except `existing` until none is left. Returns those
/// that it may not kill or that do not exit.
///
/// A process that loses its parent becomes a child of this process, which is a subreaper, so a
/// later round finds it. No descendant is left when this process has no child, or only existing
/// ones.
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
        // A process whose parent changes during the first walk is found by the second.
        if !killed && refused.is_empty() && left().is_empty() && left().is_empty() {
            return Vec::new();
        }
        if since.elapsed() > SWEEP_TIMEOUT || (!killed && !refused.is_empty()) {
            return left().iter().filter(|stat| stat.alive).map(ProcStat::to_descendant).collect();
        }
        // The first rounds must be faster than a program that forks and exits. The later ones
        // wait until the kernel has ended the killed processes.
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
    use crate::keeper::process_table::tests::process;

    #[test]
    #[cfg(target_os = "linux")]
    fn process_that_leaves_its_group_while_it_is_signalled_gets_the_signal() {
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
        let session = Pid::from_raw(session);
        ProcStat { group: session, session, ..process(pid, parent) }
    }

    #[test]
    fn existing_descendants_are_recognized_by_identity_session_and_parent() {
        let existing = ExistingDescendants {
            processes: HashSet::from([(Pid::from_raw(10), 1)]),
            sessions: HashSet::from([Pid::from_raw(7)]),
            session: "1_5-1".into(),
        };
        let walk = vec![
            stat(5, 1, 5),   // the keeper
            stat(10, 1, 10), // existed before the keeper
            stat(11, 10, 11),
            stat(12, 1, 7), // in a session older than the keeper
            stat(20, 5, 20),
            stat(21, 20, 21),
        ];
        let left = existing.exclude_from(walk);
        let pids: Vec<i32> = left.iter().map(|stat| stat.pid.as_raw()).collect();
        assert_eq!(pids, [5, 20, 21]);
    }
}
