//! Decides what happens to every process, without touching any.
//!
//! Events go in, actions come out, and the time is an argument. What is wanted
//! of a process is kept apart from what it is: [`Supervisor::handle`] takes note
//! of an event, and then moves every process one step from the one to the other.

#![warn(clippy::wildcard_enum_match_arm)]

mod requests;
mod rolling;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::backoff::Chance;
use super::dependencies::Dependencies;
use super::gate::Gate;
use super::process::{Consequence, Process};
use super::shutdown::Shutdown;
use crate::exit::{Exit, Failure, Outcome};
use crate::keeper::protocol::Descendant;
use crate::notice::{Cause, Next, Notice};
use crate::plan::{self, Plan};

pub use super::process::Action;
pub use super::state::{DownReason, ProcessId, Readiness, RestartMode, State, Want};
pub use super::status::Status;

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The time of [`Supervisor::deadline`] has come; also the first event.
    Tick,
    /// A process runs.
    Spawned(ProcessId, i32),
    /// So much of what a process needs is not there; nothing: all is.
    NeedsChecked(ProcessId, Vec<String>),
    /// A process is ready.
    Ready(ProcessId),
    /// A process is not ready yet, and this came of the last look.
    ProbeFailed(ProcessId, String),
    /// A process has ended, or never began, and so many of it are left.
    Exited(ProcessId, Exit, Vec<Descendant>),
    /// Of a process that had ended, nobody is left.
    GroupEmpty(ProcessId),
    /// Who lives and belongs to no process.
    Orphans(Vec<Descendant>),
    /// All is killed, but for these.
    Swept(Vec<Descendant>),
    /// ganger got a signal that asks it to stop: INT, TERM or HUP.
    StopSignal(Signal),
    /// Nobody reads the output any more.
    StdoutClosed,
    /// This is what is wanted from now on: what is new is started, what is gone is
    /// stopped, what has changed is started again, and the rest is let be.
    Plan(Vec<Arc<plan::Process>>, RestartMode),
    /// These are to be started again, or started if they are down.
    Restart(Vec<String>, RestartMode),
    /// These are to be down.
    Stop(Vec<String>),
    /// All is to end.
    Quit,
}

/// What is known of all processes, and what is wanted of them.
pub struct Supervisor {
    /// In the order of the plan; behind them those that it has no more.
    processes: Vec<Process>,
    /// Where each stands in `processes`, by the index of its id.
    positions: HashMap<u32, usize>,
    next_index: u32,
    /// Whether one process may matter for another: what happens to one of them is then
    /// a reason to look at all.
    coupled: bool,
    /// Whether nothing is up because that is what was asked for, and not because
    /// everything came to its end.
    stopped_by_user: bool,
    /// Who was started again last, while others wait for their turn.
    rolling: Option<u32>,
    shutdown: Option<Shutdown>,
    interrupted: Option<Instant>,
    outcome: Outcome,
    chance: Chance,
    actions: Vec<Action>,
}

/// A terminal and a script often both send an interrupt: this close, it is one.
const SAME_INTERRUPT: Duration = Duration::from_millis(100);

