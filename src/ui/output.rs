//! The output that is shown: a bounded number of lines, a place in them, and a search.

use std::collections::VecDeque;

use crate::logs::lines::{MAX_LINE_BYTES, Prefix, SplitLines};
use crate::logs::terminal::{Layout, LongLines, TerminalLines, plain_text, wrap_line};

/// How much output is kept for scrolling back. ganger itself keeps what came before it.
const MAX_BYTES: usize = 2 << 20;
/// What a line takes beside its bytes.
const LINE_OVERHEAD: usize = 32;

/// The name of a process, with its colours, ends within so many bytes of a line.
const MAX_NAME_BYTES: usize = 128;

/// Lines are kept without the name of their process, or with it as a part of their text.
const NO_PREFIX: Prefix =
    Prefix { stamp: b"", line: b"", continuation: b"", wrapped: b"", width: 0 };

/// The output of the selected processes.
#[derive(Debug)]
pub(super) struct Output {
    splitter: TerminalLines,
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// How many lines are no longer kept.
    dropped: u64,
    /// The number of the line below the last one that is shown; none follows the output.
    end: Option<u64>,
    /// Whether long lines continue on the next row.
    pub(super) long_lines: LongLines,
    /// The text that is searched for.
    pub(super) pattern: String,
    /// The number of the line that the search has found.
    found: Option<u64>,
    /// Whether lines begin with the names of processes.
    has_names: bool,
    /// How many lines the screen has.
    rows: usize,
}

impl Output {
    /// No output yet. `color` decides whether colours pass.
    pub(super) fn new(color: bool) -> Self {
        let layout = Layout { columns: None, long_lines: LongLines::Wrap, color };
        Self {
            splitter: TerminalLines::new(layout),
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            end: None,
            long_lines: LongLines::Wrap,
            pattern: String::new(),
            found: None,
            has_names: false,
            rows: 1,
        }
    }

    /// Forgets the output, and keeps the settings. `has_names` decides whether the lines to come
    /// begin with the names of processes.
    pub(super) fn clear(&mut self, color: bool, has_names: bool) {
        let (long_lines, rows) = (self.long_lines, self.rows);
        let pattern = std::mem::take(&mut self.pattern);
        *self = Self { long_lines, pattern, has_names, rows, ..Self::new(color) };
    }

