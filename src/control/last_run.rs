//! What a ganger in the background leaves when it ends: how it ended, and its last lines. It is
//! kept in a file beside where its socket was, until the next start.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::json_lines::JsonLines;
use super::lines::{Lines, TextLines};
use super::names::{Names, type_of};
use super::run_file::{self, RUNNING, Run};
use crate::logs::cursor::LogCursor;
use crate::logs::format::{Style, assign_colors};
use crate::logs::lines::plain_text;
use crate::logs::recent::{LineRange, RecentOutput};
use crate::logs::terminal::Layout;
use crate::runtime_dir;

/// The extension of the file.
const ENDED: &str = "last";
/// How many of the last lines are kept, how much of each, and of all together.
const MAX_LINES: usize = 1000;
const MAX_LINE_BYTES: usize = 16 << 10;
const MAX_BYTES: usize = 1 << 20;
/// The files are not longer.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// How many such files are kept; the oldest is removed for one more.
const MAX_FILES: usize = 100;

/// How a ganger has ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ending {
    /// When, in seconds since 1970.
    pub at: f64,
    /// Its exit code.
    pub exit_code: u8,
    /// What failed, as lines.
    pub report: Vec<String>,
}

/// A ganger that has ended.
#[derive(Clone, Debug)]
pub struct LastRun {
    /// What is known of it.
    pub run: Run,
    /// How it ended. None: it was killed.
    pub ending: Option<Ending>,
    lines: Vec<Line>,
}

/// The first line of the file. The others are [`Line`]s.
#[derive(Deserialize, Serialize)]
struct Header {
    run: Run,
    ending: Ending,
}

/// A line of output.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Line {
    at: SystemTime,
    /// Whether it was written after the process was last started.
    is_last: bool,
    name: Arc<str>,
    bytes: Vec<u8>,
}

/// How lines are formatted.
#[derive(Clone, Copy, Debug)]
pub enum LineFormat {
    /// As `start` prints them, on a terminal if there is a layout.
    Text(Style, Option<Layout>),
    /// As JSON. `follows_cursor`: a cursor of the ganger that has ended was given.
    Json {
        /// What the reader has missed is then unknown.
        follows_cursor: bool,
    },
}

/// Which lines are asked for, and how they are formatted.
pub struct LineQuery<'a> {
    /// Names and patterns; none means all.
    pub names: &'a [String],
    /// How many at most.
    pub max_lines: Option<usize>,
    /// None that is older.
    pub since: Option<SystemTime>,
    /// Only what was written after a process was last started.
    pub this_run: bool,
    /// Whether a line, without escape sequences, is asked for.
    pub matches: &'a dyn Fn(&str) -> bool,
    /// Their format.
    pub format: LineFormat,
}

/// Leaves this file in place of the run file at `path`. Fails if the run file is not there.
pub fn leave(
    path: &Path,
    exit_code: u8,
    report: Vec<String>,
    recent: Option<&RecentOutput>,
) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let run = run_file::read(path).ok_or_else(gone)?;
    let ending = Ending { at: to_seconds(SystemTime::now()), exit_code, report };
    let mut bytes = serde_json::to_vec(&Header { run, ending })?;
    bytes.push(b'\n');
    for line in recent.map(last_lines).unwrap_or_default() {
        bytes.extend(line.to_bytes());
    }
    if let Some(folder) = path.parent() {
        make_room(folder);
    }
    run_file::replace(&path.with_extension(ENDED), &bytes)
}

/// Removes what an earlier run left in place of the run file at `path`.
pub fn forget(path: &Path) {
    let _ = fs::remove_file(path.with_extension(ENDED));
}

fn make_room(folder: &Path) {
    let mut files = files(folder, ENDED);
    let age = |path: &PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    // Others replace these files meanwhile, so the time of each is read once.
    files.sort_by_cached_key(age);
    let excess = (files.len() + 1).saturating_sub(MAX_FILES);
    for file in files.iter().take(excess) {
        let _ = fs::remove_file(file);
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|it| it == extension)).collect()
}

