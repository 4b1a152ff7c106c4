//! The writer: the thread that writes. A slow reader blocks only this thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mio::Waker;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How much is written at once, and how much if the last write was slow. A smaller write shows
/// progress earlier, so that a slow reader does not count as a blocked one.
const MAX_WRITE_BYTES: usize = 64 << 10;
const SLOW_WRITE_BYTES: usize = 4 << 10;
const SLOW_WRITE_AFTER: Duration = Duration::from_millis(100);

/// A batch of output that comes back when it has been written.
struct Batch {
    bytes: Vec<u8>,
    /// The result: if it failed, how many bytes were not written, and the error.
    written: Result<(), (usize, Errno)>,
}

/// A file that a thread writes to, one batch at a time.
pub(super) struct Writer {
    file: Arc<OwnedFd>,
    batches: Sender<Batch>,
    done: Receiver<Batch>,
    /// The buffer that is not being written.
    free_buffer: Option<Vec<u8>>,
    /// How many bytes were written so far; shows whether the thread is blocked.
    progress: Arc<AtomicU64>,
    last_progress: (u64, Instant),
    /// The value of `progress` when the current batch is written.
    progress_when_done: u64,
}

impl Writer {
    /// Starts a thread that writes to `file`, and wakes `waker` after each batch.
    pub(super) fn start(file: BorrowedFd, waker: Arc<Waker>) -> io::Result<Self> {
        let file = Arc::new(file.try_clone_to_owned()?);
        let (batches, receive) = channel::<Batch>();
        let (finished, done) = channel();
        let progress = Arc::new(AtomicU64::new(0));
        let (theirs, count) = (Arc::clone(&file), Arc::clone(&progress));
        std::thread::Builder::new().name("writer".into()).stack_size(64 << 10).spawn(
            move || {
                while let Ok(mut batch) = receive.recv() {
                    batch.written = write_all(theirs.as_fd(), &batch.bytes, &count);
                    if finished.send(batch).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            },
        )?;
        let last_progress = (0, Instant::now());
        Ok(Self {
            file,
            batches,
            done,
            free_buffer: Some(Vec::new()),
            progress,
            last_progress,
            progress_when_done: 0,
        })
    }

    /// Whether no batch is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.free_buffer.is_some()
    }

    /// Starts to write `bytes`, and leaves an empty buffer in their place. Does nothing unless idle.
    pub(super) fn start_batch(&mut self, bytes: &mut Vec<u8>, now: Instant) {
        if let Some(free_buffer) = self.free_buffer.take() {
            let bytes = std::mem::replace(bytes, free_buffer);
            self.last_progress = (self.progress.load(Ordering::Relaxed), now);
            self.progress_when_done = self.last_progress.0 + bytes.len() as u64;
            let _ = self.batches.send(Batch { bytes, written: Ok(()) });
        }
    }

    /// Takes a finished batch, if there is one: its result, which for a failure is how many bytes
    /// were not written, and the error.
    pub(super) fn take_finished(&mut self) -> Option<Result<(), (usize, Errno)>> {
        let mut batch = self.done.try_recv().ok()?;
        batch.bytes.clear();
        self.free_buffer = Some(batch.bytes);
        Some(batch.written)
    }

    /// How many bytes of the current batch are not written yet. A blocked write may have written a
    /// part of them.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        if self.is_idle() {
            0
        } else {
            self.progress_when_done - self.progress.load(Ordering::Relaxed)
        }
    }

    /// Since when the writer is blocked, if it is.
    pub(super) fn blocked_since(&mut self, now: Instant) -> Option<Instant> {
        if self.is_idle() {
            return None;
        }
        let progress = self.progress.load(Ordering::Relaxed);
        if progress != self.last_progress.0 {
            self.last_progress = (progress, now);
        }
        Some(self.last_progress.1)
    }

    /// Writes a few bytes in this thread if that does not block and no batch is being written.
    /// Returns whether they were written.
    pub(super) fn try_write_now(&self, bytes: &[u8]) -> Result<bool, (usize, Errno)> {
        if !self.is_idle() {
            return Ok(false);
        }
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut polled, PollTimeout::ZERO) == Ok(1);
        if !ready || polled[0].revents() != Some(PollFlags::POLLOUT) {
            return Ok(false);
        }
        write_all(self.file.as_fd(), bytes, &self.progress).map(|()| true)
    }
}

/// Writes all of `bytes`, however long that takes. On an error, returns how many are left.
fn write_all(file: BorrowedFd, bytes: &[u8], progress: &AtomicU64) -> Result<(), (usize, Errno)> {
    let mut rest = bytes;
    let mut piece = MAX_WRITE_BYTES;
    while !rest.is_empty() {
        let since = Instant::now();
        match nix::unistd::write(file, &rest[..rest.len().min(piece)]) {
            Ok(written) => {
                if since.elapsed() > SLOW_WRITE_AFTER {
                    piece = SLOW_WRITE_BYTES;
                }
                rest = &rest[written..];
                progress.fetch_add(written as u64, Ordering::Relaxed);
            }
            Err(Errno::EINTR) => {}
            // Another process that shares the file has made it non-blocking.
            Err(Errno::EAGAIN) => {
                let mut polled = [PollFd::new(file, PollFlags::POLLOUT)];
                let _ = poll(&mut polled, PollTimeout::NONE);
            }
            Err(errno) => return Err((rest.len(), errno)),
        }
    }
    Ok(())
}
