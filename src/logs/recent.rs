//! The last output of each process, kept in memory: there are no log files.
//!
//! Output is stored in segments that are shared with readers. An [`Excerpt`] for a reader costs
//! the mux some pointers for each process and no copy. The reader itself selects and reads the
//! lines.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use memchr::{memchr, memchr_iter, memrchr};

use super::cursor::LogCursor;

/// How many bytes are kept of each process, unless the user chose another number.
pub const DEFAULT_RECENT_BYTES: usize = 256 << 10;
/// The memory limit for all processes together. The output of the process that has written
/// nothing for the longest time is dropped first.
pub const MAX_RECENT_MEMORY: usize = 64 << 20;

/// The size of a segment, which is smaller if little is kept.
const MAX_SEGMENT_BYTES: usize = 32 << 10;
const MIN_SEGMENT_BYTES: usize = 256;
const SEGMENTS: usize = 4;

/// After some chunks, small chunks of a process are joined, so that chunks take no more memory
/// than the bytes.
const MIN_CHUNK_BYTES: usize = 64;
const EXACT_CHUNKS: usize = 32;

/// How much is read at once, and how much is searched at once for something to read.
const PIECE_BYTES: usize = 1 << 10;
const SCAN_BYTES: usize = 256 << 10;

/// Output that was read at once, or a part of it.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Its number among the chunks of all processes.
    number: u64,
    at: SystemTime,
    /// Where it ends in its segment. It begins where the chunk before it ends.
    end: usize,
}

#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Segment {
    /// How much memory it takes, in bytes.
    fn memory(&self) -> usize {
        let chunks = self.chunks.capacity() * size_of::<Chunk>();
        size_of::<Self>() + self.bytes.capacity() + chunks
    }

    fn start_of(&self, chunk: usize) -> usize {
        chunk.checked_sub(1).map_or(0, |before| self.chunks[before].end)
    }
}

/// The last output of one process.
#[derive(Debug, Default)]
struct ProcessTail {
    /// How many bytes the process has written before those that are kept.
    dropped: u64,
    /// How many bytes it had written when its present run began.
    run_start: u64,
    /// Output is appended to the last segment as long as no reader has it.
    segments: VecDeque<Arc<Segment>>,
    /// How many bytes of the first segment are no longer kept.
    skipped: usize,
    /// How many bytes are kept.
    length: usize,
    /// Whether the kept bytes begin in the middle of a line.
    cut: bool,
    /// How many chunks there are in all segments.
    chunks: usize,
    memory: usize,
}

/// The last output of all processes.
#[derive(Debug)]
pub struct RecentOutput {
    tails: HashMap<Arc<str>, ProcessTail>,
    max_bytes: usize,
    memory: usize,
    next: u64,
    /// A segment that can be used again.
    free_segment: Option<Segment>,
}

