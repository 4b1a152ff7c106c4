//! Who waits for whom, at the start and at the end.

use Done::{Spawn, Stop, StopStrays, Sweep as Swept};
use Signal::{SIGINT, SIGKILL, SIGTERM};
use proptest::prelude::*;

use super::*;

/// `p0.1`, `p1.1` and so on: each comes after the one before it, and is ready when it
/// says so.
pub(super) fn chain(policies: &[Policy]) -> Vec<Arc<plan::ProcessPlan>> {
    let link = |(index, policy): (usize, &Policy)| {
        let mut link = plan::ProcessPlan::clone(&process(index, "run", *policy));
        (link.kind, link.name) = (format!("p{index}"), format!("p{index}.1"));
        link.after = index.checked_sub(1).map(|before| format!("p{before}")).into_iter().collect();
        link.ready = Ready::Log("ready".into());
        Arc::new(link)
    };
    policies.iter().enumerate().map(link).collect()
}

impl Bench {
    pub(super) fn of(processes: Vec<Arc<plan::ProcessPlan>>) -> Self {
        let plan = Plan { processes, ..plan(&[]) };
        Self { supervisor: Supervisor::new(&plan, 1), now: Instant::now() }
    }

    pub(super) fn ready(&mut self, index: u32) -> Vec<Done> {
        self.on(Event::Ready(self.id(index)))
    }

    /// What is said about an event.
    pub(super) fn said(&mut self, event: Event) -> Vec<String> {
        let said = |action| match action {
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
        self.all(event).into_iter().filter_map(said).collect()
    }

    fn chain_up(policies: &[Policy]) -> Self {
        let mut bench = Self::of(chain(policies));
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
fn each_starts_when_those_before_it_are_ready() {
    let mut b = Bench::of(chain(&[policy(IGNORE); 3]));
    assert_eq!(b.on(Event::Tick), [Spawn(0)]);
    assert_eq!(b.spawned(0), []);
    assert_eq!(b.ready(0), [Spawn(1)]);
    b.spawned(1);
    assert_eq!(b.ready(1), [Spawn(2)]);
    b.spawned(2);
    // What is over for one that comes before is no reason to end those behind it.
    assert_eq!(b.stop(&["p0.1"]), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), []);
}

#[test]
fn one_that_has_done_its_work_is_not_waited_for() {
    let mut b = Bench::of(chain(&[policy(IGNORE); 2]));
    b.on(Event::Tick);
    b.spawned(0);
    assert_eq!(b.exited(0, Exit::Code(0)), [Spawn(1)]);
}

#[test]
fn at_the_end_each_goes_after_those_behind_it() {
    let mut b = Bench::chain_up(&[policy(IGNORE); 3]);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(2, SIGTERM), StopStrays]);
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.exited(2, Exit::Code(0)), [Stop(1, SIGTERM)]);
    // Each has a grace of its own.
    assert_eq!(b.wait(), [Stop(1, SIGKILL)]);
    assert_eq!(b.exited(1, Exit::Signal(9)), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Code(0)), [Swept]);
}

#[test]
fn who_would_not_wait_kills_all_at_once() {
    let mut b = Bench::chain_up(&[policy(IGNORE); 2]);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), [Stop(1, SIGTERM), StopStrays]);
    b.now += Duration::from_secs(1);
    let all = [Stop(0, SIGTERM), Stop(0, SIGKILL), Stop(1, SIGKILL)];
    assert_eq!(b.on(Event::StopSignal(SIGINT)), all);
}

#[test]
fn one_that_is_late_fails_those_that_wait_and_runs_on() {
    let mut b = Bench::of(chain(&[policy(IGNORE), policy(IGNORE), policy(IGNORE)]));
    b.on(Event::Tick);
    b.spawned(0);
    b.now = b.supervisor.deadline().unwrap();
    assert_eq!(
        b.said(Event::Tick),
        [
            "p0.1 is not ready after 1m",
            "p2.1 waits for p1.1, which waits for p0.1, which is not ready after 1m",
            "p1.1 was not started",
            "p2.1 waits for p1.1, which waits for p0.1, which is not ready after 1m",
            "p2.1 was not started",
        ]
    );
    assert_eq!(b.code(), None);
    // Once it is ready, they can be started by hand.
    assert_eq!(b.ready(0), []);
    assert_eq!(b.restart(&["p1.1"], RestartMode::AtOnce), [Spawn(1)]);
    b.exited(0, Exit::Code(0));
    b.spawned(1);
    assert_eq!(b.exited(1, Exit::Code(0)), [StopStrays]);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(1), "the first that was not started is the first that failed");
}

#[test]
fn one_that_fails_and_stays_down_fails_those_that_wait() {
    let mut b = Bench::of(chain(&[policy(IGNORE), policy(OnExit::StopAll)]));
    b.on(Event::Tick);
    b.spawned(0);
    let said = b.said(Event::Exited(b.id(0), Exit::Code(7), vec![]));
    let expected = [
        "p0.1 exited (7)",
        "p1.1 waits for p0.1, which exited (7)",
        "p1.1 was not started, stopping all",
    ];
    assert_eq!(said, expected);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(7));
}

