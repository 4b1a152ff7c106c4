//! Clients that read output beside the stream itself: what is kept, and what comes.
//!
//! They ask the mux directly. An answer costs it no copy of what is kept and no work for each
//! line, and what a follower does not read in time is counted, and not kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use mio::Waker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::recent::{Excerpt, Recent};

/// So much may wait for one follower, and so much more where others leave room for it.
const QUEUE_BYTES: usize = 256 << 10;
/// What it takes to keep a piece of output, beside its bytes.
const PIECE_OVERHEAD: usize = 128;

/// A rule by which names of processes are meant or not.
type Rule = Box<dyn Fn(&str) -> bool + Send>;

/// The processes that a client asks about: by name, and by a rule for those that come later.
pub struct Selection {
    names: HashMap<Arc<str>, bool>,
    /// None: all are meant.
    rule: Option<Rule>,
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Selection {
    /// All processes.
    #[must_use]
    pub fn all() -> Self {
        Self { names: HashMap::new(), rule: None }
    }

    /// Those for which `rule` holds. It is asked once for each name that is not in `names`, where
    /// its answers are.
    pub fn new(
        names: impl IntoIterator<Item = (Arc<str>, bool)>,
        rule: impl Fn(&str) -> bool + Send + 'static,
    ) -> Self {
        Self { names: names.into_iter().collect(), rule: Some(Box::new(rule)) }
    }

    fn includes(&self, name: &str) -> bool {
        let Some(rule) = &self.rule else { return true };
        self.names.get(name).copied().unwrap_or_else(|| rule(name))
    }
}

/// Something that a follower reads.
#[derive(Debug)]
pub enum Output {
    /// A process wrote this, in pieces of no meaning.
    Bytes {
        /// The process.
        name: Arc<str>,
        /// When.
        at: SystemTime,
        /// What.
        bytes: Arc<[u8]>,
        /// Its room in the queue.
        room: OwnedSemaphorePermit,
    },
    /// So many bytes did not fit.
    Lost(u64),
}

/// What a client asks the mux.
#[derive(Debug)]
pub(super) enum Query {
    /// The processes of which something is kept, and how much memory that takes.
    Sizes(oneshot::Sender<Vec<(Arc<str>, usize)>>),
    /// What is kept.
    Take(Box<Take>),
    /// A follower has left.
    Forget(u64),
}

#[derive(Debug)]
pub(super) struct Take {
    selection: Selection,
    /// In bytes of memory.
    limit: usize,
    answer: oneshot::Sender<Result<Excerpt, TooLarge>>,
    /// Where what comes behind it goes.
    follower: Option<(u64, Queue)>,
}

/// An answer would take so much memory.
#[derive(Debug)]
pub struct TooLarge {
    /// In bytes.
    pub memory: usize,
    /// What was asked for.
    pub selection: Selection,
}

/// The mux is gone: nothing is kept any more, and nothing comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the output has ended")]
pub struct Ended;

/// What waits for a follower, as the mux sees it.
#[derive(Debug)]
struct Queue {
    sender: mpsc::UnboundedSender<Output>,
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// Asks the mux; for others than the engine.
#[derive(Clone, Debug)]
pub struct Queries {
    sender: Sender<Query>,
    waker: Arc<Waker>,
    next_follower: Arc<AtomicU64>,
}

impl Queries {
    pub(super) fn new(sender: Sender<Query>, waker: Arc<Waker>) -> Self {
        Self { sender, waker, next_follower: Arc::default() }
    }

    /// The processes of which something is kept, and how much memory that takes.
    pub async fn sizes(&self) -> Result<Vec<(Arc<str>, usize)>, Ended> {
        let (answer, sizes) = oneshot::channel();
        self.send(Query::Sizes(answer))?;
        sizes.await.map_err(|_| Ended)
    }

    /// What is kept of some processes, if that takes at most `limit` bytes of memory.
    pub async fn excerpt(
        &self,
        selection: Selection,
        limit: usize,
    ) -> Result<Result<Excerpt, TooLarge>, Ended> {
        self.take(selection, limit, None).await
    }

    /// The same, and what they write from then on. Followers that are slow share the room in
    /// `shared`, in bytes.
    pub async fn follow(
        &self,
        selection: Selection,
        limit: usize,
        shared: Arc<Semaphore>,
    ) -> Result<Result<(Excerpt, Following), TooLarge>, Ended> {
        let number = self.next_follower.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        // From here on the mux is told when this is dropped.
        let following = Following { number, receiver, queries: self.clone() };
        let queue = Queue { sender, own: Arc::new(Semaphore::new(QUEUE_BYTES)), shared };
        let taken = self.take(selection, limit, Some((number, queue))).await?;
        Ok(taken.map(|excerpt| (excerpt, following)))
    }

    async fn take(
        &self,
        selection: Selection,
        limit: usize,
        follower: Option<(u64, Queue)>,
    ) -> Result<Result<Excerpt, TooLarge>, Ended> {
        let (answer, excerpt) = oneshot::channel();
        self.send(Query::Take(Box::new(Take { selection, limit, answer, follower })))?;
        excerpt.await.map_err(|_| Ended)
    }

