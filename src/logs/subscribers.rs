//! Clients that read recent output and subscribe to new output.
//!
//! They query the mux directly. An answer costs the mux no copy of the output and no work for
//! each line. Output that a subscriber does not read in time is counted, not kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use mio::Waker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::format::OWN_NAME;
use super::recent::{Excerpt, RecentOutput};

/// How much output is queued for one subscriber, beside its part of the shared room.
const QUEUE_BYTES: usize = 256 << 10;
/// The memory of a queued piece of output, beside its bytes.
const PIECE_OVERHEAD: usize = 128;

/// A rule that selects processes by name.
type Rule = Box<dyn Fn(&str) -> bool + Send>;

/// The processes that a client selects: by name, and by a rule for processes that start later.
pub struct Selection {
    names: HashMap<Arc<str>, bool>,
    /// None selects all processes, and none of ganger's own messages.
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

    /// The processes for which `rule` returns true. `names` holds its known results; it is called
    /// once for each other name.
    pub fn new(
        names: impl IntoIterator<Item = (Arc<str>, bool)>,
        rule: impl Fn(&str) -> bool + Send + 'static,
    ) -> Self {
        Self { names: names.into_iter().collect(), rule: Some(Box::new(rule)) }
    }

    fn includes(&self, name: &str) -> bool {
        let Some(rule) = &self.rule else { return name != OWN_NAME };
        self.names.get(name).copied().unwrap_or_else(|| rule(name))
    }
}

/// What a subscriber reads next.
#[derive(Debug)]
pub enum Output {
    /// Output of a process, in arbitrary pieces.
    Bytes {
        /// The process.
        name: Arc<str>,
        /// When it was read.
        at: SystemTime,
        /// How many bytes the process had written before.
        offset: u64,
        /// The output.
        bytes: Arc<[u8]>,
        /// Its permit for the room in the queue.
        room: OwnedSemaphorePermit,
    },
    /// This many bytes were left out because the queue was full.
    Gap(u64),
}

/// A query from a client to the mux.
#[derive(Debug)]
pub(super) enum LogQuery {
    /// How much memory the recent output of each process takes.
    MemoryUse(oneshot::Sender<Vec<(Arc<str>, usize)>>),
    /// The recent output of some processes.
    Excerpt(Box<ExcerptRequest>),
    /// This subscriber has left.
    Unsubscribe(u64),
}

#[derive(Debug)]
pub(super) struct ExcerptRequest {
    selection: Selection,
    /// In bytes of memory.
    limit: usize,
    reply: oneshot::Sender<Result<Excerpt, TooLarge>>,
    /// The subscriber that gets the later output, if the client subscribes.
    subscriber: Option<(u64, Queue)>,
}

/// The answer would take more memory than the limit.
#[derive(Debug)]
pub struct TooLarge {
    /// How much it would take, in bytes.
    pub memory: usize,
    /// The selection of the query.
    pub selection: Selection,
}

/// The mux has ended, because ganger is exiting.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the output has ended")]
pub struct LogsEnded;

/// The mux's end of the queue for a subscriber.
#[derive(Debug)]
struct Queue {
    sender: mpsc::UnboundedSender<Output>,
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// A handle for queries to the mux.
#[derive(Clone, Debug)]
pub struct OutputQueries {
    sender: Sender<LogQuery>,
    waker: Arc<Waker>,
    next_subscriber: Arc<AtomicU64>,
    run: u32,
}

impl OutputQueries {
    pub(super) fn new(sender: Sender<LogQuery>, waker: Arc<Waker>) -> Self {
        // 0 is the number of no run.
        Self { sender, waker, next_subscriber: Arc::default(), run: fastrand::u32(1..) }
    }

    /// The number of this run of ganger, for cursors.
    #[must_use]
    pub fn run(&self) -> u32 {
        self.run
    }

