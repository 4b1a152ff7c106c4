//! What a running engine is asked, by others in this process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::listeners::Listeners;
use super::share::Shared;
use super::supervisor::{RestartMode, Status};
use crate::logs::format::Color;
use crate::logs::subscribers::OutputQueries;
use crate::notice::Notice;
use crate::plan::Plan;

/// Something to do or to tell. What can't be right is refused before it gets here.
#[derive(Debug)]
pub(super) enum Command {
    Snapshot(oneshot::Sender<Snapshot>),
    Plan(Box<Plan>, Listeners, RestartMode),
    Restart(Vec<String>, RestartMode),
    Stop(Vec<String>),
    Signal(HashSet<String>, Signal),
    /// Something to do, and where it is told that it is done.
    Acknowledged(Box<Command>, oneshot::Sender<()>),
    Detach(oneshot::Sender<()>),
    Say(Notice),
    Quit,
}

/// Of the engine's time, clients that look get at most a part: so many times as long as
/// the last look took, there is none.
const REST: u32 = 4;
/// Shorter pauses are not worth a timer, and longer ones come of a busy machine.
const MIN_REST: Duration = Duration::from_millis(1);
const MAX_REST: Duration = Duration::from_millis(200);

/// Where things stand.
#[derive(Debug)]
pub struct Snapshot {
    /// By the clock that the states of the processes go by.
    pub now: Instant,
    /// Every process, in the order of the plan.
    pub processes: Vec<Status>,
    /// Whether all is being stopped.
    pub ending: bool,
    /// The colour of each process type.
    pub colors: Arc<HashMap<String, Color>>,
    /// How long the engine took for it.
    took: Duration,
    /// Where each process stands, by its name: made by the first client that wants to know.
    places: OnceLock<HashMap<String, usize>>,
}

impl Snapshot {
    /// Of the processes as they are now; the engine has worked on it `since`.
    pub(super) fn new(
        now: Instant,
        processes: Vec<Status>,
        ending: bool,
        colors: HashMap<String, Color>,
        since: Instant,
    ) -> Self {
        let (colors, places) = (Arc::new(colors), OnceLock::new());
        Self { now, processes, ending, colors, took: since.elapsed(), places }
    }

    /// The process of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Status> {
        self.place(name).map(|at| &self.processes[at])
    }

    /// Where the process of this name stands.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        let places = self.places.get_or_init(|| {
            let names = self.processes.iter().map(|status| status.plan.name.clone());
            names.enumerate().map(|(at, name)| (name, at)).collect()
        });
        places.get(name).copied()
    }
}

/// The engine is gone, or about to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("ganger is shutting down")]
pub struct Stopping;

/// The engine, to its clients in this process.
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
    /// So that there is always a client.
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

/// Has the engine make snapshots: one for all clients that have asked until then, and not one
/// after the other.
fn share_snapshots(commands: mpsc::UnboundedSender<Command>) -> Shared<Snapshot> {
    let make = move || {
        let (answer, snapshot) = oneshot::channel();
        let sent = commands.send(Command::Snapshot(answer));
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
    /// Where things stand.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, Stopping> {
        self.snapshots.get().await.ok_or(Stopping)
    }

    /// What processes write.
    #[must_use]
    pub fn output(&self) -> &OutputQueries {
        &self.output
    }

    /// Runs by this plan from now on.
    pub async fn plan(
        &self,
        plan: Plan,
        sockets: Listeners,
        pace: RestartMode,
    ) -> Result<(), Stopping> {
        self.send_acknowledged(Command::Plan(Box::new(plan), sockets, pace)).await
    }

    /// Starts these again, or starts them.
    pub async fn restart(&self, names: Vec<String>, pace: RestartMode) -> Result<(), Stopping> {
        self.send_acknowledged(Command::Restart(names, pace)).await
    }

    /// Lets these go down.
    pub async fn stop(&self, names: Vec<String>) -> Result<(), Stopping> {
        self.send_acknowledged(Command::Stop(names)).await
    }

    /// Sends a signal to these, as far as they run.
    pub async fn signal(&self, names: HashSet<String>, signal: Signal) -> Result<(), Stopping> {
        self.send_acknowledged(Command::Signal(names, signal)).await
    }

    /// Has the terminal let go, once all that was said so far is written to it.
    pub async fn detach(&self) -> Result<(), Stopping> {
        let (tell, detached) = oneshot::channel();
        self.send(Command::Detach(tell))?;
        detached.await.map_err(|_| Stopping)
    }

    /// Says something.
    pub fn say(&self, notice: Notice) -> Result<(), Stopping> {
        self.send(Command::Say(notice))
    }

    /// Stops everything, and ganger with it.
    pub fn quit(&self) -> Result<(), Stopping> {
        self.send(Command::Quit)
    }

    /// Waits until something may have changed since the last call.
    pub async fn changed(&mut self) -> Result<(), Stopping> {
        self.changes.changed().await.map_err(|_| Stopping)
    }

    /// Returns once it is done: a client that waits for that can't fill the queue.
    async fn send_acknowledged(&self, command: Command) -> Result<(), Stopping> {
        let (tell, done) = oneshot::channel();
        self.send(Command::Acknowledged(Box::new(command), tell))?;
        done.await.map_err(|_| Stopping)
    }

    fn send(&self, command: Command) -> Result<(), Stopping> {
        self.commands.send(command).map_err(|_| Stopping)
    }
}
