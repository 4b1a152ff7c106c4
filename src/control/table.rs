//! The connections that are open, and which of them makes room when there are too many.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::connection::Connection;

/// The number of requests for room that may wait. Further ones are refused.
const MAX_ROOM_REQUESTS: usize = 64;

/// The handle of the table of open connections.
#[derive(Clone, Debug)]
pub(super) struct Table {
    room_requests: mpsc::Sender<RoomRequest>,
}

/// A request to close a connection whose client has read nothing for a while.
#[derive(Debug)]
pub(super) struct RoomRequest {
    stalled: Duration,
    is_follower: bool,
    granted: oneshot::Sender<bool>,
}

impl Table {
    pub(super) fn new() -> (Self, mpsc::Receiver<RoomRequest>) {
        let (room_requests, receive) = mpsc::channel(MAX_ROOM_REQUESTS);
        (Self { room_requests }, receive)
    }

    /// Closes the connection whose client has not read its response for the longest time, if that
    /// is long enough. Returns whether there is one.
    pub(super) async fn evict_stalled(&self, stalled: Duration) -> bool {
        self.evict(stalled, false).await
    }

    /// The same for followers, which may read slowly as long as there is room for others.
    pub(super) async fn evict_follower(&self, stalled: Duration) -> bool {
        self.evict(stalled, true).await
    }

    async fn evict(&self, stalled: Duration, is_follower: bool) -> bool {
        let (granted, answer) = oneshot::channel();
        let request = RoomRequest { stalled, is_follower, granted };
        self.room_requests.try_send(request).is_ok() && answer.await.unwrap_or_default()
    }
}

/// All open connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections(Vec<Weak<Connection>>);

impl Connections {
    pub(super) fn add(&mut self, connection: &Arc<Connection>) {
        self.0.retain(|it| it.strong_count() > 0);
        self.0.push(Arc::downgrade(connection));
    }

    pub(super) fn grant(&mut self, request: RoomRequest) {
        let RoomRequest { stalled, is_follower, granted } = request;
        let is_one = |it: &Connection| it.is_follower() == is_follower;
        let _ = granted.send(self.evict_stalled(stalled, is_one));
    }

    /// Makes room for a new connection: closes the oldest connection whose request has not arrived,
    /// or else one whose client does not read.
    pub(super) fn make_room(&mut self, stalled: Duration) {
        let idle = self.0.iter().filter_map(Weak::upgrade).find(|it| !it.has_request());
        if let Some(idle) = idle {
            self.close(&idle);
        } else {
            self.evict_stalled(stalled, |_| true);
        }
    }

    fn evict_stalled(&mut self, stalled: Duration, is_one: impl Fn(&Connection) -> bool) -> bool {
        let open = self.0.iter().filter_map(Weak::upgrade).filter(|it| is_one(it));
        let slowest = open.filter_map(|it| Some((it.stalled()?, it))).max_by_key(|(time, _)| *time);
        match slowest {
            Some((time, connection)) if time >= stalled => {
                self.close(&connection);
                true
            }
            Some(_) | None => false,
        }
    }

    fn close(&mut self, connection: &Arc<Connection>) {
        connection.close();
        self.0.retain(|it| !std::ptr::eq(it.as_ptr(), Arc::as_ptr(connection)));
    }
}
