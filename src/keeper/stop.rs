//! How far the stop of a child has come, and which of its processes get the signal when.
//!
//! The process group gets the signal at once. A process outside of the group is left to its
//! parent as long as that lives, because the parent may stop its children in its own way, as
//! a nested ganger does. It gets the signal once it has lost that parent.

use std::collections::HashSet;

use nix::unistd::Pid;

use super::process_table::{Identity, ProcStat};
use super::protocol::{Descendant, Scope};

/// How far a child has been asked to stop.
pub(super) enum StopState {
    /// Nothing has been requested.
    NotRequested,
    /// A stop signal was requested.
    Requested(StopProgress),
    /// All of its processes are to be killed.
    Killing,
}

/// A stop signal on its way to all processes of a child. The group of the child is signalled
/// apart from this.
#[derive(Debug)]
pub(super) struct StopProgress {
    pub(super) signal: i32,
    /// Processes outside of the group that have got the signal.
    sent: HashSet<Identity>,
    /// Processes outside of the group that were left to their parent, as they were then.
    deferred: Vec<ProcStat>,
}

impl StopProgress {
    /// A signal that no process outside of the group has got yet.
    pub(super) fn new(signal: i32) -> Self {
        Self { signal, sent: HashSet::new(), deferred: Vec::new() }
    }

    /// Whether a process is left to its parent.
    pub(super) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Returns which of the live processes outside of the group are to get the signal now;
    /// each is returned only once. The others are deferred.
    pub(super) fn take_due(
        &mut self,
        outside: impl IntoIterator<Item = ProcStat>,
        scope: Scope,
        reapers: &[Pid],
    ) -> Vec<ProcStat> {
        let before = std::mem::take(&mut self.deferred);
        let mut due = Vec::new();
        for process in outside {
            if self.sent.contains(&process.identity()) {
                continue;
            }
            let earlier = before.iter().find(|earlier| earlier.identity() == process.identity());
            let is_due = match scope {
                Scope::All => true,
                Scope::Group => is_orphan(&process, earlier, reapers),
            };
            if is_due {
                self.sent.insert(process.identity());
                due.push(process);
            } else {
                self.deferred.push(earlier.cloned().unwrap_or(process));
            }
        }
        due
    }
}

/// Whether a process has lost the parent that would stop it: its parent is one of `reapers`,
/// or is another than `earlier`. The latter happens when it had entered a namespace and fell
/// to the first process there.
fn is_orphan(process: &ProcStat, earlier: Option<&ProcStat>, reapers: &[Pid]) -> bool {
    reapers.contains(&process.parent)
        || earlier.is_some_and(|earlier| earlier.parent != process.parent)
}

/// What is done about processes that belong to no child.
pub(super) enum OrphanPolicy {
    /// They are left alone: a daemon that a user started may be meant to run.
    Ignored,
    /// They are asked to stop.
    Stopping(OrphanStop),
}

/// The stop of the processes that belong to no child.
#[derive(Debug, Default)]
pub(super) struct OrphanStop {
    sent: HashSet<Identity>,
    /// The processes in the last report, if there was one.
    reported: Option<Vec<Descendant>>,
}

impl OrphanStop {
    /// Whether orphans were left at the last report.
    pub(super) fn has_orphans(&self) -> bool {
        self.reported.as_ref().is_some_and(|left| !left.is_empty())
    }