impl RecentOutput {
    /// Keeps at most `max_bytes` of each process.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { tails: HashMap::new(), max_bytes, memory: 0, next: 0, free_segment: None }
    }

    /// Keeps new output of a process. Returns its offset: how many bytes the process had written
    /// before.
    pub fn push(&mut self, name: &Arc<str>, at: SystemTime, bytes: &[u8]) -> u64 {
        if !self.tails.contains_key(name) {
            self.tails.insert(Arc::clone(name), ProcessTail::default());
        }
        let Some(tail) = self.tails.get_mut(name) else { return 0 };
        let offset = tail.end();
        if bytes.is_empty() {
            return offset;
        }
        let number = self.next;
        self.next += 1;
        // Only the end is kept if the output is longer than the limit.
        let (start, end) = bytes.split_at(bytes.len().saturating_sub(self.max_bytes));
        let before = tail.memory;
        tail.make_room(self.max_bytes - end.len(), &mut self.free_segment);
        if let Some(last) = start.last() {
            tail.cut = *last != b'\n';
            tail.dropped += start.len() as u64;
        }
        tail.append(number, at, end, self.max_bytes, &mut self.free_segment);
        self.memory = self.memory + tail.memory - before;
        while self.memory > MAX_RECENT_MEMORY {
            self.drop_oldest();
        }
        offset
    }

    /// A process has been started: what it has written before belongs to its earlier runs.
    pub fn begin_run(&mut self, name: &Arc<str>) {
        let tail = self.tails.entry(Arc::clone(name)).or_default();
        tail.run_start = tail.end();
    }

    /// Whether the last line of a process is unfinished.
    #[must_use]
    pub fn is_open(&self, name: &str) -> bool {
        let last = self.tails.get(name).and_then(|tail| tail.segments.back());
        last.and_then(|segment| segment.bytes.last()).is_some_and(|byte| *byte != b'\n')
    }

    fn drop_oldest(&mut self) {
        let last = |tail: &ProcessTail| Some(tail.segments.back()?.chunks.last()?.number);
        let kept = self.tails.values_mut().filter(|tail| !tail.segments.is_empty());
        if let Some(oldest) = kept.min_by_key(|tail| last(tail)) {
            self.memory -= oldest.memory;
            oldest.make_room(0, &mut None);
        }
    }

    /// How much memory the output of each process takes, in bytes.
    #[must_use]
    pub fn memory_by_process(&self) -> Vec<(Arc<str>, usize)> {
        self.tails.iter().map(|(name, tail)| (Arc::clone(name), tail.memory)).collect()
    }

    /// The output of the selected processes. If it takes more than `limit` bytes of memory, the
    /// error is how much it takes.
    pub fn excerpt(
        &self,
        mut is_selected: impl FnMut(&Arc<str>) -> bool,
        limit: usize,
    ) -> Result<Excerpt, usize> {
        let selected = self.tails.iter().filter(|(name, _)| is_selected(name));
        let selected: Vec<(&Arc<str>, &ProcessTail)> = selected.collect();
        let memory = selected.iter().map(|(_, tail)| tail.memory).sum();
        if memory > limit {
            return Err(memory);
        }
        let part = |(name, tail): (&Arc<str>, &ProcessTail)| Part {
            name: Arc::clone(name),
            segments: tail.segments.clone(),
            skipped: tail.skipped,
            cut: tail.cut,
            dropped: tail.dropped,
            run_start: tail.run_start,
        };
        Ok(Excerpt { parts: selected.into_iter().map(part).collect() })
    }
}

impl ProcessTail {
    /// How many bytes the process has written.
    fn end(&self) -> u64 {
        self.dropped + self.length as u64
    }

    /// Drops the oldest bytes until at most `room` are left.
    fn make_room(&mut self, room: usize, free_segment: &mut Option<Segment>) {
        while self.length > room {
            let Some(first) = self.segments.front() else { return };
            let there = first.bytes.len() - self.skipped;
            let gone = there.min(self.length - room);
            self.cut = first.bytes[self.skipped + gone - 1] != b'\n';
            self.skipped += gone;
            self.length -= gone;
            self.dropped += gone as u64;
            if gone == there
                && let Some(first) = self.segments.pop_front()
            {
                self.skipped = 0;
                self.chunks -= first.chunks.len();
                self.memory -= first.memory();
                *free_segment = Arc::into_inner(first).or(free_segment.take());
            }
        }
    }

    fn append(
        &mut self,
        number: u64,
        at: SystemTime,
        bytes: &[u8],
        max_bytes: usize,
        free_segment: &mut Option<Segment>,
    ) {
        let size = (max_bytes / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let is_exact = self.chunks <= max_bytes / MIN_CHUNK_BYTES + EXACT_CHUNKS;
        let mut rest = bytes;
        while !rest.is_empty() {
            let last = self.segments.back_mut().and_then(Arc::get_mut);
            let Some(segment) = last.filter(|segment| segment.bytes.len() < size) else {
                let mut segment = free_segment.take().unwrap_or_default();
                segment.bytes.clear();
                segment.chunks.clear();
                self.memory += segment.memory();
                self.segments.push_back(Arc::new(segment));
                continue;
            };
            let before = segment.memory();
            let (now, later) = rest.split_at(rest.len().min(size - segment.bytes.len()));
            segment.bytes.extend_from_slice(now);
            let end = segment.bytes.len();
            let start = segment.chunks.len().checked_sub(1).map(|last| segment.start_of(last));
            match (segment.chunks.last_mut(), start) {
                (Some(last), Some(start)) if !is_exact && last.end - start < MIN_CHUNK_BYTES => {
                    (last.at, last.end) = (at, end);
                }
                (_, _) => {
                    segment.chunks.push(Chunk { number, at, end });
                    self.chunks += 1;
                }
            }
            self.memory = self.memory + segment.memory() - before;
            self.length += now.len();
            rest = later;
        }
    }
}

/// The recent output of some processes at one moment.
#[derive(Debug, Default)]
pub struct Excerpt {
    parts: Vec<Part>,
}

/// The recent output of one process.
#[derive(Debug)]
struct Part {
    name: Arc<str>,
    segments: VecDeque<Arc<Segment>>,
    skipped: usize,
    cut: bool,
    /// How many bytes the process has written before these.
    dropped: u64,
    /// How many bytes it had written when its present run began.
    run_start: u64,
}

impl Part {
    /// How many bytes the process had written when the last complete line ended, as far as that
    /// is kept.
    fn last_line_end(&self) -> u64 {
        let mut end = self.dropped - self.skipped as u64;
        end += self.segments.iter().map(|segment| segment.bytes.len() as u64).sum::<u64>();
        for segment in self.segments.iter().rev() {
            end -= segment.bytes.len() as u64;
            if let Some(at) = memrchr(b'\n', &segment.bytes) {
                return (end + at as u64 + 1).max(self.dropped);
            }
        }
        self.dropped
    }

