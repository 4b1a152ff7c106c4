//! What can be asked and told, and the answer to each.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper::body::Frame;
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::api::{About, Changes};
use super::app::{App, choose, names_of};
use super::body::{names, room_for_names};
use super::connection::Connection;
use super::error::Error;
use super::in_flight::Phase;
use super::logs::logs;
use super::status::describe;
use super::waiting::{Awaited, ensure_can_become_ready, is_not_in_plan, seconds, wait, wait_until};
use crate::plan::config::parse_signal;
use crate::plan::scale::{Change, Differences};
use crate::supervise::handle::Snapshot;
use crate::supervise::supervisor::{RestartMode, Status};

/// A refusal that comes as text is a sentence.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// The answers to those who may not ask.
pub(super) fn refusals() -> Router {
    Router::new().fallback(refuse)
}

async fn refuse() -> Error {
    Error::new(StatusCode::FORBIDDEN, "this ganger belongs to another user")
}

/// The answers to those who may.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(about))
        .route("/processes", get(list))
        .route("/processes/{names}", get(some))
        .route("/processes/{names}/wait", get(wait))
        .route("/processes/{names}/restart", post(restart))
        .route("/processes/{names}/stop", post(stop))
        .route("/processes/{names}/signal", post(signal))
        .route("/logs", get(logs))
        .route("/formation", get(formation).patch(scale))
        .route("/reload", post(reload))
        .route("/quit", post(quit))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .with_state(app)
        .layer(map_response(as_json))
}

/// What is refused before it gets here has a sentence, too.
async fn as_json(response: Response) -> Response {
    let kind = response.headers().get(CONTENT_TYPE);
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !response.status().is_client_error() || !is_text {
        return response;
    }
    let status = response.status();
    let bytes =
        axum::body::to_bytes(response.into_body(), MAX_TEXT_BYTES).await.unwrap_or_default();
    Error::new(status, String::from_utf8_lossy(&bytes)).into_response()
}

async fn nothing() -> Error {
    Error::new(StatusCode::NOT_FOUND, "there is no such page")
}

async fn about(State(app): State<App>) -> Json<About> {
    Json(About::clone(&app.about))
}

async fn list(State(app): State<App>) -> Result<Response, Error> {
    let snapshot = app.engine.snapshot().await?;
    let all = (0..snapshot.processes.len()).collect();
    describe(&app, snapshot, all).await
}

async fn some(State(app): State<App>, Path(patterns): Path<String>) -> Result<Response, Error> {
    let snapshot = app.engine.snapshot().await?;
    let chosen = choose(patterns, &snapshot).await?;
    describe(&app, snapshot, chosen).await
}

#[derive(Deserialize)]
struct Restart {
    #[serde(default)]
    rolling: bool,
    /// Answer when all are ready, or in so many seconds.
    wait: Option<f64>,
}

