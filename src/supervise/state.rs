//! What a process is, what is wanted of it, and what can be said of that alone.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::{Duration, Instant};

use crate::exit::Exit;
use crate::keeper::protocol::ChildId;

/// One life of one process: nothing of an earlier life is taken for this one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ProcessId {
    /// Its number, which no other process ever has.
    pub index: u32,
    /// How often it has been started, this time included.
    pub life: u32,
}

/// How the keeper and the mux know it.
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

/// What tells a command that looks after a process from the process itself.
const CHECK: u64 = 1 << 63;

impl ProcessId {
    /// How the keeper knows the command that says whether this process is ready.
    pub(super) fn check(self) -> ChildId {
        ChildId(ChildId::from(self).0 | CHECK)
    }

    /// The process that is looked after, if this is such a command.
    pub(super) fn of_check(id: ChildId) -> Option<Self> {
        (id.0 & CHECK != 0).then(|| ChildId(id.0 & !CHECK).into())
    }
}

/// How many are started again at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestartMode {
    /// All.
    AtOnce,
    /// One, and the next when it is up.
    Rolling,
}

/// What a process is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Want {
    /// It is to run.
    Up,
    /// It is not.
    Down(DownReason),
}

/// Why a process is not to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DownReason {
    /// It has ended, and that was all.
    Finished,
    /// It has failed, and is not tried again by itself.
    Failed,
    /// Somebody said so.
    StoppedByUser,
    /// The plan has it no more: once it is down, it is forgotten.
    Removed,
}

/// Whether others can count on a process that runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// Not yet.
    Awaited {
        /// When that is said to take too long.
        until: Instant,
    },
    /// Not yet, and that takes too long.
    Late,
    /// They can.
    Ready,
}

/// How long whoever waits for a process goes on doing so, however often it is started
/// meanwhile: time to get ready is not won by crashing. While it waits itself, that time
/// stands still.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Patience {
    /// From its next start on, as long as its plan says.
    Whole,
    /// From its next start on, for so long.
    Left(Duration),
    /// Until then.
    Until(Instant),
    /// No longer.
    KeeperError,
}

/// What a process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Nothing of it is there.
    Down,
    /// The same, until it is started again.
    Backoff {
        /// When that is.
        until: Instant,
    },
    /// The same, until those that it comes after are ready, and what it needs is there.
    Waiting {
        /// When it gives up on what it needs, if that is not there yet.
        until: Option<Instant>,
    },
    /// It is being started.
    Starting,
    /// It runs.
    Up {
        /// Since when.
        since: Instant,
        /// Its process id.
        pid: i32,
        /// Whether others can count on it.
        ready: Readiness,
    },
    /// It was asked to end.
    Stopping {
        /// When descendants outside of its group are asked, too, whose parents have
        /// not stopped them; none once they are.
        descendants_at: Option<Instant>,
        /// When it is killed.
        kill_at: Instant,
        /// What has become of the process that was started.
        leader: Leader,
    },
    /// It was killed.
    Killed {
        /// When nobody waits for it any longer.
        give_up_at: Instant,
        /// What has become of the process that was started.
        leader: Leader,
    },
    /// It was killed and doesn't go: nobody waits for it, but as long as it is
    /// there, it is not started again.
    Stuck {
        /// What has become of the process that was started.
        leader: Leader,
    },
}

/// What has become of the process that was started, while others of it may live.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leader {
    /// It runs.
    Up,
    /// It ended by itself, which has been said.
    Exited(Exit),
    /// It ended because it was told to, which is said when nobody is left.
    Stopped(Exit),
}

impl State {
    /// Whether nobody has to wait for it.
    pub(super) fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::Stuck { .. })
    }

    /// Whether something of it is there.
    #[must_use]
    pub fn runs(self) -> bool {
        match self {
            Self::Starting
            | Self::Up { .. }
            | Self::Stopping { .. }
            | Self::Killed { .. }
            | Self::Stuck { .. } => true,
            Self::Down | Self::Backoff { .. } | Self::Waiting { .. } => false,
        }
    }

    /// The same, but for what doesn't go whatever is done: nobody waits for that.
    pub(super) fn has_begun(self) -> bool {
        self.runs() && !self.is_down()
    }

    /// Whether it has been asked to end, and nobody has given up on that.
    pub(super) fn is_going(self) -> bool {
        matches!(self, Self::Stopping { .. } | Self::Killed { .. })
    }

    /// Whether it runs, and others can count on it.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Up { ready: Readiness::Ready, .. })
    }

    /// When it is killed, if it has been asked to end.
    pub(super) fn kill_at(self) -> Option<Instant> {
        match self {
            Self::Stopping { kill_at, .. } => Some(kill_at),
            Self::Down
            | Self::Backoff { .. }
            | Self::Waiting { .. }
            | Self::Starting
            | Self::Up { .. }
            | Self::Killed { .. }
            | Self::Stuck { .. } => None,
        }
    }

    /// When it ends by itself: something is to be done then.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Backoff { until } | Self::Up { ready: Readiness::Awaited { until }, .. } => {
                Some(until)
            }
            Self::Waiting { until } => until,
            Self::Stopping { descendants_at, kill_at, .. } => {
                Some(descendants_at.map_or(kill_at, |at| at.min(kill_at)))
            }
            Self::Killed { give_up_at, .. } => Some(give_up_at),
            Self::Down | Self::Starting | Self::Up { .. } | Self::Stuck { .. } => None,
        }
    }
}
