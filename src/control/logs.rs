//! The answer to `GET /logs`.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::lines::Lines;
use super::names;
use super::routes::{App, Error, bad, choose};
use crate::logs::format::Style;

#[derive(Deserialize)]
pub(super) struct Logs {
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
pub(super) async fn logs(
    State(app): State<App>,
    Query(query): Query<Logs>,
) -> Result<Response, Error> {
    let room = query.follow.then(|| app.stay()).transpose()?;
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
        Some(said) => Body::new(text.follow(said, app.answers, room)).into_response(),
        None => Body::from(text.finish()).into_response(),
    })
}
