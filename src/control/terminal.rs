//! The pages that type into a process: `POST …/input` and `GET …/attach`.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::{IntoResponse, Response};
use hyper::HeaderMap;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::api::{ATTACH_PROTOCOL, ATTACHMENT_HEADER};
use super::app::{App, choose};
use super::attachment::Attachment;
use super::body::{names, room_for_names};
use super::connection::{Connection, Upgrade};
use super::error::Error;
use super::logs::take;
use super::memory::Memory;
use super::paint::paint;
use crate::logs::recent::LineRange;
use crate::logs::subscribers::Selection;
use crate::pty::{Pty, WindowSize};
use crate::supervise::supervisor::{ProcessId, Status};

/// How long a process may take to read its input.
const INPUT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// Types the body into processes, and responds with their names.
pub(super) async fn send_input(
    State(app): State<App>,
    Path(patterns): Path<String>,
    body: Bytes,
) -> Result<Response, Error> {
    let room = room_for_names(&app).await?;
    let snapshot = app.running().await?;
    let chosen = choose(patterns, &snapshot).await?;
    let mut terminals = Vec::new();
    for at in chosen {
        let status = &snapshot.processes[at];
        terminals.push((status.plan.name.clone(), terminal_of(&app, status).await?));
    }
    let mut typed = Vec::new();
    for (name, pty) in terminals {
        type_all(&name, &pty, &body).await?;
        typed.push(name);
    }
    names(&typed, room)
}

/// The terminal of a process that runs.
async fn terminal_of(app: &App, status: &Status) -> Result<Pty, Error> {
    let name = &status.plan.name;
    if let Some(pty) = app.engine.terminal(status.id).await? {
        return Ok(pty);
    }
    Err(Error::conflict(if status.state.is_running() {
        format!(
            "{name} has no terminal: run `ganger start` on a terminal, or with `--pty always` \
             (`ganger logs -f {name}` follows its output)"
        )
    } else {
        format!("{name} is not running (`ganger restart {name}` starts it)")
    }))
}

async fn type_all(name: &str, pty: &Pty, input: &[u8]) -> Result<(), Error> {
    let deadline = Instant::now() + INPUT_TIMEOUT;
    let mut rest = input;
    while !rest.is_empty() {
        match pty.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(RETRY_DELAY).await;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(Error::timed_out(format!("{name} does not read its input")));
            }
            Err(error) => {
                return Err(Error::conflict(format!("{name} can't be typed into: {error}")));
            }
        }
    }
    Ok(())
}

/// A client's window.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Window {
    rows: u16,
    columns: u16,
}

impl Window {
    fn size(self) -> Result<WindowSize, Error> {
        if self.rows == 0 || self.columns == 0 {
            return Err(Error::bad_request("a window has at least one row and one column"));
        }
        Ok(WindowSize { rows: self.rows, columns: self.columns })
    }
}

#[derive(Deserialize)]
pub(super) struct Attach {
    rows: u16,
    columns: u16,
    /// Never type.
    #[serde(default)]
    watch: bool,
    /// Wait until the process runs.
    #[serde(default)]
    wait: bool,
}

/// The only process that is meant, and its terminal. If it does not run yet, that may be waited
/// for.
async fn find_terminal(
    app: &App,
    patterns: &str,
    waits: bool,
) -> Result<(String, ProcessId, Pty), Error> {
    let mut engine = app.engine.clone();
    loop {
        let snapshot = app.running().await?;
        let chosen = choose(patterns.to_owned(), &snapshot).await?;
        let [at] = chosen[..] else {
            let count = chosen.len();
            let first = chosen.first().map_or("web.1", |at| &snapshot.processes[*at].plan.name);
            return Err(Error::bad_request(format!(
                "`{patterns}` is {count} processes: name one, such as `{first}`"
            )));
        };
        let status = &snapshot.processes[at];
        match terminal_of(app, status).await {
            Ok(pty) => return Ok((status.plan.name.clone(), status.id, pty)),
            Err(_) if waits && status.is_wanted() && !status.state.is_running() => {
                engine.changed().await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Attaches a client to a process.
pub(super) async fn attach(
    State(app): State<App>,
    Extension(connection): Extension<Arc<Connection>>,
    Extension(upgrade): Extension<Upgrade>,
    Path(patterns): Path<String>,
    Query(query): Query<Attach>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    if headers.get(UPGRADE).is_none_or(|protocol| protocol != ATTACH_PROTOCOL) {
        let message = format!("`Connection: upgrade` and `Upgrade: {ATTACH_PROTOCOL}` are missing");
        return Err(Error::new(StatusCode::UPGRADE_REQUIRED, message));
    }
    let window = Window { rows: query.rows, columns: query.columns }.size()?;
    let slot = app.acquire_stream_slot().await?;
    let (name, id, pty) = find_terminal(&app, &patterns, query.wait).await?;
    let sizes = app.engine.output().memory_by_process().await?;
    let size = sizes.iter().find(|(of, _)| **of == *name).map_or(0, |(_, size)| *size);
    let (named, only) = (name.as_str().into(), name.clone());
    let selection = Selection::new([(named, true)], move |other| other == only);
    let taken = take(&app, selection, Memory::generous(size), true).await?;
    let Some(output) = taken.following else {
        return Err(Error::busy("the output can't be followed".to_owned()));
    };
    let excerpt = taken.excerpt;
    let reads_lines = pty.reads_lines();
    let paint = spawn_blocking(move || {
        let mut reader = excerpt.into_reader(&LineRange::default());
        let mut recent = Vec::new();
        while let Some(piece) = reader.next_piece() {
            recent.extend_from_slice(piece.bytes);
        }
        paint(&recent, window, reads_lines)
    });
    let painted = paint.await.map_err(Error::bad_request)?;
    drop(taken.room);
    let membership = app.attached.join(name.clone(), (!query.watch).then_some(window)).await?;
    connection.follow();
    let number = membership.number.to_string();
    let pty = Some(pty);
    let attachment =
        Attachment { app, name, id, pty, window, membership, painted, output, _slot: slot };
    upgrade.then(|stream, input| async move { attachment.run(stream, &input).await });
    let headers = [
        (CONNECTION.as_str(), "upgrade"),
        (UPGRADE.as_str(), ATTACH_PROTOCOL),
        (ATTACHMENT_HEADER, &number),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// An attached client's window has another size, or is to be drawn again.
pub(super) async fn resize(
    State(app): State<App>,
    Path(number): Path<u64>,
    Query(window): Query<Window>,
) -> Result<StatusCode, Error> {
    if app.attached.resize(number, window.size()?).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error::new(StatusCode::NOT_FOUND, format!("no client {number} is attached")))
    }
}
