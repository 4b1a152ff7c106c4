//! A queue of requests, used at both ends of the socket.
//!
//! A request that ends processes overtakes the others: a stop does not wait behind a thousand
//! starts. The others keep their order. A signal replaces an equal one for the same child that
//! is still queued, and a stop cancels a start that is still queued, so the queue holds at most
//! a few requests for each child.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::protocol::{ChildId, Request, Scope};

/// Requests, each with the files `F` that belong to it.
#[derive(Debug)]
pub(super) struct Queue<F> {
    urgent: VecDeque<Request>,
    /// The stops in `urgent`.
    stops: HashSet<(ChildId, i32, Scope)>,
    /// The other requests, by their number in the order of arrival.
    ordinary: BTreeMap<u64, (Request, F)>,
    next_number: u64,
    /// The numbers in `ordinary` of the queued starts and signals.
    spawns: HashMap<ChildId, u64>,
    signals: HashMap<(ChildId, i32), u64>,
}

impl<F> Default for Queue<F> {
    fn default() -> Self {
        Self {
            urgent: VecDeque::new(),
            stops: HashSet::new(),
            ordinary: BTreeMap::new(),
            next_number: 0,
            spawns: HashMap::new(),
            signals: HashMap::new(),
        }
    }
}

/// What happened to a request that was pushed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Queued {
    /// It is queued.
    Waiting,
    /// It was a stop and has cancelled the queued start of this child.
    Cancelled(ChildId),
}

impl<F: Default> Queue<F> {
    pub(super) fn push(&mut self, request: Request, files: F) -> Queued {
        match request {
            Request::Stop { id, signal, scope } => {
                if let Some(number) = self.spawns.remove(&id) {
                    self.ordinary.remove(&number);
                    return Queued::Cancelled(id);
                }
                if self.stops.insert((id, signal, scope)) {
                    self.urgent.push_back(request);
                }
            }
            Request::StopOrphans
            | Request::Sweep
            | Request::Suspend
            | Request::Resume
            | Request::Ping(_) => {
                self.urgent.push_back(request);
            }
            Request::Spawn(ref spawn) => {
                self.spawns.insert(spawn.id, self.next_number);
                self.append(request, files);
            }
            Request::Signal { id, signal } => {
                // The later one stays, because the last signal decides the effect.
                if let Some(earlier) = self.signals.insert((id, signal), self.next_number) {
                    self.ordinary.remove(&earlier);
                }
                self.append(request, files);
            }
        }
        Queued::Waiting
    }

    fn append(&mut self, request: Request, files: F) {
        self.ordinary.insert(self.next_number, (request, files));
        self.next_number += 1;
    }

    /// Takes the next request. A start, and the requests behind it, only if `may_spawn`.
    pub(super) fn pop(&mut self, may_spawn: bool) -> Option<(Request, F)> {
        if let Some(request) = self.urgent.pop_front() {
            if let Request::Stop { id, signal, scope } = request {
                self.stops.remove(&(id, signal, scope));
            }
            return Some((request, F::default()));
        }
        let entry = self.ordinary.first_entry()?;
        match &entry.get().0 {
            Request::Spawn(_) if !may_spawn => return None,
            Request::Spawn(spawn) => drop(self.spawns.remove(&spawn.id)),
            Request::Signal { id, signal } => drop(self.signals.remove(&(*id, *signal))),
            Request::Stop { .. }
            | Request::StopOrphans
            | Request::Sweep
            | Request::Suspend
            | Request::Resume
            | Request::Ping(_) => {}
        }
        Some(entry.remove())
    }

    /// Takes at most `limit` requests, until `convert` refuses one.
    pub(super) fn pop_batch<T>(
        &mut self,
        limit: usize,
        convert: impl Fn(&Request) -> Option<T>,
    ) -> Vec<T> {
        let mut batch = Vec::new();
        while batch.len() < limit {
            let Some(converted) = self.peek().and_then(&convert) else { break };
            batch.push(converted);
            self.pop(true);
        }
        batch
    }

    fn peek(&self) -> Option<&Request> {
        let ordinary = || self.ordinary.first_key_value().map(|(_, (request, _))| request);
        self.urgent.front().or_else(ordinary)
    }

    pub(super) fn len(&self) -> usize {
        self.urgent.len() + self.ordinary.len()
    }

    /// Whether [`Self::pop`] returns a request.
    pub(super) fn has_next(&self, may_spawn: bool) -> bool {
        self.peek().is_some_and(|request| may_spawn || !matches!(request, Request::Spawn(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::protocol::{SpawnRequest, Stdin};

    fn spawn(id: u64) -> Request {
        Request::Spawn(SpawnRequest {
            id: ChildId(id),
            argv: vec![],
            env: vec![],
            dir: vec![],
            stdin: Stdin::Null,
            terminal: false,
            listener: None,
        })
    }

    fn signal(id: u64, signal: i32) -> Request {
        Request::Signal { id: ChildId(id), signal }
    }

    fn stop(id: u64, signal: i32) -> Request {
        Request::Stop { id: ChildId(id), signal, scope: Scope::Group }
    }

    fn drain(mut queue: Queue<()>) -> Vec<Request> {
        std::iter::from_fn(|| queue.pop(true)).map(|(request, ())| request).collect()
    }

    #[test]
    fn stop_overtakes_starts_and_signals() {
        let mut queue = Queue::<()>::default();
        for request in [spawn(1), signal(2, 10), stop(2, 15), Request::Sweep] {
            queue.push(request, ());
        }
        assert_eq!(drain(queue), [stop(2, 15), Request::Sweep, spawn(1), signal(2, 10)]);
    }

    #[test]
    fn stop_cancels_the_queued_start() {
        let mut queue = Queue::<()>::default();
        queue.push(spawn(1), ());
        queue.push(spawn(2), ());
        assert_eq!(queue.push(stop(1, 15), ()), Queued::Cancelled(ChildId(1)));
        assert_eq!(queue.push(stop(3, 15), ()), Queued::Waiting);
        assert_eq!(drain(queue), [stop(3, 15), spawn(2)]);
    }

    #[test]
    fn equal_signals_are_merged_into_the_last_one() {
        let mut queue = Queue::<()>::default();
        for number in [19, 18, 19, 18, 19] {
            queue.push(signal(1, number), ());
        }
        assert_eq!(drain(queue), [signal(1, 18), signal(1, 19)]);
    }

    #[test]
    fn signal_does_not_overtake_an_earlier_start() {
        let mut queue = Queue::<()>::default();
        queue.push(spawn(1), ());
        queue.push(signal(1, 10), ());
        assert_eq!(queue.pop(false), None);
        queue.push(stop(2, 15), ());
        assert_eq!(queue.pop(false).map(|(request, ())| request), Some(stop(2, 15)));
        assert_eq!(drain(queue), [spawn(1), signal(1, 10)]);
    }
}
