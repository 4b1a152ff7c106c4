//! The desired and the actual state of a process.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::Instant;

use crate::exit::Exit;
use crate::keeper::protocol::{ChildId, Descendant};

/// One life of one process: no event of an earlier life counts for this one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ProcessId {
    /// The number of the process, which no other process ever has.
    pub index: u32,
    /// How often it has been started, this time included.
    pub life: u32,
}

/// The id by which the keeper and the mux know this life.
impl From<ProcessId> for ChildId {
    fn from(id: ProcessId) -> Self {
        Self((u64::from(id.life) << 32) | u64::from(id.index))
    }
}

impl From<ChildId> for ProcessId {
    fn from(id: ChildId) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("32 bits");
        Self { index: half(id.0), life: half(id.0 >> 32) }
    }
}

/// The bit that distinguishes the probe command of a process from the process itself.
const CHECK: u64 = 1 << 63;

impl ProcessId {
    /// The id by which the keeper knows the probe command of this process.
    pub(super) fn check(self) -> ChildId {
        ChildId(ChildId::from(self).0 | CHECK)
    }

    /// The process that is probed, if this is the id of a probe command.
    pub(super) fn of_check(id: ChildId) -> Option<Self> {
        (id.0 & CHECK != 0).then(|| ChildId(id.0 & !CHECK).into())
    }
}

/// How many processes are restarted at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestartMode {
    /// All.
    AtOnce,
    /// One, and the next when it is ready.
    Rolling,
}

/// The desired state of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Want {
    /// It should run.
    Up,
    /// It should not run.
    Down(DownReason),
}

/// Why a process should not run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DownReason {
    /// It has exited, and its restart policy leaves it at that.
    Finished,
    /// It has failed, and is not restarted any more.
    Failed,
    /// A user stopped it.
    StoppedByUser,
    /// It is not in the plan any more: once it is down, it is removed.
    Removed,
}

/// The actual state of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// Nothing of it runs.
    Down,
    /// Nothing of it runs, and it will be restarted.
    Backoff {
        /// When it is restarted.
        until: Instant,
    },
    /// Nothing of it runs, and it waits before it starts.
    Waiting {
        /// The services that it needs, until all are reachable.
        needs: Option<Needs>,
        /// The processes that it waits for.
        processes: Vec<String>,
    },
    /// It is being started.
    Starting {
        /// The port that it has to itself.
        port: Option<u16>,
    },
    /// It runs.
    Up {
        /// When it was started.
        since: Instant,
        /// Its process id.
        pid: i32,
        /// The port that it has to itself.
        port: Option<u16>,
    },
    /// It was asked to stop.
    Stopping {
        /// What still runs of it.
        rest: Remainder,
        /// When descendants outside of its process group are asked as well, which their
        /// parents have not stopped; none once they are.
        descendants_at: Option<Instant>,
        /// When its grace period ends.
        kill_at: Instant,
    },
    /// It was killed.
    Killed {
        /// What still runs of it.
        rest: Remainder,
        /// When ganger stops waiting for its end.
        give_up_at: Instant,
    },
    /// It was killed, and still runs. Nothing waits for its end, but as long as it runs, it
    /// is not restarted.
    Stuck {
        /// What still runs of it.
        rest: Remainder,
    },
}

/// The services that a process needs and that are not all reachable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Needs {
    /// When it stops waiting for them.
    pub until: Instant,
    /// The ones that were not reachable at the last probe; empty before the first.
    pub missing: Vec<String>,
}

/// What still runs of a process that was asked to stop, or whose leader has exited.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remainder {
    /// The process id of the leader, if it ever ran.
    pub pid: Option<i32>,
    /// The port that it has to itself.
    pub port: Option<u16>,
    /// The process that was started.
    pub leader: Leader,
}

