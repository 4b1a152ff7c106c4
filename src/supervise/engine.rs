//! The event loop: takes what happens to the supervisor, and does what it says.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, raise};
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::command::{Command, Commands, Handle, Snapshot};
use super::exit::Exit;
use super::signals::{Asked, Signals};
use super::sockets::Sockets;
use super::supervisor::{Action, Event, ProcessId, State, Status, Supervisor};
use crate::keeper::client::{Keeper, Lost};
use crate::keeper::protocol::{ChildId, Report, Request, Spawn, Stdin, Step};
use crate::logs::format::{Color, Style, colors};
use crate::logs::{self, Logs};
use crate::notice::{Notice, time};
use crate::plan::{self, Plan, shell};

/// Pipes of this size are worth their memory, for as many as an unprivileged
/// user may have without harming others' (pipe(7), `pipe-user-pages-soft`).
const PIPE_SIZE: i32 = 256 << 10;
const LARGE_PIPES: usize = 64;

/// What the engine shows, beside the plan.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// How lines are put out.
    pub style: Style,
    /// Colours for the types, in the order of the Procfile; none: those that
    /// ganger chooses.
    pub palette: Vec<Color>,
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
    /// What ganger itself listens on.
    sockets: Sockets,
    /// What processes write that are being started: it is read once that is said.
    unheard: HashMap<ProcessId, (OwnedFd, Arc<plan::Process>)>,
    /// Who waits for the terminal to be let go.
    detaching: Option<oneshot::Sender<()>>,
    /// How long everything was suspended: that time doesn't count.
    suspended: Duration,
    /// What happened while something was being done.
    follow_up: VecDeque<Event>,
}

impl Engine {
    /// Puts the parts together; nothing runs yet.
    #[must_use]
    pub fn new(
        plan: Plan,
        sockets: Sockets,
        show: Show,
        keeper: Keeper,
        logs: Logs,
        signals: Signals,
    ) -> Self {
        // Chance is for keeping apart what crashed together; a clock is enough.
        let seed =
            std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        Self {
            colors: colors(&plan.types(), &show.palette),
            supervisor: Supervisor::new(&plan, seed.into()),
            plan,
            show,
            keeper,
            logs,
            signals,
            commands: Commands::new(),
            sockets,
            unheard: HashMap::new(),
            detaching: None,
            suspended: Duration::ZERO,
            follow_up: VecDeque::new(),
        }
    }

