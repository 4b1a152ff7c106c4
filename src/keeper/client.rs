//! ganger's handle to its keeper.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};
use nix::unistd::{Pid, getpid};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};

use super::exec::ExecOutcome;
use super::kill::{self, ExistingDescendants, SWEEP_TIMEOUT};
use super::protocol::{Decoder, Descendant, REPLY_TIMEOUT, Report, Request, encode};
use super::queue::{Queue, Queued};
use super::start::StartedKeeper;
use super::{process_table, stale_sessions, wait};

/// [`REPLY_TIMEOUT`] is counted in slices. Time in which ganger itself did not run, because the
/// whole machine was frozen, then counts as one slice at most.
const TIMEOUT_SLICES: u32 = 10;

/// How many starts the keeper may have in its queue. The others stay in the queue here, where
/// a stop overtakes them, and where their descriptors are not held by two processes.
const MAX_PENDING_SPAWNS: u64 = 16;

/// Why the keeper can no longer be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeeperError {
    /// The system could not execute it.
    NotExecuted(Errno),
    /// It has exited.
    Died,
    /// It has made no progress for [`REPLY_TIMEOUT`].
    Unresponsive,
    /// It sent an invalid message.
    Protocol,
}

/// A running keeper.
#[derive(Debug)]
pub struct Keeper {
    stream: UnixStream,
    pid: Pid,
    /// Whether it was executed; none once it has sent something.
    outcome: Option<ExecOutcome>,
    existing: ExistingDescendants,
    decoder: Decoder,
    /// Reports on requests that were never sent.
    reports: VecDeque<Report>,
    queue: Queue<Vec<OwnedFd>>,
    /// The request that is being sent.
    frame: Option<Frame>,
    sent: RequestCounts,
    handled: RequestCounts,
    progress_timer: ProgressTimer,
    /// Descriptors that [`Self::kill_descendants`] closes to have them for itself.
    reserved: Vec<File>,
    /// Whether the keeper has been killed and reaped.
    swept: bool,
}

/// A number of requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct RequestCounts {
    requests: u64,
    spawns: u64,
}

#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    /// The descriptors, one for each of the first bytes.
    files: VecDeque<OwnedFd>,
}

/// Measures how long a busy keeper has made no progress.
#[derive(Debug, Default)]
struct ProgressTimer {
    slices: u32,
    /// When the current slice ends; none while the keeper is idle.
    slice_end: Option<Instant>,
}

impl ProgressTimer {
    /// The keeper is busy: starts the timer if it does not run.
    fn start(&mut self) {
        self.slice_end.get_or_insert_with(|| Instant::now() + REPLY_TIMEOUT / TIMEOUT_SLICES);
    }

    /// The keeper has made progress: starts the timer anew, or stops it if the keeper is not
    /// busy.
    fn restart(&mut self, busy: bool) {
        *self = Self::default();
        if busy {
            self.start();
        }
    }

    /// Waits for the end of the current slice.
    async fn wait_for_slice_end(&self) {
        match self.slice_end {
            Some(slice_end) => sleep_until(slice_end).await,
            None => std::future::pending().await,
        }
    }

    /// A slice has ended: starts the next one. Returns true if the timeout is over.
    fn end_slice(&mut self) -> bool {
        self.slices += 1;
        self.slice_end = None;
        self.start();
        self.slices >= TIMEOUT_SLICES
    }
}

