//! `ganger logs`: prints recent output, and follows it.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use hyper::Method;
use hyper::body::Bytes;
use memchr::memchr;
use regex::Regex;

use super::client_commands::{FAILED, NOT_RUNNING, run_client_or};
use super::use_color;
use crate::cli::{Global, Logs, Start};
use crate::control::api::{AppExit, CURSOR_MARK, LogLine};
use crate::control::client::{Client, percent_encode};
use crate::control::last_run::{LastRun, LineFormat, LineQuery};
use crate::logs::format::{OWN_NAME, Style};
use crate::logs::lines::plain_text;
use crate::logs::terminal::{Layout, LongLines};
use crate::plan::formation::ALL;

pub(super) fn logs(global: &Global, logs: &Logs) -> anyhow::Result<u8> {
    let uri = uri(logs, use_color(global.color, &std::io::stdout()));
    let mut exit_code = 0;
    let request = async |client: Client| -> anyhow::Result<String> {
        // It is there before the output can end.
        let exit = if logs.exit_code {
            Some(client.send(Method::GET, "/exit", Vec::new()).await?)
        } else {
            None
        };
        let mut answer = client.send(Method::GET, &uri, Vec::new()).await?;
        let output = if logs.follow { Output::Direct } else { Output::behind() };
        let mut filter = logs.grep.as_ref().map(|pattern| Filter::new(pattern, logs));
        // It ends with ganger, at the latest.
        let ended = loop {
            match answer.next().await {
                Ok(Some(bytes)) => {
                    let bytes = match &mut filter {
                        None => bytes,
                        Some(filter) => filter.pass(&bytes),
                    };
                    if !bytes.is_empty() && !output.write(bytes) {
                        break Ok(String::new());
                    }
                }
                Ok(None) => break Ok(String::new()),
                Err(error) => break Err(error.into()),
            }
        };
        output.finish();
        if let Some(exit) = exit {
            let AppExit { exit_code: code } = exit.json().await?;
            exit_code = code;
        }
        ended
    };
    let code = run_client_or(global, request, |last| print_last(global, logs, last))?;
    Ok(if code == 0 { exit_code } else { code })
}

/// Prints the last lines of a ganger that has ended.
fn print_last(global: &Global, logs: &Logs, last: &LastRun) -> anyhow::Result<u8> {
    let style = Style {
        color: use_color(global.color, &std::io::stdout()),
        timestamp: logs.timestamp,
        prefix: !logs.no_prefix,
        width: 0,
    };
    let layout = terminal_columns().map(|columns| Layout {
        columns: Some(columns.into()),
        long_lines: if logs.long.are_cut() { LongLines::Trim } else { LongLines::Wrap },
        color: style.color,
    });
    let query = LineQuery {
        names: &logs.names,
        max_lines: logs.lines,
        since: logs.since.and_then(|age| SystemTime::now().checked_sub(age)),
        this_run: logs.this_run,
        matches: &|line| logs.grep.as_ref().is_none_or(|pattern| pattern.is_match(line)),
        format: if logs.json {
            LineFormat::Json { follows_cursor: logs.cursor.is_some() }
        } else {
            LineFormat::Text(style, layout)
        },
    };
    let lines = last.format_lines(&query).map_err(anyhow::Error::msg)?;
    write(&lines);
    let exit_code = last.ending.as_ref().map_or(FAILED, |ending| ending.exit_code);
    Ok(if logs.exit_code { exit_code } else { NOT_RUNNING })
}

fn uri(logs: &Logs, color: bool) -> String {
    let format = match (logs.json, &logs.grep) {
        (true, _) => "json",
        (false, Some(_)) => "marked",
        (false, None) => "text",
    };
    let mut uri = format!(
        "/logs?format={format}&color={color}&follow={}&timestamp={}&no_prefix={}&this_run={}",
        logs.follow, logs.timestamp, logs.no_prefix, logs.this_run
    );
    // Without names, also the messages of ganger itself.
    let everything = [ALL.to_owned(), OWN_NAME.to_owned()];
    let names = if logs.names.is_empty() { &everything[..] } else { &logs.names };
    let names = percent_encode(&names.join(","));
    // The last lines of those that match are not known before they are read.
    let lines = logs.lines.filter(|_| logs.grep.is_none());
    let more = [
        (!names.is_empty()).then(|| format!("&names={names}")),
        lines.map(|lines| format!("&n={lines}")),
        logs.since.map(|since| format!("&since={}", since.as_secs_f64())),
        logs.cursor.as_ref().map(|cursor| format!("&cursor={}", percent_encode(cursor))),
        terminal_columns()
            .map(|columns| format!("&columns={columns}&trim={}", logs.long.are_cut())),
    ];
    uri.extend(more.into_iter().flatten());
    uri
}

/// The path of a request for all output that is kept and all that comes, as `start` shows it.
pub(super) fn follow_uri(start: &Start, color: bool) -> String {
    let names = percent_encode(&[ALL, OWN_NAME].join(","));
    let columns = terminal_columns().unwrap_or_default();
    let (timestamp, no_prefix) = (start.timestamp && !start.no_timestamp, start.no_prefix);
    format!(
        "/logs?follow=true&names={names}&color={color}&timestamp={timestamp}&no_prefix={no_prefix}\
         &columns={columns}&trim={}",
        start.long.are_cut()
    )
}

