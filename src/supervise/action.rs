//! What the supervisor has the engine do.

use std::sync::Arc;

use nix::sys::signal::Signal;

use super::state::ProcessId;
use crate::notice::Notice;
use crate::plan;

/// Something that has to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Probe whether the services that a process needs are reachable; `NeedsProbed` has the
    /// result.
    ProbeNeeds(ProcessId, Arc<plan::ProcessPlan>),
    /// Start a process, as the plan has it.
    Spawn(ProcessId, Arc<plan::ProcessPlan>),
    /// Probe until the process is ready, which the event `Ready` reports.
    Probe(ProcessId, Arc<plan::ProcessPlan>),
    /// End all probes for this process.
    CancelProbe(ProcessId),
    /// Send a signal to a process and its group, and to what left the group once its parent
    /// is gone; or kill all of them.
    Stop(ProcessId, Signal),
    /// Send a signal to all of its descendants that have not got one.
    StopDescendants(ProcessId, Signal),
    /// Ask the orphans to stop: what lives and belongs to no process.
    StopOrphans,
    /// Kill whatever is left.
    Sweep,
    /// Print a message.
    Notify(Notice),
}