    /// Where the byte is that follows so many that the process has written; the first one that is
    /// kept, if it comes before. None if it has not written more.
    fn place_of(&self, offset: u64) -> Option<Place> {
        let first = self.dropped - self.skipped as u64;
        let mut byte = usize::try_from(offset.max(self.dropped) - first).ok()?;
        for (segment, bytes) in self.segments.iter().map(|segment| &segment.bytes).enumerate() {
            if byte < bytes.len() {
                return Some(Place { segment, byte });
            }
            byte -= bytes.len();
        }
        None
    }
}

/// Which lines of an excerpt are read; the default is all.
#[derive(Debug, Default)]
pub struct LineRange {
    /// At most this many, the last ones.
    pub max_lines: Option<usize>,
    /// None that is older.
    pub since: Option<SystemTime>,
    /// Only those of the present run of each process.
    pub this_run: bool,
    /// Only those after an earlier reader.
    pub after: Option<LogCursor>,
    /// Only those that are complete.
    pub complete: bool,
}

impl Excerpt {
    /// A reader of these lines, in the order in which they ended.
    #[must_use]
    pub fn into_reader(self, range: &LineRange) -> ExcerptReader {
        let mut next = Vec::new();
        let (mut cursors, mut missed_bytes) = (Vec::new(), 0);
        for part in self.parts {
            let read = range.after.as_ref().map(|after| after.offset(&part.name));
            let from =
                if range.this_run { part.run_start } else { 0 }.max(read.unwrap_or_default());
            let end = part.last_line_end().max(from);
            next.push((Arc::clone(&part.name), end));
            let cursor = Cursor::new(part, from);
            if read.is_some() {
                missed_bytes += cursor.as_ref().map_or(end, Cursor::offset).saturating_sub(from);
            }
            cursors.extend(cursor);
        }
        let mut reader = ExcerptReader {
            cursors,
            order: BinaryHeap::new(),
            since: range.since,
            complete: range.complete,
            next,
            missed_bytes,
            reading: None,
            skip: 0,
            memory: 0,
        };
        if let Some(max_lines) = range.max_lines {
            reader.skip_to_last_lines(max_lines);
        }
        let next = reader.cursors.iter().enumerate();
        reader.order = next.map(|(at, cursor)| Reverse((cursor.number(), at))).collect();
        reader.memory = reader.cursors.iter().map(Cursor::memory).sum();
        reader
    }

    /// The last `max_lines` lines, and of each line at most `max_line_bytes`.
    #[must_use]
    pub fn last_lines(self, max_lines: usize, max_line_bytes: usize) -> Vec<Vec<u8>> {
        let range = LineRange { max_lines: Some(max_lines), ..LineRange::default() };
        let mut reader = self.into_reader(&range);
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while let Some(piece) = reader.next_piece() {
            for part in piece.bytes.split_inclusive(|byte| *byte == b'\n') {
                let room = max_line_bytes.saturating_sub(line.len());
                line.extend_from_slice(&part[..part.len().min(room)]);
                if part.ends_with(b"\n") {
                    lines.push(std::mem::take(&mut line));
                }
            }
            if piece.is_end && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
        }
        lines
    }
}

/// A piece of output.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The process that wrote it.
    pub name: &'a Arc<str>,
    /// When the line of the piece ended.
    pub at: SystemTime,
    /// The bytes; none at the end of a process, or after a long search without a result.
    pub bytes: &'a [u8],
    /// Whether this is the end of the process's output.
    pub is_end: bool,
}

/// Reads an excerpt in small pieces, each of which takes little time.
#[derive(Debug)]
pub struct ExcerptReader {
    cursors: Vec<Cursor>,
    /// The cursors that have something left, by the number of their next chunk.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    since: Option<SystemTime>,
    /// Whether unfinished lines are left out.
    complete: bool,
    /// Where a later reader goes on, by process.
    next: Vec<(Arc<str>, u64)>,
    /// How much that was to be read is not kept any more.
    missed_bytes: u64,
    /// The cursor that is being read from.
    reading: Option<usize>,
    /// How many of the first lines are to be skipped.
    skip: usize,
    memory: usize,
}

