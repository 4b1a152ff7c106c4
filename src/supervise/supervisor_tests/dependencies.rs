//! Dependencies: the order of starting and of stopping.

use Effect::{Spawn, Stop, StopOrphans, Sweep};
use Signal::{SIGINT, SIGKILL, SIGTERM};
use proptest::prelude::*;

use super::*;

/// A chain of processes `p0.1`, `p1.1` and so on: each depends on the one before it, and a log
/// line makes it ready.
pub(super) fn chain(policies: &[Policy]) -> Vec<Arc<plan::ProcessPlan>> {
    let process = |(index, policy): (usize, &Policy)| {
        let mut link = plan::ProcessPlan::clone(&super::process(index, "run", *policy));
        (link.process_type, link.name) = (format!("p{index}"), format!("p{index}.1"));
        link.after = index.checked_sub(1).map(|before| format!("p{before}")).into_iter().collect();
        link.ready = Ready::Log("ready".into());
        Arc::new(link)
    };
    policies.iter().enumerate().map(process).collect()
}

impl Bench {
    pub(super) fn with_processes(processes: Vec<Arc<plan::ProcessPlan>>) -> Self {
        let plan = Plan { processes, ..plan(&[]) };
        Self { supervisor: Supervisor::new(&plan, 1), now: Instant::now() }
    }

    pub(super) fn ready(&mut self, index: u32) -> Vec<Effect> {
        self.on(Event::Ready(self.id(index)))
    }

    /// The messages that follow from an event.
    pub(super) fn messages(&mut self, event: Event) -> Vec<String> {
        let message = |action| match action {
            Action::Notify(notice) => Some(notice.to_string()),
            Action::ProbeNeeds(..)
            | Action::Spawn(..)
            | Action::Probe(..)
            | Action::CancelProbe(_)
            | Action::Stop(..)
            | Action::StopDescendants(..)
            | Action::StopOrphans
            | Action::Sweep => None,
        };
        self.handle(event).into_iter().filter_map(message).collect()
    }

    fn chain_up(policies: &[Policy]) -> Self {
        let mut bench = Self::with_processes(chain(policies));
        bench.on(Event::Tick);
        for index in 0..u32::try_from(policies.len()).unwrap() {
            bench.spawned(index);
            bench.ready(index);
        }
        bench
    }
}

const IGNORE: OnExit = OnExit::Ignore;

#[test]
fn process_starts_when_its_dependencies_are_ready() {
    let mut b = Bench::with_processes(chain(&[policy(IGNORE); 3]));
    assert_eq!(b.on(Event::Tick), [Spawn(0)]);
    assert_eq!(b.spawned(0), []);
    assert_eq!(b.ready(0), [Spawn(1)]);
    b.spawned(1);
    assert_eq!(b.ready(1), [Spawn(2)]);
    b.spawned(2);
    // A process keeps running when its dependency is stopped.
    assert_eq!(b.stop(&["p0.1"]), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), []);
}

#[test]
fn dependency_that_exited_with_success_is_not_waited_for() {
    let mut b = Bench::with_processes(chain(&[policy(IGNORE); 2]));
    b.on(Event::Tick);
    b.spawned(0);
    assert_eq!(b.exited(0, Exit::Code(0)), [Spawn(1)]);
}

/// A job, and a process that comes after it.
fn job(on_exit: OnExit) -> Vec<Arc<plan::ProcessPlan>> {
    let mut chain = chain(&[policy(on_exit), policy(OnExit::StopAll)]);
    let mut job = plan::ProcessPlan::clone(&chain[0]);
    job.ready = Ready::Exit;
    chain[0] = Arc::new(job);
    chain
}

