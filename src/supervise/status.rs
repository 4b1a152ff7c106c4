//! A process as clients see it.

use std::sync::Arc;

use super::readiness::Readiness;
use super::state::{DownReason, ProcessId, State, Want};
use crate::exit::Exit;
use crate::plan::{self, ready::Ready};

/// What is known of a process.
#[derive(Clone, Debug)]
pub struct Status {
    /// The id of its present life.
    pub id: ProcessId,
    /// Its plan.
    pub plan: Arc<plan::ProcessPlan>,
    /// Its actual state.
    pub state: State,
    /// Whether others can count on it, and until when they wait for it.
    pub readiness: Readiness,
    /// Its desired state.
    pub want: Want,
    /// How its last life ended.
    pub last: Option<Exit>,
    /// How often it has been started again.
    pub restarts: u32,
    /// How often it has crashed in a row.
    pub crashes: u32,
    /// Whether a rolling restart will come to it.
    pub restart_pending: bool,
}

impl Status {
    /// Whether the plan has it; else it is removed once it is down.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.want != Want::Down(DownReason::Removed)
    }

    /// Whether it should run.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.want == Want::Up
    }

    /// Whether it is down because it failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.want == Want::Down(DownReason::Failed)
    }

    /// Whether others can count on it: it runs and is ready, or it is a job that is done.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_up = matches!(self.state, State::Up { .. });
        self.is_done() || is_up && self.readiness == Readiness::Ready
    }

    /// Whether it is a job (`ready = { exit = true }`) that has exited with 0.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.plan.ready == Ready::Exit && self.want == Want::Down(DownReason::Finished)
    }

    /// Whether it was not ready in time, and still is not, be it up or between two lives.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.readiness == Readiness::TimedOut
    }

    /// The process id of what runs, if it is known.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.state.pid()
    }

    /// What it waits for before it starts.
    #[must_use]
    pub fn waits_for(&self) -> Vec<String> {
        self.state.waits_for()
    }

    /// Whether it is restarted when a file changes that it watches: also if it has failed or
    /// finished, but not if a user stopped it.
    #[must_use]
    pub fn restarts_on_file_change(&self) -> bool {
        match self.want {
            Want::Up | Want::Down(DownReason::Failed | DownReason::Finished) => true,
            Want::Down(DownReason::StoppedByUser | DownReason::Removed) => false,
        }
    }
}
