//! One step from what a process is to what is wanted of it.

#![warn(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Action, Consequence, Process, own_port};
use crate::exit::Exit;
use crate::notice::Notice;
use crate::plan::Policy;
use crate::supervise::backoff::Chance;
use crate::supervise::gate::{Gate, StartGate};
use crate::supervise::state::{Leader, Patience, Readiness, State, Want};

/// How long something that was killed may take to be gone.
const KILLED_IS_GONE_IN: Duration = Duration::from_secs(5);

impl Process {
    /// Moves it one step from what it is to what is wanted, as far as its place among
    /// the others lets it.
    pub(in crate::supervise) fn reconcile(
        &mut self,
        now: Instant,
        gate: &Gate,
        chance: &mut Chance,
        actions: &mut Vec<Action>,
    ) -> Option<Consequence> {
        match (self.want, self.state) {
            (Want::Up, State::Down) => return self.begin(now, gate, chance, actions),
            (Want::Up, State::Backoff { until }) => {
                if until <= now {
                    return self.begin(now, gate, chance, actions);
                }
            }
            (Want::Up, State::Waiting { until }) => {
                return self.wait(until, now, gate, chance, actions);
            }
            (Want::Down(_), State::Backoff { .. }) => self.state = State::Down,
            (Want::Down(_), State::Waiting { .. }) => self.wait_no_more(actions),
            (Want::Down(_), State::Starting | State::Up { .. }) => {
                if gate.may_stop {
                    self.ask_to_stop(Leader::Up, now, actions);
                }
            }
            (Want::Up | Want::Down(_), State::Stopping { descendants_at, kill_at, leader }) => {
                if kill_at <= now {
                    let killed = self.kill(Some(self.policy().grace), now, actions);
                    return killed.then_some(Consequence::Killed);
                }
                if descendants_at.is_some_and(|at| at <= now) {
                    self.state = State::Stopping { descendants_at: None, kill_at, leader };
                    let signal = self.policy().stop_signal;
                    actions.push(Action::StopDescendants(self.id(), signal));
                }
            }
            (Want::Up, State::Up { since, pid, ready: Readiness::Awaited { until } }) => {
                if until <= now {
                    self.state = State::Up { since, pid, ready: Readiness::Late };
                    return Some(self.lose_patience(actions));
                }
            }
            (Want::Up | Want::Down(_), State::Killed { give_up_at, leader }) => {
                if give_up_at <= now {
                    self.state = State::Stuck { leader };
                    let name = self.name().to_owned();
                    actions.push(Action::Notify(Notice::Unkillable { name }));
                }
            }
            (
                Want::Up,
                State::Starting | State::Up { ready: Readiness::Late | Readiness::Ready, .. },
            )
            | (Want::Down(_), State::Down)
            | (Want::Up | Want::Down(_), State::Stuck { .. }) => {}
        }
        None
    }

    /// Begins a life: at once, if there is nothing to wait for.
    fn begin(
        &mut self,
        now: Instant,
        gate: &Gate,
        chance: &mut Chance,
        actions: &mut Vec<Action>,
    ) -> Option<Consequence> {
        self.life += 1;
        if let Patience::Until(until) = self.patience {
            self.patience = Patience::Left(until.saturating_duration_since(now));
        }
        let until = self.await_needs(now, actions);
        if let StartGate::Waiting(names) = &gate.before {
            let (name, what) = (self.name().to_owned(), names.clone());
            actions.push(Action::Notify(Notice::WaitingFor { name, what }));
        }
        self.state = State::Waiting { until };
        self.wait(until, now, gate, chance, actions)
    }

    /// Goes on when there is nothing more to wait for, or nothing to hope for.
    fn wait(
        &mut self,
        until: Option<Instant>,
        now: Instant,
        gate: &Gate,
        chance: &mut Chance,
        actions: &mut Vec<Action>,
    ) -> Option<Consequence> {
        self.awaited = match &gate.before {
            StartGate::Waiting(names) => names.clone(),
            StartGate::Open | StartGate::Failed(_) => Vec::new(),
        };
        let notice = match (&gate.before, until) {
            (StartGate::Failed(chain), _) => Notice::DependencyFailed { chain: chain.clone() },
            (StartGate::Open | StartGate::Waiting(_), Some(until)) if until <= now => {
                let (name, what) = (self.name().to_owned(), self.unmet.clone());
                Notice::NeedsTimedOut { name, what, after: self.plan.ready_timeout }
            }
            (StartGate::Open, None) => return self.spawn(now, actions),
            (StartGate::Open | StartGate::Waiting(_), Some(_)) | (StartGate::Waiting(_), None) => {
                return None;
            }
        };
        actions.push(Action::Notify(notice));
        self.wait_no_more(actions);
        let exit = Exit::DependencyFailed;
        let next = self.what_follows(exit, None, chance, now);
        self.is_gone(exit);
        let (name, left) = (self.name().to_owned(), Vec::new());
        actions.push(Action::Notify(Notice::Exited { name, exit, left, next }));
        Some(Consequence::StartFailed(exit, next))
    }

    fn spawn(&mut self, now: Instant, actions: &mut Vec<Action>) -> Option<Consequence> {
        self.starts += 1;
        self.port_in_use = own_port(&self.plan);
        self.state = State::Starting;
        actions.push(Action::Spawn(self.id(), Arc::clone(&self.plan)));
        let left = match self.patience {
            Patience::Whole => self.plan.ready_timeout,
            Patience::Left(left) => left,
            Patience::Until(until) => until.saturating_duration_since(now),
            Patience::KeeperError => return None,
        };
        self.patience = Patience::Until(now + left);
        left.is_zero().then(|| self.lose_patience(actions))
    }

    pub(super) fn wait_no_more(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Down;
        actions.push(Action::CancelProbe(self.id()));
        self.unmet.clear();
        self.awaited.clear();
    }

    pub(super) fn ask_to_stop(&mut self, leader: Leader, now: Instant, actions: &mut Vec<Action>) {
        let Policy { grace, stop_signal, .. } = self.policy();
        let descendants_at = Some(now + grace * 4 / 5);
        self.state = State::Stopping { descendants_at, kill_at: now + grace, leader };
        actions.push(Action::Stop(self.id(), stop_signal));
    }

    /// Asks it to end, whoever has to be gone first: the user would not wait.
    pub(in crate::supervise) fn force_stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match (self.want, self.state) {
            (Want::Down(_), State::Starting | State::Up { .. }) => {
                self.ask_to_stop(Leader::Up, now, actions);
            }
            (Want::Up, State::Starting | State::Up { .. })
            | (
                Want::Up | Want::Down(_),
                State::Down
                | State::Backoff { .. }
                | State::Waiting { .. }
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Stuck { .. },
            ) => {}
        }
    }

    /// Kills it, if it has been asked to end; true if so. `grace`: how long it
    /// had, unless the user would not wait.
    pub(in crate::supervise) fn kill(
        &mut self,
        grace: Option<Duration>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        let State::Stopping { leader, .. } = self.state else { return false };
        self.state = State::Killed { give_up_at: now + KILLED_IS_GONE_IN, leader };
        actions.push(Action::Stop(self.id(), Signal::SIGKILL));
        let (name, signal) = (self.name().to_owned(), self.policy().stop_signal);
        actions.push(Action::Notify(Notice::Killing { name, signal, grace }));
        true
    }
}
