//! Whoever wants to hear what processes say, beside the stream itself.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::recent::{Line, Recent};

/// What is kept for a follower that is slow; what comes then is counted, not kept.
pub const BEHIND: usize = 128;

/// Whom a question is about, by the names of processes.
pub struct Filter(pub Box<dyn Fn(&str) -> bool + Send>);

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}

/// Something that a follower is told.
#[derive(Clone, Debug)]
pub enum Said {
    /// A process said this, in pieces of no meaning.
    Bytes {
        /// Who.
        name: Arc<str>,
        /// When.
        at: SystemTime,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// So many bytes did not fit.
    Lost(u64),
}

/// A question about what was said, and perhaps about what will be.
#[derive(Debug)]
pub struct Question {
    /// About whom.
    pub filter: Filter,
    /// How many lines at most.
    pub most: usize,
    /// None that is older.
    pub since: Option<SystemTime>,
    /// Where the lines go.
    pub answer: oneshot::Sender<Vec<Line>>,
    /// Where all goes that comes after them.
    pub follow: Option<mpsc::Sender<Said>>,
}

struct Follower {
    filter: Filter,
    to: mpsc::Sender<Said>,
    lost: u64,
}

/// All that is remembered and passed on of what processes say.
pub(super) struct Audience {
    recent: Recent,
    followers: Vec<Follower>,
}

impl Audience {
    /// Nobody yet; so many bytes are remembered of each process.
    pub(super) fn new(kept: usize) -> Self {
        Self { recent: Recent::new(kept), followers: Vec::new() }
    }

    /// A process has said something.
    pub(super) fn hear(&mut self, name: &Arc<str>, bytes: &[u8]) {
        let at = SystemTime::now();
        self.recent.push(name, at, bytes);
        if self.followers.is_empty() {
            return;
        }
        let mut said = None;
        self.followers.retain_mut(|follower| {
            if follower.to.is_closed() {
                return false;
            }
            if !(follower.filter.0)(name) {
                return true;
            }
            let said = said.get_or_insert_with(|| {
                let (name, bytes) = (Arc::clone(name), bytes.into());
                Said::Bytes { name, at, bytes }
            });
            follower.tell(said, bytes.len())
        });
    }

    /// A process has ended: so has its last line.
    pub(super) fn end(&mut self, name: &Arc<str>) {
        if self.recent.is_open(name) {
            self.hear(name, b"\n");
        }
    }

    pub(super) fn answer(&mut self, question: Question) {
        let Question { filter, most, since, answer, follow } = question;
        // Whoever asked may be gone.
        let _ = answer.send(self.recent.lines(&filter.0, since, most));
        self.followers.extend(follow.map(|to| Follower { filter, to, lost: 0 }));
    }
}

impl Follower {
    /// Never waits. False if nobody follows any more.
    fn tell(&mut self, said: &Said, length: usize) -> bool {
        if self.lost > 0 && self.to.try_send(Said::Lost(self.lost)).is_ok() {
            self.lost = 0;
        }
        let told = if self.lost > 0 {
            Err(TrySendError::Full(()))
        } else {
            self.to.try_send(said.clone()).map_err(|error| match error {
                TrySendError::Full(_) => TrySendError::Full(()),
                TrySendError::Closed(_) => TrySendError::Closed(()),
            })
        };
        match told {
            Ok(()) => true,
            Err(TrySendError::Full(())) => {
                self.lost += length as u64;
                true
            }
            Err(TrySendError::Closed(())) => false,
        }
    }
}
