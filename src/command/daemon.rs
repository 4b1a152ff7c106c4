//! `start -D`: the app runs in the background, and the command returns when all processes are
//! ready.
//!
//! Until then both processes share their output, so that an error is printed where the app was
//! started. Then ganger releases every terminal, pipe and socket of its caller, because a script
//! that captures the output waits until it is closed. Output to a regular file stays.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::client_commands::TIMED_OUT;
use super::run::Signals;
use crate::control::planner::PlannerHandle;
use crate::exit::Exit;
use crate::keeper::command::{CommandSession, kill_command};
use crate::notice::{Notice, ProbeFailure};
use crate::plan::ready::Ready;
use crate::supervise::handle::{Handle, Stopping};
use crate::supervise::supervisor::{RestartMode, State, Status};

/// How long the background process may take to suspend everything, and how often it is looked at.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(3);
const SUSPEND_PAUSE: Duration = Duration::from_millis(5);

/// One of the two processes after [`fork_background`].
pub(super) enum ForkSide {
    /// The process that the user started.
    Foreground(Foreground),
    /// The process that runs the app.
    Background(Background),
}

/// The process that the user started, and what it knows of the one that runs the app.
pub(super) struct Foreground {
    background: Pid,
    /// Its exit code, once it has exited.
    exited: Cell<Option<u8>>,
    progress: Option<OwnedFd>,
    /// The pipe by which the background process notices that this one has exited.
    alive: Option<pipe::Receiver>,
    /// The app ends when this is closed, if it belongs to a command.
    _link: Option<PipeWriter>,
}

/// The pipe through which the background process sends the exit code to the foreground.
pub(super) struct Background {
    progress: OwnedFd,
    command: Option<CommandLink>,
}

/// What the app of `ganger with` knows of its command.
pub(super) struct CommandLink {
    /// Is closed when the process is gone that started the app.
    closed: OwnedFd,
    /// The marker of the processes of the command.
    marker: String,
}

/// How a start has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Startup {
    /// The app runs; the exit code is not 0 if not all of it is ready.
    Released(u8),
    /// It has exited, with this exit code.
    Exited(u8),
}

/// Forks this process, which has only one thread yet. With a `command`, the app ends when this
/// process does.
pub(super) fn fork_background(command: Option<&CommandSession>) -> anyhow::Result<ForkSide> {
    let (read, write) = std::io::pipe().context("failed to make a pipe")?;
    let link = command.map(|_| std::io::pipe()).transpose().context("failed to make a pipe")?;
    #[expect(unsafe_code, reason = "this is how a process is made")]
    // SAFETY: there is one thread, so the child may do what the parent could.
    match unsafe { fork() }.context("failed to go into the background")? {
        ForkResult::Child => {
            drop(read);
            setsid().context("failed to leave the terminal")?;
            let command = link.zip(command).map(|((closed, _), session)| CommandLink {
                closed: closed.into(),
                marker: session.marker().to_owned(),
            });
            Ok(ForkSide::Background(Background { progress: write.into(), command }))
        }
        ForkResult::Parent { child } => Ok(ForkSide::Foreground(Foreground {
            background: child,
            exited: Cell::new(None),
            progress: Some(read.into()),
            alive: None,
            _link: link.map(|(_, open)| open),
        })),
    }
}

impl Foreground {
    /// Waits until the background process reports an exit code or exits, and forwards INT and
    /// TERM.
    pub(super) fn await_startup(&mut self) -> anyhow::Result<Startup> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.context("failed to wait for the start")?.block_on(async {
            let listen = |kind| signal(kind).context("failed to listen for signals");
            let (mut int, mut term) =
                (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
            let background = self.background;
            let mut started = Box::pin(self.wait_until_started());
            loop {
                tokio::select! {
                    startup = &mut started => return startup,
                    // The background process has its own session, which no terminal signals.
                    Some(()) = int.recv() => drop(kill(background, Signal::SIGINT)),
                    Some(()) = term.recv() => drop(kill(background, Signal::SIGTERM)),
                }
            }
        })
    }

