//! The children that the keeper has made, and their descendants.
//!
//! To a child belong: its session and its group; what descends from it; and
//! what did so when it was last looked at, wherever it has gone since. A
//! descendant that was lost sight of is known by the marker in its environment.
//! What can't be told even so is a stray, and belongs to no child.
//!
//! A leader that has exited is waited for only when no process is left of it: as
//! long as it is a zombie, its number names no other process, group or session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpid};

use super::isolation::Isolation;
use super::kill::{self, Bystanders, send, send_to_child, send_to_group};
use super::process_table::{self, Environment, Identity, ProcStat, descendants};
use super::protocol::{ChildId, MARK, Member, Report, Scope, Spawn, Wait};
use super::spawn::{self, ExecOutcome, SpawnContext};
use super::wait;

/// A program that the system has not executed for so long hangs.
const START_HANGS_AFTER: Duration = Duration::from_secs(1);

struct Child {
    id: ChildId,
    leader: Leader,
    stop: Stop,
}

/// What has become of the process that was forked.
enum Leader {
    /// It has not executed its program yet.
    Starting(Start),
    /// It runs.
    Running,
    /// It is a zombie, and ganger is still to be told.
    Ended(Wait),
    /// It is a zombie, and ganger knows that others of its processes are left.
    Lingering,
}

/// A child on its way to execve(2), where signals are not yet what its program
/// would get.
struct Start {
    outcome: ExecOutcome,
    /// When it hangs, if that is still to be reported.
    hangs_at: Option<Instant>,
    /// What is to be sent once its program runs.
    signals: Vec<i32>,
}

/// How far a child has been asked to end.
enum Stop {
    /// It has not.
    NotAsked,
    /// With a signal, which its group has got.
    Asked {
        signal: i32,
        /// Those outside of the group that have got it.
        sent: HashSet<Identity>,
        /// Those outside of the group that were left to their parent, as they were then.
        deferred: Vec<ProcStat>,
    },
    /// All of its processes are to be killed.
    Killing,
}

/// What is done about strays.
enum Strays {
    /// They are left alone: a daemon that a user started may be meant to run.
    Ignored,
    /// They are asked to stop, each once.
    Stopping {
        sent: HashSet<Identity>,
        /// What was left at the last report.
        reported: Option<Vec<Member>>,
    },
}

impl Child {
    fn has_ended(&self) -> bool {
        match self.leader {
            Leader::Starting(_) | Leader::Running => false,
            Leader::Ended(_) | Leader::Lingering => true,
        }
    }
}

impl Child {
    /// Whether it has been asked to end, and some of its processes were left to others.
    fn waits_for_parents(&self) -> bool {
        match &self.stop {
            Stop::Asked { deferred, .. } => !deferred.is_empty(),
            Stop::NotAsked | Stop::Killing => false,
        }
    }
}

/// What lives below the keeper and is no leader, and the leader to which each belongs.
struct DescendantSnapshot {
    descendants: Vec<ProcStat>,
    owners: Vec<Option<Pid>>,
    /// Leaders of which two walks did not see the same.
    unsettled: HashSet<Pid>,
}

impl DescendantSnapshot {
    fn owned_by(&self, owner: Option<Pid>) -> impl Iterator<Item = &ProcStat> {
        let pairs = self.descendants.iter().zip(&self.owners);
        pairs.filter(move |(_, found)| **found == owner).map(|(stat, _)| stat)
    }

    fn members(&self, leader: Pid) -> impl Iterator<Item = &ProcStat> {
        self.owned_by(Some(leader))
    }
}

/// All children, by the process id of their leader.
pub(super) struct Children {
    by_leader: BTreeMap<Pid, Child>,
    leaders: HashMap<ChildId, Pid>,
    /// Leaders that have not executed their program yet.
    starting: Vec<Pid>,
    /// Descendants that were seen before they left the session, and their leader.
    known: HashMap<Identity, Pid>,
    strays: Strays,
    /// Whether all of them are to be suspended: one that was starting follows.
    suspended: bool,
    /// What tells this keeper's descendants from those of any other.
    session: String,
    context: SpawnContext,
}

/// A signal for a child and its descendants.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignalRequest {
    pub(super) id: ChildId,
    pub(super) signal: i32,
}

/// A signal that ends a child.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopRequest {
    pub(super) id: ChildId,
    pub(super) signal: i32,
    pub(super) scope: Scope,
}

