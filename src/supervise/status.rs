//! A process as whoever looks at it sees it.

use std::sync::Arc;

use super::exit::Exit;
use super::state::State;
use crate::plan;

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
    /// What it waits for before it is started.
    pub waits_for: Vec<String>,
    /// How often it has crashed in a row.
    pub crashes: u32,
    /// Whether it is down because it failed.
    pub fallen: bool,
    /// Whether it stays down because somebody said so.
    pub held: bool,
    /// Whether it takes too long to become ready, be it up or between two tries.
    pub late: bool,
    /// Whether it is to be started again when its turn comes.
    pub due: bool,
}

impl Status {
    /// Whether it is started again, or started, when it would run otherwise now: also
    /// one that has failed, which that may mend.
    #[must_use]
    pub fn follows_changes(&self) -> bool {
        self.wanted || (self.fallen && !self.held)
    }
}
