//! Makes new plans for the running app, one after the other: what is scaled while
//! files are read again is not forgotten.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::app_root::AppRoot;
use super::socket::Aliases;
use super::thread::Thread;
use crate::notice::Notice;
use crate::plan::scale::{Change, Differences, scale};
use crate::plan::sources::{Places, Sources};
use crate::plan::{Options, Plan};
use crate::supervise::handle::{Handle, Snapshot, Stopping};
use crate::supervise::listeners::Listeners;
use crate::supervise::port_conflict::port_conflicts;
use crate::supervise::port_scan::listening;
use crate::supervise::supervisor::{RestartMode, Status};

/// What comes of it, or why nothing does.
pub type PlanResult = Result<Differences, Error>;

/// Why an request is not carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// All is being stopped.
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// Others have to be carried out first.
    #[error("{MAX_WAITING} changes wait for their turn already")]
    Busy,
    /// It can't be.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Debug)]
enum PlanRequest {
    Scale(Vec<Change>, oneshot::Sender<PlanResult>),
    Reload(RestartMode, oneshot::Sender<PlanResult>),
}

/// The planner, to whoever has an request for it.
#[derive(Clone, Debug)]
pub struct PlannerHandle(mpsc::Sender<PlanRequest>);

impl PlannerHandle {
    /// Changes how many run.
    pub async fn scale(&self, changes: Vec<Change>) -> PlanResult {
        self.request(|answer| PlanRequest::Scale(changes, answer)).await
    }

    /// Reads all files again.
    pub async fn reload(&self, pace: RestartMode) -> PlanResult {
        self.request(|answer| PlanRequest::Reload(pace, answer)).await
    }

    async fn request(
        &self,
        request: impl FnOnce(oneshot::Sender<PlanResult>) -> PlanRequest,
    ) -> PlanResult {
        let (answer, differences) = oneshot::channel();
        self.0.try_send(request(answer)).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Closed(_) => Stopping.into(),
        })?;
        differences.await.map_err(|_| Stopping)?
    }
}

/// So many may wait for their turn; the others are refused, and leave room for requests that
/// take no time.
const MAX_WAITING: usize = 64;

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
    pub sockets: Listeners,
    /// The paths that its control socket is found by, if those follow its root.
    pub aliases: Option<Aliases>,
}

/// A planner that takes requests.
#[derive(Debug)]
pub struct PlannerTask {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// How long it may take to end: a disk may not answer.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl PlannerTask {
    /// Has it end, and with it the paths that its control socket is found by.
    pub async fn finish(self) {
        drop(self.end);
        let _ = timeout(END_TIMEOUT, self.ended).await;
    }
}

impl Planner {
    /// Begins to take requests.
    #[must_use]
    pub fn start(self, thread: &Thread, engine: Handle) -> (PlannerHandle, PlannerTask) {
        let (requests, receive) = mpsc::channel(MAX_WAITING);
        let ((end, asked), (tell, ended)) = (oneshot::channel(), oneshot::channel());
        thread.spawn(async move {
            self.run(receive, engine, asked).await;
            // The end is awaited by the main thread, or no longer.
            let _ = tell.send(());
        });
        (PlannerHandle(requests), PlannerTask { end, ended })
    }

    async fn run(
        mut self,
        mut requests: mpsc::Receiver<PlanRequest>,
        engine: Handle,
        mut end: oneshot::Receiver<()>,
    ) {
        loop {
            let request = tokio::select! {
                _ = &mut end => return,
                request = requests.recv() => request,
            };
            let Some(request) = request else { return };
            let (answer, to) = match request {
                PlanRequest::Scale(changes, to) => (self.scale(&changes, &engine).await, to),
                PlanRequest::Reload(pace, to) => (self.reload(pace, &engine).await, to),
            };
            // Whoever asked may be gone.
            let _ = to.send(answer);
        }
    }

    async fn scale(&mut self, changes: &[Change], engine: &Handle) -> PlanResult {
        let scaled = scale(&self.plan, &self.options.scaled, changes).map_err(invalid)?;
        let options = Options { scaled, ..self.options.clone() };
        let (sources, told) = (self.sources.clone(), options.clone());
        let plan = spawn_blocking(move || {
            let known = Plan::types_of(&sources).map_err(invalid)?;
            Plan::new(&sources, &told.about(&known)).map_err(invalid)
        });
        let plan = plan.await.map_err(invalid)??;
        let differences = self.apply_plan(plan, RestartMode::AtOnce, engine).await?;
        self.options = options;
        Ok(differences)
    }

