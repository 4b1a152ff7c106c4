//! Orphans of an earlier session: ganger and its keeper were killed at one instant, and
//! processes with the marker of that keeper in their environment are left.
//!
//! Reading the environment of every process takes longer than everything else at the start.
//! So each ganger creates a session marker, an empty file that names ganger and its keeper,
//! and removes it when it exits. Only the marker of a dead session is a reason to search.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::{Pid, getpid};

use super::COMM;
use super::kill::{SWEEP_TIMEOUT, send};
use super::process_table::{self, Environment, ProcStat};
use super::protocol::{Descendant, SESSION_VAR};

/// Whether the process with this identity runs.
fn is_alive(identity: &str) -> bool {
    let pid = identity.split('-').next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    pid.and_then(process_table::stat)
        .is_some_and(|seen| seen.alive && format!("{}-{}", seen.pid, seen.started) == identity)
}

/// The file that marks the session of a ganger and its keeper. It is removed when this is
/// dropped.
#[derive(Debug)]
pub struct SessionMarker(PathBuf);

impl SessionMarker {
    /// Creates the marker of this process and its keeper in `folder`.
    pub fn create(folder: &Path, keeper: Pid) -> io::Result<Self> {
        let gone = || io::Error::other("the keeper is gone");
        let (us, keeper) =
            (process_table::identity_text(getpid()), process_table::identity_text(keeper));
        let (us, keeper) = (us.ok_or_else(gone)?, keeper.ok_or_else(gone)?);
        let here = process_table::pid_namespace(getpid()).ok_or_else(gone)?;
        let path = folder.join(format!("{here}_{us}_{keeper}"));
        File::create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for SessionMarker {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Kills the orphans of all dead sessions whose markers are in `folder`, and returns what it
/// found. Also removes the markers.
#[must_use]
pub fn kill_stale_orphans(folder: &Path) -> Vec<Descendant> {
    let Some(here) = process_table::pid_namespace(getpid()) else { return Vec::new() };
    let mut dead = Vec::new();
    let mut markers = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let [namespace, ganger, keeper] = name.split('_').collect::<Vec<_>>()[..]
            && namespace == here.to_string()
            && !is_alive(ganger)
            && !is_alive(keeper)
        {
            dead.push(format!("{here}_{keeper}"));
            markers.push(SessionMarker(entry.path()));
        }
    }
    if dead.is_empty() {
        return Vec::new();
    }
    kill_orphans_of(&dead)
}

/// Kills the orphans of these dead sessions, and returns what it found.
pub(super) fn kill_orphans_of(sessions: &[String]) -> Vec<Descendant> {
    let since = Instant::now();
    let mut found: Vec<Descendant> = Vec::new();
    loop {
        let left = orphans(&find_marked(sessions));
        if left.is_empty() || since.elapsed() > SWEEP_TIMEOUT {
            return found;
        }
        for stat in left {
            let _ = send(&stat, libc::SIGKILL);
            let member = stat.to_descendant();
            if !found.contains(&member) {
                found.push(member);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Sends a signal, or with 0 none, to these processes, every process with the marker of this session,
/// and all that descend from one. Returns whether there was one that may be signalled.
pub(super) fn signal_session(session: &str, roots: &[Pid], signal: i32) -> bool {
    let marked = marked_pids(&[session.to_owned()]);
    let left = process_table::descendants(roots.iter().copied().chain(marked));
    let mut found = false;
    for stat in left.iter().filter(|stat| stat.alive) {
        // What may not be signalled belongs to another user.
        found |= send(stat, signal) != Err(Errno::EPERM);
    }
    found
}

/// Finds the live processes that have the marker of one of these sessions.
fn find_marked(sessions: &[String]) -> Vec<MarkedProcess> {
    let found = marked_pids(sessions).into_iter().filter_map(process_table::stat);
    found
        .filter(|stat| stat.alive)
        .map(|stat| MarkedProcess {
            orphaned: is_orphan(&stat),
            has_keeper: has_keeper(stat.pid),
            stat,
        })
        .collect()
}

/// The processes that have the marker of one of these sessions. The ancestors of this process
/// are left out: ganger may have been started from a shell that an earlier session left.
fn marked_pids(sessions: &[String]) -> Vec<Pid> {
    let parent = |pid: &Pid| process_table::stat(*pid).map(|stat| stat.parent);
    let ours: Vec<Pid> = std::iter::successors(Some(getpid()), parent).collect();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_marker = |pid: &Pid| {
        let Environment::With(marker) = process_table::read_variable(*pid, SESSION_VAR) else {
            return false;
        };
        marker.split_once('/').is_some_and(|(session, _)| sessions.iter().any(|it| it == session))
    };
    let others = pids.map(Pid::from_raw).filter(|pid| !ours.contains(pid));
    others.filter(has_marker).collect()
}

/// A process with the marker of a dead session.
struct MarkedProcess {
    stat: ProcStat,
    /// Whether the process that started it is gone.
    orphaned: bool,
    /// Whether it is a ganger itself, which stops its own processes.
    has_keeper: bool,
}

/// Whether the parent of a process is not the one that started it. A process inherits its
/// session or starts a new one, so a process in the session of its parent descends from it.
fn is_orphan(stat: &ProcStat) -> bool {
    process_table::stat(stat.parent).is_none_or(|parent| parent.session != stat.session)
}

fn has_keeper(pid: Pid) -> bool {
    let mut children = process_table::children(pid).into_iter().filter_map(process_table::stat);
    children.any(|stat| stat.alive && stat.name == COMM)
}

/// The processes to kill: those that lost the process that started them. The marker alone is
/// not enough, because it is inherited: by a shell on a terminal, by the tmux server in which
/// the shell runs, by a nested ganger. These are in use, and so are all processes above and
/// below them.
fn orphans(marked: &[MarkedProcess]) -> Vec<ProcStat> {
    let at: HashMap<Pid, usize> =
        marked.iter().enumerate().map(|(index, it)| (it.stat.pid, index)).collect();
    let parent = |index: usize| at.get(&marked[index].stat.parent).copied();
    let mut in_use = vec![false; marked.len()];
    for (index, process) in marked.iter().enumerate() {
        let started_by_other = parent(index).is_none() && !process.orphaned;
        if process.stat.has_terminal || process.has_keeper || started_by_other {
            // A cycle is possible only if a process id was given out again meanwhile.
            let line = std::iter::successors(Some(index), |index| parent(*index));
            line.take(marked.len()).for_each(|index| in_use[index] = true);
        }
    }
    let is_below_used = |index: usize| {
        let mut line = std::iter::successors(Some(index), |index| parent(*index));
        line.by_ref().take(marked.len()).any(|index| in_use[index])
    };
    let left = (0..marked.len()).filter(|index| !is_below_used(*index));
    left.map(|index| marked[index].stat.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> MarkedProcess {
        let stat = process_table::tests::process(pid, parent);
        MarkedProcess { stat, orphaned: parent == 1, has_keeper: false }
    }

    fn orphan_pids(marked: &[MarkedProcess]) -> Vec<i32> {
        orphans(marked).iter().map(|stat| stat.pid.as_raw()).collect()
    }

    #[test]
    fn orphans_and_their_descendants_are_found() {
        assert_eq!(orphan_pids(&[process(10, 1), process(11, 10), process(12, 11)]), [10, 11, 12]);
    }

    #[test]
    fn child_of_a_live_process_is_not_an_orphan() {
        assert_eq!(orphan_pids(&[process(10, 9), process(11, 10), process(20, 1)]), [20]);
    }

    #[test]
    fn processes_above_and_below_a_terminal_are_in_use() {
        let mut shell = process(11, 10);
        shell.stat.has_terminal = true;
        // A tmux server, the shell in it, what the shell runs; and an orphan.
        assert_eq!(orphan_pids(&[process(10, 1), shell, process(12, 11), process(20, 1)]), [20]);
    }

    #[test]
    fn nested_ganger_is_in_use() {
        let mut ganger = process(11, 10);
        ganger.has_keeper = true;
        assert_eq!(orphan_pids(&[process(10, 1), ganger, process(20, 1)]), [20]);
    }
}
