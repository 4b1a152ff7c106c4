//! The event loop of the keeper.
//!
//! The keeper has one thread, so that its children die with it (`PR_SET_PDEATHSIG` follows the
//! thread that started them). It waits for requests and for the exit of children. When ganger
//! dies, the socket is closed, and the keeper kills all that is left.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

use super::children::{Children, SignalRequest, StopRequest};
use super::exec::FileLimits;
use super::isolation::Isolation;
use super::kill::ExistingDescendants;
use super::protocol::{Decoder, Report, Request, SpawnRequest, SpawnStep, encode};
use super::queue::{Queue, Queued};
use super::spawn::{SilentPipe, SpawnContext, wake_on_sigchld};
use super::{ISOLATE, kill, process_table, stale_sessions};

/// The interval of checks for changes that the system does not report.
const CHECK_INTERVAL: Duration = Duration::from_millis(25);
/// After a check, the next one waits at least this many times as long as the check took.
const CHECK_PAUSE_FACTOR: u32 = 2;
/// How many requests are handled before progress is reported.
const MAX_BATCH: usize = 256;

/// How much is read from the socket at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Runs the keeper; its standard input is the socket to ganger.
///
/// Returns when ganger is gone and no process is left, or on a system error at the start.
pub fn run() -> nix::Result<()> {
    let (socket, limits) = set_up_process()?;
    let (isolation, unsent) = match is_isolation_requested().then(Isolation::enter) {
        None => (None, Vec::new()),
        Some(Ok(isolation)) => (Some(isolation), encode(&Report::Isolated(Ok(())))),
        Some(Err(forbidden)) => {
            // ganger exits when it reads this.
            let _ = (&socket).write_all(&encode(&Report::Isolated(Err(forbidden))));
            kill::kill_all_descendants(&ExistingDescendants::default());
            return Ok(());
        }
    };
    let context = SpawnContext { limits, isolation, silent_stdin: SilentPipe::new()? };
    let mut server = Server {
        socket,
        decoder: Decoder::default(),
        buffer: vec![0; BUFFER_BYTES],
        files: VecDeque::new(),
        queue: Queue::default(),
        unsent,
        handled: Handled::default(),
        children: Children::new(context),
        reserved: kill::reserve_descriptors(),
        next_check: None,
        earliest_check: Instant::now(),
    };
    let Disconnected = server.serve();
    server.reserved.clear();
    server.children.kill_all();
    // A process that entered a namespace and lost its parent there is no descendant.
    stale_sessions::kill_orphans_of(&[server.children.session().to_owned()]);
    Ok(())
}

fn is_isolation_requested() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == ISOLATE)
}

/// Sets up this process as a keeper, whose output is `/dev/null`. Returns the socket to ganger and the limits of open files
/// that children get.
fn set_up_process() -> nix::Result<(UnixStream, FileLimits)> {
    // Outside of the terminal's session, the keeper gets no signal from the terminal.
    nix::unistd::setsid()?;
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_child_subreaper(true)?;
        nix::sys::prctl::set_name(c"keeper")?;
    }
    for ignored in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
        Signal::SIGTSTP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        #[expect(unsafe_code, reason = "nix has no other way to ignore a signal")]
        // SAFETY: no handler is installed.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGCHLD);
    blocked.thread_set_mask()?;
    wake_on_sigchld()?;
    close_on_exec();
    let stdin = std::io::stdin();
    let raw = fcntl(&stdin, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    #[expect(unsafe_code, reason = "fcntl returns a bare number")]
    // SAFETY: the descriptor was just returned to us.
    let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(raw) });
    socket.set_nonblocking(true).map_err(|_| Errno::EBADF)?;
    nix::unistd::dup2_stdin(std::io::stdout())?;
    let limits = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Each start takes a few descriptors for a moment. If the limit stays, a start may fail,
    // which is reported.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, limits.1, limits.1);
    Ok((socket, limits))
}

