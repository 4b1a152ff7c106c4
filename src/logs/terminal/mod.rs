//! The output of a process on a terminal that others write to as well.
//!
//! Colours and links pass, and a lone carriage return replaces the line, as for a progress bar.
//! Sequences that move the cursor, clear the screen, set a mode or query the terminal do not pass,
//! because they would change how other output is shown. Long lines continue below their
//! beginning, beside the names.

mod escapes;
mod pen;
mod rows;

use std::time::Duration;

use super::lines::{MAX_LINE_BYTES, Prefix, SplitLines, complete_chars_len};
use escapes::{Scanner, Token};
use pen::Pen;
pub use pen::{RowPart, row_parts, split_params};
use rows::Rows;
pub use rows::{LongLines, TAB_COLUMNS, wrap_line};

/// How soon an unfinished line is shown, which may be a prompt.
const PROMPT_DELAY: Duration = Duration::from_millis(100);
/// How soon the new state of a progress bar is shown again after other output came between.
const REPEAT_DELAY: Duration = Duration::from_secs(1);

/// On a terminal of unknown width, a longer row is not overwritten but followed by another one:
/// what replaces it is filled up with blanks.
const MAX_OVERWRITTEN_COLUMNS: usize = 1000;

/// How lines are shown on a terminal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Layout {
    /// The width of the terminal, if it is known.
    pub columns: Option<usize>,
    /// What happens to lines that are longer than that.
    pub long_lines: LongLines,
    /// Whether colours and links pass.
    pub color: bool,
}

/// What the row on the screen shows of the current line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum RowState {
    #[default]
    NotStarted,
    /// The beginning of the line. The rest can follow on the same row, from this column.
    Open {
        column: usize,
        /// Whether the line has not filled a row yet, so that it can be replaced.
        is_first: bool,
    },
    /// The beginning, and then a newline or the output of another source.
    Interrupted,
}

/// Splits the output of one source into the rows of a terminal.
#[derive(Debug, Default)]
pub struct TerminalLines {
    layout: Layout,
    scanner: Scanner,
    line: Line,
    /// The colours at the beginning of `line`.
    pen: Pen,
    row: RowState,
}

/// What came since the last newline and is not shown yet.
#[derive(Debug, Default)]
struct Line {
    /// Text, colours and links.
    bytes: Vec<u8>,
    /// Where the text at the end begins, after the last escape sequence.
    text_start: usize,
    /// A carriage return came last: what follows replaces the line.
    returned: bool,
    /// Whether it replaces what the row shows.
    replaces: bool,
}

impl TerminalLines {
    /// Shows lines in this manner.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    /// The line that has no end yet, as far as it is not shown.
    #[must_use]
    pub fn partial(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.line.bytes.is_empty() {
            let mut pen = self.pen.clone();
            pen.open(&mut out);
            out.extend_from_slice(&self.line.bytes);
            pen.apply_all(&self.line.bytes);
            pen.close(&mut out);
        }
        out
    }

    fn take(&mut self, token: Token, prefix: Prefix, out: &mut Vec<u8>) {
        match token {
            Token::Text(text) => {
                if self.line.returned {
                    self.restart();
                }
                let mut rest = text;
                while self.line.bytes.len() + rest.len() > MAX_LINE_BYTES {
                    let room = MAX_LINE_BYTES.saturating_sub(self.line.bytes.len());
                    self.line.bytes.extend_from_slice(&rest[..room]);
                    self.split_long_line(prefix, out);
                    rest = &rest[room..];
                }
                self.line.bytes.extend_from_slice(rest);
            }
            Token::Style(sequence) | Token::Link(sequence) => {
                if self.layout.color {
                    if self.line.bytes.len() + sequence.len() > MAX_LINE_BYTES {
                        self.split_long_line(prefix, out);
                    }
                    self.line.bytes.extend_from_slice(sequence);
                    self.line.text_start = self.line.bytes.len();
                }
            }
            Token::Newline => {
                self.write_line(prefix, out);
                out.push(b'\n');
                self.line = Line::default();
                self.row = RowState::NotStarted;
            }
            Token::Return => self.line.returned = true,
            Token::Erase => self.restart(),
            Token::EraseRest if self.line.returned => self.restart(),
            Token::EraseRest => {}
            Token::Backspace => self.line.erase_char(),
        }
    }