    /// Waits until the background process reports an exit code or exits.
    pub(super) async fn wait_until_started(&mut self) -> anyhow::Result<Startup> {
        let mut code = [0];
        if let Some(progress) = self.progress.take() {
            let progress = pipe::Receiver::from_owned_fd(progress)?;
            loop {
                progress.readable().await?;
                match progress.try_read(&mut code) {
                    Ok(1) => {
                        self.alive = Some(progress);
                        return Ok(Startup::Released(code[0]));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Ok(_) | Err(_) => break,
                }
            }
        }
        Ok(Startup::Exited(self.wait()))
    }

    /// Has the background process stop everything, and waits until it has exited. Returns its exit
    /// code.
    pub(super) fn quit(&self) -> u8 {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// The same, while these signals reach the background process, which a second SIGINT has kill
    /// everything.
    pub(super) async fn quit_with(&self, signals: &mut Signals) -> u8 {
        self.signal(Signal::SIGTERM);
        loop {
            if let Some(code) = self.poll_exit() {
                return code;
            }
            match signals.next().await {
                // It may have exited.
                Signal::SIGCHLD => {}
                signal => self.signal(signal),
            }
        }
    }

    /// Has the background process suspend everything, and waits until it is suspended itself.
    pub(super) async fn suspend(&self) {
        self.signal(Signal::SIGTSTP);
        let deadline = Instant::now() + SUSPEND_TIMEOUT;
        while !self.is_suspended() && Instant::now() < deadline {
            sleep(SUSPEND_PAUSE).await;
        }
    }

    /// Whether the background process has been suspended since this was asked, or has exited.
    fn is_suspended(&self) -> bool {
        if self.exited.get().is_some() {
            return true;
        }
        let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG;
        match wait_for(self.background, Some(flags)) {
            Ok(WaitStatus::Stopped(..)) => true,
            Ok(WaitStatus::StillAlive) => false,
            ended => {
                self.exited.set(Some(code_of(ended)));
                true
            }
        }
    }

    /// Signals the background process.
    pub(super) fn signal(&self, signal: Signal) {
        if self.exited.get().is_none() {
            // It is not reaped yet, so the number is that of no other process.
            let _ = kill(self.background, signal);
        }
    }

    fn wait(&self) -> u8 {
        if let Some(code) = self.exited.get() {
            return code;
        }
        let code = code_of(wait_for(self.background, None));
        self.exited.set(Some(code));
        code
    }

    /// The exit code of the background process, if it has exited.
    fn poll_exit(&self) -> Option<u8> {
        if self.exited.get().is_none() {
            match wait_for(self.background, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {}
                ended => self.exited.set(Some(code_of(ended))),
            }
        }
        self.exited.get()
    }
}

/// Waits for a child, however often that is interrupted.
fn wait_for(child: Pid, flags: Option<WaitPidFlag>) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(child, flags) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// The exit code of a child that has ended like this.
fn code_of(ended: nix::Result<WaitStatus>) -> u8 {
    let code = match ended {
        Ok(WaitStatus::Exited(_, code)) => code,
        Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
        Ok(_) | Err(_) => 1,
    };
    u8::try_from(code).unwrap_or(1)
}

impl CommandLink {
    /// Stops the app when the process is gone that runs its command, and kills what is left of the
    /// command.
    pub(super) async fn quit_with_command(self, engine: Handle) -> std::io::Result<()> {
        let Self { closed, marker } = self;
        let closed = pipe::Receiver::from_owned_fd(closed)?;
        loop {
            closed.readable().await?;
            match closed.try_read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => break,
            }
        }
        // If the engine has ended already, so much the better.
        let _ = engine.quit();
        let _ = spawn_blocking(move || kill_command(&marker)).await;
        Ok(())
    }

    /// The app has ended: kills what is left of the command, if nothing else does.
    pub(super) fn finish(self) {
        let mut closed = [PollFd::new(self.closed.as_fd(), PollFlags::POLLIN)];
        // The end of the pipe is readable.
        if poll(&mut closed, PollTimeout::ZERO) == Ok(1) {
            kill_command(&self.marker);
        }
    }
}

impl Background {
    /// Releases the terminal at once, for the process that shows the app there, and stops everything
    /// when that process is gone.
    pub(super) async fn release_for_viewer(self, engine: Handle) -> anyhow::Result<()> {
        engine.release_output().await?;
        release_streams();
        let foreground = pipe::Sender::from_owned_fd(self.progress)?;
        foreground.writable().await?;
        let _ = foreground.try_write(&[0]);
        while !foreground.ready(Interest::ERROR).await?.is_error() {}
        Ok(engine.quit()?)
    }

    /// Whether the app belongs to a command.
    pub(super) fn has_command(&self) -> bool {
        self.command.is_some()
    }

    /// What it knows of the command that the app belongs to, if there is one.
    pub(super) fn command_link(&self) -> Option<CommandLink> {
        let link = self.command.as_ref()?;
        let closed = link.closed.try_clone().ok()?;
        Some(CommandLink { closed, marker: link.marker.clone() })
    }

