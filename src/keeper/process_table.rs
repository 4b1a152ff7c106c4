//! The processes of the system, and which descends from which.
//!
//! On Linux this is read from `/proc` (proc(5)). A process that loses its parent becomes a
//! child of the nearest subreaper above it, so that every live descendant stays below the
//! keeper. On other systems only the children that the keeper forked are known.

use std::collections::HashSet;

use nix::unistd::Pid;

use super::protocol::Descendant;

/// A process as `/proc/PID/stat` showed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ProcStat {
    /// Its process id.
    pub(super) pid: Pid,
    /// Its parent at that moment.
    pub(super) parent: Pid,
    /// Its process group.
    pub(super) group: Pid,
    /// Its session.
    pub(super) session: Pid,
    /// Whether it has a controlling terminal.
    pub(super) has_terminal: bool,
    /// When it started, in clock ticks since boot. Together with the process id this identifies
    /// a process for good.
    pub(super) started: u64,
    /// Whether at least one of its threads runs. A process whose main thread has ended while
    /// others run looks like a zombie and is alive.
    pub(super) alive: bool,
    /// Its command name (comm).
    pub(super) name: String,
}

/// Process id and start time: a process id alone may be given out again.
pub(super) type Identity = (Pid, u64);

impl ProcStat {
    /// The process as a report names it.
    pub(super) fn to_descendant(&self) -> Descendant {
        Descendant { pid: self.pid.as_raw(), name: self.name.clone() }
    }

    pub(super) fn identity(&self) -> Identity {
        (self.pid, self.started)
    }
}

/// The identity of a process as text, for markers.
pub(super) fn identity_text(pid: Pid) -> Option<String> {
    stat(pid).map(|stat| format!("{pid}-{}", stat.started))
}

/// Identifies a keeper among all that ever ran on this system: the first part of the markers
/// of its descendants.
pub(super) fn keeper_session(keeper: Pid) -> Option<String> {
    Some(format!("{}_{}", pid_namespace(keeper)?, identity_text(keeper)?))
}

/// `roots` and all of their descendants, each once: parents before children, unless a root descends
/// from a later one.
pub(super) fn descendants(roots: impl IntoIterator<Item = Pid>) -> Vec<ProcStat> {
    let (mut seen, mut found, mut next) = (HashSet::new(), Vec::new(), 0);
    // A process id is looked up at once: its process may exit, and another one get the number.
    let mut add = |pids: Vec<Pid>, found: &mut Vec<ProcStat>| {
        found.extend(pids.into_iter().filter(|pid| seen.insert(*pid)).filter_map(stat));
    };
    add(roots.into_iter().collect(), &mut found);
    while next < found.len() {
        add(children(found[next].pid), &mut found);
        next += 1;
    }
    found
}

