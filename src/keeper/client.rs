//! ganger's handle to its keeper.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};
use nix::unistd::{Pid, getpid};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};

use super::kill::{self, ExistingDescendants, SWEEP_TIMEOUT};
use super::protocol::{Decoder, Descendant, Report, Request, encode};
use super::queue::{Queue, Queued};
use super::start::StartedKeeper;
use super::{process_table, stale_sessions, wait};

/// A keeper that makes no progress for so long has failed.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// It is counted in slices, so that time in which ganger itself did not run, because
/// everything was frozen, counts for no more than one of them.
const TIMEOUT_SLICES: u32 = 10;

/// Starts that the keeper may have before it at once. The others wait here, where a
/// stop overtakes them, and their descriptors are not held twice.
const MAX_PENDING_SPAWNS: u64 = 16;

/// Why there is no keeper any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeeperError {
    /// It is gone.
    Died,
    /// It makes no progress.
    Unresponsive,
    /// It sent something that is no report.
    Protocol,
}

/// A running keeper.
#[derive(Debug)]
pub struct Keeper {
    stream: UnixStream,
    pid: Pid,
    existing: ExistingDescendants,
    decoder: Decoder,
    /// What happened to a request before it was sent.
    reports: VecDeque<Report>,
    queue: Queue<Vec<OwnedFd>>,
    /// What is being sent.
    frame: Option<Frame>,
    sent: RequestCounts,
    handled: RequestCounts,
    progress_timer: ProgressTimer,
    /// Descriptors for the sweep.
    reserved: Vec<File>,
    /// Whether it has been waited for.
    swept: bool,
}

/// Requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct RequestCounts {
    requests: u64,
    spawns: u64,
}

#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    /// One goes with each of the first bytes.
    files: VecDeque<OwnedFd>,
}

/// For how long a keeper that has something to do has made no progress.
#[derive(Debug, Default)]
struct ProgressTimer {
    slices: u32,
    /// When the present slice ends; none while the keeper has nothing to do.
    slice_end: Option<Instant>,
}

impl ProgressTimer {
    /// The keeper has something to do, or still has.
    fn start(&mut self) {
        self.slice_end.get_or_insert_with(|| Instant::now() + REPLY_TIMEOUT / TIMEOUT_SLICES);
    }

    /// It has made progress, and has something to do still or not.
    fn restart(&mut self, busy: bool) {
        *self = Self::default();
        if busy {
            self.start();
        }
    }

    /// Waits for the end of the present slice.
    async fn wait_for_slice_end(&self) {
        match self.slice_end {
            Some(slice_end) => sleep_until(slice_end).await,
            None => std::future::pending().await,
        }
    }

    /// A slice has ended. True if it was the last one.
    fn end_slice(&mut self) -> bool {
        self.slices += 1;
        self.slice_end = None;
        self.start();
        self.slices >= TIMEOUT_SLICES
    }
}

impl Keeper {
    /// Takes over a keeper; needs a tokio runtime.
    pub fn new(started: StartedKeeper) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::from_std(started.stream)?,
            pid: started.pid,
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

    /// Asks for something; `files`, the output and perhaps a socket, belong to a
    /// [`Request::Spawn`].
    ///
    /// Never waits: what the socket doesn't take is sent by [`Self::next_report`].
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

    /// The next report that is there already.
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

    /// The next report. Nothing is lost if this is cancelled.
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
                    // What it sent meanwhile counts.
                    tokio::task::yield_now().await;
                    if !self.read()? && self.progress_timer.end_slice() {
                        return Err(KeeperError::Unresponsive);
                    }
                }
            }
        }
    }

    /// After a SIGCHLD: finds out whether the keeper has been suspended, in which
    /// case it now owes an answer, and waits for other children that have ended. They
    /// fall to ganger where it is the first process of its namespace.
    pub fn handle_sigchld(&mut self) {
        let children = process_table::children(getpid());
        for other in children.into_iter().filter(|pid| *pid != self.pid) {
            wait::reap(other);
        }
        if wait::is_suspended(self.pid) {
            self.send_request(Request::Ping(0), Vec::new());
        }
    }

    /// Does the keeper's last work where it can't, and returns what it could not
    /// kill.
    #[must_use]
    pub fn kill_descendants(&mut self) -> Vec<Descendant> {
        // What reads /proc needs some, however many others are taken.
        self.reserved.clear();
        let _ = kill(self.pid, Signal::SIGKILL);
        // The sweep waits for it, and its process id may be given out again then.
        self.swept = true;
        let left = kill::kill_all_descendants(&self.existing);
        // What fell to the first process of a namespace that it had entered.
        stale_sessions::kill_orphans_of(std::slice::from_ref(&self.existing.session));
        left
    }

    /// Ends a keeper that has nothing left to do, and sees it go: also one that is
    /// suspended at this very moment, but none that is stuck in the system for ever.
    pub fn shut_down(self) {
        if self.swept {
            return;
        }
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
        // Not waited for yet, so the number is still its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        wait::reap_within(self.pid, SWEEP_TIMEOUT);
    }

    /// Whether there was something to read.
    fn read(&mut self) -> Result<bool, KeeperError> {
        let mut bytes = [0; 16 << 10];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Err(KeeperError::Died),
            Ok(count) => {
                self.decoder.push(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(KeeperError::Died),
        }
    }

    /// Sends what the socket takes. A keeper that is gone is missed when reading;
    /// there is nothing to send to it.
    fn flush(&mut self) {
        while let Some(mut frame) = self.next_frame() {
            match frame.send(&self.stream) {
                Ok(()) if frame.sent == frame.bytes.len() => self.frame = None,
                Ok(()) => self.frame = Some(frame),
                Err(error) if error.kind() == ErrorKind::Interrupted => self.frame = Some(frame),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.frame = Some(frame);
                    // Tells the runtime that the socket is to be waited for.
                    let _ = self.stream.try_io(Interest::WRITABLE, || Err::<(), _>(error));
                    return;
                }
                Err(_) => return self.queue = Queue::default(),
            }
        }
    }

    /// What is to be sent now: a frame that was begun, or the next request.
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
        // The keeper has it now; as long as it is open here, it never ends.
        self.files.pop_front();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_keeper_that_goes_with_something_still_to_be_sent_is_missed() {
        let (send, lost) = channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (ours, theirs) = StdStream::pair().unwrap();
                ours.set_nonblocking(true).unwrap();
                let existing = ExistingDescendants::default();
                let started = StartedKeeper { stream: ours, pid: Pid::this(), existing };
                let mut keeper = Keeper::new(started).unwrap();
                // There is nothing to read, and everything could be written.
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
