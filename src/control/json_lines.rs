//! Lines as JSON objects, one on each line.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::api::{LogCursorRecord, LogLine, MissedOutput, SCHEMA_VERSION};
use crate::logs::cursor::LogCursor;
use crate::logs::lines::{MAX_LINE_BYTES, plain_text};

/// The memory for unfinished lines, those of all processes together.
const MAX_OPEN_BYTES: usize = 128 << 10;

/// Splits the output of processes into lines.
#[derive(Debug, Default)]
pub(super) struct JsonLines {
    /// Lines that have no end yet.
    open: HashMap<Arc<str>, Vec<u8>>,
    open_bytes: usize,
    pub(super) out: Vec<u8>,
}

impl JsonLines {
    /// A process has written a few bytes.
    pub(super) fn push(&mut self, name: &Arc<str>, at: SystemTime, bytes: &[u8]) {
        let mut open = self.open.remove(name).unwrap_or_default();
        self.open_bytes -= open.len();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            open.extend_from_slice(part);
            let is_long =
                open.len() > MAX_LINE_BYTES || self.open_bytes + open.len() > MAX_OPEN_BYTES;
            if part.ends_with(b"\n") || is_long {
                self.write_line(name, at, &open);
                open.clear();
            }
        }
        if !open.is_empty() {
            self.open_bytes += open.len();
            self.open.insert(Arc::clone(name), open);
        }
    }

    /// Forgets the beginning of an unfinished line.
    pub(super) fn forget(&mut self, name: &Arc<str>) {
        self.open_bytes -= self.open.remove(name).map_or(0, |open| open.len());
    }

    /// Notes that bytes are missing, or that it is unknown how many are.
    pub(super) fn note_gap(&mut self, missed_bytes: Option<u64>) {
        // Unfinished lines don't go on where they stopped.
        (self.open, self.open_bytes) = (HashMap::new(), 0);
        self.write(&MissedOutput { missed_bytes });
    }

    /// Notes that a reader can go on here.
    pub(super) fn note_cursor(&mut self, cursor: &LogCursor) {
        let cursor = cursor.to_string();
        self.write(&LogCursorRecord { cursor, schema_version: SCHEMA_VERSION });
    }

    fn write_line(&mut self, name: &Arc<str>, at: SystemTime, line: &[u8]) {
        let partial = !line.ends_with(b"\n");
        self.write(&to_record(name, at, line, partial));
    }

    fn write(&mut self, record: &impl Serialize) {
        // Neither a map with other keys than texts nor a failing writer is involved.
        if serde_json::to_writer(&mut self.out, record).is_ok() {
            let _ = self.out.write_all(b"\n");
        }
    }
}

/// A line as a record.
fn to_record(name: &str, at: SystemTime, line: &[u8], partial: bool) -> LogLine {
    LogLine { time: format_time(at), name: name.to_owned(), line: plain_text(line), partial }
}

/// The time in UTC, to a millisecond (RFC 3339).
#[must_use]
pub fn format_time(at: SystemTime) -> String {
    let format = |at: jiff::Timestamp| at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    jiff::Timestamp::try_from(at).map(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500)
    }

    #[test]
    fn each_complete_line_is_an_object() {
        let mut lines = JsonLines::default();
        let name: Arc<str> = "a.1".into();
        lines.push(&name, at(), b"\x1b[31mo\"ne\x1b[0m\r\n\xfftw");
        lines.push(&name, at(), b"o\nopen");
        let line = |text: &str| {
            format!(
                "{{\"time\":\"1970-01-01T00:00:01.500Z\",\"name\":\"a.1\",\"line\":\"{text}\"}}\n"
            )
        };
        let expected = [line("o\\\"ne"), line("\u{fffd}two")].concat();
        assert_eq!(String::from_utf8(std::mem::take(&mut lines.out)).unwrap(), expected);
        lines.note_gap(Some(7));
        lines.push(&name, at(), b"new\n");
        let expected = ["{\"missed_bytes\":7}\n".to_owned(), line("new")].concat();
        assert_eq!(String::from_utf8(std::mem::take(&mut lines.out)).unwrap(), expected);
    }

    #[test]
    fn long_line_is_written_in_pieces() {
        let mut lines = JsonLines::default();
        let name: Arc<str> = "a.1".into();
        for _ in 0..200 {
            lines.push(&name, at(), &[b'x'; 1 << 10]);
        }
        lines.push(&name, at(), b"\n");
        let text = String::from_utf8(lines.out).unwrap();
        let records: Vec<LogLine> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let length: usize = records.iter().map(|record| record.line.len()).sum();
        assert_eq!(length, 200 << 10);
        let partial: Vec<bool> = records.iter().map(|record| record.partial).collect();
        assert_eq!(partial, [true, true, true, false]);
    }
}