#[test]
fn one_that_is_tried_again_waits_again() {
    let mut b = Bench::of(chain(&[policy(IGNORE), policy(OnExit::Restart)]));
    b.on(Event::Tick);
    b.spawned(0);
    b.wait_until_late(0);
    // It comes back after a pause, and finds it ready.
    assert_eq!(b.ready(0), []);
    assert_eq!(b.wait(), [Spawn(1)]);
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
fn one_that_somebody_has_stopped_is_waited_for_until_it_is_back() {
    let mut b = Bench::of(chain(&[policy(IGNORE); 2]));
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
fn who_has_not_been_asked_to_go_is_not_waited_for_yet() {
    let mut b = Bench::chain_up(&[policy(IGNORE); 3]);
    b.on(Event::StopSignal(SIGTERM));
    b.now += Duration::from_secs(1);
    assert_eq!(b.said(Event::Tick), ["waiting for p2.1 (pid 102): SIGKILL in 4s"]);
}

/// In any history, no process starts before its dependencies are ready or have failed, none is
/// stopped before its dependents are down, and the run ends.
fn live(policies: &[Policy], steps: &[(u8, u32, u16)]) {
    let mut b = Bench::of(chain(policies));
    let count = u32::try_from(policies.len()).unwrap();
    let mut lives = vec![false; policies.len()];
    let mut ending = false;
    let mut check = |b: &Bench, actions: &[Action], lives: &mut Vec<bool>, hurry: bool| {
        for action in actions {
            match action {
                Action::Spawn(id, _) => {
                    assert!(!std::mem::replace(&mut lives[id.index as usize], true));
                    let before = id.index.checked_sub(1);
                    let before = before.map(|it| &b.supervisor.processes[it as usize]);
                    assert!(before.is_none_or(|it| it.is_ready() || it.want != Want::Up));
                }
                Action::Stop(id, signal) => {
                    assert!(lives[id.index as usize]);
                    let behind = b.supervisor.processes.get(id.index as usize + 1);
                    let goes = behind.is_some_and(|it| {
                        lives[it.id().index as usize] && it.want != Want::Up && !it.state.is_down()
                    });
                    assert!(*signal == SIGKILL || hurry || !goes || !ending);
                }
                Action::StopOrphans => ending = true,
                Action::StopDescendants(..)
                | Action::ProbeNeeds(..)
                | Action::Probe(..)
                | Action::CancelProbe(_)
                | Action::Sweep
                | Action::Notify(_) => {}
            }
        }
    };
    let first = b.all(Event::Tick);
    check(&b, &first, &mut lives, false);
    for (what, whom, how) in steps {
        let index = whom % count;
        let id = b.id(index);
        let runs = lives[index as usize];
        let event = match what {
            0 | 1 if runs => Event::Spawned(id, 7),
            2 | 3 => Event::Ready(id),
            4 if runs => {
                lives[index as usize] = false;
                Event::Exited(id, Exit::Code(i32::from(how % 3)), vec![])
            }
            5..=8 => {
                let (_, actions) = match what {
                    5 => b.supervisor.stop(b.now, &[id]),
                    6 | 7 => b.supervisor.restart(b.now, &[id], RestartMode::AtOnce),
                    _ => b.supervisor.restart(b.now, &[id], RestartMode::Rolling),
                };
                check(&b, &actions, &mut lives, false);
                continue;
            }
            9 if how % 16 == 0 => Event::StopSignal(SIGTERM),
            _ => {
                b.now += Duration::from_millis(u64::from(*how) * 2);
                Event::Tick
            }
        };
        let actions = b.all(event);
        check(&b, &actions, &mut lives, false);
    }
    let mut actions = b.all(Event::StopSignal(SIGTERM));
    check(&b, &actions, &mut lives, false);
    b.on(Event::Orphans(vec![]));
    for _ in 0..200 {
        if actions.contains(&Action::Sweep) {
            break;
        }
        let asked = (0..count).find(|index| {
            let state = &b.supervisor.processes[*index as usize].state;
            lives[*index as usize] && matches!(state, State::Stopping { .. } | State::Killed { .. })
        });
        let Some(index) = asked else { break };
        lives[index as usize] = false;
        actions = b.all(Event::Exited(b.id(index), Exit::Signal(15), vec![]));
        check(&b, &actions, &mut lives, false);
    }
    let all = &b.supervisor.processes;
    assert!(all.iter().all(|it| it.state.is_down()), "a process was never stopped");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn the_order_holds_in_any_history(
        kinds in proptest::collection::vec(0usize..4, 1..5),
        steps in proptest::collection::vec((0u8..12, 0u32..5, any::<u16>()), 0..120),
    ) {
        let all = [OnExit::StopAll, OnExit::Restart, OnExit::RestartOnFailure, OnExit::Ignore];
        let policies: Vec<Policy> = kinds.iter().map(|kind| policy(all[*kind])).collect();
        live(&policies, &steps);
    }
}