impl Keeper {
    /// A handle to a started keeper. Must be called in a tokio runtime.
    pub fn new(started: StartedKeeper) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::from_std(started.stream)?,
            pid: started.pid,
            outcome: started.outcome,
            existing: started.existing,
            decoder: Decoder::default(),
            reports: VecDeque::new(),
            queue: Queue::default(),
            frame: None,
            sent: RequestCounts::default(),
            handled: RequestCounts::default(),
            progress_timer: ProgressTimer::default(),
            reserved: kill::reserve_descriptors(),
            swept: false,
        })
    }

    /// Sends a request. `files` belong to a [`Request::Spawn`]: the output, and the socket that
    /// the process inherits, if there is one.
    ///
    /// Never blocks: [`Self::next_report`] sends what the socket does not accept now.
    pub fn send_request(&mut self, request: Request, files: Vec<OwnedFd>) {
        if let Queued::Cancelled(id) = self.queue.push(request, files) {
            self.reports.push_back(Report::Cancelled { id });
        }
        self.flush();
        if self.is_busy() {
            self.progress_timer.start();
        }
    }

    fn is_busy(&self) -> bool {
        self.handled != self.sent || self.frame.is_some()
    }

    /// The next report that has already arrived.
    pub fn try_next_report(&mut self) -> Result<Option<Report>, KeeperError> {
        if let Some(report) = self.reports.pop_front() {
            return Ok(Some(report));
        }
        while let Some(report) = self.decoder.take().map_err(|_| KeeperError::Protocol)? {
            let Report::Progress { requests, spawns } = report else { return Ok(Some(report)) };
            self.handled = RequestCounts { requests, spawns };
            self.flush();
            self.progress_timer.restart(self.is_busy());
        }
        Ok(None)
    }

    /// Waits until there is a report.
    pub async fn responds(&self) {
        // An error is that of the next report as well.
        let _ = self.stream.readable().await;
    }

    /// Waits for the next report. Nothing is lost if this is cancelled.
    pub async fn next_report(&mut self) -> Result<Report, KeeperError> {
        loop {
            if let Some(report) = self.try_next_report()? {
                return Ok(report);
            }
            let interest = if self.frame.is_none() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            tokio::select! {
                biased;
                ready = self.stream.ready(interest) => {
                    let ready = ready.map_err(|_| KeeperError::Died)?;
                    if ready.is_writable() {
                        self.flush();
                    }
                    if ready.is_readable() || ready.is_read_closed() {
                        self.read()?;
                    }
                }
                () = self.progress_timer.wait_for_slice_end() => {
                    // A message that arrived during the slice counts as progress.
                    tokio::task::yield_now().await;
                    if !self.read()? && self.progress_timer.end_slice() {
                        return Err(KeeperError::Unresponsive);
                    }
                }
            }
        }
    }

    /// Handles a SIGCHLD. If the keeper was suspended, it now has a request to answer before
    /// the timeout. Other children that have exited are reaped: orphans become children of
    /// ganger if it is the first process of its namespace.
    pub fn handle_sigchld(&mut self) {
        let children = process_table::children(getpid());
        for other in children.into_iter().filter(|pid| *pid != self.pid) {
            wait::reap(other);
        }
        if wait::is_suspended(self.pid) {
            self.send_request(Request::Ping(0), Vec::new());
        }
    }

    /// Kills the keeper and all of its descendants, and returns those that could not be killed.
    #[must_use]
    pub fn kill_descendants(&mut self) -> Vec<Descendant> {
        // Reading /proc takes descriptors, and all others may be in use.
        self.reserved.clear();
        let _ = kill(self.pid, Signal::SIGKILL);
        // It is reaped here, and its process id may be given out again after that.
        self.swept = true;
        let left = kill::kill_all_descendants(&self.existing);
        // A process that entered a namespace and lost its parent there is no descendant.
        stale_sessions::kill_orphans_of(std::slice::from_ref(&self.existing.session));
        left
    }

    /// Ends a keeper that has nothing left to do, and reaps it, even if it is suspended. A
    /// keeper that is stuck in the kernel is not waited for.
    pub fn shut_down(self) {
        if self.swept {
            return;
        }
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
        // It is not reaped yet, so that the process id is still its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        wait::reap_within(self.pid, SWEEP_TIMEOUT);
    }

    /// Reads once from the socket; true if there was something to read.
    fn read(&mut self) -> Result<bool, KeeperError> {
        let mut bytes = [0; 16 << 10];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Err(match self.outcome.take().map(ExecOutcome::wait) {
                Some(Err(error)) => KeeperError::NotExecuted(error.errno),
                Some(Ok(())) | None => KeeperError::Died,
            }),
            Ok(count) => {
                // It is known to be executed, so that this does not wait.
                let _ = self.outcome.take().map(ExecOutcome::wait);
                self.decoder.push(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(KeeperError::Died),
        }
    }

    /// Sends as much as the socket accepts. That the keeper has died is noticed when reading.
    fn flush(&mut self) {
        while let Some(mut frame) = self.next_frame() {
            match frame.send(&self.stream) {
                Ok(()) if frame.sent == frame.bytes.len() => self.frame = None,
                Ok(()) => self.frame = Some(frame),
                Err(error) if error.kind() == ErrorKind::Interrupted => self.frame = Some(frame),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.frame = Some(frame);
                    // This makes the runtime wait until the socket is writable.
                    let _ = self.stream.try_io(Interest::WRITABLE, || Err::<(), _>(error));
                    return;
                }
                Err(_) => return self.queue = Queue::default(),
            }
        }
    }

    /// The frame to send: the one that was sent in part, or the next request.
    fn next_frame(&mut self) -> Option<Frame> {
        self.frame.take().or_else(|| {
            let may_spawn = self.sent.spawns - self.handled.spawns < MAX_PENDING_SPAWNS;
            let (request, files) = self.queue.pop(may_spawn)?;
            self.sent.requests += 1;
            self.sent.spawns += u64::from(matches!(request, Request::Spawn(_)));
            Some(Frame { bytes: encode(&request), sent: 0, files: files.into() })
        })
    }
}

impl Frame {
    fn send(&mut self, stream: &UnixStream) -> io::Result<()> {
        let file = self.files.front().map(|file| [file.as_raw_fd()]);
        let control = file.as_ref().map(|raw| ControlMessage::ScmRights(raw));
        let end = if self.files.len() > 1 { self.sent + 1 } else { self.bytes.len() };
        let rest = [IoSlice::new(&self.bytes[self.sent..end])];
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = sendmsg::<()>(stream.as_raw_fd(), &rest, control.as_slice(), flags, None)?;
        self.sent += sent;
        // The keeper has it now. If it stayed open here, its reader would never see the end.
        self.files.pop_front();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn keeper_that_dies_before_a_request_is_sent_is_reported() {
        let (send, lost) = channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (ours, theirs) = StdStream::pair().unwrap();
                ours.set_nonblocking(true).unwrap();
                let existing = ExistingDescendants::default();
                let started =
                    StartedKeeper { stream: ours, pid: Pid::this(), outcome: None, existing };
                let mut keeper = Keeper::new(started).unwrap();
                // Nothing can be read yet, and the socket is writable.
                let _ = tokio::time::timeout(Duration::from_millis(10), keeper.next_report()).await;
                keeper.stream.writable().await.unwrap();
                drop(theirs);
                keeper.send_request(Request::Ping(0), Vec::new());
                send.send(keeper.next_report().await.err()).unwrap();
            });
        });
        assert_eq!(lost.recv_timeout(Duration::from_secs(20)), Ok(Some(KeeperError::Died)));
    }
}