    /// What follows replaces the line. Its colours last.
    fn restart(&mut self) {
        self.pen.apply_all(&self.line.bytes);
        self.line = Line { replaces: true, ..Line::default() };
    }

    /// Writes what is not shown yet of the line, without its end.
    fn write_line(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        let bytes = std::mem::take(&mut self.line.bytes);
        self.line.text_start = 0;
        self.write(&bytes, prefix, out);
    }

    fn write(&mut self, bytes: &[u8], prefix: Prefix, out: &mut Vec<u8>) {
        let replaces = std::mem::take(&mut self.line.replaces);
        let (mut column, mut is_first, mut overwritten) = (prefix.columns(), true, 0);
        let mut begin = |name: &[u8]| {
            out.extend_from_slice(prefix.stamp);
            out.extend_from_slice(name);
        };
        match self.row {
            RowState::NotStarted => begin(prefix.line),
            RowState::Interrupted if replaces => begin(prefix.line),
            RowState::Interrupted => begin(prefix.continuation),
            RowState::Open { column: end, is_first: true }
                if replaces && end <= self.layout.columns.unwrap_or(MAX_OVERWRITTEN_COLUMNS) =>
            {
                out.push(b'\r');
                out.extend_from_slice(prefix.stamp);
                out.extend_from_slice(prefix.line);
                overwritten = end;
            }
            RowState::Open { .. } if replaces => {
                out.push(b'\n');
                out.extend_from_slice(prefix.stamp);
                out.extend_from_slice(prefix.line);
            }
            RowState::Open { column: end, is_first: first } => (column, is_first) = (end, first),
        }
        let mut layout = self.layout;
        if prefix.columns() == 0 && layout.long_lines == LongLines::Wrap {
            // The terminal does the same, and can undo it when it is resized.
            layout.columns = None;
        }
        let rows = Rows { layout, prefix };
        let filled = rows.write(bytes, &mut self.pen, &mut column, out);
        let is_first = is_first && filled == 0;
        if is_first && column < overwritten {
            out.resize(out.len() + overwritten - column, b' ');
            column = overwritten;
        }
        self.row = RowState::Open { column, is_first };
    }

    /// What is too long for memory is written as a line of its own.
    fn split_long_line(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        // Only text is cut, never a sequence.
        let text = &self.line.bytes[self.line.text_start..];
        let end = self.line.text_start + complete_chars_len(text);
        let rest = self.line.bytes.split_off(end);
        self.write_line(prefix, out);
        out.push(b'\n');
        self.line.bytes = rest;
        self.row = RowState::Interrupted;
    }
}

/// The text of a row or line, without its colours and links.
#[must_use]
pub fn plain_text(line: &[u8]) -> String {
    let texts = row_parts(line).filter_map(|part| match part {
        RowPart::Text(text) => Some(text),
        RowPart::Style(_) | RowPart::Link => None,
    });
    String::from_utf8_lossy(&texts.collect::<Vec<_>>().concat()).into_owned()
}

impl Line {
    /// A backspace: removes the last character, if it is text and not shown yet.
    fn erase_char(&mut self) {
        let text = &self.bytes[self.text_start..];
        let start = text.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or_default();
        // Half a character would become another one together with what follows.
        let kept = complete_chars_len(&text[..start]);
        self.bytes.truncate(self.text_start + kept);
    }
}

impl SplitLines for TerminalLines {
    fn push(&mut self, chunk: &[u8], prefix: Prefix, out: &mut Vec<u8>) {
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.scan(chunk, |token| self.take(token, prefix, out));
        self.scanner = scanner;
    }

    fn set_columns(&mut self, columns: Option<usize>) {
        self.layout.columns = columns;
    }

