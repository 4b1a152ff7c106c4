//! Decides what happens to every process, without touching any.
//!
//! Events and requests go in, actions come out, and the time is an argument. The desired
//! state of a process is kept apart from its actual state: the supervisor records an event,
//! and then moves every process one step from the one to the other.

#![warn(clippy::wildcard_enum_match_arm)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::context::Context;
use super::dependencies::Dependencies;
use super::gate::Gate;
use super::process::{Consequence, PlanChange, Process};
use super::rolling::RollingRestart;
use super::shutdown::Shutdown;
use crate::changes::Changes;
use crate::exit::{Exit, Failure, Outcome};
use crate::keeper::protocol::Descendant;
use crate::notice::{Cause, Next, Notice, ProbeFailure};
use crate::plan::{self, Plan};

pub use super::action::Action;
pub use super::readiness::Readiness;
pub use super::state::{DownReason, ProcessId, RestartMode, State, Want};
pub use super::status::Status;

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The time of [`Supervisor::deadline`] has come; also the first event.
    Tick,
    /// A process runs, with this process id.
    Spawned(ProcessId, i32),
    /// The services that a process needs have been probed, and these are not reachable.
    NeedsProbed(ProcessId, Vec<String>),
    /// A process is ready.
    Ready(ProcessId),
    /// A probe found that a process is not ready.
    ProbeFailed(ProcessId, ProbeFailure),
    /// A process has written this line, which says that it has failed.
    FailureLogged(ProcessId, String),
    /// A process has ended, or never ran, and these descendants of it are left.
    Exited(ProcessId, Exit, Vec<Descendant>),
    /// Nothing is left of a process that had ended.
    GroupEmpty(ProcessId),
    /// The descendants that live and belong to no process.
    Orphans(Vec<Descendant>),
    /// Everything has been killed, except for these.
    Swept(Vec<Descendant>),
    /// ganger got a signal that asks it to stop: INT, TERM or HUP.
    StopSignal(Signal),
    /// Nothing reads the output any more.
    StdoutClosed,
    /// A user asks ganger to stop everything.
    Quit,
}

/// All processes, their actual and their desired state.
pub struct Supervisor {
    /// In the order of the plan, followed by those that the plan does not have any more.
    processes: Vec<Process>,
    /// The position of each process in `processes`, by the index of its id.
    positions: HashMap<u32, usize>,
    next_index: u32,
    /// Whether one process may matter for another: then a change to one of them is a reason
    /// to look at all.
    coupled: bool,
    /// Whether nothing is up because users stopped it, and not because everything ended.
    stopped_by_user: bool,
    rolling: RollingRestart,
    shutdown: Option<Shutdown>,
    interrupted: Option<Instant>,
    outcome: Outcome,
    random: fastrand::Rng,
}

/// A terminal and a script often both send an interrupt: this close, they are one.
const SAME_INTERRUPT: Duration = Duration::from_millis(100);

