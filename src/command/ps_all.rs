//! `ganger ps --all`: lists all running gangers of this user.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use hyper::Method;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::json;
use super::ps::age;
use crate::cli::OutputArgs;
use crate::control::api::{About, ProcessStatus, Revision};
use crate::control::client::{Client, Error};
use crate::control::run_file::{self, Running};
use crate::notice::escape_controls;

/// How long a ganger may take to answer. One that is suspended does not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A running ganger.
#[derive(Debug, Serialize)]
struct Ganger {
    root: String,
    procfile: String,
    name: Option<String>,
    pid: u32,
    socket: String,
    /// Whether it answers. If not, the following are unknown.
    answers: bool,
    version: Option<String>,
    uptime: Option<f64>,
    /// The ports of its processes.
    ports: Vec<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
}

pub(super) fn ps_all(output: OutputArgs) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let all = runtime.context("failed to start the client")?.block_on(async {
        // Each on its own: many may be suspended.
        let asked: Vec<_> =
            run_file::list().into_iter().map(|running| tokio::spawn(ask(running))).collect();
        let mut all = Vec::new();
        for ganger in asked {
            all.extend(ganger.await.ok());
        }
        all
    });
    let text = if output.json { json::to_text(json!({ "gangers": all })) } else { table(&all) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

async fn ask(running: Running) -> Ganger {
    let Running { run, socket } = running;
    let client = Client::at(socket.clone());
    let answer = timeout(ANSWER_TIMEOUT, async {
        let about: About = client.ask(Method::GET, "/", Vec::new()).await?;
        let all: Vec<ProcessStatus> = client.ask(Method::GET, "/processes", Vec::new()).await?;
        Ok::<_, Error>((about, all))
    });
    let (about, all) = answer.await.ok().and_then(Result::ok).unzip();
    let all = all.unwrap_or_default();
    let mut ports: Vec<u16> = all.iter().filter_map(|process| process.port).collect();
    ports.dedup();
    Ganger {
        root: run.root,
        procfile: run.procfile,
        name: run.name,
        pid: run.pid,
        socket: socket.display().to_string(),
        answers: about.is_some(),
        version: about.as_ref().map(|about| about.version.clone()),
        uptime: about.as_ref().map(|about| about.uptime),
        ports,
        revision: about.and_then(|about| about.revision),
    }
}

const COLUMNS: usize = 7;
const HEADER: [&str; COLUMNS] = ["ROOT", "PROCFILE", "NAME", "PID", "PORTS", "REVISION", "UPTIME"];

fn table(all: &[Ganger]) -> String {
    let cells = |row: [String; COLUMNS]| row.map(|cell| escape_controls(&cell).into_owned());
    let rows: Vec<[String; COLUMNS]> = std::iter::once(HEADER.map(str::to_owned))
        .chain(all.iter().map(|ganger| cells(row(ganger))))
        .collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(ganger: &Ganger) -> [String; COLUMNS] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let uptime = match ganger.uptime {
        Some(uptime) => age(uptime),
        None => "does not answer".to_owned(),
    };
    [
        ganger.root.clone(),
        ganger.procfile.clone(),
        or_none(ganger.name.clone()),
        ganger.pid.to_string(),
        or_none(ranges(&ganger.ports)),
        or_none(ganger.revision.as_ref().map(short)),
        uptime,
    ]
}

/// A revision in short: `7fd0b0a`, or `7fd0b0a+` if files differ from it.
fn short(revision: &Revision) -> String {
    let commit = revision.commit.get(..7).unwrap_or(&revision.commit);
    let dirty = if revision.dirty == Some(true) { "+" } else { "" };
    format!("{commit}{dirty}")
}

/// Ports in short: `5000-5002,5100`.
fn ranges(ports: &[u16]) -> Option<String> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            Some(_) | None => ranges.push((*port, *port)),
        }
    }
    let show = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    (!ranges.is_empty()).then(|| ranges.iter().map(show).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_gangers_is_aligned() {
        let ganger = |root: &str, procfile: &str, answers: bool| Ganger {
            root: root.into(),
            procfile: procfile.into(),
            name: (!answers).then(|| "jobs".into()),
            pid: 4103,
            socket: "/tmp/ganger-0/app.sock".into(),
            answers,
            version: answers.then(|| "0.1.0".into()),
            uptime: answers.then_some(3_725.0),
            ports: if answers { vec![5000, 5001, 5002, 5100] } else { Vec::new() },
            revision: answers.then(|| Revision { commit: "7fd0b0a3c1".into(), dirty: Some(true) }),
        };
        let all = [ganger("/srv/app", "Procfile", true), ganger("/srv/b", "Procfile.dev", false)];
        insta::assert_snapshot!(table(&all));
    }
}
