//! The last that each process said, kept in memory: there are no log files.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

/// So much is kept of each process.
pub const KEPT: usize = 256 << 10;
/// And so much of all together; what was silent the longest goes first.
const KEPT_OF_ALL: usize = 64 << 20;

/// Who says little at a time is remembered less exactly, so that what is known of the
/// bytes takes no more room than they do.
const BYTES_PER_CHUNK: usize = 32;
const FEW_CHUNKS: usize = 32;

/// A line, or the beginning of one, and when its end came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Whose.
    pub name: Arc<str>,
    /// When.
    pub at: SystemTime,
    /// With its newline, if that has come.
    pub bytes: Vec<u8>,
}

/// What came at once.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Where it stands among all that came from all.
    number: u64,
    at: SystemTime,
    length: usize,
}

/// The last of one process.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    chunks: VecDeque<Chunk>,
    /// Whether it begins in the middle of a line.
    cut: bool,
    /// Whether there are so many chunks that the last one is to take more.
    full: bool,
}

/// The last of all processes.
#[derive(Debug)]
pub struct Recent {
    tails: HashMap<Arc<str>, Tail>,
    kept: usize,
    held: usize,
    next: u64,
}

impl Recent {
    /// Keeps so many bytes of each process.
    #[must_use]
    pub fn new(kept: usize) -> Self {
        Self { tails: HashMap::new(), kept, held: 0, next: 0 }
    }

    /// Takes note of what a process said.
    pub fn push(&mut self, name: &Arc<str>, at: SystemTime, bytes: &[u8]) {
        if bytes.is_empty() || self.kept == 0 {
            return;
        }
        if !self.tails.contains_key(name) {
            self.tails.insert(Arc::clone(name), Tail::default());
        }
        let Some(tail) = self.tails.get_mut(name) else { return };
        let number = self.next;
        self.next += 1;
        // Of more than is kept, the end.
        let (start, end) = bytes.split_at(bytes.len().saturating_sub(self.kept));
        let before = tail.bytes.len();
        tail.make_room(self.kept - end.len());
        if let Some(last) = start.last() {
            tail.cut = *last != b'\n';
        }
        tail.bytes.extend(end);
        match tail.chunks.back_mut().filter(|_| tail.full) {
            Some(last) => (last.at, last.length) = (at, last.length + end.len()),
            None => tail.chunks.push_back(Chunk { number, at, length: end.len() }),
        }
        tail.full = tail.chunks.len() > self.kept / BYTES_PER_CHUNK + FEW_CHUNKS;
        self.held = self.held + tail.bytes.len() - before;
        while self.held > KEPT_OF_ALL {
            self.drop_oldest();
        }
    }

    /// Whether the last line of a process has no end yet.
    #[must_use]
    pub fn is_open(&self, name: &str) -> bool {
        let last = self.tails.get(name).and_then(|tail| tail.bytes.back());
        last.is_some_and(|byte| *byte != b'\n')
    }

    fn drop_oldest(&mut self) {
        let last = |tail: &Tail| tail.chunks.back().map(|chunk| chunk.number);
        let oldest = self.tails.iter().min_by_key(|(_, tail)| last(tail));
        if let Some(name) = oldest.map(|(name, _)| Arc::clone(name))
            && let Some(tail) = self.tails.remove(&name)
        {
            self.held -= tail.bytes.len();
        }
    }

    /// The last lines, at most `most`, of those whose name is right, in the order
    /// in which they came; none that is older than `since`.
    #[must_use]
    pub fn lines(
        &self,
        is_right: impl Fn(&str) -> bool,
        since: Option<SystemTime>,
        most: usize,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        for (name, tail) in self.tails.iter().filter(|(name, _)| is_right(name)) {
            tail.lines(name, &mut lines);
        }
        lines.retain(|(_, line)| since.is_none_or(|since| line.at >= since));
        lines.sort_by_key(|(number, _)| *number);
        let first = lines.len().saturating_sub(most);
        lines.drain(first..).map(|(_, line)| line).collect()
    }
}

