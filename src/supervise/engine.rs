//! The event loop: takes what happens to the supervisor, and does what it says.

mod commands;
mod probes;
mod reporting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::clock::Clock;
use super::handle::{Command, Commands, Handle};
use super::listeners::Listeners;
use super::oom::OomKills;
use super::readiness::{ProbeResult, Probes};
use super::signals::{SignalRequest, Signals};
use super::spawn_request;
use super::supervisor::{Action, Event, ProcessId, Supervisor};
use super::watch::{FileChange, Watch};
use crate::exit::Exit;
use crate::keeper::client::{Keeper, KeeperError};
use crate::keeper::protocol::{ChildId, Report, Request, Scope, SpawnStep};
use crate::logs::format::{Color, Style, assign_colors};
use crate::logs::{self, Logs};
use crate::notice::Notice;
use crate::plan::sources::folder_error;
use crate::plan::{self, Plan};

/// Pipes of this size are worth their memory, for as many as an unprivileged
/// user may have without harming others' (pipe(7), `pipe-user-pages-soft`).
const PIPE_SIZE: i32 = 256 << 10;
const LARGE_PIPES: usize = 64;

/// So many reports are taken in before a signal or a request has its turn.
const MAX_REPORTS: usize = 1024;

/// What the engine shows, beside the plan.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// How lines are put out.
    pub style: Style,
    /// Colours for the types, in the order of the Procfile; none: those that
    /// ganger chooses.
    pub palette: Vec<Color>,
}

/// What the engine waits for.
enum Occurrence {
    Report(Result<Report, KeeperError>),
    Logs(logs::LogEvent),
    Signal(SignalRequest),
    File(FileChange),
    Probe(ProbeResult),
    Command(Command),
    /// A deadline may have come.
    Time,
}

/// Everything that runs.
pub struct Engine {
    plan: Plan,
    show: Show,
    colors: Vec<Color>,
    supervisor: Supervisor,
    keeper: Keeper,
    logs: Logs,
    signals: Signals,
    commands: Commands,
    probes: Probes,
    watch: Option<Watch>,
    /// What it sees.
    seen: (UnboundedSender<FileChange>, UnboundedReceiver<FileChange>),
    /// Counted from the first start on.
    oom_kills: Option<OomKills>,
    /// Who was killed last while memory ran out.
    out_of_memory: HashSet<String>,
    /// Those that are ready when their command says so.
    checks: HashMap<ProcessId, Arc<plan::Process>>,
    /// What ganger itself listens on.
    sockets: Listeners,
    /// What processes write that are being started: it is read once that is said.
    unread_pipes: HashMap<ProcessId, (OwnedFd, Arc<plan::Process>)>,
    /// Whether it goes on when nobody reads the output any more.
    survives_closed_stdout: bool,
    /// Who waits for the terminal to be let go.
    detach_reply: Option<oneshot::Sender<()>>,
    clock: Clock,
    /// A deadline has come, and the keeper is to report first what happened before it,
    /// which the answer to the ping of this number ends: a process that went in time is
    /// not killed.
    awaiting_pong: Option<u64>,
    pings: u64,
    /// What happened while something was being done.
    follow_up: VecDeque<Event>,
}

impl Engine {
    /// Puts the parts together; nothing runs yet.
    #[must_use]
    pub fn new(
        plan: Plan,
        sockets: Listeners,
        show: Show,
        keeper: Keeper,
        logs: Logs,
        signals: Signals,
    ) -> Self {
        // Chance is for keeping apart what crashed together; a clock is enough.
        let seed =
            std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        Self {
            colors: assign_colors(&plan.types(), &show.palette),
            supervisor: Supervisor::new(&plan, seed.into()),
            plan,
            show,
            keeper,
            commands: Commands::new(logs.queries().clone()),
            logs,
            signals,
            probes: Probes::new(),
            watch: None,
            seen: unbounded_channel(),
            oom_kills: None,
            out_of_memory: HashSet::new(),
            checks: HashMap::new(),
            sockets,
            unread_pipes: HashMap::new(),
            survives_closed_stdout: false,
            detach_reply: None,
            clock: Clock::default(),
            awaiting_pong: None,
            pings: 0,
            follow_up: VecDeque::new(),
        }
    }

