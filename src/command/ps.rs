//! `ganger ps`: shows the processes of the running app.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::client_commands::{NOT_RUNNING, path, run_client, run_client_or};
use super::json;
use crate::cli::{Global, Ps};
use crate::control::api::{ProcessStatus, State};
use crate::control::client::{Client, Error};
use crate::control::json_lines::format_time;
use crate::control::last_run::LastRun;
use crate::notice::escape_controls;
use crate::plan::OnExit;

const COLUMNS: usize = 10;

const HEADER: [&str; COLUMNS] =
    ["NAME", "PID", "STATE", "PORT", "UPTIME", "ON EXIT", "RESTARTS", "CPU", "MEMORY", "LAST EXIT"];

pub(super) fn ps(global: &Global, ps: &Ps) -> anyhow::Result<u8> {
    let uri = if ps.names.is_empty() { "/processes".to_owned() } else { path(&ps.names, "") };
    let request = async |client: Client| -> anyhow::Result<String> {
        if !ps.output.json {
            let all: Vec<ProcessStatus> = client.ask(Method::GET, &uri, Vec::new()).await?;
            return Ok(table(&all, terminal_width()));
        }
        Ok(describe(&client, &uri).await?)
    };
    run_client_or(global, request, |last| {
        if ps.output.json {
            let text = json::to_text(describe_last(last));
            std::io::stdout().write_all(text.as_bytes())?;
        }
        Ok(NOT_RUNNING)
    })
}

/// Prints what `ps --json` prints of all processes.
pub(super) fn print_json(global: &Global) -> anyhow::Result<u8> {
    run_client(global, async |client| describe(&client, "/processes").await)
}

/// A running ganger and the processes of a response, as `ps --json` shows them.
async fn describe(client: &Client, processes: &str) -> Result<String, Error> {
    let mut answer: Value = client.ask(Method::GET, "/", Vec::new()).await?;
    answer["processes"] = client.ask(Method::GET, processes, Vec::new()).await?;
    Ok(json::to_text(answer))
}

/// A ganger that has ended, as `ps --json` shows it.
fn describe_last(last: &LastRun) -> Value {
    let LastRun { run, ending, .. } = last;
    let ending = ending.as_ref();
    json!({
        "processes": [],
        "last_run": {
            "root": run.root,
            "procfile": run.procfile,
            "name": run.name,
            "pid": run.pid,
            "ended_at": last.ended_at().map(format_time),
            "exit_code": ending.map(|ending| ending.exit_code),
            "report": ending.map(|ending| &ending.report),
        },
    })
}

/// The columns that are left out if the terminal is too narrow, in this order.
const LEFT_OUT_FIRST: [&str; 7] =
    ["ON EXIT", "RESTARTS", "MEMORY", "CPU", "LAST EXIT", "UPTIME", "PORT"];

/// The table of these processes. If it is wider than `width`, columns are left out: first those
/// that have no value for any process.
fn table(all: &[ProcessStatus], width: Option<usize>) -> String {
    let header = HEADER.map(str::to_owned);
    let shown = |row: [String; COLUMNS]| row.map(|cell| escape_controls(&cell).into_owned());
    let rows: Vec<[String; COLUMNS]> =
        std::iter::once(header).chain(all.iter().map(row).map(shown)).collect();
    let column_width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(column_width);
    let is_empty =
        |column: usize| rows[1..].iter().all(|row| matches!(row[column].as_str(), "-" | "0"));
    let place = |name: &str| HEADER.iter().position(|header| *header == name);
    let (empty, other): (Vec<usize>, Vec<usize>) =
        LEFT_OUT_FIRST.iter().filter_map(|name| place(name)).partition(|column| is_empty(*column));
    let mut columns: Vec<usize> = (0..COLUMNS).collect();
    for left_out in empty.into_iter().chain(other) {
        let total: usize = columns.iter().map(|column| widths[*column] + 2).sum();
        if width.is_none_or(|width| total <= width + 2) {
            break;
        }
        columns.retain(|column| *column != left_out);
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = columns.iter().map(|column| format!("{:<1$}", row[*column], widths[*column]));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// The width of the terminal that the table goes to, if it goes to one.
fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let (width, _height) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(width.0.into())
}

fn row(process: &ProcessStatus) -> [String; COLUMNS] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let port = process.port.map(|port| match (process.bound, process.state) {
        (false, State::Up) => format!("{port} (unbound)"),
        (_, _) => port.to_string(),
    });
    let running = process.pid.is_some();
    [
        process.name.clone(),
        or_none(process.pid.map(|pid| pid.to_string())),
        process.state_text(),
        or_none(port),
        or_none(process.uptime.map(age)),
        policy(process),
        process.restarts.to_string(),
        or_none(running.then(|| format!("{:.1}s", process.cpu))),
        or_none(running.then(|| format!("{:.1}M", mebibytes(process.memory)))),
        or_none(process.last_exit.clone()),
    ]
}

/// The restart policy, with the number of crashes in a row and their limit.
fn policy(process: &ProcessStatus) -> String {
    let name = match process.on_exit {
        OnExit::StopAll => return "stop-all".to_owned(),
        OnExit::Ignore => return "ignore".to_owned(),
        OnExit::Restart => "restart",
        OnExit::RestartOnFailure => "restart-on-failure",
    };
    match (process.crashes, process.give_up_after) {
        (0, _) => name.to_owned(),
        (crashes, None) => format!("{name}, crashed {crashes}"),
        (crashes, Some(most)) => format!("{name}, crashed {crashes}/{most}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A duration in its two largest units.
pub(super) fn age(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let up = ProcessStatus {
            name: "web.1".into(),
            r#type: "web".into(),
            state: State::Up,
            ready: true,
            waits_for: Vec::new(),
            on_exit: OnExit::StopAll,
            crashes: 0,
            give_up_after: None,
            starts_in: None,
            pid: Some(4103),
            port: Some(5000),
            bound: true,
            uptime: Some(3_725.0),
            restarts: 0,
            last_exit: None,
            cpu: 1.25,
            memory: 50 << 20,
        };
        let down = ProcessStatus {
            name: "worker.10".into(),
            state: State::Down,
            ready: false,
            pid: None,
            port: None,
            uptime: None,
            restarts: 3,
            on_exit: OnExit::Restart,
            crashes: 3,
            give_up_after: Some(10),
            last_exit: Some("was killed by SIGSEGV".into()),
            ..up.clone()
        };
        let unbound =
            ProcessStatus { bound: false, ready: false, uptime: Some(59.9), ..up.clone() };
        let all = [up, down, unbound];
        insta::assert_snapshot!(table(&all, None));
        insta::assert_snapshot!("a_narrow_table_has_fewer_columns", table(&all, Some(80)));
        let widest = |text: String| text.lines().map(|line| line.chars().count()).max();
        for width in 60..130 {
            assert!(widest(table(&all, Some(width))) <= Some(width), "{width}");
        }
        assert_eq!([0.0, 61.0, 90_061.0].map(age), ["0s", "1m01s", "1d01h"]);
    }
}
