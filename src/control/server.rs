//! Accepts clients, on a thread of its own, until ganger ends.

use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::app::{App, MAX_STREAMS, SelfDescription};
use super::attached::Attached;
use super::connection::{Connection, serve};
use super::in_flight::{InFlight, Phase};
use super::memory::Memory;
use super::planner::PlannerHandle;
use super::routes::{refusals, router};
use super::table::{Connections, RoomRequest, Table};
use super::thread::Thread;
use super::usage::Survey;
use crate::supervise::handle::Handle;
use crate::supervise::share::Shared;

/// The number of open connections. A further connection closes another one.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may read nothing before it makes room for a new one.
const STALLED: Duration = Duration::from_secs(1);
/// The pause before another attempt to make room.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// The owner's handle of the server.
#[derive(Debug)]
pub struct Server {
    phase: watch::Sender<Phase>,
    in_flight: InFlight,
}

impl Server {
    /// Accepts no more clients, and waits until all responses are sent, as long as their clients
    /// read. A client that does not read causes no delay.
    pub async fn finish(&self) {
        self.phase.send_replace(Phase::Draining);
        self.in_flight.drain().await;
    }

    /// Ends the responses to the clients that wait for the exit of ganger: only this process is
    /// left, which is about to exit.
    pub async fn tell_end(&self, code: u8) {
        self.phase.send_replace(Phase::Over(code));
        self.in_flight.wait_for_readers_of_end().await;
    }
}

/// Answers requests on `listener` about this ganger, which `about` describes.
#[must_use]
pub fn start(
    thread: &Thread,
    listener: std::os::unix::net::UnixListener,
    engine: Handle,
    planner: PlannerHandle,
    about: SelfDescription,
) -> Server {
    let in_flight = InFlight::new();
    let phase = watch::Sender::new(Phase::Serving);
    let server = Server { phase: phase.clone(), in_flight: in_flight.clone() };
    thread.spawn(async move {
        let (table, room_requests) = Table::new();
        let attached = Attached::start(engine.clone());
        let app = App {
            engine,
            planner,
            about: Arc::new(about),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            memory: Memory::new(table.clone()),
            survey: Shared::new(Survey::take, |_| Duration::ZERO),
            table,
            attached,
            phase: phase.subscribe(),
            in_flight,
        };
        if let Ok(listener) = UnixListener::from_std(listener) {
            Acceptor { app, room_requests, connections: Connections::default() }
                .run(listener)
                .await;
        }
    });
    server
}

/// Starts a task for each client.
struct Acceptor {
    app: App,
    room_requests: mpsc::Receiver<RoomRequest>,
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
                Some(request) = self.room_requests.recv() => {
                    self.connections.grant(request);
                    continue;
                }
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            };
            let Ok((stream, _)) = accepted else {
                // No descriptor is free: other clients have to disconnect first.
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
        // Connected clients may still need room.
        while let Some(request) = self.room_requests.recv().await {
            self.connections.grant(request);
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
                Some(request) = self.room_requests.recv() => self.connections.grant(request),
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    }
}

/// Whether the client is this user or root, whatever the file modes allow.
fn may_ask(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}