    /// For whoever is to ask it something.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.commands.handle()
    }

    /// Goes on when nobody reads the output any more, as is right in the background.
    pub fn survive_closed_stdout(&mut self) {
        self.survives_closed_stdout = true;
    }

    /// Has everything started, without waiting for it.
    pub fn begin(&mut self) {
        self.notify_plan();
        self.handle_event(Event::Tick);
        // What follows takes time that is the keeper's now.
        self.oom_kills = Some(OomKills::baseline());
        self.watch();
    }

    /// Runs everything to its end, and returns ganger's exit code.
    pub async fn run(mut self) -> u8 {
        let code = loop {
            if let Some(outcome) = self.supervisor.outcome() {
                break self.report(&outcome).await;
            }
            let taken_in = match self.next().await {
                Occurrence::Signal(SignalRequest::Suspend) => self.suspend().await,
                occurrence => self.on_occurrence(occurrence),
            };
            if let Err(lost) = taken_in {
                break self.on_keeper_lost(lost);
            }
        };
        self.logs.finish();
        loop {
            tokio::select! {
                event = self.logs.next_event() => match event {
                    logs::LogEvent::Finished => break,
                    logs::LogEvent::StdoutClosed
                    | logs::LogEvent::TextMatched(_)
                    | logs::LogEvent::TerminalReleased => {}
                },
                asked = self.signals.next() => match asked {
                    // Whoever reads is slow, and the user would not wait.
                    SignalRequest::Stop(Signal::SIGINT) => break,
                    SignalRequest::Stop(_) | SignalRequest::Forward(_) | SignalRequest::Status | SignalRequest::Suspend
                    | SignalRequest::Resume | SignalRequest::Keeper => {}
                },
            }
        }
        self.keeper.shut_down();
        code
    }

    /// Waits for the next thing to happen.
    async fn next(&mut self) -> Occurrence {
        let now = Instant::now();
        let wake_at = if self.awaiting_pong.is_some() {
            Some(self.clock.watch(now))
        } else {
            self.clock.wait_for(self.supervisor.deadline(), now)
        };
        let occurrence = tokio::select! {
            report = self.keeper.next_report() => Occurrence::Report(report),
            event = self.logs.next_event() => Occurrence::Logs(event),
            asked = self.signals.next() => Occurrence::Signal(asked),
            Some(seen) = self.seen.1.recv() => Occurrence::File(seen),
            found = self.probes.next() => Occurrence::Probe(found),
            command = self.commands.next() => Occurrence::Command(command),
            () = until(wake_at) => Occurrence::Time,
        };
        self.clock.wake(Instant::now());
        occurrence
    }

    fn on_occurrence(&mut self, occurrence: Occurrence) -> Result<(), KeeperError> {
        match occurrence {
            Occurrence::Report(report) => self.on_reports(report?)?,
            Occurrence::Logs(event) => match event {
                // In the background it outlives whoever it was started by.
                logs::LogEvent::StdoutClosed if self.survives_closed_stdout => {}
                logs::LogEvent::StdoutClosed => self.handle_event(Event::StdoutClosed),
                logs::LogEvent::TextMatched(id) => self.on_matched(ChildId(id).into()),
                logs::LogEvent::TerminalReleased => {
                    if let Some(reply) = self.detach_reply.take() {
                        let _ = reply.send(());
                    }
                }
                logs::LogEvent::Finished => {}
            },
            Occurrence::Signal(asked) => self.on_signal(asked),
            Occurrence::File(seen) => self.on_file_change(seen),
            Occurrence::Probe(found) => self.on_probe_result(found),
            Occurrence::Command(command) => self.on_command(command),
            Occurrence::Time => {
                let now = self.now();
                let is_due = self.supervisor.deadline().is_some_and(|at| at <= now);
                if is_due && self.awaiting_pong.is_none() {
                    self.pings += 1;
                    self.awaiting_pong = Some(self.pings);
                    self.keeper.send_request(Request::Ping(self.pings), Vec::new());
                }
            }
        }
        Ok(())
    }

    /// Each look at the clock may be the first after a pause.
    fn now(&mut self) -> Instant {
        let real = Instant::now();
        self.clock.wake(real);
        self.clock.at(real)
    }

    /// When these events happened, as far as deadlines go: only a tick, which comes after
    /// all that the keeper had to report, is a reason to act on one.
    fn time_of(&mut self, events: &[Event]) -> Instant {
        let now = self.now();
        if events.contains(&Event::Tick) {
            return now;
        }
        let before = |at: Instant| at.checked_sub(Duration::from_nanos(1)).unwrap_or(at);
        self.supervisor.deadline().map_or(now, |at| now.min(before(at)))
    }

    fn handle_event(&mut self, event: Event) {
        self.handle_events(vec![event]);
    }

    fn handle_events(&mut self, mut events: Vec<Event>) {
        while !events.is_empty() {
            tracing::debug!(?events);
            let now = self.time_of(&events);
            for action in self.supervisor.handle_all(now, events) {
                tracing::debug!(?action);
                self.perform(action);
            }
            events = self.follow_up.drain(..).collect();
        }
        self.commands.announce();
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn(id, process) => {
                if let Err(error) = self.spawn(id, process) {
                    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN));
                    let exit = Exit::NotStarted { step: SpawnStep::Fork, errno };
                    self.follow_up.push_back(Event::Exited(id, exit, Vec::new()));
                }
            }
            Action::Stop(id, signal) => self.stop(id, signal, Scope::Group),
            Action::StopDescendants(id, signal) => self.stop(id, signal, Scope::All),
            Action::StopOrphans => {
                self.keeper.send_request(Request::StopOrphans, Vec::new());
                self.logs.begin_stopping();
            }
            Action::Sweep => self.keeper.send_request(Request::Sweep, Vec::new()),
            Action::ProbeNeeds(id, process) => self.probes.probe_needs(id, &process),
            Action::Probe(id, process) => self.probe(id, process),
            Action::CancelProbe(id) => self.cancel_probe(id),
            Action::Notify(notice) => self.logs.print_message(notice),
        }
    }

    fn stop(&mut self, id: ProcessId, signal: Signal, scope: Scope) {
        let request = Request::Stop { id: id.into(), signal: signal as i32, scope };
        self.keeper.send_request(request, Vec::new());
    }

    fn spawn(&mut self, id: ProcessId, process: Arc<plan::Process>) -> io::Result<()> {
        if let Some(kills) = self.oom_kills.as_mut().filter(|_| id.life > 1) {
            // What ran out before is none of its business.
            kills.increased();
        }
        let (read, write) = io::pipe()?;
        let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if self.supervisor.count() <= LARGE_PIPES {
            enlarge(&read);
        }
        let listener = process.port.filter(|_| process.listen);
        let listener = listener.and_then(|port| self.sockets.get(port)).transpose()?;
        let (shell, passed) = (&self.plan.shell, listener.is_some());
        let spawn = spawn_request::new(id.into(), &process, &process.command, shell, passed)?;
        let files: Vec<OwnedFd> = [write].into_iter().chain(listener).collect();
        self.keeper.send_request(Request::Spawn(spawn), files);
        self.unread_pipes.insert(id, (read, process));
        Ok(())
    }

    /// Has the output of a process read, if it isn't yet.
    fn start_reading(&mut self, id: ProcessId) {
        let Some((read, process)) = self.unread_pipes.remove(&id) else { return };
        let index = self.plan.entries.iter().position(|entry| entry.name == process.kind);
        let color = index.map_or(0, |index| self.colors[index]);
        let label = process.shown.then(|| self.show.style.label(&process.name, color));
        self.logs.add_source(ChildId::from(id).0, process.name.as_str().into(), read, label);
    }

    /// Takes in a report, and those that are there behind it: the supervisor looks at
    /// all processes once for all of them.
    fn on_reports(&mut self, first: Report) -> Result<(), KeeperError> {
        let mut next = Some(first);
        let mut events = Vec::new();
        let mut taken = 0;
        while let Some(report) = next.take() {
            if let Report::Spawned { id, pid } = report
                && ProcessId::of_check(id).is_none()
            {
                // Its output comes behind the message that it was started.
                events.push(Event::Spawned(id.into(), pid));
                self.handle_events(std::mem::take(&mut events));
                self.start_reading(id.into());
            } else {
                events.extend(self.on_report(report));
            }
            taken += 1;
            if taken < MAX_REPORTS {
                next = self.keeper.try_next_report()?;
            }
        }
        self.handle_events(events);
        Ok(())
    }

    fn on_report(&mut self, report: Report) -> Option<Event> {
        if let Some(of) = report.child().and_then(ProcessId::of_check) {
            self.on_check_report(of, &report);
            return None;
        }
        match report {
            Report::SpawnFailed { id, step, errno } => {
                self.cancel_probe(id.into());
                self.unread_pipes.remove(&id.into());
                let errno = Errno::from_raw(errno);
                if step == SpawnStep::Dir
                    && let Some(status) = self.supervisor.find(id.into())
                {
                    let reason = folder_error(&status.plan.dir, errno);
                    self.logs
                        .print_message(Notice::NoFolder { name: status.plan.name.clone(), reason });
                }
                let exit = Exit::NotStarted { step, errno };
                Some(Event::Exited(id.into(), exit, Vec::new()))
            }
            Report::Cancelled { id } => {
                self.cancel_probe(id.into());
                self.unread_pipes.remove(&id.into());
                Some(Event::Exited(id.into(), Exit::Cancelled, Vec::new()))
            }
            Report::StartHangs { id, pid } => {
                if let Some(status) = self.supervisor.find(id.into()) {
                    let (name, command) = (status.plan.name.clone(), status.plan.command.clone());
                    self.logs.print_message(Notice::StartHangs { name, command, pid });
                }
                None
            }
            Report::Exited { id, wait, left } => {
                // Its last lines come before what is said of its end.
                self.logs.drain_source(id.0);
                self.cancel_probe(id.into());
                self.check_oom_kill(id.into(), wait.into());
                Some(Event::Exited(id.into(), wait.into(), left))
            }
            Report::GroupEmpty { id } => {
                self.logs.drain_source(id.0);
                Some(Event::GroupEmpty(id.into()))
            }
            Report::Orphans { left } => Some(Event::Orphans(left)),
            Report::Swept { left } => Some(Event::Swept(left)),
            Report::Pong(number) => {
                // What came before it was reported, and is taken in before the time.
                let is_awaited = self.awaiting_pong == Some(number);
                is_awaited.then(|| {
                    self.awaiting_pong = None;
                    Event::Tick
                })
            }
            Report::Spawned { .. }
            | Report::Suspended
            | Report::Progress { .. }
            | Report::Isolated(_) => None,
        }
    }

    /// Of a command that says whether a process is ready.
    fn on_check_report(&mut self, of: ProcessId, report: &Report) {
        match report {
            Report::Exited { wait, .. } => self.on_checked(of, (*wait).into()),
            Report::Cancelled { .. } => self.check_again(of),
            Report::SpawnFailed { step, errno, .. } => {
                let (step, errno) = (*step, Errno::from_raw(*errno));
                self.on_checked(of, Exit::NotStarted { step, errno });
            }
            Report::Spawned { .. }
            | Report::StartHangs { .. }
            | Report::GroupEmpty { .. }
            | Report::Orphans { .. }
            | Report::Swept { .. }
            | Report::Suspended
            | Report::Isolated(_)
            | Report::Progress { .. }
            | Report::Pong(_) => {}
        }
    }

    /// Nothing can be supervised any more: everything is killed.
    fn on_keeper_lost(&mut self, lost: KeeperError) -> u8 {
        self.logs.begin_stopping();
        self.logs.print_message(Notice::KeeperLost { lost });
        let left = self.keeper.kill_descendants();
        if !left.is_empty() {
            self.logs.print_message(Notice::KillFailed { left });
        }
        self.supervisor.outcome_so_far().code().max(1)
    }
}

fn enlarge(pipe: impl AsFd) {
    // Refused where the user's budget is used up: then it stays as it is.
    #[cfg(target_os = "linux")]
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    #[cfg(not(target_os = "linux"))]
    let _ = (pipe, PIPE_SIZE);
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
