//! `GET /logs`: recent output, and output as it comes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::app::App;
use super::connection::Connection;
use super::error::Error;
use super::json_lines::JsonLines;
use super::lines::{Lines, LogBody, RawOutput, TextLines};
use super::memory::{Memory, shrink};
use super::names::{Names, type_of};
use crate::logs::cursor::LogCursor;
use crate::logs::format::{OWN_NAME, Style};
use crate::logs::recent::{Excerpt, LineRange};
use crate::logs::subscribers::{Selection, Subscription};
use crate::logs::terminal::{Layout, LongLines};
use crate::supervise::handle::Snapshot;

/// The number of attempts to reserve memory while the output grows.
const MAX_TRIES: usize = 5;

#[derive(Deserialize)]
pub(super) struct Logs {
    /// Names and patterns, separated by commas. All processes, if it is missing.
    names: Option<String>,
    /// The maximum number of lines.
    n: Option<usize>,
    /// The maximum age of a line, in seconds.
    since: Option<f64>,
    /// Only the present run of each process.
    #[serde(default)]
    this_run: bool,
    /// Only what an earlier reader has not read.
    cursor: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    color: bool,
    #[serde(default)]
    timestamp: bool,
    #[serde(default)]
    no_prefix: bool,
    /// The width of the terminal, if the client shows the lines on one.
    columns: Option<usize>,
    /// Whether longer lines are cut.
    #[serde(default)]
    trim: bool,
}

/// The format of lines.
#[derive(Clone, Copy, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// As `start` prints them.
    #[default]
    Text,
    /// The same, with a NUL between prefix and line, and a cursor behind recent output.
    Marked,
    /// A JSON object for each line, with cursors among them.
    Json,
    /// The bytes as they were written.
    Raw,
}