    fn send(&self, query: Query) -> Result<(), Ended> {
        self.sender.send(query).map_err(|_| Ended)?;
        self.waker.wake().map_err(|_| Ended)
    }
}

/// What processes write from some moment on.
#[derive(Debug)]
pub struct Following {
    number: u64,
    receiver: mpsc::UnboundedReceiver<Output>,
    queries: Queries,
}

impl Following {
    /// The next piece of output; none once ganger has ended.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Output>> {
        self.receiver.poll_recv(context)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // The mux may be gone before it.
        let _ = self.queries.send(Query::Forget(self.number));
    }
}

/// Numbers for the names of processes, in the order in which they come up.
#[derive(Debug, Default)]
struct Numbers(HashMap<Arc<str>, usize>);

impl Numbers {
    fn of(&mut self, name: &Arc<str>) -> usize {
        let next = self.0.len();
        *self.0.entry(Arc::clone(name)).or_insert(next)
    }
}

/// Whether a follower follows a process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Follows {
    #[default]
    Unknown,
    Yes,
    No,
}

struct Follower {
    number: u64,
    rule: Option<Rule>,
    /// By the numbers of their names.
    follows: Vec<Follows>,
    queue: Queue,
    lost: u64,
}

/// What is kept of the output, and passed on to those that follow it.
pub(super) struct Subscribers {
    recent: Recent,
    followers: Vec<Follower>,
    numbers: Numbers,
}

impl Subscribers {
    /// None yet; so many bytes are kept of each process.
    pub(super) fn new(kept: usize) -> Self {
        let numbers = Numbers::default();
        Self { recent: Recent::new(kept), followers: Vec::new(), numbers }
    }

    /// A process has written something.
    pub(super) fn publish(&mut self, name: &Arc<str>, bytes: &[u8]) {
        let at = SystemTime::now();
        self.recent.push(name, at, bytes);
        if self.followers.is_empty() {
            return;
        }
        let number = self.numbers.of(name);
        let mut shared: Option<Arc<[u8]>> = None;
        for follower in &mut self.followers {
            if follower.follows(name, number) {
                let bytes = shared.get_or_insert_with(|| bytes.into());
                follower.queue(name, at, bytes);
            }
        }
    }

    /// A process has ended: so has its last line.
    pub(super) fn end(&mut self, name: &Arc<str>) {
        if self.recent.is_open(name) {
            self.publish(name, b"\n");
        }
    }

    pub(super) fn answer(&mut self, query: Query) {
        // A client may have left before its answer.
        match query {
            Query::Sizes(answer) => drop(answer.send(self.recent.sizes())),
            Query::Take(take) => self.take(*take),
            Query::Forget(number) => self.followers.retain(|follower| follower.number != number),
        }
    }

    fn take(&mut self, take: Take) {
        let Take { selection, limit, answer, follower } = take;
        match self.recent.excerpt(|name| selection.includes(name), limit) {
            Ok(excerpt) => {
                if answer.send(Ok(excerpt)).is_ok()
                    && let Some((number, queue)) = follower
                {
                    let follower = Follower::new(number, selection, queue, &mut self.numbers);
                    self.followers.push(follower);
                }
            }
            Err(memory) => drop(answer.send(Err(TooLarge { memory, selection }))),
        }
    }
}

impl Follower {
    fn new(number: u64, selection: Selection, queue: Queue, numbers: &mut Numbers) -> Self {
        let Selection { names, rule } = selection;
        let mut follower = Self { number, rule, follows: Vec::new(), queue, lost: 0 };
        for (name, is_meant) in names {
            follower.note(numbers.of(&name), is_meant);
        }
        follower
    }

    fn note(&mut self, process: usize, is_meant: bool) {
        if process >= self.follows.len() {
            self.follows.resize(process + 1, Follows::default());
        }
        self.follows[process] = if is_meant { Follows::Yes } else { Follows::No };
    }

    fn follows(&mut self, name: &str, process: usize) -> bool {
        let Some(rule) = &self.rule else { return true };
        match self.follows.get(process).copied().unwrap_or_default() {
            Follows::Yes => true,
            Follows::No => false,
            Follows::Unknown => {
                let is_meant = rule(name);
                self.note(process, is_meant);
                is_meant
            }
        }
    }

    /// Never waits: what doesn't fit is counted.
    fn queue(&mut self, name: &Arc<str>, at: SystemTime, bytes: &Arc<[u8]>) {
        let length = bytes.len() as u64;
        let Some(room) = self.queue.room_for(bytes.len()) else {
            self.lost += length;
            return;
        };
        if self.lost > 0 {
            let _ = self.queue.sender.send(Output::Lost(std::mem::take(&mut self.lost)));
        }
        let (name, bytes) = (Arc::clone(name), Arc::clone(bytes));
        // One that has left is forgotten as soon as that is known.
        let _ = self.queue.sender.send(Output::Bytes { name, at, bytes, room });
    }
}

impl Queue {
    fn room_for(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        let size = u32::try_from(length + PIECE_OVERHEAD).ok()?;
        let own = Arc::clone(&self.own).try_acquire_many_owned(size);
        own.or_else(|_| Arc::clone(&self.shared).try_acquire_many_owned(size)).ok()
    }
}