/// What a reader does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NextStep {
    Read,
    /// It continues the search for something to read.
    Search,
    End,
}

/// Reads the output of one process chunk by chunk. The lines that end in a chunk are read when
/// it is the chunk's turn.
#[derive(Debug)]
struct Cursor {
    name: Arc<str>,
    segments: VecDeque<Arc<Segment>>,
    /// How many bytes the process had written before the first segment.
    first: u64,
    /// The current chunk; there always is one.
    chunk: ChunkPlace,
    /// Where the next line begins.
    line: Place,
    /// Where the lines of the current chunk end.
    until: Place,
    /// Whether `until` is the end of the output.
    is_last: bool,
}

/// The place of a byte in a part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    segment: usize,
    byte: usize,
}

/// The place of a chunk in a part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct ChunkPlace {
    segment: usize,
    chunk: usize,
}

impl Cursor {
    /// A cursor at the first line whose beginning is kept and that begins at `offset` or later, if
    /// there is one.
    fn new(part: Part, offset: u64) -> Option<Self> {
        let mut line = part.place_of(offset)?;
        let Part { name, segments, skipped, cut, dropped, .. } = part;
        if cut && offset <= dropped {
            let is_in = |segment: &Arc<Segment>, start| memchr(b'\n', &segment.bytes[start..]);
            while is_in(segments.get(line.segment)?, line.byte).is_none() {
                line = Place { segment: line.segment + 1, byte: 0 };
            }
            line.byte += is_in(&segments[line.segment], line.byte)? + 1;
        }
        let chunk = ChunkPlace { segment: 0, chunk: 0 };
        let first = dropped - skipped as u64;
        let mut cursor = Self { name, segments, first, chunk, line, until: line, is_last: false };
        while cursor.end_of(cursor.chunk) <= line {
            cursor.chunk = cursor.after(cursor.chunk)?;
        }
        Some(cursor)
    }

    /// How many bytes the process had written before the next line.
    fn offset(&self) -> u64 {
        let before = self.segments.iter().take(self.line.segment);
        let before: usize = before.map(|segment| segment.bytes.len()).sum();
        self.first + (before + self.line.byte) as u64
    }

    fn get(&self, place: ChunkPlace) -> &Chunk {
        &self.segments[place.segment].chunks[place.chunk]
    }

    fn number(&self) -> u64 {
        self.get(self.chunk).number
    }

    fn end_of(&self, place: ChunkPlace) -> Place {
        Place { segment: place.segment, byte: self.get(place).end }
    }

    fn after(&self, place: ChunkPlace) -> Option<ChunkPlace> {
        let ChunkPlace { segment, chunk } = place;
        let next = ChunkPlace { segment, chunk: chunk + 1 };
        let first = ChunkPlace { segment: segment + 1, chunk: 0 };
        [next, first].into_iter().find(|it| {
            self.segments.get(it.segment).is_some_and(|segment| it.chunk < segment.chunks.len())
        })
    }

    /// The chunk before, unless that is before the current one.
    fn before(&self, place: ChunkPlace) -> Option<ChunkPlace> {
        let ChunkPlace { segment, chunk } = place;
        let before = match chunk.checked_sub(1) {
            Some(chunk) => ChunkPlace { segment, chunk },
            None => self.last_of(segment.checked_sub(1)?),
        };
        (before >= self.chunk).then_some(before)
    }

    fn last_of(&self, segment: usize) -> ChunkPlace {
        ChunkPlace { segment, chunk: self.segments[segment].chunks.len() - 1 }
    }

    fn last(&self) -> ChunkPlace {
        self.last_of(self.segments.len() - 1)
    }

    /// The bytes of a chunk that are not read yet, and where they begin.
    fn bytes_of(&self, place: ChunkPlace) -> (usize, &[u8]) {
        let segment = &self.segments[place.segment];
        let (start, end) = (segment.start_of(place.chunk), segment.chunks[place.chunk].end);
        let start = match place.segment.cmp(&self.line.segment) {
            Ordering::Less => end,
            Ordering::Equal => start.max(self.line.byte).min(end),
            Ordering::Greater => start,
        };
        (start, &segment.bytes[start..end])
    }

    /// How many lines end in this chunk.
    fn count_lines(&self, place: ChunkPlace) -> usize {
        memchr_iter(b'\n', self.bytes_of(place).1).count()
    }