impl Tail {
    /// Leaves at most `room` bytes of what is there.
    fn make_room(&mut self, room: usize) {
        while self.bytes.len() > room {
            let Some(first) = self.chunks.front_mut() else { return };
            let excess = self.bytes.len() - room;
            let gone = first.length.min(excess);
            self.cut = self.bytes.get(gone - 1) != Some(&b'\n');
            self.bytes.drain(..gone);
            first.length -= gone;
            if first.length == 0 {
                self.chunks.pop_front();
            }
        }
    }

    fn lines(&self, name: &Arc<str>, into: &mut Vec<(u64, Line)>) {
        let line = |chunk: &Chunk, bytes| {
            (chunk.number, Line { name: Arc::clone(name), at: chunk.at, bytes })
        };
        let mut bytes = self.bytes.iter().copied();
        let (mut open, mut skip) = (Vec::new(), self.cut);
        for chunk in &self.chunks {
            for byte in bytes.by_ref().take(chunk.length) {
                open.push(byte);
                if byte == b'\n' {
                    let whole = std::mem::take(&mut open);
                    if !std::mem::take(&mut skip) {
                        into.push(line(chunk, whole));
                    }
                }
            }
        }
        if let Some(last) = self.chunks.back()
            && !open.is_empty()
            && !skip
        {
            into.push(line(last, open));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(recent: &Recent, most: usize) -> Vec<String> {
        let line = |line: Line| format!("{} {}", line.name, String::from_utf8_lossy(&line.bytes));
        recent.lines(|_| true, None, most).into_iter().map(line).collect()
    }

    #[test]
    fn lines_come_in_the_order_in_which_they_ended() {
        let mut recent = Recent::new(100);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for (name, text) in [(&a, "one\ntw"), (&b, "three\n"), (&a, "o\nfo")] {
            recent.push(name, SystemTime::UNIX_EPOCH, text.as_bytes());
        }
        assert_eq!(shown(&recent, 9), ["a one\n", "b three\n", "a two\n", "a fo"]);
        assert_eq!(shown(&recent, 2), ["a two\n", "a fo"]);
        let of_b = recent.lines(|name| name == "b", None, 9);
        assert_eq!(of_b.len(), 1);
    }

    #[test]
    fn what_is_too_old_is_left_out() {
        let mut recent = Recent::new(100);
        let name: Arc<str> = "a".into();
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        recent.push(&name, at(1), b"one\n");
        recent.push(&name, at(2), b"two\n");
        assert_eq!(recent.lines(|_| true, Some(at(2)), 9).len(), 1);
    }

    #[test]
    fn many_small_pieces_take_no_more_room_than_their_bytes() {
        let mut recent = Recent::new(1 << 10);
        let name: Arc<str> = "a".into();
        for _ in 0..10_000 {
            recent.push(&name, SystemTime::UNIX_EPOCH, b"a");
            recent.push(&name, SystemTime::UNIX_EPOCH, b"\n");
        }
        assert_eq!(shown(&recent, usize::MAX).len(), 512);
        assert!(recent.tails[&name].chunks.len() <= 65);
        assert!(!recent.is_open("a"));
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_what_was_said(
            pieces in proptest::collection::vec("[a\n]{0,20}", 0..20),
            kept in 1usize..40,
        ) {
            let mut recent = Recent::new(kept);
            let name: Arc<str> = "a".into();
            let text = pieces.concat();
            for piece in &pieces {
                recent.push(&name, SystemTime::UNIX_EPOCH, piece.as_bytes());
            }
            let lines = recent.lines(|_| true, None, usize::MAX);
            let said: Vec<u8> = lines.into_iter().flat_map(|line| line.bytes).collect();
            let end = &text.as_bytes()[text.len().saturating_sub(kept)..];
            // From the first whole line on, or all of it if it was never cut.
            let whole = if end.len() == text.len() || text.as_bytes()[text.len() - end.len() - 1] == b'\n' {
                end
            } else {
                end.iter().position(|byte| *byte == b'\n').map_or(&[][..], |at| &end[at + 1..])
            };
            prop_assert_eq!(String::from_utf8(said).unwrap(), String::from_utf8(whole.to_vec()).unwrap());
        }
    }
}
