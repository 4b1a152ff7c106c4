//! Ports that processes are to have and somebody else has.

use std::fmt;
use std::sync::Arc;

use super::port_scan::Listening;
use crate::plan::Process;
use crate::plan::ready::Ready;

/// A port that a process is to have and somebody else has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortConflict {
    /// `web.1`.
    pub process: String,
    /// The port.
    pub port: u16,
    /// Who has it, if this user may know.
    pub owner: Option<String>,
    /// Whether the process is nothing without it.
    pub required: bool,
}

impl fmt::Display for PortConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, port, owner, .. } = self;
        write!(f, "port {port}, which {process} is to have, is taken")?;
        owner.as_ref().map_or(Ok(()), |owner| write!(f, " by {owner}"))
    }
}

/// Those of these processes' ports that somebody listens on.
pub fn port_conflicts<'a>(
    processes: impl IntoIterator<Item = &'a Arc<Process>>,
    listening: &Listening,
) -> Vec<PortConflict> {
    let mut table = None;
    let mut all = Vec::new();
    for process in processes {
        let Some(port) = process.port.filter(|port| listening.contains_key(port)) else { continue };
        let required = process.listen || matches!(process.ready, Ready::Port | Ready::Http(_));
        let owner = owner(&mut table, port, listening);
        all.push(PortConflict { process: process.name.clone(), port, owner, required });
    }
    all
}

#[cfg(target_os = "linux")]
type ProcessTable = Option<super::port_scan::ProcessTable>;
#[cfg(not(target_os = "linux"))]
type ProcessTable = Option<()>;

/// To know who it is takes a look at every process, for all ports together.
#[cfg(target_os = "linux")]
fn owner(table: &mut ProcessTable, port: u16, listening: &Listening) -> Option<String> {
    let table = table.get_or_insert_with(super::port_scan::ProcessTable::take);
    table.owner(port, listening).map(|owner| owner.to_string())
}

#[cfg(not(target_os = "linux"))]
fn owner(_: &mut ProcessTable, _: u16, _: &Listening) -> Option<String> {
    None
}
