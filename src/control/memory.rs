//! The memory for responses: one bound for all of them, reserved before they are made.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::table::Table;
use crate::logs::recent;

/// The limit that error messages name: the sum of the parts below, and the buffers of all
/// connections.
const TOTAL: &str = "160 MiB";

/// For recent output: the maximum of one reader fits.
const READERS: usize = recent::MAX_RECENT_MEMORY;
/// How much output may grow while it is read.
const GROWTH: usize = 256 << 10;
/// For output that followers have not read yet, beyond the queue that each has for itself.
const FOLLOWERS: usize = 8 << 20;
/// For long lists of processes. Short lists fit into the buffer of their connection, and never wait
/// for others.
const LISTS: usize = 24 << 20;
const SHORT_LIST: usize = 64 << 10;

/// How long a client waits until others have read their responses.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// How long a client may read nothing before it is closed to make room: a list is read at once.
const STALLED_READER: Duration = Duration::from_secs(2);
const STALLED_LIST: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The reserved memory of a list, unless it is short.
pub(super) type ListRoom = Option<OwnedSemaphorePermit>;

/// Memory for responses, in bytes.
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

    /// For readers of recent output.
    pub(super) async fn for_reader(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        self.take(&self.readers, bytes, STALLED_READER).await
    }

    /// Reserves memory for a list of processes; `None` if it is short.
    pub(super) async fn for_list(&self, bytes: usize) -> Result<ListRoom, Error> {
        if bytes <= SHORT_LIST {
            return Ok(None);
        }
        self.take(&self.lists, bytes.min(LISTS), STALLED_LIST).await.map(Some)
    }

    /// The memory to reserve for output that has this size now, and grows.
    pub(super) fn generous(bytes: usize) -> usize {
        (bytes + bytes / 4 + GROWTH).min(READERS).max(bytes)
    }

    /// Reserves memory that a follower keeps until it disconnects.
    pub(super) fn for_follower(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.followers).try_acquire_many_owned(size).map_err(|_| used_up())
    }

    /// The memory that followers share.
    pub(super) fn of_followers(&self) -> &Arc<Semaphore> {
        &self.followers
    }

    /// Waits for its turn and for free memory. Clients that do not read are closed meanwhile.
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
