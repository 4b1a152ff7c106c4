//! The clients that are attached to processes: which of them types, and which size the terminal
//! of a process has because of them.
//!
//! The client that was attached first types, and the others watch. When it leaves, the next one
//! types. The terminal is as large as fits in the windows of all clients that may type.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use crate::pty::WindowSize;
use crate::supervise::handle::{Handle, Stopping};

/// An event for an attached client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AttachEvent {
    /// It types now.
    Types,
    /// Its screen is to be drawn again.
    Redraw,
}

/// A client that is attached, until it is dropped.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) number: u64,
    /// Whether it types from the beginning.
    pub(super) types: bool,
    pub(super) events: mpsc::UnboundedReceiver<AttachEvent>,
    requests: mpsc::UnboundedSender<Request>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Leave(self.number));
    }
}

#[derive(Debug)]
enum Request {
    Join { name: String, window: Option<WindowSize>, reply: oneshot::Sender<Membership> },
    Resize { number: u64, window: WindowSize, reply: oneshot::Sender<bool> },
    Leave(u64),
}

/// A handle to the list of attached clients.
#[derive(Clone, Debug)]
pub(super) struct Attached(mpsc::UnboundedSender<Request>);

impl Attached {
    /// An empty list, on this thread.
    pub(super) fn start(engine: Handle) -> Self {
        let (requests, mut receiver) = mpsc::unbounded_channel();
        let handle = Self(requests.clone());
        tokio::spawn(async move {
            let mut members = Members::default();
            // A request that comes while ganger ends is of no use to its client.
            let resize = |name, size| {
                let _ = engine.set_window(name, size);
            };
            while let Some(request) = receiver.recv().await {
                members.handle(request, &requests, &resize);
            }
        });
        handle
    }

    /// Adds a client of the process `name`. One without a `window` never types.
    pub(super) async fn join(
        &self,
        name: String,
        window: Option<WindowSize>,
    ) -> Result<Membership, Stopping> {
        let (reply, joined) = oneshot::channel();
        self.0.send(Request::Join { name, window, reply }).map_err(|_| Stopping)?;
        joined.await.map_err(|_| Stopping)
    }

    /// A client's window has this size now, or is to be drawn again. Returns whether there is
    /// such a client.
    pub(super) async fn resize(&self, number: u64, window: WindowSize) -> Result<bool, Stopping> {
        let (reply, done) = oneshot::channel();
        self.0.send(Request::Resize { number, window, reply }).map_err(|_| Stopping)?;
        done.await.map_err(|_| Stopping)
    }
}

#[derive(Debug)]
struct Member {
    number: u64,
    name: String,
    /// None for a client that only watches.
    window: Option<WindowSize>,
    events: mpsc::UnboundedSender<AttachEvent>,
}

/// All attached clients, in the order in which they came.
#[derive(Debug, Default)]
struct Members {
    list: Vec<Member>,
    next_number: u64,
    /// The size of each process's terminal, as the engine knows it.
    sizes: HashMap<String, WindowSize>,
}

impl Members {
    /// Handles a request. The engine is asked to resize the terminal before clients are answered, so
    /// that it has done so when it answers what they ask next.
    fn handle(
        &mut self,
        request: Request,
        requests: &mpsc::UnboundedSender<Request>,
        resize: &dyn Fn(String, Option<WindowSize>),
    ) {
        match request {
            Request::Join { name, window, reply } => {
                let number = self.next_number;
                self.next_number += 1;
                let (sender, events) = mpsc::unbounded_channel();
                let types = window.is_some() && self.typist(&name).is_none();
                let requests = requests.clone();
                let member = Member { number, name: name.clone(), window, events: sender };
                self.list.push(member);
                self.update_size(name, resize);
                // A client that has left already leaves here as well.
                drop(reply.send(Membership { number, types, events, requests }));
            }
            Request::Resize { number, window, reply } => {
                let at = self.list.iter().position(|member| member.number == number);
                if let Some(at) = at {
                    let member = &mut self.list[at];
                    member.window = member.window.map(|_| window);
                    let name = member.name.clone();
                    self.update_size(name, resize);
                    let _ = self.list[at].events.send(AttachEvent::Redraw);
                }
                let _ = reply.send(at.is_some());
            }
            Request::Leave(number) => {
                let at = self.list.iter().position(|member| member.number == number);
                let Some(at) = at else { return };
                let typed = self.typist(&self.list[at].name) == Some(number);
                let name = self.list.remove(at).name;
                self.update_size(name.clone(), resize);
                if typed {
                    let next = self.list.iter().find(|it| it.name == name && it.window.is_some());
                    let _ = next.map(|next| next.events.send(AttachEvent::Types));
                }
            }
        }
    }

