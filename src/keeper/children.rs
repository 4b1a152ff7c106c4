//! The children that the keeper has made, and their descendants.
//!
//! To a child belong: its session and its group; what descends from it; and
//! what did so when it was last looked at, wherever it has gone since. A
//! descendant that was lost sight of is known by the marker in its environment.
//! What can't be told even so is an orphan, and belongs to no child.
//!
//! A leader that has exited is waited for only when no process is left of it: as
//! long as it is a zombie, its number names no other process, group or session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpid};

use super::isolation::Isolation;
use super::kill::{self, ExistingDescendants, send, send_to_child, send_to_group};
use super::process_table::{self, Environment, Identity, ProcStat, descendants};
use super::protocol::{ChildId, Descendant, Report, SESSION_VAR, Scope, SpawnRequest, WaitStatus};
use super::spawn::{self, ExecOutcome, SpawnContext};
use super::wait;

/// A program that the system has not executed for so long hangs.
const SLOW_START_AFTER: Duration = Duration::from_secs(1);

struct Child {
    id: ChildId,
    leader: Leader,
    stop: Stop,
}

/// What has become of the process that was forked.
enum Leader {
    /// It has not executed its program yet.
    Starting(PendingExec),
    /// It runs.
    Running,
    /// It is a zombie, and ganger is still to be told.
    Exited(WaitStatus),
    /// It is a zombie, and ganger knows that others of its processes are left.
    Lingering,
}

/// A child on its way to execve(2), where signals are not yet what its program
/// would get.
struct PendingExec {
    outcome: ExecOutcome,
    /// When it hangs, if that is still to be reported.
    report_slow_at: Option<Instant>,
    /// What is to be sent once its program runs.
    signals: Vec<i32>,
}

/// How far a child has been asked to end.
enum Stop {
    /// It has not.
    NotRequested,
    /// With a signal, which its group has got.
    Requested {
        signal: i32,
        /// Those outside of the group that have got it.
        sent: HashSet<Identity>,
        /// Those outside of the group that were left to their parent, as they were then.
        deferred: Vec<ProcStat>,
    },
    /// All of its processes are to be killed.
    Killing,
}

/// What is done about orphans.
enum OrphanPolicy {
    /// They are left alone: a daemon that a user started may be meant to run.
    Ignored,
    /// They are asked to stop, each once.
    Stopping {
        sent: HashSet<Identity>,
        /// What was left at the last report.
        reported: Option<Vec<Descendant>>,
    },
}

impl Child {
    fn has_exited(&self) -> bool {
        match self.leader {
            Leader::Starting(_) | Leader::Running => false,
            Leader::Exited(_) | Leader::Lingering => true,
        }
    }
}

impl Child {
    /// Whether it has been asked to end, and some of its processes were left to others.
    fn has_deferred(&self) -> bool {
        match &self.stop {
            Stop::Requested { deferred, .. } => !deferred.is_empty(),
            Stop::NotRequested | Stop::Killing => false,
        }
    }
}