    fn has_partial(&self) -> bool {
        !self.line.bytes.is_empty()
    }

    fn partial_delay(&self) -> Duration {
        match self.row {
            RowState::Interrupted if self.line.replaces => REPEAT_DELAY,
            RowState::NotStarted | RowState::Interrupted | RowState::Open { .. } => PROMPT_DELAY,
        }
    }

    fn is_mid_line(&self) -> bool {
        !self.line.bytes.is_empty()
            || self.row != RowState::NotStarted
            || self.scanner.is_mid_sequence()
            || self.pen != Pen::default()
    }

    fn pending_bytes(&self) -> usize {
        self.line.bytes.len()
    }

    fn break_line(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        if !self.line.bytes.is_empty() {
            self.write_line(prefix, out);
            out.push(b'\n');
            self.row = RowState::Interrupted;
        }
    }

    fn flush_partial(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        let text = &self.line.bytes[self.line.text_start..];
        let end = self.line.text_start + complete_chars_len(text);
        if end > 0 {
            let rest = self.line.bytes.split_off(end);
            self.write_line(prefix, out);
            self.line.bytes = rest;
        }
    }

    fn interrupt_row(&mut self) {
        if let RowState::Open { .. } = self.row {
            self.row = RowState::Interrupted;
        }
    }

