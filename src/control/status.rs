//! A process as a client sees it.

use std::sync::Arc;

use axum::response::Response;
use tokio::task::spawn_blocking;

use super::api;
use super::app::App;
use super::body::json;
use super::error::Error;
use super::usage::Survey;
use crate::supervise::handle::Snapshot;
use crate::supervise::supervisor::{State, Status};

/// An upper estimate of the size of the description of a process, without its names.
const DESCRIPTION_BYTES: usize = 768;

/// The status of the chosen processes, with what they use. Slow work, such as reading `/proc`, is
/// done on other threads.
pub(super) async fn describe(
    app: &App,
    snapshot: Arc<Snapshot>,
    chosen: Vec<usize>,
) -> Result<Response, Error> {
    let estimate = chosen.iter().map(|place| estimate(&snapshot.processes[*place])).sum();
    let room = app.memory.for_list(estimate).await?;
    let survey = app.survey.get().await;
    let list = spawn_blocking(move || {
        let describe = |place: &usize| {
            describe_process(&snapshot.processes[*place], survey.as_deref(), &snapshot)
        };
        let list: Vec<api::ProcessStatus> = chosen.iter().map(describe).collect();
        serde_json::to_vec(&list)
    });
    Ok(json(list.await.map_err(Error::bad_request)?.map_err(Error::bad_request)?, room))
}

fn estimate(status: &Status) -> usize {
    let names: usize = status.waits_for().iter().map(|name| 2 * name.len() + 8).sum();
    DESCRIPTION_BYTES + 2 * status.plan.name.len() + 2 * status.plan.process_type.len() + names
}

fn describe_process(
    status: &Status,
    survey: Option<&Survey>,
    snapshot: &Snapshot,
) -> api::ProcessStatus {
    let used = status.pid().zip(survey).map(|(pid, survey)| survey.usage(pid, status.plan.port));
    let used = used.unwrap_or_default();
    let (state, since) = match &status.state {
        State::Down => (api::State::Down, None),
        State::Backoff { .. } => (api::State::Backoff, None),
        State::Waiting { .. } => (api::State::Waiting, None),
        State::Starting { .. } => (api::State::Starting, None),
        State::Up { since, .. } => (api::State::Up, Some(*since)),
        State::Stopping { .. } => (api::State::Stopping, None),
        State::Killed { .. } => (api::State::Killed, None),
        State::Stuck { .. } => (api::State::Stuck, None),
    };
    api::ProcessStatus {
        name: status.plan.name.clone(),
        r#type: status.plan.process_type.clone(),
        state,
        ready: status.is_ready(),
        waits_for: status.waits_for(),
        on_exit: status.plan.policy.on_exit,
        crashes: status.crashes,
        give_up_after: status.plan.policy.backoff.give_up_after,
        starts_in: match &status.state {
            State::Backoff { until } => {
                Some(until.saturating_duration_since(snapshot.now).as_secs_f64())
            }
            _ => None,
        },
        pid: status.pid(),
        port: status.plan.port,
        bound: used.bound,
        uptime: since.map(|since| snapshot.now.saturating_duration_since(since).as_secs_f64()),
        restarts: status.restarts,
        last_exit: status.last.map(|exit| exit.to_string()),
        cpu: used.cpu.as_secs_f64(),
        memory: used.memory,
    }
}