impl Children {
    /// No children; those to come are started with this `context`.
    pub(super) fn new(context: SpawnContext) -> Self {
        Self {
            by_leader: BTreeMap::new(),
            leaders: HashMap::new(),
            starting: Vec::new(),
            known: HashMap::new(),
            strays: Strays::Ignored,
            suspended: false,
            session: process_table::session(getpid()).unwrap_or_else(|| getpid().to_string()),
            context,
        }
    }

    /// What tells this keeper's descendants from those of any other.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// Starts a child, which writes to `output` and is given `listener`; a report
    /// tells at once only that it can't be.
    pub(super) fn spawn(
        &mut self,
        request: &Spawn,
        output: OwnedFd,
        listener: Option<OwnedFd>,
    ) -> Option<Report> {
        let id = request.id;
        let session = format!("{}/{}", self.session, id.0);
        match spawn::spawn(request, &session, output, listener, &self.context) {
            Ok(spawned) => {
                let hangs_at = Some(Instant::now() + START_HANGS_AFTER);
                let start = Start { outcome: spawned.outcome, hangs_at, signals: Vec::new() };
                let leader = Leader::Starting(start);
                let child = Child { id, leader, stop: Stop::NotAsked };
                self.by_leader.insert(spawned.pid, child);
                self.leaders.insert(id, spawned.pid);
                self.starting.push(spawned.pid);
                None
            }
            Err(failed) => {
                Some(Report::SpawnFailed { id, step: failed.step, errno: failed.errno as i32 })
            }
        }
    }

    /// What becomes readable when it is known whether a program is executed, with
    /// the leader that is to execute it.
    pub(super) fn exec_outcomes(&self) -> impl Iterator<Item = (Pid, BorrowedFd<'_>)> {
        self.starting.iter().filter_map(|leader| match &self.by_leader.get(leader)?.leader {
            Leader::Starting(start) => Some((*leader, start.outcome.as_fd())),
            Leader::Running | Leader::Ended(_) | Leader::Lingering => None,
        })
    }

    /// Takes note of whether the program of this leader is executed, which is known.
    pub(super) fn finish_start(&mut self, leader: Pid, reports: &mut Vec<Report>) {
        self.starting.retain(|starting| *starting != leader);
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let Leader::Starting(start) = &mut child.leader else { return };
        let id = child.id;
        match start.outcome.read() {
            Ok(()) => {
                let signals = std::mem::take(&mut start.signals);
                child.leader = Leader::Running;
                for signal in signals {
                    let _ = send_to_group(leader, signal);
                }
                match child.stop {
                    Stop::Asked { signal, .. } => stop_group(leader, signal),
                    Stop::NotAsked | Stop::Killing if self.suspended => {
                        let _ = send_to_group(leader, libc::SIGSTOP);
                    }
                    Stop::NotAsked | Stop::Killing => {}
                }
                reports.push(Report::Spawned { id, pid: leader.as_raw() });
            }
            Err(failed) => {
                // It exits just now, and is waited for in the next look.
                if cfg!(not(target_os = "linux")) {
                    wait::reap_exiting(leader);
                }
                self.by_leader.remove(&leader);
                self.leaders.remove(&id);
                let (step, errno) = (failed.step, failed.errno as i32);
                reports.push(Report::SpawnFailed { id, step, errno });
            }
        }
    }

    /// When the next start that is under way is taken for one that hangs.
    pub(super) fn next_hang(&self) -> Option<Instant> {
        let starts = self.starting.iter().filter_map(|leader| self.by_leader.get(leader));
        let hangs_at = |child: &Child| match &child.leader {
            Leader::Starting(start) => start.hangs_at,
            Leader::Running | Leader::Ended(_) | Leader::Lingering => None,
        };
        starts.filter_map(hangs_at).min()
    }

    /// Reports starts that hang, each once.
    pub(super) fn report_hanging_starts(&mut self, now: Instant, reports: &mut Vec<Report>) {
        for leader in &self.starting {
            let Some(child) = self.by_leader.get_mut(leader) else { continue };
            if let Leader::Starting(start) = &mut child.leader
                && start.hangs_at.is_some_and(|at| at <= now)
            {
                start.hangs_at = None;
                reports.push(Report::StartHangs { id: child.id, pid: leader.as_raw() });
            }
        }
    }

    /// Whether there is still somewhere to start a child.
    pub(super) fn namespace_alive(&self) -> bool {
        self.context.isolation.as_ref().is_none_or(Isolation::holds)
    }

