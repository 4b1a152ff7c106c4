//! The children that the keeper started, and their descendants.
//!
//! A child is known by its leader, the process that was forked. A leader that has exited is
//! reaped only when no other process of the child is left: as long as it is a zombie, its
//! number names no other process, group or session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpid};

use super::exec::ExecOutcome;
use super::isolation::Isolation;
use super::kill::{self, ExistingDescendants, send, send_to_child, send_to_group};
use super::process_table::{self, Environment, Identity, ProcStat, descendants};
use super::protocol::{ChildId, Descendant, Report, SESSION_VAR, Scope, SpawnRequest, WaitStatus};
use super::snapshot::{DescendantSnapshot, find_owners};
use super::spawn::{self, SpawnContext};
use super::stop::{OrphanPolicy, OrphanStop, StopProgress, StopState};
use super::wait;

/// A program that the system has not executed after this time is reported.
const SLOW_START_AFTER: Duration = Duration::from_secs(1);

struct Child {
    id: ChildId,
    leader: Leader,
    stop: StopState,
}

/// The state of the process that was forked.
enum Leader {
    /// It has not executed its program yet.
    Starting(PendingExec),
    /// It runs.
    Running,
    /// It is a zombie, which is still to be reported.
    Exited(WaitStatus),
    /// It is a zombie, and ganger knows that other processes of the child are left.
    Lingering,
}

/// A leader on its way to execve(2), where a signal would not have the effect that it has on
/// the program.
struct PendingExec {
    outcome: ExecOutcome,
    /// When the start is reported as slow; none once it was.
    report_slow_at: Option<Instant>,
    /// The signals to send once the program runs.
    signals: Vec<i32>,
}

impl Child {
    fn has_exited(&self) -> bool {
        match self.leader {
            Leader::Starting(_) | Leader::Running => false,
            Leader::Exited(_) | Leader::Lingering => true,
        }
    }

    /// Whether it was asked to stop, and some of its processes were left to their parents.
    fn has_deferred(&self) -> bool {
        match &self.stop {
            StopState::Requested(stop) => stop.has_deferred(),
            StopState::NotRequested | StopState::Killing => false,
        }
    }
}

/// All children, by the process id of their leader.
pub(super) struct Children {
    by_leader: BTreeMap<Pid, Child>,
    leaders: HashMap<ChildId, Pid>,
    /// Leaders that have not executed their program yet.
    starting: Vec<Pid>,
    /// Processes that could not execute their program and are about to exit. They never were a
    /// child's, and are no orphans either.
    failed: HashSet<Pid>,
    /// Descendants that were seen to belong to a leader and are outside of its session.
    known: HashMap<Identity, Pid>,
    orphan_policy: OrphanPolicy,
    /// Whether all are to be suspended; one that is starting follows once its program runs.
    suspended: bool,
    /// Identifies this keeper in the markers of its descendants.
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
    /// An empty table; its children are started with this `context`.
    pub(super) fn new(context: SpawnContext) -> Self {
        Self {
            by_leader: BTreeMap::new(),
            leaders: HashMap::new(),
            starting: Vec::new(),
            failed: HashSet::new(),
            known: HashMap::new(),
            orphan_policy: OrphanPolicy::Ignored,
            suspended: false,
            session: process_table::keeper_session(getpid())
                .unwrap_or_else(|| getpid().to_string()),
            context,
        }
    }

