//! One process: its actual state, its desired state, and the steps from one to the other.

#![warn(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::action::Action;
use super::backoff::{CRASHES_RESET_AFTER, restart_delay};
use super::context::Context;
use super::gate::{Gate, StartGate};
use super::readiness::Readiness;
use super::state::{DownReason, Leader, Needs, ProcessId, Remainder, State, Want};
use super::status::Status;
use crate::exit::Exit;
use crate::keeper::protocol::Descendant;
use crate::notice::{FailureReason, Next, Notice, ProbeFailure, StoppingProcess};
use crate::plan::ready::Ready;
use crate::plan::{self, OnExit, Policy};

/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A process of the plan, through all its lives.
pub(super) struct Process {
    index: u32,
    pub(super) plan: Arc<plan::ProcessPlan>,
    pub(super) want: Want,
    pub(super) state: State,
    readiness: Readiness,
    life: u32,
    /// How often it has really been started.
    starts: u32,
    /// How its last life ended.
    last: Option<Exit>,
    /// How often it has crashed in a row.
    crashes: u32,
}

/// What a step of one process means for the others.
pub(super) enum Consequence {
    /// It was killed, because it did not stop in time.
    Killed,
    /// It failed before it ran.
    StartFailed(Exit, Next),
    /// It was not ready in time.
    ReadyTimedOut,
}

/// What a new plan changes for a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PlanChange {
    /// It is started: it had failed, or was about to be removed.
    Started,
    /// It is restarted, because the plan runs it differently.
    Restarted,
    /// It runs on, under another policy.
    Adjusted,
    /// Nothing that matters now.
    Unchanged,
}

impl Process {
    /// A new process of the plan, wanted up.
    pub(super) fn new(index: u32, plan: Arc<plan::ProcessPlan>) -> Self {
        Self {
            index,
            plan,
            want: Want::Up,
            state: State::Down,
            readiness: Readiness::NotStarted,
            life: 0,
            starts: 0,
            last: None,
            crashes: 0,
        }
    }

    pub(super) fn id(&self) -> ProcessId {
        ProcessId { index: self.index, life: self.life }
    }

    pub(super) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(super) fn policy(&self) -> Policy {
        self.plan.policy
    }