    /// Sends signals, each to a child and all of its descendants.
    pub(super) fn signal(&mut self, requests: &[SignalRequest]) {
        let snapshot = self.snapshot();
        for &SignalRequest { id, signal } in requests {
            let Some(&leader) = self.leaders.get(&id) else { continue };
            match self.by_leader.get_mut(&leader) {
                Some(Child { leader: Leader::Starting(start), .. }) => {
                    start.signals.retain(|waiting| *waiting != signal);
                    start.signals.push(signal);
                }
                Some(_) => {
                    let members = self.members(leader, &snapshot);
                    kill::send_to_all(leader, &members, signal);
                }
                None => {}
            }
        }
    }

    /// Suspends all children and their descendants.
    pub(super) fn suspend(&mut self) {
        self.suspended = true;
        // What forked during the first walk is seen by the second: nothing forks then.
        for _ in 0..2 {
            self.signal_all(libc::SIGSTOP);
        }
    }

    /// Has all children and their descendants go on.
    pub(super) fn resume(&mut self) {
        self.suspended = false;
        self.signal_all(libc::SIGCONT);
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspended
    }

    fn signal_all(&mut self, signal: i32) {
        let snapshot = self.snapshot();
        let leaders = self.by_leader.iter().filter(|(_, child)| match child.leader {
            // It follows once its program runs, where signals have their effect.
            Leader::Starting(_) => false,
            Leader::Running | Leader::Ended(_) | Leader::Lingering => true,
        });
        let leaders: Vec<Pid> = leaders.map(|(leader, _)| *leader).collect();
        for leader in leaders {
            let members = self.members(leader, &snapshot);
            kill::send_to_all(leader, &members, signal);
        }
    }

    /// Asks children to end, or kills them.
    pub(super) fn stop(&mut self, requests: &[StopRequest]) {
        let snapshot = self.snapshot();
        for request in requests {
            let Some(&leader) = self.leaders.get(&request.id) else { continue };
            if request.signal == libc::SIGKILL {
                self.kill(leader, &snapshot);
            } else {
                self.ask_to_stop(leader, *request, &snapshot);
            }
        }
    }

    fn kill(&mut self, leader: Pid, snapshot: &DescendantSnapshot) {
        let members = self.members(leader, snapshot);
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        child.stop = Stop::Killing;
        // Before it has a group of its own, it is not in the one that it will lead.
        let _ = send_to_child(leader, libc::SIGKILL);
        kill::send_to_all(leader, &members, libc::SIGKILL);
    }

    fn ask_to_stop(&mut self, leader: Pid, stop: StopRequest, snapshot: &DescendantSnapshot) {
        // Walked before anything is signalled: what loses its parent then is known.
        let members = self.members(leader, snapshot);
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let StopRequest { signal, scope, .. } = stop;
        let (mut sent, deferred) = match std::mem::replace(&mut child.stop, Stop::NotAsked) {
            Stop::Killing => {
                child.stop = Stop::Killing;
                return;
            }
            // The group has got it already.
            Stop::Asked { sent, deferred, .. } => (sent, deferred),
            Stop::NotAsked => {
                match child.leader {
                    // Once its program runs.
                    Leader::Starting(_) => {}
                    Leader::Running | Leader::Ended(_) | Leader::Lingering => {
                        stop_group(leader, signal);
                    }
                }
                (HashSet::new(), Vec::new())
            }
        };
        let outside = members.into_iter().filter(|member| member.group != leader);
        let is_due = |member: &ProcStat| match scope {
            Scope::All => true,
            Scope::Group => is_orphan(member, &deferred, &self.context.reapers()),
        };
        let deferred = stop_if_due(outside, signal, is_due, &deferred, &mut sent);
        child.stop = Stop::Asked { signal, sent, deferred };
    }

    /// From now on, asks strays to stop.
    pub(super) fn stop_strays(&mut self) {
        if let Strays::Ignored = self.strays {
            self.strays = Strays::Stopping { sent: HashSet::new(), reported: None };
        }
    }

    /// Kills all that is left, and returns what it could not.
    pub(super) fn sweep(&mut self) -> Vec<Member> {
        for &leader in self.by_leader.keys() {
            let _ = send_to_child(leader, libc::SIGKILL);
            let _ = send_to_group(leader, libc::SIGKILL);
        }
        self.by_leader.clear();
        self.leaders.clear();
        self.starting.clear();
        kill::sweep(&Bystanders::default())
    }

    /// Whether to look again soon, though nothing is reported: the exit of a process
    /// whose parent lives is not, nor that another one has lost its parent.
    pub(super) fn needs_polling(&self) -> bool {
        let has_strays = match &self.strays {
            Strays::Ignored => false,
            Strays::Stopping { reported, .. } => {
                reported.as_ref().is_some_and(|left| !left.is_empty())
            }
        };
        let waits = |child: &Child| child.has_ended() || child.waits_for_parents();
        has_strays || self.by_leader.values().any(waits)
    }

