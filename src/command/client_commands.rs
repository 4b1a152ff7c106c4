//! The commands that control a running ganger; `ps`, `logs` and `wait` have files of their own.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Method;
use serde::de::DeserializeOwned;

use super::{file_locations, json, print_error};
use crate::cli::{Global, NameArgs, OutputArgs, Reload, Restart, Scale, SignalArgs, Stop};
use crate::control::api::{Changes, FormationChange};
use crate::control::client::{Client, Error, processes_uri};
use crate::control::last_run::LastRun;
use crate::notice::escape_controls;
use crate::plan::formation::ALL;

/// The request failed for another reason than the following.
pub(super) const FAILED: u8 = 1;
/// No ganger runs here, or it is shutting down.
pub(super) const NOT_RUNNING: u8 = 3;
/// A wait timed out.
pub(super) const TIMED_OUT: u8 = 4;

/// Connects to the ganger that the flags select, sends a request, prints the response, and returns
/// the exit code.
pub(super) fn run_client(
    global: &Global,
    request: impl AsyncFnOnce(Client) -> Result<String, Error>,
) -> anyhow::Result<u8> {
    run_client_or(global, async |client| Ok(request(client).await?), |_| Ok(NOT_RUNNING))
}

/// The same, for what can fail in other ways as well.
pub(super) fn run_with_client(
    global: &Global,
    request: impl AsyncFnOnce(Client) -> anyhow::Result<String>,
) -> anyhow::Result<u8> {
    run_client_or(global, request, |_| Ok(NOT_RUNNING))
}

/// The same. If none runs any more, that is printed, and the exit code is that of `on_ended`, which
/// gets what the last one left.
pub(super) fn run_client_or(
    global: &Global,
    request: impl AsyncFnOnce(Client) -> anyhow::Result<String>,
    on_ended: impl FnOnce(&LastRun) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.context("failed to start the client")?.block_on(async {
        let client = match &global.socket {
            Some(path) => Client::at(path.clone()),
            None => {
                let (client, notice) =
                    Client::find(&file_locations(global), global.name.as_deref())?;
                notice.iter().for_each(print_error);
                client
            }
        };
        request(client).await
    });
    let error = match answer {
        Ok(text) => {
            std::io::stdout().write_all(text.as_bytes())?;
            return Ok(0);
        }
        Err(error) => error,
    };
    if let Some(Error::HasEnded { last, .. }) = error.downcast_ref() {
        print_error(&error);
        for line in last.ending.iter().flat_map(|ending| &ending.report) {
            eprintln!("  {}", escape_controls(line));
        }
        return on_ended(last);
    }
    exit_code(error)
}

/// Prints an error of a client, and returns the exit code for it. Other errors are returned.
pub(super) fn exit_code(error: anyhow::Error) -> anyhow::Result<u8> {
    let code = match error.downcast_ref() {
        Some(
            Error::NotRunning(_)
            | Error::HasEnded { .. }
            | Error::RunsAbove { .. }
            | Error::ShuttingDown,
        ) => NOT_RUNNING,
        Some(Error::TimedOut(_)) => TIMED_OUT,
        Some(Error::NoAnswer(..) | Error::Failed { .. }) => FAILED,
        Some(Error::Refused(_) | Error::Busy(_)) | None => return Err(error),
    };
    print_error(&error);
    Ok(code)
}

/// The request path for these processes. No names mean all processes.
pub(super) fn path(names: &[String], verb: &str) -> String {
    let names = if names.is_empty() { ALL.to_owned() } else { names.join(",") };
    processes_uri(&names, verb)
}

fn describe_changes(done: &Changes) -> String {
    let line = |what: &str, names: &[String]| {
        if names.is_empty() { String::new() } else { format!("{what} {}\n", names.join(" ")) }
    };
    let text = [
        line("starting", &done.started),
        line("stopping", &done.stopped),
        line("restarting", &done.restarted),
        line("adjusting", &done.adjusted),
        line("signalled", &done.signalled),
    ]
    .concat();
    if text.is_empty() { "nothing to do\n".to_owned() } else { text }
}

/// Sends a request, and returns the response as text for the user, or as JSON.
pub(super) async fn request_and_print<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    uri: &str,
    body: Vec<u8>,
    output: OutputArgs,
    in_words: impl FnOnce(&T) -> String,
) -> Result<String, Error> {
    if output.json {
        let answer: serde_json::Value = client.ask(method, uri, body).await?;
        return Ok(json::to_text(answer));
    }
    client.ask(method, uri, body).await.map(|answer| in_words(&answer))
}

async fn post(client: &Client, uri: &str, output: OutputArgs) -> Result<String, Error> {
    request_and_print(client, Method::POST, uri, Vec::new(), output, describe_changes).await
}

pub(super) fn stop(global: &Global, stop: &Stop) -> anyhow::Result<u8> {
    run_client(global, async |client| post(&client, &path(&stop.names, "/stop"), stop.output).await)
}

pub(super) fn restart(global: &Global, restart: &Restart) -> anyhow::Result<u8> {
    let action = format!("/restart?rolling={}{}", restart.rolling, wait_query(restart.wait));
    let Restart { names, output, .. } = restart;
    run_client(global, async |client| post(&client, &path(names, &action), *output).await)
}

/// The query parameter with which ganger responds only when all processes are ready.
fn wait_query(wait: Option<Duration>) -> String {
    wait.map(|time| format!("&wait={}", time.as_secs_f64())).unwrap_or_default()
}

pub(super) fn scale(global: &Global, scale: &Scale) -> anyhow::Result<u8> {
    for (at, change) in scale.changes.iter().enumerate() {
        if scale.changes[..at].iter().any(|before| before.name == change.name) {
            bail!("`{}` is changed twice: say it once", change.name);
        }
    }
    let body = serde_json::to_vec(&FormationChange::new(&scale.changes))?;
    run_client(global, async |client| {
        request_and_print(
            &client,
            Method::PATCH,
            "/formation",
            body,
            scale.output,
            describe_changes,
        )
        .await
    })
}

pub(super) fn reload(global: &Global, reload: &Reload) -> anyhow::Result<u8> {
    let uri = format!("/reload?rolling={}{}", reload.rolling, wait_query(reload.wait));
    run_client(global, async |client| post(&client, &uri, reload.output).await)
}

pub(super) fn signal(global: &Global, signal: &SignalArgs) -> anyhow::Result<u8> {
    let action = format!("/signal?signal={}", signal.signal);
    let NameArgs { names, output } = &signal.named;
    run_client(global, async |client| post(&client, &path(names, &action), *output).await)
}

/// Stops everything, and returns when ganger has exited.
pub(super) fn quit(global: &Global) -> anyhow::Result<u8> {
    run_client(global, async |client| client.quit().await.map(|()| String::new()))
}
