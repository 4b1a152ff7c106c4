//! Writes a line in the rows of a terminal.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use super::Layout;
use super::pen::{Pen, split_sequence};
use crate::logs::lines::Prefix;

/// With less room beside the prefix, lines are left to the terminal.
const MIN_TEXT_COLUMNS: usize = 20;
/// The distance of tab stops.
pub const TAB_COLUMNS: usize = 8;
/// Shows that a line is cut.
const CUT_MARK: &str = "…";

/// What happens to lines that are longer than a row.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LongLines {
    /// They continue below their beginning.
    #[default]
    Wrap,
    /// They are cut.
    Trim,
}

/// How lines of one source are written.
pub(super) struct Rows<'a> {
    pub(super) layout: Layout,
    pub(super) prefix: Prefix<'a>,
}

/// A row that is being written.
struct Row<'a, 'b> {
    rows: &'a Rows<'b>,
    pen: &'a mut Pen,
    /// Where the cursor is.
    column: usize,
    /// The first column that text must not reach.
    end: usize,
    /// Whether the rest is left out.
    is_cut: bool,
    /// How many rows were filled before this one.
    filled: usize,
    out: &'a mut Vec<u8>,
}

impl Rows<'_> {
    /// Writes the bytes of a line, which are text, colours and links, from this column on. Colours
    /// that are left open end here, and `pen` remembers them. Returns how many rows were filled.
    pub(super) fn write(
        &self,
        line: &[u8],
        pen: &mut Pen,
        column: &mut usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let indent = self.prefix.columns();
        let columns = self.layout.columns.filter(|columns| *columns >= indent + MIN_TEXT_COLUMNS);
        let mut end = columns.unwrap_or(usize::MAX);
        let is_trimmed = self.layout.long_lines == LongLines::Trim && columns.is_some();
        if is_trimmed && *column + width(line, *column) > end {
            // Room for the mark.
            end -= 1;
        }
        let is_cut = is_trimmed && *column > end;
        if !line.is_empty() && !is_cut {
            pen.open(out);
        }
        let mut row = Row { rows: self, pen, column: *column, end, is_cut, filled: 0, out };
        let mut rest = line;
        while !rest.is_empty() {
            if rest[0] == 0x1b {
                let (sequence, after) = split_sequence(rest);
                row.pen.apply(sequence);
                if !row.is_cut {
                    row.out.extend_from_slice(sequence);
                }
                rest = after;
            } else {
                let length = memchr::memchr(0x1b, rest).unwrap_or(rest.len());
                row.write_text(&rest[..length]);
                rest = &rest[length..];
            }
        }
        if !line.is_empty() && !row.is_cut {
            row.pen.close(row.out);
        }
        *column = row.column;
        row.filled
    }
}

impl Row<'_, '_> {
    fn write_text(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            self.write_valid(chunk.valid());
            for byte in chunk.invalid() {
                self.write_cluster(std::slice::from_ref(byte), 1);
            }
        }
    }

    fn write_valid(&mut self, text: &str) {
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            self.write_ascii(text.as_bytes());
            return;
        }
        for cluster in text.graphemes(true) {
            self.write_cluster(cluster.as_bytes(), cluster_width(cluster, self.column));
        }
    }

    /// Text of which each byte takes a column.
    fn write_ascii(&mut self, mut text: &[u8]) {
        while !self.is_cut && !text.is_empty() {
            let (now, later) = text.split_at(text.len().min(self.end.saturating_sub(self.column)));
            self.out.extend_from_slice(now);
            self.column += now.len();
            text = later;
            if !text.is_empty() {
                self.end_row();
            }
        }
    }

    /// A character with all that belongs to it.
    fn write_cluster(&mut self, cluster: &[u8], width: usize) {
        if self.column + width > self.end {
            self.end_row();
        }
        if !self.is_cut {
            self.out.extend_from_slice(cluster);
            self.column += width;
        }
    }

    /// The row is full.
    fn end_row(&mut self) {
        if self.is_cut {
            return;
        }
        match self.rows.layout.long_lines {
            LongLines::Trim => {
                self.out.extend_from_slice(CUT_MARK.as_bytes());
                self.pen.close(self.out);
                self.is_cut = true;
                self.column = self.end + 1;
            }
            LongLines::Wrap => {
                let prefix = &self.rows.prefix;
                self.pen.close(self.out);
                self.out.push(b'\n');
                self.out.resize(self.out.len() + prefix.stamp.len(), b' ');
                self.out.extend_from_slice(prefix.wrapped);
                self.pen.open(self.out);
                self.column = prefix.columns();
                self.filled += 1;
            }
        }
    }
}

/// The rows that a line takes in this layout, each with its colours closed. `wrapped`, which is
/// ASCII, stands before each but the first.
#[must_use]
pub fn wrap_line(line: &[u8], layout: Layout, wrapped: &[u8]) -> Vec<Vec<u8>> {
    // A line has no newline in it, so a newline separates rows.
    let width = wrapped.len();
    let prefix = Prefix { stamp: b"", line: b"", continuation: b"", wrapped, width };
    let (rows, mut out) = (Rows { layout, prefix }, Vec::new());
    rows.write(line, &mut Pen::default(), &mut 0, &mut out);
    out.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// How many columns a line takes from this one on.
fn width(line: &[u8], column: usize) -> usize {
    let mut end = column;
    let mut rest = line;
    while !rest.is_empty() {
        if rest[0] == 0x1b {
            rest = split_sequence(rest).1;
            continue;
        }
        let (text, after) = rest.split_at(memchr::memchr(0x1b, rest).unwrap_or(rest.len()));
        for chunk in text.utf8_chunks() {
            for cluster in chunk.valid().graphemes(true) {
                end += cluster_width(cluster, end);
            }
            end += chunk.invalid().len();
        }
        rest = after;
    }
    end - column
}

/// How many columns a character takes with all that belongs to it.
fn cluster_width(cluster: &str, column: usize) -> usize {
    match cluster {
        "\t" => TAB_COLUMNS - column % TAB_COLUMNS,
        "\x07" => 0,
        _ => cluster.width(),
    }
}
