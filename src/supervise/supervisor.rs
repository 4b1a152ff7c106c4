//! Decides what happens to every process, without touching any.
//!
//! Events go in, actions come out, and the time is an argument. What is wanted
//! of a process is kept apart from what it is: [`Supervisor::handle`] takes note
//! of an event, and then moves every process one step from the one to the other.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::backoff::{Chance, FORGIVEN_AFTER, pause};
use super::exit::{Exit, Outcome};
use crate::keeper::protocol::Member;
use crate::notice::{Cause, Next, Notice};
use crate::plan::{OnExit, Plan, Policy};

/// One life of one process: nothing of an earlier life is taken for this one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ProcessId {
    /// Its place in the plan.
    pub index: u32,
    /// How often it has been started, this time included.
    pub life: u32,
}

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The time of [`Supervisor::deadline`] has come; also the first event.
    Tick,
    /// A process runs.
    Spawned(ProcessId, i32),
    /// A process has ended, or never began, and so many of it are left.
    Exited(ProcessId, Exit, Vec<Member>),
    /// Of a process that had ended, nobody is left.
    Empty(ProcessId),
    /// Who lives and belongs to no process.
    Strays(Vec<Member>),
    /// All is killed, but for these.
    Swept(Vec<Member>),
    /// ganger got a signal that asks it to stop: INT, TERM or HUP.
    Asked(Signal),
    /// Nobody reads the output any more.
    StdoutClosed,
}

/// Something that has to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Start a process.
    Spawn(ProcessId),
    /// Ask a process and all that belongs to it to end, or kill them.
    Stop(ProcessId, Signal),
    /// Ask those who belong to no process to end.
    StopStrays,
    /// Kill whatever is left.
    Sweep,
    /// Say something.
    Say(Notice),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Want {
    Up,
    Down,
}

/// What a process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Nothing of it is there.
    Down {
        /// How it ended last.
        last: Option<Exit>,
    },
    /// The same, until it is started again.
    Backoff {
        /// When that is.
        until: Instant,
    },
    /// It is being started.
    Starting,
    /// It runs.
    Up {
        /// Since when.
        since: Instant,
        /// Its process id.
        pid: i32,
    },
    /// It was asked to end.
    Stopping {
        /// When it is killed.
        kill_at: Instant,
        /// How its leader ended, if it has.
        leader: Option<Exit>,
    },
    /// It was killed.
    Killed {
        /// When nobody waits for it any longer.
        give_up_at: Instant,
        /// How its leader ended, if it has.
        leader: Option<Exit>,
    },
}

struct Process {
    name: String,
    policy: Policy,
    port: Option<u16>,
    want: Want,
    state: State,
    life: u32,
    pid: Option<i32>,
    crashes: u32,
    /// Not started again before this.
    pause_until: Option<Instant>,
}

