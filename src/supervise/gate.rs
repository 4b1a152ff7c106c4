//! What the other processes let a process do.

use crate::notice::Chain;

/// What the other processes let a process do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Gate {
    pub(super) start: StartGate,
    /// Whether no other process has to stop first.
    pub(super) may_stop: bool,
}

/// Whether its dependencies and its port let a process start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum StartGate {
    /// There is nothing to wait for.
    Open,
    /// Processes that are not ready yet, and processes that still have its port.
    Waiting { dependencies: Vec<String>, port_holders: Vec<String> },
    /// A dependency will not be ready.
    Failed(Chain),
}

impl Gate {
    /// Where no other process matters.
    pub(super) const FREE: Self = Self { start: StartGate::Open, may_stop: true };
}