    /// For whoever is to ask it something.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.commands.handle()
    }

    /// Has everything started, without waiting for it.
    pub fn begin(&mut self) {
        self.say_first();
        self.happen(Event::Tick);
    }

    /// Runs everything to its end, and returns ganger's exit code.
    pub async fn run(mut self) -> u8 {
        let code = loop {
            if let Some(outcome) = self.supervisor.outcome() {
                break outcome.code();
            }
            let deadline = self.supervisor.deadline().map(|at| at + self.suspended);
            tokio::select! {
                report = self.keeper.next() => match report {
                    Ok(report) => self.on_report(report),
                    Err(lost) => break self.on_keeper_lost(lost),
                },
                event = self.logs.next() => match event {
                    logs::Event::StdoutClosed => self.happen(Event::StdoutClosed),
                    logs::Event::Detached => drop(self.detaching.take().map(|tell| tell.send(()))),
                    logs::Event::Finished => {}
                },
                asked = self.signals.next() => self.on_signal(asked),
                command = self.commands.next() => self.on_command(command),
                () = until(deadline) => self.happen(Event::Tick),
            }
        };
        self.logs.finish();
        loop {
            tokio::select! {
                event = self.logs.next() => match event {
                    logs::Event::Finished => break,
                    logs::Event::StdoutClosed | logs::Event::Detached => {}
                },
                asked = self.signals.next() => match asked {
                    // Whoever reads is slow, and the user would not wait.
                    Asked::Stop(Signal::SIGINT) => break,
                    Asked::Stop(_) | Asked::Forward(_) | Asked::Status | Asked::Suspend
                    | Asked::Resume | Asked::Keeper => {}
                },
            }
        }
        self.keeper.leave();
        code
    }

    /// What is worth knowing before anything runs.
    fn say_first(&mut self) {
        if !self.plan.clashes.is_empty() {
            let (keys, files_win) = (self.plan.clashes.clone(), self.plan.files_win);
            self.logs.say(Notice::Clash { keys, files_win });
        }
        if !self.plan.unlisted.is_empty() {
            self.logs.say(Notice::Unlisted { types: self.plan.unlisted.clone() });
        }
    }

    fn now(&self) -> Instant {
        Instant::now().checked_sub(self.suspended).unwrap_or_else(Instant::now)
    }

    fn happen(&mut self, event: Event) {
        tracing::debug!(?event);
        self.follow_up.push_back(event);
        while let Some(event) = self.follow_up.pop_front() {
            for action in self.supervisor.handle(self.now(), event) {
                tracing::debug!(?action);
                self.perform(action);
            }
        }
        self.commands.announce();
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn(id, process) => {
                if let Err(error) = self.spawn(id, process) {
                    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN));
                    let exit = Exit::NotStarted { step: Step::Fork, errno };
                    self.follow_up.push_back(Event::Exited(id, exit, Vec::new()));
                }
            }
            Action::Stop(id, signal) => {
                let request = Request::Stop { id: id.into(), signal: signal as i32 };
                self.keeper.ask(&request, []);
            }
            Action::StopStrays => {
                self.keeper.ask(&Request::StopStrays, []);
                self.logs.stopping();
            }
            Action::Sweep => self.keeper.ask(&Request::Sweep, []),
            Action::Say(notice) => self.logs.say(notice),
        }
    }

    fn spawn(&mut self, id: ProcessId, process: Arc<plan::Process>) -> io::Result<()> {
        let (read, write) = io::pipe()?;
        let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if self.supervisor.count() <= LARGE_PIPES {
            enlarge(&read);
        }
        let argv = shell::argv(&self.plan.shell, &process.command);
        let env = process.environment();
        let pair = |(key, var): (&std::ffi::OsString, &plan::env::Var)| {
            [key.as_bytes(), b"=", var.value.as_bytes()].concat()
        };
        let listener = process.port.filter(|_| process.listen);
        let listener = listener.and_then(|port| self.sockets.get(port)).transpose()?;
        let spawn = Spawn {
            id: id.into(),
            argv: argv.into_iter().map(OsStringExt::into_vec).collect(),
            env: env.iter().map(pair).collect(),
            dir: process.dir.as_os_str().as_bytes().to_vec(),
            stdin: match process.stdin {
                plan::Stdin::Pipe => Stdin::Silent,
                plan::Stdin::Null => Stdin::Null,
            },
            listener: listener.is_some().then(|| process.kind.as_bytes().to_vec()),
        };
        if spawn.is_too_long() {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let files: Vec<OwnedFd> = [write].into_iter().chain(listener).collect();
        self.keeper.ask(&Request::Spawn(spawn), files);
        self.unheard.insert(id, (read, process));
        Ok(())
    }

    /// Has the output of a process read, if it isn't yet.
    fn hear(&mut self, id: ProcessId) {
        let Some((read, process)) = self.unheard.remove(&id) else { return };
        let index = self.plan.entries.iter().position(|entry| entry.name == process.kind);
        let color = index.map_or(0, |index| self.colors[index]);
        let label = process.shown.then(|| self.show.style.label(&process.name, color));
        self.logs.add(ChildId::from(id).0, process.name.as_str().into(), read, label);
    }

    fn on_report(&mut self, report: Report) {
        let event = match report {
            Report::Spawned { id, pid } => {
                self.happen(Event::Spawned(id.into(), pid));
                return self.hear(id.into());
            }
            Report::SpawnFailed { id, step, errno } => {
                self.unheard.remove(&id.into());
                let exit = Exit::NotStarted { step, errno: Errno::from_raw(errno) };
                Event::Exited(id.into(), exit, Vec::new())
            }
            Report::Exited { id, wait, left } => {
                // Its last lines come before what is said of its end.
                self.logs.drain(id.0);
                Event::Exited(id.into(), wait.into(), left)
            }
            Report::Empty { id } => {
                self.logs.drain(id.0);
                Event::Empty(id.into())
            }
            Report::Strays { left } => Event::Strays(left),
            Report::Swept { left } => Event::Swept(left),
            Report::Answered { .. } | Report::Isolated(_) => return,
        };
        self.happen(event);
    }

    /// Nothing can be supervised any more: everything is killed.
    fn on_keeper_lost(&mut self, lost: Lost) -> u8 {
        self.logs.stopping();
        self.logs.say(Notice::KeeperLost { lost });
        let left = self.keeper.sweep();
        if !left.is_empty() {
            self.logs.say(Notice::Survivors { left });
        }
        self.supervisor.outcome_so_far().code().max(1)
    }

    fn on_signal(&mut self, asked: Asked) {
        match asked {
            Asked::Stop(signal) => self.happen(Event::Asked(signal)),
            Asked::Forward(signal) => self.signal_all(signal),
            Asked::Status => self.say_status(),
            Asked::Suspend => self.suspend(),
            Asked::Resume => self.signal_all(Signal::SIGCONT),
            Asked::Keeper => self.keeper.check(),
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Look(answer) => {
                let processes = self.supervisor.status().collect();
                // Whoever asked may be gone.
                let colors = self.plan.types().into_iter().map(str::to_owned);
                let colors = colors.zip(self.colors.iter().copied()).collect();
                let ending = self.supervisor.is_ending();
                let _ = answer.send(Snapshot { now: self.now(), processes, ending, colors });
            }
            Command::Plan(plan, sockets, pace) => {
                let processes = plan.processes.clone();
                self.adopt(*plan, sockets);
                self.happen(Event::Plan(processes, pace));
            }
            Command::Restart(names, pace) => self.happen(Event::Restart(names, pace)),
            Command::Stop(names) => self.happen(Event::Stop(names)),
            Command::Signal(names, signal) => {
                self.signal(signal, |name| names.iter().any(|it| it == name));
            }
            Command::Logs(question) => self.logs.look(*question),
            Command::Detach(detached) => {
                self.detaching = Some(detached);
                self.logs.detach();
            }
            Command::Say(notice) => self.logs.say(notice),
            Command::Quit => self.happen(Event::Quit),
        }
    }

    /// What is started from now on is shown by this plan.
    fn adopt(&mut self, plan: Plan, sockets: Sockets) {
        self.sockets = sockets;
        self.colors = colors(&plan.types(), &self.show.palette);
        let names = plan.processes.iter().map(|process| process.name.as_str());
        // Those that run keep their width; none gets narrower.
        let width = self.show.style.fit(names).width.max(self.show.style.width);
        self.show.style.width = width;
        self.plan = plan;
    }

    /// Passes a signal on to all that run.
    fn signal_all(&mut self, signal: Signal) {
        self.signal(signal, |_| true);
    }

    /// Sends a signal to those that run and have such a name.
    fn signal(&mut self, signal: Signal, to: impl Fn(&str) -> bool) {
        for id in self.supervisor.running(to) {
            let request = Request::Signal { id: id.into(), signal: signal as i32 };
            self.keeper.ask(&request, []);
        }
    }

    /// Processes are in sessions of their own, where SIGTSTP has no effect.
    fn suspend(&mut self) {
        self.signal_all(Signal::SIGSTOP);
        let since = Instant::now();
        let _ = raise(Signal::SIGSTOP);
        self.suspended += since.elapsed();
        self.keeper.forgive();
    }

    fn say_status(&mut self) {
        let now = self.now();
        let line = |status: Status| {
            let pid = status.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let last = status.last.map(|exit| format!(", {exit}")).unwrap_or_default();
            let until = |at: Instant| time(at.saturating_duration_since(now));
            let state = match status.state {
                State::Down => format!("down{last}"),
                State::Backoff { until: at } => format!("down, started again in {}", until(at)),
                State::Starting => "starting".to_owned(),
                State::Up { since, .. } => format!("up {}", time(now.duration_since(since))),
                State::Stopping { kill_at, .. } => {
                    format!("stopping, SIGKILL in {}", until(kill_at))
                }
                State::Killed { .. } => "killed".to_owned(),
                State::Stuck { .. } => "killed, and still there".to_owned(),
            };
            format!("{}{pid}: {state}", status.plan.name)
        };
        let lines = self.supervisor.status().map(line).collect();
        self.logs.say(Notice::Status { lines });
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
