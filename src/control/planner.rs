//! Makes new plans for the running app, one after the other: what is scaled while
//! files are read again is not forgotten.

use tokio::sync::{mpsc, oneshot};

use crate::plan::scale::{Change, Differences, scale};
use crate::plan::sources::{Places, Sources};
use crate::plan::{Options, Plan};
use crate::supervise::command::{Handle, Stopping};
use crate::supervise::sockets::Sockets;
use crate::supervise::supervisor::Pace;

/// What comes of it, or why nothing does.
pub type Answer = Result<Differences, String>;

#[derive(Debug)]
enum Order {
    Scale(Vec<Change>, oneshot::Sender<Answer>),
    Reload(Pace, oneshot::Sender<Answer>),
}

/// The planner, to whoever has an order for it.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// Changes how many run.
    pub async fn scale(&self, changes: Vec<Change>) -> Answer {
        self.give(|answer| Order::Scale(changes, answer)).await
    }

    /// Reads all files again.
    pub async fn reload(&self, pace: Pace) -> Answer {
        self.give(|answer| Order::Reload(pace, answer)).await
    }

    async fn give(&self, order: impl FnOnce(oneshot::Sender<Answer>) -> Order) -> Answer {
        let (answer, differences) = oneshot::channel();
        self.0.send(order(answer)).await.map_err(|_| Stopping.to_string())?;
        differences.await.map_err(|_| Stopping.to_string())?
    }
}

/// So many may wait for their turn.
const WAITING: usize = 128;

/// All that a plan is made from.
#[derive(Debug)]
pub struct Planner {
    /// Where the files are.
    pub places: Places,
    /// What they said when they were last read.
    pub sources: Sources,
    /// What the flags said, and the app was told since.
    pub options: Options,
    /// What runs.
    pub plan: Plan,
    /// And what ganger listens on for it.
    pub sockets: Sockets,
}

impl Planner {
    /// Begins to take orders; needs a tokio runtime.
    #[must_use]
    pub fn start(self, engine: Handle) -> Orders {
        let (orders, receive) = mpsc::channel(WAITING);
        tokio::spawn(self.run(receive, engine));
        Orders(orders)
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>, engine: Handle) {
        while let Some(order) = orders.recv().await {
            let (answer, to) = match order {
                Order::Scale(changes, to) => (self.scale(&changes, &engine).await, to),
                Order::Reload(pace, to) => (self.reload(pace, &engine).await, to),
            };
            // Whoever asked may be gone.
            let _ = to.send(answer);
        }
    }

    async fn scale(&mut self, changes: &[Change], engine: &Handle) -> Answer {
        let text = |error: &dyn std::error::Error| error.to_string();
        let scaled =
            scale(&self.plan, &self.options.scaled, changes).map_err(|error| text(&error))?;
        let options = Options { scaled, ..self.options.clone() };
        let plan = Plan::new(&self.sources, &options).map_err(|error| text(&error))?;
        let sockets = self.sockets.of(&plan).map_err(|error| text(&error))?;
        self.options = options;
        self.adopt(plan, sockets, Pace::AtOnce, engine).await
    }

    async fn reload(&mut self, pace: Pace, engine: &Handle) -> Answer {
        if self.places.procfile.as_ref().is_some_and(|path| path.as_os_str() == "-") {
            return Err("the Procfile came from standard input, which can't be read again".into());
        }
        let (places, mut options) = (self.places.clone(), self.options.clone());
        let environment = self.sources.environment.clone();
        let read = tokio::task::spawn_blocking(move || {
            let sources = Sources::read(&places, environment).map_err(|error| error.to_string())?;
            let known = Plan::types_of(&sources).map_err(|error| error.to_string())?;
            options.scaled.retain(|name, _| known.contains(name));
            let plan = Plan::new(&sources, &options).map_err(|error| error.to_string())?;
            Ok::<_, String>((sources, options, plan))
        });
        let (sources, options, plan) = read.await.map_err(|error| error.to_string())??;
        let sockets = self.sockets.of(&plan).map_err(|error| error.to_string())?;
        (self.sources, self.options) = (sources, options);
        self.adopt(plan, sockets, pace, engine).await
    }

    async fn adopt(&mut self, plan: Plan, sockets: Sockets, pace: Pace, engine: &Handle) -> Answer {
        let stopping = |stopping: Stopping| stopping.to_string();
        let mut differences = Differences::between(&self.plan, &plan);
        let snapshot = engine.look().await.map_err(stopping)?;
        if snapshot.ending {
            return Err(stopping(Stopping));
        }
        // What was stopped stays so, and what has failed is tried again.
        for status in &snapshot.processes {
            let name = &status.plan.name;
            if let Some(at) = differences.restarted.iter().position(|it| it == name)
                && !status.wanted
            {
                differences.restarted.remove(at);
                differences.started.extend(status.follows_changes().then(|| name.clone()));
            }
        }
        engine.plan(plan.clone(), sockets.clone(), pace).map_err(stopping)?;
        (self.plan, self.sockets) = (plan, sockets);
        Ok(differences)
    }
}
