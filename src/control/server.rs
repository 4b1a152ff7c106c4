//! Accepts clients, on a thread of its own, until ganger ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::api::About;
use super::connection::{Connection, serve};
use super::memory::Memory;
use super::planner::PlannerHandle;
use super::routes::{App, refusals, router};
use super::table::{Connections, Table, Wish};
use super::thread::Thread;
use super::usage::Survey;
use crate::supervise::handle::Handle;
use crate::supervise::share::Shared;

/// So many connections at once; for one more, another has to go.
const MAX_CONNECTIONS: usize = 256;
/// So many of them that wait for something to happen, or read what was written.
pub(super) const MAX_STREAMS: usize = 96;
/// A client that has read nothing for so long makes room for a new one.
const STALLED: Duration = Duration::from_secs(1);
/// The pause before it is tried again to find room.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// So long ganger waits at its end for those that still read their answers, and so long for
/// the next piece that one of them takes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const PIECE_TIMEOUT: Duration = Duration::from_millis(250);
/// And so long, once it is gone but for this, for those that wait for just that.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether clients are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// They are.
    Serving,
    /// Those that are there get the rest of their answers.
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
    /// A client has room for the next piece of a long answer.
    pub(super) fn note_progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
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

/// The server, to its owner.
#[derive(Debug)]
pub struct Server {
    phase: watch::Sender<Phase>,
    in_flight: InFlight,
}

impl Server {
    /// Accepts no client any more, and waits until all requests are answered, as long as
    /// their clients read: one that doesn't keeps ganger from nothing.
    pub async fn finish(&self) {
        self.phase.send_replace(Phase::Draining);
        let until = Instant::now() + DRAIN_TIMEOUT;
        let mut counts = self.in_flight.counts.subscribe();
        loop {
            let before = self.in_flight.progress.load(Ordering::Relaxed);
            let all = timeout(PIECE_TIMEOUT, counts.wait_for(|it| it.answering == 0)).await;
            let is_stuck = self.in_flight.progress.load(Ordering::Relaxed) == before;
            if all.is_ok() || is_stuck || Instant::now() > until {
                return;
            }
        }
    }

    /// Tells the clients that have waited for it that nothing of ganger is left but this
    /// process, which is about to exit.
    pub async fn tell_end(&self) {
        self.phase.send_replace(Phase::Over);
        let mut counts = self.in_flight.counts.subscribe();
        let _ = timeout(END_TIMEOUT, counts.wait_for(|it| it.waiting_for_end == 0)).await;
    }
}

/// Answers on `listener` about the app in the folder `root`.
#[must_use]
pub fn start(
    thread: &Thread,
    listener: std::os::unix::net::UnixListener,
    engine: Handle,
    planner: PlannerHandle,
    root: &std::path::Path,
) -> Server {
    let about = About {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        root: root.display().to_string(),
    };
    let counts = watch::Sender::new(Counts::default());
    let in_flight = InFlight { counts, progress: Arc::default() };
    let phase = watch::Sender::new(Phase::Serving);
    let server = Server { phase: phase.clone(), in_flight: in_flight.clone() };
    thread.spawn(async move {
        let (table, wishes) = Table::new();
        let app = App {
            engine,
            planner,
            about: Arc::new(about),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            memory: Memory::new(table.clone()),
            survey: Shared::new(Survey::take, |_| Duration::ZERO),
            table,
            phase: phase.subscribe(),
            in_flight,
        };
        if let Ok(listener) = UnixListener::from_std(listener) {
            Acceptor { app, wishes, connections: Connections::default() }.run(listener).await;
        }
    });
    server
}

/// Makes tasks of clients.
struct Acceptor {
    app: App,
    wishes: mpsc::Receiver<Wish>,
    connections: Connections,
}

impl Acceptor {
    async fn run(mut self, listener: UnixListener) {
        let router = router(self.app.clone());
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut phase = self.app.phase.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(wish) = self.wishes.recv() => {
                    self.connections.grant(wish);
                    continue;
                }
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            };
            let Ok((stream, _)) = accepted else {
                // No descriptor is left for it: others have to leave first.
                self.connections.make_room(STALLED);
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            };
            let permit = self.find_room(&room).await;
            let router = if may_ask(&stream) { router.clone() } else { refusals() };
            let connection = Connection::new(self.app.in_flight.clone());
            self.connections.add(&connection);
            tokio::spawn(async move {
                serve(stream, router, connection).await;
                drop(permit);
            });
        }
        drop(listener);
        // Those that are there may still need room.
        while let Some(wish) = self.wishes.recv().await {
            self.connections.grant(wish);
        }
    }

    async fn find_room(&mut self, room: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
                return Some(permit);
            }
            self.connections.make_room(STALLED);
            tokio::select! {
                permit = Arc::clone(room).acquire_owned() => return permit.ok(),
                Some(wish) = self.wishes.recv() => self.connections.grant(wish),
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    }
}

/// This user and root may, whatever the modes of files say.
fn may_ask(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}