    async fn reload(&mut self, pace: RestartMode, engine: &Handle) -> PlanResult {
        if self.places.procfile.as_ref().is_some_and(|path| path.as_os_str() == "-") {
            let reason = "the Procfile came from standard input, which can't be read again";
            return Err(Error::Invalid(reason.into()));
        }
        let (places, options) = (self.places.clone(), self.options.clone());
        let environment = self.sources.environment.clone();
        let read = spawn_blocking(move || {
            let sources = Sources::read(&places, environment).map_err(invalid)?;
            let known = Plan::types_of(&sources).map_err(invalid)?;
            // A type that is gone may come back, and then is what the flags say.
            let plan = Plan::new(&sources, &options.about(&known)).map_err(invalid)?;
            plan.check_folders().map_err(invalid)?;
            Ok::<_, Error>((sources, plan))
        });
        let (sources, plan) = read.await.map_err(invalid)??;
        let differences = self.apply_plan(plan, pace, engine).await?;
        self.sources = sources;
        if let Some(aliases) = &mut self.aliases {
            let root = AppRoot::new(&self.places.root(), self.sources.root.clone());
            // The app runs on by its other paths, if another has this one.
            aliases.set(&root).unwrap_or_else(|error| tracing::debug!(%error));
        }
        Ok(differences)
    }

    /// Has the engine run by this plan, if nothing speaks against it.
    async fn apply_plan(&mut self, plan: Plan, pace: RestartMode, engine: &Handle) -> PlanResult {
        let snapshot = engine.snapshot().await?;
        if snapshot.ending {
            return Err(Stopping.into());
        }
        self.check_listeners(&plan)?;
        let unsure = self.check_ports(&plan, &snapshot).await?;
        let sockets = self.sockets.of(&plan).map_err(invalid)?;
        let mut differences = Differences::between(&self.plan, &plan);
        // What was stopped stays so, and what has failed is tried again.
        let Differences { started, restarted, .. } = &mut differences;
        let changed: HashSet<String> = restarted.iter().cloned().collect();
        let changed = snapshot.processes.iter().filter(|it| changed.contains(&it.plan.name));
        let down: Vec<&Status> = changed.filter(|status| !status.is_wanted()).collect();
        let names: HashSet<&str> = down.iter().map(|it| it.plan.name.as_str()).collect();
        restarted.retain(|name| !names.contains(name.as_str()));
        let tried = down.iter().filter(|status| status.restarts_on_change());
        started.extend(tried.map(|status| status.plan.name.clone()));
        for notice in unsure {
            engine.say(notice)?;
        }
        engine.plan(plan.clone(), sockets.clone(), pace).await?;
        (self.plan, self.sockets) = (plan, sockets);
        Ok(differences)
    }

    /// A port can't go from a process to ganger, or back, while it is in use.
    fn check_listeners(&self, plan: &Plan) -> Result<(), Error> {
        let before = self.plan.processes.iter().map(|was| (was.kind.as_str(), was.listen));
        let before: HashMap<&str, bool> = before.collect();
        let changed = plan.processes.iter().find(|process| {
            before.get(process.kind.as_str()).is_some_and(|was| *was != process.listen)
        });
        changed.map_or(Ok(()), |process| {
            let kind = &process.kind;
            Err(Error::Invalid(format!(
                "`listen` of `{kind}` can't change while it runs (take it down first: `ganger scale \
                 {kind}=0`, and then up again)"
            )))
        })
    }

    /// Whether the ports that this plan gives out and none before it are free. Fails for
    /// those that would be nothing without.
    async fn check_ports(&self, plan: &Plan, now: &Snapshot) -> Result<Vec<Notice>, Error> {
        let known = self.plan.processes.iter().chain(now.processes.iter().map(|it| &it.plan));
        let ours: HashSet<u16> = known.filter_map(|process| process.port).collect();
        let is_new = |port: &u16| !ours.contains(port);
        let new: Vec<_> = plan
            .processes
            .iter()
            .filter(|process| process.port.as_ref().is_some_and(is_new))
            .cloned()
            .collect();
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let all =
            spawn_blocking(move || port_conflicts(&new, &listening())).await.map_err(invalid)?;
        match all.iter().find(|conflict| conflict.required) {
            Some(conflict) => Err(Error::Invalid(format!("{conflict} (free it, and try again)"))),
            None => Ok(all
                .iter()
                .map(|conflict| Notice::PortConflict { reason: conflict.to_string() })
                .collect()),
        }
    }
}

fn invalid(error: impl std::error::Error) -> Error {
    Error::Invalid(error.to_string())
}
