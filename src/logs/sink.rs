//! A sink for output: a queue before a writer, and what happens when the writer can't write.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Waker;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use super::writer::Writer;
use crate::notice::DiscardReason;

/// No output is read while this much is queued.
const MAX_QUEUE_BYTES: usize = 256 << 10;
/// Up to this size, output is written without waking the writer. A pipe accepts that much as a
/// whole, if it accepts anything (pipe(7), `PIPE_BUF`).
const MAX_INLINE_BYTES: usize = 4096;
/// While ganger is stopping, a reader that is blocked for this time is given up.
const BLOCKED_TIMEOUT: Duration = Duration::from_secs(1);

/// Why output was not written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum WriteError {
    /// The reader has closed the file.
    Closed,
    /// This many bytes were discarded.
    Discarded(u64, DiscardReason),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SinkState {
    Writable,
    /// The system refuses to write for now, for example because the disk is full.
    Refused(Errno),
    /// ganger is stopping and the reader is blocked. This many bytes of the batch are not written
    /// yet, and counted as discarded.
    Blocked(u64),
    /// The reader has closed the file for good.
    Closed,
}

/// A file, and the queue of output for it.
pub(super) struct Sink {
    writer: Writer,
    pending: Vec<u8>,
    /// Whether a small write never blocks when poll(2) reports the file as writable.
    writes_inline: bool,
    terminal: bool,
    regular_file: bool,
    state: SinkState,
    discarded: u64,
}

impl Sink {
    /// A sink that writes to `file`.
    pub(super) fn new(file: BorrowedFd, waker: Arc<Waker>) -> io::Result<Self> {
        let kind = fstat(file).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        Ok(Self {
            writer: Writer::start(file, waker)?,
            pending: Vec::new(),
            writes_inline: matches!(kind, Ok(SFlag::S_IFIFO | SFlag::S_IFREG)),
            terminal: matches!(kind, Ok(SFlag::S_IFCHR)),
            regular_file: matches!(kind, Ok(SFlag::S_IFREG)),
            state: SinkState::Writable,
            discarded: 0,
        })
    }

    /// The queue, to which output is appended.
    pub(super) fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Whether nothing more should be appended for now.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_QUEUE_BYTES
    }

    /// Whether it is a regular file. Only a regular file has no reader that waits for its end.
    pub(super) fn is_regular_file(&self) -> bool {
        self.regular_file
    }

    /// Whether output is being written.
    pub(super) fn is_writable(&self) -> bool {
        self.state == SinkState::Writable
    }

    /// Whether everything was written or given up.
    pub(super) fn is_drained(&self) -> bool {
        match self.state {
            SinkState::Blocked(_) | SinkState::Closed => true,
            SinkState::Writable | SinkState::Refused(_) => {
                self.pending.is_empty() && self.writer.is_idle()
            }
        }
    }

    /// Discards all output from now on, without a message.
    pub(super) fn close(&mut self) {
        self.state = SinkState::Closed;
    }

    /// When [`Self::advance`] is to be called even if nothing happens.
    pub(super) fn deadline(&mut self, stopping: Option<Instant>, now: Instant) -> Option<Instant> {
        let stuck = self.writer.blocked_since(now)?;
        match self.state {
            SinkState::Writable | SinkState::Refused(_) => {
                Some(stopping?.max(stuck) + BLOCKED_TIMEOUT)
            }
            SinkState::Blocked(_) | SinkState::Closed => None,
        }
    }

    /// Writes as much of the queue as is possible without blocking. `stopping` is the time when
    /// ganger began to stop.
    pub(super) fn advance(
        &mut self,
        stopping: Option<Instant>,
        now: Instant,
    ) -> Option<WriteError> {
        let back = self.writer.take_finished();
        let mut error = back.and_then(|written| self.record_result(written));
        if self.deadline(stopping, now).is_some_and(|deadline| deadline <= now) {
            let unwritten = self.writer.unwritten_bytes();
            self.discarded += unwritten;
            self.state = SinkState::Blocked(unwritten);
        }
        match self.state {
            SinkState::Closed => self.pending.clear(),
            SinkState::Blocked(_) => {
                self.discarded += self.pending.len() as u64;
                self.pending.clear();
            }
            SinkState::Writable | SinkState::Refused(_) if self.pending.is_empty() => {}
            SinkState::Writable | SinkState::Refused(_) => {
                let writes_inline = self.writes_inline && self.pending.len() <= MAX_INLINE_BYTES;
                match if writes_inline {
                    self.writer.try_write_now(&self.pending)
                } else {
                    Ok(false)
                } {
                    Ok(true) => self.pending.clear(),
                    Ok(false) => self.writer.start_batch(&mut self.pending, now),
                    Err(failed) => {
                        self.pending.clear();
                        error = error.or(self.record_result(Err(failed)));
                    }
                }
            }
        }
        error
    }

    /// The discarded bytes that were not reported yet.
    pub(super) fn take_discarded(&mut self) -> Option<WriteError> {
        let why = match self.state {
            SinkState::Refused(errno) => DiscardReason::WriteFailed(errno.desc().to_owned()),
            SinkState::Blocked(_) | SinkState::Writable => DiscardReason::Blocked,
            SinkState::Closed => return None,
        };
        let bytes = std::mem::take(&mut self.discarded);
        (bytes > 0).then_some(WriteError::Discarded(bytes, why))
    }

    /// Whether this error means that the reader has closed the file.
    fn means_closed(&self, errno: Errno) -> bool {
        match errno {
            Errno::EPIPE | Errno::ENXIO | Errno::ECONNRESET => true,
            // A terminal that was closed. For a file, this is a failing disk.
            Errno::EIO => self.terminal,
            _ => false,
        }
    }

    fn record_result(&mut self, written: Result<(), (usize, Errno)>) -> Option<WriteError> {
        if let SinkState::Blocked(unwritten) = self.state {
            // The result of the batch is known now, so its bytes are not counted twice.
            self.discarded = self.discarded.saturating_sub(unwritten);
        }
        match (self.state, written) {
            (SinkState::Writable, Ok(())) | (SinkState::Closed, _) => None,
            (SinkState::Refused(_) | SinkState::Blocked(_), Ok(())) => {
                let error = self.take_discarded();
                self.state = SinkState::Writable;
                error
            }
            (_, Err((_, errno))) if self.means_closed(errno) => {
                self.state = SinkState::Closed;
                Some(WriteError::Closed)
            }
            (before, Err((lost, errno))) => {
                self.discarded += lost as u64;
                self.state = SinkState::Refused(errno);
                // Reported when it begins, and again with the sum when it ends.
                if before == SinkState::Writable { self.take_discarded() } else { None }
            }
        }
    }
}