/// The process that was started, as opposed to its descendants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Leader {
    /// It runs, or is being started.
    Running,
    /// It runs, and was asked to stop because it has failed, which a message has said.
    Failing {
        /// What its failure counts as.
        exit: Exit,
        /// When it is restarted, if it is.
        restart_at: Option<Instant>,
    },
    /// It exited by itself, which a message has reported.
    Exited {
        /// How it ended.
        exit: Exit,
        /// The descendants that outlived it.
        left: Vec<Descendant>,
        /// When it is restarted, if it is.
        restart_at: Option<Instant>,
    },
    /// It exited after a stop; a message reports that when its group is empty.
    Stopped {
        /// How it ended.
        exit: Exit,
        /// The descendants that outlived it.
        left: Vec<Descendant>,
    },
}

impl State {
    /// Whether nothing has to wait for its end.
    pub(super) fn is_down(&self) -> bool {
        matches!(self, Self::Down | Self::Stuck { .. })
    }

    /// Whether something of it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match self {
            Self::Starting { .. }
            | Self::Up { .. }
            | Self::Stopping { .. }
            | Self::Killed { .. }
            | Self::Stuck { .. } => true,
            Self::Down | Self::Backoff { .. } | Self::Waiting { .. } => false,
        }
    }

    /// Whether something of it runs that can still be waited for.
    pub(super) fn is_active(&self) -> bool {
        self.is_running() && !self.is_down()
    }

    /// Whether it has been asked to stop, and ganger still waits for that.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self, Self::Stopping { .. } | Self::Killed { .. })
    }

    /// What still runs of it, once it was asked to stop.
    pub(super) fn remainder(&self) -> Option<&Remainder> {
        match self {
            Self::Stopping { rest, .. } | Self::Killed { rest, .. } | Self::Stuck { rest } => {
                Some(rest)
            }
            Self::Down
            | Self::Backoff { .. }
            | Self::Waiting { .. }
            | Self::Starting { .. }
            | Self::Up { .. } => None,
        }
    }

    /// The process id of what runs, if it is known.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self {
            Self::Up { pid, .. } => Some(*pid),
            Self::Stopping { rest, .. } | Self::Killed { rest, .. } | Self::Stuck { rest } => {
                rest.pid
            }
            Self::Down | Self::Backoff { .. } | Self::Waiting { .. } | Self::Starting { .. } => {
                None
            }
        }
    }

    /// The port that what runs has to itself.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Starting { port } | Self::Up { port, .. } => *port,
            Self::Stopping { rest, .. } | Self::Killed { rest, .. } | Self::Stuck { rest } => {
                rest.port
            }
            Self::Down | Self::Backoff { .. } | Self::Waiting { .. } => None,
        }
    }

    /// What it waits for before it starts.
    pub(super) fn waits_for(&self) -> Vec<String> {
        match self {
            Self::Waiting { needs, processes } => {
                let missing = needs.iter().flat_map(|needs| &needs.missing);
                missing.chain(processes).cloned().collect()
            }
            Self::Down
            | Self::Backoff { .. }
            | Self::Starting { .. }
            | Self::Up { .. }
            | Self::Stopping { .. }
            | Self::Killed { .. }
            | Self::Stuck { .. } => Vec::new(),
        }
    }

    /// When its grace period ends, if it has been asked to stop.
    pub(super) fn kill_at(&self) -> Option<Instant> {
        match self {
            Self::Stopping { kill_at, .. } => Some(*kill_at),
            Self::Down
            | Self::Backoff { .. }
            | Self::Waiting { .. }
            | Self::Starting { .. }
            | Self::Up { .. }
            | Self::Killed { .. }
            | Self::Stuck { .. } => None,
        }
    }

    /// When it changes though nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Backoff { until } => Some(*until),
            Self::Waiting { needs, .. } => needs.as_ref().map(|needs| needs.until),
            Self::Stopping { descendants_at, kill_at, .. } => {
                Some(descendants_at.map_or(*kill_at, |at| at.min(*kill_at)))
            }
            Self::Killed { give_up_at, .. } => Some(*give_up_at),
            Self::Down | Self::Starting { .. } | Self::Up { .. } | Self::Stuck { .. } => None,
        }
    }
}
