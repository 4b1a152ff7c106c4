//! Dependencies between processes: which of them start first, and which stop first. Where
//! there are none, nothing of this costs any time.

#![warn(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use super::gate::{Gate, StartGate};
use super::process::{Process, own_port};
use super::state::{DownReason, Want};
use crate::notice::Chain;

/// Which processes may matter for which others, so that each need not be compared with all.
#[derive(Default)]
pub(super) struct Dependencies {
    /// The processes of each type that others depend on.
    by_type: HashMap<String, Vec<usize>>,
    /// The processes that depend on a type.
    dependents: HashMap<String, Vec<usize>>,
    /// The processes that still have a port that another one may have by now.
    old_ports: HashMap<u16, Vec<usize>>,
}

impl Dependencies {
    pub(super) fn new(processes: &[Process]) -> Self {
        let mut all = Self::default();
        for (index, process) in processes.iter().enumerate() {
            for process_type in &process.plan.after {
                all.dependents.entry(process_type.clone()).or_default().push(index);
            }
            if let Some(port) = process.state.port().filter(|_| process.holds_old_port()) {
                all.old_ports.entry(port).or_default().push(index);
            }
        }
        if !all.dependents.is_empty() {
            for (index, process) in processes.iter().enumerate() {
                if all.dependents.contains_key(&process.plan.process_type) {
                    let process_type = process.plan.process_type.clone();
                    all.by_type.entry(process_type).or_default().push(index);
                }
            }
        }
        all
    }

    /// Whether no process matters for another.
    pub(super) fn are_none(&self) -> bool {
        self.dependents.is_empty() && self.old_ports.is_empty()
    }

    /// What the others let the process at `index` do.
    pub(super) fn gate(&self, index: usize, processes: &[Process]) -> Gate {
        if self.are_none() {
            return Gate::FREE;
        }
        let process = &processes[index];
        let stops_first = |other: &&Process| {
            depends_on(other, process) && other.want != Want::Up && other.state.is_active()
        };
        let dependents = self.dependents.get(&process.plan.process_type).into_iter().flatten();
        let may_stop = !dependents.map(|at| &processes[*at]).any(|it| stops_first(&it));
        Gate { start: self.start_gate(index, processes), may_stop }
    }

    fn start_gate(&self, index: usize, processes: &[Process]) -> StartGate {
        let process = &processes[index];
        let port_holders: Vec<String> =
            self.port_holders(index, processes).map(str::to_owned).collect();
        let mut dependencies = Vec::new();
        let types =
            process.plan.after.iter().filter_map(|process_type| self.by_type.get(process_type));
        let mut all: Vec<usize> = types.flatten().copied().collect();
        all.sort_unstable();
        for other in all.into_iter().map(|at| &processes[at]) {
            if !depends_on(process, other) {
                continue;
            }
            match dependency_state(other) {
                DependencyState::Ready => {}
                DependencyState::Pending => dependencies.push(other.name().to_owned()),
                DependencyState::Failed => return StartGate::Failed(chain(process, processes)),
            }
        }
        if dependencies.is_empty() && port_holders.is_empty() {
            return StartGate::Open;
        }
        StartGate::Waiting { dependencies, port_holders }
    }

    /// Processes that still have the port that this one is to have, and are on their way
    /// out or elsewhere.
    fn port_holders<'a>(
        &self,
        index: usize,
        processes: &'a [Process],
    ) -> impl Iterator<Item = &'a str> {
        let port = own_port(&processes[index].plan);
        let all = port.and_then(|port| self.old_ports.get(&port)).into_iter().flatten();
        let others = all.filter(move |at| **at != index).map(|at| &processes[*at]);
        others.filter(move |it| it.state.port() == port && it.holds_old_port()).map(Process::name)
    }
}

fn depends_on(process: &Process, other: &Process) -> bool {
    process.plan.after.contains(&other.plan.process_type) && !other.is_removed()
}

/// Whether what a dependency is needed for can go on.
enum DependencyState {
    /// It is ready, or does not matter.
    Ready,
    /// It may become ready.
    Pending,
    /// It will not become ready, unless a user does something.
    Failed,
}

fn dependency_state(process: &Process) -> DependencyState {
    match process.want {
        // A user has stopped it, and may start it again.
        Want::Down(DownReason::StoppedByUser) => DependencyState::Pending,
        Want::Down(DownReason::Failed) => DependencyState::Failed,
        // It has done its work, or is not part of the plan.
        Want::Down(DownReason::Finished | DownReason::Removed) => DependencyState::Ready,
        Want::Up if process.is_ready() => DependencyState::Ready,
        Want::Up if process.is_late() => DependencyState::Failed,
        Want::Up => DependencyState::Pending,
    }
}

/// From the last process that waits for `process` down to the dependency that failed.
fn chain(process: &Process, processes: &[Process]) -> Chain {
    let mut names = vec![process.name().to_owned()];
    let is_waiting = |other: &&Process| other.want == Want::Up && !other.state.is_active();
    let mut first = process;
    while let Some(next) = processes.iter().filter(is_waiting).find(|it| depends_on(it, first)) {
        names.insert(0, next.name().to_owned());
        first = next;
    }
    let mut last = process;
    let is_failed = |other: &&Process| matches!(dependency_state(other), DependencyState::Failed);
    while let Some(next) = processes.iter().filter(is_failed).find(|it| depends_on(last, it)) {
        names.push(next.name().to_owned());
        last = next;
    }
    Chain { names, reason: last.failure_reason() }
}
