//! What the other processes let a process do.

use crate::notice::Chain;

/// What the others mean for a process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Gate {
    pub(super) before: StartGate,
    /// Whether nobody has to be gone first.
    pub(super) may_stop: bool,
}

/// Those that a process comes after.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum StartGate {
    /// They are ready, or need not be.
    Open,
    /// These are still to be.
    Waiting(Vec<String>),
    /// One of them will not be.
    Failed(Chain),
}

impl Gate {
    /// Where nobody else matters.
    pub(super) const FREE: Self = Self { before: StartGate::Open, may_stop: true };
}