#[test]
fn job_is_ready_when_it_has_exited_with_0() {
    for on_exit in [OnExit::StopAll, OnExit::Restart, OnExit::Ignore] {
        let mut b = Bench::with_processes(job(on_exit));
        assert_eq!(b.on(Event::Tick), [Spawn(0)]);
        assert_eq!(b.spawned(0), []);
        assert!(!b.supervisor.status().next().unwrap().is_ready());
        assert_eq!(b.exited(0, Exit::Code(0)), [Spawn(1)], "{on_exit:?}");
        assert!(b.supervisor.status().next().unwrap().is_ready());
        b.spawned(1);
        // A job that is done can't be stopped, and is no reason to wait.
        assert_eq!(b.stop(&["p0.1", "p1.1"]), [Stop(1, SIGTERM)]);
        b.exited(1, Exit::Signal(15));
        assert_eq!(b.restart(&["p1.1"], RestartMode::AtOnce), [Spawn(1)]);
    }
}

#[test]
fn failed_job_follows_its_policy() {
    let start = |on_exit| {
        let mut b = Bench::with_processes(job(on_exit));
        b.on(Event::Tick);
        b.spawned(0);
        b
    };
    let mut b = start(OnExit::RestartOnFailure);
    assert_eq!(b.exited(0, Exit::Code(1)), []);
    assert_eq!(b.advance_to_next_effect(), [Spawn(0)]);
    b.spawned(0);
    assert_eq!(b.exited(0, Exit::Code(0)), [Spawn(1)]);
    let mut b = start(OnExit::StopAll);
    assert_eq!(b.exited(0, Exit::Code(7)), [StopOrphans]);
    let mut b = start(OnExit::Ignore);
    let messages = b.messages(Event::Exited(b.id(0), Exit::Code(7), vec![]));
    let expected = [
        "p0.1 exited (7)",
        "p1.1 waits for p0.1, which exited (7)",
        "p1.1 was not started, stopping all",
    ];
    assert_eq!(messages, expected);
}

#[test]
fn restart_runs_a_job_again_before_its_dependents() {
    let mut b = Bench::with_processes(job(OnExit::StopAll));
    b.on(Event::Tick);
    b.spawned(0);
    b.exited(0, Exit::Code(0));
    b.spawned(1);
    assert_eq!(b.restart(&["p0.1", "p1.1"], RestartMode::AtOnce), [Stop(1, SIGTERM), Spawn(0)]);
    b.spawned(0);
    assert_eq!(b.exited(1, Exit::Signal(15)), []);
    assert_eq!(b.exited(0, Exit::Code(0)), [Spawn(1)]);
    b.spawned(1);
    // A plan runs it again only if it has changed.
    assert_eq!(b.plan(job(OnExit::StopAll)), []);
    let mut other = job(OnExit::StopAll);
    Arc::make_mut(&mut other[0]).command = "migrate better".into();
    let (changes, actions) = b.apply_plan(other, RestartMode::AtOnce);
    assert_eq!((changes.started, Bench::effects(actions)), (vec!["p0.1".into()], vec![Spawn(0)]));
}

#[test]
fn app_of_jobs_ends_when_all_are_done() {
    let mut jobs = job(OnExit::StopAll);
    Arc::make_mut(&mut jobs[1]).ready = Ready::Exit;
    let mut b = Bench::with_processes(jobs);
    b.on(Event::Tick);
    b.spawned(0);
    assert_eq!(b.exited(0, Exit::Code(0)), [Spawn(1)]);
    b.spawned(1);
    assert_eq!(b.exited(1, Exit::Code(0)), [StopOrphans]);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn shutdown_stops_dependents_first() {
    let mut b = Bench::chain_up(&[policy(IGNORE); 3]);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(2, SIGTERM), StopOrphans]);
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.exited(2, Exit::Code(0)), [Stop(1, SIGTERM)]);
    // Each process has its own grace period.
    assert_eq!(b.advance_to_next_effect(), [Stop(1, SIGKILL)]);
    assert_eq!(b.exited(1, Exit::Signal(9)), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Code(0)), [Sweep]);
}

#[test]
fn shutdown_does_not_start_a_dependency_for_its_dependents() {
    let mut b = Bench::chain_up(&[policy(OnExit::Restart); 2]);
    b.exited(0, Exit::Code(1));
    assert_eq!(b.advance_to_next_effect(), [Spawn(0)]);
    let stops = [Stop(0, SIGTERM), Stop(1, SIGTERM), StopOrphans];
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), stops);
}