    /// When something has to be done though nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.want, &self.state) {
            (Want::Up, State::Up { .. }) => self.readiness.deadline(),
            // Nothing depends on its readiness any more.
            (Want::Down(_), State::Up { .. }) => None,
            (
                Want::Up | Want::Down(_),
                State::Down
                | State::Backoff { .. }
                | State::Waiting { .. }
                | State::Starting { .. }
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Stuck { .. },
            ) => self.state.deadline(),
        }
    }

    pub(super) fn status(&self, restart_pending: bool) -> Status {
        Status {
            id: self.id(),
            plan: Arc::clone(&self.plan),
            state: self.state.clone(),
            readiness: self.readiness.clone(),
            want: self.want,
            last: self.last,
            restarts: self.starts.saturating_sub(1),
            crashes: self.crashes,
            restart_pending,
        }
    }

    /// What the message about slow stops shows of it.
    pub(super) fn stopping(&self) -> StoppingProcess {
        let left = self.state.remainder().map_or(&[][..], |rest| match &rest.leader {
            Leader::Running | Leader::Failing { .. } => &[],
            Leader::Exited { left, .. } | Leader::Stopped { left, .. } => left,
        });
        StoppingProcess { name: self.name().to_owned(), pid: self.state.pid(), left: left.to_vec() }
    }

    /// Whether others can count on it: it runs and is ready, or it is a job that is done.
    pub(super) fn is_ready(&self) -> bool {
        let is_up = matches!(self.state, State::Up { .. });
        self.is_done() || is_up && self.readiness == Readiness::Ready
    }

    /// Whether it is a job that has exited with 0.
    fn is_done(&self) -> bool {
        self.plan.ready == Ready::Exit && self.want == Want::Down(DownReason::Finished)
    }

    /// Whether it was not ready in time, and still is not.
    pub(super) fn is_late(&self) -> bool {
        self.readiness == Readiness::TimedOut
    }

    /// Whether it is down because it failed.
    pub(super) fn has_failed(&self) -> bool {
        self.want == Want::Down(DownReason::Failed)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.want == Want::Down(DownReason::Removed)
    }

    /// Whether it can be forgotten.
    pub(super) fn is_removable(&self) -> bool {
        self.is_removed() && self.state == State::Down
    }

    /// Why others can't count on it, once they can't.
    pub(super) fn failure_reason(&self) -> FailureReason {
        match self.last {
            Some(exit) if self.has_failed() => FailureReason::Exited(exit),
            Some(_) | None => FailureReason::NotReady { after: self.plan.ready_timeout },
        }
    }

    /// Whether it still has a port that another process may have by now.
    pub(super) fn holds_old_port(&self) -> bool {
        let port = self.state.port();
        port.is_some() && (self.is_removed() || port != own_port(&self.plan))
    }

    /// A user asks for it: earlier failures don't count.
    fn want_up(&mut self, now: Instant) {
        self.want = Want::Up;
        match (&self.state, &self.readiness) {
            (State::Up { .. }, Readiness::Ready) => {}
            (State::Up { .. } | State::Starting { .. }, _) => {
                self.readiness.restart(now, self.plan.ready_timeout);
            }
            (
                State::Down
                | State::Backoff { .. }
                | State::Waiting { .. }
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Stuck { .. },
                _,
            ) => self.readiness = Readiness::NotStarted,
        }
    }

    /// Restarts it, or starts it if it is down.
    pub(super) fn restart(&mut self, cx: &mut Context<'_>) {
        self.want_up(cx.now);
        self.crashes = 0;
        match &mut self.state {
            State::Starting { .. } | State::Up { .. } => {
                self.ask_to_stop(Leader::Running, cx);
                self.readiness = Readiness::NotStarted;
            }
            State::Backoff { .. } => self.state = State::Down,
            State::Waiting { .. } => self.stop_waiting(cx),
            // It is started once nothing of it runs any more.
            State::Stopping { rest, .. } | State::Killed { rest, .. } | State::Stuck { rest } => {
                match &mut rest.leader {
                    Leader::Exited { restart_at, .. } | Leader::Failing { restart_at, .. } => {
                        *restart_at = None;
                    }
                    Leader::Running | Leader::Stopped { .. } => {}
                }
            }
            State::Down => {}
        }
    }

    /// Stops it until a user asks for it. A job that is done stays done: others can still count
    /// on it.
    pub(super) fn stop(&mut self) {
        if !self.is_removed() && !self.is_done() {
            self.want = Want::Down(DownReason::StoppedByUser);
        }
    }

    /// Stops it for good: the plan does not have it any more.
    pub(super) fn remove(&mut self) {
        self.want = Want::Down(DownReason::Removed);
    }

    /// Follows a new plan from now on. Returns what that changes, and whether the process has
    /// to be restarted for it.
    pub(super) fn apply_plan(
        &mut self,
        plan: Arc<plan::ProcessPlan>,
        cx: &mut Context<'_>,
    ) -> (PlanChange, bool) {
        let has_same_command = plan.has_same_command(&self.plan);
        let has_same_policy = plan.has_same_policy(&self.plan);
        let has_same_probes = plan.has_same_readiness(&self.plan);
        let was_removed = self.is_removed();
        // A job that has changed is another job, which is to be done.
        let had_ended = self.has_failed() || self.is_done();
        self.plan = plan;
        if was_removed {
            self.want_up(cx.now);
        }
        let restart = !has_same_command && (self.want == Want::Up || had_ended);
        if !restart && !has_same_probes {
            self.restart_probes(cx);
        }
        let change = match (restart, was_removed || had_ended) {
            (_, _) if was_removed => PlanChange::Started,
            (true, true) => PlanChange::Started,
            (true, false) => PlanChange::Restarted,
            (false, _) if has_same_command && !has_same_policy => PlanChange::Adjusted,
            (false, _) => PlanChange::Unchanged,
        };
        (change, restart)
    }

    /// What it waits for, or when it is ready, has changed: running probes are outdated.
    fn restart_probes(&mut self, cx: &mut Context<'_>) {
        match &mut self.state {
            State::Waiting { .. } => {
                cx.act(Action::CancelProbe(self.id()));
                let probed = self.probe_needs(cx);
                if let State::Waiting { needs, .. } = &mut self.state {
                    *needs = probed;
                }
            }
            State::Up { .. } if self.readiness != Readiness::Ready => {
                cx.act(Action::CancelProbe(self.id()));
                self.readiness = Readiness::NotStarted;
                self.probe_readiness(cx);
            }
            State::Up { .. }
            | State::Down
            | State::Backoff { .. }
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Killed { .. }
            | State::Stuck { .. } => {}
        }
    }

    /// Has the services probed that it needs, if there are any.
    fn probe_needs(&self, cx: &mut Context<'_>) -> Option<Needs> {
        if self.plan.needs.is_empty() {
            return None;
        }
        cx.act(Action::ProbeNeeds(self.id(), Arc::clone(&self.plan)));
        Some(Needs { until: cx.now + self.plan.ready_timeout, missing: Vec::new() })
    }

    /// Has it probed whether it is ready, unless it is as soon as it runs.
    fn probe_readiness(&mut self, cx: &mut Context<'_>) {
        if self.plan.ready == Ready::Started {
            self.readiness = Readiness::Ready;
        } else {
            cx.act(Action::Probe(self.id(), Arc::clone(&self.plan)));
            self.readiness.begin_probing(cx.now, self.plan.ready_timeout);
        }
    }

    /// Moves it one step from its actual to its desired state, as far as the other processes
    /// let it.
    pub(super) fn reconcile(&mut self, gate: &Gate, cx: &mut Context<'_>) -> Option<Consequence> {
        match (self.want, &self.state) {
            (Want::Up, State::Down) => return self.begin_life(gate, cx),
            (Want::Up, State::Backoff { until }) => {
                if *until <= cx.now {
                    return self.begin_life(gate, cx);
                }
            }
            (Want::Up, State::Waiting { .. }) => return self.wait(gate, cx),
            (Want::Down(_), State::Backoff { .. }) => self.state = State::Down,
            (Want::Down(_), State::Waiting { .. }) => self.stop_waiting(cx),
            (Want::Down(_), State::Starting { .. } | State::Up { .. }) => {
                if gate.may_stop {
                    self.ask_to_stop(Leader::Running, cx);
                }
            }
            (Want::Up | Want::Down(_), State::Stopping { descendants_at, kill_at, .. }) => {
                if *kill_at <= cx.now {
                    let killed = self.kill(Some(self.policy().grace), cx);
                    return killed.then_some(Consequence::Killed);
                }
                if descendants_at.is_some_and(|at| at <= cx.now) {
                    self.stop_descendants(cx);
                }
            }
            (Want::Up, State::Up { .. }) => {
                if self.readiness.deadline().is_some_and(|at| at <= cx.now) {
                    return Some(self.time_out(cx));
                }
            }
            (Want::Up | Want::Down(_), State::Killed { rest, give_up_at }) => {
                if *give_up_at <= cx.now {
                    self.state = State::Stuck { rest: rest.clone() };
                    cx.notify(Notice::Unkillable { name: self.name().to_owned() });
                }
            }
            (Want::Up, State::Starting { .. })
            | (Want::Down(_), State::Down)
            | (Want::Up | Want::Down(_), State::Stuck { .. }) => {}
        }
        None
    }

    /// Begins a life: at once, if there is nothing to wait for.
    fn begin_life(&mut self, gate: &Gate, cx: &mut Context<'_>) -> Option<Consequence> {
        self.life += 1;
        self.readiness.pause(cx.now);
        let needs = self.probe_needs(cx);
        if let StartGate::Waiting { dependencies, port_holders } = &gate.start {
            if !dependencies.is_empty() {
                let (name, what) = (self.name().to_owned(), dependencies.clone());
                cx.notify(Notice::WaitingFor { name, what });
            }
            if let Some(port) = own_port(&self.plan).filter(|_| !port_holders.is_empty()) {
                let (name, holders) = (self.name().to_owned(), port_holders.clone());
                cx.notify(Notice::WaitingForPort { name, holders, port });
            }
        }
        self.state = State::Waiting { needs, processes: Vec::new() };
        self.wait(gate, cx)
    }

    /// Starts it once there is nothing left to wait for, and fails once waiting is useless.
    fn wait(&mut self, gate: &Gate, cx: &mut Context<'_>) -> Option<Consequence> {
        let State::Waiting { needs, processes } = &mut self.state else { return None };
        *processes = match &gate.start {
            StartGate::Waiting { dependencies, port_holders } => {
                [port_holders.as_slice(), dependencies].concat()
            }
            StartGate::Open | StartGate::Failed(_) => Vec::new(),
        };
        let notice = match (&gate.start, needs) {
            (StartGate::Failed(chain), _) => Notice::DependencyFailed { chain: chain.clone() },
            (StartGate::Open | StartGate::Waiting { .. }, Some(needs)) if needs.until <= cx.now => {
                let (name, what) = (self.plan.name.clone(), needs.missing.clone());
                Notice::NeedsTimedOut { name, what, after: self.plan.ready_timeout }
            }
            (StartGate::Open, None) => return self.spawn(cx),
            (StartGate::Open, Some(_)) | (StartGate::Waiting { .. }, _) => return None,
        };
        cx.notify(notice);
        self.stop_waiting(cx);
        let exit = Exit::DependencyFailed;
        let (next, restart_at) = self.decide_next(exit, None, cx);
        self.become_down(exit, restart_at);
        let (name, left) = (self.name().to_owned(), Vec::new());
        cx.notify(Notice::Exited { name, exit, left, next });
        Some(Consequence::StartFailed(exit, next))
    }

    fn stop_waiting(&mut self, cx: &mut Context<'_>) {
        self.state = State::Down;
        cx.act(Action::CancelProbe(self.id()));
    }

    fn spawn(&mut self, cx: &mut Context<'_>) -> Option<Consequence> {
        self.starts += 1;
        self.state = State::Starting { port: own_port(&self.plan) };
        cx.act(Action::Spawn(self.id(), Arc::clone(&self.plan)));
        let is_over = self.readiness.start(cx.now, self.plan.ready_timeout);
        is_over.then(|| self.time_out(cx))
    }

    /// It was not ready in time, be it in one long life or in many short ones.
    fn time_out(&mut self, cx: &mut Context<'_>) -> Consequence {
        let tried = self.readiness.time_out();
        let name = self.name().to_owned();
        let port = self.plan.port.filter(|_| self.plan.ready == Ready::Port);
        cx.notify(Notice::ReadyTimedOut { name, port, after: self.plan.ready_timeout, tried });
        Consequence::ReadyTimedOut
    }

    /// The services that it needs have been probed; `missing` is empty when all are reachable.
    pub(super) fn on_needs_probed(&mut self, missing: Vec<String>, cx: &mut Context<'_>) {
        let State::Waiting { needs, .. } = &mut self.state else { return };
        let Some(probed) = needs else { return };
        if missing.is_empty() {
            *needs = None;
        } else if probed.missing != missing {
            probed.missing.clone_from(&missing);
            cx.notify(Notice::WaitingFor { name: self.plan.name.clone(), what: missing });
        }
    }

    pub(super) fn on_spawned(&mut self, pid: i32, cx: &mut Context<'_>) {
        match &mut self.state {
            State::Starting { port } => {
                self.state = State::Up { since: cx.now, pid, port: *port };
                self.probe_readiness(cx);
                let (name, port) = (self.name().to_owned(), self.plan.port);
                cx.notify(Notice::Started { name, pid, port, listened: self.plan.listen });
            }
            // It is being stopped already, so only its end is worth a message.
            State::Stopping { rest, .. } | State::Killed { rest, .. } | State::Stuck { rest } => {
                rest.pid = Some(pid);
                self.readiness.set_last_failure(None);
            }
            State::Down | State::Backoff { .. } | State::Waiting { .. } | State::Up { .. } => {}
        }
    }

    pub(super) fn on_ready(&mut self, cx: &mut Context<'_>) {
        let State::Up { since, .. } = self.state else { return };
        if self.readiness == Readiness::Ready {
            return;
        }
        self.readiness = Readiness::Ready;
        let (after, name) = (cx.now.duration_since(since), self.name().to_owned());
        let port = match &self.plan.ready {
            Ready::Port | Ready::Http(_) => self.plan.port,
            Ready::Started | Ready::Log(_) | Ready::Command(_) | Ready::Exit => None,
        };
        cx.notify(Notice::Ready { name, port, after });
    }

    /// A probe found that it is not ready.
    pub(super) fn on_probe_failed(&mut self, failure: ProbeFailure) {
        self.readiness.set_last_failure(Some(failure));
    }

    /// It has ended, or never ran. Returns what follows, if it was not asked to.
    pub(super) fn on_exited(
        &mut self,
        exit: Exit,
        left: Vec<Descendant>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let since = match &mut self.state {
            State::Starting { .. } => None,
            State::Up { since, .. } => Some(*since),
            State::Stopping { rest, .. } | State::Killed { rest, .. } | State::Stuck { rest } => {
                let is_empty = left.is_empty();
                rest.leader = match rest.leader {
                    Leader::Failing { exit, restart_at } => {
                        Leader::Exited { exit, left, restart_at }
                    }
                    Leader::Running | Leader::Exited { .. } | Leader::Stopped { .. } => {
                        Leader::Stopped { exit, left }
                    }
                };
                if is_empty {
                    self.on_group_empty(cx);
                }
                return None;
            }
            State::Down | State::Backoff { .. } | State::Waiting { .. } => return None,
        };
        let (next, restart_at) = self.decide_next(exit, since, cx);
        if left.is_empty() {
            self.become_down(exit, restart_at);
        } else {
            self.ask_to_stop(Leader::Exited { exit, left: left.clone(), restart_at }, cx);
        }
        cx.notify(Notice::Exited { name: self.name().to_owned(), exit, left, next });
        Some(next)
    }

    /// It has written a line that says that it has failed: it is stopped, and that counts as an
    /// exit. Returns what follows.
    pub(super) fn on_failure_logged(&mut self, line: String, cx: &mut Context<'_>) -> Option<Next> {
        let since = match self.state {
            State::Up { since, .. } if self.want == Want::Up => since,
            State::Up { .. }
            | State::Down
            | State::Backoff { .. }
            | State::Waiting { .. }
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Killed { .. }
            | State::Stuck { .. } => return None,
        };
        let exit = Exit::FailureLogged;
        let (next, restart_at) = self.decide_next(exit, Some(since), cx);
        cx.notify(Notice::FailureLogged { name: self.name().to_owned(), line, next });
        cx.act(Action::CancelProbe(self.id()));
        self.ask_to_stop(Leader::Failing { exit, restart_at }, cx);
        Some(next)
    }

    /// What its policy decides about an exit that ganger did not ask for, and when it is
    /// restarted, if it is.
    fn decide_next(
        &mut self,
        exit: Exit,
        up_since: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> (Next, Option<Instant>) {
        let ran_long =
            up_since.is_some_and(|since| cx.now.duration_since(since) >= CRASHES_RESET_AFTER);
        if ran_long || !exit.failed() {
            self.crashes = 0;
        }
        // A missing service is not its fault: it is waited for as long as it takes.
        let crashed = exit.failed() && exit != Exit::DependencyFailed;
        self.crashes += u32::from(crashed);
        let backoff = self.policy().backoff;
        let is_done = self.plan.ready == Ready::Exit && !exit.failed();
        let restart = match self.policy().on_exit {
            OnExit::Restart => true,
            OnExit::RestartOnFailure => exit.failed(),
            OnExit::StopAll | OnExit::Ignore => false,
        };
        let too_many = backoff.give_up_after.is_some_and(|most| self.crashes >= most);
        let next = match (self.policy().on_exit, restart) {
            _ if is_done => Next::StayDown,
            (OnExit::StopAll, _) => Next::StopAll,
            (_, true) if crashed && too_many => Next::GiveUp(self.crashes),
            (_, true) => Next::Restart(restart_delay(backoff, self.crashes, cx)),
            (_, false) => Next::StayDown,
        };
        match next {
            Next::Restart(delay) => (next, Some(cx.now + delay)),
            Next::StopAll | Next::StayDown | Next::GiveUp(_) => {
                let failed = exit.failed();
                let reason = if failed { DownReason::Failed } else { DownReason::Finished };
                self.want = Want::Down(reason);
                (next, None)
            }
        }
    }

    /// Nothing of its group is left.
    pub(super) fn on_group_empty(&mut self, cx: &mut Context<'_>) {
        let Some(rest) = self.state.remainder() else { return };
        match rest.leader {
            Leader::Running | Leader::Failing { .. } => {}
            Leader::Exited { exit, restart_at, .. } => self.become_down(exit, restart_at),
            Leader::Stopped { exit, .. } => {
                self.become_down(exit, None);
                cx.notify(Notice::Stopped { name: self.name().to_owned(), exit });
            }
        }
    }

    fn become_down(&mut self, exit: Exit, restart_at: Option<Instant>) {
        self.last = Some(exit);
        self.readiness.end();
        self.state = restart_at.map_or(State::Down, |until| State::Backoff { until });
    }

    fn ask_to_stop(&mut self, leader: Leader, cx: &mut Context<'_>) {
        let Policy { grace, stop_signal, .. } = self.policy();
        let rest = Remainder { pid: self.state.pid(), port: self.state.port(), leader };
        let (descendants_at, kill_at) = (Some(cx.now + grace * 4 / 5), cx.now + grace);
        self.readiness.end();
        self.state = State::Stopping { rest, descendants_at, kill_at };
        cx.act(Action::Stop(self.id(), stop_signal));
    }

    fn stop_descendants(&mut self, cx: &mut Context<'_>) {
        if let State::Stopping { descendants_at, .. } = &mut self.state {
            *descendants_at = None;
            cx.act(Action::StopDescendants(self.id(), self.policy().stop_signal));
        }
    }

    /// Cancels a start that has been requested. A program that runs by then is asked to stop.
    pub(super) fn cancel_start(&mut self, cx: &mut Context<'_>) {
        if matches!(self.state, State::Starting { .. }) {
            self.ask_to_stop(Leader::Running, cx);
        }
    }

    /// Asks it to stop, even if others should stop first: the user interrupted twice.
    pub(super) fn force_stop(&mut self, cx: &mut Context<'_>) {
        match (self.want, &self.state) {
            (Want::Down(_), State::Starting { .. } | State::Up { .. }) => {
                self.ask_to_stop(Leader::Running, cx);
            }
            (Want::Up, State::Starting { .. } | State::Up { .. })
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

    /// Kills it, if it has been asked to stop; true if so. `grace`: how long it had, unless
    /// the user interrupted twice.
    pub(super) fn kill(&mut self, grace: Option<Duration>, cx: &mut Context<'_>) -> bool {
        let State::Stopping { rest, .. } = &self.state else { return false };
        self.state = State::Killed { rest: rest.clone(), give_up_at: cx.now + KILL_TIMEOUT };
        cx.act(Action::Stop(self.id(), Signal::SIGKILL));
        let (name, signal) = (self.name().to_owned(), self.policy().stop_signal);
        cx.notify(Notice::Killing { name, signal, grace });
        true
    }
}

/// The port that a process has to itself: a port on which ganger listens is shared.
pub(super) fn own_port(plan: &plan::ProcessPlan) -> Option<u16> {
    plan.port.filter(|_| !plan.listen)
}