/// Marks all descriptors that ganger inherited, so that no child inherits them.
fn close_on_exec() {
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "nix has no close_range")]
        // SAFETY: close_range(2) takes three numbers, and closes nothing with this flag.
        let done = unsafe {
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
        };
        if done == 0 {
            return;
        }
    }
    let last = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft.min(65536));
    for raw in 3..i32::try_from(last).unwrap_or(1024) {
        #[expect(unsafe_code, reason = "the open descriptors are not known")]
        // SAFETY: a flag is set on a descriptor, or the number is refused.
        unsafe {
            libc::fcntl(raw, libc::F_SETFD, FdFlag::FD_CLOEXEC.bits())
        };
    }
}

/// ganger is gone, or has sent an invalid message.
struct Disconnected;

struct Server {
    socket: UnixStream,
    decoder: Decoder,
    /// For what is read.
    buffer: Vec<u8>,
    /// Descriptors whose request is still to be read; `None` for one that the system dropped.
    files: VecDeque<Option<OwnedFd>>,
    /// Requests that are not handled yet.
    queue: Queue<Vec<Option<OwnedFd>>>,
    /// Reports that the socket has not accepted yet.
    unsent: Vec<u8>,
    handled: Handled,
    children: Children,
    /// Descriptors that are closed before a sweep, which needs them.
    reserved: Vec<File>,
    next_check: Option<Instant>,
    /// No check before this time, however many children exit. One check finds all that exit
    /// meanwhile, and its cost grows with the number of all children.
    earliest_check: Instant,
}

/// How many requests have been handled.
#[derive(Clone, Copy, Default)]
struct Handled {
    requests: u64,
    spawns: u64,
}

/// The reasons why a wait ended.
struct Wakeup {
    socket: bool,
    child_exited: bool,
    /// Leaders for which it is known whether their program was executed.
    started: Vec<Pid>,
}

impl Server {
    fn serve(&mut self) -> Disconnected {
        loop {
            if let Err(disconnected) = self.run_once() {
                return disconnected;
            }
        }
    }

    /// Waits until there is something to do, and does it: reports what has happened, then
    /// handles a request.
    fn run_once(&mut self) -> Result<(), Disconnected> {
        let wakeup = self.wait().map_err(|_| Disconnected)?;
        if wakeup.socket {
            self.flush()?;
            self.read()?;
        }
        let mut reports = Vec::new();
        for leader in wakeup.started {
            self.children.finish_start(leader, &mut reports);
        }
        let now = Instant::now();
        self.children.report_slow_starts(now, &mut reports);
        self.report(&reports)?;
        if wakeup.child_exited {
            self.schedule_check();
        }
        if self.next_check.is_some_and(|at| at <= now) {
            self.check_children()?;
        }
        self.serve_next()
    }

    /// Waits for the socket, the outcome of a start, the exit of a child, or the time of the
    /// next check.
    fn wait(&self) -> nix::Result<Wakeup> {
        let mut interest = PollFlags::POLLIN;
        if !self.unsent.is_empty() {
            interest |= PollFlags::POLLOUT;
        }
        let (leaders, outcomes): (Vec<Pid>, Vec<_>) = self.children.exec_outcomes().unzip();
        let mut polled = vec![PollFd::new(self.socket.as_fd(), interest)];
        polled.extend(outcomes.into_iter().map(|file| PollFd::new(file, PollFlags::POLLIN)));
        let child_exited = match poll(&mut polled, self.timeout(Instant::now())) {
            Ok(_) => false,
            Err(Errno::EINTR) => true,
            Err(errno) => return Err(errno),
        };
        let is_ready = |polled: &PollFd| !child_exited && polled.any() == Some(true);
        let started = leaders.into_iter().zip(&polled[1..]);
        let started = started.filter(|(_, polled)| is_ready(polled)).map(|(leader, _)| leader);
        Ok(Wakeup { socket: is_ready(&polled[0]), child_exited, started: started.collect() })
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.queue.has_next(!self.children.is_suspended()) {
            return Some(Duration::ZERO);
        }
        let next = self.next_check.into_iter().chain(self.children.next_start_timeout()).min();
        next.map(|at| at.saturating_duration_since(now))
    }