/// The last lines of all processes, in the order in which they ended.
fn last_lines(recent: &RecentOutput) -> VecDeque<Line> {
    let mut lines = lines_of(recent, false);
    let mut last: HashMap<Arc<str>, usize> = HashMap::new();
    for line in lines_of(recent, true) {
        *last.entry(line.name).or_default() += 1;
    }
    for line in lines.iter_mut().rev() {
        let left = last.get_mut(&line.name).filter(|left| **left > 0);
        line.is_last = left.map(|left| *left -= 1).is_some();
    }
    lines
}

/// The last lines, or those that were written after each process was last started.
fn lines_of(recent: &RecentOutput, this_run: bool) -> VecDeque<Line> {
    let Ok(excerpt) = recent.excerpt(|_| true, usize::MAX) else { return VecDeque::new() };
    let range = LineRange { max_lines: Some(MAX_LINES), this_run, ..LineRange::default() };
    let mut reader = excerpt.into_reader(&range);
    let (mut lines, mut total, mut open) = (VecDeque::new(), 0, Vec::new());
    while let Some(piece) = reader.next_piece() {
        let mut parts: Vec<&[u8]> = piece.bytes.split_inclusive(|byte| *byte == b'\n').collect();
        if piece.is_end && !open.is_empty() {
            parts.push(b"\n");
        }
        for part in parts {
            let room = MAX_LINE_BYTES.saturating_sub(open.len());
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            open.extend_from_slice(&text[..text.len().min(room)]);
            if part.ends_with(b"\n") {
                let bytes: Vec<u8> = std::mem::take(&mut open);
                total += bytes.len();
                let name = Arc::clone(piece.name);
                lines.push_back(Line { at: piece.at, is_last: this_run, name, bytes });
            }
        }
    }
    while total > MAX_BYTES
        && let Some(first) = lines.pop_front()
    {
        total -= first.bytes.len();
    }
    lines
}

impl Line {
    /// Time in milliseconds since 1970, whether it is of the last run of the process (`1`), name,
    /// text.
    fn to_bytes(&self) -> Vec<u8> {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("{} {} {} ", since.as_millis(), u8::from(self.is_last), self.name);
        [prefix.as_bytes(), &self.bytes, b"\n"].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.splitn(4, |byte| *byte == b' ');
        let mut next = || fields.next();
        let (at, is_last, name, text) = (next()?, next()?, next()?, next()?);
        let millis = str::from_utf8(at).ok()?.parse().ok()?;
        Some(Self {
            at: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))?,
            is_last: match is_last {
                b"0" => false,
                b"1" => true,
                _ => return None,
            },
            name: str::from_utf8(name).ok()?.into(),
            bytes: text.to_owned(),
        })
    }
}

fn to_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// All gangers of this user that have ended, as far as that is known.
#[must_use]
pub fn list() -> Vec<LastRun> {
    let folders = runtime_dir::search_path().filter(|folder| runtime_dir::is_private(folder));
    folders.flat_map(|folder| list_in(&folder)).collect()
}

fn list_in(folder: &Path) -> Vec<LastRun> {
    let ended = files(folder, ENDED).into_iter().filter_map(|path| read(&path));
    let killed = files(folder, RUNNING).into_iter().filter(|path| !is_held(path));
    let killed = killed.filter_map(|path| {
        Some(LastRun { run: run_file::read(&path)?, ending: None, lines: Vec::new() })
    });
    ended.chain(killed).collect()
}

/// Whether the ganger with this run file lives: it holds the lock beside its socket.
fn is_held(path: &Path) -> bool {
    let lock = File::open(path.with_extension("sock.lock"));
    lock.is_ok_and(|lock| Flock::lock(lock, FlockArg::LockSharedNonblock).is_err())
}

fn read(path: &Path) -> Option<LastRun> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    parse(&bytes)
}

/// What a file of these bytes tells; nothing if its first line is not valid.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<LastRun> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Header { run, ending } = serde_json::from_slice(lines.next()?).ok()?;
    Some(LastRun { run, ending: Some(ending), lines: lines.filter_map(Line::parse).collect() })
}

