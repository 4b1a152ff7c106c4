//! What a running engine is asked, by others in this process.

use std::time::{Instant, SystemTime};

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::sockets::Sockets;
use super::supervisor::{Pace, Status};
use crate::logs::follow::{BEHIND, Filter, Question, Said};
use crate::logs::format::Color;
use crate::logs::recent::Line;
use crate::notice::Notice;
use crate::plan::Plan;

/// Something to do or to tell. What can't be right is refused before it gets here.
#[derive(Debug)]
pub(super) enum Command {
    Look(oneshot::Sender<Snapshot>),
    Plan(Box<Plan>, Sockets, Pace),
    Restart(Vec<String>, Pace),
    Stop(Vec<String>),
    Signal(Vec<String>, Signal),
    Logs(Box<Question>),
    Detach(oneshot::Sender<()>),
    Say(Notice),
    Quit,
}

/// Where things stand.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By the clock that the states of the processes go by.
    pub now: Instant,
    /// Every process, in the order of the plan.
    pub processes: Vec<Status>,
    /// Whether all is being stopped.
    pub ending: bool,
    /// The colour of each process type.
    pub colors: Vec<(String, Color)>,
}

/// The engine is gone, or about to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("ganger is stopping")]
pub struct Stopping;

/// The engine, to whoever asks.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    changes: watch::Receiver<()>,
}

/// The engine's own end.
#[derive(Debug)]
pub(super) struct Commands {
    receiver: mpsc::UnboundedReceiver<Command>,
    changes: watch::Sender<()>,
    /// So that there is always somebody who could ask.
    handle: Handle,
}

impl Commands {
    pub(super) fn new() -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (sender, changes) = watch::channel(());
        Self { receiver, changes: sender, handle: Handle { commands, changes } }
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

impl Handle {
    /// Where things stand.
    pub async fn look(&self) -> Result<Snapshot, Stopping> {
        let (answer, snapshot) = oneshot::channel();
        self.send(Command::Look(answer))?;
        snapshot.await.map_err(|_| Stopping)
    }

    /// Runs by this plan from now on.
    pub fn plan(&self, plan: Plan, sockets: Sockets, pace: Pace) -> Result<(), Stopping> {
        self.send(Command::Plan(Box::new(plan), sockets, pace))
    }

    /// Starts these again, or starts them.
    pub fn restart(&self, names: Vec<String>, pace: Pace) -> Result<(), Stopping> {
        self.send(Command::Restart(names, pace))
    }

    /// Lets these go down.
    pub fn stop(&self, names: Vec<String>) -> Result<(), Stopping> {
        self.send(Command::Stop(names))
    }

    /// Sends a signal to these, as far as they run.
    pub fn signal(&self, names: Vec<String>, signal: Signal) -> Result<(), Stopping> {
        self.send(Command::Signal(names, signal))
    }

    /// What those whose name is right have said; with `follow`, also what they say
    /// from then on, as far as whoever listens keeps up.
    pub async fn logs(
        &self,
        filter: Filter,
        since: Option<SystemTime>,
        most: usize,
        follow: bool,
    ) -> Result<(Vec<Line>, Option<mpsc::Receiver<Said>>), Stopping> {
        let (answer, lines) = oneshot::channel();
        let (follow, said) = match follow.then(|| mpsc::channel(BEHIND)) {
            Some((follow, said)) => (Some(follow), Some(said)),
            None => (None, None),
        };
        let question = Question { filter, most, since, answer, follow };
        self.send(Command::Logs(Box::new(question)))?;
        Ok((lines.await.map_err(|_| Stopping)?, said))
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

    fn send(&self, command: Command) -> Result<(), Stopping> {
        self.commands.send(command).map_err(|_| Stopping)
    }
}