/// What lives below the keeper and is no leader, and the leader to which each belongs.
struct DescendantSnapshot {
    descendants: Vec<ProcStat>,
    owners: Vec<Option<Pid>>,
    /// Leaders of which two walks did not see the same.
    unstable: HashSet<Pid>,
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
    orphan_policy: OrphanPolicy,
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
            orphan_policy: OrphanPolicy::Ignored,
            suspended: false,
            session: process_table::keeper_session(getpid())
                .unwrap_or_else(|| getpid().to_string()),
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
        request: &SpawnRequest,
        output: OwnedFd,
        listener: Option<OwnedFd>,
    ) -> Option<Report> {
        let id = request.id;
        let session = format!("{}/{}", self.session, id.0);
        match spawn::spawn(request, &session, output, listener, &self.context) {
            Ok(spawned) => {
                let report_slow_at = Some(Instant::now() + SLOW_START_AFTER);
                let start =
                    PendingExec { outcome: spawned.outcome, report_slow_at, signals: Vec::new() };
                let leader = Leader::Starting(start);
                let child = Child { id, leader, stop: Stop::NotRequested };
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
            Leader::Running | Leader::Exited(_) | Leader::Lingering => None,
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
                    Stop::Requested { signal, .. } => stop_group(leader, signal),
                    Stop::NotRequested | Stop::Killing if self.suspended => {
                        let _ = send_to_group(leader, libc::SIGSTOP);
                    }
                    Stop::NotRequested | Stop::Killing => {}
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
    pub(super) fn next_start_timeout(&self) -> Option<Instant> {
        let starts = self.starting.iter().filter_map(|leader| self.by_leader.get(leader));
        let report_slow_at = |child: &Child| match &child.leader {
            Leader::Starting(start) => start.report_slow_at,
            Leader::Running | Leader::Exited(_) | Leader::Lingering => None,
        };
        starts.filter_map(report_slow_at).min()
    }

    /// Reports starts that hang, each once.
    pub(super) fn report_slow_starts(&mut self, now: Instant, reports: &mut Vec<Report>) {
        for leader in &self.starting {
            let Some(child) = self.by_leader.get_mut(leader) else { continue };
            if let Leader::Starting(start) = &mut child.leader
                && start.report_slow_at.is_some_and(|at| at <= now)
            {
                start.report_slow_at = None;
                reports.push(Report::StartHangs { id: child.id, pid: leader.as_raw() });
            }
        }
    }

    /// Whether there is still somewhere to start a child.
    pub(super) fn is_namespace_alive(&self) -> bool {
        self.context.isolation.as_ref().is_none_or(Isolation::is_alive)
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
            Leader::Running | Leader::Exited(_) | Leader::Lingering => true,
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
                self.request_stop(leader, *request, &snapshot);
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

    fn request_stop(&mut self, leader: Pid, stop: StopRequest, snapshot: &DescendantSnapshot) {
        // Walked before anything is signalled: what loses its parent then is known.
        let members = self.members(leader, snapshot);
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let StopRequest { signal, scope, .. } = stop;
        let (mut sent, deferred) = match std::mem::replace(&mut child.stop, Stop::NotRequested) {
            Stop::Killing => {
                child.stop = Stop::Killing;
                return;
            }
            // The group has got it already.
            Stop::Requested { sent, deferred, .. } => (sent, deferred),
            Stop::NotRequested => {
                match child.leader {
                    // Once its program runs.
                    Leader::Starting(_) => {}
                    Leader::Running | Leader::Exited(_) | Leader::Lingering => {
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
        child.stop = Stop::Requested { signal, sent, deferred };
    }

    /// From now on, asks orphans to stop.
    pub(super) fn start_stopping_orphans(&mut self) {
        if let OrphanPolicy::Ignored = self.orphan_policy {
            self.orphan_policy = OrphanPolicy::Stopping { sent: HashSet::new(), reported: None };
        }
    }

    /// Kills all that is left, and returns what it could not.
    pub(super) fn kill_all(&mut self) -> Vec<Descendant> {
        for &leader in self.by_leader.keys() {
            let _ = send_to_child(leader, libc::SIGKILL);
            let _ = send_to_group(leader, libc::SIGKILL);
        }
        self.by_leader.clear();
        self.leaders.clear();
        self.starting.clear();
        kill::kill_all_descendants(&ExistingDescendants::default())
    }

    /// Whether to look again soon, though nothing is reported: the exit of a process
    /// whose parent lives is not, nor that another one has lost its parent.
    pub(super) fn needs_polling(&self) -> bool {
        let has_orphans = match &self.orphan_policy {
            OrphanPolicy::Ignored => false,
            OrphanPolicy::Stopping { reported, .. } => {
                reported.as_ref().is_some_and(|left| !left.is_empty())
            }
        };
        let waits = |child: &Child| child.has_exited() || child.has_deferred();
        has_orphans || self.by_leader.values().any(waits)
    }

    /// Finds out what has ended, and does what follows from it.
    pub(super) fn check(&mut self, reports: &mut Vec<Report>) {
        self.finish_exited_starts(reports);
        self.reap_exited();
        let snapshot = self.snapshot();
        self.stop_and_report_orphans(&snapshot, reports);
        let (mut exited, mut waiting) = (Vec::new(), Vec::new());
        for (leader, child) in &self.by_leader {
            // Leaders whose members are never still are looked at again.
            if child.has_exited() && !snapshot.unstable.contains(leader) {
                exited.push(*leader);
            } else if child.has_deferred() {
                waiting.push(*leader);
            }
        }
        for leader in exited {
            let left: Vec<&ProcStat> = snapshot.members(leader).filter(|stat| stat.alive).collect();
            self.report_exited_leader(leader, &left, reports);
        }
        for leader in waiting {
            let members = self.members(leader, &snapshot);
            self.pass_stop_to_orphans(leader, members);
        }
    }

    /// What has ended may have executed its program first.
    fn finish_exited_starts(&mut self, reports: &mut Vec<Report>) {
        for leader in self.starting.clone() {
            if wait::exit_status(leader).is_some() {
                self.finish_start(leader, reports);
            }
        }
    }

    fn report_exited_leader(&mut self, leader: Pid, left: &[&ProcStat], reports: &mut Vec<Report>) {
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let id = child.id;
        let members = || left.iter().map(|stat| stat.to_descendant()).collect();
        match child.leader {
            Leader::Starting(_) | Leader::Running => return,
            Leader::Exited(wait) => reports.push(Report::Exited { id, wait, left: members() }),
            Leader::Lingering if left.is_empty() => reports.push(Report::GroupEmpty { id }),
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
        self.pass_stop_to_orphans(leader, left.iter().copied().cloned());
    }

    /// Passes the stop signal on to processes that have lost their parent since.
    fn pass_stop_to_orphans(&mut self, leader: Pid, members: impl IntoIterator<Item = ProcStat>) {
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        if let Stop::Requested { signal, sent, deferred } = &mut child.stop {
            let reapers = self.context.reapers();
            let before = std::mem::take(deferred);
            let outside = members.into_iter().filter(|member| member.group != leader);
            let is_due = |member: &ProcStat| is_orphan(member, &before, &reapers);
            *deferred = stop_if_due(outside, *signal, is_due, &before, sent);
        }
    }

    /// Notes which leaders have ended, and waits for other children that have.
    fn reap_exited(&mut self) {
        for (leader, child) in &mut self.by_leader {
            if !child.has_exited()
                && let Some(wait) = wait::exit_status(*leader)
            {
                child.leader = Leader::Exited(wait);
            }
        }
        for pid in self.child_pids() {
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
            let below =
                self.child_pids().into_iter().filter(|pid| !self.by_leader.contains_key(pid));
            let mut found = descendants(below);
            found.retain(|stat| !self.is_init(stat.pid));
            let owners = self.find_owners(&found);
            DescendantSnapshot { descendants: found, owners, unstable: HashSet::new() }
        };
        let mut before = walk();
        for _ in 0..5 {
            if before.descendants.is_empty() {
                break;
            }
            let mut again = walk();
            let leaders = before.owners.iter().chain(&again.owners).flatten().copied();
            again.unstable = leaders
                .filter(|leader| !before.members(*leader).eq(again.members(*leader)))
                .collect();
            before = again;
            if before.unstable.is_empty() {
                break;
            }
        }
        self.add_known_outside(&mut before);
        before
    }

    /// What was seen below a leader, and has fallen to the first process of a namespace
    /// that it had entered, is not below the keeper any more.
    fn add_known_outside(&mut self, snapshot: &mut DescendantSnapshot) {
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
    fn child_pids(&self) -> Vec<Pid> {
        if cfg!(target_os = "linux") {
            process_table::children(getpid())
        } else {
            self.by_leader.keys().copied().collect()
        }
    }

    /// All that belongs to a leader and lives, the leader included. What is outside of
    /// its session is known from then on.
    fn members(&mut self, leader: Pid, snapshot: &DescendantSnapshot) -> Vec<ProcStat> {
        let runs = self.by_leader.get(&leader).is_some_and(|child| !child.has_exited());
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
    fn find_owners(&self, descendants: &[ProcStat]) -> Vec<Option<Pid>> {
        let mut owners: HashMap<Pid, Option<Pid>> = HashMap::new();
        for stat in descendants {
            let named = [stat.session, stat.group]
                .into_iter()
                .find(|leader| self.by_leader.contains_key(leader));
            let owner = named
                .or_else(|| self.known.get(&stat.identity()).copied())
                .or_else(|| owners.get(&stat.parent).copied().flatten())
                .or_else(|| self.owner_by_marker(stat.pid));
            owners.insert(stat.pid, owner);
        }
        descendants.iter().map(|stat| owners[&stat.pid]).collect()
    }

    fn owner_by_marker(&self, pid: Pid) -> Option<Pid> {
        let Environment::With(marker) = process_table::read_variable(pid, SESSION_VAR) else {
            return None;
        };
        let id = marker.strip_prefix(&self.session)?.strip_prefix('/')?.parse().ok()?;
        self.leaders.get(&ChildId(id)).copied()
    }

    fn stop_and_report_orphans(
        &mut self,
        snapshot: &DescendantSnapshot,
        reports: &mut Vec<Report>,
    ) {
        let reapers = self.context.reapers();
        let OrphanPolicy::Stopping { sent, reported } = &mut self.orphan_policy else { return };
        let mut left = Vec::new();
        for orphan in snapshot.owned_by(None).filter(|stat| stat.alive) {
            left.push(orphan.to_descendant());
            // What has its parent is left to it.
            if reapers.contains(&orphan.parent) && sent.insert(orphan.identity()) {
                stop_process(orphan, libc::SIGTERM);
            }
        }
        if reported.as_ref() != Some(&left) {
            reports.push(Report::Orphans { left: left.clone() });
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
