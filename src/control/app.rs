//! What every request handler shares.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::api::{About, Revision};
use super::attached::Attached;
use super::error::Error;
use super::in_flight::{InFlight, Phase};
use super::memory::Memory;
use super::names::Names;
use super::planner::PlannerHandle;
use super::table::Table;
use super::usage::Survey;
use crate::plan::identity::Identity;
use crate::plan::sources::PROCFILE;
use crate::supervise::handle::{Handle, Snapshot, Stopping};
use crate::supervise::share::Shared;
use crate::supervise::supervisor::ProcessId;

/// The number of connections that may wait for an event, or follow output.
pub(super) const MAX_STREAMS: usize = 96;
/// How long a follower may read nothing before it makes room for another one.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a follower that was closed may take to free its slot.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The values that all request handlers share.
#[derive(Clone)]
pub(super) struct App {
    pub(super) engine: Handle,
    pub(super) planner: PlannerHandle,
    pub(super) about: Arc<SelfDescription>,
    /// The slots of connections without a time limit.
    pub(super) streams: Arc<Semaphore>,
    pub(super) memory: Memory,
    pub(super) survey: Shared<Survey>,
    pub(super) table: Table,
    /// The clients that are attached to processes.
    pub(super) attached: Attached,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) in_flight: InFlight,
}

/// The description of this ganger.
#[derive(Debug)]
pub struct SelfDescription {
    /// The folder of the app, as of the start.
    pub root: PathBuf,
    /// Its Procfile and name.
    pub identity: Identity,
    /// When it was started.
    pub started: Instant,
    /// The revision of the root.
    pub revision: watch::Receiver<Option<Revision>>,
}

impl SelfDescription {
    /// The description for clients, at this time.
    pub(super) fn about(&self, now: Instant) -> About {
        let procfile = self.identity.procfile.as_deref().unwrap_or(Path::new(PROCFILE));
        About {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            root: self.root.display().to_string(),
            procfile: procfile.display().to_string(),
            name: self.identity.name.clone(),
            uptime: now.saturating_duration_since(self.started).as_secs_f64(),
            revision: self.revision.borrow().clone(),
        }
    }
}

impl App {
    /// Acquires a slot for a response without a time limit. Dropping it releases it.
    pub(super) async fn acquire_stream_slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(room) = Arc::clone(&self.streams).try_acquire_owned() {
            return Ok(room);
        }
        let overloaded =
            || Error::busy(format!("too many streaming clients (limit {MAX_STREAMS})"));
        if !self.table.evict_follower(STALL_TIMEOUT).await {
            return Err(overloaded());
        }
        let room = timeout(LEAVE_TIMEOUT, Arc::clone(&self.streams).acquire_owned()).await;
        room.map_err(|_| overloaded())?.map_err(|_| overloaded())
    }

    /// The current state, unless everything is being stopped: then it is too late for changes.
    pub(super) async fn running(&self) -> Result<Arc<Snapshot>, Error> {
        let snapshot = self.engine.snapshot().await?;
        if snapshot.ending { Err(Stopping.into()) } else { Ok(snapshot) }
    }
}

/// Resolves names and patterns, separated by commas, to positions in a snapshot of the processes.
/// They are matched on another thread.
pub(super) async fn choose(
    patterns: String,
    snapshot: &Arc<Snapshot>,
) -> Result<Vec<usize>, Error> {
    let snapshot = Arc::clone(snapshot);
    let chosen = spawn_blocking(move || Names::parse(&patterns)?.select(&snapshot.processes));
    Ok(chosen.await.map_err(Error::bad_request)??)
}

/// The ids of the processes at these positions.
pub(super) fn ids_of(snapshot: &Snapshot, positions: &[usize]) -> Vec<ProcessId> {
    positions.iter().map(|at| snapshot.processes[*at].id).collect()
}
