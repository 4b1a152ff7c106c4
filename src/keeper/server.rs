//! The keeper: a process of its own, parent of every child.
//!
//! It has one thread, so that it may fork, and so that its children may be told
//! to die with it (`PR_SET_PDEATHSIG` follows the thread that forked). It waits
//! for two things: a request, and the end of a child. When ganger is gone, its
//! socket ends, and the keeper kills everything that is left.

use std::collections::VecDeque;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::select::{FdSet, pselect};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;

use super::children::Children;
use super::isolation::Isolation;
use super::protocol::{Decoder, Report, Request, Step, encode};
use super::spawn::{Limits, Surroundings, wake_on_child};
use super::{ISOLATE, kill};

/// How often it looks for members whose exit nobody reports.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Runs the keeper; its standard input is the socket to ganger.
///
/// Returns when ganger is gone and nobody is left, or on an error of the system
/// at the very start.
pub fn run() -> nix::Result<()> {
    let (socket, limits) = settle()?;
    let (isolation, unsent) = match is_to_isolate().then(Isolation::enter) {
        None => (None, Vec::new()),
        Some(Ok(isolation)) => (Some(isolation), encode(&Report::Isolated(Ok(())))),
        Some(Err(forbidden)) => {
            // ganger then has no more use for a keeper.
            let _ = (&socket).write_all(&encode(&Report::Isolated(Err(forbidden))));
            kill::sweep();
            return Ok(());
        }
    };
    let mut server = Server {
        socket,
        decoder: Decoder::default(),
        files: VecDeque::new(),
        unsent,
        requests: 0,
        children: Children::new(Surroundings { limits, isolation }),
    };
    server.serve();
    server.children.sweep();
    Ok(())
}

fn is_to_isolate() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == ISOLATE)
}

/// Makes this process what a keeper has to be, and returns the socket and the
/// limits of open files that children get.
fn settle() -> nix::Result<(UnixStream, Limits)> {
    // Out of the terminal's session: no signal of the terminal comes here.
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
    wake_on_child()?;
    close_on_exec();
    let stdin = std::io::stdin();
    let raw = fcntl(&stdin, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    #[expect(unsafe_code, reason = "fcntl returns a bare number")]
    // SAFETY: the descriptor was just returned to us.
    let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(raw) });
    socket.set_nonblocking(true).map_err(|_| Errno::EBADF)?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    nix::unistd::chdir("/")?;
    let limits = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Each child costs a descriptor; a refusal shows when they run out.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, limits.1, limits.1);
    Ok((socket, limits))
}

/// Nothing that ganger was itself started with reaches a child.
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
        #[expect(unsafe_code, reason = "the numbers that are open aren't known")]
        // SAFETY: a flag is set on a descriptor, or the number is refused.
        unsafe {
            libc::fcntl(raw, libc::F_SETFD, FdFlag::FD_CLOEXEC.bits())
        };
    }
}

/// ganger is gone, or no longer makes sense.
struct Gone;

struct Server {
    socket: UnixStream,
    decoder: Decoder,
    /// Descriptors whose request is still to be read; none where the system dropped it.
    files: VecDeque<Option<OwnedFd>>,
    /// Reports that the socket did not take yet.
    unsent: Vec<u8>,
    requests: u64,
    children: Children,
}

impl Server {
    fn serve(&mut self) {
        loop {
            let result = match self.wait() {
                Ok(0) | Err(Errno::EINTR) => self.look(),
                Ok(_) => self.flush().and_then(|()| self.read()),
                Err(_) => Err(Gone),
            };
            if result.is_err() {
                return;
            }
        }
    }

    /// Waits for the socket, for the end of a child (EINTR), or for the time to
    /// look again (0).
    fn wait(&self) -> nix::Result<i32> {
        let socket = self.socket.as_fd();
        let mut readable = FdSet::new();
        readable.insert(socket);
        let mut writable = FdSet::new();
        if !self.unsent.is_empty() {
            writable.insert(socket);
        }
        let timeout = self.children.is_watching().then(|| TimeSpec::from_duration(LOOK_EVERY));
        let unblocked = SigSet::empty();
        pselect(None, &mut readable, &mut writable, None, timeout.as_ref(), &unblocked)
    }

    fn look(&mut self) -> Result<(), Gone> {
        let mut reports = Vec::new();
        self.children.look(&mut reports);
        self.report(&reports)?;
        if self.children.have_a_place() { Ok(()) } else { Err(Gone) }
    }

    fn report(&mut self, reports: &[Report]) -> Result<(), Gone> {
        for report in reports {
            self.unsent.extend(encode(report));
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Gone> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => break,
                    std::io::ErrorKind::Interrupted => {}
                    _ => return Err(Gone),
                },
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Gone> {
        let mut bytes = vec![0; 64 << 10];
        let count = self.receive(&mut bytes)?;
        self.decoder.push(&bytes[..count]);
        let before = self.requests;
        while let Some(request) = self.decoder.take().map_err(|_| Gone)? {
            self.requests += 1;
            self.answer(request)?;
        }
        if self.requests == before {
            return Ok(());
        }
        self.report(&[Report::Answered { requests: self.requests }])
    }

    /// Reads what is there, and the descriptor that came with it: at most one, since
    /// a read never runs over the next one's.
    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Gone> {
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut into = [IoSliceMut::new(into)];
        let flags = MsgFlags::empty();
        let received =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut space), flags) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
                Err(_) => return Err(Gone),
            };
        if received.bytes == 0 {
            return Err(Gone);
        }
        if received.flags.contains(MsgFlags::MSG_CTRUNC) {
            // The system had no descriptor left for it.
            self.files.push_back(None);
            return Ok(received.bytes);
        }
        for message in received.cmsgs().map_err(|_| Gone)? {
            if let ControlMessageOwned::ScmRights(descriptors) = message {
                for raw in descriptors {
                    #[expect(unsafe_code, reason = "recvmsg returns bare numbers")]
                    // SAFETY: the descriptor was just made for us by the kernel.
                    let file = unsafe { OwnedFd::from_raw_fd(raw) };
                    // Nothing is executed between the two: there is one thread.
                    let _ = fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
                    self.files.push_back(Some(file));
                }
            }
        }
        Ok(received.bytes)
    }

    fn answer(&mut self, request: Request) -> Result<(), Gone> {
        let report = match request {
            Request::Spawn(spawn) => {
                let output = self.files.pop_front().flatten();
                let listener = spawn.listener.as_ref().map(|_| self.files.pop_front().flatten());
                match (output, listener) {
                    (Some(output), None) => self.children.spawn(&spawn, output, None),
                    (Some(output), Some(Some(listener))) => {
                        self.children.spawn(&spawn, output, Some(listener))
                    }
                    (None, _) | (_, Some(None)) => {
                        let errno = Errno::EMFILE as i32;
                        Report::SpawnFailed { id: spawn.id, step: Step::Fork, errno }
                    }
                }
            }
            Request::Sweep => Report::Swept { left: self.children.sweep() },
            Request::Signal { id, signal } => {
                self.children.signal(id, signal);
                return Ok(());
            }
            Request::Stop { id, signal } => {
                self.children.stop(id, signal);
                return Ok(());
            }
            Request::StopStrays => {
                self.children.stop_strays();
                return self.look();
            }
            Request::Ping => return Ok(()),
        };
        self.report(&[report])
    }
}
