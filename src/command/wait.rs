//! `ganger wait`: waits until processes are ready, have exited, or have written a line.

use std::time::Duration;

use hyper::Method;
use regex::Regex;
use tokio::time::timeout;

use super::client_commands::{path, request_and_print, run_client};
use super::{json, print_error};
use crate::cli::{Global, NameArgs, Wait};
use crate::control::api::{LogCursorRecord, LogLine, MissedOutput, ProcessStatus, State};
use crate::control::client::{Answer, Client, Error, percent_encode};
use crate::notice::{escape_controls, time};

pub(super) fn wait(global: &Global, wait: &Wait) -> anyhow::Result<u8> {
    if let Some(pattern) = &wait.log {
        return run_client(global, async |client| wait_for_line(&client, wait, pattern).await);
    }
    let timeout = wait.timeout.map(|time| format!("&timeout={}", time.as_secs_f64()));
    let until = if wait.ready { "ready" } else { "exit" };
    let action = format!("/wait?for={until}{}", timeout.unwrap_or_default());
    let line = |process: &ProcessStatus| match (&process.last_exit, wait.exit) {
        (_, false) => format!("{} is ready\n", process.name),
        (Some(exit), true) => format!("{} {}\n", process.name, escape_controls(exit)),
        (None, true) => format!("{} is down\n", process.name),
    };
    let lines = |reached: &Vec<ProcessStatus>| reached.iter().map(line).collect();
    let NameArgs { names, output } = &wait.named;
    let uri = path(names, &action);
    run_client(global, async |client| {
        request_and_print(&client, Method::GET, &uri, Vec::new(), *output, lines).await
    })
}

/// Waits until each process has written a line that matches. The lines are matched here, so that
/// no pattern can slow down the ganger that runs the app.
async fn wait_for_line(client: &Client, wait: &Wait, pattern: &Regex) -> Result<String, Error> {
    let waiting = async {
        let search = Search::new(client, &wait.named.names, pattern).await?;
        search.run(client, wait.this_run).await
    };
    let found = match wait.timeout {
        None => waiting.await?,
        Some(limit) => timeout(limit, waiting).await.unwrap_or_else(|_| Err(timed_out(limit)))?,
    };
    if wait.named.output.json {
        return Ok(json::to_text(serde_json::json!({ "lines": found })));
    }
    let line = |found: &LogLine| format!("{}: {}\n", found.name, escape_controls(&found.line));
    Ok(found.iter().map(line).collect())
}

fn timed_out(limit: Duration) -> Error {
    Error::TimedOut(format!("timed out after {}", time(limit)))
}

/// A search for a line of each process.
struct Search<'a> {
    pattern: &'a Regex,
    /// The processes, as they are named in a request.
    names: String,
    /// The processes without such a line.
    missing: Vec<String>,
    found: Vec<LogLine>,
    /// Where the output begins that follows.
    cursor: Option<String>,
    /// The beginning of a record.
    open: Vec<u8>,
}

impl<'a> Search<'a> {
    async fn new(client: &Client, names: &[String], pattern: &'a Regex) -> Result<Self, Error> {
        let all: Vec<ProcessStatus> = client.ask(Method::GET, &path(names, ""), Vec::new()).await?;
        let missing: Vec<String> = all.into_iter().map(|process| process.name).collect();
        let names = percent_encode(&missing.join(","));
        Ok(Self { pattern, names, missing, found: Vec::new(), cursor: None, open: Vec::new() })
    }

    async fn run(mut self, client: &Client, this_run: bool) -> Result<Vec<LogLine>, Error> {
        let range = if this_run { "this_run=true" } else { "n=0" };
        let uri = format!("/logs?format=json&follow=true&{range}&names={}", self.names);
        let mut answer = client.send(Method::GET, &uri, Vec::new()).await?;
        while self.cursor.is_none() && !self.missing.is_empty() {
            self.read(&mut answer).await?;
        }
        let mut down = Box::pin(self.wait_for_down(client));
        while !self.missing.is_empty() {
            let step = tokio::select! {
                piece = answer.next() => Step::Output(piece?),
                down = &mut down => Step::Down(down?),
            };
            match step {
                Step::Output(Some(bytes)) => self.push(&bytes),
                Step::Output(None) => return Err(Error::ShuttingDown),
                Step::Down(processes) => {
                    self.read_rest(client).await?;
                    self.ensure_may_be_found(&processes)?;
                    if !self.missing.is_empty() {
                        down = Box::pin(self.wait_for_down(client));
                    }
                }
            }
        }
        Ok(self.found)
    }

    /// Waits until one of the processes that have not written the line is down for good.
    fn wait_for_down<'c>(
        &self,
        client: &'c Client,
    ) -> impl Future<Output = Result<Vec<ProcessStatus>, Error>> + use<'c> {
        let uri = path(&self.missing, "/wait?for=down");
        async move { client.ask(Method::GET, &uri, Vec::new()).await }
    }

    /// Reads the next piece of the answer.
    async fn read(&mut self, answer: &mut Answer<'_>) -> Result<(), Error> {
        let bytes = answer.next().await?.ok_or(Error::ShuttingDown)?;
        self.push(&bytes);
        Ok(())
    }

    /// A process is down: its last lines may not have been read.
    async fn read_rest(&mut self, client: &Client) -> Result<(), Error> {
        let cursor = self.cursor.clone().unwrap_or_default();
        let uri =
            format!("/logs?format=json&cursor={}&names={}", percent_encode(&cursor), self.names);
        let mut answer = client.send(Method::GET, &uri, Vec::new()).await?;
        let open = std::mem::take(&mut self.open);
        while let Some(bytes) = answer.next().await? {
            self.push(&bytes);
        }
        self.open = open;
        Ok(())
    }

    fn ensure_may_be_found(&self, processes: &[ProcessStatus]) -> Result<(), Error> {
        for name in &self.missing {
            let reason = match processes.iter().find(|process| process.name == *name) {
                None => "is not in the formation any more".to_owned(),
                Some(ProcessStatus { state: State::Down, last_exit, .. }) => {
                    let exit = last_exit.as_deref().unwrap_or("was stopped");
                    format!("{exit}, and stays down")
                }
                Some(_) => continue,
            };
            return Err(Error::TimedOut(format!("{name} {reason}")));
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let record = std::mem::take(&mut self.open);
                self.push_record(&record);
            }
        }
    }

    fn push_record(&mut self, record: &[u8]) {
        if let Ok(line) = serde_json::from_slice::<LogLine>(record) {
            let is_awaited = self.missing.contains(&line.name);
            if is_awaited && self.pattern.is_match(&line.line) {
                self.missing.retain(|name| *name != line.name);
                self.found.push(line);
            }
        } else if let Ok(cursor) = serde_json::from_slice::<LogCursorRecord>(record) {
            self.cursor = Some(cursor.cursor);
        } else if let Ok(MissedOutput { missed_bytes: Some(bytes) }) =
            serde_json::from_slice(record)
        {
            print_error(&format!("{bytes} bytes of output were not read in time"));
        }
    }
}

/// What happens while a line is waited for.
enum Step {
    Output(Option<hyper::body::Bytes>),
    Down(Vec<ProcessStatus>),
}
