//! One process: what it is, what is wanted of it, and its way from the one to
//! the other.

#![warn(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::backoff::{Chance, FORGIVEN_AFTER, pause};
use super::exit::Exit;
use super::state::{Leader, Pace, ProcessId, State, Want};
use crate::keeper::protocol::Member;
use crate::notice::{Next, Notice, members};
use crate::plan::{self, OnExit, Policy};

/// Something that has to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Start a process, as the plan has it.
    Spawn(ProcessId, Arc<plan::Process>),
    /// Ask a process and all that belongs to it to end, or kill them.
    Stop(ProcessId, Signal),
    /// Ask those who belong to no process to end.
    StopStrays,
    /// Kill whatever is left.
    Sweep,
    /// Say something.
    Say(Notice),
}

/// What is known of a process.
#[derive(Clone, Debug)]
pub struct Status {
    /// What the plan says of it.
    pub plan: Arc<plan::Process>,
    /// What it is.
    pub state: State,
    /// Whether the plan has it; else it is on its way down for good.
    pub planned: bool,
    /// Whether it is to be up.
    pub wanted: bool,
    /// Its process id, if something of it is there.
    pub pid: Option<i32>,
    /// How it ended last.
    pub last: Option<Exit>,
    /// How often it has been started again.
    pub restarts: u32,
}

/// How long something that was killed may take to be gone.
const KILLED_IS_GONE_IN: Duration = Duration::from_secs(5);

/// A process of the plan, through all its lives.
pub(super) struct Process {
    index: u32,
    /// What the plan says of it.
    pub(super) plan: Arc<plan::Process>,
    /// Whether the plan has it no more: once down, it is forgotten.
    retired: bool,
    /// Whether it is to be started again when its turn comes.
    pub(super) due: bool,
    pub(super) want: Want,
    pub(super) state: State,
    life: u32,
    pid: Option<i32>,
    /// How it ended last.
    last: Option<Exit>,
    /// Who of it lived on when the process that was started ended.
    left: Vec<Member>,
    crashes: u32,
    /// Not started again before this.
    pause_until: Option<Instant>,
}

