//! The exact effects of a new plan, and of requests to restart and stop.

use Effect::{Spawn, Stop};
use Signal::{SIGKILL, SIGTERM};

use super::*;

pub(super) fn processes_with(policies: &[Policy]) -> Vec<Arc<plan::ProcessPlan>> {
    plan(policies).processes
}

pub(super) const RESTART: Policy = Policy {
    on_exit: OnExit::Restart,
    backoff: Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
        give_up_after: None,
    },
    stop_signal: SIGTERM,
    grace: Duration::from_secs(5),
};

#[test]
fn plan_starts_added_and_stops_removed_processes() {
    let mut b = Bench::up(&[RESTART]);
    assert_eq!(b.plan(processes_with(&[RESTART; 3])), [Spawn(1), Spawn(2)]);
    b.spawned(1);
    b.spawned(2);
    assert_eq!(b.plan(processes_with(&[RESTART])), [Stop(1, SIGTERM), Stop(2, SIGTERM)]);
    assert_eq!(b.advance_to_next_effect(), [Stop(1, SIGKILL), Stop(2, SIGKILL)]);
    b.exited(1, Exit::Signal(9));
    b.exited(1, Exit::Signal(9));
    assert_eq!(b.supervisor.count(), 1);
    assert_eq!(b.code(), None);
}

#[test]
fn unchanged_plan_has_no_effect() {
    let mut b = Bench::up(&[RESTART; 2]);
    assert_eq!(b.plan(processes_with(&[RESTART; 2])), []);
}

#[test]
fn changed_command_restarts_the_process() {
    let mut b = Bench::up(&[RESTART; 2]);
    let changed = vec![process(0, "run", RESTART), process(1, "run faster", RESTART)];
    assert_eq!(b.plan(changed), [Stop(1, SIGTERM)]);
    assert_eq!(b.exited(1, Exit::Signal(15)), [Spawn(1)]);
}

#[test]
fn changed_policy_applies_without_a_restart() {
    let mut b = Bench::up(&[RESTART]);
    let ignored = Policy { on_exit: OnExit::Ignore, ..RESTART };
    assert_eq!(b.plan(processes_with(&[ignored])), []);
    assert_eq!(b.exited(0, Exit::Code(0)), [Effect::StopOrphans]);
}

#[test]
fn process_added_again_while_stopping_starts_once() {
    let mut b = Bench::up(&[RESTART; 2]);
    assert_eq!(b.plan(processes_with(&[RESTART])), [Stop(1, SIGTERM)]);
    assert_eq!(b.plan(processes_with(&[RESTART; 2])), []);
    assert_eq!(b.exited(1, Exit::Signal(15)), [Spawn(1)]);
}

#[test]
fn changed_command_ends_the_backoff() {
    let mut b = Bench::up(&[RESTART]);
    b.exited(0, Exit::Code(1));
    assert_eq!(b.plan(processes_with(&[RESTART])), []);
    assert_eq!(b.plan(vec![process(0, "run better", RESTART)]), [Spawn(0)]);
}

#[test]
fn empty_plan_does_not_end_the_run() {
    let mut b = Bench::up(&[RESTART]);
    assert_eq!(b.plan(vec![]), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), []);
    assert_eq!((b.supervisor.count(), b.code()), (0, None));
    assert_eq!(b.plan(processes_with(&[RESTART])), [Spawn(1)]);
}

#[test]
fn process_is_not_started_while_its_predecessor_lives() {
    let mut b = Bench::up(&[RESTART]);
    b.plan(vec![]);
    assert_eq!(b.advance_to_next_effect(), [Stop(0, SIGKILL)]);
    b.now += Duration::from_secs(10);
    assert_eq!(b.on(Event::Tick), []);
    assert_eq!(b.plan(processes_with(&[RESTART])), []);
    assert_eq!(b.exited(0, Exit::Signal(9)), [Spawn(0)]);
}

#[test]
fn plan_has_no_effect_during_shutdown() {
    let mut b = Bench::up(&[RESTART]);
    b.on(Event::StopSignal(SIGTERM));
    assert_eq!(b.plan(processes_with(&[RESTART; 3])), []);
}

