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
    strays: Strays,
    sweep: Sweep,
}

/// Those who live and belong to no process.
enum Strays {
    /// They are let be until every process has been asked to end.
    LetBe,
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
            strays: Strays::LetBe,
            sweep: Sweep::NotYet,
        }
    }

    /// The user would not wait.
    pub(super) fn hurry(&mut self, now: Instant) {
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
            Sweep::NotYet => match &self.strays {
                Strays::Left(_) => Some(self.kill_at),
                // Nothing to do before it is known who they are.
                Strays::LetBe | Strays::Asked => None,
            },
            Sweep::Asked | Sweep::Done => None,
        }
    }

    pub(super) fn on_strays(&mut self, left: Vec<Descendant>, actions: &mut Vec<Action>) {
        let before = match &self.strays {
            Strays::LetBe | Strays::Asked => &[],
            Strays::Left(left) => left.as_slice(),
        };
        if left.iter().any(|stray| !before.contains(stray)) {
            actions.push(Action::Say(Notice::Strays { left: left.clone() }));
        }
        self.strays = Strays::Left(left);
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
        if let Strays::LetBe = self.strays {
            self.strays = Strays::Asked;
            actions.push(Action::StopStrays);
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
                actions.push(Action::Say(Notice::Waiting { names, kill_in }));
            }
        }
        let Strays::Left(strays) = &self.strays else { return false };
        let killing = !strays.is_empty() && self.kill_at <= now;
        if !up.is_empty() || self.sweep != Sweep::NotYet || !(strays.is_empty() || killing) {
            return false;
        }
        if killing {
            actions.push(Action::Say(Notice::KillingStrays { left: strays.clone() }));
        }
        self.sweep = Sweep::Asked;
        actions.push(Action::Sweep);
        killing
    }
}
