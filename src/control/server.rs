//! Answers whoever asks over the socket.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde::Deserialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::api::{self, About, Done, Refusal};
use super::logs::Lines;
use super::planner::Orders;
use super::{names, usage};
use crate::logs::format::Style;
use crate::notice::time;
use crate::plan::config::parse_signal;
use crate::plan::scale::{Change, Differences};
use crate::supervise::command::{Handle, Snapshot, Stopping};
use crate::supervise::supervisor::{self, Pace, Readiness, Status};

/// So many clients at once; the others wait.
const CLIENTS: usize = 128;
/// So long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long ganger waits at its end for those who still read their answers.
const FAREWELL: Duration = Duration::from_millis(500);
/// So long it may be.
const LONGEST: usize = 64 << 10;

/// What every answer is made from.
#[derive(Clone)]
struct App {
    engine: Handle,
    orders: Orders,
    about: Arc<About>,
}

/// How many are being answered.
#[derive(Clone, Debug)]
pub struct Answers(watch::Sender<usize>);

impl Answers {
    /// Waits until all that was asked is answered, but not for ever: who doesn't
    /// read keeps nobody from leaving.
    pub async fn finish(&self) {
        let mut count = self.0.subscribe();
        let _ = timeout(FAREWELL, count.wait_for(|count| *count == 0)).await;
    }
}

/// A connection, which counts once it has asked something.
struct Answering {
    answers: Answers,
    asked: OnceLock<()>,
}

impl Answering {
    fn begin(&self) {
        self.asked.get_or_init(|| self.answers.0.send_modify(|count| *count += 1));
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.asked.get().is_some() {
            self.answers.0.send_modify(|count| *count -= 1);
        }
    }
}

/// Answers on `listener` for ever, about the app in the folder `root`; needs a tokio
/// runtime.
pub fn start(
    listener: std::os::unix::net::UnixListener,
    engine: Handle,
    orders: Orders,
    root: &std::path::Path,
) -> io::Result<Answers> {
    let listener = UnixListener::from_std(listener)?;
    let about = About {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        root: root.display().to_string(),
    };
    let answers = Answers(watch::Sender::new(0));
    let app = App { engine, orders, about: Arc::new(about) };
    tokio::spawn(accept(listener, app, answers.clone()));
    Ok(answers)
}

