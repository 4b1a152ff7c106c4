//! Notices that a user may miss the output of a process: it prints nothing, or it waits for input
//! that does not come.
//!
//! Programs buffer what they write to a pipe, and a process has a silent stdin. Each process gets
//! one hint in a run of ganger.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::memrchr;

use super::SourceId;
use crate::notice::Notice;

/// How long a process may print nothing.
const SILENCE_TIME: Duration = Duration::from_secs(30);
/// How long an unfinished line may stand that looks like a prompt.
const PROMPT_TIME: Duration = Duration::from_secs(3);
/// A longer line is no prompt.
const MAX_PROMPT_BYTES: usize = 80;

/// The sources that may get a hint.
#[derive(Debug, Default)]
pub(super) struct Hints {
    watched: HashMap<SourceId, Watched>,
    /// The processes that had their hint.
    hinted: HashSet<Arc<str>>,
    /// When a hint may be due; not later than any of them is.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    name: Arc<str>,
    state: WatchState,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum WatchState {
    /// It has printed nothing since then.
    Silent { since: Instant },
    /// This unfinished line was printed last.
    Prompt { since: Instant, text: Vec<u8> },
    /// Its output is lines.
    Lines,
}

impl Hints {
    /// Watches a source, unless its process had its hint.
    pub(super) fn watch(&mut self, now: Instant, id: SourceId, name: &Arc<str>) {
        if !self.hinted.contains(name) {
            let state = WatchState::Silent { since: now };
            self.watched.insert(id, Watched { name: Arc::clone(name), state });
            self.wake_at(now + SILENCE_TIME);
        }
    }

    pub(super) fn remove(&mut self, id: SourceId) {
        self.watched.remove(&id);
    }

    /// Takes note of output.
    pub(super) fn note_output(&mut self, id: SourceId, bytes: &[u8]) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let Some(text) = prompt(bytes) else {
            watched.state = WatchState::Lines;
            return;
        };
        let since = Instant::now();
        watched.state = WatchState::Prompt { since, text: text.to_vec() };
        self.wake_at(since + PROMPT_TIME);
    }

    fn wake_at(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// When [`Self::take_due`] is to be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The hints that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Notice> {
        if self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        self.next = None;
        let mut due = Vec::new();
        for (id, watched) in &self.watched {
            let at = match &watched.state {
                WatchState::Silent { since } => *since + SILENCE_TIME,
                WatchState::Prompt { since, .. } => *since + PROMPT_TIME,
                WatchState::Lines => continue,
            };
            if at <= now {
                due.push(*id);
            } else {
                self.next = Some(self.next.map_or(at, |next| next.min(at)));
            }
        }
        due.sort_unstable();
        let hint = |id: SourceId| {
            let Watched { name, state } = self.watched.remove(&id)?;
            let is_new = self.hinted.insert(Arc::clone(&name));
            let name = name.to_string();
            let notice = match state {
                WatchState::Silent { .. } => Notice::NoOutput { name, after: SILENCE_TIME },
                WatchState::Prompt { text, .. } => {
                    let prompt = String::from_utf8_lossy(&text).trim().to_owned();
                    Notice::WaitsForInput { name, prompt }
                }
                WatchState::Lines => return None,
            };
            is_new.then_some(notice)
        };
        due.into_iter().filter_map(hint).collect()
    }
}

/// The unfinished line at the end of this output, if it looks like a prompt.
fn prompt(bytes: &[u8]) -> Option<&[u8]> {
    let text = &bytes[memrchr(b'\n', bytes).map_or(0, |at| at + 1)..];
    let last = text.trim_ascii_end().last()?;
    let is_prompt = matches!(last, b'?' | b':' | b'>' | b'$' | b'#' | b'%' | b')' | b']');
    (is_prompt && text.len() <= MAX_PROMPT_BYTES && !text.contains(&b'\r')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(name: &str) -> Notice {
        Notice::NoOutput { name: name.to_owned(), after: SILENCE_TIME }
    }

    #[test]
    fn silent_process_gets_one_hint() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        let (web, worker): (Arc<str>, Arc<str>) = ("web.1".into(), "worker.1".into());
        hints.watch(now, 1, &web);
        hints.watch(now, 2, &worker);
        hints.note_output(2, b"line\n");
        assert_eq!(hints.take_due(now + SILENCE_TIME / 2), []);
        assert_eq!(hints.deadline(), Some(now + SILENCE_TIME));
        assert_eq!(hints.take_due(now + SILENCE_TIME), [silent("web.1")]);
        assert_eq!(hints.deadline(), None);
        hints.watch(now + SILENCE_TIME, 3, &web);
        assert_eq!(hints.take_due(now + SILENCE_TIME * 3), []);
    }

    #[test]
    fn process_that_has_ended_gets_no_hint() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        hints.watch(now, 1, &"web.1".into());
        hints.remove(1);
        assert_eq!(hints.take_due(now + SILENCE_TIME), []);
    }

    #[test]
    fn prompt_gets_a_hint() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        hints.watch(now, 1, &"web.1".into());
        hints.note_output(1, b"hello\nname? ");
        let due = hints.take_due(Instant::now() + PROMPT_TIME);
        let expected = Notice::WaitsForInput { name: "web.1".into(), prompt: "name?".into() };
        assert_eq!(due, [expected]);
    }

    #[test]
    fn prompts_are_told_from_other_unfinished_lines() {
        let prompts = ["name? ", "one\n(Pdb) ", "Password:", "irb> ", "sure [y/n]", "$ "];
        assert!(prompts.iter().all(|text| prompt(text.as_bytes()).is_some()));
        let long = format!("{}?", "x".repeat(MAX_PROMPT_BYTES));
        for text in ["", "one\n", "loading...", "10%\r20%", "\n\n", &long] {
            assert_eq!(prompt(text.as_bytes()), None, "{text}");
        }
    }
}
