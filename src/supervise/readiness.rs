//! Whether others can count on a process, and until when they wait for it.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::{Duration, Instant};

use crate::notice::ProbeFailure;

/// Whether others can count on a process, and until when they wait for it.
///
/// The time goes on from one life to the next: a process does not win time to get ready by
/// crashing. It stands still while the process itself waits for others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// It has not been started since it was last ready, or since a user asked for it.
    NotStarted,
    /// It has been started, and waits to be started again.
    Paused {
        /// The time that is left to it, from its next start on.
        left: Duration,
        /// The result of the last probe that failed, if it is worth a message.
        last_failure: Option<ProbeFailure>,
    },
    /// It has been started, and is not ready yet.
    Pending {
        /// When that counts as too long.
        until: Instant,
        /// The result of the last probe that failed, if it is worth a message.
        last_failure: Option<ProbeFailure>,
    },
    /// It was not ready in time, and is not yet.
    TimedOut,
    /// Others can count on it, as long as it is up.
    Ready,
}

impl Readiness {
    /// A life begins, which may have to wait before it starts.
    pub(super) fn pause(&mut self, now: Instant) {
        match self {
            Self::Pending { until, last_failure } => {
                let left = until.saturating_duration_since(now);
                *self = Self::Paused { left, last_failure: last_failure.take() };
            }
            Self::NotStarted | Self::Paused { .. } | Self::TimedOut | Self::Ready => {}
        }
    }

    /// The process is started, and has `limit` to get ready, or what is left of it. True if
    /// nothing is left.
    pub(super) fn start(&mut self, now: Instant, limit: Duration) -> bool {
        let (left, last_failure) = match self {
            Self::NotStarted | Self::Ready => (limit, None),
            Self::Paused { left, last_failure } => (*left, last_failure.take()),
            Self::Pending { .. } | Self::TimedOut => return false,
        };
        *self = Self::Pending { until: now + left, last_failure };
        left.is_zero()
    }

    /// The process runs, and is probed from now on.
    pub(super) fn begin_probing(&mut self, now: Instant, limit: Duration) {
        self.start(now, limit);
        self.set_last_failure(None);
    }

    /// What is probed has changed: its time begins anew.
    pub(super) fn restart(&mut self, now: Instant, limit: Duration) {
        *self = Self::NotStarted;
        self.start(now, limit);
    }

    pub(super) fn set_last_failure(&mut self, result: Option<ProbeFailure>) {
        match self {
            Self::Pending { last_failure, .. } => *last_failure = result,
            Self::NotStarted | Self::Paused { .. } | Self::TimedOut | Self::Ready => {}
        }
    }

    /// It takes too long. Returns the result of the last probe.
    pub(super) fn time_out(&mut self) -> Option<ProbeFailure> {
        match std::mem::replace(self, Self::TimedOut) {
            Self::Pending { last_failure, .. } | Self::Paused { last_failure, .. } => last_failure,
            Self::NotStarted | Self::TimedOut | Self::Ready => None,
        }
    }

    /// The process does not run any more: if it was ready, it has its whole time again.
    pub(super) fn end(&mut self) {
        match self {
            Self::Ready => *self = Self::NotStarted,
            Self::NotStarted | Self::Paused { .. } | Self::Pending { .. } | Self::TimedOut => {}
        }
    }

    /// When it counts as too long, while the process is up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Pending { until, .. } => Some(*until),
            Self::NotStarted | Self::Paused { .. } | Self::TimedOut | Self::Ready => None,
        }
    }
}