async fn accept(listener: UnixListener, app: App, answers: Answers) {
    let router = router(app);
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left for it: others have to leave first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let router = if may_ask(&stream) { router.clone() } else { Router::new().fallback(refuse) };
        let answering = Answering { answers: answers.clone(), asked: OnceLock::new() };
        tokio::spawn(async move {
            let router = TowerToHyperService::new(router);
            let answer = service_fn(|request| {
                answering.begin();
                router.call(request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(LONGEST)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off is no news.
            let _ = connection.await;
            drop(permit);
        });
    }
}

/// This user and root may, whatever the modes of files say.
fn may_ask(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}

async fn refuse() -> Error {
    Error(StatusCode::FORBIDDEN, "this ganger belongs to another user".into())
}

fn router(app: App) -> Router {
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
}

/// Why there is no better answer.
struct Error(StatusCode, String);

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

fn bad(error: impl Into<Box<dyn std::error::Error>>) -> Error {
    Error(StatusCode::BAD_REQUEST, error.into().to_string())
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
fn choose<'a>(patterns: &str, snapshot: &'a Snapshot) -> Result<Vec<&'a Status>, Error> {
    let patterns: Vec<&str> = patterns.split(',').collect();
    Ok(names::select(&patterns, &snapshot.processes)?)
}

fn names_of(chosen: &[&Status]) -> Vec<String> {
    chosen.iter().map(|status| status.plan.name.clone()).collect()
}

/// With what they use, which takes a look at the whole system, on another thread.
async fn describe(snapshot: &Snapshot, chosen: &[&Status]) -> Vec<api::Process> {
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
        supervisor::State::Down => (api::State::Down, None),
        supervisor::State::Backoff { .. } => (api::State::Backoff, None),
        supervisor::State::Waiting { .. } => (api::State::Waiting, None),
        supervisor::State::Starting => (api::State::Starting, None),
        supervisor::State::Up { since, .. } => (api::State::Up, Some(since)),
        supervisor::State::Stopping { .. } => (api::State::Stopping, None),
        supervisor::State::Killed { .. } => (api::State::Killed, None),
        supervisor::State::Stuck { .. } => (api::State::Stuck, None),
    };
    api::Process {
        name: status.plan.name.clone(),
        r#type: status.plan.kind.clone(),
        state,
        ready: status.state.is_ready(),
        on_exit: status.plan.policy.on_exit,
        crashes: status.crashes,
        give_up_after: status.plan.policy.backoff.give_up_after,
        starts_in: match status.state {
            supervisor::State::Backoff { until } => {
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

/// Until when somebody waits.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum For {
    Ready,
    Exit,
}

#[derive(Deserialize)]
struct Wait {
    r#for: For,
    /// In seconds; for ever, if not given.
    timeout: Option<f64>,
}

async fn wait(
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
                (For::Ready, Some(status)) => {
                    check_hope(status)?;
                    status.state.is_ready()
                }
                (For::Ready, None) => false,
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
    reach(&app, query.timeout, is_reached).await?;
    let now = app.engine.look().await?;
    let chosen: Vec<&Status> =
        now.processes.iter().filter(|status| names.contains(&status.plan.name)).collect();
    Ok(Json(describe(&now, &chosen).await))
}

/// Fails for one that will not be ready, or not in its time.
fn check_hope(status: &Status) -> Result<(), Error> {
    let name = &status.plan.name;
    let message = match (status.state, status.last) {
        (supervisor::State::Up { ready: Readiness::Late, .. }, _) => {
            format!("{name} is not ready after {}", time(status.plan.ready_timeout))
        }
        (_, Some(exit)) if status.fallen => format!("{name} {exit}, and stays down"),
        (_, _) => return Ok(()),
    };
    Err(Error(StatusCode::REQUEST_TIMEOUT, message))
}

/// Waits until it is so; REQUEST TIMEOUT if it isn't for so many seconds, or won't be.
async fn reach(
    app: &App,
    seconds: Option<f64>,
    is_reached: impl Fn(&Snapshot) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut engine = app.engine.clone();
    let reached = async {
        while !is_reached(&engine.look().await?)? {
            engine.changed().await?;
        }
        Ok::<(), Error>(())
    };
    let Some(seconds) = seconds else { return reached.await };
    let longest = Duration::try_from_secs_f64(seconds).map_err(bad)?;
    timeout(longest, reached).await.map_err(|_| {
        Error(StatusCode::REQUEST_TIMEOUT, format!("it did not come to that in {seconds} s"))
    })?
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
    let before = app.engine.look().await?;
    let mut chosen = choose(&patterns, &before)?;
    chosen.retain(|status| status.planned);
    let (up, down): (Vec<&Status>, Vec<&Status>) =
        chosen.iter().partition(|status| status.state.runs());
    let done = Done { started: names_of(&down), restarted: names_of(&up), ..Done::default() };
    app.engine.restart(names_of(&chosen), pace(query.rolling))?;
    if query.wait.is_some() {
        let anew = |snapshot: &Snapshot| {
            for was in &chosen {
                let name = &was.plan.name;
                let now = snapshot.processes.iter().find(|status| status.plan.name == *name);
                let Some(now) = now else { continue };
                if now.restarts == was.restarts && was.state.runs() {
                    return Ok(false);
                }
                check_hope(now)?;
                if !now.state.is_ready() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        reach(&app, query.wait, anew).await?;
    }
    Ok(Json(done))
}

fn pace(rolling: bool) -> Pace {
    if rolling { Pace::Rolling } else { Pace::AtOnce }
}

async fn stop(State(app): State<App>, Path(patterns): Path<String>) -> Result<Json<Done>, Error> {
    let snapshot = app.engine.look().await?;
    let names = names_of(&choose(&patterns, &snapshot)?);
    app.engine.stop(names.clone())?;
    Ok(Json(Done { stopped: names, ..Done::default() }))
}

#[derive(Deserialize)]
struct Logs {
    /// Patterns, separated by commas; all, if not given.
    names: Option<String>,
    /// How many lines at most.
    n: Option<usize>,
    /// None that is older, in seconds.
    since: Option<f64>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    color: bool,
    #[serde(default)]
    timestamp: bool,
    #[serde(default)]
    no_prefix: bool,
}

/// As `start` shows it, however long it goes on.
async fn logs(State(app): State<App>, Query(query): Query<Logs>) -> Result<Response, Error> {
    let snapshot = app.engine.look().await?;
    let patterns: Vec<&str> = query.names.as_deref().unwrap_or("*").split(',').collect();
    let filter = names::filter(&patterns)?;
    let oldest = |seconds| {
        let age = Duration::try_from_secs_f64(seconds).map_err(bad)?;
        Ok::<_, Error>(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
    };
    let since = query.since.map(oldest).transpose()?;
    let most = query.n.unwrap_or(usize::MAX);
    let (lines, said) = app.engine.logs(filter, since, most, query.follow).await?;
    if lines.is_empty() && said.is_none() && query.names.is_some() {
        // One that has gone may have said something; this one never was there.
        choose(&patterns.join(","), &snapshot)?;
    }
    let Logs { color, timestamp, no_prefix, .. } = query;
    let style = Style { color, timestamp, prefix: !no_prefix, width: 0 };
    let names = snapshot.processes.iter().map(|status| status.plan.name.as_str());
    let mut text = Lines::new(style.fit(names), snapshot.colors);
    text.recall(&lines);
    Ok(match said {
        Some(said) => Body::new(text.follow(said)).into_response(),
        None => Body::from(text.finish()).into_response(),
    })
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
    for status in snapshot.processes.iter().filter(|status| status.planned) {
        let count = counts.entry(status.plan.kind.clone()).or_insert(0.into());
        *count = (count.as_u64().unwrap_or_default() + 1).into();
    }
    Ok(Json(counts.into()))
}

/// The body is an object: `{"web": 2, "worker": "+1"}`.
async fn scale(State(app): State<App>, request: Request) -> Result<Json<Done>, Error> {
    let body = timeout(PATIENCE, axum::body::to_bytes(request.into_body(), LONGEST));
    let body = body.await.map_err(|_| bad("the request did not arrive"))?.map_err(bad)?;
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
    let Differences { started, stopped, restarted } = differences;
    Done { started, stopped, restarted, ..Done::default() }
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
