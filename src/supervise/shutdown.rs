//! The shutdown of everything: processes that are slow to stop are named, orphans are asked to
//! stop and then killed, and at last whatever is left is swept.

use std::time::{Duration, Instant};

use super::action::Action;
use super::context::Context;
use super::process::Process;
use crate::keeper::protocol::Descendant;
use crate::notice::{Notice, StoppingProcess};

/// When a message first names the processes that are still up, and how often after that.
const REMIND_AFTER: Duration = Duration::from_secs(1);
const REMIND_EVERY: Duration = Duration::from_secs(5);

/// Everything is being stopped.
pub(super) struct Shutdown {
    /// When to name the processes that are still up.
    remind_at: Instant,
    /// When orphans are killed.
    kill_at: Instant,
    orphans: Orphans,
    sweep: Sweep,
}

/// The descendants that live and belong to no process.
enum Orphans {
    /// They are ignored until every process has been asked to stop.
    Ignored,
    /// They have been asked to stop; which they are is not known yet.
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
    /// A shutdown that begins now. Orphans have the `longest` grace period of all.
    pub(super) fn new(now: Instant, longest: Duration) -> Self {
        Self {
            remind_at: now + REMIND_AFTER,
            kill_at: now + longest,
            orphans: Orphans::Ignored,
            sweep: Sweep::NotYet,
        }
    }

    /// The user interrupted twice: orphans have no more time.
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
                // Nothing to do before it is known which they are.
                Orphans::Ignored | Orphans::Asked => None,
            },
            Sweep::Asked | Sweep::Done => None,
        }
    }

    pub(super) fn on_orphans(&mut self, left: Vec<Descendant>, cx: &mut Context<'_>) {
        let before = match &self.orphans {
            Orphans::Ignored | Orphans::Asked => &[],
            Orphans::Left(left) => left.as_slice(),
        };
        if left.iter().any(|orphan| !before.contains(orphan)) {
            cx.notify(Notice::StoppingOrphans { left: left.clone() });
        }
        self.orphans = Orphans::Left(left);
    }

    pub(super) fn on_swept(&mut self) {
        self.sweep = Sweep::Done;
    }

    /// Does what is due. True if orphans were killed because they did not stop.
    pub(super) fn reconcile(&mut self, processes: &[Process], cx: &mut Context<'_>) -> bool {
        let now = cx.now;
        if let Orphans::Ignored = self.orphans {
            self.orphans = Orphans::Asked;
            cx.act(Action::StopOrphans);
        }
        let up: Vec<&Process> =
            processes.iter().filter(|process| !process.state.is_down()).collect();
        if !up.is_empty() && self.remind_at <= now {
            self.remind_at = now + REMIND_EVERY;
            let next_kill = up.iter().filter_map(|process| process.state.kill_at()).min();
            let kill_in = next_kill.map(|at| at.saturating_duration_since(now));
            // The others have not been asked yet: their dependents stop first.
            let asked = up.iter().filter(|process| process.state.is_stopping());
            let processes: Vec<StoppingProcess> = asked.map(|process| process.stopping()).collect();
            if !processes.is_empty() {
                cx.notify(Notice::StillStopping { processes, kill_in });
            }
        }
        let Orphans::Left(orphans) = &self.orphans else { return false };
        let killing = !orphans.is_empty() && self.kill_at <= now;
        if !up.is_empty() || self.sweep != Sweep::NotYet || !(orphans.is_empty() || killing) {
            return false;
        }
        if killing {
            cx.notify(Notice::KillingOrphans { left: orphans.clone() });
        }
        self.sweep = Sweep::Asked;
        cx.act(Action::Sweep);
        killing
    }
}