    /// Identifies this keeper in the markers of its descendants.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// Starts a child, which writes to `output` and inherits `listener`. Returns a report only
    /// if that has failed already.
    pub(super) fn spawn(
        &mut self,
        request: &SpawnRequest,
        output: &OwnedFd,
        listener: Option<&OwnedFd>,
    ) -> Option<Report> {
        let id = request.id;
        let session = format!("{}/{}", self.session, id.0);
        match spawn::spawn(request, &session, output, listener, &self.context) {
            Ok(spawned) => {
                let report_slow_at = Some(Instant::now() + SLOW_START_AFTER);
                let start =
                    PendingExec { outcome: spawned.outcome, report_slow_at, signals: Vec::new() };
                let leader = Leader::Starting(start);
                let child = Child { id, leader, stop: StopState::NotRequested };
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

    /// The leaders that are starting, each with the descriptor that becomes readable when it
    /// is known whether its program was executed.
    pub(super) fn exec_outcomes(&self) -> impl Iterator<Item = (Pid, BorrowedFd<'_>)> {
        self.starting.iter().filter_map(|leader| match &self.by_leader.get(leader)?.leader {
            Leader::Starting(start) => Some((*leader, start.outcome.as_fd())),
            Leader::Running | Leader::Exited(_) | Leader::Lingering => None,
        })
    }

    /// Reports whether the program of this leader was executed, if that is known by now. Its
    /// outcome is readable.
    pub(super) fn finish_start(&mut self, leader: Pid, reports: &mut Vec<Report>) {
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let Leader::Starting(start) = &mut child.leader else { return };
        let id = child.id;
        let Some(outcome) = start.outcome.read() else { return };
        self.starting.retain(|starting| *starting != leader);
        match outcome {
            Ok(()) => {
                let signals = std::mem::take(&mut start.signals);
                child.leader = Leader::Running;
                for signal in signals {
                    let _ = send_to_group(leader, signal);
                }
                match child.stop {
                    StopState::Requested(StopProgress { signal, .. }) => stop_group(leader, signal),
                    StopState::NotRequested | StopState::Killing if self.suspended => {
                        let _ = send_to_group(leader, libc::SIGSTOP);
                    }
                    StopState::NotRequested | StopState::Killing => {}
                }
                reports.push(Report::Spawned { id, pid: leader.as_raw() });
            }
            Err(failed) => {
                self.failed.insert(leader);
                self.by_leader.remove(&leader);
                self.leaders.remove(&id);
                let (step, errno) = (failed.step, failed.errno as i32);
                reports.push(Report::SpawnFailed { id, step, errno });
            }
        }
    }

    /// When the next start that is still pending is to be reported as slow.
    pub(super) fn next_start_timeout(&self) -> Option<Instant> {
        let starts = self.starting.iter().filter_map(|leader| self.by_leader.get(leader));
        let report_slow_at = |child: &Child| match &child.leader {
            Leader::Starting(start) => start.report_slow_at,
            Leader::Running | Leader::Exited(_) | Leader::Lingering => None,
        };
        starts.filter_map(report_slow_at).min()
    }

    /// Reports starts that are slow, each once.
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

    /// Whether children can still be started: false once their namespace has ended.
    pub(super) fn is_namespace_alive(&self) -> bool {
        self.context.isolation.as_ref().is_none_or(Isolation::is_alive)
    }

    /// Sends each signal to a child and all of its descendants.
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

    /// Suspends all children and their descendants, and orphans.
    pub(super) fn suspend(&mut self) {
        self.suspended = true;
        // The second round finds processes that were forked during the first one. No process
        // forks any more by then.
        for _ in 0..2 {
            self.signal_all(libc::SIGSTOP);
        }
    }

    /// Resumes all children and their descendants, and orphans.
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
            // It follows once its program runs.
            Leader::Starting(_) => false,
            Leader::Running | Leader::Exited(_) | Leader::Lingering => true,
        });
        let leaders: Vec<Pid> = leaders.map(|(leader, _)| *leader).collect();
        for leader in leaders {
            let members = self.members(leader, &snapshot);
            kill::send_to_all(leader, &members, signal);
        }
        for orphan in snapshot.orphans() {
            // It may be gone, or belong to another user.
            let _ = kill::send(orphan, signal);
        }
    }