async fn restart(
    State(app): State<App>,
    Path(patterns): Path<String>,
    Query(query): Query<Restart>,
) -> Result<Response, Error> {
    let wait = query.wait.map(seconds).transpose()?;
    let _stream = if wait.is_some() { Some(app.acquire_stream_slot().await?) } else { None };
    let room = room_for_names(&app).await?;
    let before = app.running().await?;
    let mut chosen = choose(patterns, &before).await?;
    let status = |place: &usize| &before.processes[*place];
    chosen.retain(|place| status(place).is_planned());
    let (up, down): (Vec<usize>, Vec<usize>) =
        chosen.iter().partition(|place| status(place).state.runs());
    let started = names_of(&before, &down);
    let done = Changes { started, restarted: names_of(&before, &up), ..Changes::default() };
    let awaited: Vec<Awaited> = chosen.iter().map(|place| Awaited::new(status(place))).collect();
    app.engine.restart(names_of(&before, &chosen), pace(query.rolling)).await?;
    drop(before);
    if wait.is_some() {
        let anew = |snapshot: &Snapshot| {
            for was in &awaited {
                let name = was.name();
                let Some(now) = snapshot.find(name) else { return Err(is_not_in_plan(name)) };
                if !has_begun_anew(was, now) {
                    return Ok(false);
                }
                ensure_can_become_ready(now)?;
                if !now.state.is_ready() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        wait_until(&app, wait, anew).await?;
    }
    names(&done, room)
}

/// Whether it is past what it `was`: its turn is not still to come, and it is not on its way
/// down.
fn has_begun_anew(was: &Awaited, now: &Status) -> bool {
    !now.due && (now.restarts != was.restarts || !was.ran)
}

fn pace(rolling: bool) -> RestartMode {
    if rolling { RestartMode::Rolling } else { RestartMode::AtOnce }
}

async fn stop(State(app): State<App>, Path(patterns): Path<String>) -> Result<Response, Error> {
    let room = room_for_names(&app).await?;
    let snapshot = app.running().await?;
    let stopped = names_of(&snapshot, &choose(patterns, &snapshot).await?);
    app.engine.stop(stopped.clone()).await?;
    names(&Changes { stopped, ..Changes::default() }, room)
}

#[derive(Deserialize)]
struct Signalled {
    signal: String,
}

async fn signal(
    State(app): State<App>,
    Path(patterns): Path<String>,
    Query(query): Query<Signalled>,
) -> Result<Response, Error> {
    let signal: Signal = parse_signal(&query.signal).map_err(Error::bad_request)?;
    let room = room_for_names(&app).await?;
    let snapshot = app.engine.snapshot().await?;
    let mut chosen = choose(patterns, &snapshot).await?;
    chosen.retain(|place| snapshot.processes[*place].state.runs());
    let signalled = names_of(&snapshot, &chosen);
    app.engine.signal(signalled.iter().cloned().collect(), signal).await?;
    names(&Changes { signalled, ..Changes::default() }, room)
}

async fn formation(State(app): State<App>) -> Result<Json<serde_json::Value>, Error> {
    let snapshot = app.engine.snapshot().await?;
    let mut counts = serde_json::Map::new();
    for status in snapshot.processes.iter().filter(|status| status.is_planned()) {
        let count = counts.entry(status.plan.kind.clone()).or_insert(0.into());
        *count = (count.as_u64().unwrap_or_default() + 1).into();
    }
    Ok(Json(counts.into()))
}

/// The body is an object: `{"web": 2, "worker": "+1"}`.
async fn scale(State(app): State<App>, body: Bytes) -> Result<Response, Error> {
    let body: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&body).map_err(Error::bad_request)?;
    let change = |(name, to): (&String, &serde_json::Value)| -> Result<Change, Error> {
        let to = match to {
            serde_json::Value::Number(to) => format!("={to}"),
            serde_json::Value::String(to) if to.starts_with(['+', '-']) => to.clone(),
            other => format!("={other}"),
        };
        format!("{name}{to}").parse().map_err(Error::bad_request)
    };
    let changes = body.iter().map(change).collect::<Result<_, _>>()?;
    let room = room_for_names(&app).await?;
    names(&done(app.planner.scale(changes).await?), room)
}

#[derive(Deserialize)]
struct Reload {
    #[serde(default)]
    rolling: bool,
}

async fn reload(State(app): State<App>, Query(query): Query<Reload>) -> Result<Response, Error> {
    let room = room_for_names(&app).await?;
    names(&done(app.planner.reload(pace(query.rolling)).await?), room)
}

fn done(differences: Differences) -> Changes {
    let Differences { started, stopped, restarted, adjusted } = differences;
    Changes { started, stopped, restarted, adjusted, ..Changes::default() }
}

/// The answer begins now, and ends when nothing is left of ganger but a process that exits.
async fn quit(
    State(app): State<App>,
    Extension(connection): Extension<Arc<Connection>>,
) -> Response {
    connection.wait_for_end();
    // If the engine is gone, all the better.
    let _ = app.engine.quit();
    let mut phase = app.phase;
    let end = async move { drop(phase.wait_for(|phase| *phase == Phase::Over).await.map(drop)) };
    Body::new(Until(Box::pin(end))).into_response()
}

/// A body that has nothing, and takes until then.
struct Until(Pin<Box<dyn Future<Output = ()> + Send>>);

impl hyper::body::Body for Until {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.as_mut().poll(context).map(|()| None)
    }
}
