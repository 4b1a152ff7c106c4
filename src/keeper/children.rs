//! The children that the keeper has made, and whoever belongs to them.
//!
//! To a child belong: its session and its group; what descends from it; and
//! what did so when it was last looked at, wherever it has gone since. A
//! descendant that was lost sight of is known by the mark in its environment.
//! What can't be told even so is a stray, and belongs to no child.
//!
//! A leader that has exited is waited for only when nobody is left of it: as
//! long as it is a zombie, its number names no other process, group or session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;

use nix::unistd::{Pid, getpid};

use super::isolation::Isolation;
use super::kill::{self, send, send_to_group};
use super::protocol::{ChildId, MARK, Member, Report, Spawn, Wait};
use super::spawn::{self, Surroundings};
use super::tree::{self, Seen};
use super::wait;

/// A process for good: a number alone may be given out again.
type Identity = (Pid, u64);

struct Child {
    id: ChildId,
    /// What it reads, held open.
    _stdin: Option<OwnedFd>,
    leader: Leader,
    /// Whether all that belongs to it is to be killed.
    killing: bool,
}

/// What has become of the process that was forked.
#[derive(Clone, Copy)]
enum Leader {
    /// It runs.
    Running,
    /// It is a zombie, and ganger is still to hear of it.
    Ended(Wait),
    /// It is a zombie, and ganger knows that others of it are left.
    Lingering,
}

/// What is done about strays.
enum Strays {
    /// They are let be: a daemon that somebody started may be meant to run.
    Ignored,
    /// They are asked to stop, each once.
    Stopping {
        told: HashSet<Identity>,
        /// Who was left at the last report.
        reported: Option<Vec<Member>>,
    },
}

impl Child {
    fn runs(&self) -> bool {
        matches!(self.leader, Leader::Running)
    }
}

/// Who was seen below the keeper, and to whom each belongs.
struct Around {
    strangers: Vec<Seen>,
    owners: Vec<Option<Pid>>,
    /// Leaders of whom two walks did not see the same.
    unsettled: HashSet<Pid>,
}

impl Around {
    fn of(&self, owner: Option<Pid>) -> impl Iterator<Item = &Seen> {
        let pairs = self.strangers.iter().zip(&self.owners);
        pairs.filter(move |(_, found)| **found == owner).map(|(seen, _)| seen)
    }

    fn members(&self, leader: Pid) -> impl Iterator<Item = &Seen> {
        self.of(Some(leader))
    }
}

/// All children, by the process id of their leader.
pub(super) struct Children {
    by_leader: BTreeMap<Pid, Child>,
    leaders: HashMap<ChildId, Pid>,
    /// Descendants that were seen before they went elsewhere, and their leader.
    seen: HashMap<Identity, Pid>,
    strays: Strays,
    /// What tells this keeper's descendants from those of any other.
    session: String,
    around: Surroundings,
}

impl Children {
    /// No children; those to come have these `around` them.
    pub(super) fn new(around: Surroundings) -> Self {
        Self {
            by_leader: BTreeMap::new(),
            leaders: HashMap::new(),
            seen: HashMap::new(),
            strays: Strays::Ignored,
            session: tree::identity(getpid()).unwrap_or_else(|| getpid().to_string()),
            around,
        }
    }

    /// Starts a child, which writes to `output` and is given `listener`.
    pub(super) fn spawn(
        &mut self,
        request: &Spawn,
        output: OwnedFd,
        listener: Option<OwnedFd>,
    ) -> Report {
        let id = request.id;
        let session = format!("{}/{}", self.session, id.0);
        match spawn::spawn(request, &session, output, listener, &self.around) {
            Ok(spawned) => {
                let pid = spawned.pid;
                let child =
                    Child { id, _stdin: spawned.stdin, leader: Leader::Running, killing: false };
                self.by_leader.insert(pid, child);
                self.leaders.insert(id, pid);
                Report::Spawned { id, pid: pid.as_raw() }
            }
            Err(failed) => {
                Report::SpawnFailed { id, step: failed.step, errno: failed.errno as i32 }
            }
        }
    }

