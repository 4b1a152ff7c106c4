//! Splits the output of a process into lines and adds a prefix to each. Output is bytes.
//!
//! The result does not depend on the pieces in which the output was read.

use std::time::Duration;

use memchr::{memchr, memchr_iter};

/// The part of a line beyond this length is written as a line of its own, so that memory stays
/// bounded.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// The prefix of a line.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// The time, or nothing.
    pub stamp: &'a [u8],
    /// Before the beginning of a line.
    pub line: &'a [u8],
    /// Before the continuation of one.
    pub continuation: &'a [u8],
    /// Before the further rows of a line that is longer than a row.
    pub wrapped: &'a [u8],
    /// How many columns each of them takes on a terminal, without the time.
    pub width: usize,
}

impl Prefix<'_> {
    /// How many columns it takes on a terminal.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.stamp.len() + self.width
    }
}

/// Splits the output of one source into lines, and adds a prefix to each.
pub trait SplitLines: std::fmt::Debug + Send {
    /// Adds a chunk of at most [`MAX_LINE_BYTES`] bytes, and appends the lines that are complete
    /// now to `out`.
    fn push(&mut self, chunk: &[u8], prefix: Prefix, out: &mut Vec<u8>);

    /// The width of the terminal has changed.
    fn set_columns(&mut self, _columns: Option<usize>) {}

    /// Whether [`Self::flush_partial`] may have something to write.
    fn has_partial(&self) -> bool;

    /// How soon an unfinished line is to be shown on a terminal.
    fn partial_delay(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether something of the output so far matters to what follows.
    fn is_mid_line(&self) -> bool;

    /// How many bytes are held until their line is complete.
    fn pending_bytes(&self) -> usize;

    /// Writes the unfinished line with a newline. Its rest continues on a line of its own.
    fn break_line(&mut self, prefix: Prefix, out: &mut Vec<u8>);

    /// Writes the beginning of an unfinished line, such as a prompt.
    fn flush_partial(&mut self, prefix: Prefix, out: &mut Vec<u8>);

    /// Records that something else was written after the beginning of an unfinished line.
    fn interrupt_row(&mut self);

    /// Writes what is left, with the newline that is missing.
    fn finish(&mut self, prefix: Prefix, out: &mut Vec<u8>);
}

/// How much of the current line was written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum RowState {
    #[default]
    NotStarted,
    /// A part was written, and the rest can follow on the same row.
    Open,
    /// A part was written, and then a newline or the output of another source.
    Interrupted,
}

/// Splits the output of one source; holds its unfinished line.
#[derive(Debug, Default)]
pub struct LineSplitter {
    tail: Vec<u8>,
    row: RowState,
}

impl SplitLines for LineSplitter {
    fn push(&mut self, chunk: &[u8], prefix: Prefix, out: &mut Vec<u8>) {
        let Some(first) = memchr(b'\n', chunk) else {
            self.tail.extend_from_slice(chunk);
            self.split_long_line(prefix, out);
            return;
        };
        let (line, rest) = chunk.split_at(first + 1);
        if self.tail.is_empty() {
            self.write_prefix(prefix, out);
            out.extend_from_slice(line);
        } else {
            self.tail.extend_from_slice(&line[..first]);
            self.split_long_line(prefix, out);
            self.write_prefix(prefix, out);
            out.extend_from_slice(&self.tail);
            out.push(b'\n');
            self.tail = Vec::new();
        }
        self.row = RowState::NotStarted;
        let mut start = 0;
        for end in memchr_iter(b'\n', rest) {
            out.extend_from_slice(prefix.stamp);
            out.extend_from_slice(prefix.line);
            out.extend_from_slice(&rest[start..=end]);
            start = end + 1;
        }
        self.tail.extend_from_slice(&rest[start..]);
    }

    fn has_partial(&self) -> bool {
        !self.tail.is_empty()
    }

    fn is_mid_line(&self) -> bool {
        !self.tail.is_empty() || self.row != RowState::NotStarted
    }

    fn pending_bytes(&self) -> usize {
        self.tail.len()
    }

    fn break_line(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        if !self.tail.is_empty() {
            self.write_prefix(prefix, out);
            out.append(&mut self.tail);
            self.tail = Vec::new();
            out.push(b'\n');
            self.row = RowState::Interrupted;
        }
    }

    fn flush_partial(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        let whole = complete_chars_len(&self.tail);
        if whole > 0 {
            self.write_prefix(prefix, out);
            out.extend_from_slice(&self.tail[..whole]);
            self.tail.drain(..whole);
            self.row = RowState::Open;
        }
    }

    fn interrupt_row(&mut self) {
        if self.row == RowState::Open {
            self.row = RowState::Interrupted;
        }
    }