/// The value of one variable in the environment that a process was started with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Environment {
    /// The environment can't be read, or there is no such process.
    Unknown,
    /// The environment has no variable at all.
    Empty,
    /// The environment has other variables only.
    Without,
    /// The variable has this value.
    With(String),
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Pid, ProcStat};

    /// A live process that leads its own group and session.
    pub(in crate::keeper) fn process(pid: i32, parent: i32) -> ProcStat {
        let [pid, parent] = [pid, parent].map(Pid::from_raw);
        ProcStat {
            pid,
            parent,
            group: pid,
            session: pid,
            has_terminal: false,
            started: 1,
            alive: true,
            name: "x".into(),
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;

    use procfs::FromRead;
    use procfs::process::Stat;

    use super::{Environment, Pid, ProcStat};

    /// The children of all threads of a process.
    ///
    /// The list is exact for the caller's own children, because a child stays in it until the
    /// caller has reaped it. Children of other processes may come and go meanwhile.
    pub(in crate::keeper) fn children(pid: Pid) -> Vec<Pid> {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
        let lists = threads
            .flatten()
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        let mut found = Vec::new();
        for list in lists {
            let pids = list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
            found.extend(pids.map(Pid::from_raw));
        }
        found
    }

    /// The process that has this process id now.
    pub(in crate::keeper) fn stat(pid: Pid) -> Option<ProcStat> {
        let stat = read(Path::new(&format!("/proc/{pid}/stat")))?;
        let alive = !is_dead(&stat) || (stat.num_threads > 1 && has_live_thread(pid));
        Some(ProcStat {
            pid,
            parent: Pid::from_raw(stat.ppid),
            group: Pid::from_raw(stat.pgrp),
            session: Pid::from_raw(stat.session),
            has_terminal: stat.tty_nr != 0,
            started: stat.starttime,
            alive,
            name: stat.comm,
        })
    }

    fn read(path: &Path) -> Option<Stat> {
        Stat::from_read(std::fs::File::open(path).ok()?).ok()
    }

    fn is_dead(stat: &Stat) -> bool {
        matches!(stat.state, 'Z' | 'X' | 'x')
    }

    fn has_live_thread(pid: Pid) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        let mut stats = threads.flatten().filter_map(|thread| read(&thread.path().join("stat")));
        stats.any(|stat| !is_dead(&stat))
    }

    /// Whether `/proc` can be read now: it takes free descriptors.
    pub(in crate::keeper) fn can_read_proc() -> bool {
        let files = ["/proc/self/stat", "/proc/self/task"].map(std::fs::File::open);
        files.iter().all(Result::is_ok)
    }

    /// The variable `name` in the environment that a process was started with.
    pub(in crate::keeper) fn read_variable(pid: Pid, name: &str) -> Environment {
        // The environment can't be read through a main thread that has ended, but through others.
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        let environs = threads
            .flatten()
            .filter_map(|thread| std::fs::read(thread.path().join("environ")).ok());
        let mut found = Environment::Unknown;
        for environ in environs {
            if environ.is_empty() {
                found = Environment::Empty;
                continue;
            }
            let mut pairs = environ.split(|byte| *byte == 0);
            let value = pairs.find_map(|pair| {
                pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            });
            return value.map_or(Environment::Without, |value| {
                Environment::With(String::from_utf8_lossy(value).into_owned())
            });
        }
        found
    }

    /// The pid namespace of a process (`pid_namespaces(7)`). Process ids are valid only within
    /// one.
    pub(in crate::keeper) fn pid_namespace(pid: Pid) -> Option<u64> {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
        let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn stat_and_environment_of_this_process_are_read() {
            let own = nix::unistd::getpid();
            let found = stat(own).unwrap();
            assert_eq!(found.parent, nix::unistd::getppid());
            assert!(found.alive && stat(Pid::from_raw(i32::MAX)).is_none());
            let path = std::env::var("PATH").unwrap();
            assert_eq!(read_variable(own, "PATH"), Environment::With(path));
            assert_eq!(read_variable(own, "GANGER_NO_SUCH_VARIABLE"), Environment::Without);
        }

        #[test]
        fn zombie_is_not_alive() {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            let pid = Pid::from_raw(child.id().cast_signed());
            while stat(pid).is_some_and(|stat| stat.alive) {
                std::thread::yield_now();
            }
            assert!(stat(pid).is_some_and(|stat| !stat.alive));
            child.wait().unwrap();
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{can_read_proc, children, pid_namespace, read_variable, stat};

#[cfg(not(target_os = "linux"))]
mod other_systems {
    use super::{Environment, Pid, ProcStat};

    pub(in crate::keeper) fn children(_pid: Pid) -> Vec<Pid> {
        Vec::new()
    }

    pub(in crate::keeper) fn stat(_pid: Pid) -> Option<ProcStat> {
        None
    }

    pub(in crate::keeper) fn can_read_proc() -> bool {
        true
    }

    pub(in crate::keeper) fn read_variable(_pid: Pid, _name: &str) -> Environment {
        Environment::Unknown
    }

    pub(in crate::keeper) fn pid_namespace(_pid: Pid) -> Option<u64> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use other_systems::{can_read_proc, children, pid_namespace, read_variable, stat};
