//! Which connections are being answered, so that ganger can wait for them at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

/// How long ganger waits before it exits for clients that still read their responses.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it waits until any of these clients reads another piece.
const PIECE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long it waits for the clients of `/quit`, once everything else is done.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether clients are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Clients are served.
    Serving,
    /// Connected clients get the rest of their responses.
    Draining,
    /// All that ganger has left is its process. Holds its exit code.
    Over(u8),
}

/// The numbers of connections with a request or a response.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Connections whose response ends by itself.
    answering: usize,
    /// Connections whose response ends when ganger exits.
    waiting_for_end: usize,
}

/// Counts the connections with a request or a response.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    counts: watch::Sender<Counts>,
    /// How many pieces of long responses were sent.
    progress: Arc<AtomicU64>,
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self { counts: watch::Sender::new(Counts::default()), progress: Arc::default() }
    }

    /// A client has read another piece of a long response.
    pub(super) fn note_progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until all responses are sent, as long as their clients read.
    pub(super) async fn drain(&self) {
        let until = Instant::now() + DRAIN_TIMEOUT;
        let mut counts = self.counts.subscribe();
        loop {
            let before = self.progress.load(Ordering::Relaxed);
            let all = timeout(PIECE_TIMEOUT, counts.wait_for(|it| it.answering == 0)).await;
            let is_stuck = self.progress.load(Ordering::Relaxed) == before;
            if all.is_ok() || is_stuck || Instant::now() > until {
                return;
            }
        }
    }

    /// Waits until the clients that wait for the exit of ganger have read the end of the response.
    pub(super) async fn wait_for_readers_of_end(&self) {
        let mut counts = self.counts.subscribe();
        let _ = timeout(END_TIMEOUT, counts.wait_for(|it| it.waiting_for_end == 0)).await;
    }
}

/// What a connection is counted as.
#[derive(Debug, Default)]
pub(super) struct Ending(AtomicU8);

impl Ending {
    const NOTHING: u8 = 0;
    const ANSWERING: u8 = 1;
    const WAITING_FOR_END: u8 = 2;

    pub(super) fn begin(&self, in_flight: &InFlight) {
        self.set(Self::ANSWERING, in_flight);
    }

    pub(super) fn wait_for_end(&self, in_flight: &InFlight) {
        self.set(Self::WAITING_FOR_END, in_flight);
    }

    pub(super) fn end(&self, in_flight: &InFlight) {
        self.set(Self::NOTHING, in_flight);
    }

    fn set(&self, now: u8, in_flight: &InFlight) {
        let before = self.0.swap(now, Ordering::Relaxed);
        in_flight.counts.send_modify(|counts| {
            counts.answering -= usize::from(before == Self::ANSWERING);
            counts.waiting_for_end -= usize::from(before == Self::WAITING_FOR_END);
            counts.answering += usize::from(now == Self::ANSWERING);
            counts.waiting_for_end += usize::from(now == Self::WAITING_FOR_END);
        });
    }
}