    fn finish(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        if !self.tail.is_empty() || self.row == RowState::Open {
            self.write_prefix(prefix, out);
            out.extend_from_slice(&self.tail);
            out.push(b'\n');
        }
        *self = Self::default();
    }
}

impl LineSplitter {
    fn write_prefix(&self, prefix: Prefix, out: &mut Vec<u8>) {
        let name = match self.row {
            RowState::Open => return,
            RowState::NotStarted => prefix.line,
            RowState::Interrupted => prefix.continuation,
        };
        out.extend_from_slice(prefix.stamp);
        out.extend_from_slice(name);
    }

    fn split_long_line(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        while self.tail.len() > MAX_LINE_BYTES {
            let piece = complete_chars_len(&self.tail[..MAX_LINE_BYTES]);
            self.write_prefix(prefix, out);
            out.extend_from_slice(&self.tail[..piece]);
            out.push(b'\n');
            self.tail.drain(..piece);
            self.row = RowState::Interrupted;
        }
    }
}

/// A line as a text: without its end and escape sequences. What is not UTF-8 is replaced.
#[must_use]
pub fn plain_text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    anstream::adapter::strip_str(text.trim_end_matches(['\r', '\n'])).to_string()
}

/// The length of the longest start of `bytes` that does not end within a UTF-8 character. Bytes
/// that are not UTF-8 can be split anywhere.
pub(super) fn complete_chars_len(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let length = match bytes[at] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if length > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFIX: Prefix =
        Prefix { stamp: b"", line: b"a | ", continuation: b"a |+", wrapped: b"  | ", width: 4 };

    fn split(chunks: &[&[u8]]) -> Vec<u8> {
        let mut splitter = LineSplitter::default();
        let mut out = Vec::new();
        for chunk in chunks.iter().flat_map(|chunk| chunk.chunks(MAX_LINE_BYTES)) {
            splitter.push(chunk, PREFIX, &mut out);
        }
        splitter.finish(PREFIX, &mut out);
        out
    }

    #[test]
    fn each_complete_line_gets_a_prefix() {
        assert_eq!(split(&[b"one\ntw", b"o\n\nthree"]), b"a | one\na | two\na | \na | three\n");
        assert_eq!(split(&[b"\xff\0\r\n"]), b"a | \xff\0\r\n");
        assert_eq!(split(&[]), b"");
    }

    #[test]
    fn long_line_is_split_between_characters() {
        let line = [b"x".repeat(MAX_LINE_BYTES - 1).as_slice(), "é!".as_bytes()].concat();
        let out = split(&[&line]);
        let expected =
            [b"a | ", &line[..MAX_LINE_BYTES - 1], b"\na |+", "é!\n".as_bytes()].concat();
        assert!(out == expected);
        let exact = [b"x".repeat(MAX_LINE_BYTES).as_slice(), b"\n"].concat();
        assert!(split(&[&exact]) == [b"a | ", exact.as_slice()].concat());
    }

    #[test]
    fn prompt_is_shown_before_its_line_is_complete() {
        let mut splitter = LineSplitter::default();
        let mut out = Vec::new();
        splitter.push(b"name? ", PREFIX, &mut out);
        splitter.flush_partial(PREFIX, &mut out);
        assert_eq!(out, b"a | name? ");
        splitter.push(b"joe\n", PREFIX, &mut out);
        assert_eq!(out, b"a | name? joe\n");
        splitter.push(b"\xc3", PREFIX, &mut out);
        splitter.flush_partial(PREFIX, &mut out);
        assert_eq!(out, b"a | name? joe\n");
        splitter.push(b"\xa9", PREFIX, &mut out);
        splitter.flush_partial(PREFIX, &mut out);
        splitter.interrupt_row();
        splitter.push(b"!\n", PREFIX, &mut out);
        assert_eq!(out, "a | name? joe\na | éa |+!\n".as_bytes());
    }

    proptest! {
        #[test]
        fn result_does_not_depend_on_the_pieces_that_were_read(
            lines in proptest::collection::vec((0usize..200_000, any::<u8>()), 1..4),
            pieces in proptest::collection::vec(1usize..70_000, 1..20),
        ) {
            let text: Vec<u8> = lines.iter().flat_map(|&(length, byte)| {
                let mut line = vec![byte.max(b'a'); length];
                line.push(b'\n');
                line
            }).collect();
            let mut rest = text.as_slice();
            let mut chunks = Vec::new();
            for piece in pieces.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at(rest.len().min(*piece));
                chunks.push(chunk);
                rest = after;
            }
            let out = split(&chunks);
            prop_assert!(out == split(&[&text]));
            let mut joined = Vec::new();
            for line in out.split_inclusive(|&byte| byte == b'\n') {
                if line.starts_with(PREFIX.continuation) { joined.pop(); }
                joined.extend_from_slice(&line[4..]);
            }
            prop_assert!(joined == text);
        }
    }
}
