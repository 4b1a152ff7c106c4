//! Waiting for processes, and when there is nothing to wait for.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use super::api;
use super::describe::describe;
use super::routes::{App, Error, bad, choose, names_of};
use crate::notice::time;
use crate::supervise::command::{Snapshot, Stopping};
use crate::supervise::supervisor::{Status, Want, Why};

/// Until when somebody waits.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum For {
    Ready,
    Exit,
}

#[derive(Deserialize)]
pub(super) struct Wait {
    r#for: For,
    /// In seconds; for ever, if not given.
    timeout: Option<f64>,
}

pub(super) async fn wait(
    State(app): State<App>,
    Path(patterns): Path<String>,
    Query(query): Query<Wait>,
) -> Result<Json<Vec<api::Process>>, Error> {
    let before = app.engine.look().await?;
    let names = names_of(&choose(&patterns, &before)?);
    let lives: Vec<u32> = choose(&patterns, &before)?.iter().map(|it| it.restarts).collect();
    let is_reached = |snapshot: &Snapshot| {
        for (name, life) in names.iter().zip(&lives) {
            let status = snapshot.processes.iter().find(|status| status.plan.name == *name);
            let reached = match (query.r#for, status) {
                (For::Ready, _) if snapshot.ending => return Err(Stopping.into()),
                (For::Ready, Some(status)) => {
                    check_hope(status)?;
                    status.state.is_ready()
                }
                (For::Ready, None) => return Err(is_no_more(name)),
                // Gone, or no longer what it was.
                (For::Exit, status) => {
                    status.is_none_or(|status| !status.state.runs() || status.restarts > *life)
                }
            };
            if !reached {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let _room = app.stay()?;
    reach(&app, query.timeout.map(seconds).transpose()?, is_reached).await?;
    let now = app.engine.look().await?;
    let chosen: Vec<&Status> =
        now.processes.iter().filter(|status| names.contains(&status.plan.name)).collect();
    Ok(Json(describe(&now, &chosen).await))
}

/// Fails for one that will not be ready, or not in its time.
pub(super) fn check_hope(status: &Status) -> Result<(), Error> {
    let name = &status.plan.name;
    let message = match (status.want, status.last) {
        (Want::Up, _) if !status.late => return Ok(()),
        (Want::Up, _) => format!("{name} is not ready after {}", time(status.plan.ready_timeout)),
        (Want::Down(Why::Done | Why::Failed), Some(exit)) => {
            format!("{name} {exit}, and stays down")
        }
        (Want::Down(Why::Done | Why::Failed | Why::Told), _) => {
            format!("{name} was stopped, and stays down")
        }
        (Want::Down(Why::Gone), _) => return Err(is_no_more(name)),
    };
    Err(Error(StatusCode::REQUEST_TIMEOUT, message))
}

pub(super) fn is_no_more(name: &str) -> Error {
    Error(StatusCode::REQUEST_TIMEOUT, format!("{name} is no part of the formation any more"))
}

/// So many seconds, if they are a time.
pub(super) fn seconds(seconds: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| bad(format!("`{seconds}` is no time; expected seconds")))
}

/// Waits until it is so; REQUEST TIMEOUT if it isn't for so many seconds, or won't be.
pub(super) async fn reach(
    app: &App,
    longest: Option<Duration>,
    is_reached: impl Fn(&Snapshot) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut engine = app.engine.clone();
    let reached = async {
        while !is_reached(&engine.look().await?)? {
            engine.changed().await?;
        }
        Ok::<(), Error>(())
    };
    let Some(longest) = longest else { return reached.await };
    timeout(longest, reached).await.map_err(|_| {
        let seconds = longest.as_secs_f64();
        Error(StatusCode::REQUEST_TIMEOUT, format!("it did not come to that in {seconds} s"))
    })?
}