    /// Whether there is still somewhere to start a child.
    pub(super) fn have_a_place(&self) -> bool {
        self.around.isolation.as_ref().is_none_or(Isolation::holds)
    }

    /// Sends a signal to all that belongs to a child.
    pub(super) fn signal(&mut self, id: ChildId, signal: i32) {
        if let Some(&leader) = self.leaders.get(&id) {
            let members = self.members(leader);
            kill::send_to_all(leader, &members, signal);
        }
    }

    /// The same, to end it: wakes who is suspended, and has SIGKILL repeated.
    pub(super) fn stop(&mut self, id: ChildId, signal: i32) {
        let Some(&leader) = self.leaders.get(&id) else { return };
        let members = self.members(leader);
        kill::send_to_all(leader, &members, signal);
        if signal == libc::SIGKILL {
            if let Some(child) = self.by_leader.get_mut(&leader) {
                child.killing = true;
            }
        } else {
            kill::send_to_all(leader, &members, libc::SIGCONT);
        }
    }

    /// From now on, asks strays to stop.
    pub(super) fn stop_strays(&mut self) {
        if let Strays::Ignored = self.strays {
            self.strays = Strays::Stopping { told: HashSet::new(), reported: None };
        }
    }

    /// Kills all that is left, and returns whom it could not.
    pub(super) fn sweep(&mut self) -> Vec<Member> {
        for &leader in self.by_leader.keys() {
            let _ = send_to_group(leader, libc::SIGKILL);
        }
        self.by_leader.clear();
        self.leaders.clear();
        kill::sweep()
    }

    /// Whether to look again soon: nothing reports the exit of a member whose
    /// parent lives.
    pub(super) fn is_watching(&self) -> bool {
        let left = match &self.strays {
            Strays::Ignored => false,
            Strays::Stopping { reported, .. } => {
                reported.as_ref().is_some_and(|left| !left.is_empty())
            }
        };
        left || self.by_leader.values().any(|child| !child.runs())
    }

    /// Finds out who has ended, and does what follows from it.
    pub(super) fn look(&mut self, reports: &mut Vec<Report>) {
        self.reap();
        let around = self.look_around();
        self.tell_strays(&around, reports);
        let ended = self.by_leader.iter().filter(|(_, child)| !child.runs());
        // Whose members are never still is looked at again, until it is swept.
        let ended = ended.filter(|(leader, _)| !around.unsettled.contains(leader));
        let ended: Vec<Pid> = ended.map(|(leader, _)| *leader).collect();
        for leader in ended {
            let left: Vec<&Seen> = around.members(leader).filter(|seen| seen.alive).collect();
            self.look_at_ended(leader, &left, reports);
        }
    }

    fn look_at_ended(&mut self, leader: Pid, left: &[&Seen], reports: &mut Vec<Report>) {
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let id = child.id;
        let members = || left.iter().map(|seen| seen.member()).collect();
        match child.leader {
            Leader::Running => return,
            Leader::Ended(wait) => reports.push(Report::Exited { id, wait, left: members() }),
            Leader::Lingering if left.is_empty() => reports.push(Report::Empty { id }),
            Leader::Lingering => {}
        }
        if left.is_empty() {
            wait::reap(leader);
            self.by_leader.remove(&leader);
            self.leaders.remove(&id);
            self.seen.retain(|_, owner| *owner != leader);
            return;
        }
        child.leader = Leader::Lingering;
        for seen in left {
            self.seen.insert((seen.pid, seen.started), leader);
            if child.killing {
                let _ = send(seen, libc::SIGKILL);
            }
        }
    }

