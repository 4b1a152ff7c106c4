//! What can be asked and told, and the answer to each.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Frame;
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::api::{self, About, Done, Refusal};
use super::describe::describe;
use super::logs::logs;
use super::names;
use super::planner::Orders;
use super::server::{Answers, LASTING, LONGEST, PATIENCE};
use super::waiting::{check_hope, is_no_more, reach, seconds, wait};
use crate::plan::config::parse_signal;
use crate::plan::scale::{Change, Differences};
use crate::supervise::command::{Handle, Snapshot, Stopping};
use crate::supervise::supervisor::{Pace, Status};

/// What every answer is made from.
#[derive(Clone)]
pub(super) struct App {
    pub(super) engine: Handle,
    pub(super) orders: Orders,
    pub(super) about: Arc<About>,
    /// For those whose answer takes as long as they like: the others keep some room.
    pub(super) lasting: Arc<Semaphore>,
    /// In KiB, for what is said at once and may take its time to be read.
    pub(super) memory: Arc<Semaphore>,
    pub(super) answers: Answers,
}

impl App {
    /// Room for an answer that takes its time, as long as this is held.
    pub(super) fn stay(&self) -> Result<OwnedSemaphorePermit, Error> {
        let room = Arc::clone(&self.lasting).try_acquire_owned();
        room.map_err(|_| full(format!("{LASTING} others wait or follow already")))
    }
}

/// The answers to those who may not ask.
pub(super) fn refusals() -> Router {
    Router::new().fallback(refuse)
}

async fn refuse() -> Error {
    Error(StatusCode::FORBIDDEN, "this ganger belongs to another user".into())
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
    let bytes = axum::body::to_bytes(response.into_body(), LONGEST).await.unwrap_or_default();
    Error(status, String::from_utf8_lossy(&bytes).into_owned()).into_response()
}

/// Why there is no better answer.
pub(super) struct Error(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { error: self.1 })).into_response()
    }
}

impl From<Stopping> for Error {
    fn from(stopping: Stopping) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, stopping.to_string())
    }
}

impl From<names::Error> for Error {
    fn from(error: names::Error) -> Self {
        Self(StatusCode::NOT_FOUND, error.to_string())
    }
}

pub(super) fn bad(error: impl Into<Box<dyn std::error::Error>>) -> Error {
    Error(StatusCode::BAD_REQUEST, error.into().to_string())
}

pub(super) fn full(reason: String) -> Error {
    Error(StatusCode::SERVICE_UNAVAILABLE, reason)
}

async fn nothing() -> Error {
    Error(StatusCode::NOT_FOUND, "there is no such page".into())
}

async fn about(State(app): State<App>) -> Json<About> {
    Json(About::clone(&app.about))
}

async fn list(State(app): State<App>) -> Result<Json<Vec<api::Process>>, Error> {
    let snapshot = app.engine.look().await?;
    let all: Vec<&Status> = snapshot.processes.iter().collect();
    Ok(Json(describe(&snapshot, &all).await))
}

async fn some(
    State(app): State<App>,
    Path(patterns): Path<String>,
) -> Result<Json<Vec<api::Process>>, Error> {
    let snapshot = app.engine.look().await?;
    let chosen = choose(&patterns, &snapshot)?;
    Ok(Json(describe(&snapshot, &chosen).await))
}

/// Those that a list of patterns means, separated by commas.
pub(super) fn choose<'a>(patterns: &str, snapshot: &'a Snapshot) -> Result<Vec<&'a Status>, Error> {
    let patterns: Vec<&str> = patterns.split(',').collect();
    Ok(names::select(&patterns, &snapshot.processes)?)
}

/// Where things stand, unless all is being stopped: then it is too late for an order.
async fn running(app: &App) -> Result<Snapshot, Error> {
    let snapshot = app.engine.look().await?;
    if snapshot.ending { Err(Stopping.into()) } else { Ok(snapshot) }
}

