//! Which connections are being answered, so that ganger can wait for them at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

/// How long ganger waits at its end for clients that still read their answers.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it waits for the next piece that one of them reads.
const PIECE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long it waits, once everything else is gone, for the clients of `GET /quit`.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether clients are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Clients are served.
    Serving,
    /// Connected clients get the rest of their answers.
    Draining,
    /// All that ganger has left is its process.
    Over,
}

/// Connections that are being answered.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// To their end.
    answering: usize,
    /// Until ganger is gone.
    waiting_for_end: usize,
}

/// Which connections are being answered.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    counts: watch::Sender<Counts>,
    /// How many pieces of long answers were taken.
    progress: Arc<AtomicU64>,
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self { counts: watch::Sender::new(Counts::default()), progress: Arc::default() }
    }

    /// A client has room for the next piece of a long answer.
    pub(super) fn note_progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until all connections are answered, as long as their clients read.
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

    /// Waits until the clients that wait for ganger's end have read that it is there.
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