    /// Adds output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        for chunk in bytes.chunks(MAX_LINE_BYTES) {
            self.splitter.push(chunk, NO_PREFIX, &mut out);
        }
        for line in out.split_inclusive(|byte| *byte == b'\n') {
            let line: Box<[u8]> = line.strip_suffix(b"\n").unwrap_or(line).into();
            self.bytes += line.len() + LINE_OVERHEAD;
            self.lines.push_back(line);
        }
        while self.bytes > MAX_BYTES
            && let Some(line) = self.lines.pop_front()
        {
            self.bytes -= line.len() + LINE_OVERHEAD;
            self.dropped += 1;
        }
    }

    /// How many lines are no longer kept.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the end is shown.
    pub(super) fn is_following(&self) -> bool {
        self.end.is_none()
    }

    /// How many lines came after what is shown.
    pub(super) fn lines_below(&self) -> u64 {
        self.end.map_or(0, |end| self.last().saturating_sub(end))
    }

    pub(super) fn set_rows(&mut self, rows: usize) {
        self.rows = rows.max(1);
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The number after that of the last line.
    fn last(&self) -> u64 {
        self.dropped + self.lines.len() as u64
    }

    pub(super) fn follow(&mut self) {
        self.found = None;
        self.end = None;
    }

    /// Goes up by so many lines, or down.
    pub(super) fn scroll(&mut self, lines: i64) {
        let end = self.end.unwrap_or(self.last()).saturating_add_signed(lines);
        self.show_until(end);
    }

    pub(super) fn go_to_top(&mut self) {
        self.show_until(0);
    }

    fn show_until(&mut self, end: u64) {
        self.found = None;
        let first = (self.dropped + self.rows as u64).min(self.last());
        self.end = (end < self.last()).then_some(end.max(first));
        if self.end == Some(self.last()) {
            self.end = None;
        }
    }

    /// Goes to the next match above what is shown, or below. Returns whether there is one.
    pub(super) fn find(&mut self, is_up: bool) -> bool {
        if self.pattern.is_empty() {
            return false;
        }
        let is_match = |at: &usize| contains(&self.lines[*at], &self.pattern);
        // From the last match on, or from what is shown.
        let above = self.found.unwrap_or(self.end.unwrap_or(self.last()));
        let below = self.found.map_or(above, |found| found + 1);
        let found = if is_up {
            (0..self.place_of(above)).rev().find(is_match)
        } else {
            (self.place_of(below)..self.lines.len()).find(is_match)
        };
        if let Some(at) = found {
            let number = self.dropped + at as u64;
            self.show_until(number + 1);
            self.found = Some(number);
        }
        found.is_some()
    }

    /// The place of the line with this number among those that are kept.
    fn place_of(&self, number: u64) -> usize {
        let place = usize::try_from(number.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        place.min(self.lines.len())
    }

    /// The rows that fit on the screen, each with its colours closed.
    pub(super) fn visible(&self, columns: usize) -> Vec<Vec<u8>> {
        let layout = Layout { columns: Some(columns), long_lines: self.long_lines, color: true };
        let end = self.place_of(self.end.unwrap_or(self.last()));
        let mut rows: VecDeque<Vec<u8>> = VecDeque::new();
        let partial = self.splitter.partial();
        let unfinished = (self.is_following() && !partial.is_empty()).then_some(partial.as_slice());
        let lines = self.lines.range(..end).rev().map(|line| &**line);
        for line in unfinished.into_iter().chain(lines) {
            let wrapped = if self.has_names { name_indent(line) } else { String::new() };
            for row in wrap_line(line, layout, wrapped.as_bytes()).into_iter().rev() {
                rows.push_front(row);
            }
            if rows.len() >= self.rows {
                break;
            }
        }
        let first = rows.len().saturating_sub(self.rows);
        rows.drain(..first);
        rows.into()
    }
}

/// What stands below the name of a process if its line takes several rows.
fn name_indent(line: &[u8]) -> String {
    let start = plain_text(&line[..line.len().min(MAX_NAME_BYTES)]);
    start.find("| ").map_or_else(String::new, |at| format!("{:at$}| ", ""))
}

/// Whether a line contains a text. Upper case matters only if the text has some.
fn contains(line: &[u8], pattern: &str) -> bool {
    let text = plain_text(line);
    !find_in(&text, pattern).is_empty()
}

/// Where a text contains another, in bytes.
pub(super) fn find_in(text: &str, pattern: &str) -> Vec<std::ops::Range<usize>> {
    if pattern.is_empty() {
        return Vec::new();
    }
    let is_exact = pattern.chars().any(char::is_uppercase);
    // Only ASCII changes its case, so that the places stay the same.
    let text = if is_exact { text.to_owned() } else { text.to_ascii_lowercase() };
    let found = text.match_indices(pattern);
    found.map(|(at, found)| at..at + found.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(lines: usize) -> Output {
        let mut output = Output::new(true);
        output.set_rows(3);
        for line in 0..lines {
            output.push(format!("line {line}\n").as_bytes());
        }
        output
    }

    fn shown(output: &Output) -> Vec<String> {
        let rows = output.visible(80).into_iter();
        rows.map(|row| String::from_utf8(row).unwrap()).collect()
    }

    #[test]
    fn end_is_followed_until_the_user_scrolls() {
        let mut output = output(10);
        assert_eq!(shown(&output), ["line 7", "line 8", "line 9"]);
        output.scroll(-2);
        assert_eq!(shown(&output), ["line 5", "line 6", "line 7"]);
        output.push(b"line 10\n");
        assert_eq!(shown(&output), ["line 5", "line 6", "line 7"]);
        assert_eq!(output.lines_below(), 3);
        output.go_to_top();
        assert_eq!(shown(&output), ["line 0", "line 1", "line 2"]);
        output.scroll(-1);
        assert_eq!(shown(&output), ["line 0", "line 1", "line 2"]);
        output.scroll(100);
        assert!(output.is_following());
    }

    #[test]
    fn prompt_without_newline_is_shown() {
        let mut output = output(1);
        output.push(b"name? ");
        assert_eq!(shown(&output), ["line 0", "name? "]);
    }

    #[test]
    fn search_goes_from_match_to_match() {
        let mut output = output(30);
        output.pattern = "line 1".into();
        assert!(output.find(true));
        assert_eq!(shown(&output).last().unwrap(), "line 19");
        assert!(output.find(true));
        assert_eq!(shown(&output).last().unwrap(), "line 18");
        assert!(output.find(false));
        assert_eq!(shown(&output).last().unwrap(), "line 19");
        output.pattern = "Line".into();
        assert!(!output.find(true));
    }

    #[test]
    fn search_goes_on_at_the_beginning_of_the_output() {
        let mut output = output(5);
        output.pattern = "line".into();
        for _ in 0..5 {
            assert!(output.find(true));
        }
        assert!(!output.find(true));
    }

    #[test]
    fn long_line_continues_beside_the_name() {
        let mut output = Output::new(true);
        output.clear(true, true);
        output.set_rows(5);
        output.push(format!("\x1b[31mweb.1 | \x1b[0m{}\n", "x".repeat(40)).as_bytes());
        let rows: Vec<String> = output.visible(40).iter().map(|row| plain_text(row)).collect();
        assert_eq!(rows, [format!("web.1 | {}", "x".repeat(32)), "      | xxxxxxxx".to_owned()]);
    }

    #[test]
    fn flood_takes_bounded_memory() {
        let mut output = Output::new(true);
        let lines = "0123456789\n".repeat(1000);
        for _ in 0..500 {
            output.push(lines.as_bytes());
        }
        assert!(output.bytes <= MAX_BYTES);
        assert_eq!(output.dropped + output.lines.len() as u64, 500_000);
    }
}