#[test]
fn second_interrupt_kills_all_regardless_of_dependencies() {
    let mut b = Bench::chain_up(&[policy(IGNORE); 2]);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), [Stop(1, SIGTERM), StopOrphans]);
    b.now += Duration::from_secs(1);
    let all = [Stop(0, SIGTERM), Stop(0, SIGKILL), Stop(1, SIGKILL)];
    assert_eq!(b.on(Event::StopSignal(SIGINT)), all);
}

#[test]
fn late_dependency_fails_its_dependents_and_keeps_running() {
    let mut b = Bench::with_processes(chain(&[policy(IGNORE), policy(IGNORE), policy(IGNORE)]));
    b.on(Event::Tick);
    b.spawned(0);
    b.now = b.supervisor.deadline().unwrap();
    assert_eq!(
        b.messages(Event::Tick),
        [
            "p0.1 is not ready after 1m",
            "p2.1 waits for p1.1, which waits for p0.1, which is not ready after 1m",
            "p1.1 was not started",
            "p2.1 waits for p1.1, which waits for p0.1, which is not ready after 1m",
            "p2.1 was not started",
        ]
    );
    assert_eq!(b.code(), None);
    // Once the dependency is ready, a restart request starts a dependent.
    assert_eq!(b.ready(0), []);
    assert_eq!(b.restart(&["p1.1"], RestartMode::AtOnce), [Spawn(1)]);
    b.exited(0, Exit::Code(0));
    b.spawned(1);
    assert_eq!(b.exited(1, Exit::Code(0)), [StopOrphans]);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(1), "the exit code is set by the first process that was not started");
}

#[test]
fn failed_dependency_fails_its_dependents() {
    let mut b = Bench::with_processes(chain(&[policy(IGNORE), policy(OnExit::StopAll)]));
    b.on(Event::Tick);
    b.spawned(0);
    let messages = b.messages(Event::Exited(b.id(0), Exit::Code(7), vec![]));
    let expected = [
        "p0.1 exited (7)",
        "p1.1 waits for p0.1, which exited (7)",
        "p1.1 was not started, stopping all",
    ];
    assert_eq!(messages, expected);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(7));
}

#[test]
fn dependent_that_restarts_waits_again() {
    let mut b = Bench::with_processes(chain(&[policy(IGNORE), policy(OnExit::Restart)]));
    b.on(Event::Tick);
    b.spawned(0);
    b.wait_until_late(0);
    // After its backoff, the dependency is ready.
    assert_eq!(b.ready(0), []);
    assert_eq!(b.advance_to_next_effect(), [Spawn(1)]);
}

impl Bench {
    fn wait_until_late(&mut self, index: u32) {
        let is_late = |bench: &Self| {
            let process = &bench.supervisor.processes[index as usize];
            matches!(process.state, State::Up { .. }) && process.is_late()
        };
        while !is_late(self) {
            self.now = self.supervisor.deadline().unwrap();
            self.on(Event::Tick);
        }
    }
}

#[test]
fn dependency_stopped_by_user_is_waited_for() {
    let mut b = Bench::with_processes(chain(&[policy(IGNORE); 2]));
    b.on(Event::Tick);
    b.spawned(0);
    assert_eq!(b.stop(&["p0.1"]), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), []);
    assert_eq!(b.supervisor.status().nth(1).unwrap().waits_for(), ["p0.1"]);
    assert_eq!(b.restart(&["p0.1"], RestartMode::AtOnce), [Spawn(0)]);
    b.spawned(0);
    assert_eq!(b.ready(0), [Spawn(1)]);
}

#[test]
fn message_names_only_processes_that_are_stopping() {
    let mut b = Bench::chain_up(&[policy(IGNORE); 3]);
    b.on(Event::StopSignal(SIGTERM));
    b.now += Duration::from_secs(1);
    assert_eq!(b.messages(Event::Tick), ["waiting for p2.1 (pid 102): SIGKILL in 4s"]);
}