    /// The end of the last line that ends in this chunk.
    fn last_line_end(&self, place: ChunkPlace) -> Option<Place> {
        let (start, bytes) = self.bytes_of(place);
        let at = memrchr(b'\n', bytes)?;
        Some(Place { segment: place.segment, byte: start + at + 1 })
    }

    /// The end of the line number `count`, from 1, of those that end in this chunk.
    fn nth_line_end(&self, place: ChunkPlace, count: usize) -> Option<Place> {
        let (start, bytes) = self.bytes_of(place);
        let at = memchr_iter(b'\n', bytes).nth(count.checked_sub(1)?)?;
        Some(Place { segment: place.segment, byte: start + at + 1 })
    }

    fn end(&self) -> Place {
        self.end_of(self.last())
    }

    /// Whether its last line is unfinished.
    fn is_open(&self) -> bool {
        let last = self.segments.back().and_then(|segment| segment.bytes.last());
        last.is_some_and(|byte| *byte != b'\n')
    }

    /// Skips the lines that end before this chunk.
    fn skip_to(&mut self, first: ChunkPlace) {
        let mut place = first;
        while let Some(before) = self.before(place) {
            place = before;
            if let Some(end) = self.last_line_end(place) {
                self.line = end;
                break;
            }
        }
        (self.chunk, self.until) = (first, self.line);
        self.drop_read();
    }

    /// Drops the segments that were read, and returns how much memory they took.
    fn drop_read(&mut self) -> usize {
        let mut memory = 0;
        while self.line.segment > 0 && self.chunk.segment > 0 {
            memory += self.segments.pop_front().map_or(0, |segment| segment.memory());
            self.line.segment -= 1;
            self.until.segment -= 1;
            self.chunk.segment -= 1;
        }
        memory
    }

    fn memory(&self) -> usize {
        self.segments.iter().map(|segment| segment.memory()).sum()
    }

    /// Reads the next piece, at most to the end of the segment.
    fn read_piece(&mut self) -> Piece<'_> {
        let at = self.get(self.chunk).at;
        let Place { segment, byte: start } = self.line;
        let bytes = &self.segments[segment].bytes;
        let end = if self.until.segment == segment { self.until.byte } else { bytes.len() };
        let end = end.min(start + PIECE_BYTES);
        self.line = if end == bytes.len() && self.until.segment > segment {
            Place { segment: segment + 1, byte: 0 }
        } else {
            Place { segment, byte: end }
        };
        Piece { name: &self.name, at, bytes: &bytes[start..end], is_end: false }
    }
}

impl ExcerptReader {
    /// How much memory the segments that are not read yet take, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Where a later reader goes on: by process, how many bytes had been written at the end of its
    /// last complete line.
    #[must_use]
    pub fn next(&self) -> &[(Arc<str>, u64)] {
        &self.next
    }

    /// How many bytes were written after the earlier reader and are not kept any more.
    #[must_use]
    pub fn missed_bytes(&self) -> u64 {
        self.missed_bytes
    }

    fn is_wanted(&self, chunk: &Chunk) -> bool {
        self.since.is_none_or(|since| chunk.at >= since)
    }

    /// Skips all but the last `max_lines` lines. They are counted from the end, which is fast if
    /// they are few.
    fn skip_to_last_lines(&mut self, max_lines: usize) {
        let mut firsts: Vec<Option<ChunkPlace>> = vec![None; self.cursors.len()];
        let last = |(at, cursor): (usize, &Cursor)| {
            let last = cursor.last();
            (cursor.get(last).number, at, last)
        };
        let mut order: BinaryHeap<(u64, usize, ChunkPlace)> =
            self.cursors.iter().enumerate().map(last).collect();
        let (mut count, mut counted) = (0, None);
        while let Some((number, at, place)) = order.pop() {
            // Output that was read at once may be in two segments.
            if count >= max_lines && counted != Some(number) {
                break;
            }
            counted = Some(number);
            firsts[at] = Some(place);
            let cursor = &self.cursors[at];
            if self.is_wanted(cursor.get(place)) {
                count += cursor.count_lines(place);
                let is_open = place == cursor.last() && cursor.is_open();
                count += usize::from(is_open && !self.complete);
            }
            order.extend(cursor.before(place).map(|it| (cursor.get(it).number, at, it)));
        }
        self.skip = count.saturating_sub(max_lines);
        let mut firsts = firsts.into_iter();
        self.cursors.retain_mut(|cursor| {
            let first = firsts.next().flatten();
            first.inspect(|first| cursor.skip_to(*first)).is_some()
        });
    }

