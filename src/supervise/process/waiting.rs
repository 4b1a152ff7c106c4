//! What a process waits for before it runs, and until when others wait for it.

#![warn(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::time::Instant;

use super::{Action, Consequence, Process};
use crate::notice::{Notice, time};
use crate::plan;
use crate::plan::ready::Ready;
use crate::supervise::state::{Patience, Readiness, State};

impl Process {
    /// The plan says something new of it, or has it again. True if it is to be started
    /// again because of that.
    pub(in crate::supervise) fn adopt(
        &mut self,
        plan: Arc<plan::Process>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        let runs_as_before = plan.runs_like(&self.plan);
        let waits_as_before = plan.is_awaited_like(&self.plan);
        self.plan = plan;
        if self.is_removed() {
            self.want_up();
        }
        let anew = !runs_as_before && self.status().restarts_on_change();
        if !anew && !waits_as_before {
            self.wait_anew(now, actions);
        }
        anew
    }

    /// What is waited for has changed: whatever is being found out is no longer the
    /// question.
    fn wait_anew(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.state {
            State::Waiting { .. } => {
                actions.push(Action::CancelProbe(self.id()));
                self.unmet.clear();
                self.state = State::Waiting { until: self.await_needs(now, actions) };
            }
            State::Up { since, pid, ready: Readiness::Awaited { .. } | Readiness::Late } => {
                actions.push(Action::CancelProbe(self.id()));
                self.patience = Patience::Whole;
                let ready = self.await_ready(now, actions);
                self.state = State::Up { since, pid, ready };
            }
            State::Up { ready: Readiness::Ready, .. }
            | State::Down
            | State::Backoff { .. }
            | State::Starting
            | State::Stopping { .. }
            | State::Killed { .. }
            | State::Stuck { .. } => {}
        }
    }

    /// Has it found out whether what it needs is there; until when it waits for that.
    pub(in crate::supervise) fn await_needs(
        &self,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Option<Instant> {
        let needs = !self.plan.needs.is_empty();
        if needs {
            actions.push(Action::ProbeNeeds(self.id(), Arc::clone(&self.plan)));
        }
        needs.then(|| now + self.plan.ready_timeout)
    }

    /// Has it found out when it is ready, if it isn't by running.
    pub(in crate::supervise) fn await_ready(
        &mut self,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Readiness {
        if self.plan.ready == Ready::Started {
            self.patience = Patience::Whole;
            return Readiness::Ready;
        }
        actions.push(Action::Probe(self.id(), Arc::clone(&self.plan)));
        match self.patience {
            Patience::KeeperError => Readiness::Late,
            Patience::Until(until) => Readiness::Awaited { until },
            Patience::Left(left) => Readiness::Awaited { until: now + left },
            Patience::Whole => Readiness::Awaited { until: now + self.plan.ready_timeout },
        }
    }

    /// Whether nobody waits for it to become ready any longer.
    pub(in crate::supervise) fn is_late(&self) -> bool {
        self.patience == Patience::KeeperError
    }

    /// Why others can't count on it.
    pub(in crate::supervise) fn why_lost(&self) -> String {
        match self.last {
            Some(exit) if self.has_failed() => exit.to_string(),
            Some(_) | None => format!("is not ready after {}", time(self.plan.ready_timeout)),
        }
    }

    /// Others can count on it now.
    pub(in crate::supervise) fn on_ready(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let State::Up { since, ready, .. } = &mut self.state
            && *ready != Readiness::Ready
        {
            *ready = Readiness::Ready;
            self.patience = Patience::Whole;
            let (after, name) = (now.duration_since(*since), self.name().to_owned());
            let url = match &self.plan.ready {
                Ready::Port | Ready::Http(_) => self.plan.port,
                Ready::Started | Ready::Log(_) | Ready::Command(_) => None,
            };
            actions.push(Action::Notify(Notice::Ready { name, port: url, after }));
        }
    }

    /// It was looked whether it is ready, and this came of it.
    pub(in crate::supervise) fn on_tried(&mut self, outcome: String) {
        self.tried = Some(outcome);
    }

    /// These of what it needs are not there; none: all is.
    pub(in crate::supervise) fn on_unmet(&mut self, unmet: Vec<String>, actions: &mut Vec<Action>) {
        let State::Waiting { until } = &mut self.state else { return };
        if unmet.is_empty() {
            *until = None;
        } else if self.unmet != unmet {
            let name = self.name().to_owned();
            actions.push(Action::Notify(Notice::WaitingFor { name, what: unmet.clone() }));
        }
        self.unmet = unmet;
    }

    pub(in crate::supervise) fn waits_for(&self) -> Vec<String> {
        let waits = matches!(self.state, State::Waiting { .. });
        let all = self.unmet.iter().chain(&self.awaited).filter(|_| waits);
        all.cloned().collect()
    }

    /// It takes too long, be it one life that does or many short ones.
    pub(in crate::supervise) fn lose_patience(&mut self, actions: &mut Vec<Action>) -> Consequence {
        self.patience = Patience::KeeperError;
        let name = self.name().to_owned();
        let port = self.plan.port.filter(|_| self.plan.ready == Ready::Port);
        let (after, tried) = (self.plan.ready_timeout, self.tried.clone());
        actions.push(Action::Notify(Notice::ReadyTimedOut { name, port, after, tried }));
        Consequence::ReadyTimedOut
    }
}
