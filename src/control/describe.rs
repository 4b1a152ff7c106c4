//! A process as whoever asks sees it.

use super::{api, usage};
use crate::supervise::command::Snapshot;
use crate::supervise::supervisor::{State, Status};

/// With what they use, which takes a look at the whole system, on another thread.
pub(super) async fn describe(snapshot: &Snapshot, chosen: &[&Status]) -> Vec<api::Process> {
    let leaders = chosen.iter().map(|status| (status.pid.unwrap_or(0), status.plan.port)).collect();
    let used = tokio::task::spawn_blocking(move || -> Vec<usage::Usage> {
        let leaders: Vec<(i32, Option<u16>)> = leaders;
        usage::of(&leaders)
    });
    let used = used.await.unwrap_or_default();
    let used = used.into_iter().chain(std::iter::repeat(usage::Usage::default()));
    chosen.iter().zip(used).map(|(status, used)| process(status, used, snapshot)).collect()
}

fn process(status: &Status, used: usage::Usage, snapshot: &Snapshot) -> api::Process {
    let used = if status.pid.is_some() { used } else { usage::Usage::default() };
    let (state, since) = match status.state {
        State::Down => (api::State::Down, None),
        State::Backoff { .. } => (api::State::Backoff, None),
        State::Waiting { .. } => (api::State::Waiting, None),
        State::Starting => (api::State::Starting, None),
        State::Up { since, .. } => (api::State::Up, Some(since)),
        State::Stopping { .. } => (api::State::Stopping, None),
        State::Killed { .. } => (api::State::Killed, None),
        State::Stuck { .. } => (api::State::Stuck, None),
    };
    api::Process {
        name: status.plan.name.clone(),
        r#type: status.plan.kind.clone(),
        state,
        ready: status.state.is_ready(),
        waits_for: status.waits_for.clone(),
        on_exit: status.plan.policy.on_exit,
        crashes: status.crashes,
        give_up_after: status.plan.policy.backoff.give_up_after,
        starts_in: match status.state {
            State::Backoff { until } => {
                Some(until.saturating_duration_since(snapshot.now).as_secs_f64())
            }
            _ => None,
        },
        pid: status.pid,
        port: status.plan.port,
        bound: used.bound,
        uptime: since.map(|since| snapshot.now.saturating_duration_since(since).as_secs_f64()),
        restarts: status.restarts,
        last_exit: status.last.map(|exit| exit.to_string()),
        cpu: used.cpu.as_secs_f64(),
        memory: used.memory,
    }
}