impl Supervisor {
    /// All that the plan has, wanted up. `seed` is for what is left to chance.
    #[must_use]
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let mut supervisor = Self {
            processes: Vec::new(),
            positions: HashMap::new(),
            next_index: 0,
            coupled: true,
            stopped_by_user: false,
            rolling: None,
            shutdown: None,
            interrupted: None,
            outcome: Outcome::default(),
            chance: Chance(seed),
            actions: Vec::new(),
        };
        for process in &plan.processes {
            supervisor.add(Arc::clone(process));
        }
        supervisor.note_positions();
        supervisor
    }

    /// Takes note of an event, and returns what to do about it.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        self.handle_all(now, [event])
    }

    /// The same for events that happened one after the other. All processes are looked
    /// at once for all events, unless one of them changes what is wanted of the others.
    pub fn handle_all(
        &mut self,
        now: Instant,
        events: impl IntoIterator<Item = Event>,
    ) -> Vec<Action> {
        let mut touched = Touched::None;
        for event in events {
            let was_running = self.shutdown.is_none();
            touched = touched.and(event.touches());
            self.note(now, event);
            if was_running && self.shutdown.is_some() {
                self.reconcile(now, Touched::All);
            }
        }
        self.reconcile(now, touched);
        std::mem::take(&mut self.actions)
    }

    fn note(&mut self, now: Instant, event: Event) {
        match event {
            Event::Tick => {}
            Event::Spawned(id, pid) => {
                if let Some(process) = current(&mut self.processes, &self.positions, id) {
                    process.on_spawned(pid, now, &mut self.actions);
                }
            }
            Event::NeedsChecked(id, unmet) => {
                if let Some(process) = current(&mut self.processes, &self.positions, id) {
                    process.on_unmet(unmet, &mut self.actions);
                }
            }
            Event::Ready(id) => {
                if let Some(process) = current(&mut self.processes, &self.positions, id) {
                    process.on_ready(now, &mut self.actions);
                }
            }
            Event::ProbeFailed(id, outcome) => {
                if let Some(process) = current(&mut self.processes, &self.positions, id) {
                    process.on_tried(outcome);
                }
            }
            Event::Exited(id, exit, left) => self.on_exited(id, exit, left, now),
            Event::GroupEmpty(id) => {
                if let Some(process) = current(&mut self.processes, &self.positions, id) {
                    process.on_empty(&mut self.actions);
                }
            }
            Event::Orphans(left) => {
                if let Some(shutdown) = &mut self.shutdown {
                    shutdown.on_orphans(left, &mut self.actions);
                }
            }
            Event::Swept(left) => self.on_swept(left),
            Event::StopSignal(signal) => self.on_stop_signal(signal, now),
            Event::StdoutClosed => self.shut_down(Cause::StdoutClosed, now),
            Event::Plan(plan, pace) => self.on_plan(plan, pace, now),
            Event::Restart(names, pace) => self.on_restart(&names, pace, now),
            Event::Stop(names) => self.on_stop(&names),
            Event::Quit => self.shut_down(Cause::QuitRequest, now),
        }
    }

    /// When to call [`Self::handle`] with [`Event::Tick`], if nothing happens first.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let of_processes = self.processes.iter().filter_map(Process::deadline);
        let of_shutdown = self.shutdown.iter().filter_map(|down| down.deadline(self.all_down()));
        of_processes.chain(of_shutdown).min()
    }

    /// What came of it all, once nothing is left.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let shutdown = self.shutdown.as_ref()?;
        shutdown.is_over().then(|| self.outcome.clone())
    }

    /// What would come of it if all ended now.
    #[must_use]
    pub fn outcome_so_far(&self) -> &Outcome {
        &self.outcome
    }

    /// The process, if this is its present life.
    #[must_use]
    pub fn find(&self, id: ProcessId) -> Option<Status> {
        let process = self.positions.get(&id.index).and_then(|at| self.processes.get(*at))?;
        (process.id() == id).then(|| process.status())
    }

    /// Whether all is being stopped.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.shutdown.is_some()
    }

    /// Every process, in the order of the plan.
    pub fn status(&self) -> impl Iterator<Item = Status> {
        self.processes.iter().map(Process::status)
    }

    /// Every process of which something runs, and whose name is right.
    #[must_use]
    pub fn running(&self, is_right: impl Fn(&str) -> bool) -> Vec<ProcessId> {
        let running = self.processes.iter().filter(|process| process.state.runs());
        running.filter(|process| is_right(process.name())).map(Process::id).collect()
    }

    /// How many processes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.processes.len()
    }

    fn add(&mut self, plan: Arc<plan::Process>) {
        self.processes.push(Process::new(self.next_index, plan));
        self.next_index += 1;
    }

    fn on_exited(&mut self, id: ProcessId, exit: Exit, left: Vec<Descendant>, now: Instant) {
        let Some(process) = current(&mut self.processes, &self.positions, id) else { return };
        let next = process.on_exited(exit, left, &mut self.chance, now, &mut self.actions);
        if let Some(next) = next {
            let name = process.name().to_owned();
            self.on_ended(&Failure { name, exit }, next, now);
        }
    }

    /// A process has ended without being told to.
    fn on_ended(&mut self, ended: &Failure, next: Next, now: Instant) {
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
            self.shut_down(Cause::Exit, now);
        }
        self.stop_rolling();
    }

    fn on_swept(&mut self, left: Vec<Descendant>) {
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.on_swept();
        }
        if !left.is_empty() {
            self.outcome.killed = true;
            self.actions.push(Action::Notify(Notice::KillFailed { left }));
        }
    }

    fn on_stop_signal(&mut self, signal: Signal, now: Instant) {
        if signal == Signal::SIGINT {
            match self.interrupted {
                Some(at) if now.duration_since(at) < SAME_INTERRUPT => return,
                Some(_) => self.kill_all(now),
                None => {}
            }
            self.interrupted = Some(now);
        }
        self.shut_down(Cause::Signal(signal), now);
    }

    /// Who is stopped now because the first to fail did, and for nothing else.
    fn note_stopped(&mut self, because_of: &str) {
        let is_first = self.outcome.first_failure().is_some_and(|first| first.name == because_of);
        if self.shutdown.is_none() && is_first {
            let up = self
                .processes
                .iter()
                .filter(|process| process.want == Want::Up && process.state.has_begun());
            self.outcome.stopped = up.map(|process| process.name().to_owned()).collect();
        }
    }

    /// The first cause counts; what follows changes nothing.
    fn shut_down(&mut self, cause: Cause, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        self.processes.iter_mut().for_each(Process::stop);
        let longest = self.processes.iter().map(|process| process.policy().grace).max();
        self.shutdown = Some(Shutdown::new(now, longest.unwrap_or_default()));
        if cause != Cause::Exit {
            self.actions.push(Action::Notify(Notice::StoppingAll { cause }));
        }
    }

    /// The user would not wait.
    fn kill_all(&mut self, now: Instant) {
        let Some(shutdown) = &mut self.shutdown else { return };
        shutdown.force_stop(now);
        for process in &mut self.processes {
            process.force_stop(now, &mut self.actions);
            self.outcome.killed |= process.kill(None, now, &mut self.actions);
        }
    }

    /// Moves every process one step from what it is to what is wanted, and then
    /// the whole: when nothing is left, ganger leaves.
    fn reconcile(&mut self, now: Instant, touched: Touched) {
        let one = match touched {
            Touched::One(index) if !self.coupled => self.positions.get(&index).copied(),
            Touched::None | Touched::One(_) | Touched::All => None,
        };
        if let Some(at) = one {
            self.step_one(at, &Gate::FREE, now);
        }
        // It may have been the reason to stop all.
        if one.is_none() || self.shutdown.is_some() {
            loop {
                self.advance_rolling(now);
                if !self.step(now) {
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
            self.shut_down(Cause::AllDown, now);
        }
        if let Some(shutdown) = &mut self.shutdown {
            self.outcome.killed |= shutdown.reconcile(&self.processes, now, &mut self.actions);
        }
    }

    /// Moves every process one step. True if that may make room for others.
    fn step(&mut self, now: Instant) -> bool {
        let dependencies = Dependencies::new(&self.processes);
        let ordered = !dependencies.are_none();
        let mut moved = false;
        for index in 0..self.processes.len() {
            let gate = dependencies.gate(index, &self.processes);
            moved |= self.step_one(index, &gate, now);
        }
        let due = self.processes.iter().any(|process| process.due);
        let rolling = due || self.rolling.is_some();
        self.coupled = ordered || rolling || self.shutdown.is_some();
        moved && (ordered || self.shutdown.is_some())
    }

    /// Moves one process one step. True if it is another state then.
    fn step_one(&mut self, at: usize, gate: &Gate, now: Instant) -> bool {
        let process = &mut self.processes[at];
        let before = process.state;
        let consequence = process.reconcile(now, gate, &mut self.chance, &mut self.actions);
        let moved = before != process.state;
        match consequence {
            None => moved,
            Some(Consequence::Killed) => {
                // What a crash left behind may be killed any time, and is no failure.
                self.outcome.killed |= self.shutdown.is_some();
                moved
            }
            Some(Consequence::StartFailed(exit, next)) => {
                let name = process.name().to_owned();
                self.on_ended(&Failure { name, exit }, next, now);
                true
            }
            Some(Consequence::ReadyTimedOut) => {
                self.stop_rolling();
                moved
            }
        }
    }

    /// Notes where each process stands.
    fn note_positions(&mut self) {
        let positions = self.processes.iter().enumerate();
        self.positions = positions.map(|(at, process)| (process.id().index, at)).collect();
    }

    fn is_unwanted(&self) -> bool {
        self.processes.iter().all(|process| process.want != Want::Up)
    }

    fn all_down(&self) -> bool {
        self.processes.iter().all(|process| process.state.is_down())
    }
}

/// The process, if this is its present life.
fn current<'a>(
    processes: &'a mut [Process],
    positions: &HashMap<u32, usize>,
    id: ProcessId,
) -> Option<&'a mut Process> {
    let at = positions.get(&id.index)?;
    processes.get_mut(*at).filter(|process| process.id() == id)
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
            | Self::NeedsChecked(id, _)
            | Self::Ready(id)
            | Self::ProbeFailed(id, _)
            | Self::Exited(id, ..)
            | Self::GroupEmpty(id) => Touched::One(id.index),
            Self::Tick
            | Self::Orphans(_)
            | Self::Swept(_)
            | Self::StopSignal(_)
            | Self::StdoutClosed
            | Self::Plan(..)
            | Self::Restart(..)
            | Self::Stop(_)
            | Self::Quit => Touched::All,
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests/mod.rs"]
mod tests;