/// Everything is being stopped.
struct Shutdown {
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
    Left(Vec<Member>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sweep {
    NotYet,
    Asked,
    Done,
}

/// What is known of all processes, and what is wanted of them.
pub struct Supervisor {
    processes: Vec<Process>,
    shutdown: Option<Shutdown>,
    interrupted: Option<Instant>,
    outcome: Outcome,
    chance: Chance,
    actions: Vec<Action>,
}

/// A terminal and a script often both send an interrupt: this close, it is one.
const SAME_INTERRUPT: Duration = Duration::from_millis(100);
/// When it is first said who is still up, and how often after that.
const REMIND_AFTER: Duration = Duration::from_secs(1);
const REMIND_EVERY: Duration = Duration::from_secs(5);
/// How long something that was killed may take to be gone.
const KILLED_IS_GONE_IN: Duration = Duration::from_secs(5);

impl Supervisor {
    /// All that the plan has, wanted up. `seed` is for what is left to chance.
    #[must_use]
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let process = |process: &crate::plan::Process| Process {
            name: process.name.clone(),
            policy: process.policy,
            port: process.port,
            want: Want::Up,
            state: State::Down { last: None },
            life: 0,
            pid: None,
            crashes: 0,
            pause_until: None,
        };
        Self {
            processes: plan.processes.iter().map(process).collect(),
            shutdown: None,
            interrupted: None,
            outcome: Outcome::default(),
            chance: Chance(seed),
            actions: Vec::new(),
        }
    }

    /// Takes note of an event, and returns what to do about it.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Tick => {}
            Event::Spawned(id, pid) => self.on_spawned(id, pid, now),
            Event::Exited(id, exit, left) => self.on_exited(id, exit, left, now),
            Event::Empty(id) => self.on_empty(id),
            Event::Strays(left) => self.on_strays(left),
            Event::Swept(left) => self.on_swept(left),
            Event::Asked(signal) => self.on_asked(signal, now),
            Event::StdoutClosed => self.shut_down(Cause::StdoutClosed, now),
        }
        for index in 0..self.processes.len() {
            self.reconcile(index, now);
        }
        self.reconcile_all(now);
        std::mem::take(&mut self.actions)
    }

    /// When to call [`Self::handle`] with [`Event::Tick`], if nothing happens first.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let of_processes = self.processes.iter().filter_map(|process| match process.state {
            State::Backoff { until } => Some(until),
            State::Stopping { kill_at, .. } => Some(kill_at),
            State::Killed { give_up_at, .. } => Some(give_up_at),
            State::Down { .. } | State::Starting | State::Up { .. } => None,
        });
        let of_shutdown = self.shutdown.iter().filter(|shutdown| shutdown.sweep == Sweep::NotYet);
        let all_down = self.all_down();
        let of_shutdown = of_shutdown
            .map(|shutdown| if all_down { shutdown.kill_at } else { shutdown.remind_at });
        of_processes.chain(of_shutdown).min()
    }

    /// What came of it all, once nothing is left.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let shutdown = self.shutdown.as_ref()?;
        (shutdown.sweep == Sweep::Done).then_some(self.outcome)
    }

    /// What would come of it if all ended now.
    #[must_use]
    pub fn outcome_so_far(&self) -> Outcome {
        self.outcome
    }

    /// Every process, in the order of the plan: its name, state and process id.
    pub fn status(&self) -> impl Iterator<Item = (&str, State, Option<i32>)> {
        self.processes.iter().map(|process| (process.name.as_str(), process.state, process.pid))
    }

    /// Every process of which something runs.
    #[must_use]
    pub fn running(&self) -> Vec<ProcessId> {
        let runs = |state| match state {
            State::Starting | State::Up { .. } | State::Stopping { .. } | State::Killed { .. } => {
                true
            }
            State::Down { .. } | State::Backoff { .. } => false,
        };
        let running = self.processes.iter().enumerate().filter(|(_, process)| runs(process.state));
        running.map(|(index, process)| process.id(index)).collect()
    }

    fn on_spawned(&mut self, id: ProcessId, pid: i32, now: Instant) {
        let Some(process) = self.current(id) else { return };
        process.pid = Some(pid);
        match process.state {
            State::Starting => process.state = State::Up { since: now, pid },
            State::Stopping { .. } | State::Killed { .. } => {}
            State::Down { .. } | State::Backoff { .. } | State::Up { .. } => return,
        }
        let notice = Notice::Started { name: process.name.clone(), pid, port: process.port };
        self.actions.push(Action::Say(notice));
    }

    fn on_exited(&mut self, id: ProcessId, exit: Exit, left: Vec<Member>, now: Instant) {
        let Some(process) = self.current(id) else { return };
        let (name, gone) = (process.name.clone(), left.is_empty());
        match &mut process.state {
            State::Starting => self.on_exited_alone(id, exit, left, None, now),
            State::Up { since, .. } => {
                let since = *since;
                self.on_exited_alone(id, exit, left, Some(since), now);
            }
            State::Stopping { leader, .. } | State::Killed { leader, .. } => {
                *leader = Some(exit);
                if gone {
                    process.state = State::Down { last: Some(exit) };
                    process.pid = None;
                }
                self.actions.push(Action::Say(Notice::Stopped { name, exit, left }));
            }
            State::Down { .. } | State::Backoff { .. } => {}
        }
    }

    /// A process ended without being told to: its policy says what follows.
    fn on_exited_alone(
        &mut self,
        id: ProcessId,
        exit: Exit,
        left: Vec<Member>,
        since: Option<Instant>,
        now: Instant,
    ) {
        let process = &mut self.processes[id.index as usize];
        let forgiven = since.is_some_and(|since| now.duration_since(since) >= FORGIVEN_AFTER);
        if forgiven || !exit.failed() {
            process.crashes = 0;
        }
        process.crashes += u32::from(exit.failed());
        let policy = process.policy;
        let restart = match policy.on_exit {
            OnExit::Restart => true,
            OnExit::RestartOnFailure => exit.failed(),
            OnExit::StopAll | OnExit::Ignore => false,
        };
        let too_many = policy.backoff.give_up_after.is_some_and(|most| process.crashes >= most);
        let next = match (policy.on_exit, restart) {
            (OnExit::StopAll, _) => Next::StopAll,
            (_, true) if exit.failed() && too_many => Next::GiveUp(process.crashes),
            (_, true) => Next::Restart(pause(policy.backoff, process.crashes, &mut self.chance)),
            (_, false) => Next::StayDown,
        };
        process.pause_until = match next {
            Next::Restart(pause) => Some(now + pause),
            Next::StopAll | Next::StayDown | Next::GiveUp(_) => {
                process.want = Want::Down;
                if exit.failed() && self.shutdown.is_none() {
                    self.outcome.first_failure.get_or_insert(exit);
                }
                None
            }
        };
        if left.is_empty() {
            process.state = process.after(exit);
            process.pid = None;
        } else {
            let kill_at = now + policy.grace;
            process.state = State::Stopping { kill_at, leader: Some(exit) };
            self.actions.push(Action::Stop(id, policy.stop_signal));
        }
        let name = process.name.clone();
        self.actions.push(Action::Say(Notice::Exited { name, exit, left, next }));
        if next == Next::StopAll {
            self.shut_down(Cause::Exit, now);
        }
    }

    fn on_empty(&mut self, id: ProcessId) {
        let Some(process) = self.current(id) else { return };
        match process.state {
            State::Stopping { leader: Some(exit), .. }
            | State::Killed { leader: Some(exit), .. } => {
                process.state = process.after(exit);
                process.pid = None;
            }
            State::Stopping { leader: None, .. }
            | State::Killed { leader: None, .. }
            | State::Down { .. }
            | State::Backoff { .. }
            | State::Starting
            | State::Up { .. } => {}
        }
    }

    fn on_strays(&mut self, left: Vec<Member>) {
        let Some(shutdown) = &mut self.shutdown else { return };
        let before = shutdown.strays.left();
        if left.iter().any(|stray| !before.contains(stray)) {
            self.actions.push(Action::Say(Notice::Strays { left: left.clone() }));
        }
        shutdown.strays = Strays::Left(left);
    }

    fn on_swept(&mut self, left: Vec<Member>) {
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.sweep = Sweep::Done;
        }
        if !left.is_empty() {
            self.outcome.killed = true;
            self.actions.push(Action::Say(Notice::Survivors { left }));
        }
    }

    fn on_asked(&mut self, signal: Signal, now: Instant) {
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

    /// The first cause counts; what follows changes nothing.
    fn shut_down(&mut self, cause: Cause, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        for process in &mut self.processes {
            process.want = Want::Down;
        }
        let longest = self.processes.iter().map(|process| process.policy.grace).max();
        self.shutdown = Some(Shutdown {
            remind_at: now + REMIND_AFTER,
            kill_at: now + longest.unwrap_or_default(),
            strays: Strays::LetBe,
            sweep: Sweep::NotYet,
        });
        if cause != Cause::Exit {
            self.actions.push(Action::Say(Notice::StoppingAll { cause }));
        }
    }

    /// The user would not wait.
    fn kill_all(&mut self, now: Instant) {
        let Some(shutdown) = &mut self.shutdown else { return };
        shutdown.kill_at = now;
        for index in 0..self.processes.len() {
            if let State::Stopping { leader, .. } = self.processes[index].state {
                self.kill(index, leader, None, now);
            }
        }
    }

    /// Moves a process one step from what it is to what is wanted.
    fn reconcile(&mut self, index: usize, now: Instant) {
        let process = &mut self.processes[index];
        match (process.want, process.state) {
            (Want::Up, State::Down { .. }) => self.spawn(index),
            (Want::Up, State::Backoff { until }) => {
                if until <= now {
                    self.spawn(index);
                }
            }
            (Want::Down, State::Backoff { .. }) => process.state = State::Down { last: None },
            (Want::Down, State::Starting | State::Up { .. }) => {
                let kill_at = now + process.policy.grace;
                process.state = State::Stopping { kill_at, leader: None };
                let (id, signal) = (process.id(index), process.policy.stop_signal);
                self.actions.push(Action::Stop(id, signal));
            }
            (Want::Up | Want::Down, State::Stopping { kill_at, leader }) => {
                if kill_at <= now {
                    let grace = process.policy.grace;
                    self.kill(index, leader, Some(grace), now);
                }
            }
            (Want::Up | Want::Down, State::Killed { give_up_at, leader }) => {
                if give_up_at <= now {
                    process.want = Want::Down;
                    process.state = State::Down { last: leader };
                    let name = process.name.clone();
                    self.actions.push(Action::Say(Notice::Unkillable { name }));
                }
            }
            (Want::Up, State::Starting | State::Up { .. }) | (Want::Down, State::Down { .. }) => {}
        }
    }

    /// The same for the whole: leave when nothing is left.
    fn reconcile_all(&mut self, now: Instant) {
        let all_down = self.all_down();
        let all_wanted_down = self.processes.iter().all(|process| process.want == Want::Down);
        if self.shutdown.is_none() && all_down && all_wanted_down {
            self.shut_down(Cause::AllDown, now);
        }
        let waiting = self.still_up();
        let kill_in = self.next_kill(now);
        let Some(shutdown) = &mut self.shutdown else { return };
        if let Strays::LetBe = shutdown.strays {
            shutdown.strays = Strays::Asked;
            self.actions.push(Action::StopStrays);
        }
        if !all_down && shutdown.remind_at <= now {
            shutdown.remind_at = now + REMIND_EVERY;
            self.actions.push(Action::Say(Notice::Waiting { names: waiting, kill_in }));
        }
        let Strays::Left(strays) = &shutdown.strays else { return };
        let killing = !strays.is_empty() && shutdown.kill_at <= now;
        if all_down && shutdown.sweep == Sweep::NotYet && (strays.is_empty() || killing) {
            if killing {
                self.outcome.killed = true;
                let left = strays.clone();
                self.actions.push(Action::Say(Notice::KillingStrays { left }));
            }
            shutdown.sweep = Sweep::Asked;
            self.actions.push(Action::Sweep);
        }
    }

    fn spawn(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.state = State::Starting;
        process.life += 1;
        let id = process.id(index);
        self.actions.push(Action::Spawn(id));
    }

    fn kill(&mut self, index: usize, leader: Option<Exit>, grace: Option<Duration>, now: Instant) {
        let process = &mut self.processes[index];
        process.state = State::Killed { give_up_at: now + KILLED_IS_GONE_IN, leader };
        let (id, name) = (process.id(index), process.name.clone());
        let signal = process.policy.stop_signal;
        self.outcome.killed |= self.shutdown.is_some();
        self.actions.push(Action::Stop(id, Signal::SIGKILL));
        self.actions.push(Action::Say(Notice::Killing { name, signal, grace }));
    }

    fn all_down(&self) -> bool {
        self.processes.iter().all(|process| matches!(process.state, State::Down { .. }))
    }

    fn still_up(&self) -> Vec<String> {
        let up =
            self.processes.iter().filter(|process| !matches!(process.state, State::Down { .. }));
        up.map(|process| match process.pid {
            Some(pid) => format!("{} (pid {pid})", process.name),
            None => process.name.clone(),
        })
        .collect()
    }

    fn next_kill(&self, now: Instant) -> Option<Duration> {
        let kills = self.processes.iter().filter_map(|process| match process.state {
            State::Stopping { kill_at, .. } => Some(kill_at.saturating_duration_since(now)),
            State::Down { .. }
            | State::Backoff { .. }
            | State::Starting
            | State::Up { .. }
            | State::Killed { .. } => None,
        });
        kills.min()
    }

    fn current(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(id.index as usize).filter(|process| process.life == id.life)
    }
}

impl Strays {
    fn left(&self) -> &[Member] {
        match self {
            Self::LetBe | Self::Asked => &[],
            Self::Left(left) => left,
        }
    }
}

impl Process {
    fn id(&self, index: usize) -> ProcessId {
        ProcessId { index: u32::try_from(index).expect("few processes"), life: self.life }
    }

    /// What it is when nothing of it is left.
    fn after(&mut self, exit: Exit) -> State {
        match self.pause_until.take() {
            Some(until) => State::Backoff { until },
            None => State::Down { last: Some(exit) },
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
