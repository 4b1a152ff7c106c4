//! Makes new plans for the running app, one after the other, so that a scale during a reload
//! is not forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::app_root::AppRoot;
use super::registration::Registration;
use super::revisions::Revisions;
use super::thread::Thread;
use crate::changes::Changes;
use crate::notice::{Notice, PortConflict};
use crate::plan::scale::{Change, scale};
use crate::plan::sources::{FileLocations, Sources};
use crate::plan::{Options, Plan};
use crate::supervise::handle::{Handle, Snapshot, Stopping};
use crate::supervise::listeners::Listeners;
use crate::supervise::port_conflict::port_conflicts;
use crate::supervise::port_scan::listening;
use crate::supervise::supervisor::RestartMode;

/// What a request has changed, or the reason why it was refused.
pub type PlanResult = Result<Changes, Error>;

/// The reason why a request is not carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Everything is being stopped.
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// Too many earlier requests still wait.
    #[error("too many waiting changes (limit {MAX_WAITING})")]
    Busy,
    /// It is not possible, for this reason.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Debug)]
enum PlanRequest {
    Scale(Vec<Change>, oneshot::Sender<PlanResult>),
    Reload(RestartMode, oneshot::Sender<PlanResult>),
}

/// Sends requests to the planner.
#[derive(Clone, Debug)]
pub struct PlannerHandle(mpsc::Sender<PlanRequest>);

impl PlannerHandle {
    /// Changes how many processes of each type run.
    pub async fn scale(&self, changes: Vec<Change>) -> PlanResult {
        self.request(|answer| PlanRequest::Scale(changes, answer)).await
    }

    /// Reads all files again, and applies the new plan.
    pub async fn reload(&self, mode: RestartMode) -> PlanResult {
        self.request(|answer| PlanRequest::Reload(mode, answer)).await
    }

    async fn request(
        &self,
        request: impl FnOnce(oneshot::Sender<PlanResult>) -> PlanRequest,
    ) -> PlanResult {
        let (answer, changes) = oneshot::channel();
        self.0.try_send(request(answer)).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Closed(_) => Stopping.into(),
        })?;
        changes.await.map_err(|_| Stopping)?
    }
}

/// How many requests may wait for their turn. The others are refused, and leave room for
/// requests that take no time.
const MAX_WAITING: usize = 64;

/// The inputs of a plan. The plan itself belongs to the engine.
#[derive(Debug)]
pub struct Planner {
    /// The locations of the files.
    pub locations: FileLocations,
    /// The files, as they were last read.
    pub sources: Sources,
    /// The flags, and the scaling since then.
    pub options: Options,
    /// The files by which clients find this ganger.
    pub registration: Registration,
    /// The revision of the app.
    pub revision: Revisions,
}

/// A planner that carries out requests.
#[derive(Debug)]
pub struct PlannerTask {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// How long it may take to end: a disk may not respond.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl PlannerTask {
    /// Ends it, and removes the paths by which the control socket is found.
    pub async fn finish(self) {
        drop(self.end);
        let _ = timeout(END_TIMEOUT, self.ended).await;
    }
}

impl Planner {
    /// Starts to carry out requests.
    #[must_use]
    pub fn start(self, thread: &Thread, engine: Handle) -> (PlannerHandle, PlannerTask) {
        let (requests, receive) = mpsc::channel(MAX_WAITING);
        let ((end, end_request), (ended_sender, ended)) = (oneshot::channel(), oneshot::channel());
        thread.spawn(async move {
            self.run(receive, engine, end_request).await;
            // The main thread waits for it, unless it has given up.
            let _ = ended_sender.send(());
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
                PlanRequest::Reload(mode, to) => (self.reload(mode, &engine).await, to),
            };
            // The client may have disconnected.
            let _ = to.send(answer);
        }
    }

