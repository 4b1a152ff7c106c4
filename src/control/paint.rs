//! Paints the screen of a process for a client, from its recent output.
//!
//! A terminal emulator makes the screen. It is not in the path of later output, and if it panics,
//! the client begins with an empty screen.

use std::num::NonZero;
use std::sync::LazyLock;

use regex::bytes::Regex;

use crate::panics;
use crate::pty::WindowSize;

/// How much of the recent output is emulated, in bytes: many screens full of it.
const MAX_BYTES: usize = 128 << 10;

/// Queries to the terminal that were written last: for the cursor, the kind of terminal, its modes,
/// keys and colours (xterm control sequences; kitty keyboard protocol). A program such as irb waits
/// for the answer, which a terminal gives once there is one.
static LAST_QUERIES: LazyLock<Regex> = LazyLock::new(|| {
    let query =
        r"(?-u)(?:\x1b\[[>=?]?[0-9;]*(?:[cn]|\$p)|\x1b\[\?u|\x1b\]1[0-2];\?(?:\x07|\x1b\\))+$";
    Regex::new(query).expect("the pattern is valid")
});

/// The bytes that show what a process with this recent output shows. `reads_lines` says that the
/// process does not draw by itself: then the last lines follow what stands in the client's window.
#[must_use]
pub fn paint(recent: &[u8], size: WindowSize, reads_lines: bool) -> Vec<u8> {
    let recent = &recent[recent.len().saturating_sub(MAX_BYTES)..];
    let mut painted = panics::catch(|| draw(recent, size, reads_lines)).unwrap_or_default();
    painted.extend(LAST_QUERIES.find(recent).into_iter().flat_map(|found| found.as_bytes()));
    painted
}

fn draw(recent: &[u8], size: WindowSize, reads_lines: bool) -> Vec<u8> {
    let (Some(rows), Some(columns)) = (NonZero::new(size.rows), NonZero::new(size.columns)) else {
        return Vec::new();
    };
    let mut emulator = vt100::Parser::new(rows, columns, 0);
    for line in recent.split_inclusive(|byte| *byte == b'\n') {
        // What the terminal adds to a newline is not kept.
        match line.strip_suffix(b"\n") {
            Some(text) if !emulator.screen().alternate_screen() => {
                emulator.process(text);
                emulator.process(b"\r\n");
            }
            Some(_) | None => emulator.process(line),
        }
    }
    let screen = emulator.screen();
    if screen.alternate_screen() && !reads_lines {
        let painted = screen.contents_formatted() + &screen.input_mode_formatted();
        return ["\x1b[?1049h".as_bytes(), painted.as_bytes()].concat();
    }
    let (row, column) = screen.cursor_position();
    let rows: Vec<String> =
        screen.rows_formatted(0, columns.get()).take(usize::from(row) + 1).collect();
    let mut out = rows.join("\x1b[0m\r\n").into_bytes();
    out.extend_from_slice(format!("\x1b[0m\x1b[{}G", column + 1).as_bytes());
    out.extend_from_slice(screen.attributes_formatted().as_bytes());
    if !reads_lines {
        out.extend_from_slice(screen.input_mode_formatted().as_bytes());
    }
    out
}

/// Adds a CR to each newline that has none.
pub(super) fn add_returns(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    let mut before = 0;
    for byte in bytes {
        if *byte == b'\n' && before != b'\r' {
            out.push(b'\r');
        }
        out.push(*byte);
        before = *byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WindowSize = WindowSize { rows: 5, columns: 20 };

    /// The screen of a client that gets these bytes.
    fn shown(painted: &[u8]) -> vt100::Parser {
        let rows = NonZero::new(SIZE.rows).unwrap();
        let mut client = vt100::Parser::new(rows, NonZero::new(SIZE.columns).unwrap(), 0);
        client.process(painted);
        client
    }

    #[test]
    fn last_lines_are_painted_with_the_prompt() {
        let painted = paint(b"one\ntwo\n\x1b[31mred\x1b[0m\n(Pdb) ", SIZE, true);
        let client = shown(&painted);
        assert_eq!(client.screen().contents(), "one\ntwo\nred\n(Pdb) ");
        assert_eq!(client.screen().cursor_position(), (3, 6));
        assert_eq!(client.screen().cell(2, 0).unwrap().fgcolor(), vt100::Color::Idx(1));
    }

    #[test]
    fn full_screen_is_painted_in_the_alternate_screen() {
        let recent = b"before\n\x1b[?1049h\x1b[?1000h\x1b[2J\x1b[3;4Hhere";
        let client = shown(&paint(recent, SIZE, false));
        assert!(client.screen().alternate_screen());
        assert_eq!(client.screen().contents(), "\n\n   here");
        // What a killed process left on is no screen of the next one.
        assert!(!shown(&paint(recent, SIZE, true)).screen().alternate_screen());
    }

    #[test]
    fn queries_that_wait_for_an_answer_are_repeated() {
        let painted = paint(b"\x1b[6nold\n?\x1b[>c\x1b]11;?\x07\x1b[6n", SIZE, false);
        assert!(painted.ends_with(b"\x1b[>c\x1b]11;?\x07\x1b[6n"), "{painted:?}");
        for answered in [&b"\x1b[6nx"[..], b"\x1b[31m"] {
            assert!(!paint(answered, SIZE, false).windows(4).any(|it| it == b"\x1b[6n"));
        }
    }

    #[test]
    fn newlines_get_their_returns() {
        assert_eq!(add_returns(b"a\nb\r\n\n"), b"a\r\nb\r\n\r\n");
    }
}
