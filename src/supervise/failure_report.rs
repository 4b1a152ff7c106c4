//! The last lines of the process that failed first, for the report at the end.

use std::time::Duration;

use tokio::time::timeout;

use crate::logs::lines::plain_text;
use crate::logs::subscribers::{OutputQueries, Selection};

/// How many lines are shown, and how many characters of each.
const MAX_LINES: usize = 10;
const MAX_LINE_CHARS: usize = 200;
/// How many bytes of a line are looked at for these characters.
const MAX_LINE_BYTES: usize = 16 << 10;
/// How long the mux may take to hand them over.
const EXCERPT_TIMEOUT: Duration = Duration::from_secs(1);

/// The last lines of a process, without what a terminal would act on.
pub(super) async fn last_lines(output: &OutputQueries, name: String) -> Vec<String> {
    let selection = Selection::new([], move |of| of == name);
    let excerpt = output.excerpt(selection, usize::MAX);
    // It is not handed over if the reader of the output blocks the mux for good.
    let Ok(Ok(Ok(excerpt))) = timeout(EXCERPT_TIMEOUT, excerpt).await else { return Vec::new() };
    let lines = excerpt.last_lines(MAX_LINES, MAX_LINE_BYTES);
    lines.iter().map(|line| plain(line)).collect()
}

/// A line as it may stand in a message: shortened, and without what a terminal would act on.
fn plain(line: &[u8]) -> String {
    let text = plain_text(line);
    let mut chars = text.trim_end().chars().map(|char| if char.is_control() { ' ' } else { char });
    let mut shown: String = chars.by_ref().take(MAX_LINE_CHARS).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_plain() {
        assert_eq!(plain(b"\x1b[31mred\x1b[0m\x1b[2J \0 end\r\n"), "red  end");
        let long = plain("é".repeat(100_000).as_bytes());
        assert_eq!((long.chars().count(), long.ends_with('…')), (MAX_LINE_CHARS + 1, true));
    }
}