    /// Asks children to stop, or kills them.
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
        child.stop = StopState::Killing;
        // While it is starting, it may not have a group of its own yet.
        let _ = send_to_child(leader, libc::SIGKILL);
        kill::send_to_all(leader, &members, libc::SIGKILL);
    }

    fn request_stop(&mut self, leader: Pid, stop: StopRequest, snapshot: &DescendantSnapshot) {
        // The members are found before anything is signalled: afterwards, a process may have
        // lost the parent by which it was found.
        let members = self.members(leader, snapshot);
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        let StopRequest { signal, scope, .. } = stop;
        match &mut child.stop {
            StopState::Killing => return,
            // Its group has got a stop signal already.
            StopState::Requested(progress) => progress.signal = signal,
            StopState::NotRequested => {
                match child.leader {
                    // Its group is signalled once its program runs.
                    Leader::Starting(_) => {}
                    Leader::Running | Leader::Exited(_) | Leader::Lingering => {
                        stop_group(leader, signal);
                    }
                }
                child.stop = StopState::Requested(StopProgress::new(signal));
            }
        }
        self.stop_outside_group(leader, members, scope);
    }

    /// Asks the orphans to stop, also those that turn up later.
    pub(super) fn start_stopping_orphans(&mut self) {
        if let OrphanPolicy::Ignored = self.orphan_policy {
            self.orphan_policy = OrphanPolicy::Stopping(OrphanStop::default());
        }
    }

    /// Kills every descendant of the keeper, and returns those that it could not kill.
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

    /// Whether [`Self::check`] is to run again soon although no child exits: the system reports
    /// neither the exit of a process whose parent lives, nor that a process has lost its parent.
    pub(super) fn needs_polling(&self) -> bool {
        let has_orphans = match &self.orphan_policy {
            OrphanPolicy::Ignored => false,
            OrphanPolicy::Stopping(stop) => stop.has_orphans(),
        };
        has_orphans
            || self.by_leader.values().any(|child| child.has_exited() || child.has_deferred())
    }

    /// Finds out which processes have exited, and does and reports what follows from it.
    pub(super) fn check(&mut self, reports: &mut Vec<Report>) {
        self.finish_exited_starts(reports);
        self.reap_exited();
        let snapshot = self.snapshot();
        self.stop_and_report_orphans(&snapshot, reports);
        let (mut exited, mut waiting) = (Vec::new(), Vec::new());
        for (leader, child) in &self.by_leader {
            // A leader whose members are still changing has its turn in a later check.
            if child.has_exited() && snapshot.is_stable(*leader) {
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
            self.stop_outside_group(leader, members, Scope::Group);
        }
    }

    /// A leader that has exited may have executed its program before.
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
            if matches!(child.stop, StopState::Killing) {
                let _ = send(stat, libc::SIGKILL);
            }
        }
        let left = left.iter().copied().cloned();
        self.stop_outside_group(leader, left, Scope::Group);
    }

    /// Sends the requested stop signal, if there is one, to those live members outside of the
    /// group that are to get it now.
    fn stop_outside_group(
        &mut self,
        leader: Pid,
        members: impl IntoIterator<Item = ProcStat>,
        scope: Scope,
    ) {
        let Some(child) = self.by_leader.get_mut(&leader) else { return };
        if let StopState::Requested(stop) = &mut child.stop {
            let outside = members.into_iter().filter(|member| member.group != leader);
            for process in stop.take_due(outside, scope, &self.context.reapers()) {
                stop_process(&process, stop.signal);
            }
        }
    }

    /// Records which leaders have exited, and reaps the other children that have.
    fn reap_exited(&mut self) {
        for (leader, child) in &mut self.by_leader {
            if !child.has_exited()
                && let Some(wait) = wait::exit_status(*leader)
            {
                child.leader = Leader::Exited(wait);
            }
        }
        for pid in self.child_pids() {
            if !self.by_leader.contains_key(&pid) && !self.is_init(pid) && wait::reap(pid) {
                self.failed.remove(&pid);
            }
        }
    }

    /// The processes below the keeper that are not below a running leader.
    fn snapshot(&mut self) -> DescendantSnapshot {
        let mut snapshot = DescendantSnapshot::take(|| {
            let is_leader = |pid: &Pid| self.by_leader.contains_key(pid);
            let roots = self.child_pids().into_iter().filter(|pid| !is_leader(pid));
            let mut found = descendants(roots);
            found.retain(|stat| !self.is_init(stat.pid) && !self.failed.contains(&stat.pid));
            let by_marker = |pid| self.owner_by_marker(pid);
            let owners = find_owners(&found, |pid| is_leader(&pid), &self.known, by_marker);
            DescendantSnapshot::new(found, owners)
        });
        self.add_known_outside(&mut snapshot);
        snapshot
    }

    /// Adds known processes that are no longer below the keeper: a process that entered a
    /// namespace and lost its parent there is a child of the first process of that namespace.
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

    /// The keeper's children, including orphans that have become its children.
    fn child_pids(&self) -> Vec<Pid> {
        if cfg!(target_os = "linux") {
            process_table::children(getpid())
        } else {
            self.by_leader.keys().chain(&self.failed).copied().collect()
        }
    }

    /// The live processes that belong to a leader, and the leader itself. Those outside of its
    /// session are known from then on.
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

    /// The leader that the marker in the environment of a process names.
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
        let OrphanPolicy::Stopping(stop) = &mut self.orphan_policy else { return };
        let orphans = snapshot.orphans().filter(|stat| stat.alive);
        let (due, report) = stop.update(orphans, &self.context.reapers());
        for orphan in due {
            stop_process(orphan, libc::SIGTERM);
        }
        reports.extend(report.map(|left| Report::Orphans { left }));
    }
}

/// Sends a stop signal to a group, and wakes suspended processes so that they get it.
fn stop_group(leader: Pid, signal: i32) {
    let _ = send_to_group(leader, signal);
    let _ = send_to_group(leader, libc::SIGCONT);
}

/// Sends a stop signal to one process, and wakes it so that it gets it.
fn stop_process(stat: &ProcStat, signal: i32) {
    let _ = send(stat, signal);
    let _ = send(stat, libc::SIGCONT);
}
