//! Those that are started again one after the other.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::Instant;

use super::Supervisor;
use crate::notice::Notice;
use crate::supervise::process::Action;
use crate::supervise::state::{Readiness, RestartMode, State, Want};

impl Supervisor {
    /// Starts again whose turn it is, if it is anybody's.
    pub(super) fn advance_rolling(&mut self, now: Instant) {
        if self.may_advance() {
            let mut due = self.processes.iter_mut().filter(|process| process.due);
            self.rolling = due.next().map(|process| {
                process.restart(RestartMode::AtOnce, now, &mut self.actions);
                process.id().index
            });
        }
    }

    /// Whether whoever was started again last is up, or will not be.
    fn may_advance(&self) -> bool {
        let last = self.processes.iter().find(|process| Some(process.id().index) == self.rolling);
        let due = |name: &String| {
            self.processes.iter().any(|process| process.due && process.name() == name)
        };
        last.is_none_or(|last| match (last.want, last.state) {
            // Whoever has the port that it is to have now, goes next.
            (Want::Up, State::Waiting { .. }) if last.waits_for().iter().any(due) => true,
            (Want::Up, State::Up { ready: Readiness::Ready, .. }) | (Want::Down(_), _) => true,
            (
                Want::Up,
                State::Up { ready: Readiness::Awaited { .. } | Readiness::Late, .. }
                | State::Down
                | State::Backoff { .. }
                | State::Waiting { .. }
                | State::Starting
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Stuck { .. },
            ) => false,
        })
    }

    /// If whoever was started again last has failed or takes too long, the others stay
    /// as they are.
    pub(super) fn stop_rolling(&mut self) {
        let last = self.processes.iter().find(|process| Some(process.id().index) == self.rolling);
        let in_vain = last.is_some_and(|last| last.is_late() || last.has_failed());
        if in_vain {
            // The next roll is another.
            self.rolling = None;
        }
        let due = self.processes.iter_mut().filter(|process| process.due && in_vain);
        let names: Vec<String> = due
            .map(|process| {
                process.due = false;
                process.name().to_owned()
            })
            .collect();
        if !names.is_empty() {
            self.actions.push(Action::Notify(Notice::RollingStopped { names }));
        }
    }
}