    async fn scale(&mut self, changes: &[Change], engine: &Handle) -> PlanResult {
        let before = engine.plan().await?;
        let scaled = scale(&before.0, &self.options.scaled, changes).map_err(invalid)?;
        let options = Options { scaled, ..self.options.clone() };
        let (sources, scaled) = (self.sources.clone(), options.clone());
        let plan = spawn_blocking(move || {
            let known = Plan::parse_types(&sources).map_err(invalid)?;
            Plan::new(&sources, &scaled.restricted_to(&known)).map_err(invalid)
        });
        let plan = plan.await.map_err(invalid)??;
        let changes = apply_plan(before, plan, RestartMode::AtOnce, engine).await?;
        self.options = options;
        Ok(changes)
    }

    async fn reload(&mut self, mode: RestartMode, engine: &Handle) -> PlanResult {
        if self.locations.procfile.as_ref().is_some_and(|path| path.as_os_str() == "-") {
            let reason = "the Procfile came from standard input, which can't be read again";
            return Err(Error::Invalid(reason.into()));
        }
        let (locations, options) = (self.locations.clone(), self.options.clone());
        let environment = self.sources.environment.clone();
        let read = spawn_blocking(move || {
            let sources = Sources::read(&locations, environment).map_err(invalid)?;
            let known = Plan::parse_types(&sources).map_err(invalid)?;
            // A removed type may be added again, and then its flags apply again.
            let plan = Plan::new(&sources, &options.restricted_to(&known)).map_err(invalid)?;
            plan.check_folders().map_err(invalid)?;
            Ok::<_, Error>((sources, plan))
        });
        let (sources, plan) = read.await.map_err(invalid)??;
        let changes = apply_plan(engine.plan().await?, plan, mode, engine).await?;
        self.sources = sources;
        let root = AppRoot::new(&self.locations.root(), self.sources.root.clone());
        self.registration.set_root(&root);
        self.revision.refresh(&root.real);
        Ok(changes)
    }
}

/// Checks this plan, and has the engine apply it in place of the current one.
async fn apply_plan(
    before: (Arc<Plan>, Listeners),
    plan: Plan,
    mode: RestartMode,
    engine: &Handle,
) -> PlanResult {
    let (before, listeners) = before;
    let snapshot = engine.snapshot().await?;
    if snapshot.ending {
        return Err(Stopping.into());
    }
    check_listeners(&before, &plan)?;
    let conflicts = check_ports(&before, &plan, &snapshot).await?;
    let listeners = listeners.for_plan(&plan).map_err(invalid)?;
    for conflict in conflicts {
        engine.print(Notice::PortConflict { conflict })?;
    }
    Ok(engine.apply_plan(plan, listeners, mode).await?)
}

/// A port can't be moved between a process and ganger while it is in use.
fn check_listeners(before: &Plan, plan: &Plan) -> Result<(), Error> {
    let before = before.processes.iter().map(|was| (was.process_type.as_str(), was.listen));
    let before: HashMap<&str, bool> = before.collect();
    let changed = plan.processes.iter().find(|process| {
        before.get(process.process_type.as_str()).is_some_and(|was| *was != process.listen)
    });
    changed.map_or(Ok(()), |process| {
        let process_type = &process.process_type;
        Err(Error::Invalid(format!(
            "`listen` of `{process_type}` can't change while it runs (take it down first: `ganger scale \
             {process_type}=0`, and then up again)"
        )))
    })
}

/// Checks that the new ports of this plan are free. Fails for a port without which a process is
/// useless, and returns the other conflicts.
async fn check_ports(
    before: &Plan,
    plan: &Plan,
    now: &Snapshot,
) -> Result<Vec<PortConflict>, Error> {
    let known = before.processes.iter().chain(now.processes.iter().map(|it| &it.plan));
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
    let conflicts = spawn_blocking(move || port_conflicts(&new, &listening()));
    let conflicts = conflicts.await.map_err(invalid)?;
    match conflicts.iter().find(|conflict| conflict.required) {
        Some(conflict) => Err(Error::Invalid(format!("{conflict} (free it, and try again)"))),
        None => Ok(conflicts),
    }
}

fn invalid(error: impl std::error::Error) -> Error {
    Error::Invalid(error.to_string())
}
