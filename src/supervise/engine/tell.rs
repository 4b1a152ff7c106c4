//! What the engine has to say at the beginning, in between when asked, and at the end.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Engine;
use crate::logs::follow::{Filter, Question};
use crate::logs::recent::Line;
use crate::notice::{Notice, time};
use crate::supervise::exit::{Exit, Failure, Outcome};
use crate::supervise::oom::OomKills;
use crate::supervise::supervisor::{Readiness, State, Status};

/// So many lines of who failed are shown at the end, and waited for so long.
const REPORTED: usize = 10;
const REPORT_IN: Duration = Duration::from_secs(1);

impl Engine {
    /// What is worth knowing before anything runs.
    pub(super) fn say_first(&mut self) {
        if !self.plan.clashes.is_empty() {
            let (keys, files_win) = (self.plan.clashes.clone(), self.plan.files_win);
            self.logs.say(Notice::Clash { keys, files_win });
        }
        if !self.plan.unlisted.is_empty() {
            self.logs.say(Notice::Unlisted { types: self.plan.unlisted.clone() });
        }
    }

    pub(super) fn say_status(&mut self) {
        let now = self.now();
        let line = |status: Status| {
            let pid = status.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let last = status.last.map(|exit| format!(", {exit}")).unwrap_or_default();
            let until = |at: Instant| time(at.saturating_duration_since(now));
            let state = match status.state {
                State::Down => format!("down{last}"),
                State::Backoff { until: at } => format!("down, started again in {}", until(at)),
                State::Waiting { .. } => "waiting".to_owned(),
                State::Starting => "starting".to_owned(),
                State::Up { since, ready, .. } => {
                    let not = if ready == Readiness::Ready { "" } else { ", not ready" };
                    format!("up {}{not}", time(now.duration_since(since)))
                }
                State::Stopping { kill_at, .. } => {
                    format!("stopping, SIGKILL in {}", until(kill_at))
                }
                State::Killed { .. } => "killed".to_owned(),
                State::Stuck { .. } => "killed, and still there".to_owned(),
            };
            format!("{}{pid}: {state}", status.plan.name)
        };
        let lines = self.supervisor.status().map(line).collect();
        self.logs.say(Notice::Status { lines });
    }

    /// Says what went wrong, if something did, and returns the exit code.
    pub(super) async fn report(&mut self, outcome: &Outcome) -> u8 {
        if let Some(Failure { name, exit }) = &outcome.first_failure {
            // Alone, it has said so just now.
            let most = if self.plan.processes.len() > 1 { REPORTED } else { 0 };
            let lines = self.last_words(name.clone(), most).await;
            let killed = exit.code() == Exit::Signal(libc::SIGKILL).code();
            let no_memory = killed && self.oom_kills.as_ref().is_some_and(OomKills::have_grown);
            let others = outcome.stopped.clone();
            if !lines.is_empty() || !others.is_empty() || no_memory {
                let (name, exit) = (name.clone(), *exit);
                self.logs.say(Notice::Report { name, exit, no_memory, lines, others });
            }
        }
        outcome.code()
    }

    pub(super) async fn last_words(&mut self, name: String, most: usize) -> Vec<String> {
        let (answer, lines) = oneshot::channel();
        let filter = Filter(Box::new(move |of| of == name));
        self.logs.look(Question { filter, most, since: None, answer, follow: None });
        let line = |line: Line| String::from_utf8_lossy(&line.bytes).trim_end().to_owned();
        // Only whoever blocks the stream for good keeps it from being answered.
        let lines = timeout(REPORT_IN, lines).await;
        lines.into_iter().flatten().flatten().map(line).collect()
    }
}
