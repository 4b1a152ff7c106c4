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
use crate::notice::Discarded;

/// Nothing more is read while so much waits to be written.
const LIMIT: usize = 256 << 10;
/// So little is written without waking the writer; a pipe takes that much
/// whole, if it takes anything (pipe(7), `PIPE_BUF`).
const LITTLE: usize = 4096;
/// Who reads nothing for so long while ganger is stopping reads no more.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Something that can't be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Trouble {
    /// Nobody reads it any more.
    Closed,
    /// So many bytes are lost.
    Discarded(u64, Discarded),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Health {
    Good,
    /// The system takes no more for now: the disk is full.
    Refused(Errno),
    /// ganger is stopping, and nobody reads. So much is under way, and counted
    /// as lost.
    Stuck(u64),
    /// Nobody will ever read again.
    Closed,
}

/// A file and the queue before it.
pub(super) struct Sink {
    writer: Writer,
    pending: Vec<u8>,
    /// Whether writing a little never waits once the file says that it is ready.
    inline: bool,
    terminal: bool,
    health: Health,
    discarded: u64,
}

impl Sink {
    /// A sink that writes to `file`.
    pub(super) fn new(file: BorrowedFd, waker: Arc<Waker>) -> io::Result<Self> {
        let kind = fstat(file).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        Ok(Self {
            writer: Writer::start(file, waker)?,
            pending: Vec::new(),
            inline: matches!(kind, Ok(SFlag::S_IFIFO | SFlag::S_IFREG)),
            terminal: matches!(kind, Ok(SFlag::S_IFCHR)),
            health: Health::Good,
            discarded: 0,
        })
    }

    /// Where to append what is to be written.
    pub(super) fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Whether nothing more should be appended for now.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= LIMIT
    }

    /// Whether it is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether it takes what it is given.
    pub(super) fn is_good(&self) -> bool {
        self.health == Health::Good
    }

    /// Whether everything has been written or given up.
    pub(super) fn is_drained(&self) -> bool {
        match self.health {
            Health::Stuck(_) | Health::Closed => true,
            Health::Good | Health::Refused(_) => self.pending.is_empty() && self.writer.is_idle(),
        }
    }

    /// Nobody reads: what comes is dropped without a word.
    pub(super) fn close(&mut self) {
        self.health = Health::Closed;
    }

    /// When [`Self::advance`] has something to do though nothing happens.
    pub(super) fn deadline(&mut self, stopping: Option<Instant>, now: Instant) -> Option<Instant> {
        let stuck = self.writer.stuck_since(now)?;
        match self.health {
            Health::Good | Health::Refused(_) => Some(stopping?.max(stuck) + STUCK_AFTER),
            Health::Stuck(_) | Health::Closed => None,
        }
    }

    /// Moves the queue on as far as that goes without waiting. `stopping`: since
    /// when ganger is.
    pub(super) fn advance(&mut self, stopping: Option<Instant>, now: Instant) -> Option<Trouble> {
        let back = self.writer.take_back();
        let mut trouble = back.and_then(|written| self.note(written));
        if self.deadline(stopping, now).is_some_and(|deadline| deadline <= now) {
            let under_way = self.writer.under_way();
            self.discarded += under_way;
            self.health = Health::Stuck(under_way);
        }
        match self.health {
            Health::Closed => self.pending.clear(),
            Health::Stuck(_) => {
                self.discarded += self.pending.len() as u64;
                self.pending.clear();
            }
            Health::Good | Health::Refused(_) if self.pending.is_empty() => {}
            Health::Good | Health::Refused(_) => {
                let inline = self.inline && self.pending.len() <= LITTLE;
                match if inline { self.writer.write_now(&self.pending) } else { Ok(false) } {
                    Ok(true) => self.pending.clear(),
                    Ok(false) => self.writer.hand_over(&mut self.pending, now),
                    Err(failed) => {
                        self.pending.clear();
                        trouble = trouble.or(self.note(Err(failed)));
                    }
                }
            }
        }
        trouble
    }

    /// What was dropped and not yet told.
    pub(super) fn take_discarded(&mut self) -> Option<Trouble> {
        let why = match self.health {
            Health::Refused(errno) => Discarded::Refused(errno.desc().to_owned()),
            Health::Stuck(_) | Health::Good => Discarded::Blocked,
            Health::Closed => return None,
        };
        let bytes = std::mem::take(&mut self.discarded);
        (bytes > 0).then_some(Trouble::Discarded(bytes, why))
    }

    /// Whether nobody will read any more.
    fn is_end(&self, errno: Errno) -> bool {
        match errno {
            Errno::EPIPE | Errno::ENXIO | Errno::ECONNRESET => true,
            // A terminal that has hung up; of a file, it is a disk that fails.
            Errno::EIO => self.terminal,
            _ => false,
        }
    }

    fn note(&mut self, written: Result<(), (usize, Errno)>) -> Option<Trouble> {
        if let Health::Stuck(under_way) = self.health {
            // Now it is known what became of it.
            self.discarded = self.discarded.saturating_sub(under_way);
        }
        match (self.health, written) {
            (Health::Good, Ok(())) | (Health::Closed, _) => None,
            (Health::Refused(_) | Health::Stuck(_), Ok(())) => {
                let trouble = self.take_discarded();
                self.health = Health::Good;
                trouble
            }
            (_, Err((_, errno))) if self.is_end(errno) => {
                self.health = Health::Closed;
                Some(Trouble::Closed)
            }
            (before, Err((lost, errno))) => {
                self.discarded += lost as u64;
                self.health = Health::Refused(errno);
                // Said when it begins, and again with all of it when it ends.
                if before == Health::Good { self.take_discarded() } else { None }
            }
        }
    }
}