    /// The next piece of output. Lines come in the order in which they ended.
    pub fn next_piece(&mut self) -> Option<Piece<'_>> {
        let (at, step) = self.find_next()?;
        let cursor = &mut self.cursors[at];
        let is_end = match step {
            NextStep::Read => return Some(cursor.read_piece()),
            NextStep::Search => false,
            NextStep::End => true,
        };
        let at = cursor.get(cursor.chunk).at;
        if is_end {
            self.memory -= cursor.memory();
            cursor.segments.clear();
        }
        Some(Piece { name: &cursor.name, at, bytes: &[], is_end })
    }

    /// Finds what the reader does next, and with which cursor.
    fn find_next(&mut self) -> Option<(usize, NextStep)> {
        let mut scanned = 0;
        loop {
            let Some(at) = self.reading else {
                let Reverse((_, at)) = self.order.pop()?;
                self.reading = Some(at);
                scanned += self.begin_chunk(at);
                continue;
            };
            let cursor = &mut self.cursors[at];
            if cursor.line < cursor.until {
                return Some((at, NextStep::Read));
            }
            if cursor.is_last {
                self.reading = None;
                return Some((at, NextStep::End));
            }
            match cursor.after(cursor.chunk) {
                Some(next) => {
                    cursor.chunk = next;
                    self.memory -= cursor.drop_read();
                    self.order.push(Reverse((cursor.number(), at)));
                    self.reading = None;
                }
                None => self.begin_last_line(at),
            }
            if scanned > SCAN_BYTES {
                return Some((at, NextStep::Search));
            }
        }
    }

    /// Begins to read the lines that end in the current chunk. Returns how many bytes were
    /// searched.
    fn begin_chunk(&mut self, at: usize) -> usize {
        let cursor = &self.cursors[at];
        let place = cursor.chunk;
        let scanned = cursor.bytes_of(place).1.len();
        if let Some(end) = cursor.last_line_end(place) {
            let mut line = cursor.line;
            if !self.is_wanted(cursor.get(place)) {
                line = end;
            } else if self.skip > 0 {
                let skipped = self.skip.min(cursor.count_lines(place));
                line = cursor.nth_line_end(place, skipped).unwrap_or(line);
                self.skip -= skipped;
            }
            let cursor = &mut self.cursors[at];
            (cursor.line, cursor.until) = (line, end);
        }
        scanned
    }

    /// Begins to read the last line, which is unfinished.
    fn begin_last_line(&mut self, at: usize) {
        let cursor = &self.cursors[at];
        let end = cursor.end();
        let mut is_wanted = self.is_wanted(cursor.get(cursor.chunk)) && !self.complete;
        if is_wanted && self.skip > 0 && cursor.line < end {
            self.skip -= 1;
            is_wanted = false;
        }
        let cursor = &mut self.cursors[at];
        cursor.is_last = true;
        cursor.until = end;
        if !is_wanted {
            cursor.line = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `NAME LINE`, with a `$` where a process ends.
    fn shown_since(
        recent: &RecentOutput,
        max_lines: usize,
        since: Option<SystemTime>,
    ) -> Vec<String> {
        let max_lines = (max_lines < usize::MAX).then_some(max_lines);
        let range = LineRange { max_lines, since, ..LineRange::default() };
        shown_range(recent, &range)
    }

    fn shown_range(recent: &RecentOutput, range: &LineRange) -> Vec<String> {
        let mut reader = recent.excerpt(|_| true, usize::MAX).unwrap().into_reader(range);
        let mut lines: Vec<String> = Vec::new();
        let mut open: Option<Arc<str>> = None;
        while let Some(piece) = reader.next_piece() {
            let text = String::from_utf8(piece.bytes.to_vec()).unwrap();
            for part in text.split_inclusive('\n') {
                match (open.take(), lines.last_mut()) {
                    // A line that has begun is continued.
                    (Some(name), Some(line)) => {
                        assert_eq!(name, *piece.name);
                        line.push_str(part);
                    }
                    (_, _) => lines.push(format!("{} {part}", piece.name)),
                }
                open = (!part.ends_with('\n')).then(|| Arc::clone(piece.name));
            }
            if piece.is_end {
                open = None;
            }
        }
        assert_eq!(reader.memory(), 0);
        lines
    }

    fn shown(recent: &RecentOutput, max_lines: usize) -> Vec<String> {
        shown_since(recent, max_lines, None)
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
    }

    #[test]
    fn lines_are_read_in_the_order_in_which_they_ended() {
        let mut recent = RecentOutput::new(100);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for (name, text) in [(&a, "one\ntw"), (&b, "three\n"), (&a, "o\nfo")] {
            recent.push(name, SystemTime::UNIX_EPOCH, text.as_bytes());
        }
        assert_eq!(shown(&recent, 9), ["a one\n", "b three\n", "a two\n", "a fo"]);
        assert_eq!(shown(&recent, 2), ["a two\n", "a fo"]);
        let of_b = recent.excerpt(|name| &**name == "b", usize::MAX).unwrap();
        assert_eq!(of_b.last_lines(9, 9), [b"three\n"]);
    }

    #[test]
    fn lines_before_since_are_left_out() {
        let mut recent = RecentOutput::new(100);
        let name: Arc<str> = "a".into();
        recent.push(&name, at(1), b"one\n");
        recent.push(&name, at(2), b"two\n");
        assert_eq!(shown_since(&recent, 9, Some(at(2))), ["a two\n"]);
    }

    #[test]
    fn many_small_writes_take_no_more_memory_than_their_bytes() {
        let mut recent = RecentOutput::new(1 << 10);
        let name: Arc<str> = "a".into();
        for _ in 0..10_000 {
            recent.push(&name, SystemTime::UNIX_EPOCH, b"a");
            recent.push(&name, SystemTime::UNIX_EPOCH, b"\n");
        }
        assert_eq!(shown(&recent, usize::MAX).len(), 512);
        let tail = &recent.tails[&name];
        assert!(tail.chunks <= 65, "{}", tail.chunks);
        let chunks: usize = tail.segments.iter().map(|it| it.chunks.len()).sum();
        assert_eq!(tail.chunks, chunks);
        assert!(!recent.is_open("a"));
    }

    #[test]
    fn later_reader_goes_on_after_the_last_complete_line() {
        let mut recent = RecentOutput::new(16);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut push = |name: &Arc<str>, text: &str| recent.push(name, at(1), text.as_bytes());
        assert_eq!((push(&a, "one\ntw"), push(&b, "x\n")), (0, 0));
        let read = |recent: &RecentOutput, after: &LogCursor| {
            let range =
                LineRange { after: Some(after.clone()), complete: true, ..LineRange::default() };
            let reader = recent.excerpt(|_| true, usize::MAX).unwrap().into_reader(&range);
            let next = LogCursor::new(1, reader.next().iter().cloned());
            (shown_range(recent, &range), reader.missed_bytes(), next)
        };
        let (lines, missed, next) = read(&recent, &LogCursor::new(1, []));
        assert_eq!((lines, missed), (vec!["a one\n".to_owned(), "b x\n".to_owned()], 0));
        assert_eq!(next.to_string(), "1:a=4,b=2");
        recent.push(&a, at(1), b"o\nthree\n");
        let (lines, missed, next) = read(&recent, &next);
        assert_eq!((lines, missed), (vec!["a two\n".to_owned(), "a three\n".to_owned()], 0));
        assert_eq!(read(&recent, &next).0, Vec::<String>::new());
        // What is dropped meanwhile is counted.
        recent.push(&a, at(1), b"0123456789\n");
        recent.push(&a, at(1), b"0123456789\n");
        let (lines, missed, next) = read(&recent, &next);
        assert_eq!((lines, missed), (vec!["a 0123456789\n".to_owned()], 11));
        recent.begin_run(&a);
        recent.push(&a, at(1), b"new\n");
        let range = LineRange { this_run: true, ..LineRange::default() };
        assert_eq!(shown_range(&recent, &range), ["b x\n", "a new\n"]);
        assert_eq!(read(&recent, &next).0, ["a new\n"]);
    }

    #[test]
    fn offsets_are_counted_though_nothing_is_kept() {
        let mut recent = RecentOutput::new(0);
        let name: Arc<str> = "a".into();
        assert_eq!(recent.push(&name, at(1), b"one\n"), 0);
        assert_eq!(recent.push(&name, at(1), b"two\n"), 4);
        assert_eq!(shown(&recent, 9), Vec::<String>::new());
        let after = Some(LogCursor::new(1, [(name, 4)]));
        let range = LineRange { after, complete: true, ..LineRange::default() };
        let reader = recent.excerpt(|_| true, usize::MAX).unwrap().into_reader(&range);
        assert_eq!(reader.missed_bytes(), 4);
    }

    #[test]
    fn excerpt_does_not_change_when_output_follows() {
        let mut recent = RecentOutput::new(1000);
        let name: Arc<str> = "a".into();
        recent.push(&name, at(1), b"one\n");
        let before = recent.excerpt(|_| true, usize::MAX).unwrap();
        for _ in 0..1000 {
            recent.push(&name, at(2), b"another\n");
        }
        assert_eq!(before.last_lines(9, 9), [b"one\n"]);
        let excerpt = recent.excerpt(|_| true, usize::MAX).unwrap();
        assert_eq!(excerpt.last_lines(1, 4), [b"anot"]);
    }

    #[test]
    fn excerpt_and_total_memory_are_limited() {
        let mut recent = RecentOutput::new(4 << 20);
        let names: Vec<Arc<str>> = (0..20).map(|at| format!("a.{at}").into()).collect();
        for name in &names {
            for _ in 0..(4 << 10) {
                recent.push(name, at(1), &[b'x'; 1 << 10]);
            }
        }
        assert!(recent.memory <= MAX_RECENT_MEMORY, "{}", recent.memory);
        let sizes = recent.memory_by_process();
        assert_eq!(recent.memory, sizes.iter().map(|(_, size)| size).sum::<usize>());
        let size = sizes.iter().find(|(name, _)| **name == *names[19]).unwrap().1;
        assert!((4 << 20..5 << 20).contains(&size), "{size}");
        let last = |name: &Arc<str>| *name == names[19];
        assert_eq!(recent.excerpt(last, size - 1).unwrap_err(), size);
        assert!(recent.excerpt(last, size).is_ok());
    }

    proptest! {
        #[test]
        fn end_of_the_output_is_kept(
            pieces in proptest::collection::vec("[a\n]{0,20}", 0..20),
            max_bytes in 1usize..40,
        ) {
            let mut recent = RecentOutput::new(max_bytes);
            let name: Arc<str> = "a".into();
            let text = pieces.concat();
            for piece in &pieces {
                recent.push(&name, SystemTime::UNIX_EPOCH, piece.as_bytes());
            }
            let lines = recent.excerpt(|_| true, usize::MAX).unwrap().last_lines(usize::MAX, 99);
            let kept = lines.concat();
            let end = &text.as_bytes()[text.len().saturating_sub(max_bytes)..];
            // From the first complete line on, or everything if nothing was dropped.
            let whole = if end.len() == text.len() || text.as_bytes()[text.len() - end.len() - 1] == b'\n' {
                end
            } else {
                end.iter().position(|byte| *byte == b'\n').map_or(&[][..], |at| &end[at + 1..])
            };
            prop_assert_eq!(String::from_utf8(kept).unwrap(), String::from_utf8(whole.to_vec()).unwrap());
        }

        /// Compares the reader with a simple list of lines.
        #[test]
        fn reader_returns_the_lines_of_a_simple_list(
            pushes in proptest::collection::vec((0usize..3, "[ab\n]{1,3000}", 0u64..9), 1..60),
            max_lines in prop_oneof![0usize..9, Just(usize::MAX)],
            since in proptest::option::of(0u64..9),
        ) {
            let names: Vec<Arc<str>> = (0..3).map(|at| format!("p{at}").into()).collect();
            let mut recent = RecentOutput::new(1 << 20);
            let mut lines: Vec<(String, u64)> = Vec::new();
            let mut open = vec![(String::new(), 0, 0, 0); 3];
            for (number, (process, text, time)) in pushes.iter().enumerate() {
                recent.push(&names[*process], at(*time), text.as_bytes());
                for part in text.split_inclusive('\n') {
                    open[*process].0.push_str(part);
                    if part.ends_with('\n') {
                        let line = std::mem::take(&mut open[*process].0);
                        lines.push((format!("{} {line}", names[*process]), *time));
                    }
                }
                let line = std::mem::take(&mut open[*process].0);
                open[*process] = (line, *time, lines.len(), number);
            }
            // An unfinished line comes at the place of its last piece.
            let mut unfinished: Vec<_> = open.iter().enumerate().filter(|(_, it)| !it.0.is_empty()).collect();
            unfinished.sort_by_key(|(_, it)| Reverse(it.3));
            for (process, (line, time, place, _)) in unfinished {
                lines.insert(*place, (format!("{} {line}", names[process]), *time));
            }
            lines.retain(|(_, time)| since.is_none_or(|since| *time >= since));
            let first = lines.len().saturating_sub(max_lines);
            let expected: Vec<String> = lines.drain(first..).map(|(line, _)| line).collect();
            prop_assert_eq!(shown_since(&recent, max_lines, since.map(at)), expected);
        }
    }
}
