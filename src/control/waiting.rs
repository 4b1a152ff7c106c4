//! Waits for processes to be ready or to exit, as long as that is possible.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use tokio::time::timeout;

use super::app::{App, choose};
use super::error::Error;
use super::status::describe;
use crate::notice::time;
use crate::plan;
use crate::supervise::handle::{Snapshot, Stopping};
use crate::supervise::supervisor::{DownReason, Status, Want};

/// What a client waits for.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum For {
    /// All are ready.
    Ready,
    /// All have exited.
    Exit,
    /// One is down, and stays down.
    Down,
    /// One has failed, and stays down, or everything is being stopped.
    Failed,
}

#[derive(Deserialize)]
pub(super) struct Wait {
    r#for: For,
    /// In seconds. There is no limit if it is missing.
    timeout: Option<f64>,
}

/// A process as it was when a client began to wait for it.
pub(super) struct Awaited {
    plan: Arc<plan::ProcessPlan>,
    pub(super) restarts: u32,
    pub(super) ran: bool,
}

impl Awaited {
    pub(super) fn new(status: &Status) -> Self {
        let (restarts, ran) = (status.restarts, status.state.is_running());
        Self { plan: Arc::clone(&status.plan), restarts, ran }
    }

    /// A process that the request of the client has started.
    pub(super) fn started(status: &Status) -> Self {
        Self { ran: false, ..Self::new(status) }
    }

    pub(super) fn name(&self) -> &str {
        &self.plan.name
    }
}

pub(super) async fn wait(
    State(app): State<App>,
    Path(patterns): Path<String>,
    Query(query): Query<Wait>,
) -> Result<Response, Error> {
    let limit = query.timeout.map(seconds).transpose()?;
    let before = app.engine.snapshot().await?;
    let chosen = choose(patterns, &before).await?;
    let awaited: Vec<Awaited> =
        chosen.iter().map(|at| Awaited::new(&before.processes[*at])).collect();
    drop(before);
    let is_reached = |snapshot: &Snapshot| {
        if matches!(query.r#for, For::Down | For::Failed) {
            let is_down = |status: &Status| match query.r#for {
                For::Failed => status.has_failed(),
                For::Ready | For::Exit | For::Down => {
                    !status.is_wanted() && !status.state.is_running()
                }
            };
            let is_down = |was: &Awaited| match snapshot.find(was.name()) {
                Some(status) => is_down(status),
                None => query.r#for == For::Down,
            };
            let is_over = query.r#for == For::Failed && snapshot.ending;
            return Ok(is_over || awaited.iter().any(is_down));
        }
        for was in &awaited {
            let name = was.name();
            let reached = match (query.r#for, snapshot.find(name)) {
                (For::Ready, _) if snapshot.ending => return Err(Stopping.into()),
                (For::Ready, Some(status)) => {
                    ensure_can_become_ready(status)?;
                    status.is_ready()
                }
                (For::Ready, None) => return Err(is_not_in_plan(name)),
                // It was removed, or was started again.
                (For::Exit | For::Down | For::Failed, status) => status.is_none_or(|status| {
                    !status.state.is_running() || status.restarts > was.restarts
                }),
            };
            if !reached {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let _room = app.acquire_stream_slot().await?;
    wait_until(&app, limit, is_reached).await?;
    let now = app.engine.snapshot().await?;
    let chosen = awaited.iter().filter_map(|was| now.position(was.name())).collect();
    describe(&app, now, chosen).await
}

/// Fails for a process that will not be ready, or was not ready in time.
pub(super) fn ensure_can_become_ready(status: &Status) -> Result<(), Error> {
    let name = &status.plan.name;
    let message = match (status.want, status.last) {
        _ if status.is_done() => return Ok(()),
        (Want::Up, _) if !status.is_late() => return Ok(()),
        (Want::Up, _) => format!("{name} is not ready after {}", time(status.plan.ready_timeout)),
        (Want::Down(DownReason::Finished | DownReason::Failed), Some(exit)) => {
            format!("{name} {exit}, and stays down")
        }
        (Want::Down(DownReason::Finished | DownReason::Failed | DownReason::StoppedByUser), _) => {
            format!("{name} was stopped, and stays down")
        }
        (Want::Down(DownReason::Removed), _) => return Err(is_not_in_plan(name)),
    };
    Err(Error::timed_out(message))
}

pub(super) fn is_not_in_plan(name: &str) -> Error {
    Error::timed_out(format!("{name} is not in the formation any more"))
}

/// A duration, if the number is valid.
pub(super) fn seconds(seconds: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| Error::bad_request(format!("`{seconds}` is not a valid number of seconds")))
}

/// Waits until a condition is met. Fails with REQUEST TIMEOUT if it takes longer than `limit`,
/// or can't be met any more.
pub(super) async fn wait_until(
    app: &App,
    limit: Option<Duration>,
    is_reached: impl Fn(&Snapshot) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut engine = app.engine.clone();
    let reached = async {
        loop {
            let snapshot = engine.snapshot().await?;
            if is_reached(&snapshot)? {
                return Ok(());
            }
            drop(snapshot);
            engine.changed().await?;
        }
    };
    let Some(limit) = limit else { return reached.await };
    timeout(limit, reached)
        .await
        .map_err(|_| Error::timed_out(format!("timed out after {}", time(limit))))?
}
