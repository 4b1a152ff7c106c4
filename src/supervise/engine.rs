//! The event loop: passes events to the supervisor, and carries out its actions.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, raise};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use super::clock::Clock;
use super::display::{Display, Show};
use super::failure_report;
use super::handle::{Command, Commands, Handle, Snapshot};
use super::listeners::Listeners;
use super::oom::OomWatch;
use super::probes::{ProbeResult, Probes};
use super::signals::{SignalRequest, Signals};
use super::spawn_request;
use super::supervisor::{Action, Event, ProcessId, RestartMode, State, Status, Supervisor};
use super::trace;
use super::watch::{FileChange, Watch};
use crate::changes::Changes;
use crate::exit::{Exit, Failure, Outcome};
use crate::keeper::client::{Keeper, KeeperError};
use crate::keeper::protocol::{ChildId, Report, Request, Scope, SpawnStep};
use crate::logs::recent::RecentOutput;
use crate::logs::{self, Logs, SourceFile};
use crate::notice::{Notice, PortConflict, ProbeFailure, ProcessSummary, StateSummary};
use crate::plan::program::exec_error;
use crate::plan::ready::Ready;
use crate::plan::sources::folder_error;
use crate::plan::{self, Plan, shell};
use crate::pty::{Pty, WindowSize};

/// Pipes of this size are worth their memory, for as many as an unprivileged
/// user may have without harming other programs (pipe(7), `pipe-user-pages-soft`).
const PIPE_SIZE: i32 = 256 << 10;
const LARGE_PIPES: usize = 64;

/// How many reports are handled before a signal or a request has its turn.
const MAX_REPORTS: usize = 1024;

/// How long ganger waits for the start of the first process before it starts its threads. More
/// time than the keeper needs if nothing is in its way.
const FIRST_SPAWN: Duration = Duration::from_millis(2);

/// How long ganger waits for its processes to be suspended before it is suspended itself.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long ganger waits after SIGWINCH before it resizes the terminals of processes: a window
/// that is dragged sends many.
const RESIZE_DELAY: Duration = Duration::from_millis(20);

/// What the engine waits for.
enum Occurrence {
    Report(Result<Report, KeeperError>),
    Logs(logs::LogEvent),
    Signal(SignalRequest),
    File(FileChange),
    Probe(ProbeResult),
    Command(Command),
    /// ganger's own terminal may have another size.
    Resized,
    /// A deadline may have come.
    Time,
}

/// The two ends of a process's output.
struct Output {
    source: SourceFile,
    process_end: OwnedFd,
    /// The terminal, if it is one.
    pty: Option<Pty>,
}

/// How the app has ended.
#[derive(Debug)]
pub struct Ended {
    /// ganger's exit code.
    pub code: u8,
    /// What failed, as lines.
    pub report: Vec<String>,
    /// The last output, unless it could not be written to its end.
    pub recent: Option<RecentOutput>,
}

/// The running app.
pub struct Engine {
    plan: Arc<Plan>,
    /// What ganger itself listens on for the plan.
    listeners: Listeners,
    display: Display,
    supervisor: Supervisor,
    keeper: Keeper,
    logs: Logs,
    signals: Signals,
    commands: Commands,
    probes: Probes,
    watch: Option<Watch>,
    file_changes: (UnboundedSender<FileChange>, UnboundedReceiver<FileChange>),
    oom: OomWatch,
    /// The output of processes that are being started: it is read once a message has reported the
    /// start.
    unread_output: HashMap<ProcessId, (SourceFile, Arc<plan::ProcessPlan>)>,
    /// The terminals of processes of which something is there. They hang up when they are
    /// dropped.
    terminals: HashMap<ProcessId, Pty>,
    /// The windows of clients, by the name of the process that they are attached to.
    windows: HashMap<String, WindowSize>,
    /// When the terminals get a new size.
    resize_at: Option<Instant>,
    /// Whether the app goes on when nothing reads its output any more.
    survives_closed_stdout: bool,
    /// The client that waits until the terminal is released.
    release_reply: Option<oneshot::Sender<()>>,
    clock: Clock,
    /// The number of the ping that has to be answered before a deadline counts: the keeper
    /// reports first what happened before it, so that a process which stopped in time is not
    /// killed.
    awaiting_pong: Option<u64>,
    pings: u64,
    /// What happened while an action was carried out.
    follow_up: VecDeque<Event>,
}

