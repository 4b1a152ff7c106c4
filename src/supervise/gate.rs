//! What the other processes let a process do.

use crate::notice::Chain;

/// What the other processes let a process do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Gate {
    pub(super) start: StartGate,
    /// Whether no other process has to stop first.
    pub(super) may_stop: bool,
}

/// Whether the dependencies of a process let it start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum StartGate {
    /// They are ready, or don't matter.
    Open,
    /// These are not ready yet.
    Waiting(Vec<String>),
    /// One of them will not be ready.
    Failed(Chain),
}

impl Gate {
    /// Where no other process matters.
    pub(super) const FREE: Self = Self { start: StartGate::Open, may_stop: true };
}