impl Supervisor {
    /// All processes of the plan, wanted up. `seed` makes random decisions repeatable.
    #[must_use]
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let mut supervisor = Self {
            processes: Vec::new(),
            positions: HashMap::new(),
            next_index: 0,
            coupled: true,
            stopped_by_user: false,
            rolling: RollingRestart::default(),
            shutdown: None,
            interrupted: None,
            outcome: Outcome::default(),
            random: fastrand::Rng::with_seed(seed),
        };
        for process in &plan.processes {
            supervisor.add(Arc::clone(process));
        }
        supervisor.note_positions();
        supervisor
    }

    /// Records an event, and returns what to do about it.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        self.handle_all(now, [event])
    }

    /// The same for events that happened one after the other. All processes are looked at
    /// once for all events, unless one of them changes what is wanted of the others.
    pub fn handle_all(
        &mut self,
        now: Instant,
        events: impl IntoIterator<Item = Event>,
    ) -> Vec<Action> {
        let mut random = self.random.fork();
        let cx = &mut Context::new(now, &mut random);
        let mut touched = Touched::None;
        for event in events {
            let was_running = self.shutdown.is_none();
            touched = touched.and(event.touches());
            self.record(event, cx);
            if was_running && self.shutdown.is_some() {
                self.reconcile(Touched::All, cx);
            }
        }
        self.reconcile(touched, cx);
        cx.take_actions()
    }

    /// Follows this plan from now on: new processes are started, those that it does not have
    /// are stopped, those that it runs differently are restarted, and the others run on.
    pub fn apply_plan(
        &mut self,
        now: Instant,
        plan: &Plan,
        mode: RestartMode,
    ) -> (Changes, Vec<Action>) {
        self.carry_out(now, |supervisor, cx| supervisor.replace_plan(plan, mode, cx))
    }

    /// Restarts these processes, and starts those that are down. The lives in the ids don't
    /// matter.
    pub fn restart(
        &mut self,
        now: Instant,
        ids: &[ProcessId],
        mode: RestartMode,
    ) -> (Changes, Vec<Action>) {
        self.carry_out(now, |supervisor, cx| {
            let mut changes = Changes::default();
            for at in supervisor.find_all(ids) {
                let process = &supervisor.processes[at];
                if process.is_removed() {
                    continue;
                }
                let is_running = process.state.is_running();
                let list = if is_running { &mut changes.restarted } else { &mut changes.started };
                list.push(process.name().to_owned());
                supervisor.restart_at(at, mode, cx);
            }
            changes
        })
    }

    /// Stops these processes until a user starts them. The lives in the ids don't matter.
    pub fn stop(&mut self, now: Instant, ids: &[ProcessId]) -> (Changes, Vec<Action>) {
        self.carry_out(now, |supervisor, _| {
            let mut changes = Changes::default();
            for at in supervisor.find_all(ids) {
                let process = &mut supervisor.processes[at];
                // One that is down or on its way down already is not stopped by this.
                if process.want == Want::Up {
                    changes.stopped.push(process.name().to_owned());
                }
                process.stop();
                let index = process.id().index;
                supervisor.rolling.remove(index);
            }
            supervisor.stopped_by_user = supervisor.is_unwanted();
            changes
        })
    }

    /// Does what a user asks for, unless everything is being stopped.
    fn carry_out(
        &mut self,
        now: Instant,
        request: impl FnOnce(&mut Self, &mut Context<'_>) -> Changes,
    ) -> (Changes, Vec<Action>) {
        let mut random = self.random.fork();
        let cx = &mut Context::new(now, &mut random);
        if self.shutdown.is_some() {
            return (Changes::default(), Vec::new());
        }
        let changes = request(self, cx);
        self.reconcile(Touched::All, cx);
        (changes, cx.take_actions())
    }

    fn replace_plan(&mut self, plan: &Plan, mode: RestartMode, cx: &mut Context<'_>) -> Changes {
        let mut changes = Changes::default();
        let before = std::mem::take(&mut self.processes);
        let mut before: Vec<Option<Process>> = before.into_iter().map(Some).collect();
        let by_name: HashMap<String, usize> = before
            .iter()
            .enumerate()
            .filter_map(|(at, known)| Some((known.as_ref()?.name().to_owned(), at)))
            // The first of a name: those that the plan does not have stand behind the others.
            .rev()
            .collect();
        for planned in &plan.processes {
            let name = planned.name.clone();
            let Some(mut known) = by_name.get(&name).and_then(|at| before[*at].take()) else {
                self.add(Arc::clone(planned));
                changes.started.push(name);
                continue;
            };
            let (change, restart) = known.apply_plan(Arc::clone(planned), cx);
            match change {
                PlanChange::Started => changes.started.push(name),
                PlanChange::Restarted => changes.restarted.push(name),
                PlanChange::Adjusted => changes.adjusted.push(name),
                PlanChange::Unchanged => {}
            }
            self.processes.push(known);
            if restart {
                self.restart_at(self.processes.len() - 1, mode, cx);
            }
        }
        for mut removed in before.into_iter().flatten() {
            if !removed.is_removed() {
                changes.stopped.push(removed.name().to_owned());
            }
            removed.remove();
            self.rolling.remove(removed.id().index);
            self.processes.push(removed);
        }
        self.note_positions();
        self.stopped_by_user = self.is_unwanted();
        changes
    }

    fn restart_at(&mut self, at: usize, mode: RestartMode, cx: &mut Context<'_>) {
        let process = &mut self.processes[at];
        let index = process.id().index;
        match mode {
            RestartMode::Rolling => self.rolling.add(index),
            RestartMode::AtOnce => {
                self.rolling.remove(index);
                process.restart(cx);
            }
        }
    }

    /// The positions of these processes, in the order of the plan.
    fn find_all(&self, ids: &[ProcessId]) -> Vec<usize> {
        let mut found: Vec<usize> =
            ids.iter().filter_map(|id| self.positions.get(&id.index).copied()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn record(&mut self, event: Event, cx: &mut Context<'_>) {
        match event {
            Event::Tick => {}
            Event::Spawned(id, pid) => {
                if let Some(process) = self.current(id) {
                    process.on_spawned(pid, cx);
                }
            }
            Event::NeedsProbed(id, missing) => {
                if let Some(process) = self.current(id) {
                    process.on_needs_probed(missing, cx);
                }
            }
            Event::Ready(id) => {
                if let Some(process) = self.current(id) {
                    process.on_ready(cx);
                }
            }
            Event::ProbeFailed(id, failure) => {
                if let Some(process) = self.current(id) {
                    process.on_probe_failed(failure);
                }
            }
            Event::FailureLogged(id, line) => self.on_failure_logged(id, line, cx),
            Event::Exited(id, exit, left) => self.on_exited(id, exit, left, cx),
            Event::GroupEmpty(id) => {
                if let Some(process) = self.current(id) {
                    process.on_group_empty(cx);
                }
            }
            Event::Orphans(left) => {
                if let Some(shutdown) = &mut self.shutdown {
                    shutdown.on_orphans(left, cx);
                }
            }
            Event::Swept(left) => self.on_swept(left, cx),
            Event::StopSignal(signal) => self.on_stop_signal(signal, cx),
            Event::StdoutClosed => self.shut_down(Cause::StdoutClosed, cx),
            Event::Quit => self.shut_down(Cause::QuitRequest, cx),
        }
    }

    /// When to call [`Self::handle`] with [`Event::Tick`], if nothing happens first.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let of_processes = self.processes.iter().filter_map(Process::deadline);
        let of_shutdown = self.shutdown.iter().filter_map(|down| down.deadline(self.all_down()));
        of_processes.chain(of_shutdown).min()
    }

    /// How everything ended, once nothing is left.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let shutdown = self.shutdown.as_ref()?;
        shutdown.is_over().then(|| self.outcome.clone())
    }

    /// How everything would have ended, if it ended now.
    #[must_use]
    pub fn outcome_so_far(&self) -> &Outcome {
        &self.outcome
    }

    /// The process, if this is its present life.
    #[must_use]
    pub fn find(&self, id: ProcessId) -> Option<Status> {
        let process = self.positions.get(&id.index).and_then(|at| self.processes.get(*at))?;
        (process.id() == id).then(|| self.status_of(process))
    }

    /// The name of a process; its life does not matter.
    #[must_use]
    pub fn name_of(&self, id: ProcessId) -> Option<&str> {
        let at = self.positions.get(&id.index)?;
        self.processes.get(*at).map(Process::name)
    }

    /// Whether everything is being stopped.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.shutdown.is_some()
    }

    /// Every process, in the order of the plan.
    pub fn status(&self) -> impl Iterator<Item = Status> {
        self.processes.iter().map(|process| self.status_of(process))
    }

    fn status_of(&self, process: &Process) -> Status {
        process.status(self.rolling.is_pending(process.id().index))
    }

    /// The processes of which something runs.
    pub fn running(&self) -> impl Iterator<Item = ProcessId> {
        self.processes.iter().filter(|it| it.state.is_running()).map(Process::id)
    }

    /// The names and the present lives of those of these processes of which something runs.
    /// The lives in the ids don't matter.
    #[must_use]
    pub fn running_among(&self, ids: &[ProcessId]) -> Vec<(String, ProcessId)> {
        let all = self.find_all(ids).into_iter().map(|at| &self.processes[at]);
        let running = all.filter(|process| process.state.is_running());
        running.map(|process| (process.name().to_owned(), process.id())).collect()
    }

    /// How many processes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.processes.len()
    }

    fn add(&mut self, plan: Arc<plan::ProcessPlan>) {
        self.processes.push(Process::new(self.next_index, plan));
        self.next_index += 1;
    }

    fn on_exited(
        &mut self,
        id: ProcessId,
        exit: Exit,
        left: Vec<Descendant>,
        cx: &mut Context<'_>,
    ) {
        let Some(process) = self.current(id) else { return };
        if let Some(next) = process.on_exited(exit, left, cx) {
            let name = process.name().to_owned();
            self.on_ended(&Failure { name, exit, line: None }, next, cx);
        }
    }

    fn on_failure_logged(&mut self, id: ProcessId, line: String, cx: &mut Context<'_>) {
        let Some(process) = self.current(id) else { return };
        if let Some(next) = process.on_failure_logged(line.clone(), cx) {
            let (name, exit) = (process.name().to_owned(), Exit::FailureLogged);
            self.on_ended(&Failure { name, exit, line: Some(line) }, next, cx);
        }
    }

    /// A process has ended, and ganger had not asked it to.
    fn on_ended(&mut self, ended: &Failure, next: Next, cx: &mut Context<'_>) {
        match next {
            Next::Restart(_) => {}
            Next::StopAll | Next::StayDown | Next::GiveUp(_) => {
                if ended.exit.failed() && self.shutdown.is_none() {
                    self.outcome.failures.push(ended.clone());
                }
            }
        }
        if next == Next::StopAll {
            self.note_stopped(&ended.name);
            self.shut_down(Cause::Exit, cx);
        }
        self.rolling.stop_on_failure(&self.processes, cx);
    }

    fn on_swept(&mut self, left: Vec<Descendant>, cx: &mut Context<'_>) {
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.on_swept();
        }
        if !left.is_empty() {
            self.outcome.killed = true;
            cx.notify(Notice::KillFailed { left });
        }
    }

    fn on_stop_signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if signal == Signal::SIGINT {
            match self.interrupted {
                Some(at) if cx.now.duration_since(at) < SAME_INTERRUPT => return,
                Some(_) => self.kill_all(cx),
                None => {}
            }
            self.interrupted = Some(cx.now);
        }
        self.shut_down(Cause::Signal(signal), cx);
    }

    /// Notes which processes are stopped now only because the first one failed.
    fn note_stopped(&mut self, because_of: &str) {
        let is_first = self.outcome.first_failure().is_some_and(|first| first.name == because_of);
        if self.shutdown.is_none() && is_first {
            let up = self
                .processes
                .iter()
                .filter(|process| process.want == Want::Up && process.state.is_active());
            self.outcome.stopped = up.map(|process| process.name().to_owned()).collect();
        }
    }

    /// Stops everything. Only the first cause counts.
    fn shut_down(&mut self, cause: Cause, cx: &mut Context<'_>) {
        if self.shutdown.is_some() {
            return;
        }
        for process in &mut self.processes {
            process.stop();
            process.cancel_start(cx);
        }
        // The message that all is stopped comes last: no process is started after it.
        cx.postpone_messages();
        self.rolling = RollingRestart::default();
        let longest = self.processes.iter().map(|process| process.policy().grace).max();
        self.shutdown = Some(Shutdown::new(cx.now, longest.unwrap_or_default()));
        if cause != Cause::Exit {
            cx.notify(Notice::StoppingAll { cause });
        }
    }

    /// Kills everything: the user interrupted twice.
    fn kill_all(&mut self, cx: &mut Context<'_>) {
        let Some(shutdown) = &mut self.shutdown else { return };
        shutdown.force_stop(cx.now);
        for process in &mut self.processes {
            process.force_stop(cx);
            self.outcome.killed |= process.kill(None, cx);
        }
    }

    /// Moves every process one step from its actual to its desired state, and then the
    /// whole: when nothing is left, ganger ends.
    fn reconcile(&mut self, touched: Touched, cx: &mut Context<'_>) {
        let one = match touched {
            Touched::One(index) if !self.coupled => self.positions.get(&index).copied(),
            Touched::None | Touched::One(_) | Touched::All => None,
        };
        if let Some(at) = one {
            self.step_one(at, &Gate::FREE, cx);
        }
        // It may have been the reason to stop all.
        if one.is_none() || self.shutdown.is_some() {
            loop {
                self.rolling.advance(&mut self.processes, cx);
                if !self.step(cx) {
                    break;
                }
            }
        }
        if !self.outcome.failures.is_empty() {
            // What is started again has not failed for good.
            let wanted = self.processes.iter().filter(|process| process.want == Want::Up);
            let wanted: HashSet<&str> = wanted.map(Process::name).collect();
            self.outcome.failures.retain(|failure| !wanted.contains(failure.name.as_str()));
        }
        if self.processes.iter().any(Process::is_removable) {
            self.processes.retain(|process| !process.is_removable());
            self.note_positions();
        }
        let ended = self.is_unwanted() && !self.stopped_by_user && self.all_down();
        if self.shutdown.is_none() && ended {
            self.shut_down(Cause::AllDown, cx);
        }
        if let Some(shutdown) = &mut self.shutdown {
            self.outcome.killed |= shutdown.reconcile(&self.processes, cx);
        }
    }

    /// Moves every process one step. True if that may let others go on.
    fn step(&mut self, cx: &mut Context<'_>) -> bool {
        let dependencies = Dependencies::new(&self.processes);
        let ordered = !dependencies.are_none();
        let mut moved = false;
        for at in 0..self.processes.len() {
            let gate = dependencies.gate(at, &self.processes);
            moved |= self.step_one(at, &gate, cx);
        }
        self.coupled = ordered || self.rolling.is_active() || self.shutdown.is_some();
        moved && (ordered || self.shutdown.is_some())
    }

    /// Moves one process one step. True if that changes its state.
    fn step_one(&mut self, at: usize, gate: &Gate, cx: &mut Context<'_>) -> bool {
        let process = &mut self.processes[at];
        let before = std::mem::discriminant(&process.state);
        let consequence = process.reconcile(gate, cx);
        let moved = before != std::mem::discriminant(&process.state);
        match consequence {
            None => moved,
            Some(Consequence::Killed) => {
                // What a crash left behind may be killed any time, and is no failure.
                self.outcome.killed |= self.shutdown.is_some();
                moved
            }
            Some(Consequence::StartFailed(exit, next)) => {
                let name = process.name().to_owned();
                self.on_ended(&Failure { name, exit, line: None }, next, cx);
                true
            }
            Some(Consequence::ReadyTimedOut) => {
                self.rolling.stop_on_failure(&self.processes, cx);
                true
            }
        }
    }

    /// Notes where each process stands.
    fn note_positions(&mut self) {
        let positions = self.processes.iter().enumerate();
        self.positions = positions.map(|(at, process)| (process.id().index, at)).collect();
    }

    /// The process, if this is its present life.
    fn current(&mut self, id: ProcessId) -> Option<&mut Process> {
        let at = self.positions.get(&id.index)?;
        self.processes.get_mut(*at).filter(|process| process.id() == id)
    }

    fn is_unwanted(&self) -> bool {
        self.processes.iter().all(|process| process.want != Want::Up)
    }

    fn all_down(&self) -> bool {
        self.processes.iter().all(|process| process.state.is_down())
    }
}

/// The processes to look at after events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Touched {
    None,
    /// The one with this index.
    One(u32),
    All,
}

impl Touched {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, touched) | (touched, Self::None) => touched,
            (Self::One(one), Self::One(other)) if one == other => self,
            (Self::One(_) | Self::All, Self::One(_) | Self::All) => Self::All,
        }
    }
}

impl Event {
    fn touches(&self) -> Touched {
        match self {
            Self::Spawned(id, _)
            | Self::NeedsProbed(id, _)
            | Self::Ready(id)
            | Self::ProbeFailed(id, _)
            | Self::FailureLogged(id, _)
            | Self::Exited(id, ..)
            | Self::GroupEmpty(id) => Touched::One(id.index),
            Self::Tick
            | Self::Orphans(_)
            | Self::Swept(_)
            | Self::StopSignal(_)
            | Self::StdoutClosed
            | Self::Quit => Touched::All,
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests/mod.rs"]
mod tests;