    /// Notes which leaders have ended, and waits for strangers that have.
    fn reap(&mut self) {
        for (leader, child) in &mut self.by_leader {
            if child.runs()
                && let Some(wait) = wait::ended(*leader)
            {
                child.leader = Leader::Ended(wait);
            }
        }
        for pid in self.all() {
            if !self.by_leader.contains_key(&pid) && !self.is_init(pid) {
                wait::reap(pid);
            }
        }
    }

    /// Whoever lives below the keeper and not below a child of its making.
    ///
    /// A parent may end during the walk, and its children turn up elsewhere: only
    /// what two walks agree on is taken for all that belongs to a leader.
    fn look_around(&self) -> Around {
        let walk = || {
            let below = self.all().into_iter().filter(|pid| !self.by_leader.contains_key(pid));
            let mut strangers = tree::walk(below);
            strangers.retain(|seen| !self.is_init(seen.pid));
            let owners = self.owners(&strangers);
            Around { strangers, owners, unsettled: HashSet::new() }
        };
        let mut before = walk();
        for _ in 0..5 {
            if before.strangers.is_empty() {
                break;
            }
            let mut again = walk();
            let leaders = before.owners.iter().chain(&again.owners).flatten().copied();
            again.unsettled = leaders
                .filter(|leader| !before.members(*leader).eq(again.members(*leader)))
                .collect();
            before = again;
            if before.unsettled.is_empty() {
                break;
            }
        }
        before
    }

    /// Whether it is the first process of the children's namespace.
    fn is_init(&self, pid: Pid) -> bool {
        self.around.isolation.as_ref().is_some_and(|isolation| isolation.init == pid)
    }

    /// The keeper's children, strangers among them.
    fn all(&self) -> Vec<Pid> {
        if cfg!(target_os = "linux") {
            tree::children(getpid())
        } else {
            self.by_leader.keys().copied().collect()
        }
    }

    fn members(&mut self, leader: Pid) -> Vec<Seen> {
        let alive = self.by_leader.get(&leader).is_some_and(Child::runs);
        let mut members = if alive { tree::walk([leader]) } else { Vec::new() };
        members.extend(self.look_around().members(leader).cloned());
        members.retain(|seen| seen.alive);
        for seen in members.iter().filter(|seen| seen.session != leader) {
            self.seen.insert((seen.pid, seen.started), leader);
        }
        members
    }

    /// To whom each of `strangers` belongs, parents being before their children.
    fn owners(&self, strangers: &[Seen]) -> Vec<Option<Pid>> {
        let mut owners: HashMap<Pid, Option<Pid>> = HashMap::new();
        for stranger in strangers {
            let named = [stranger.session, stranger.group]
                .into_iter()
                .find(|leader| self.by_leader.contains_key(leader));
            let owner = named
                .or_else(|| self.seen.get(&(stranger.pid, stranger.started)).copied())
                .or_else(|| owners.get(&stranger.parent).copied().flatten())
                .or_else(|| self.marked(stranger.pid));
            owners.insert(stranger.pid, owner);
        }
        strangers.iter().map(|stranger| owners[&stranger.pid]).collect()
    }

    fn marked(&self, pid: Pid) -> Option<Pid> {
        let mark = tree::variable(pid, MARK)?;
        let id = mark.strip_prefix(&self.session)?.strip_prefix('/')?.parse().ok()?;
        self.leaders.get(&ChildId(id)).copied()
    }

    fn tell_strays(&mut self, around: &Around, reports: &mut Vec<Report>) {
        let Strays::Stopping { told, reported } = &mut self.strays else { return };
        let mut left = Vec::new();
        for stray in around.of(None).filter(|seen| seen.alive) {
            left.push(stray.member());
            if told.insert((stray.pid, stray.started)) {
                let _ = send(stray, libc::SIGTERM);
                let _ = send(stray, libc::SIGCONT);
            }
        }
        if reported.as_ref() != Some(&left) {
            reports.push(Report::Strays { left: left.clone() });
            *reported = Some(left);
        }
    }
}
