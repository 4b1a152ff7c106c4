//! Who descends from whom, as the system tells it.
//!
//! On Linux from `/proc` (proc(5)). A process that loses its parent becomes a
//! child of the nearest subreaper above it, so that everything alive is below
//! the keeper. On other systems only children that were forked here are known.

use nix::unistd::Pid;

use super::protocol::Member;

/// A process as it was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// Its process id.
    pub(super) pid: Pid,
    /// Its parent, as of the walk.
    pub(super) parent: Pid,
    /// Its process group.
    pub(super) group: Pid,
    /// Its session.
    pub(super) session: Pid,
    /// When it started; with the process id, this tells it from all others.
    pub(super) started: u64,
    /// Whether it still runs: a zombie doesn't.
    pub(super) alive: bool,
    /// Its name.
    pub(super) name: String,
}

impl Seen {
    /// The same, for a report.
    pub(super) fn member(&self) -> Member {
        Member { pid: self.pid.as_raw(), name: self.name.clone() }
    }
}

/// What tells a process from all that ever had or will have its number.
pub(super) fn identity(pid: Pid) -> Option<String> {
    look(pid).map(|seen| format!("{pid}-{}", seen.started))
}

/// All descendants of `roots`, and they themselves, parents before children.
pub(super) fn walk(roots: impl IntoIterator<Item = Pid>) -> Vec<Seen> {
    let mut found: Vec<Seen> = roots.into_iter().filter_map(look).collect();
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next].pid).into_iter().filter_map(look));
        next += 1;
    }
    found
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{Pid, Seen};

    /// The children of all threads of a process.
    ///
    /// Exact for the caller's own children: no child leaves the list before the
    /// caller has waited for it. Others' may come and go meanwhile, which is why
    /// nothing is taken for the last look but a wait that says ECHILD.
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

    /// A process, if there is one of that number.
    pub(in crate::keeper) fn look(pid: Pid) -> Option<Seen> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        parse(pid, &String::from_utf8_lossy(&stat))
    }

    /// `/proc/PID/stat`: the name stands in parentheses and may hold anything.
    fn parse(pid: Pid, stat: &str) -> Option<Seen> {
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok().map(Pid::from_raw);
        Some(Seen {
            pid,
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            started: fields.get(19)?.parse().ok()?,
            alive: !matches!(*fields.first()?, "Z" | "X" | "x"),
            name,
        })
    }

    /// Whether a process waits for the system, and can't be interrupted.
    pub(in crate::keeper) fn is_held_up(pid: Pid) -> bool {
        is_in_state(pid, 'D')
    }

    /// Whether a process was stopped by a signal.
    pub(in crate::keeper) fn is_suspended(pid: Pid) -> bool {
        is_in_state(pid, 'T')
    }

    fn is_in_state(pid: Pid, state: char) -> bool {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(state))
    }

    /// The value of a variable in the environment that a process was started
    /// with, if it may be read.
    pub(in crate::keeper) fn variable(pid: Pid, name: &str) -> Option<String> {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut pairs = environ.split(|&byte| byte == 0);
        let value = pairs.find_map(|pair| {
            pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
        })?;
        String::from_utf8(value.to_vec()).ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_name_may_hold_anything() {
            let stat = "7 (a) Z 1 (b) S 2 3 4 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0";
            let seen = parse(Pid::from_raw(7), stat).unwrap();
            assert_eq!(seen.name, "a) Z 1 (b");
            assert_eq!(
                (seen.parent.as_raw(), seen.group.as_raw(), seen.session.as_raw()),
                (2, 3, 4)
            );
            assert_eq!((seen.started, seen.alive), (99, true));
        }

        #[test]
        fn knows_this_process() {
            let me = nix::unistd::getpid();
            let seen = look(me).unwrap();
            assert_eq!(seen.parent, nix::unistd::getppid());
            assert!(seen.alive && look(Pid::from_raw(i32::MAX)).is_none());
            assert_eq!(variable(me, "PATH"), std::env::var("PATH").ok());
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{children, is_held_up, is_suspended, look, variable};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Pid, Seen};

    pub(in crate::keeper) fn children(_pid: Pid) -> Vec<Pid> {
        Vec::new()
    }

    pub(in crate::keeper) fn look(_pid: Pid) -> Option<Seen> {
        None
    }

    pub(in crate::keeper) fn is_held_up(_pid: Pid) -> bool {
        false
    }

    pub(in crate::keeper) fn is_suspended(_pid: Pid) -> bool {
        false
    }

    pub(in crate::keeper) fn variable(_pid: Pid, _name: &str) -> Option<String> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{children, is_held_up, is_suspended, look, variable};