    /// Has the terminal of this process resized, if it gets another size.
    fn update_size(&mut self, name: String, resize: &dyn Fn(String, Option<WindowSize>)) {
        let size = self.common_size(&name);
        if self.sizes.get(&name) == size.as_ref() {
            return;
        }
        match size {
            Some(size) => self.sizes.insert(name.clone(), size),
            None => self.sizes.remove(&name),
        };
        resize(name, size);
    }

    /// The client that types into this process.
    fn typist(&self, name: &str) -> Option<u64> {
        let typist = self.list.iter().find(|it| it.name == name && it.window.is_some());
        typist.map(|member| member.number)
    }

    /// The largest size that fits in the windows of all clients that may type.
    fn common_size(&self, name: &str) -> Option<WindowSize> {
        let members = self.list.iter().filter(|member| member.name == name);
        let windows = members.filter_map(|member| member.window);
        windows.reduce(|one, other| WindowSize {
            rows: one.rows.min(other.rows),
            columns: one.columns.min(other.columns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: WindowSize = WindowSize { rows: 20, columns: 100 };
    const NARROW: WindowSize = WindowSize { rows: 40, columns: 60 };

    struct List {
        members: Members,
        requests: mpsc::UnboundedSender<Request>,
        _receiver: mpsc::UnboundedReceiver<Request>,
    }

    impl List {
        fn new() -> Self {
            let (requests, receiver) = mpsc::unbounded_channel();
            Self { members: Members::default(), requests, _receiver: receiver }
        }

        /// Handles a request, and returns the sizes that the terminal is given.
        fn handle(&mut self, request: Request) -> Vec<Option<WindowSize>> {
            let sizes = std::cell::RefCell::new(Vec::new());
            let resize = |_, size| sizes.borrow_mut().push(size);
            self.members.handle(request, &self.requests, &resize);
            sizes.into_inner()
        }

        fn join(&mut self, window: Option<WindowSize>) -> (Membership, Vec<Option<WindowSize>>) {
            let (reply, mut joined) = oneshot::channel();
            let sizes = self.handle(Request::Join { name: "web.1".to_owned(), window, reply });
            (joined.try_recv().unwrap(), sizes)
        }

        fn leave(&mut self, member: &Membership) -> Vec<Option<WindowSize>> {
            self.handle(Request::Leave(member.number))
        }
    }

    #[test]
    fn first_client_types_and_the_next_one_after_it() {
        let mut list = List::new();
        let (watcher, _) = list.join(None);
        let (first, _) = list.join(Some(SMALL));
        let (mut second, _) = list.join(Some(SMALL));
        assert_eq!([watcher.types, first.types, second.types], [false, true, false]);
        assert!(second.events.try_recv().is_err());
        list.leave(&first);
        assert_eq!(second.events.try_recv(), Ok(AttachEvent::Types));
    }

    #[test]
    fn terminal_fits_in_the_windows_of_all_clients_that_may_type() {
        let mut list = List::new();
        let (_watcher, sizes) = list.join(None);
        assert_eq!(sizes, []);
        let (first, sizes) = list.join(Some(SMALL));
        assert_eq!(sizes, [Some(SMALL)]);
        let (second, sizes) = list.join(Some(NARROW));
        assert_eq!(sizes, [Some(WindowSize { rows: 20, columns: 60 })]);
        assert_eq!(list.leave(&first), [Some(NARROW)]);
        assert_eq!(list.leave(&second), [None]);
    }

    #[test]
    fn terminal_is_resized_before_a_client_is_answered() {
        let (members, requests) = (&mut Members::default(), mpsc::unbounded_channel().0);
        let (reply, joined) = oneshot::channel();
        let joined = std::cell::RefCell::new(joined);
        let request = Request::Join { name: "web.1".to_owned(), window: Some(SMALL), reply };
        members.handle(request, &requests, &|_, _| {
            assert!(joined.borrow_mut().try_recv().is_err(), "it was answered");
        });
        let mut member = joined.borrow_mut().try_recv().unwrap();
        let events = std::cell::RefCell::new(&mut member.events);
        let (reply, _) = oneshot::channel();
        let request = Request::Resize { number: member.number, window: NARROW, reply };
        members.handle(request, &requests, &|_, _| {
            assert!(events.borrow_mut().try_recv().is_err(), "it was told to draw");
        });
        assert_eq!(events.borrow_mut().try_recv(), Ok(AttachEvent::Redraw));
    }
}