    /// How much memory the recent output of each process takes, in bytes.
    pub async fn memory_by_process(&self) -> Result<Vec<(Arc<str>, usize)>, LogsEnded> {
        let (reply, sizes) = oneshot::channel();
        self.send(LogQuery::MemoryUse(reply))?;
        sizes.await.map_err(|_| LogsEnded)
    }

    /// The recent output of some processes, if it takes at most `limit` bytes of memory.
    pub async fn excerpt(
        &self,
        selection: Selection,
        limit: usize,
    ) -> Result<Result<Excerpt, TooLarge>, LogsEnded> {
        self.request_excerpt(selection, limit, None).await
    }

    /// The recent output of some processes, and a subscription to their later output. Slow
    /// subscribers share the room in `shared`, in bytes.
    pub async fn subscribe(
        &self,
        selection: Selection,
        limit: usize,
        shared: Arc<Semaphore>,
    ) -> Result<Result<(Excerpt, Subscription), TooLarge>, LogsEnded> {
        let number = self.next_subscriber.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        // Dropping this unsubscribes.
        let subscription = Subscription { number, receiver, queries: self.clone() };
        let queue = Queue { sender, own: Arc::new(Semaphore::new(QUEUE_BYTES)), shared };
        let excerpt = self.request_excerpt(selection, limit, Some((number, queue))).await?;
        Ok(excerpt.map(|excerpt| (excerpt, subscription)))
    }

    async fn request_excerpt(
        &self,
        selection: Selection,
        limit: usize,
        subscriber: Option<(u64, Queue)>,
    ) -> Result<Result<Excerpt, TooLarge>, LogsEnded> {
        let (reply, excerpt) = oneshot::channel();
        self.send(LogQuery::Excerpt(Box::new(ExcerptRequest {
            selection,
            limit,
            reply,
            subscriber,
        })))?;
        excerpt.await.map_err(|_| LogsEnded)
    }

    fn send(&self, query: LogQuery) -> Result<(), LogsEnded> {
        self.sender.send(query).map_err(|_| LogsEnded)?;
        self.waker.wake().map_err(|_| LogsEnded)
    }
}

/// The later output of some processes.
#[derive(Debug)]
pub struct Subscription {
    number: u64,
    receiver: mpsc::UnboundedReceiver<Output>,
    queries: OutputQueries,
}

impl Subscription {
    /// The next piece of output; none once the mux has ended.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Output>> {
        self.receiver.poll_recv(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The mux may have ended before.
        let _ = self.queries.send(LogQuery::Unsubscribe(self.number));
    }
}

/// Assigns numbers to the names of processes, in the order in which they are seen.
#[derive(Debug, Default)]
struct NameNumbers(HashMap<Arc<str>, usize>);

impl NameNumbers {
    fn number_of(&mut self, name: &Arc<str>) -> usize {
        let next = self.0.len();
        *self.0.entry(Arc::clone(name)).or_insert(next)
    }
}

/// Whether a subscriber has selected a process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Selected {
    #[default]
    Unknown,
    Yes,
    No,
}

struct Subscriber {
    number: u64,
    rule: Option<Rule>,
    /// The selection, by the numbers of the names.
    selected: Vec<Selected>,
    queue: Queue,
    missed_bytes: u64,
}

/// The recent output, and the subscribers to new output.
pub(super) struct Subscribers {
    recent: RecentOutput,
    active: Vec<Subscriber>,
    numbers: NameNumbers,
}

impl Subscribers {
    /// No subscribers; keeps `recent_bytes` of each process.
    pub(super) fn new(recent_bytes: usize) -> Self {
        let numbers = NameNumbers::default();
        Self { recent: RecentOutput::new(recent_bytes), active: Vec::new(), numbers }
    }

    /// Keeps new output of a process, and sends it to the subscribers.
    pub(super) fn publish(&mut self, name: &Arc<str>, bytes: &[u8]) {
        let at = SystemTime::now();
        let offset = self.recent.push(name, at, bytes);
        if self.active.is_empty() {
            return;
        }
        let number = self.numbers.number_of(name);
        let mut shared: Option<Arc<[u8]>> = None;
        for subscriber in &mut self.active {
            if subscriber.selects(name, number) {
                let bytes = shared.get_or_insert_with(|| bytes.into());
                subscriber.push(name, at, offset, bytes);
            }
        }
    }

