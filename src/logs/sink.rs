//! Where output goes: a queue before a writer, and what to do when the writer
//! can't write.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Waker;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use super::writer::Writer;
use crate::notice::DiscardReason;

/// Nothing more is read while so much waits to be written.
const MAX_QUEUE_BYTES: usize = 256 << 10;
/// So little is written without waking the writer; a pipe takes that much
/// whole, if it takes anything (pipe(7), `PIPE_BUF`).
const MAX_INLINE_BYTES: usize = 4096;
/// Who reads nothing for so long while ganger is stopping reads no more.
const BLOCKED_TIMEOUT: Duration = Duration::from_secs(1);

/// Something that can't be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum WriteError {
    /// Nobody reads it any more.
    Closed,
    /// So many bytes are lost.
    Discarded(u64, DiscardReason),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SinkState {
    Writable,
    /// The system takes no more for now: the disk is full.
    Refused(Errno),
    /// ganger is stopping, and nobody reads. So much is under way, and counted
    /// as lost.
    Blocked(u64),
    /// Nobody will ever read again.
    Closed,
}

/// A file and the queue before it.
pub(super) struct Sink {
    writer: Writer,
    pending: Vec<u8>,
    /// Whether writing a little never waits once the file says that it is ready.
    writes_inline: bool,
    terminal: bool,
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
            state: SinkState::Writable,
            discarded: 0,
        })
    }

    /// Where to append what is to be written.
    pub(super) fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Whether nothing more should be appended for now.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_QUEUE_BYTES
    }

    /// Whether it is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether it takes what it is given.
    pub(super) fn is_writable(&self) -> bool {
        self.state == SinkState::Writable
    }

    /// Whether everything has been written or given up.
    pub(super) fn is_drained(&self) -> bool {
        match self.state {
            SinkState::Blocked(_) | SinkState::Closed => true,
            SinkState::Writable | SinkState::Refused(_) => {
                self.pending.is_empty() && self.writer.is_idle()
            }
        }
    }

    /// Nobody reads: what comes is dropped without a word.
    pub(super) fn close(&mut self) {
        self.state = SinkState::Closed;
    }

    /// When [`Self::advance`] has something to do though nothing happens.
    pub(super) fn deadline(&mut self, stopping: Option<Instant>, now: Instant) -> Option<Instant> {
        let stuck = self.writer.blocked_since(now)?;
        match self.state {
            SinkState::Writable | SinkState::Refused(_) => {
                Some(stopping?.max(stuck) + BLOCKED_TIMEOUT)
            }
            SinkState::Blocked(_) | SinkState::Closed => None,
        }
    }

    /// Moves the queue on as far as that goes without waiting. `stopping`: since
    /// when ganger is.
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

    /// What was dropped and not yet told.
    pub(super) fn take_discarded(&mut self) -> Option<WriteError> {
        let why = match self.state {
            SinkState::Refused(errno) => DiscardReason::WriteFailed(errno.desc().to_owned()),
            SinkState::Blocked(_) | SinkState::Writable => DiscardReason::Blocked,
            SinkState::Closed => return None,
        };
        let bytes = std::mem::take(&mut self.discarded);
        (bytes > 0).then_some(WriteError::Discarded(bytes, why))
    }

    /// Whether nobody will read any more.
    fn means_closed(&self, errno: Errno) -> bool {
        match errno {
            Errno::EPIPE | Errno::ENXIO | Errno::ECONNRESET => true,
            // A terminal that has hung up; of a file, it is a disk that fails.
            Errno::EIO => self.terminal,
            _ => false,
        }
    }

    fn record_result(&mut self, written: Result<(), (usize, Errno)>) -> Option<WriteError> {
        if let SinkState::Blocked(unwritten) = self.state {
            // Now it is known what became of it.
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
                // Said when it begins, and again with all of it when it ends.
                if before == SinkState::Writable { self.take_discarded() } else { None }
            }
        }
    }
}
