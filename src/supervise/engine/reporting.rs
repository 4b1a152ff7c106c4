//! What the engine has to say at the beginning, in between when asked, and at the end.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Engine;
use crate::exit::{Exit, Failure, Outcome};
use crate::logs::subscribers::Selection;
use crate::notice::{Notice, time};
use crate::supervise::oom::OomKills;
use crate::supervise::supervisor::{ProcessId, Readiness, State, Status};

/// So many lines of who failed are shown at the end, so much of each, and waited for so
/// long.
const REPORTED: usize = 10;
const LONGEST_LINE: usize = 200;
/// Of which this is enough, whatever stands in it that is not shown.
const LONGEST_LINE_BYTES: usize = 16 << 10;
const REPORT_IN: Duration = Duration::from_secs(1);

impl Engine {
    /// What is worth knowing before anything runs.
    pub(super) fn notify_plan(&mut self) {
        if !self.plan.clashes.is_empty() {
            let (keys, files_win) = (self.plan.clashes.clone(), self.plan.files_win);
            self.logs.print_message(Notice::EnvConflict { keys, files_win });
        }
        for advice in self.plan.advice.iter().cloned() {
            self.logs.print_message(Notice::Advice(advice));
        }
        if !self.plan.unlisted.is_empty() {
            self.logs.print_message(Notice::Unlisted { types: self.plan.unlisted.clone() });
        }
    }

    pub(super) fn notify_status(&mut self) {
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
        self.logs.print_message(Notice::Status { lines });
    }

    /// Says what went wrong, if something did, and returns the exit code.
    pub(super) async fn report(&mut self, outcome: &Outcome) -> u8 {
        if let Some(Failure { name, exit }) = outcome.first_failure() {
            // Alone, it has said so just now.
            let alone = matches!(self.plan.processes.as_slice(), [only] if only.shown);
            let lines = self.recent_lines(name.clone(), if alone { 0 } else { REPORTED }).await;
            let no_memory = self.out_of_memory.contains(name);
            let others = outcome.stopped.clone();
            if !lines.is_empty() || !others.is_empty() || no_memory {
                let (name, exit) = (name.clone(), *exit);
                self.logs.print_message(Notice::Report { name, exit, no_memory, lines, others });
            }
        }
        outcome.code()
    }

    /// Says so if memory ran out when a process was killed.
    pub(super) fn check_oom_kill(&mut self, id: ProcessId, exit: Exit) {
        let killed = exit.code() == Exit::Signal(libc::SIGKILL).code();
        if !killed && self.out_of_memory.is_empty() {
            return;
        }
        let Some(status) = self.supervisor.find(id) else { return };
        let name = status.plan.name.clone();
        if killed && self.oom_kills.as_mut().is_some_and(OomKills::increased) {
            self.logs.print_message(Notice::OutOfMemory { name: name.clone() });
            self.out_of_memory.insert(name);
        } else {
            self.out_of_memory.remove(&name);
        }
    }

    pub(super) async fn recent_lines(&mut self, name: String, most: usize) -> Vec<String> {
        let selection = Selection::new([], move |of| of == name);
        let excerpt = self.logs.queries().excerpt(selection, usize::MAX);
        // Only whoever blocks the stream for good keeps it from being answered.
        let Ok(Ok(Ok(excerpt))) = timeout(REPORT_IN, excerpt).await else { return Vec::new() };
        excerpt.last_lines(most, LONGEST_LINE_BYTES).iter().map(|line| plain(line)).collect()
    }
}

/// A line as it may stand in a sentence of ganger's own: without what a terminal would
/// obey, and not for ever.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text: String = anstream::adapter::strip_str(text.trim_end()).to_string();
    let mut chars = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    let mut shown: String = chars.by_ref().take(LONGEST_LINE).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_plain() {
        assert_eq!(plain(b"\x1b[31mred\x1b[0m\x1b[2J \0 end\r\n"), "red  end");
        let long = plain("é".repeat(100_000).as_bytes());
        assert_eq!((long.chars().count(), long.ends_with('…')), (LONGEST_LINE + 1, true));
    }
}
