//! The end of everything: who is still up is named, those who belong to no
//! process are asked and then killed, and at last whatever is left is swept.

use std::time::{Duration, Instant};

use super::process::{Action, Process};
use crate::keeper::protocol::Descendant;
use crate::notice::Notice;

/// When it is first said who is still up, and how often after that.
const REMIND_AFTER: Duration = Duration::from_secs(1);
const REMIND_EVERY: Duration = Duration::from_secs(5);

/// Everything is being stopped.
pub(super) struct Shutdown {
    /// When to say who is still up.
    remind_at: Instant,
    /// When strays are killed.
    kill_at: Instant,
    orphans: Orphans,
    sweep: Sweep,
}

/// Those who live and belong to no process.
enum Orphans {
    /// They are let be until every process has been asked to end.
    Ignored,
    /// They have been asked to end, whoever they are.
    Asked,
    /// These are left.
    Left(Vec<Descendant>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sweep {
    NotYet,
    Asked,
    Done,
}

impl Shutdown {
    /// A shutdown that begins now; strays have the `longest` grace of all.
    pub(super) fn new(now: Instant, longest: Duration) -> Self {
        Self {
            remind_at: now + REMIND_AFTER,
            kill_at: now + longest,
            orphans: Orphans::Ignored,
            sweep: Sweep::NotYet,
        }
    }

    /// The user would not wait.
    pub(super) fn force_stop(&mut self, now: Instant) {
        self.kill_at = now;
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.sweep == Sweep::Done
    }

    /// When [`Self::reconcile`] has something to do though nothing happens.
    pub(super) fn deadline(&self, all_down: bool) -> Option<Instant> {
        match self.sweep {
            Sweep::NotYet if !all_down => Some(self.remind_at),
            Sweep::NotYet => match &self.orphans {
                Orphans::Left(_) => Some(self.kill_at),
                // Nothing to do before it is known who they are.
                Orphans::Ignored | Orphans::Asked => None,
            },
            Sweep::Asked | Sweep::Done => None,
        }
    }

    pub(super) fn on_orphans(&mut self, left: Vec<Descendant>, actions: &mut Vec<Action>) {
        let before = match &self.orphans {
            Orphans::Ignored | Orphans::Asked => &[],
            Orphans::Left(left) => left.as_slice(),
        };
        if left.iter().any(|orphan| !before.contains(orphan)) {
            actions.push(Action::Notify(Notice::StoppingOrphans { left: left.clone() }));
        }
        self.orphans = Orphans::Left(left);
    }

    pub(super) fn on_swept(&mut self) {
        self.sweep = Sweep::Done;
    }

    /// Does what the time has come for. True if strays were killed because they
    /// did not go.
    pub(super) fn reconcile(
        &mut self,
        processes: &[Process],
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        if let Orphans::Ignored = self.orphans {
            self.orphans = Orphans::Asked;
            actions.push(Action::StopOrphans);
        }
        let up: Vec<&Process> =
            processes.iter().filter(|process| !process.state.is_down()).collect();
        if !up.is_empty() && self.remind_at <= now {
            self.remind_at = now + REMIND_EVERY;
            let next_kill = up.iter().filter_map(|process| process.state.kill_at()).min();
            let kill_in = next_kill.map(|at| at.saturating_duration_since(now));
            // The others have not been asked yet: their turn is after these.
            let asked = up.iter().filter(|process| process.state.is_going());
            let names: Vec<String> = asked.map(|process| process.known_as()).collect();
            if !names.is_empty() {
                actions.push(Action::Notify(Notice::StillStopping { names, kill_in }));
            }
        }
        let Orphans::Left(orphans) = &self.orphans else { return false };
        let killing = !orphans.is_empty() && self.kill_at <= now;
        if !up.is_empty() || self.sweep != Sweep::NotYet || !(orphans.is_empty() || killing) {
            return false;
        }
        if killing {
            actions.push(Action::Notify(Notice::KillingOrphans { left: orphans.clone() }));
        }
        self.sweep = Sweep::Asked;
        actions.push(Action::Sweep);
        killing
    }
}