    fn finish(&mut self, prefix: Prefix, out: &mut Vec<u8>) {
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.finish(|token| self.take(token, prefix, out));
        if !self.line.bytes.is_empty() || matches!(self.row, RowState::Open { .. }) {
            self.write_line(prefix, out);
            out.push(b'\n');
        }
        *self = Self::new(self.layout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr;

    const PREFIX: Prefix =
        Prefix { stamp: b"", line: b"a | ", continuation: b"a |+", wrapped: b"  | ", width: 4 };

    fn layout(columns: usize) -> Layout {
        Layout { columns: Some(columns), long_lines: LongLines::Wrap, color: true }
    }

    fn show(layout: Layout, chunks: &[&[u8]]) -> Vec<u8> {
        let (mut lines, mut out) = (TerminalLines::new(layout), Vec::new());
        for chunk in chunks {
            lines.push(chunk, PREFIX, &mut out);
        }
        lines.finish(PREFIX, &mut out);
        out
    }

    fn shown(text: &str) -> String {
        String::from_utf8(show(layout(200), &[text.as_bytes()])).unwrap()
    }

    #[test]
    fn colours_and_links_pass() {
        assert_eq!(shown("\x1b[1;31mred\x1b[0m\n"), "a | \x1b[1;31mred\x1b[0m\n");
        let link = "\x1b]8;;http://x/\x1b\\text\x1b]8;;\x1b\\\n";
        assert_eq!(shown(link), format!("a | {link}"));
        assert_eq!(shown("\x1b]8;;http://x/\x07t\x1b]8;;\x07\n"), {
            "a | \x1b]8;;http://x/\x1b\\t\x1b]8;;\x1b\\\n"
        });
    }

    #[test]
    fn cursor_screen_title_modes_and_queries_do_not_pass() {
        for sequence in [
            "\x1b[2J",
            "\x1b[H",
            "\x1b[3A",
            "\x1b[10;20H",
            "\x1b[?1049h",
            "\x1b[?25l",
            "\x1b[6n",
            "\x1b[c",
            "\x1b[>c",
            "\x1b[>1u",
            "\x1b[?2004h",
            "\x1b]0;title\x07",
            "\x1b]2;t\x1b\\",
            "\x1b]52;c;?\x07",
            "\x1b]11;?\x1b\\",
            "\x1bc",
            "\x1b7",
            "\x1b(0",
            "\x1b#8",
            "\x1bktitle\x1b\\",
            "\x1bP+q544e\x1b\\",
            "\x1b_G\x1b\\",
            "\x1b^x\x1b\\",
            "\x1bX x\x1b\\",
            "\x1b[>4;2m",
            "\x1b[?4m",
            "\x1b[ q",
            "\x0e",
            "\x0f",
            "\x0b",
            "\x0c",
            "\0",
            "\x05",
            "\x7f",
            "\u{9b}2J",
            "\u{9d}0;title\u{9c}",
            "\u{85}",
        ] {
            assert_eq!(shown(&format!("one{sequence}two\n")), "a | onetwo\n", "{sequence:?}");
        }
    }

    #[test]
    fn newline_ends_a_sequence_that_has_no_end() {
        for begin in ["\x1b]0;title", "\x1bPq", "\x1b[12", "\x1b_", "\x1b"] {
            assert_eq!(shown(&format!("one{begin}\ntwo\n")), "a | one\na | two\n", "{begin:?}");
        }
    }

    #[test]
    fn open_colours_end_with_the_line_and_resume_on_the_next() {
        assert_eq!(
            shown("\x1b[31;1mone\ntwo\x1b[22m\nthree\x1b[m\nfour\n"),
            "a | \x1b[31;1mone\x1b[0m\n\
             a | \x1b[1;31mtwo\x1b[22m\x1b[0m\n\
             a | \x1b[31mthree\x1b[m\n\
             a | four\n"
        );
        assert_eq!(
            shown("\x1b]8;id=1;u:\x07one\ntwo\x1b]8;;\x07\n"),
            "a | \x1b]8;id=1;u:\x1b\\one\x1b]8;;\x1b\\\na | \x1b]8;id=1;u:\x1b\\two\x1b]8;;\x1b\\\n"
        );
    }

    #[test]
    fn progress_bar_shows_its_last_state() {
        assert_eq!(shown("10%\r50%\r100%\r\ndone\r\n"), "a | 100%\na | done\n");
        assert_eq!(shown("\x1b[1G\x1b[0K- one\x1b[1G\x1b[0K\\ two\n"), "a | \\ two\n");
        assert_eq!(shown("one\x1b[2K\x1b[Gtwo\n"), "a | two\n");
        assert_eq!(shown("work |\x08/\x08-\n"), "a | work -\n");
        assert_eq!(shown("\x1b[31mred\rstill\n"), "a | \x1b[31mstill\x1b[0m\n");
        assert_eq!(shown("gone\r\x1b[K\n"), "a | \n");
    }

    #[test]
    fn shown_progress_is_replaced_on_its_row() {
        let (mut lines, mut out) = (TerminalLines::new(layout(80)), Vec::new());
        let mut step = |text: &str, interrupted: bool| {
            out.clear();
            lines.push(text.as_bytes(), PREFIX, &mut out);
            let delay = lines.partial_delay();
            lines.flush_partial(PREFIX, &mut out);
            if interrupted {
                lines.interrupt_row();
            }
            (String::from_utf8(out.clone()).unwrap(), delay)
        };
        assert_eq!(step("100 left", false), ("a | 100 left".into(), PROMPT_DELAY));
        assert_eq!(step("\r9 left", false), ("\ra | 9 left  ".into(), PROMPT_DELAY));
        assert_eq!(step("\r8 left", true), ("\ra | 8 left  ".into(), PROMPT_DELAY));
        assert_eq!(step("\r7 left", true), ("a | 7 left".into(), REPEAT_DELAY));
        assert_eq!(step(" now\n", false), ("a |+ now\n".into(), PROMPT_DELAY));
    }

    #[test]
    fn rest_of_a_shown_line_continues_below_on_a_narrower_terminal() {
        let (mut lines, mut out) = (TerminalLines::new(layout(80)), Vec::new());
        lines.push("x".repeat(60).as_bytes(), PREFIX, &mut out);
        lines.flush_partial(PREFIX, &mut out);
        lines.set_columns(Some(40));
        out.clear();
        lines.push(b" the end\n", PREFIX, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "\n  |  the end\n");
    }

    #[test]
    fn row_wider_than_the_terminal_is_followed_by_what_replaces_it() {
        for (before, after, length) in [(Some(80), Some(40), 60), (None, None, 5000)] {
            let layout = Layout { columns: before, ..layout(80) };
            let (mut lines, mut out) = (TerminalLines::new(layout), Vec::new());
            lines.push("x".repeat(length).as_bytes(), PREFIX, &mut out);
            lines.flush_partial(PREFIX, &mut out);
            lines.set_columns(after);
            out.clear();
            lines.push(b"\r5 %", PREFIX, &mut out);
            lines.flush_partial(PREFIX, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), "\na | 5 %");
        }
    }

    #[test]
    fn long_lines_continue_below_their_beginning() {
        let line = format!("{}\n", "x".repeat(50));
        let wrapped = |line: &str| String::from_utf8(show(layout(24), &[line.as_bytes()])).unwrap();
        let (full, rest) = ("x".repeat(20), "x".repeat(10));
        assert_eq!(wrapped(&line), format!("a | {full}\n  | {full}\n  | {rest}\n"));
        assert_eq!(wrapped(&format!("{full}\n")), format!("a | {full}\n"));
        let colored = format!("\x1b[31m{}\n", "x".repeat(30));
        let expected = format!("a | \x1b[31m{full}\x1b[0m\n  | \x1b[31m{rest}\x1b[0m\n");
        assert_eq!(wrapped(&colored), expected);
    }

    #[test]
    fn wide_and_combining_characters_are_not_torn() {
        let wrapped = |line: &str| String::from_utf8(show(layout(24), &[line.as_bytes()])).unwrap();
        let cjk = "日".repeat(11);
        assert_eq!(wrapped(&cjk), format!("a | {}\n  | 日\n", "日".repeat(10)));
        let odd = format!("x{cjk}");
        assert_eq!(wrapped(&odd), format!("a | x{}\n  | 日日\n", "日".repeat(9)));
        let combining = "e\u{301}".repeat(21);
        assert_eq!(wrapped(&combining), format!("a | {}\n  | e\u{301}\n", "e\u{301}".repeat(20)));
        let family = "👨‍👩‍👧".repeat(11);
        assert_eq!(wrapped(&family), format!("a | {}\n  | 👨‍👩‍👧\n", "👨‍👩‍👧".repeat(10)));
    }

    #[test]
    fn long_lines_can_be_cut() {
        let trim = Layout { long_lines: LongLines::Trim, ..layout(24) };
        let cut = |line: &str| String::from_utf8(show(trim, &[line.as_bytes()])).unwrap();
        assert_eq!(cut(&"x".repeat(50)), format!("a | {}…\n", "x".repeat(19)));
        assert_eq!(cut(&"x".repeat(20)), format!("a | {}\n", "x".repeat(20)));
        let colored = format!("\x1b[31m{}\x1b[32m\nnext", "x".repeat(50));
        let expected = format!("a | \x1b[31m{}…\x1b[0m\na | \x1b[32mnext\x1b[0m\n", "x".repeat(19));
        assert_eq!(cut(&colored), expected);
    }

    #[test]
    fn without_colour_nothing_passes() {
        let plain = Layout { color: false, ..layout(80) };
        let text = b"\x1b[31mred\x1b]8;;u\x07\n";
        assert_eq!(show(plain, &[text]), b"a | red\n");
    }

    #[test]
    fn invalid_utf8_passes() {
        assert_eq!(
            show(layout(80), &[b"\xff\xc2\xe2\x82\n\xc2"]),
            b"a | \xff\xc2\xe2\x82\na | \xc2\n"
        );
    }

    /// Fails at everything but text, newlines, colours and links.
    struct OnlyColours;

    impl vte::Perform for OnlyColours {
        fn execute(&mut self, byte: u8) {
            // Invalid UTF-8 passes; as characters, these don't.
            assert!(matches!(byte, b'\n' | b'\t' | 7 | 0x80..=0x9f), "control {byte:?}");
        }

        fn csi_dispatch(&mut self, _: &vte::Params, marks: &[u8], ignored: bool, end: char) {
            assert!(end == 'm' && marks.is_empty() && !ignored, "{end} {marks:?}");
        }

        fn osc_dispatch(&mut self, params: &[&[u8]], _: bool) {
            assert_eq!(params[0], b"8");
        }

        fn esc_dispatch(&mut self, _: &[u8], _: bool, byte: u8) {
            assert_eq!(byte, b'\\', "only as the end of a link");
        }

        fn hook(&mut self, _: &vte::Params, _: &[u8], _: bool, _: char) {
            panic!("a device control string");
        }
    }

    /// Pieces of what programs write to terminals, and arbitrary bytes.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let known = proptest::sample::select(vec![
            "\n",
            "\r",
            "\r\n",
            "\x1b",
            "\x1b[",
            "\x1b]",
            "\x1b\\",
            "\x07",
            "\x1b[31m",
            "\x1b[0m",
            "m",
            "\x1b[38;5;9m",
            "\x1b[4:3m",
            "\x1b[2J",
            "\x1b]8;;http://x\x1b\\",
            "\x1b]8;;\x07",
            "8;",
            ";",
            "\x1b]0;t\x07",
            "\x1bP1;2q",
            "\x1b[?25h",
            "text",
            "日本",
            "e\u{301}",
            "👨‍👩‍👧",
            "\t",
            "\x08",
            "\u{9b}1m",
            "\x18",
            "\x1b[K",
            "\x1b[1G",
            "a long text that does not fit in one row",
        ]);
        let piece = prop_oneof![
            8 => known.prop_map(|text: &str| text.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 1..8),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn only_colours_and_links_reach_the_terminal(
            text in output(), columns in 24usize..60, trim: bool,
        ) {
            let long_lines = if trim { LongLines::Trim } else { LongLines::Wrap };
            let out = show(Layout { long_lines, ..layout(columns) }, &[&text]);
            let mut parser = vte::Parser::new();
            parser.advance(&mut OnlyColours, &out);
            let is_c1 = |pair: &[u8]| pair[0] == 0xc2 && (0x80..0xa0).contains(&pair[1]);
            prop_assert!(!out.windows(2).any(is_c1));
        }

        #[test]
        fn result_does_not_depend_on_the_pieces_that_were_read(
            text in output(), at in any::<prop::sample::Index>(),
        ) {
            let (one, other) = text.split_at(at.index(text.len() + 1));
            prop_assert_eq!(show(layout(40), &[one, other]), show(layout(40), &[&text]));
        }

        #[test]
        fn text_is_preserved(text in "[ -~\n日éx\u{301}\u{a0}👨\u{200d}]{0,200}") {
            let out = show(layout(30), &[text.as_bytes()]);
            let mut joined = String::new();
            for row in String::from_utf8(out).unwrap().lines() {
                let start = row.strip_prefix("a | ");
                if start.is_some() && !joined.is_empty() { joined.push('\n'); }
                joined.push_str(start.or_else(|| row.strip_prefix("  | ")).unwrap());
            }
            prop_assert_eq!(joined.trim_end_matches('\n'), text.trim_end_matches('\n').trim_start_matches('\n'));
        }

        #[test]
        fn every_row_fits_and_ends_with_its_colours_closed(
            text in output(), columns in 24usize..60, trim: bool,
        ) {
            let long_lines = if trim { LongLines::Trim } else { LongLines::Wrap };
            let out = show(Layout { long_lines, ..layout(columns) }, &[&text]);
            for row in out.split(|byte| *byte == b'\n') {
                let mut pen = Pen::default();
                pen.apply_all(row);
                prop_assert_eq!(pen, Pen::default(), "{:?}", String::from_utf8_lossy(row));
                let mut text = String::new();
                let mut scanner = Scanner::default();
                scanner.scan(row, |token| if let Token::Text(more) = token {
                    text.push_str(&String::from_utf8_lossy(more));
                });
                if !text.contains('\t') {
                    prop_assert!(text.replace('\x07', "").width() <= columns, "{:?}", text);
                }
            }
        }
    }
}