/// Output as `start` shows it, without a time limit if it follows.
pub(super) async fn logs(
    State(app): State<App>,
    Extension(connection): Extension<Arc<Connection>>,
    Query(query): Query<Logs>,
) -> Result<Response, Error> {
    let oldest = |seconds| {
        let age = Duration::try_from_secs_f64(seconds).map_err(Error::bad_request)?;
        Ok::<_, Error>(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
    };
    let since = query.since.map(oldest).transpose()?;
    let cursor = query.cursor.as_deref().map(str::parse::<LogCursor>).transpose();
    let cursor = cursor.map_err(Error::bad_request)?;
    let run = app.engine.output().run();
    // What a reader has missed of an earlier ganger is unknown.
    let is_foreign = cursor.as_ref().is_some_and(|cursor| cursor.run != run);
    let before = cursor.filter(|_| !is_foreign);
    let range = LineRange {
        max_lines: query.n,
        since,
        this_run: query.this_run,
        after: before.clone(),
        complete: query.format == Format::Json && !query.follow,
    };
    let stream = app.acquire_stream_slot().await?;
    let snapshot = app.engine.snapshot().await?;
    let sizes = app.engine.output().memory_by_process().await?;
    let Chosen { selection, size, memory } = choose(query.names, &snapshot, sizes).await?;
    let kept = if query.follow { Some(app.memory.for_follower(memory)?) } else { None };
    let Reserved { excerpt, following, mut room } =
        take(&app, selection, size, query.follow).await?;
    // Lines are counted on another thread.
    let reader = spawn_blocking(move || excerpt.into_reader(&range));
    let reader = reader.await.map_err(Error::bad_request)?;
    shrink(&mut room, reader.memory());
    let style = Style {
        color: query.color,
        timestamp: query.timestamp,
        prefix: !query.no_prefix,
        width: 0,
    };
    let names = snapshot.processes.iter().map(|status| status.plan.name.as_str());
    let lines = match query.format {
        Format::Text | Format::Marked => {
            let marked = query.format == Format::Marked;
            let colors = Arc::clone(&snapshot.colors);
            let long_lines = if query.trim { LongLines::Trim } else { LongLines::Wrap };
            let terminal = query.columns.map(|columns| Layout {
                // A program that reads the lines needs each as a whole.
                columns: (!marked).then_some(columns),
                long_lines,
                color: query.color,
            });
            Lines::Text(TextLines::new(style.fit_names(names), marked, colors, terminal))
        }
        Format::Raw => Lines::Raw(RawOutput::default()),
        Format::Json => {
            let mut lines = JsonLines::default();
            let missed = (!is_foreign).then(|| reader.missed_bytes());
            if missed != Some(0) {
                lines.note_gap(missed);
            }
            Lines::Json(lines)
        }
    };
    if following.is_some() {
        connection.follow();
    }
    // What was read of processes that are not chosen now stays read.
    let cursor = before.unwrap_or_else(|| LogCursor::new(run, []));
    let held = (stream, kept);
    let body = LogBody::new(lines, reader, cursor, room, following, app.in_flight, held);
    Ok(Body::new(body).into_response())
}

/// The processes that the request selects.
struct Chosen {
    selection: Selection,
    /// The memory of its recent output.
    size: usize,
    /// The memory of the selection, which a follower keeps until it disconnects.
    memory: usize,
}

/// Resolves the names, on another thread.
async fn choose(
    names: Option<String>,
    snapshot: &Arc<Snapshot>,
    sizes: Vec<(Arc<str>, usize)>,
) -> Result<Chosen, Error> {
    let Some(names) = names else {
        let size = sizes.iter().map(|(_, size)| size).sum();
        return Ok(Chosen { selection: Selection::all(), size, memory: 0 });
    };
    let snapshot = Arc::clone(snapshot);
    let chosen = spawn_blocking(move || {
        let names = Names::parse(&names)?;
        // No pattern means ganger's own messages.
        let has_messages = names.is_listed(OWN_NAME);
        let mut sizes = sizes;
        sizes.retain(|(name, _)| has_messages || **name != *OWN_NAME);
        let running = snapshot.processes.iter().map(|it| (&*it.plan.name, &*it.plan.process_type));
        // There may be output of a process that was removed.
        let past = sizes.iter().map(|(name, _)| (&**name, type_of(name)));
        let messages = has_messages.then_some((OWN_NAME, OWN_NAME));
        let known: Vec<(&str, &str)> = past.chain(running).chain(messages).collect();
        let meant = names.resolve(&known)?;
        let meant: Vec<_> = sizes.iter().zip(meant).collect();
        let size = meant.iter().filter(|(_, meant)| *meant).map(|((_, size), _)| size).sum();
        let memory = names.memory();
        let known = meant.iter().map(|((name, _), meant)| (Arc::clone(name), *meant));
        let selection = Selection::new(known, move |name| {
            (has_messages || name != OWN_NAME) && names.include(name)
        });
        Ok::<_, Error>(Chosen { selection, size, memory })
    });
    chosen.await.map_err(Error::bad_request)?
}

/// Recent output, and the output to come.
pub(super) struct Reserved {
    pub(super) excerpt: Excerpt,
    pub(super) following: Option<Subscription>,
    pub(super) room: OwnedSemaphorePermit,
}

/// Reserves memory for recent output, and then copies it.
pub(super) async fn take(
    app: &App,
    mut selection: Selection,
    mut size: usize,
    follow: bool,
) -> Result<Reserved, Error> {
    let output = app.engine.output();
    for _ in 0..MAX_TRIES {
        let room = app.memory.for_reader(size).await?;
        let excerpt = if follow {
            let shared = Arc::clone(app.memory.of_followers());
            let excerpt = output.subscribe(selection, size, shared).await?;
            excerpt.map(|(excerpt, following)| (excerpt, Some(following)))
        } else {
            output.excerpt(selection, size).await?.map(|excerpt| (excerpt, None))
        };
        match excerpt {
            Ok((excerpt, following)) => return Ok(Reserved { excerpt, following, room }),
            // It has grown meanwhile, and may go on to grow.
            Err(too_large) => {
                size = Memory::generous(too_large.memory);
                selection = too_large.selection;
            }
        }
    }
    Err(Error::busy("the output grows faster than it can be read".to_owned()))
}