/// The width of the terminal that is standard output, if it is one. A terminal that can't tell it
/// has none.
fn terminal_columns() -> Option<u16> {
    let stdout = std::io::stdout();
    let size = || terminal_size::terminal_size_of(&stdout).map(|(columns, _)| columns.0);
    stdout.is_terminal().then(|| size().unwrap_or_default())
}

/// Passes the lines that match. They are matched here and not in the ganger that runs the app,
/// which no pattern can slow down.
struct Filter<'a> {
    pattern: &'a Regex,
    json: bool,
    /// The beginning of a line.
    open: Vec<u8>,
    /// The last lines of recent output that match, if only these are printed.
    last: Option<(usize, VecDeque<Vec<u8>>)>,
    out: Vec<u8>,
}

impl<'a> Filter<'a> {
    fn new(pattern: &'a Regex, logs: &Logs) -> Self {
        let last = logs.lines.map(|lines| (lines, VecDeque::new()));
        Self { pattern, json: logs.json, open: Vec::new(), last, out: Vec::new() }
    }

    /// The lines that are complete now, and are to be printed.
    fn pass(&mut self, bytes: &[u8]) -> Bytes {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.open);
                self.pass_line(line);
            }
        }
        std::mem::take(&mut self.out).into()
    }

    fn pass_line(&mut self, line: Vec<u8>) {
        let is_cursor = !self.json && line.starts_with(CURSOR_MARK.to_string().as_bytes());
        let record = self.json.then(|| serde_json::from_slice::<LogLine>(&line).ok()).flatten();
        if is_cursor || self.json && record.is_none() {
            // Recent output ends here at the latest.
            for line in self.last.take().into_iter().flat_map(|(_, lines)| lines) {
                self.out.extend(line);
            }
            if !is_cursor {
                self.out.extend(line);
            }
            return;
        }
        let (prefix, text) = match &record {
            Some(_) => (line.as_slice(), &[][..]),
            None => match memchr(0, &line) {
                Some(mark) => (&line[..mark], &line[mark + 1..]),
                // A message.
                None => return self.out.extend(line),
            },
        };
        let plain = record.map_or_else(|| plain_text(text), |record| record.line);
        if !self.pattern.is_match(&plain) {
            return;
        }
        let line = [prefix, text].concat();
        match &mut self.last {
            None => self.out.extend(line),
            Some((most, lines)) => {
                lines.push_back(line);
                if lines.len() > *most {
                    lines.pop_front();
                }
            }
        }
    }
}

/// Standard output, which may be slow: a pager reads a page, and waits for its user.
enum Output {
    /// The response is read no faster than it is written; ganger counts what this misses.
    Direct,
    /// The response is read at once and written by a thread, so that ganger need not keep it.
    Behind(Sender<Bytes>, JoinHandle<()>),
}

impl Output {
    fn behind() -> Self {
        let (sender, pieces) = channel::<Bytes>();
        let writer = std::thread::spawn(move || {
            while let Ok(bytes) = pieces.recv()
                && write(&bytes)
            {}
        });
        Self::Behind(sender, writer)
    }

    /// Returns false if the reader is gone.
    fn write(&self, bytes: Bytes) -> bool {
        match self {
            Self::Direct => write(&bytes),
            Self::Behind(sender, _) => sender.send(bytes).is_ok(),
        }
    }

    /// Waits until everything is written.
    fn finish(self) {
        if let Self::Behind(sender, writer) = self {
            drop(sender);
            let _ = writer.join();
        }
    }
}

fn write(bytes: &[u8]) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn pass(args: &str, answer: &str) -> String {
        let cli = Cli::parse_from(args.split(' '));
        let Command::Logs(logs) = cli.command else { panic!("{args}") };
        let mut filter = Filter::new(logs.grep.as_ref().unwrap(), &logs);
        // In pieces, which are not lines.
        let passed = answer.as_bytes().chunks(3).map(|piece| filter.pass(piece));
        String::from_utf8(passed.collect::<Vec<_>>().concat()).unwrap()
    }

    #[test]
    fn lines_are_matched_without_prefix_and_colors() {
        let answer = "web.1 | \0one\nganger | 7 bytes of output discarded\nweb.1 | \0\x1b[31mt\x1b[0mwo web\r\n\
                      \x1e1:web.1=9\n\0three\n";
        let shown = pass("ganger logs --grep ^two", answer);
        assert_eq!(
            shown,
            "ganger | 7 bytes of output discarded\nweb.1 | \x1b[31mt\x1b[0mwo web\r\n"
        );
        assert_eq!(pass("ganger logs -g thre.$", answer).lines().last(), Some("three"));
    }

    #[test]
    fn last_lines_are_counted_before_what_follows() {
        let answer = "\0a 1\n\0b\n\0a 2\n\0a 3\n\x1e1:\n\0a 4\n\0a 5\n";
        assert_eq!(pass("ganger logs --grep a -n 2", answer), "a 2\na 3\na 4\na 5\n");
        let line = |text: &str| format!("{{\"time\":\"\",\"name\":\"a\",\"line\":\"{text}\"}}\n");
        let cursor = "{\"cursor\":\"1:\",\"schema_version\":1}\n";
        let answer = [&line("a 1"), &line("b"), &line("a 2"), cursor].concat();
        assert_eq!(
            pass("ganger logs --json --grep a -n 1", &answer),
            [&line("a 2"), cursor].concat()
        );
    }
}