pub(super) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn restart_also_starts_processes_that_are_down() {
    let mut b = Bench::up(&[RESTART, Policy { on_exit: OnExit::Ignore, ..RESTART }]);
    assert_eq!(b.exited(1, Exit::Code(0)), []);
    let ids = b.ids(&["p.0", "p.1"]);
    let (changes, actions) = b.supervisor.restart(b.now, &ids, RestartMode::AtOnce);
    let (started, restarted) = (names(&["p.1"]), names(&["p.0"]));
    assert_eq!(changes, Changes { started, restarted, ..Changes::default() });
    assert_eq!(Bench::effects(actions), [Stop(0, SIGTERM), Spawn(1)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
}

#[test]
fn process_stopped_by_user_stays_down_when_the_plan_changes() {
    let mut b = Bench::up(&[RESTART; 2]);
    assert_eq!(b.stop(&["p.1"]), [Stop(1, SIGTERM)]);
    assert_eq!(b.exited(1, Exit::Signal(15)), []);
    let changed = vec![process(0, "run", RESTART), process(1, "run faster", RESTART)];
    assert_eq!(b.plan(changed), []);
    assert_eq!(b.stop(&["p.0"]), [Stop(0, SIGTERM)]);
    b.exited(0, Exit::Signal(15));
    assert_eq!(b.code(), None, "the user stopped all: ganger stays");
    assert_eq!(b.restart(&["p.1"], RestartMode::AtOnce), [Spawn(1)]);
}

#[test]
fn changed_command_starts_a_failed_process() {
    let ignored = Policy { on_exit: OnExit::Ignore, ..RESTART };
    let mut b = Bench::up(&[RESTART, ignored, ignored, ignored]);
    b.exited(1, Exit::Code(1));
    b.exited(2, Exit::Code(0));
    b.exited(3, Exit::Code(1));
    b.stop(&["p.3"]);
    let plan = |command: &str| {
        let policies = [RESTART, ignored, ignored, ignored].into_iter().enumerate();
        let process =
            |(index, policy)| process(index, if index == 0 { "run" } else { command }, policy);
        policies.map(process).collect()
    };
    assert_eq!(b.plan(plan("run")), [], "no change");
    let (changes, actions) = b.apply_plan(plan("run better"), RestartMode::AtOnce);
    assert_eq!(
        Bench::effects(actions),
        [Spawn(1)],
        "neither the finished nor the stopped process starts"
    );
    assert_eq!(changes, Changes { started: names(&["p.1"]), ..Changes::default() });
}

#[test]
fn process_removed_from_the_plan_is_not_restarted() {
    let mut b = Bench::up(&[RESTART; 2]);
    assert_eq!(b.plan(processes_with(&[RESTART])), [Stop(1, SIGTERM)]);
    for mode in [RestartMode::AtOnce, RestartMode::Rolling] {
        assert_eq!(b.restart(&["p.1"], mode), []);
    }
    assert_eq!(b.exited(1, Exit::Signal(15)), []);
    assert_eq!(b.supervisor.count(), 1);
}

#[test]
fn plan_change_returns_what_was_done() {
    let mut b = Bench::up(&[RESTART; 4]);
    let longer_grace = Policy { grace: Duration::from_mins(1), ..RESTART };
    let after = vec![
        process(0, "run", RESTART),
        process(1, "run faster", RESTART),
        process(2, "run", longer_grace),
        process(4, "run", RESTART),
    ];
    let (changes, actions) = b.apply_plan(after, RestartMode::AtOnce);
    let expected = Changes {
        started: names(&["p.4"]),
        stopped: names(&["p.3"]),
        restarted: names(&["p.1"]),
        adjusted: names(&["p.2"]),
        signalled: vec![],
    };
    assert_eq!(changes, expected);
    assert_eq!(Bench::effects(actions), [Stop(1, SIGTERM), Spawn(4), Stop(3, SIGTERM)]);
    // `p.3` is added again while it is stopping.
    let (changes, _) = b.apply_plan(processes_with(&[RESTART; 4]), RestartMode::AtOnce);
    assert!(changes.started.contains(&"p.3".to_owned()), "{changes:?}");
    b.on(Event::StopSignal(SIGTERM));
    let (changes, actions) = b.apply_plan(processes_with(&[RESTART; 2]), RestartMode::AtOnce);
    assert_eq!(
        (changes, actions),
        (Changes::default(), vec![]),
        "a plan has no effect during shutdown"
    );
}

#[test]
fn stop_returns_only_what_it_stopped() {
    let mut b = Bench::up(&[RESTART; 2]);
    let stop = |b: &mut Bench, names: &[&str]| {
        let ids = b.ids(names);
        b.supervisor.stop(b.now, &ids).0.stopped
    };
    assert_eq!(stop(&mut b, &["p.1"]), ["p.1"]);
    assert_eq!(stop(&mut b, &["p.0", "p.1"]), ["p.0"]);
}
