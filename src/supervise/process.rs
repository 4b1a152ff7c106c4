//! One process: what it is, what is wanted of it, and its way from the one to
//! the other.

#![warn(clippy::wildcard_enum_match_arm)]

mod step;
mod waiting;

use std::sync::Arc;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::backoff::{Chance, FORGIVEN_AFTER, pause};
use super::state::{DownReason, Leader, Patience, ProcessId, RestartMode, State, Want};
use super::status::Status;
use crate::exit::Exit;
use crate::keeper::protocol::Descendant;
use crate::notice::{Next, Notice, members};
use crate::plan::{self, OnExit, Policy};

/// Something that has to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Find out whether what a process needs is there: `Met` and `Unmet` say so.
    ProbeNeeds(ProcessId, Arc<plan::Process>),
    /// Start a process, as the plan has it.
    Spawn(ProcessId, Arc<plan::Process>),
    /// Find out when a process is ready: `Ready` says so.
    Probe(ProcessId, Arc<plan::Process>),
    /// Find out no more for it.
    CancelProbe(ProcessId),
    /// Ask a process and its group to end, and what left the group once its parent is
    /// gone; or kill all of them.
    Stop(ProcessId, Signal),
    /// Ask all of its descendants to end that have not been asked.
    StopDescendants(ProcessId, Signal),
    /// Ask those who belong to no process to end.
    StopOrphans,
    /// Kill whatever is left.
    Sweep,
    /// Say something.
    Notify(Notice),
}

/// A process of the plan, through all its lives.
pub(super) struct Process {
    index: u32,
    /// What the plan says of it.
    pub(super) plan: Arc<plan::Process>,
    /// Whether it is to be started again when its turn comes.
    pub(super) due: bool,
    pub(super) want: Want,
    pub(super) state: State,
    life: u32,
    /// How often it has really been started.
    starts: u32,
    /// The port that what runs of it was given, to itself.
    pub(super) port_in_use: Option<u16>,
    pid: Option<i32>,
    /// How it ended last.
    last: Option<Exit>,
    /// Who of it lived on when the process that was started ended.
    left: Vec<Descendant>,
    crashes: u32,
    /// Not started again before this.
    pause_until: Option<Instant>,
    /// Of those who wait for it.
    patience: Patience,
    /// What it needs and is not there.
    unmet: Vec<String>,
    /// Those that it comes after and are not ready.
    awaited: Vec<String>,
    /// What came of the last try to find out whether it is ready, if it is not.
    tried: Option<String>,
}

/// What a step had for consequences beyond the process.
pub(super) enum Consequence {
    /// It was killed, because it did not go.
    Killed,
    /// It failed before it ran.
    StartFailed(Exit, Next),
    /// It takes too long to become ready.
    ReadyTimedOut,
}

impl Process {
    /// A new process of the plan, wanted up.
    pub(super) fn new(index: u32, plan: Arc<plan::Process>) -> Self {
        Self {
            index,
            plan,
            due: false,
            want: Want::Up,
            state: State::Down,
            life: 0,
            starts: 0,
            port_in_use: None,
            pid: None,
            last: None,
            left: Vec::new(),
            crashes: 0,
            pause_until: None,
            patience: Patience::Whole,
            unmet: Vec::new(),
            awaited: Vec::new(),
            tried: None,
        }
    }

    pub(super) fn id(&self) -> ProcessId {
        ProcessId { index: self.index, life: self.life }
    }

