//! A process as whoever looks at it sees it.

use std::sync::Arc;

use super::state::{DownReason, State, Want};
use crate::exit::Exit;
use crate::plan;

/// What is known of a process.
#[derive(Clone, Debug)]
pub struct Status {
    /// What the plan says of it.
    pub plan: Arc<plan::Process>,
    /// What it is.
    pub state: State,
    /// What it is to be.
    pub want: Want,
    /// Its process id, if something of it is there.
    pub pid: Option<i32>,
    /// How it ended last.
    pub last: Option<Exit>,
    /// How often it has been started again.
    pub restarts: u32,
    /// What it waits for before it is started.
    pub waits_for: Vec<String>,
    /// How often it has crashed in a row.
    pub crashes: u32,
    /// Whether it takes too long to become ready, be it up or between two tries.
    pub late: bool,
    /// Whether it is to be started again when its turn comes.
    pub due: bool,
}

impl Status {
    /// Whether the plan has it; else it is on its way down for good.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.want != Want::Down(DownReason::Removed)
    }

    /// Whether it is to run.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.want == Want::Up
    }

    /// Whether it is down because it failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.want == Want::Down(DownReason::Failed)
    }

    /// Whether it is started again, or started, when it would run otherwise now: also
    /// one that has failed, which that may mend.
    #[must_use]
    pub fn restarts_on_change(&self) -> bool {
        self.is_wanted() || self.has_failed()
    }

    /// The same, when a file changes that it watches: also one that is done.
    #[must_use]
    pub fn restarts_on_file_change(&self) -> bool {
        self.restarts_on_change() || self.want == Want::Down(DownReason::Finished)
    }
}