impl LastRun {
    /// Its last lines, as `ganger logs` shows them. Fails if a name is unknown.
    pub fn format_lines(&self, query: &LineQuery) -> Result<Vec<u8>, String> {
        let mut known: Vec<(&str, &str)> = Vec::new();
        for Line { name, .. } in &self.lines {
            if !known.iter().any(|(other, _)| *other == &**name) {
                known.push((name, type_of(name)));
            }
        }
        let chosen = if query.names.is_empty() {
            vec![true; known.len()]
        } else {
            let names = Names::parse(&query.names.join(",")).map_err(|error| error.to_string())?;
            names.resolve(&known).map_err(|error| error.to_string())?
        };
        let is_chosen = |line: &Line| {
            known.iter().zip(&chosen).any(|((name, _), chosen)| *chosen && *name == &*line.name)
        };
        let is_meant = |line: &&Line| {
            query.since.is_none_or(|since| line.at >= since)
                && (line.is_last || !query.this_run)
                && is_chosen(line)
                && (query.matches)(&plain_text(&line.bytes))
        };
        let lines: Vec<&Line> = self.lines.iter().filter(is_meant).collect();
        let skipped = lines.len().saturating_sub(query.max_lines.unwrap_or(usize::MAX));
        let mut formatted = match query.format {
            LineFormat::Text(style, layout) => {
                let types: Vec<&str> = known.iter().map(|(_, of)| *of).collect();
                let colors =
                    types.iter().map(|it| (*it).to_owned()).zip(assign_colors(&types, &[]));
                let style = style.fit_names(known.iter().map(|(name, _)| *name));
                Lines::Text(TextLines::new(style, false, Arc::new(colors.collect()), layout))
            }
            LineFormat::Json { follows_cursor } => {
                let mut lines = JsonLines::default();
                if follows_cursor {
                    lines.note_gap(None);
                }
                Lines::Json(lines)
            }
        };
        for Line { at, name, bytes, .. } in &lines[skipped..] {
            formatted.push(name, *at, &[bytes, &b"\n"[..]].concat());
        }
        // No ganger has this number, so that a later one tells that output is missing.
        formatted.note_cursor(&LogCursor::new(0, []));
        Ok(std::mem::take(formatted.out()))
    }

    /// When it ended, if that is known.
    #[must_use]
    pub fn ended_at(&self) -> Option<SystemTime> {
        let since = Duration::try_from_secs_f64(self.ending.as_ref()?.at).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(since)
    }

    /// How long ago it ended, if that is known.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.ended_at()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc::TryRecvError;

    #[test]
    fn last_lines_are_kept_in_order_and_as_bytes() {
        let mut recent = RecentOutput::new(4 << 20);
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let names: [Arc<str>; 2] = ["web.1".into(), "ganger".into()];
        recent.push(&names[0], at, b"one\n\xff two\n");
        recent.push(&names[1], at, b"web.1 exited\n");
        recent.push(&names[0], at, b"open");
        let lines = last_lines(&recent);
        let shown: Vec<(&str, &[u8])> =
            lines.iter().map(|line| (&*line.name, &*line.bytes)).collect();
        let expected: [(&str, &[u8]); 4] = [
            ("web.1", b"one"),
            ("web.1", b"\xff two"),
            ("ganger", b"web.1 exited"),
            ("web.1", b"open"),
        ];
        assert_eq!(shown, expected);
        for line in lines {
            assert_eq!(Line::parse(line.to_bytes().strip_suffix(b"\n").unwrap()), Some(line));
        }
        assert_eq!(Line::parse(b"1500 2 web.1 one"), None);
        recent.push(&names[0], at, &b"x".repeat(100_000));
        let lines = last_lines(&recent);
        assert_eq!(lines.back().unwrap().bytes.len(), MAX_LINE_BYTES);
    }

    #[test]
    fn room_is_made_while_others_replace_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |at: usize| folder.path().join(format!("{at}.{ENDED}"));
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        for at in 0..MAX_FILES {
            File::create(path(at)).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(1);
                while is_done.try_recv().is_err_and(|error| error == TryRecvError::Empty) {
                    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(random.u64(..1000));
                    let file = File::create(path(random.usize(..MAX_FILES + 20))).unwrap();
                    file.set_modified(time).unwrap();
                }
            });
            for _ in 0..2000 {
                make_room(folder.path());
            }
            drop(done);
        });
        make_room(folder.path());
        assert!(files(folder.path(), ENDED).len() < MAX_FILES);
    }

    proptest! {
        #[test]
        fn any_file_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Line::parse(&bytes);
            let _ = parse(&bytes);
        }
    }
}
