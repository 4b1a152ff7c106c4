//! The requests that other parts of this process make of a running engine, and its replies.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::listeners::Listeners;
use super::share::Shared;
use super::supervisor::{ProcessId, RestartMode, Status};
use crate::changes::Changes;
use crate::logs::format::Color;
use crate::logs::subscribers::OutputQueries;
use crate::notice::Notice;
use crate::plan::Plan;
use crate::pty::{Pty, WindowSize};

/// A request, and where to send the reply. None is sent when it comes too late.
#[derive(Debug)]
pub(super) enum Command {
    Snapshot(oneshot::Sender<Snapshot>),
    GetPlan(oneshot::Sender<(Arc<Plan>, Listeners)>),
    ApplyPlan(Box<Plan>, Listeners, RestartMode, oneshot::Sender<Changes>),
    Restart(Vec<ProcessId>, RestartMode, oneshot::Sender<Changes>),
    Stop(Vec<ProcessId>, oneshot::Sender<Changes>),
    Signal(Vec<ProcessId>, Signal, oneshot::Sender<Changes>),
    GetTerminal(ProcessId, oneshot::Sender<Option<Pty>>),
    SetWindow(String, Option<WindowSize>),
    ReleaseOutput(oneshot::Sender<()>),
    Print(Notice),
    Quit,
}

/// The part of the engine's time that snapshots may take: after each, there is none for this
/// many times as long as it took.
const REST: u32 = 4;
/// Shorter pauses are not worth a timer, and longer ones only mean that the machine is busy.
const MIN_REST: Duration = Duration::from_millis(1);
const MAX_REST: Duration = Duration::from_millis(200);

/// The state of all processes at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The moment, by the clock of the states.
    pub now: Instant,
    /// Every process, in the order of the plan.
    pub processes: Vec<Status>,
    /// Whether everything is being stopped.
    pub ending: bool,
    /// The colour of each process type.
    pub colors: Arc<HashMap<String, Color>>,
    /// How long it took to make.
    took: Duration,
    /// The position of each process by its name, once a client asks for it.
    positions: OnceLock<HashMap<String, usize>>,
}

impl Snapshot {
    /// The state now; the engine has worked on it `since`.
    pub(super) fn new(
        now: Instant,
        processes: Vec<Status>,
        ending: bool,
        colors: HashMap<String, Color>,
        since: Instant,
    ) -> Self {
        let (colors, positions) = (Arc::new(colors), OnceLock::new());
        Self { now, processes, ending, colors, took: since.elapsed(), positions }
    }

    /// The process of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Status> {
        self.position(name).map(|at| &self.processes[at])
    }

    /// The position of the process of this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        let positions = self.positions.get_or_init(|| {
            let names = self.processes.iter().map(|status| status.plan.name.clone());
            names.enumerate().map(|(at, name)| (name, at)).collect()
        });
        positions.get(name).copied()
    }
}

/// The engine has ended, or is about to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("ganger is shutting down")]
pub struct Stopping;

/// What other parts of this process know of the engine.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    snapshots: Shared<Snapshot>,
    changes: watch::Receiver<()>,
    output: OutputQueries,
}

/// The engine's own end.
#[derive(Debug)]
pub(super) struct Commands {
    receiver: mpsc::UnboundedReceiver<Command>,
    changes: watch::Sender<()>,
    /// Keeps the channel open.
    handle: Handle,
}

impl Commands {
    /// Needs a tokio runtime.
    pub(super) fn new(output: OutputQueries) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (sender, changes) = watch::channel(());
        let snapshots = share_snapshots(commands.clone());
        let handle = Handle { commands, snapshots, changes, output };
        Self { receiver, changes: sender, handle }
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The next one. Nothing is lost if this is cancelled.
    pub(super) async fn next(&mut self) -> Command {
        match self.receiver.recv().await {
            Some(command) => command,
            None => std::future::pending().await,
        }
    }