impl Process {
    /// A new process of the plan, wanted up.
    pub(super) fn new(index: u32, plan: Arc<plan::Process>) -> Self {
        Self {
            index,
            plan,
            retired: false,
            due: false,
            want: Want::Up,
            state: State::Down,
            life: 0,
            pid: None,
            last: None,
            left: Vec::new(),
            crashes: 0,
            pause_until: None,
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

    /// The plan says something new of it, or has it again. True if it is wanted, and
    /// would run otherwise now.
    pub(super) fn adopt(&mut self, plan: Arc<plan::Process>) -> bool {
        let as_before = plan.runs_like(&self.plan);
        self.plan = plan;
        if std::mem::take(&mut self.retired) {
            self.want = Want::Up;
        }
        !as_before && self.want == Want::Up
    }

    /// Starts it again, whatever it is now, at once or when its turn comes.
    pub(super) fn restart(&mut self, pace: Pace, now: Instant, actions: &mut Vec<Action>) {
        if self.retired {
            return;
        }
        if pace == Pace::Rolling {
            self.due = true;
            return;
        }
        self.due = false;
        self.want = Want::Up;
        self.crashes = 0;
        self.pause_until = None;
        match self.state {
            State::Starting | State::Up { .. } => self.ask_to_stop(Leader::Up, now, actions),
            State::Backoff { .. } => self.state = State::Down,
            // It comes back when it is gone.
            State::Stopping { .. } | State::Killed { .. } | State::Stuck { .. } | State::Down => {}
        }
    }

    /// Lets it go down, and stay there.
    pub(super) fn stop(&mut self) {
        self.due = false;
        self.want = Want::Down;
    }

    /// The plan has it no more.
    pub(super) fn retire(&mut self) {
        self.retired = true;
        self.stop();
    }

    /// Whether it can be forgotten.
    pub(super) fn is_past(&self) -> bool {
        self.retired && matches!(self.state, State::Down)
    }

    pub(super) fn status(&self) -> Status {
        Status {
            plan: Arc::clone(&self.plan),
            state: self.state,
            planned: !self.retired,
            wanted: self.want == Want::Up,
            pid: self.pid,
            last: self.last,
            restarts: self.life.saturating_sub(1),
        }
    }

    /// What it is called where it is waited for.
    pub(super) fn known_as(&self) -> String {
        match self.pid {
            _ if !self.left.is_empty() => format!("{} ({})", self.name(), members(&self.left)),
            Some(pid) => format!("{} (pid {pid})", self.name()),
            None => self.name().to_owned(),
        }
    }

    pub(super) fn on_spawned(&mut self, pid: i32, now: Instant, actions: &mut Vec<Action>) {
        self.pid = Some(pid);
        match self.state {
            State::Starting => self.state = State::Up { since: now, pid },
            State::Stopping { .. } | State::Killed { .. } | State::Stuck { .. } => {}
            State::Down | State::Backoff { .. } | State::Up { .. } => return,
        }
        let (name, port) = (self.name().to_owned(), self.plan.port);
        actions.push(Action::Say(Notice::Started { name, pid, port }));
    }

    /// It has ended, or never began. Returns what follows, if it did so without
    /// being told to.
    pub(super) fn on_exited(
        &mut self,
        exit: Exit,
        left: Vec<Member>,
        chance: &mut Chance,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Option<Next> {
        let since = match &mut self.state {
            State::Starting => None,
            State::Up { since, .. } => Some(*since),
            State::Stopping { leader, .. }
            | State::Killed { leader, .. }
            | State::Stuck { leader } => {
                *leader = Leader::Stopped(exit);
                self.left = left;
                if self.left.is_empty() {
                    self.on_empty(actions);
                }
                return None;
            }
            State::Down | State::Backoff { .. } => return None,
        };
        let next = self.what_follows(exit, since, chance, now);
        if left.is_empty() {
            self.is_gone(exit);
        } else {
            self.ask_to_stop(Leader::Exited(exit), now, actions);
        }
        self.left.clone_from(&left);
        let name = self.name().to_owned();
        actions.push(Action::Say(Notice::Exited { name, exit, left, next }));
        Some(next)
    }

    /// What its policy says of an exit that nobody asked for.
    fn what_follows(
        &mut self,
        exit: Exit,
        up_since: Option<Instant>,
        chance: &mut Chance,
        now: Instant,
    ) -> Next {
        let forgiven = up_since.is_some_and(|since| now.duration_since(since) >= FORGIVEN_AFTER);
        if forgiven || !exit.failed() {
            self.crashes = 0;
        }
        self.crashes += u32::from(exit.failed());
        let backoff = self.policy().backoff;
        let restart = match self.policy().on_exit {
            OnExit::Restart => true,
            OnExit::RestartOnFailure => exit.failed(),
            OnExit::StopAll | OnExit::Ignore => false,
        };
        let too_many = backoff.give_up_after.is_some_and(|most| self.crashes >= most);
        let next = match (self.policy().on_exit, restart) {
            (OnExit::StopAll, _) => Next::StopAll,
            (_, true) if exit.failed() && too_many => Next::GiveUp(self.crashes),
            (_, true) => Next::Restart(pause(backoff, self.crashes, chance)),
            (_, false) => Next::StayDown,
        };
        self.pause_until = match next {
            Next::Restart(pause) => Some(now + pause),
            Next::StopAll | Next::StayDown | Next::GiveUp(_) => {
                self.want = Want::Down;
                None
            }
        };
        next
    }

    /// Of what had ended, nobody is left.
    pub(super) fn on_empty(&mut self, actions: &mut Vec<Action>) {
        let leader = match self.state {
            State::Stopping { leader, .. }
            | State::Killed { leader, .. }
            | State::Stuck { leader } => leader,
            State::Down | State::Backoff { .. } | State::Starting | State::Up { .. } => {
                return;
            }
        };
        match leader {
            Leader::Up => {}
            Leader::Exited(exit) => self.is_gone(exit),
            Leader::Stopped(exit) => {
                self.is_gone(exit);
                let name = self.name().to_owned();
                actions.push(Action::Say(Notice::Stopped { name, exit }));
            }
        }
    }

    fn is_gone(&mut self, exit: Exit) {
        self.pid = None;
        self.last = Some(exit);
        self.left.clear();
        self.state = match self.pause_until.take() {
            Some(until) => State::Backoff { until },
            None => State::Down,
        };
    }

    /// Moves it one step from what it is to what is wanted. True if it was killed
    /// because it did not go.
    pub(super) fn reconcile(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        match (self.want, self.state) {
            (Want::Up, State::Down) => self.spawn(actions),
            (Want::Up, State::Backoff { until }) => {
                if until <= now {
                    self.spawn(actions);
                }
            }
            (Want::Down, State::Backoff { .. }) => self.state = State::Down,
            (Want::Down, State::Starting | State::Up { .. }) => {
                self.ask_to_stop(Leader::Up, now, actions);
            }
            (Want::Up | Want::Down, State::Stopping { kill_at, .. }) => {
                if kill_at <= now {
                    return self.kill(Some(self.policy().grace), now, actions);
                }
            }
            (Want::Up | Want::Down, State::Killed { give_up_at, leader }) => {
                if give_up_at <= now {
                    self.state = State::Stuck { leader };
                    let name = self.name().to_owned();
                    actions.push(Action::Say(Notice::Unkillable { name }));
                }
            }
            (Want::Up, State::Starting | State::Up { .. })
            | (Want::Down, State::Down)
            | (Want::Up | Want::Down, State::Stuck { .. }) => {}
        }
        false
    }

    fn ask_to_stop(&mut self, leader: Leader, now: Instant, actions: &mut Vec<Action>) {
        let Policy { grace, stop_signal, .. } = self.policy();
        self.state = State::Stopping { kill_at: now + grace, leader };
        actions.push(Action::Stop(self.id(), stop_signal));
    }

    fn spawn(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Starting;
        self.life += 1;
        actions.push(Action::Spawn(self.id(), Arc::clone(&self.plan)));
    }

    /// Kills it, if it has been asked to end; true if so. `grace`: how long it
    /// had, unless the user would not wait.
    pub(super) fn kill(
        &mut self,
        grace: Option<Duration>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        let State::Stopping { leader, .. } = self.state else { return false };
        self.state = State::Killed { give_up_at: now + KILLED_IS_GONE_IN, leader };
        actions.push(Action::Stop(self.id(), Signal::SIGKILL));
        let (name, signal) = (self.name().to_owned(), self.policy().stop_signal);
        actions.push(Action::Say(Notice::Killing { name, signal, grace }));
        true
    }
}