    fn schedule_check(&mut self) {
        let earliest = self.earliest_check;
        self.next_check = Some(self.next_check.map_or(earliest, |at| at.min(earliest)));
    }

    fn check_children(&mut self) -> Result<(), Disconnected> {
        let began = Instant::now();
        let mut reports = Vec::new();
        if !process_table::can_read_proc() {
            // No descriptor is free. A process that can't be read must not count as gone.
            self.next_check = Some(began + CHECK_INTERVAL);
            return Ok(());
        }
        self.children.check(&mut reports);
        let now = Instant::now();
        self.earliest_check = now + (now - began) * CHECK_PAUSE_FACTOR;
        let next = (now + CHECK_INTERVAL).max(self.earliest_check);
        self.next_check = self.children.needs_polling().then_some(next);
        self.report(&reports)?;
        if self.children.is_namespace_alive() { Ok(()) } else { Err(Disconnected) }
    }

    fn report(&mut self, reports: &[Report]) -> Result<(), Disconnected> {
        for report in reports {
            self.unsent.extend(encode(report));
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Disconnected> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => break,
                    std::io::ErrorKind::Interrupted => {}
                    _ => return Err(Disconnected),
                },
            }
        }
        Ok(())
    }

    /// Queues all requests that have arrived. A stop cancels a start that is still queued.
    fn read(&mut self) -> Result<(), Disconnected> {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.receive(&mut buffer);
            self.buffer = buffer;
            let count = received?;
            if count == 0 {
                return Ok(());
            }
            self.decoder.push(&self.buffer[..count]);
            while let Some(request) = self.decoder.take().map_err(|_| Disconnected)? {
                let files = match &request {
                    Request::Spawn(spawn) => {
                        let expected = 1 + usize::from(spawn.listener.is_some());
                        (0..expected).map(|_| self.files.pop_front().flatten()).collect()
                    }
                    Request::Signal { .. }
                    | Request::Stop { .. }
                    | Request::StopOrphans
                    | Request::Sweep
                    | Request::Suspend
                    | Request::Resume
                    | Request::Ping(_) => Vec::new(),
                };
                self.queue_request(request, files)?;
            }
        }
    }

    fn queue_request(
        &mut self,
        request: Request,
        files: Vec<Option<OwnedFd>>,
    ) -> Result<(), Disconnected> {
        let before = self.queue.len();
        let queued = self.queue.push(request, files);
        let merged = (before + 1 - self.queue.len()) as u64;
        match queued {
            Queued::Waiting => self.report_progress(merged, 0),
            Queued::Cancelled(id) => {
                self.report(&[Report::Cancelled { id }])?;
                self.report_progress(merged, 1)
            }
        }
    }

    fn report_progress(&mut self, requests: u64, spawns: u64) -> Result<(), Disconnected> {
        if requests == 0 {
            return Ok(());
        }
        self.handled.requests += requests;
        self.handled.spawns += spawns;
        let Handled { requests, spawns } = self.handled;
        self.report(&[Report::Progress { requests, spawns }])
    }

    /// Reads from the socket, with at most one descriptor: a read ends before the byte to which
    /// the next one is attached.
    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Disconnected> {
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut into = [IoSliceMut::new(into)];
        let flags = MsgFlags::empty();
        let received =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut space), flags) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
                Err(_) => return Err(Disconnected),
            };
        if received.bytes == 0 {
            return Err(Disconnected);
        }
        if received.flags.contains(MsgFlags::MSG_CTRUNC) {
            // The system had no free descriptor for it.
            self.files.push_back(None);
            return Ok(received.bytes);
        }
        for message in received.cmsgs().map_err(|_| Disconnected)? {
            if let ControlMessageOwned::ScmRights(descriptors) = message {
                for raw in descriptors {
                    #[expect(unsafe_code, reason = "recvmsg returns bare numbers")]
                    // SAFETY: the descriptor was just made for us by the kernel.
                    let file = unsafe { OwnedFd::from_raw_fd(raw) };
                    // The keeper has one thread, so no program is executed before this.
                    let _ = fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
                    self.files.push_back(Some(file));
                }
            }
        }
        Ok(received.bytes)
    }

    /// Handles the next request. Stops that follow each other are handled together, and so are
    /// signals, because one walk over all processes serves them all.
    fn serve_next(&mut self) -> Result<(), Disconnected> {
        let stops = self.queue.pop_batch(MAX_BATCH, |request| match request {
            Request::Stop { id, signal, scope } => {
                Some(StopRequest { id: *id, signal: *signal, scope: *scope })
            }
            _ => None,
        });
        if !stops.is_empty() {
            self.children.stop(&stops);
            self.schedule_check();
            return self.report_progress(stops.len() as u64, 0);
        }
        let signals = self.queue.pop_batch(MAX_BATCH, |request| match request {
            Request::Signal { id, signal } => Some(SignalRequest { id: *id, signal: *signal }),
            _ => None,
        });
        if !signals.is_empty() {
            self.children.signal(&signals);
            return self.report_progress(signals.len() as u64, 0);
        }
        let may_spawn = !self.children.is_suspended();
        let Some((request, files)) = self.queue.pop(may_spawn) else { return Ok(()) };
        let mut spawns = 0;
        match request {
            Request::Spawn(spawn) => {
                spawns = 1;
                let report = self.spawn(&spawn, files);
                self.report(report.as_slice())?;
            }
            Request::StopOrphans => {
                self.children.start_stopping_orphans();
                self.check_children()?;
            }
            Request::Sweep => {
                self.reserved.clear();
                let left = self.children.kill_all();
                self.report(&[Report::Swept { left }])?;
            }
            Request::Suspend => {
                self.children.suspend();
                self.report(&[Report::Suspended])?;
            }
            Request::Resume => self.children.resume(),
            Request::Ping(number) => {
                self.check_children()?;
                self.report(&[Report::Pong(number)])?;
            }
            Request::Stop { .. } | Request::Signal { .. } => {
                unreachable!("these are served in batches")
            }
        }
        self.report_progress(1, spawns)
    }

    fn spawn(&mut self, spawn: &SpawnRequest, files: Vec<Option<OwnedFd>>) -> Option<Report> {
        // The system drops a descriptor if the keeper has no free one.
        let files: Option<Vec<OwnedFd>> = files.into_iter().collect();
        let files = files.unwrap_or_default();
        match files.first() {
            Some(output) => self.children.spawn(spawn, output, files.get(1)),
            None => {
                let errno = Errno::EMFILE as i32;
                Some(Report::SpawnFailed { id: spawn.id, step: SpawnStep::Fork, errno })
            }
        }
    }
}

/// Waits for one of the files, for the timeout, or for a signal (EINTR). SIGCHLD is delivered
/// only here.
#[cfg(target_os = "linux")]
fn poll(files: &mut [PollFd], timeout: Option<Duration>) -> nix::Result<i32> {
    let timeout = timeout.map(nix::sys::time::TimeSpec::from_duration);
    nix::poll::ppoll(files, timeout, Some(SigSet::empty()))
}

/// Without ppoll(2), a signal that arrives just before the wait is noticed at its end.
#[cfg(not(target_os = "linux"))]
fn poll(files: &mut [PollFd], timeout: Option<Duration>) -> nix::Result<i32> {
    use nix::poll::PollTimeout;
    let timeout = timeout.map_or(CHECK_INTERVAL, |timeout| timeout.min(CHECK_INTERVAL));
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
    match nix::poll::poll(files, timeout)? {
        0 => Err(Errno::EINTR),
        count => Ok(count),
    }
}
