//! The pages of the control API, and the handlers that need no file of their own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use hyper::body::Frame;
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::api::{About, FormationChange};
use super::app::{App, choose, ids_of};
use super::body::{names, room_for_names};
use super::connection::Connection;
use super::error::Error;
use super::in_flight::Phase;
use super::logs::logs;
use super::status::describe;
use super::terminal::{attach, resize, send_input};
use super::waiting::{Awaited, ensure_can_become_ready, is_not_in_plan, seconds, wait, wait_until};
use crate::plan::config::parse_signal;
use crate::supervise::handle::Snapshot;
use crate::supervise::supervisor::{RestartMode, Status};

/// The limit of the text of an error of the framework.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// The responses to clients of other users.
pub(super) fn refusals() -> Router {
    Router::new().fallback(refuse)
}

async fn refuse() -> Error {
    Error::new(StatusCode::FORBIDDEN, "this ganger belongs to another user")
}

/// The responses to clients of this user.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(about))
        .route("/processes", get(list))
        .route("/processes/{names}", get(some))
        .route("/processes/{names}/wait", get(wait))
        .route("/processes/{names}/restart", post(restart))
        .route("/processes/{names}/stop", post(stop))
        .route("/processes/{names}/signal", post(signal))
        .route("/processes/{names}/input", post(send_input))
        .route("/processes/{names}/attach", get(attach))
        .route("/attachments/{number}", put(resize))
        .route("/logs", get(logs))
        .route("/formation", get(formation).patch(scale))
        .route("/reload", post(reload))
        .route("/quit", post(quit))
        .route("/exit", get(exit))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .with_state(app)
        .layer(map_response(as_json))
}

/// An error of the framework has a JSON body as well.
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
    Json(app.about.about(Instant::now()))
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
    /// Respond once all are ready, or after this many seconds.
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
    let status = |at: &usize| &before.processes[*at];
    chosen.retain(|at| status(at).is_planned());
    let awaited: Vec<Awaited> = chosen.iter().map(|at| Awaited::new(status(at))).collect();
    let changes = app.engine.restart(ids_of(&before, &chosen), mode(query.rolling)).await?;
    drop(before);
    if wait.is_some() {
        wait_until_restarted(&app, wait, &awaited).await?;
    }
    names(&changes, room)
}

/// Waits until all these processes have been started again, and are ready.
async fn wait_until_restarted(
    app: &App,
    limit: Option<Duration>,
    awaited: &[Awaited],
) -> Result<(), Error> {
    let are_ready = |snapshot: &Snapshot| {
        for was in awaited {
            let name = was.name();
            let Some(now) = snapshot.find(name) else { return Err(is_not_in_plan(name)) };
            if !has_restarted(was, now) {
                return Ok(false);
            }
            ensure_can_become_ready(now)?;
            if !now.is_ready() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    wait_until(app, limit, are_ready).await
}

/// Whether a process has been restarted: no rolling restart has it pending, and it is not stopping.
fn has_restarted(was: &Awaited, now: &Status) -> bool {
    !now.restart_pending && (now.restarts != was.restarts || !was.ran)
}

fn mode(rolling: bool) -> RestartMode {
    if rolling { RestartMode::Rolling } else { RestartMode::AtOnce }
}

async fn stop(State(app): State<App>, Path(patterns): Path<String>) -> Result<Response, Error> {
    let room = room_for_names(&app).await?;
    let snapshot = app.running().await?;
    let chosen = choose(patterns, &snapshot).await?;
    names(&app.engine.stop(ids_of(&snapshot, &chosen)).await?, room)
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
    let chosen = choose(patterns, &snapshot).await?;
    names(&app.engine.signal(ids_of(&snapshot, &chosen), signal).await?, room)
}

async fn formation(State(app): State<App>) -> Result<Json<serde_json::Value>, Error> {
    let snapshot = app.engine.snapshot().await?;
    let mut counts = serde_json::Map::new();
    for status in snapshot.processes.iter().filter(|status| status.is_planned()) {
        let count = counts.entry(status.plan.process_type.clone()).or_insert(0.into());
        *count = (count.as_u64().unwrap_or_default() + 1).into();
    }
    Ok(Json(counts.into()))
}

async fn scale(State(app): State<App>, body: Bytes) -> Result<Response, Error> {
    let change: FormationChange = serde_json::from_slice(&body).map_err(Error::bad_request)?;
    let room = room_for_names(&app).await?;
    names(&app.planner.scale(change.into_changes()).await?, room)
}

#[derive(Deserialize)]
struct Reload {
    #[serde(default)]
    rolling: bool,
    /// Respond when all processes that were started or restarted are ready, or after this time, in
    /// seconds.
    wait: Option<f64>,
}

async fn reload(State(app): State<App>, Query(query): Query<Reload>) -> Result<Response, Error> {
    let wait = query.wait.map(seconds).transpose()?;
    let _stream = if wait.is_some() { Some(app.acquire_stream_slot().await?) } else { None };
    let room = room_for_names(&app).await?;
    let before = if wait.is_some() { Some(app.running().await?) } else { None };
    let changes = app.planner.reload(mode(query.rolling)).await?;
    if let Some(before) = before {
        let now = app.engine.snapshot().await?;
        let awaited: Vec<Awaited> = changes
            .started
            .iter()
            .chain(&changes.restarted)
            .filter_map(|name| match before.find(name) {
                Some(status) => Some(Awaited::new(status)),
                None => now.find(name).map(Awaited::started),
            })
            .collect();
        drop((before, now));
        wait_until_restarted(&app, wait, &awaited).await?;
    }
    names(&changes, room)
}

/// The response begins now, and ends when ganger is about to exit.
async fn quit(
    State(app): State<App>,
    Extension(connection): Extension<Arc<Connection>>,
) -> Response {
    connection.wait_for_end();
    // If the engine has ended already, there is nothing to stop.
    let _ = app.engine.quit();
    let mut phase = app.phase;
    let end = async move {
        drop(phase.wait_for(|phase| matches!(phase, Phase::Over(_))).await.map(drop));
        Bytes::new()
    };
    Body::new(Until(Some(Box::pin(end)))).into_response()
}

/// The response begins now, and has the exit code when nothing is left of ganger but a process
/// that exits.
async fn exit(
    State(app): State<App>,
    Extension(connection): Extension<Arc<Connection>>,
) -> Result<Response, Error> {
    let stream = app.acquire_stream_slot().await?;
    connection.wait_for_end();
    connection.follow();
    let mut phase = app.phase;
    let end = async move {
        let _stream = stream;
        let over = phase.wait_for(|phase| matches!(phase, Phase::Over(_))).await;
        let over = over.map(|phase| *phase);
        match over {
            Ok(Phase::Over(code)) => Bytes::from(format!("{{\"exit_code\":{code}}}")),
            Ok(Phase::Serving | Phase::Draining) | Err(_) => Bytes::new(),
        }
    };
    let content_type = [(CONTENT_TYPE, "application/json")];
    Ok((content_type, Body::new(Until(Some(Box::pin(end))))).into_response())
}

/// A body that is known at a certain moment, and ends then.
struct Until(Option<Pin<Box<dyn Future<Output = Bytes> + Send>>>);

impl hyper::body::Body for Until {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(end) = &mut self.0 else { return Poll::Ready(None) };
        let bytes = ready!(end.as_mut().poll(context));
        self.0 = None;
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }
}