/// Checks a history: no process starts before its dependencies are ready or have failed, none is
/// stopped before its dependents are down, and the run ends.
fn run_history(policies: &[Policy], steps: &[(u8, u32, u16)]) {
    let mut b = Bench::with_processes(chain(policies));
    let count = u32::try_from(policies.len()).unwrap();
    let mut running = vec![false; policies.len()];
    let mut shutting_down = false;
    let mut check = |b: &Bench, actions: &[Action], running: &mut Vec<bool>, force_stop: bool| {
        for action in actions {
            match action {
                Action::Spawn(id, _) => {
                    assert!(!std::mem::replace(&mut running[id.index as usize], true));
                    let dependency = id.index.checked_sub(1);
                    let dependency = dependency.map(|it| &b.supervisor.processes[it as usize]);
                    assert!(dependency.is_none_or(|it| it.is_ready() || it.want != Want::Up));
                }
                Action::Stop(id, signal) => {
                    assert!(running[id.index as usize]);
                    let dependent = b.supervisor.processes.get(id.index as usize + 1);
                    let dependent_stops = dependent.is_some_and(|it| {
                        running[it.id().index as usize]
                            && it.want != Want::Up
                            && !it.state.is_down()
                    });
                    assert!(*signal == SIGKILL || force_stop || !dependent_stops || !shutting_down);
                }
                Action::StopOrphans => shutting_down = true,
                Action::StopDescendants(..)
                | Action::ProbeNeeds(..)
                | Action::Probe(..)
                | Action::CancelProbe(_)
                | Action::Sweep
                | Action::Notify(_) => {}
            }
        }
    };
    let first = b.handle(Event::Tick);
    check(&b, &first, &mut running, false);
    for (choice, target, argument) in steps {
        let index = target % count;
        let id = b.id(index);
        let is_running = running[index as usize];
        let event = match choice {
            0 | 1 if is_running => Event::Spawned(id, 7),
            2 | 3 => Event::Ready(id),
            4 if is_running => {
                running[index as usize] = false;
                Event::Exited(id, Exit::Code(i32::from(argument % 3)), vec![])
            }
            5..=8 => {
                let (_, actions) = match choice {
                    5 => b.supervisor.stop(b.now, &[id]),
                    6 | 7 => b.supervisor.restart(b.now, &[id], RestartMode::AtOnce),
                    _ => b.supervisor.restart(b.now, &[id], RestartMode::Rolling),
                };
                check(&b, &actions, &mut running, false);
                continue;
            }
            9 if argument % 16 == 0 => Event::StopSignal(SIGTERM),
            _ => {
                b.now += Duration::from_millis(u64::from(*argument) * 2);
                Event::Tick
            }
        };
        let actions = b.handle(event);
        check(&b, &actions, &mut running, false);
    }
    let mut actions = b.handle(Event::StopSignal(SIGTERM));
    check(&b, &actions, &mut running, false);
    b.on(Event::Orphans(vec![]));
    for _ in 0..200 {
        if actions.contains(&Action::Sweep) {
            break;
        }
        let stopping = (0..count).find(|index| {
            let state = &b.supervisor.processes[*index as usize].state;
            running[*index as usize]
                && matches!(state, State::Stopping { .. } | State::Killed { .. })
        });
        let Some(index) = stopping else { break };
        running[index as usize] = false;
        actions = b.handle(Event::Exited(b.id(index), Exit::Signal(15), vec![]));
        check(&b, &actions, &mut running, false);
    }
    let all = &b.supervisor.processes;
    assert!(all.iter().all(|it| it.state.is_down()), "a process was never stopped");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn dependency_order_holds_in_any_history(
        kinds in proptest::collection::vec(0usize..4, 1..5),
        steps in proptest::collection::vec((0u8..12, 0u32..5, any::<u16>()), 0..120),
    ) {
        let all = [OnExit::StopAll, OnExit::Restart, OnExit::RestartOnFailure, OnExit::Ignore];
        let policies: Vec<Policy> = kinds.iter().map(|kind| policy(all[*kind])).collect();
        run_history(&policies, &steps);
    }
}