    /// Finds out what has ended, and does what follows from it.
    pub(super) fn look(&mut self, reports: &mut Vec<Report>) {
        self.finish_starts(reports);
        self.reap();
        let snapshot = self.snapshot();
        self.stop_and_report_strays(&snapshot, reports);
        let (mut ended, mut waiting) = (Vec::new(), Vec::new());
        for (leader, child) in &self.by_leader {
            // Leaders whose members are never still are looked at again.
            if child.has_ended() && !snapshot.unsettled.contains(leader) {
                ended.push(*leader);
            } else if child.waits_for_parents() {
                waiting.push(*leader);
            }
        }
        for leader in ended {
            let left: Vec<&ProcStat> = snapshot.members(leader).filter(|stat| stat.alive).collect();
            self.look_at_ended(leader, &left, reports);
        }
        for leader in waiting {
            let members = self.members(leader, &snapshot);
            self.stop_orphans(leader, members);
        }
    }

    /// What has ended may have executed its program first.
    fn finish_starts(&mut self, reports: &mut Vec<Report>) {
        for leader in self.starting.clone() {
            if wait::ended(leader).is_some() {
                self.finish_start(leader, reports);
            }
        }
    }

    fn look_at_ended(&mut self, leader: Pid, left: &[&ProcStat], reports: &mut Vec<Report>) {
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let id = child.id;
        let members = || left.iter().map(|stat| stat.member()).collect();
        match child.leader {
            Leader::Starting(_) | Leader::Running => return,
            Leader::Ended(wait) => reports.push(Report::Exited { id, wait, left: members() }),
            Leader::Lingering if left.is_empty() => reports.push(Report::Empty { id }),
            Leader::Lingering => {}
        }
        if left.is_empty() {
            wait::reap(leader);
            self.by_leader.remove(&leader);
            self.leaders.remove(&id);
            if !self.known.is_empty() {
                self.known.retain(|_, owner| *owner != leader);
            }
            return;
        }
        child.leader = Leader::Lingering;
        for stat in left {
            self.known.insert(stat.identity(), leader);
            if matches!(child.stop, Stop::Killing) {
                let _ = send(stat, libc::SIGKILL);
            }
        }
        self.stop_orphans(leader, left.iter().copied().cloned());
    }

    /// Passes the stop signal on to processes that have lost their parent since.
    fn stop_orphans(&mut self, leader: Pid, members: impl IntoIterator<Item = ProcStat>) {
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        if let Stop::Asked { signal, sent, deferred } = &mut child.stop {
            let reapers = self.context.reapers();
            let before = std::mem::take(deferred);
            let outside = members.into_iter().filter(|member| member.group != leader);
            let is_due = |member: &ProcStat| is_orphan(member, &before, &reapers);
            *deferred = stop_if_due(outside, *signal, is_due, &before, sent);
        }
    }