pub(super) fn names_of(chosen: &[&Status]) -> Vec<String> {
    chosen.iter().map(|status| status.plan.name.clone()).collect()
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
) -> Result<Json<Done>, Error> {
    let wait = query.wait.map(seconds).transpose()?;
    let _room = wait.map(|_| app.stay()).transpose()?;
    let before = running(&app).await?;
    let mut chosen = choose(&patterns, &before)?;
    chosen.retain(|status| status.is_planned());
    let (up, down): (Vec<&Status>, Vec<&Status>) =
        chosen.iter().partition(|status| status.state.runs());
    let done = Done { started: names_of(&down), restarted: names_of(&up), ..Done::default() };
    app.engine.restart(names_of(&chosen), pace(query.rolling))?;
    if wait.is_some() {
        let anew = |snapshot: &Snapshot| {
            for was in &chosen {
                let name = &was.plan.name;
                let now = snapshot.processes.iter().find(|status| status.plan.name == *name);
                let Some(now) = now else { return Err(is_no_more(name)) };
                // Its turn is still to come, or it is on its way down.
                if now.due || (now.restarts == was.restarts && was.state.runs()) {
                    return Ok(false);
                }
                check_hope(now)?;
                if !now.state.is_ready() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        reach(&app, wait, anew).await?;
    }
    Ok(Json(done))
}

fn pace(rolling: bool) -> Pace {
    if rolling { Pace::Rolling } else { Pace::AtOnce }
}

async fn stop(State(app): State<App>, Path(patterns): Path<String>) -> Result<Json<Done>, Error> {
    let snapshot = running(&app).await?;
    let names = names_of(&choose(&patterns, &snapshot)?);
    app.engine.stop(names.clone())?;
    Ok(Json(Done { stopped: names, ..Done::default() }))
}

#[derive(Deserialize)]
struct Signalled {
    signal: String,
}

async fn signal(
    State(app): State<App>,
    Path(patterns): Path<String>,
    Query(query): Query<Signalled>,
) -> Result<Json<Done>, Error> {
    let signal: Signal = parse_signal(&query.signal).map_err(bad)?;
    let snapshot = app.engine.look().await?;
    let mut chosen = choose(&patterns, &snapshot)?;
    chosen.retain(|status| status.state.runs());
    let names = names_of(&chosen);
    app.engine.signal(names.clone(), signal)?;
    Ok(Json(Done { signalled: names, ..Done::default() }))
}

async fn formation(State(app): State<App>) -> Result<Json<serde_json::Value>, Error> {
    let snapshot = app.engine.look().await?;
    let mut counts = serde_json::Map::new();
    for status in snapshot.processes.iter().filter(|status| status.is_planned()) {
        let count = counts.entry(status.plan.kind.clone()).or_insert(0.into());
        *count = (count.as_u64().unwrap_or_default() + 1).into();
    }
    Ok(Json(counts.into()))
}

/// The body is an object: `{"web": 2, "worker": "+1"}`.
async fn scale(State(app): State<App>, request: Request) -> Result<Json<Done>, Error> {
    let body = timeout(PATIENCE, axum::body::to_bytes(request.into_body(), LONGEST));
    let body = body.await.map_err(|_| bad("the request did not arrive"))?;
    let body = body.map_err(|error| Error(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
    let body: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&body).map_err(bad)?;
    let change = |(name, to): (&String, &serde_json::Value)| -> Result<Change, Error> {
        let to = match to {
            serde_json::Value::Number(to) => format!("={to}"),
            serde_json::Value::String(to) if to.starts_with(['+', '-']) => to.clone(),
            other => format!("={other}"),
        };
        format!("{name}{to}").parse().map_err(bad)
    };
    let changes = body.iter().map(change).collect::<Result<_, _>>()?;
    Ok(Json(done(app.orders.scale(changes).await.map_err(bad)?)))
}

#[derive(Deserialize)]
struct Reload {
    #[serde(default)]
    rolling: bool,
}

async fn reload(State(app): State<App>, Query(query): Query<Reload>) -> Result<Json<Done>, Error> {
    Ok(Json(done(app.orders.reload(pace(query.rolling)).await.map_err(bad)?)))
}

fn done(differences: Differences) -> Done {
    let Differences { started, stopped, restarted, adjusted } = differences;
    Done { started, stopped, restarted, adjusted, ..Done::default() }
}

/// The answer begins now, and ends when everything has.
async fn quit(State(app): State<App>) -> Result<Response, Error> {
    app.engine.quit()?;
    let mut engine = app.engine;
    let end = async move { while engine.changed().await.is_ok() {} };
    Ok(Body::new(Until(Box::pin(end))).into_response())
}

/// A body that has nothing, and takes until then.
struct Until(Pin<Box<dyn Future<Output = ()> + Send>>);

impl hyper::body::Body for Until {
    type Data = hyper::body::Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.0.as_mut().poll(context).map(|()| None)
    }
}
