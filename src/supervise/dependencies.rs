//! What comes after what: who waits for whom at the start, and who goes first at
//! the end. Where nothing comes after anything, none of this is asked.

#![warn(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use super::gate::{Gate, StartGate};
use super::process::{Process, own_port};
use super::state::{DownReason, Readiness, State, Want};
use crate::notice::Chain;

/// Which processes may matter for which others, so that not each has to be compared
/// with all.
#[derive(Default)]
pub(super) struct Dependencies {
    /// The processes of each type that others come after.
    by_type: HashMap<String, Vec<usize>>,
    /// The processes that come after a type.
    dependents: HashMap<String, Vec<usize>>,
    /// The processes that still have a port that another one is to have.
    old_ports: HashMap<u16, Vec<usize>>,
}

impl Dependencies {
    pub(super) fn new(processes: &[Process]) -> Self {
        let mut all = Self::default();
        for (index, process) in processes.iter().enumerate() {
            for kind in &process.plan.after {
                all.dependents.entry(kind.clone()).or_default().push(index);
            }
            if let Some(port) = process.port_in_use.filter(|_| process.holds_old_port()) {
                all.old_ports.entry(port).or_default().push(index);
            }
        }
        if !all.dependents.is_empty() {
            for (index, process) in processes.iter().enumerate() {
                if all.dependents.contains_key(&process.plan.kind) {
                    let kind = process.plan.kind.clone();
                    all.by_type.entry(kind).or_default().push(index);
                }
            }
        }
        all
    }

    /// Whether no process matters for another.
    pub(super) fn are_none(&self) -> bool {
        self.dependents.is_empty() && self.old_ports.is_empty()
    }

    /// The place of the process at `index`.
    pub(super) fn gate(&self, index: usize, processes: &[Process]) -> Gate {
        if self.are_none() {
            return Gate::FREE;
        }
        let process = &processes[index];
        let waits_for_it = |other: &&Process| {
            comes_after(other, process) && other.want != Want::Up && other.state.has_begun()
        };
        let dependents = self.dependents.get(&process.plan.kind).into_iter().flatten();
        let may_stop = !dependents.map(|at| &processes[*at]).any(|it| waits_for_it(&it));
        Gate { before: self.before(index, processes), may_stop }
    }

    fn before(&self, index: usize, processes: &[Process]) -> StartGate {
        let process = &processes[index];
        let mut awaited: Vec<String> = self.rivals(index, processes).map(str::to_owned).collect();
        let kinds = process.plan.after.iter().filter_map(|kind| self.by_type.get(kind));
        let mut all: Vec<usize> = kinds.flatten().copied().collect();
        all.sort_unstable();
        for other in all.into_iter().map(|at| &processes[at]) {
            if !comes_after(process, other) {
                continue;
            }
            match dependency_state(other) {
                DependencyState::Ready => {}
                DependencyState::Pending => awaited.push(other.name().to_owned()),
                DependencyState::Failed => return StartGate::Failed(chain(process, processes)),
            }
        }
        if awaited.is_empty() { StartGate::Open } else { StartGate::Waiting(awaited) }
    }

    /// Processes that still have the port that this one is to have, and are on their way
    /// out or elsewhere.
    fn rivals<'a>(&self, index: usize, processes: &'a [Process]) -> impl Iterator<Item = &'a str> {
        let port = own_port(&processes[index].plan);
        let holders = port.and_then(|port| self.old_ports.get(&port)).into_iter().flatten();
        let others = holders.filter(move |at| **at != index).map(|at| &processes[*at]);
        others.filter(move |it| it.port_in_use == port && it.holds_old_port()).map(Process::name)
    }
}

fn comes_after(process: &Process, other: &Process) -> bool {
    process.plan.after.contains(&other.plan.kind) && !other.is_removed()
}

/// What can be expected of one that others come after.
enum DependencyState {
    Ready,
    Pending,
    Failed,
}

fn dependency_state(process: &Process) -> DependencyState {
    match (process.want, process.state) {
        // Somebody has stopped it, and may start it again.
        (Want::Down(DownReason::StoppedByUser), _) => DependencyState::Pending,
        (Want::Down(DownReason::Failed), _) => DependencyState::Failed,
        // It has done its work, or is none that anybody waits for.
        (Want::Down(DownReason::Finished | DownReason::Removed), _)
        | (Want::Up, State::Up { ready: Readiness::Ready, .. }) => DependencyState::Ready,
        (Want::Up, _) if process.is_late() => DependencyState::Failed,
        (
            Want::Up,
            State::Up { ready: Readiness::Awaited { .. } | Readiness::Late, .. }
            | State::Down
            | State::Backoff { .. }
            | State::Waiting { .. }
            | State::Starting
            | State::Stopping { .. }
            | State::Killed { .. }
            | State::Stuck { .. },
        ) => DependencyState::Pending,
    }
}

/// From the last that waits for `process` down to what keeps it waiting.
fn chain(process: &Process, processes: &[Process]) -> Chain {
    let mut names = vec![process.name().to_owned()];
    let waits = |other: &&Process| other.want == Want::Up && !other.state.has_begun();
    let mut first = process;
    while let Some(next) = processes.iter().filter(waits).find(|it| comes_after(it, first)) {
        names.insert(0, next.name().to_owned());
        first = next;
    }
    let mut last = process;
    let hopeless = |other: &&Process| matches!(dependency_state(other), DependencyState::Failed);
    while let Some(next) = processes.iter().filter(hopeless).find(|it| comes_after(last, it)) {
        names.push(next.name().to_owned());
        last = next;
    }
    Chain { names, why: last.why_lost() }
}