    /// Takes the live orphans. Returns which of them are to get the stop signal now, each only
    /// once, and all of them if the last report named others. An orphan below another one
    /// is left to that one.
    pub(super) fn update<'a>(
        &mut self,
        orphans: impl IntoIterator<Item = &'a ProcStat>,
        reapers: &[Pid],
    ) -> (Vec<&'a ProcStat>, Option<Vec<Descendant>>) {
        let (mut due, mut left) = (Vec::new(), Vec::new());
        for orphan in orphans {
            left.push(orphan.to_descendant());
            if reapers.contains(&orphan.parent) && self.sent.insert(orphan.identity()) {
                due.push(orphan);
            }
        }
        if self.reported.as_ref() == Some(&left) {
            return (due, None);
        }
        self.reported = Some(left.clone());
        (due, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::process_table::tests::process;

    const KEEPER: i32 = 1;
    const PARENT: i32 = 10;
    const NONE: [i32; 0] = [];

    fn take_due(stop: &mut StopProgress, outside: &[ProcStat], scope: Scope) -> Vec<i32> {
        let due = stop.take_due(outside.iter().cloned(), scope, &[Pid::from_raw(KEEPER)]);
        due.iter().map(|stat| stat.pid.as_raw()).collect()
    }

    #[test]
    fn orphan_gets_the_stop_signal_at_once_and_only_once() {
        let mut stop = StopProgress::new(15);
        let orphan = [process(11, KEEPER)];
        assert_eq!(take_due(&mut stop, &orphan, Scope::Group), [11]);
        assert_eq!(take_due(&mut stop, &orphan, Scope::Group), NONE);
        assert!(!stop.has_deferred());
    }

    #[test]
    fn process_with_a_parent_gets_the_stop_signal_when_the_parent_is_gone() {
        let mut stop = StopProgress::new(15);
        assert_eq!(take_due(&mut stop, &[process(11, PARENT)], Scope::Group), NONE);
        assert!(stop.has_deferred());
        assert_eq!(take_due(&mut stop, &[process(11, PARENT)], Scope::Group), NONE);
        assert_eq!(take_due(&mut stop, &[process(11, KEEPER)], Scope::Group), [11]);
        assert!(!stop.has_deferred());
    }

    #[test]
    fn process_that_changed_its_parent_inside_a_namespace_is_an_orphan() {
        let mut stop = StopProgress::new(15);
        take_due(&mut stop, &[process(11, PARENT)], Scope::Group);
        let namespace_init = 12;
        assert_eq!(take_due(&mut stop, &[process(11, namespace_init)], Scope::Group), [11]);
    }

    #[test]
    fn deferred_process_is_compared_with_its_first_parent() {
        let mut stop = StopProgress::new(15);
        take_due(&mut stop, &[process(11, PARENT)], Scope::Group);
        // Another process that has got the process id has no earlier parent.
        let reused = ProcStat { started: 2, ..process(11, 12) };
        assert_eq!(take_due(&mut stop, &[reused], Scope::Group), NONE);
    }

    #[test]
    fn process_that_exited_is_no_longer_deferred() {
        let mut stop = StopProgress::new(15);
        take_due(&mut stop, &[process(11, PARENT)], Scope::Group);
        assert_eq!(take_due(&mut stop, &[], Scope::Group), NONE);
        assert!(!stop.has_deferred());
    }

    #[test]
    fn scope_all_signals_processes_that_have_a_parent() {
        let mut stop = StopProgress::new(15);
        let outside = [process(11, PARENT), process(12, 11)];
        take_due(&mut stop, &outside, Scope::Group);
        assert_eq!(take_due(&mut stop, &outside, Scope::All), [11, 12]);
        assert!(!stop.has_deferred());
    }

    #[test]
    fn orphans_are_stopped_once_and_reported_when_they_change() {
        let mut stop = OrphanStop::default();
        let reapers = [Pid::from_raw(KEEPER)];
        let mut update = |orphans: &[ProcStat]| {
            let (due, report) = stop.update(orphans, &reapers);
            let due: Vec<i32> = due.iter().map(|stat| stat.pid.as_raw()).collect();
            let report = report.map(|left| left.iter().map(|it| it.pid).collect::<Vec<_>>());
            (due, report, stop.has_orphans())
        };
        assert_eq!(update(&[]), (vec![], Some(vec![]), false));
        let both = [process(11, KEEPER), process(12, 11)];
        assert_eq!(update(&both), (vec![11], Some(vec![11, 12]), true));
        assert_eq!(update(&both), (vec![], None, true));
        assert_eq!(update(&[process(12, KEEPER)]), (vec![12], Some(vec![12]), true));
        assert_eq!(update(&[]), (vec![], Some(vec![]), false));
    }
}
