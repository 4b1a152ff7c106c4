//! A rolling restart: one process after the other.

#![warn(clippy::wildcard_enum_match_arm)]

use std::collections::BTreeSet;

use super::context::Context;
use super::process::Process;
use super::state::{State, Want};
use crate::notice::Notice;

/// The processes that are restarted one after the other.
#[derive(Debug, Default)]
pub(super) struct RollingRestart {
    /// The indexes of those whose turn is still to come.
    pending: BTreeSet<u32>,
    /// The index of the one that was restarted last.
    current: Option<u32>,
}

impl RollingRestart {
    pub(super) fn add(&mut self, index: u32) {
        self.pending.insert(index);
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.pending.remove(&index);
    }

    pub(super) fn is_pending(&self, index: u32) -> bool {
        self.pending.contains(&index)
    }

    /// Whether a rolling restart is under way.
    pub(super) fn is_active(&self) -> bool {
        !self.pending.is_empty() || self.current.is_some()
    }

    /// Restarts the next process, if the one before it is ready or will not be.
    pub(super) fn advance(&mut self, processes: &mut [Process], cx: &mut Context<'_>) {
        if !self.may_advance(processes) {
            return;
        }
        let next = processes.iter_mut().find(|process| self.is_pending(process.id().index));
        self.current = next.map(|process| {
            let index = process.id().index;
            self.pending.remove(&index);
            process.restart(cx);
            index
        });
    }

    fn may_advance(&self, processes: &[Process]) -> bool {
        let Some(current) = self.find_current(processes) else { return true };
        let is_pending = |name: &String| {
            processes.iter().any(|it| it.name() == name && self.is_pending(it.id().index))
        };
        match (current.want, &current.state) {
            (Want::Down(_), _) => true,
            // The process that has its port goes next.
            (Want::Up, State::Waiting { processes, .. }) => processes.iter().any(is_pending),
            (Want::Up, State::Up { .. }) => current.is_ready(),
            (
                Want::Up,
                State::Down
                | State::Backoff { .. }
                | State::Starting { .. }
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Stuck { .. },
            ) => false,
        }
    }

    /// Ends it if the process that was restarted last has failed or takes too long: the
    /// others stay as they are.
    pub(super) fn stop_on_failure(&mut self, processes: &[Process], cx: &mut Context<'_>) {
        let current = self.find_current(processes);
        if !current.is_some_and(|current| current.is_late() || current.has_failed()) {
            return;
        }
        // The next one is another.
        self.current = None;
        let pending = std::mem::take(&mut self.pending);
        let skipped = processes.iter().filter(|process| pending.contains(&process.id().index));
        let names: Vec<String> = skipped.map(|process| process.name().to_owned()).collect();
        if !names.is_empty() {
            cx.notify(Notice::RollingStopped { names });
        }
    }

    fn find_current<'a>(&self, processes: &'a [Process]) -> Option<&'a Process> {
        processes.iter().find(|process| Some(process.id().index) == self.current)
    }
}