impl Engine {
    /// Puts the parts together; nothing runs yet.
    #[must_use]
    pub fn new(
        plan: Plan,
        listeners: Listeners,
        show: Show,
        keeper: Keeper,
        logs: Logs,
        signals: Signals,
    ) -> Self {
        Self {
            display: Display::new(show, &plan),
            supervisor: Supervisor::new(&plan, fastrand::u64(..)),
            plan: Arc::new(plan),
            listeners,
            keeper,
            commands: Commands::new(logs.queries().clone()),
            logs,
            signals,
            probes: Probes::new(),
            watch: None,
            file_changes: unbounded_channel(),
            oom: OomWatch::default(),
            unread_output: HashMap::new(),
            terminals: HashMap::new(),
            windows: HashMap::new(),
            resize_at: None,
            survives_closed_stdout: false,
            release_reply: None,
            clock: Clock::default(),
            awaiting_pong: None,
            pings: 0,
            follow_up: VecDeque::new(),
        }
    }

    /// A handle for other parts of this process.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.commands.handle()
    }

    /// Goes on when nothing reads the output any more, as is right in the background.
    pub fn survive_closed_stdout(&mut self) {
        self.survives_closed_stdout = true;
    }

    /// Has everything started, without waiting for it: only the first process has the processors
    /// for itself, because many threads start next.
    pub async fn begin(&mut self) {
        self.notify_plan();
        self.handle_event(Event::Tick);
        let _ = timeout(FIRST_SPAWN, self.keeper.responds()).await;
        self.oom.begin();
        self.watch_files();
    }

    /// Runs everything to its end.
    pub async fn run(mut self) -> Ended {
        let mut report = Vec::new();
        let code = loop {
            if let Some(outcome) = self.supervisor.outcome() {
                report = self.report(&outcome).await;
                break outcome.code();
            }
            let handled = match self.next().await {
                Occurrence::Signal(SignalRequest::Suspend) => self.suspend().await,
                occurrence => self.on_occurrence(occurrence),
            };
            if let Err(lost) = handled {
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
                    | logs::LogEvent::LineMatched(..)
                    | logs::LogEvent::OutputReleased => {}
                },
                asked = self.signals.next() => match asked {
                    // The reader of the output is slow, and the user interrupted again.
                    SignalRequest::Stop(Signal::SIGINT) => break,
                    SignalRequest::Stop(_) | SignalRequest::Forward(_) | SignalRequest::Resize | SignalRequest::Status
                    | SignalRequest::Suspend | SignalRequest::Resume | SignalRequest::Keeper => {}
                },
            }
        }
        self.keeper.shut_down();
        Ended { code, report, recent: self.logs.take_recent() }
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
            Some(change) = self.file_changes.1.recv() => Occurrence::File(change),
            result = self.probes.next() => Occurrence::Probe(result),
            command = self.commands.next() => Occurrence::Command(command),
            () = until(self.resize_at) => Occurrence::Resized,
            () = until(wake_at) => Occurrence::Time,
        };
        self.clock.wake(Instant::now());
        occurrence
    }

    fn on_occurrence(&mut self, occurrence: Occurrence) -> Result<(), KeeperError> {
        match occurrence {
            Occurrence::Report(report) => self.on_reports(report?)?,
            Occurrence::Logs(event) => match event {
                // In the background it outlives the terminal that it was started in.
                logs::LogEvent::StdoutClosed if self.survives_closed_stdout => {}
                logs::LogEvent::StdoutClosed => self.handle_event(Event::StdoutClosed),
                logs::LogEvent::TextMatched(id) => self.on_matched(ChildId(id).into()),
                logs::LogEvent::LineMatched(id, line) => {
                    self.handle_event(Event::FailureLogged(ChildId(id).into(), line));
                }
                logs::LogEvent::OutputReleased => {
                    if let Some(reply) = self.release_reply.take() {
                        let _ = reply.send(());
                    }
                }
                logs::LogEvent::Finished => {}
            },
            Occurrence::Signal(asked) => self.on_signal(asked),
            Occurrence::File(change) => self.on_file_change(change),
            Occurrence::Probe(result) => self.on_probe_result(result),
            Occurrence::Command(command) => self.on_command(command),
            Occurrence::Resized => self.resize_terminals(),
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

    fn handle_events(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            let now = self.time_of(&events);
            for event in &events {
                trace::event(event, &self.supervisor);
            }
            let actions = self.supervisor.handle_all(now, events);
            self.carry_out(actions);
        }
        self.commands.announce();
    }

    /// Has the supervisor do what a client asks for, and replies with what it did. There is no
    /// reply if everything is being stopped: then it is too late.
    fn handle_request(
        &mut self,
        name: &str,
        reply: oneshot::Sender<Changes>,
        request: impl FnOnce(&mut Supervisor, Instant) -> (Changes, Vec<Action>),
    ) {
        if self.supervisor.is_ending() {
            return;
        }
        let now = self.time_of(&[]);
        let (changes, actions) = request(&mut self.supervisor, now);
        trace::request(name, &changes);
        self.carry_out(actions);
        self.commands.announce();
        // At once: this may have been the last thing that the engine does. A client that has
        // left needs no reply.
        let _ = reply.send(changes);
    }

    fn carry_out(&mut self, mut actions: Vec<Action>) {
        loop {
            for action in actions {
                trace::action(&action, &self.supervisor);
                self.perform(action);
            }
            if self.follow_up.is_empty() {
                return;
            }
            let events: Vec<Event> = self.follow_up.drain(..).collect();
            for event in &events {
                trace::event(event, &self.supervisor);
            }
            let now = self.time_of(&events);
            actions = self.supervisor.handle_all(now, events);
        }
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
            Action::Probe(id, process) => self.probe(id, &process),
            Action::CancelProbe(id) => self.cancel_probe(id),
            Action::Notify(notice) => self.logs.print_message(notice),
        }
    }

    fn stop(&mut self, id: ProcessId, signal: Signal, scope: Scope) {
        let request = Request::Stop { id: id.into(), signal: signal as i32, scope };
        self.keeper.send_request(request, Vec::new());
    }

    fn spawn(&mut self, id: ProcessId, process: Arc<plan::ProcessPlan>) -> io::Result<()> {
        self.oom.on_spawn(id);
        let Output { source, process_end, pty } = self.open_output(&process)?;
        let listener = process.port.filter(|_| process.listen);
        let listener = listener.and_then(|port| self.listeners.get(port)).transpose()?;
        let (shell, passed) = (&self.plan.shell, listener.is_some());
        let spawn = spawn_request::new(
            id.into(),
            &process,
            &process.command,
            shell,
            pty.is_some(),
            passed,
        )?;
        let files: Vec<OwnedFd> = [process_end].into_iter().chain(listener).collect();
        self.keeper.send_request(Request::Spawn(spawn), files);
        self.terminals.extend(pty.map(|pty| (id, pty)));
        self.unread_output.insert(id, (source, process));
        Ok(())
    }

    /// Opens a terminal for a process that is to have one, and otherwise a pipe.
    fn open_output(&self, process: &plan::ProcessPlan) -> io::Result<Output> {
        if process.pty {
            let opened = Pty::open(self.window_size(&process.name));
            let opened = opened.and_then(|(pty, slave)| Ok((pty.reader()?, slave, pty)));
            match opened {
                Ok((reader, process_end, pty)) => {
                    let source = SourceFile::Terminal(reader);
                    return Ok(Output { source, process_end, pty: Some(pty) });
                }
                Err(error) => {
                    let (name, reason) = (process.name.clone(), error.to_string());
                    self.logs.print_message(Notice::NoTerminal { name, reason });
                }
            }
        }
        let (read, write) = io::pipe()?;
        let (read, process_end) = (OwnedFd::from(read), OwnedFd::from(write));
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if self.supervisor.count() <= LARGE_PIPES {
            enlarge(&read);
        }
        Ok(Output { source: SourceFile::Pipe(read), process_end, pty: None })
    }

    /// Starts to read the output of a process.
    fn start_reading(&mut self, id: ProcessId) {
        let Some((source, process)) = self.unread_output.remove(&id) else { return };
        let label = self.display.label(&process);
        if let Some(pattern) = &process.fail {
            self.logs.watch_for_line(ChildId::from(id).0, pattern.regex().clone());
        }
        self.logs.add_source(ChildId::from(id).0, process.name.as_str().into(), source, label);
    }

    /// Handles a report, and those that have arrived since: the supervisor checks all processes
    /// once for all these reports.
    fn on_reports(&mut self, first: Report) -> Result<(), KeeperError> {
        let mut next = Some(first);
        let mut events = Vec::new();
        let mut handled = 0;
        while let Some(report) = next.take() {
            if let Report::Spawned { id, pid } = report
                && ProcessId::of_check(id).is_none()
            {
                // Its output comes after the message that it was started.
                events.push(Event::Spawned(id.into(), pid));
                self.handle_events(std::mem::take(&mut events));
                self.start_reading(id.into());
            } else {
                events.extend(self.on_report(report));
            }
            handled += 1;
            if handled < MAX_REPORTS {
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
                self.unread_output.remove(&id.into());
                self.terminals.remove(&id.into());
                let errno = Errno::from_raw(errno);
                self.explain_start_failure(id.into(), step, errno);
                let exit = Exit::NotStarted { step, errno };
                Some(Event::Exited(id.into(), exit, Vec::new()))
            }
            Report::Cancelled { id } => {
                self.cancel_probe(id.into());
                self.unread_output.remove(&id.into());
                self.terminals.remove(&id.into());
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
                // Its last lines come before the message about its exit.
                self.logs.drain_source(id.0);
                self.cancel_probe(id.into());
                self.check_oom_kill(id.into(), wait.into());
                if left.is_empty() {
                    self.terminals.remove(&id.into());
                }
                Some(Event::Exited(id.into(), wait.into(), left))
            }
            Report::GroupEmpty { id } => {
                self.logs.drain_source(id.0);
                self.terminals.remove(&id.into());
                Some(Event::GroupEmpty(id.into()))
            }
            Report::Orphans { left } => Some(Event::Orphans(left)),
            Report::Swept { left } => Some(Event::Swept(left)),
            Report::Pong(number) => {
                // Earlier reports are handled by now, so that they count before a deadline does.
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

    /// Of a probe command.
    fn on_check_report(&mut self, of: ProcessId, report: &Report) {
        match report {
            Report::Exited { wait, .. } => self.on_probe_command_ended(of, (*wait).into()),
            Report::Cancelled { .. } => self.probes.repeat_command(of),
            Report::SpawnFailed { step, errno, .. } => {
                let (step, errno) = (*step, Errno::from_raw(*errno));
                self.on_probe_command_ended(of, Exit::NotStarted { step, errno });
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

    /// Prints why a process could not be started, if its folder or program is the reason.
    fn explain_start_failure(&mut self, id: ProcessId, step: SpawnStep, errno: Errno) {
        let Some(process) = self.supervisor.find(id).map(|status| status.plan) else { return };
        let name = process.name.clone();
        let notice = match step {
            SpawnStep::Fork => return,
            SpawnStep::Dir => Notice::NoFolder { name, reason: folder_error(&process.dir, errno) },
            SpawnStep::Exec if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {
                return;
            }
            SpawnStep::Exec => {
                let argv = shell::argv(&self.plan.shell, &process.command);
                let key = OsStr::new("PATH");
                let search_path = process.env.get(key).or_else(|| process.shared.get(key));
                let search_path = search_path.map(|var| var.value.as_os_str());
                let reason = exec_error(&argv[0], &process.dir, search_path, errno);
                Notice::CannotExecute { name, reason }
            }
        };
        self.logs.print_message(notice);
    }

    /// Watches the files that the plan names.
    fn watch_files(&mut self) {
        let (root, processes) = (&self.plan.root, &self.plan.processes);
        if self.watch.as_ref().is_none_or(|watch| !watch.is_for(root, processes)) {
            self.watch = Watch::start(root, processes, self.file_changes.0.clone());
        }
    }

    fn on_file_change(&mut self, change: FileChange) {
        match change {
            FileChange::WatchFailed(reason) => {
                self.logs.print_message(Notice::WatchFailed { reason });
            }
            FileChange::Changed(types, file) => {
                let file =
                    file.strip_prefix(&self.plan.root).unwrap_or(&file).display().to_string();
                let status = self.supervisor.status().filter(Status::restarts_on_file_change);
                let status: Vec<Status> =
                    status.filter(|status| types.contains(&status.plan.process_type)).collect();
                if status.is_empty() || self.supervisor.is_ending() {
                    return;
                }
                let names = status.iter().map(|status| status.plan.name.clone()).collect();
                self.logs.print_message(Notice::FileChanged { file, names });
                let ids: Vec<ProcessId> = status.iter().map(|status| status.id).collect();
                let now = self.time_of(&[]);
                let (_, actions) = self.supervisor.restart(now, &ids, RestartMode::AtOnce);
                self.carry_out(actions);
                self.commands.announce();
            }
        }
    }

    fn probe(&mut self, id: ProcessId, process: &Arc<plan::ProcessPlan>) {
        if let Some(pid) = self.supervisor.find(id).and_then(|status| status.pid()) {
            self.probes.probe(id, process, pid);
        }
        if let Ready::Log(text) = &process.ready {
            self.logs.watch_for_text(ChildId::from(id).0, text);
        }
    }

    /// A process has written the text that makes it ready, unless the plan has changed that.
    fn on_matched(&mut self, id: ProcessId) {
        let status = self.supervisor.find(id);
        if status.is_some_and(|status| matches!(status.plan.ready, Ready::Log(_))) {
            self.on_ready(id);
        }
    }

    fn on_probe_result(&mut self, result: ProbeResult) {
        match result {
            ProbeResult::NeedsProbed(id, missing) => {
                self.handle_event(Event::NeedsProbed(id, missing));
            }
            ProbeResult::Ready(id) => self.on_ready(id),
            ProbeResult::WrongPort(id, found) => {
                if let Some(status) = self.supervisor.find(id) {
                    let (name, given) = (status.plan.name.clone(), status.plan.port);
                    let given = given.unwrap_or_default();
                    self.logs.print_message(Notice::WrongPort { name, given, found });
                }
            }
            ProbeResult::PortConflict(id, owner) => {
                if let Some(status) = self.supervisor.find(id) {
                    let (process, port) = (status.plan.name.clone(), status.plan.port);
                    let (port, owner) = (port.unwrap_or_default(), Some(owner));
                    let conflict = PortConflict { process, port, owner, required: true };
                    self.logs.print_message(Notice::PortConflict { conflict });
                }
            }
            ProbeResult::Failed(id, failure) => {
                self.handle_event(Event::ProbeFailed(id, failure));
            }
            ProbeResult::CommandDue(id) => {
                if self.run_probe_command(id).is_err() {
                    self.probes.repeat_command(id);
                }
            }
            ProbeResult::CommandTimedOut(id) => self.kill_probe_command(id),
        }
    }

    fn on_ready(&mut self, id: ProcessId) {
        self.cancel_probe(id);
        self.handle_event(Event::Ready(id));
    }

    fn cancel_probe(&mut self, id: ProcessId) {
        if self.probes.cancel(id) {
            self.kill_probe_command(id);
        }
    }

    /// Runs the probe command of a process. Its output is discarded.
    fn run_probe_command(&mut self, id: ProcessId) -> io::Result<()> {
        let Some((process, command)) = self.probes.command(id) else { return Ok(()) };
        let null = File::options().write(true).open("/dev/null")?;
        let spawn =
            spawn_request::new(id.check(), process, command, &self.plan.shell, false, false)?;
        self.keeper.send_request(Request::Spawn(spawn), vec![null.into()]);
        Ok(())
    }

    fn kill_probe_command(&mut self, id: ProcessId) {
        let (id, signal, scope) = (id.check(), libc::SIGKILL, Scope::All);
        self.keeper.send_request(Request::Stop { id, signal, scope }, Vec::new());
    }

    /// The probe command of a process has ended, or never ran.
    fn on_probe_command_ended(&mut self, id: ProcessId, exit: Exit) {
        // Its descendants have nothing left to do.
        self.kill_probe_command(id);
        let Some((_, command)) = self.probes.command(id) else { return };
        if exit.failed() {
            let failure = ProbeFailure::Command { command: command.to_owned(), exit };
            self.handle_event(Event::ProbeFailed(id, failure));
            self.probes.repeat_command(id);
        } else {
            self.on_ready(id);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            // A client that has left needs no reply.
            Command::Snapshot(reply) => drop(reply.send(self.snapshot())),
            Command::GetPlan(reply) => {
                let _ = reply.send((Arc::clone(&self.plan), self.listeners.clone()));
            }
            Command::ApplyPlan(plan, listeners, mode, reply) => {
                if self.supervisor.is_ending() {
                    return;
                }
                self.display.apply_plan(&plan);
                (self.plan, self.listeners) = (Arc::from(plan), listeners);
                self.watch_files();
                let plan = Arc::clone(&self.plan);
                self.handle_request("apply plan", reply, |supervisor, now| {
                    supervisor.apply_plan(now, &plan, mode)
                });
            }
            Command::Restart(ids, mode, reply) => {
                self.handle_request("restart", reply, |supervisor, now| {
                    supervisor.restart(now, &ids, mode)
                });
            }
            Command::Stop(ids, reply) => {
                self.handle_request("stop", reply, |supervisor, now| supervisor.stop(now, &ids));
            }
            Command::Signal(ids, signal, reply) => {
                let running = self.supervisor.running_among(&ids);
                let (signalled, ids): (Vec<String>, Vec<ProcessId>) = running.into_iter().unzip();
                self.send_signal(signal, ids);
                let changes = Changes { signalled, ..Changes::default() };
                trace::request("signal", &changes);
                let _ = reply.send(changes);
            }
            Command::GetTerminal(id, reply) => drop(reply.send(self.terminals.get(&id).cloned())),
            Command::SetWindow(name, size) => self.set_window(name, size),
            Command::ReleaseOutput(reply) => {
                self.release_reply = Some(reply);
                self.logs.release_output();
            }
            Command::Print(notice) => self.logs.print_message(notice),
            Command::Quit => self.handle_event(Event::Quit),
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let since = Instant::now();
        let processes = self.supervisor.status().collect();
        let (now, ending) = (self.now(), self.supervisor.is_ending());
        Snapshot::new(now, processes, ending, self.display.colors(), since)
    }

    fn on_signal(&mut self, request: SignalRequest) {
        match request {
            SignalRequest::Stop(signal) => self.handle_event(Event::StopSignal(signal)),
            SignalRequest::Forward(signal) => {
                let running: Vec<ProcessId> = self.supervisor.running().collect();
                self.send_signal(signal, running);
            }
            SignalRequest::Resize => {
                self.resize_at.get_or_insert_with(|| Instant::now() + RESIZE_DELAY);
            }
            SignalRequest::Status => self.notify_status(),
            SignalRequest::Resume => self.keeper.send_request(Request::Resume, Vec::new()),
            // It takes a while, and is done by the loop itself.
            SignalRequest::Suspend => {}
            SignalRequest::Keeper => self.keeper.handle_sigchld(),
        }
    }

    /// Gives the terminals of processes the size that is left beside the prefix. The system sends
    /// SIGWINCH to the foreground group of a terminal whose size has changed, and ganger to every
    /// other process.
    fn resize_terminals(&mut self) {
        self.resize_at = None;
        let running: Vec<ProcessId> = self.supervisor.running().collect();
        let mut others = Vec::new();
        for id in running {
            let name = self.supervisor.find(id).map(|status| status.plan.name.clone());
            let size = self.window_size(&name.unwrap_or_default());
            let resized = self.terminals.get(&id).map(|pty| pty.set_size(size));
            if !matches!(resized, Some(Ok(true))) {
                others.push(id);
            }
        }
        self.send_signal(Signal::SIGWINCH, others);
    }

    /// The size of the terminal of the process with this name.
    fn window_size(&self, name: &str) -> WindowSize {
        self.windows.get(name).copied().unwrap_or_else(|| self.display.window_size())
    }

    /// The process with this name is shown in a client's window of this size, or no longer.
    fn set_window(&mut self, name: String, size: Option<WindowSize>) {
        let size_now = size.unwrap_or_else(|| self.display.window_size());
        let status = self.supervisor.status().find(|status| status.plan.name == name);
        let pty = status.and_then(|status| self.terminals.get(&status.id));
        // The process may have closed its terminal.
        let _ = pty.map(|pty| pty.set_size(size_now));
        match size {
            Some(size) => drop(self.windows.insert(name, size)),
            None => drop(self.windows.remove(&name)),
        }
    }

    fn send_signal(&mut self, signal: Signal, to: Vec<ProcessId>) {
        for id in to {
            trace::signal(id, signal, &self.supervisor);
            let request = Request::Signal { id: id.into(), signal: signal as i32 };
            self.keeper.send_request(request, Vec::new());
        }
    }

    /// Suspends all processes, and then ganger. They are in sessions of their own, where
    /// SIGTSTP has no effect.
    async fn suspend(&mut self) -> Result<(), KeeperError> {
        self.keeper.send_request(Request::Suspend, Vec::new());
        let mut meanwhile = Vec::new();
        let suspended = timeout(SUSPEND_TIMEOUT, async {
            loop {
                match self.keeper.next_report().await? {
                    Report::Suspended => return Ok(()),
                    other => meanwhile.push(other),
                }
            }
        });
        // A keeper that takes longer does it while ganger is suspended.
        suspended.await.unwrap_or(Ok(()))?;
        let since = Instant::now();
        let _ = raise(Signal::SIGSTOP);
        self.clock.add_pause(since.elapsed());
        for report in meanwhile {
            self.on_reports(report)?;
        }
        Ok(())
    }

    /// Prints what is worth knowing about the plan before anything runs.
    fn notify_plan(&mut self) {
        if !self.plan.env_conflicts.is_empty() {
            let (keys, files_win) = (self.plan.env_conflicts.clone(), self.plan.files_win);
            self.logs.print_message(Notice::EnvConflict { keys, files_win });
        }
        for advice in self.plan.advice.iter().cloned() {
            self.logs.print_message(Notice::Advice(advice));
        }
        if !self.plan.unlisted.is_empty() {
            self.logs.print_message(Notice::Unlisted { types: self.plan.unlisted.clone() });
        }
    }

    fn notify_status(&mut self) {
        let now = self.now();
        let processes = self.supervisor.status().map(|status| summary(&status, now)).collect();
        self.logs.print_message(Notice::Status { processes });
    }

    /// Prints what went wrong, if something did, and returns it as lines.
    async fn report(&mut self, outcome: &Outcome) -> Vec<String> {
        let mut report = Vec::new();
        if let Some(Failure { name, exit, line }) = outcome.first_failure() {
            // A single process has just shown its last lines.
            let alone = matches!(self.plan.processes.as_slice(), [only] if only.shown);
            let lines = if alone {
                Vec::new()
            } else {
                failure_report::last_lines(self.logs.queries(), name.clone()).await
            };
            let no_memory = self.oom.has_killed(name);
            let others = outcome.stopped.clone();
            let is_news = !lines.is_empty() || !others.is_empty() || no_memory;
            let (name, exit, line) = (name.clone(), *exit, line.clone());
            let notice = Notice::Report { name, exit, line, no_memory, lines, others };
            report = notice.to_string().lines().map(str::to_owned).collect();
            if is_news {
                self.logs.print_message(notice);
            }
        }
        report
    }

    /// Prints a message if memory ran out when a process was killed.
    fn check_oom_kill(&mut self, id: ProcessId, exit: Exit) {
        let Some(status) = self.supervisor.find(id) else { return };
        if self.oom.on_exit(&status.plan.name, exit) {
            self.logs.print_message(Notice::OutOfMemory { name: status.plan.name.clone() });
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

/// What the status message shows of a process.
fn summary(status: &Status, now: Instant) -> ProcessSummary {
    let until = |at: Instant| at.saturating_duration_since(now);
    let state = match &status.state {
        State::Down => StateSummary::Down { last: status.last },
        State::Backoff { until: at } => StateSummary::Backoff { restart_in: until(*at) },
        State::Waiting { .. } => StateSummary::Waiting,
        State::Starting { .. } => StateSummary::Starting,
        State::Up { since, .. } => {
            StateSummary::Up { uptime: now.duration_since(*since), is_ready: status.is_ready() }
        }
        State::Stopping { kill_at, .. } => StateSummary::Stopping { kill_in: until(*kill_at) },
        State::Killed { .. } => StateSummary::Killed,
        State::Stuck { .. } => StateSummary::Stuck,
    };
    ProcessSummary { name: status.plan.name.clone(), pid: status.pid(), state }
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