    /// Notes which leaders have ended, and waits for other children that have.
    fn reap(&mut self) {
        for (leader, child) in &mut self.by_leader {
            if !child.has_ended()
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

    /// What lives below the keeper and not below a leader.
    ///
    /// A parent may end during the walk, and its children turn up elsewhere: only
    /// what two walks agree on is taken for all that belongs to a leader.
    fn snapshot(&mut self) -> DescendantSnapshot {
        let walk = || {
            let below = self.all().into_iter().filter(|pid| !self.by_leader.contains_key(pid));
            let mut found = descendants(below);
            found.retain(|stat| !self.is_init(stat.pid));
            let owners = self.owners(&found);
            DescendantSnapshot { descendants: found, owners, unsettled: HashSet::new() }
        };
        let mut before = walk();
        for _ in 0..5 {
            if before.descendants.is_empty() {
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
        self.add_known_elsewhere(&mut before);
        before
    }

    /// What was seen below a leader, and has fallen to the first process of a namespace
    /// that it had entered, is not below the keeper any more.
    fn add_known_elsewhere(&mut self, snapshot: &mut DescendantSnapshot) {
        if self.known.is_empty() {
            return;
        }
        let found: HashSet<Identity> =
            snapshot.descendants.iter().map(ProcStat::identity).collect();
        self.known.retain(|identity, leader| {
            if found.contains(identity) {
                return true;
            }
            let now = process_table::stat(identity.0).filter(|now| now.identity() == *identity);
            let Some(stat) = now.filter(|now| now.alive) else { return false };
            snapshot.descendants.push(stat);
            snapshot.owners.push(Some(*leader));
            true
        });
    }

    /// Whether it is the first process of the children's namespace.
    fn is_init(&self, pid: Pid) -> bool {
        self.context.isolation.as_ref().is_some_and(|isolation| isolation.init == pid)
    }

    /// The keeper's children, those that were not forked here among them.
    fn all(&self) -> Vec<Pid> {
        if cfg!(target_os = "linux") {
            process_table::children(getpid())
        } else {
            self.by_leader.keys().copied().collect()
        }
    }

    /// All that belongs to a leader and lives, the leader included. What is outside of
    /// its session is known from then on.
    fn members(&mut self, leader: Pid, snapshot: &DescendantSnapshot) -> Vec<ProcStat> {
        let runs = self.by_leader.get(&leader).is_some_and(|child| !child.has_ended());
        let mut members = if runs { descendants([leader]) } else { Vec::new() };
        let below: HashSet<Identity> = members.iter().map(ProcStat::identity).collect();
        let others = snapshot.members(leader).filter(|stat| !below.contains(&stat.identity()));
        members.extend(others.cloned());
        members.retain(|stat| stat.alive);
        for stat in members.iter().filter(|stat| stat.session != leader) {
            self.known.insert(stat.identity(), leader);
        }
        members
    }

    /// The leader to which each of `descendants` belongs, parents being before their
    /// children.
    fn owners(&self, descendants: &[ProcStat]) -> Vec<Option<Pid>> {
        let mut owners: HashMap<Pid, Option<Pid>> = HashMap::new();
        for stat in descendants {
            let named = [stat.session, stat.group]
                .into_iter()
                .find(|leader| self.by_leader.contains_key(leader));
            let owner = named
                .or_else(|| self.known.get(&stat.identity()).copied())
                .or_else(|| owners.get(&stat.parent).copied().flatten())
                .or_else(|| self.marked(stat.pid));
            owners.insert(stat.pid, owner);
        }
        descendants.iter().map(|stat| owners[&stat.pid]).collect()
    }

    fn marked(&self, pid: Pid) -> Option<Pid> {
        let Environment::With(marker) = process_table::variable(pid, MARK) else { return None };
        let id = marker.strip_prefix(&self.session)?.strip_prefix('/')?.parse().ok()?;
        self.leaders.get(&ChildId(id)).copied()
    }

    fn stop_and_report_strays(&mut self, snapshot: &DescendantSnapshot, reports: &mut Vec<Report>) {
        let reapers = self.context.reapers();
        let Strays::Stopping { sent, reported } = &mut self.strays else { return };
        let mut left = Vec::new();
        for stray in snapshot.owned_by(None).filter(|stat| stat.alive) {
            left.push(stray.member());
            // What has its parent is left to it.
            if reapers.contains(&stray.parent) && sent.insert(stray.identity()) {
                stop_process(stray, libc::SIGTERM);
            }
        }
        if reported.as_ref() != Some(&left) {
            reports.push(Report::Strays { left: left.clone() });
            *reported = Some(left);
        }
    }
}

/// Asks a group to end; suspended processes are woken to do so.
fn stop_group(leader: Pid, signal: i32) {
    let _ = send_to_group(leader, signal);
    let _ = send_to_group(leader, libc::SIGCONT);
}

/// The same for one process.
fn stop_process(stat: &ProcStat, signal: i32) {
    let _ = send(stat, signal);
    let _ = send(stat, libc::SIGCONT);
}

/// Whether a process has lost the parent that would stop it: it fell to one of `reapers`,
/// or, from a namespace that it had entered, to the first process there.
fn is_orphan(process: &ProcStat, before: &[ProcStat], reapers: &[Pid]) -> bool {
    let earlier = before.iter().find(|earlier| earlier.identity() == process.identity());
    reapers.contains(&process.parent)
        || earlier.is_some_and(|earlier| earlier.parent != process.parent)
}

/// Sends the stop signal to those processes for which it is due, each once, and returns
/// the others, as they were when they were first seen.
fn stop_if_due(
    processes: impl Iterator<Item = ProcStat>,
    signal: i32,
    is_due: impl Fn(&ProcStat) -> bool,
    before: &[ProcStat],
    sent: &mut HashSet<Identity>,
) -> Vec<ProcStat> {
    let mut deferred = Vec::new();
    for process in processes {
        if sent.contains(&process.identity()) {
            continue;
        }
        if is_due(&process) {
            sent.insert(process.identity());
            stop_process(&process, signal);
        } else {
            let earlier = before.iter().find(|earlier| earlier.identity() == process.identity());
            deferred.push(earlier.cloned().unwrap_or(process));
        }
    }
    deferred
}
