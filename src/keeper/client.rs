//! ganger's handle to its keeper.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};

use super::protocol::{Decoder, Member, Report, Request, encode};
use super::start::Started;
use super::{kill, tree, wait};

/// A keeper that owes an answer for longer than this has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no keeper any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lost {
    /// It is gone.
    Died,
    /// It doesn't answer.
    Silent,
    /// It says what it shouldn't.
    Garbled,
}

/// A running keeper.
#[derive(Debug)]
pub struct Keeper {
    stream: UnixStream,
    pid: Pid,
    decoder: Decoder,
    unsent: VecDeque<Frame>,
    asked: u64,
    answered: u64,
    /// Since when it owes an answer without having said anything.
    owing: Option<Instant>,
}

#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    /// One goes with each of the first bytes.
    files: VecDeque<OwnedFd>,
}

impl Keeper {
    /// Takes over a keeper; needs a tokio runtime.
    pub fn new(started: Started) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::from_std(started.stream)?,
            pid: started.pid,
            decoder: Decoder::default(),
            unsent: VecDeque::new(),
            asked: 0,
            answered: 0,
            owing: None,
        })
    }

    /// Asks for something; `files`, the output and perhaps a socket, belong to a
    /// [`Request::Spawn`].
    ///
    /// Never waits: what the socket doesn't take is sent by [`Self::next`].
    pub fn ask(&mut self, request: &Request, files: impl Into<VecDeque<OwnedFd>>) {
        self.asked += 1;
        self.owing.get_or_insert_with(Instant::now);
        self.unsent.push_back(Frame { bytes: encode(request), sent: 0, files: files.into() });
        self.flush();
    }

    /// What the keeper has to say next. Nothing is lost if this is cancelled.
    pub async fn next(&mut self) -> Result<Report, Lost> {
        loop {
            while let Some(report) = self.decoder.take().map_err(|_| Lost::Garbled)? {
                match report {
                    Report::Answered { requests } => self.note_answers(requests),
                    Report::Spawned { .. }
                    | Report::SpawnFailed { .. }
                    | Report::Exited { .. }
                    | Report::Empty { .. }
                    | Report::Strays { .. }
                    | Report::Isolated(_)
                    | Report::Swept { .. } => return Ok(report),
                }
            }
            let interest = if self.unsent.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            tokio::select! {
                biased;
                ready = self.stream.ready(interest) => {
                    let ready = ready.map_err(|_| Lost::Died)?;
                    if ready.is_writable() {
                        self.flush();
                    }
                    if ready.is_readable() || ready.is_read_closed() {
                        self.read()?;
                    }
                }
                () = overdue(self.owing) => {
                    // It may have been this process that stood still: what the
                    // keeper said meanwhile counts. And a program on a disk that
                    // doesn't answer keeps the keeper from answering.
                    tokio::task::yield_now().await;
                    if !self.read()? && !tree::is_held_up(self.pid) {
                        return Err(Lost::Silent);
                    }
                    self.forgive();
                }
            }
        }
    }

    /// Nothing is held against it that is due while ganger itself stood still.
    pub fn forgive(&mut self) {
        self.owing = self.owing.map(|_| Instant::now());
    }

    /// After a SIGCHLD: finds out whether the keeper has been suspended, in which
    /// case it now owes an answer, and waits for strangers that have ended. They
    /// fall to ganger where it is the first process of its namespace.
    pub fn check(&mut self) {
        for stranger in tree::children(getpid()).into_iter().filter(|pid| *pid != self.pid) {
            wait::reap(stranger);
        }
        if wait::is_suspended(self.pid) {
            self.ask(&Request::Ping, []);
        }
    }

    /// Does the keeper's last work where it can't, and returns whom it could not
    /// kill.
    #[must_use]
    pub fn sweep(&self) -> Vec<Member> {
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        kill::sweep()
    }

    /// Takes leave of a keeper that has nothing left to do, and sees it go: also one that
    /// somebody suspends at this very moment.
    pub fn leave(self) {
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
        // Not waited for yet, so the number is still its own.
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }

    fn note_answers(&mut self, requests: u64) {
        self.answered = requests;
        self.owing = (self.answered < self.asked).then(Instant::now);
    }

    /// Whether there was something to read.
    fn read(&mut self) -> Result<bool, Lost> {
        let mut bytes = [0; 16 << 10];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Err(Lost::Died),
            Ok(count) => {
                self.decoder.push(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(Lost::Died),
        }
    }

    /// Sends what the socket takes. A keeper that is gone is missed when reading;
    /// there is nothing to send to it.
    fn flush(&mut self) {
        while let Some(frame) = self.unsent.front_mut() {
            match frame.send(&self.stream) {
                Ok(()) => {
                    if frame.sent == frame.bytes.len() {
                        self.unsent.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Tells the runtime that the socket is to be waited for.
                    let _ = self.stream.try_io(Interest::WRITABLE, || Err::<(), _>(error));
                    return;
                }
                Err(_) => self.unsent.clear(),
            }
        }
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

async fn overdue(owing: Option<Instant>) {
    match owing {
        Some(since) => sleep_until(since + PATIENCE).await,
        None => std::future::pending().await,
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
                let mut keeper = Keeper::new(Started { stream: ours, pid: Pid::this() }).unwrap();
                // There is nothing to read, and everything could be written.
                let _ = tokio::time::timeout(Duration::from_millis(10), keeper.next()).await;
                keeper.stream.writable().await.unwrap();
                drop(theirs);
                keeper.ask(&Request::Ping, []);
                send.send(keeper.next().await.err()).unwrap();
            });
        });
        assert_eq!(lost.recv_timeout(Duration::from_secs(20)), Ok(Some(Lost::Died)));
    }
}