    /// A process has been started.
    pub(super) fn begin_run(&mut self, name: &Arc<str>) {
        self.recent.begin_run(name);
    }

    /// The recent output, at the end.
    pub(super) fn take_recent(&mut self) -> RecentOutput {
        std::mem::replace(&mut self.recent, RecentOutput::new(0))
    }

    /// A process has exited: ends its last line.
    pub(super) fn end_process(&mut self, name: &Arc<str>) {
        if self.recent.is_open(name) {
            self.publish(name, b"\n");
        }
    }

    pub(super) fn answer_query(&mut self, query: LogQuery) {
        // The client may have left before its answer.
        match query {
            LogQuery::MemoryUse(reply) => drop(reply.send(self.recent.memory_by_process())),
            LogQuery::Excerpt(request) => self.send_excerpt(*request),
            LogQuery::Unsubscribe(number) => {
                self.active.retain(|subscriber| subscriber.number != number);
            }
        }
    }

    fn send_excerpt(&mut self, request: ExcerptRequest) {
        let ExcerptRequest { selection, limit, reply, subscriber } = request;
        match self.recent.excerpt(|name| selection.includes(name), limit) {
            Ok(excerpt) => {
                if reply.send(Ok(excerpt)).is_ok()
                    && let Some((number, queue)) = subscriber
                {
                    let subscriber = Subscriber::new(number, selection, queue, &mut self.numbers);
                    self.active.push(subscriber);
                }
            }
            Err(memory) => drop(reply.send(Err(TooLarge { memory, selection }))),
        }
    }
}

impl Subscriber {
    fn new(number: u64, selection: Selection, queue: Queue, numbers: &mut NameNumbers) -> Self {
        let Selection { names, rule } = selection;
        let mut subscriber = Self { number, rule, selected: Vec::new(), queue, missed_bytes: 0 };
        for (name, is_selected) in names {
            subscriber.set_selected(numbers.number_of(&name), is_selected);
        }
        subscriber
    }

    fn set_selected(&mut self, process: usize, is_selected: bool) {
        if process >= self.selected.len() {
            self.selected.resize(process + 1, Selected::default());
        }
        self.selected[process] = if is_selected { Selected::Yes } else { Selected::No };
    }

    fn selects(&mut self, name: &str, process: usize) -> bool {
        let Some(rule) = &self.rule else { return name != OWN_NAME };
        match self.selected.get(process).copied().unwrap_or_default() {
            Selected::Yes => true,
            Selected::No => false,
            Selected::Unknown => {
                let is_selected = rule(name);
                self.set_selected(process, is_selected);
                is_selected
            }
        }
    }

    /// Queues output without blocking. Output that does not fit is counted.
    fn push(&mut self, name: &Arc<str>, at: SystemTime, offset: u64, bytes: &Arc<[u8]>) {
        let length = bytes.len() as u64;
        let Some(room) = self.queue.room_for(bytes.len()) else {
            self.missed_bytes += length;
            return;
        };
        if self.missed_bytes > 0 {
            let _ = self.queue.sender.send(Output::Gap(std::mem::take(&mut self.missed_bytes)));
        }
        let (name, bytes) = (Arc::clone(name), Arc::clone(bytes));
        // A subscriber that has left is removed when its query arrives.
        let _ = self.queue.sender.send(Output::Bytes { name, at, offset, bytes, room });
    }
}

impl Queue {
    fn room_for(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        let size = u32::try_from(length + PIECE_OVERHEAD).ok()?;
        let own = Arc::clone(&self.own).try_acquire_many_owned(size);
        own.or_else(|_| Arc::clone(&self.shared).try_acquire_many_owned(size)).ok()
    }
}
