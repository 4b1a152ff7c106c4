//! What comes after what: who waits for whom at the start, and who goes first at
//! the end. Where nothing comes after anything, none of this is asked.

#![warn(clippy::wildcard_enum_match_arm)]

use super::process::{Process, own_port};
use super::state::{Readiness, State, Want, Why};
use crate::notice::Chain;

/// What the others mean for a process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) before: Before,
    /// Whether nobody has to be gone first.
    pub(super) may_stop: bool,
}

/// Those that a process comes after.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Before {
    /// They are ready, or need not be.
    Ready,
    /// These are still to be.
    Awaited(Vec<String>),
    /// One of them will not be.
    Failed(Chain),
}

impl Place {
    /// Where nobody else matters.
    pub(super) const FREE: Self = Self { before: Before::Ready, may_stop: true };

    /// The place of the process at `index`.
    pub(super) fn of(index: usize, processes: &[Process]) -> Self {
        let process = &processes[index];
        let waits_for_it = |other: &&Process| {
            comes_after(other, process) && other.want != Want::Up && other.state.has_begun()
        };
        Self {
            before: before(index, processes),
            may_stop: !processes.iter().any(|it| waits_for_it(&it)),
        }
    }
}

fn before(index: usize, processes: &[Process]) -> Before {
    let process = &processes[index];
    let mut awaited: Vec<String> = rivals(index, processes).map(str::to_owned).collect();
    for other in processes.iter().filter(|other| comes_after(process, other)) {
        match hope(other) {
            Hope::Fulfilled => {}
            Hope::Still => awaited.push(other.name().to_owned()),
            Hope::Lost => return Before::Failed(chain(process, processes)),
        }
    }
    if awaited.is_empty() { Before::Ready } else { Before::Awaited(awaited) }
}

/// Who still has the port that a process is to have, and is on its way out or elsewhere.
fn rivals(index: usize, processes: &[Process]) -> impl Iterator<Item = &str> {
    let port = own_port(&processes[index].plan);
    let others = processes.iter().enumerate().filter(move |(at, _)| *at != index);
    let rivals = others.filter(move |(_, it)| it.port_in_use == port && it.holds_old_port());
    rivals.map(|(_, rival)| rival.name())
}

fn comes_after(process: &Process, other: &Process) -> bool {
    process.plan.after.contains(&other.plan.kind) && !other.is_gone_from_plan()
}

/// What can be expected of one that others come after.
enum Hope {
    Fulfilled,
    Still,
    Lost,
}

fn hope(process: &Process) -> Hope {
    match (process.want, process.state) {
        // Somebody has stopped it, and may start it again.
        (Want::Down(Why::Told), _) => Hope::Still,
        (Want::Down(Why::Failed), _) => Hope::Lost,
        // It has done its work, or is none that anybody waits for.
        (Want::Down(Why::Done | Why::Gone), _)
        | (Want::Up, State::Up { ready: Readiness::Ready, .. }) => Hope::Fulfilled,
        (Want::Up, _) if process.is_late() => Hope::Lost,
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
        ) => Hope::Still,
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
    let hopeless = |other: &&Process| matches!(hope(other), Hope::Lost);
    while let Some(next) = processes.iter().filter(hopeless).find(|it| comes_after(last, it)) {
        names.push(next.name().to_owned());
        last = next;
    }
    Chain { names, why: last.why_lost() }
}
