//! The memory for responses: one bound for all of them, reserved before they are made.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::table::Table;
use crate::logs::recent;

/// What is shown to users: the sum of the parts below, with what each connection has in its
/// own buffers.
const TOTAL: &str = "160 MiB";

/// What was kept, for those that read it: as much as there ever is.
const READERS: usize = recent::MAX_RECENT_MEMORY;
/// How much output may grow while it is read.
const GROWTH: usize = 256 << 10;
/// What a follower may be behind, beyond what each has for itself.
const FOLLOWERS: usize = 8 << 20;
/// Lists of processes, but for those that are short: they fit into the buffer that each
/// connection has, and never wait for others.
const LISTS: usize = 24 << 20;
const SHORT_LIST: usize = 64 << 10;

/// How long a client waits for others to read their answers.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// How long a client may read nothing before it makes room meanwhile: a list is read at once.
const STALLED_READER: Duration = Duration::from_secs(2);
const STALLED_LIST: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The room of a list, if it needs any.
pub(super) type ListRoom = Option<OwnedSemaphorePermit>;

/// Memory for answers, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    readers: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    table: Table,
}

impl Memory {
    pub(super) fn new(table: Table) -> Self {
        let pool = |bytes| Arc::new(Semaphore::new(bytes));
        Self { readers: pool(READERS), followers: pool(FOLLOWERS), lists: pool(LISTS), table }
    }

    /// For recent output.
    pub(super) async fn for_reader(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        self.take(&self.readers, bytes, STALLED_READER).await
    }

    /// For a list of processes; none, if it is short.
    pub(super) async fn for_list(&self, bytes: usize) -> Result<ListRoom, Error> {
        if bytes <= SHORT_LIST {
            return Ok(None);
        }
        self.take(&self.lists, bytes.min(LISTS), STALLED_LIST).await.map(Some)
    }

    /// Room for output that has this size now, and grows.
    pub(super) fn generous(bytes: usize) -> usize {
        (bytes + bytes / 4 + GROWTH).min(READERS).max(bytes)
    }

    /// For something that a follower keeps as long as it stays.
    pub(super) fn for_follower(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.followers).try_acquire_many_owned(size).map_err(|_| used_up())
    }

    /// What followers share.
    pub(super) fn of_followers(&self) -> &Arc<Semaphore> {
        &self.followers
    }

    /// Waits for its turn and for room: clients that do not read are closed.
    async fn take(
        &self,
        pool: &Arc<Semaphore>,
        bytes: usize,
        stalled: Duration,
    ) -> Result<OwnedSemaphorePermit, Error> {
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut turn = std::pin::pin!(Arc::clone(pool).acquire_many_owned(size));
        let begun = Instant::now();
        loop {
            match timeout_at(Instant::now() + LOOK_AGAIN, &mut turn).await {
                Ok(room) => return room.map_err(|_| used_up()),
                Err(_) if begun.elapsed() < MAX_WAIT => {
                    self.table.evict_stalled(stalled).await;
                }
                Err(_) => return Err(used_up()),
            }
        }
    }
}

fn used_up() -> Error {
    Error::busy(format!("answers that other clients have not read yet take all of {TOTAL}"))
}

/// Releases what exceeds `bytes`.
pub(super) fn shrink(room: &mut OwnedSemaphorePermit, bytes: usize) {
    drop(room.num_permits().checked_sub(bytes).and_then(|extra| room.split(extra)));
}
