//! Ports that processes need and that other programs use.

use std::sync::Arc;

use super::port_scan::Listening;
use crate::notice::PortConflict;
use crate::plan::ProcessPlan;
use crate::plan::ready::Ready;

/// The ports of these processes on which other programs listen.
pub fn port_conflicts<'a>(
    processes: impl IntoIterator<Item = &'a Arc<ProcessPlan>>,
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

/// The program that listens on a port. All processes of the system are read once, for all ports.
#[cfg(target_os = "linux")]
fn owner(table: &mut ProcessTable, port: u16, listening: &Listening) -> Option<String> {
    let table = table.get_or_insert_with(super::port_scan::ProcessTable::take);
    table.owner(port, listening).map(|owner| owner.to_string())
}

#[cfg(not(target_os = "linux"))]
fn owner(_: &mut ProcessTable, _: u16, _: &Listening) -> Option<String> {
    None
}