    /// Releases the standard streams and the foreground process when all processes are ready.
    /// `flags` are those by which commands find the app.
    pub(super) async fn release(self, mut engine: Handle, flags: String) -> Result<(), Stopping> {
        let mut start = StartProgress::default();
        let code = loop {
            let snapshot = engine.snapshot().await?;
            let mut check_again = None;
            // If the app ends now, its exit code is what the foreground process returns.
            if !snapshot.ending {
                match start.check(&snapshot.processes, snapshot.now) {
                    Progress::Done { code, not_ready, late } => {
                        late.into_iter().try_for_each(|notice| engine.print(notice))?;
                        let flags = flags.clone();
                        let notice = if not_ready.is_empty() {
                            Notice::DaemonIsUp { flags }
                        } else {
                            Notice::DaemonStaysUp { names: not_ready }
                        };
                        // With a command, it ends with that.
                        if !self.has_command() {
                            engine.print(notice)?;
                        }
                        break code;
                    }
                    Progress::CheckAt(at) => {
                        check_again = Some(at.saturating_duration_since(snapshot.now));
                    }
                    Progress::Pending => {}
                }
            }
            tokio::select! {
                changed = engine.changed() => changed?,
                () = sleep(check_again.unwrap_or_default()), if check_again.is_some() => {}
            }
        };
        // `with` has decided where the output goes.
        if !self.has_command() {
            engine.release_output().await?;
            release_streams();
        }
        // The foreground process may have exited.
        let _ = File::from(self.progress).write_all(&[code]);
        Ok(())
    }
}

/// How long a process without a readiness probe must run before it counts as up: one that fails
/// at its start has exited by then.
const MIN_UPTIME: Duration = Duration::from_secs(1);

/// How far the start of all processes has come.
#[derive(Debug, Eq, PartialEq)]
enum Progress {
    /// The start is over: the exit code, the processes that are not ready, and the late ones that
    /// were not reported yet.
    Done { code: u8, not_ready: Vec<String>, late: Vec<Notice> },
    /// It may be over at this time.
    CheckAt(Instant),
    /// It is not over before a process changes its state.
    Pending,
}

/// Follows the start of all processes.
#[derive(Debug, Default)]
struct StartProgress {
    /// When the first crash of each process without a readiness probe was seen.
    crashing: HashMap<String, Instant>,
}

impl StartProgress {
    fn check(&mut self, processes: &[Status], now: Instant) -> Progress {
        let (mut codes, mut not_ready, mut late) = (Vec::new(), Vec::new(), Vec::new());
        let (mut pending, mut check_at) = (false, None);
        for status in processes {
            match self.check_process(status, now) {
                Progress::Done { code, not_ready: names, late: notices } => {
                    codes.push(code);
                    not_ready.extend(names);
                    late.extend(notices);
                }
                Progress::CheckAt(at) => {
                    pending = true;
                    check_at = check_at.into_iter().chain([at]).min();
                }
                Progress::Pending => pending = true,
            }
        }
        match (pending, check_at) {
            (false, _) => {
                let code = codes.into_iter().find(|code| *code != 0).unwrap_or_default();
                Progress::Done { code, not_ready, late }
            }
            (true, Some(at)) => Progress::CheckAt(at),
            (true, None) => Progress::Pending,
        }
    }

    fn check_process(&mut self, status: &Status, now: Instant) -> Progress {
        let done = |code| {
            let not_ready = (code != 0).then(|| status.plan.name.clone()).into_iter().collect();
            Progress::Done { code, not_ready, late: Vec::new() }
        };
        if !status.is_wanted() {
            let failed = status.last.filter(|_| status.has_failed());
            return done(failed.map_or(0, Exit::code));
        }
        if status.is_late() {
            return done(TIMED_OUT);
        }
        if status.plan.ready != Ready::Started {
            return if status.is_ready() { done(0) } else { Progress::Pending };
        }
        let up_at = match status.state {
            State::Up { since, .. } => Some(since + MIN_UPTIME),
            State::Down
            | State::Backoff { .. }
            | State::Waiting { .. }
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Killed { .. }
            | State::Stuck { .. } => None,
        };
        if up_at.is_some_and(|at| at <= now) {
            return done(0);
        }
        let mut give_up_at = None;
        if status.crashes > 0 {
            let since = *self.crashing.entry(status.plan.name.clone()).or_insert(now);
            give_up_at = since.checked_add(status.plan.ready_timeout);
        }
        if give_up_at.is_some_and(|at| at <= now) {
            let late = Notice::ReadyTimedOut {
                name: status.plan.name.clone(),
                port: None,
                after: status.plan.ready_timeout,
                tried: status.last.map(ProbeFailure::Exited),
            };
            let not_ready = vec![status.plan.name.clone()];
            return Progress::Done { code: TIMED_OUT, not_ready, late: vec![late] };
        }
        let next = up_at.into_iter().chain(give_up_at).min();
        next.map_or(Progress::Pending, Progress::CheckAt)
    }
}

/// Closes the standard streams, except regular files. The logs no longer write to them.
pub(super) fn release_streams() {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    if !is_regular_file(std::io::stdin()) {
        let _ = nix::unistd::dup2_stdin(null.as_fd());
    }
    if !is_regular_file(std::io::stdout()) {
        let _ = nix::unistd::dup2_stdout(null.as_fd());
    }
    if !is_regular_file(std::io::stderr()) {
        let _ = nix::unistd::dup2_stderr(null.as_fd());
    }
}

fn is_regular_file(stream: impl AsFd) -> bool {
    let kind = |stat: FileStat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    fstat(stream).is_ok_and(|stat| kind(stat) == SFlag::S_IFREG)
}

/// Reads the files again at each SIGHUP, as a daemon does.
pub(super) async fn reload_on_hangup(
    engine: Handle,
    planner: PlannerHandle,
) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    while hangups.recv().await.is_some() {
        let outcome = planner.reload(RestartMode::AtOnce).await;
        let outcome = outcome.map_err(|it| it.to_string());
        if engine.print(Notice::Reloaded { outcome }).is_err() {
            break;
        }
    }
    Ok(())
}