    /// Something may have changed.
    pub(super) fn announce(&self) {
        self.changes.send_replace(());
    }
}

/// Has the engine make snapshots: one for all clients that have asked for one until then.
fn share_snapshots(commands: mpsc::UnboundedSender<Command>) -> Shared<Snapshot> {
    let make = move || {
        let (reply, snapshot) = oneshot::channel();
        let sent = commands.send(Command::Snapshot(reply));
        async move {
            sent.ok()?;
            snapshot.await.ok()
        }
    };
    Shared::new(make, |snapshot| {
        let rest = (snapshot.took * REST).min(MAX_REST);
        if rest < MIN_REST { Duration::ZERO } else { rest }
    })
}

impl Handle {
    /// The state of all processes.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, Stopping> {
        self.snapshots.get().await.ok_or(Stopping)
    }

    /// The output of all processes.
    #[must_use]
    pub fn output(&self) -> &OutputQueries {
        &self.output
    }

    /// The plan that the engine follows, and what ganger listens on for it.
    pub async fn plan(&self) -> Result<(Arc<Plan>, Listeners), Stopping> {
        self.request(Command::GetPlan).await
    }

    /// Has the engine follow this plan from now on. Returns what that changed.
    pub async fn apply_plan(
        &self,
        plan: Plan,
        listeners: Listeners,
        mode: RestartMode,
    ) -> Result<Changes, Stopping> {
        self.request(|reply| Command::ApplyPlan(Box::new(plan), listeners, mode, reply)).await
    }

    /// Restarts these processes, and starts those that are down. Returns what was done.
    pub async fn restart(
        &self,
        ids: Vec<ProcessId>,
        mode: RestartMode,
    ) -> Result<Changes, Stopping> {
        self.request(|reply| Command::Restart(ids, mode, reply)).await
    }

    /// Stops these processes. Returns what was done.
    pub async fn stop(&self, ids: Vec<ProcessId>) -> Result<Changes, Stopping> {
        self.request(|reply| Command::Stop(ids, reply)).await
    }

    /// Sends a signal to those of these processes that run. Returns what was done.
    pub async fn signal(&self, ids: Vec<ProcessId>, signal: Signal) -> Result<Changes, Stopping> {
        self.request(|reply| Command::Signal(ids, signal, reply)).await
    }

    /// The terminal of a process; none if it runs on a pipe, or nothing of it runs.
    pub async fn terminal(&self, id: ProcessId) -> Result<Option<Pty>, Stopping> {
        self.request(|reply| Command::GetTerminal(id, reply)).await
    }

    /// Gives the terminal of the process with this name the size of a client's window, now and
    /// after a restart; without a size, that of ganger's own terminal again.
    pub fn set_window(&self, name: String, size: Option<WindowSize>) -> Result<(), Stopping> {
        self.send(Command::SetWindow(name, size))
    }

    /// Releases every terminal, pipe and socket that output goes to, once everything printed so
    /// far is written.
    pub async fn release_output(&self) -> Result<(), Stopping> {
        self.request(Command::ReleaseOutput).await
    }

    /// Prints a message.
    pub fn print(&self, notice: Notice) -> Result<(), Stopping> {
        self.send(Command::Print(notice))
    }

    /// Stops everything, and ganger with it.
    pub fn quit(&self) -> Result<(), Stopping> {
        self.send(Command::Quit)
    }

    /// Waits until something may have changed since the last call.
    pub async fn changed(&mut self) -> Result<(), Stopping> {
        self.changes.changed().await.map_err(|_| Stopping)
    }

    /// Returns once the engine has replied: a client that waits for that can't fill the queue.
    async fn request<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopping> {
        let (reply, replied) = oneshot::channel();
        self.send(command(reply))?;
        replied.await.map_err(|_| Stopping)
    }

    fn send(&self, command: Command) -> Result<(), Stopping> {
        self.commands.send(command).map_err(|_| Stopping)
    }
}