    /// When something is to be done, though nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.want, self.state) {
            // Nothing depends on its readiness any more.
            (Want::Down(_), State::Up { .. }) => None,
            (Want::Up | Want::Down(_), state) => state.deadline(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(super) fn policy(&self) -> Policy {
        self.plan.policy
    }

    /// Somebody says so: what was before doesn't count.
    fn want_up(&mut self) {
        self.want = Want::Up;
        self.patience = Patience::Whole;
    }

    /// Starts it again, whatever it is now, at once or when its turn comes.
    pub(super) fn restart(&mut self, pace: RestartMode, now: Instant, actions: &mut Vec<Action>) {
        if self.is_removed() {
            return;
        }
        if pace == RestartMode::Rolling {
            self.due = true;
            return;
        }
        self.due = false;
        self.want_up();
        self.crashes = 0;
        self.pause_until = None;
        match self.state {
            State::Starting | State::Up { .. } => self.ask_to_stop(Leader::Up, now, actions),
            State::Backoff { .. } => self.state = State::Down,
            State::Waiting { .. } => self.wait_no_more(actions),
            // It comes back when it is gone.
            State::Stopping { .. } | State::Killed { .. } | State::Stuck { .. } | State::Down => {}
        }
    }

    /// Lets it go down, and stay there.
    pub(super) fn stop(&mut self) {
        self.due = false;
        if !self.is_removed() {
            self.want = Want::Down(DownReason::StoppedByUser);
        }
    }

    /// The plan has it no more.
    pub(super) fn retire(&mut self) {
        self.due = false;
        self.want = Want::Down(DownReason::Removed);
    }

    /// Whether it still has a port that another may be to have by now.
    pub(super) fn holds_old_port(&self) -> bool {
        self.port_in_use.is_some()
            && (self.is_removed() || self.port_in_use != own_port(&self.plan))
    }

    pub(super) fn is_removed(&self) -> bool {
        self.want == Want::Down(DownReason::Removed)
    }

    /// Whether it is down because it failed.
    pub(super) fn has_failed(&self) -> bool {
        self.want == Want::Down(DownReason::Failed)
    }

    /// Whether it can be forgotten.
    pub(super) fn is_removable(&self) -> bool {
        self.is_removed() && self.state == State::Down
    }

    pub(super) fn status(&self) -> Status {
        Status {
            plan: Arc::clone(&self.plan),
            state: self.state,
            want: self.want,
            pid: self.pid,
            last: self.last,
            restarts: self.starts.saturating_sub(1),
            waits_for: self.waits_for(),
            crashes: self.crashes,
            late: self.is_late(),
            due: self.due,
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
            State::Starting => {
                let ready = self.await_ready(now, actions);
                self.state = State::Up { since: now, pid, ready };
            }
            State::Stopping { .. } | State::Killed { .. } | State::Stuck { .. } => {}
            State::Down | State::Backoff { .. } | State::Waiting { .. } | State::Up { .. } => {
                return;
            }
        }
        self.tried = None;
        let (name, port) = (self.name().to_owned(), self.plan.port);
        let listened = self.plan.listen;
        actions.push(Action::Notify(Notice::Started { name, pid, port, listened }));
    }

    /// It has ended, or never began. Returns what follows, if it did so without
    /// being told to.
    pub(super) fn on_exited(
        &mut self,
        exit: Exit,
        left: Vec<Descendant>,
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
            State::Down | State::Backoff { .. } | State::Waiting { .. } => return None,
        };
        let next = self.what_follows(exit, since, chance, now);
        if left.is_empty() {
            self.is_gone(exit);
        } else {
            self.ask_to_stop(Leader::Exited(exit), now, actions);
        }
        self.left.clone_from(&left);
        let name = self.name().to_owned();
        actions.push(Action::Notify(Notice::Exited { name, exit, left, next }));
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
        // What is not there is no fault of its own: it is waited for as long as it takes.
        let crashed = exit.failed() && exit != Exit::DependencyFailed;
        self.crashes += u32::from(crashed);
        let backoff = self.policy().backoff;
        let restart = match self.policy().on_exit {
            OnExit::Restart => true,
            OnExit::RestartOnFailure => exit.failed(),
            OnExit::StopAll | OnExit::Ignore => false,
        };
        let too_many = backoff.give_up_after.is_some_and(|most| self.crashes >= most);
        let next = match (self.policy().on_exit, restart) {
            (OnExit::StopAll, _) => Next::StopAll,
            (_, true) if crashed && too_many => Next::GiveUp(self.crashes),
            (_, true) => Next::Restart(pause(backoff, self.crashes, chance)),
            (_, false) => Next::StayDown,
        };
        self.pause_until = match next {
            Next::Restart(pause) => Some(now + pause),
            Next::StopAll | Next::StayDown | Next::GiveUp(_) => {
                self.want = Want::Down(if exit.failed() {
                    DownReason::Failed
                } else {
                    DownReason::Finished
                });
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
            State::Down
            | State::Backoff { .. }
            | State::Waiting { .. }
            | State::Starting
            | State::Up { .. } => return,
        };
        match leader {
            Leader::Up => {}
            Leader::Exited(exit) => self.is_gone(exit),
            Leader::Stopped(exit) => {
                self.is_gone(exit);
                let name = self.name().to_owned();
                actions.push(Action::Notify(Notice::Stopped { name, exit }));
            }
        }
    }

    fn is_gone(&mut self, exit: Exit) {
        self.pid = None;
        self.port_in_use = None;
        self.last = Some(exit);
        self.left.clear();
        self.state = match self.pause_until.take() {
            Some(until) => State::Backoff { until },
            None => State::Down,
        };
    }
}

/// The port that a process has to itself: one that ganger listens on is everybody's.
pub(super) fn own_port(plan: &plan::Process) -> Option<u16> {
    plan.port.filter(|_| !plan.listen)
}
