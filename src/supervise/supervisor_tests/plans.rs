//! What follows from a new plan, exactly.

use Done::{Spawn, Stop};
use Signal::{SIGKILL, SIGTERM};

use super::*;

pub(super) fn like(policies: &[Policy]) -> Vec<Arc<plan::ProcessPlan>> {
    plan(policies).processes
}

pub(super) const KEPT: Policy = Policy {
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
fn more_are_started_and_fewer_are_stopped() {
    let mut b = Bench::up(&[KEPT]);
    assert_eq!(b.plan(like(&[KEPT; 3])), [Spawn(1), Spawn(2)]);
    b.spawned(1);
    b.spawned(2);
    assert_eq!(b.plan(like(&[KEPT])), [Stop(1, SIGTERM), Stop(2, SIGTERM)]);
    assert_eq!(b.wait(), [Stop(1, SIGKILL), Stop(2, SIGKILL)]);
    b.exited(1, Exit::Signal(9));
    b.exited(1, Exit::Signal(9));
    assert_eq!(b.supervisor.count(), 1);
    assert_eq!(b.code(), None);
}

#[test]
fn the_same_again_changes_nothing() {
    let mut b = Bench::up(&[KEPT; 2]);
    assert_eq!(b.plan(like(&[KEPT; 2])), []);
}

#[test]
fn what_runs_otherwise_is_started_again() {
    let mut b = Bench::up(&[KEPT; 2]);
    let changed = vec![process(0, "run", KEPT), process(1, "run faster", KEPT)];
    assert_eq!(b.plan(changed), [Stop(1, SIGTERM)]);
    assert_eq!(b.exited(1, Exit::Signal(15)), [Spawn(1)]);
}

#[test]
fn how_it_is_kept_holds_at_once() {
    let mut b = Bench::up(&[KEPT]);
    let ignored = Policy { on_exit: OnExit::Ignore, ..KEPT };
    assert_eq!(b.plan(like(&[ignored])), []);
    assert_eq!(b.exited(0, Exit::Code(0)), [Done::StopStrays]);
}

#[test]
fn one_that_is_wanted_back_while_it_goes_comes_back_once() {
    let mut b = Bench::up(&[KEPT; 2]);
    assert_eq!(b.plan(like(&[KEPT])), [Stop(1, SIGTERM)]);
    assert_eq!(b.plan(like(&[KEPT; 2])), []);
    assert_eq!(b.exited(1, Exit::Signal(15)), [Spawn(1)]);
}

#[test]
fn a_pause_ends_for_what_has_changed() {
    let mut b = Bench::up(&[KEPT]);
    b.exited(0, Exit::Code(1));
    assert_eq!(b.plan(like(&[KEPT])), []);
    assert_eq!(b.plan(vec![process(0, "run better", KEPT)]), [Spawn(0)]);
}

#[test]
fn none_at_all_is_no_end() {
    let mut b = Bench::up(&[KEPT]);
    assert_eq!(b.plan(vec![]), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), []);
    assert_eq!((b.supervisor.count(), b.code()), (0, None));
    assert_eq!(b.plan(like(&[KEPT])), [Spawn(1)]);
}

#[test]
fn one_that_does_not_go_is_not_started_beside_itself() {
    let mut b = Bench::up(&[KEPT]);
    b.plan(vec![]);
    assert_eq!(b.wait(), [Stop(0, SIGKILL)]);
    b.now += Duration::from_secs(10);
    assert_eq!(b.on(Event::Tick), []);
    assert_eq!(b.plan(like(&[KEPT])), []);
    assert_eq!(b.exited(0, Exit::Signal(9)), [Spawn(0)]);
}

#[test]
fn nothing_is_planned_during_a_shutdown() {
    let mut b = Bench::up(&[KEPT]);
    b.on(Event::StopSignal(SIGTERM));
    assert_eq!(b.plan(like(&[KEPT; 3])), []);
}

pub(super) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_restart_starts_what_is_down_and_restarts_what_is_up() {
    let mut b = Bench::up(&[KEPT, Policy { on_exit: OnExit::Ignore, ..KEPT }]);
    assert_eq!(b.exited(1, Exit::Code(0)), []);
    let ids = b.ids(&["p.0", "p.1"]);
    let (changes, actions) = b.supervisor.restart(b.now, &ids, RestartMode::AtOnce);
    let (started, restarted) = (names(&["p.1"]), names(&["p.0"]));
    assert_eq!(changes, Changes { started, restarted, ..Changes::default() });
    assert_eq!(Bench::done(actions), [Stop(0, SIGTERM), Spawn(1)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
}

#[test]
fn one_that_is_stopped_stays_down_through_a_plan() {
    let mut b = Bench::up(&[KEPT; 2]);
    assert_eq!(b.stop(&["p.1"]), [Stop(1, SIGTERM)]);
    assert_eq!(b.exited(1, Exit::Signal(15)), []);
    let changed = vec![process(0, "run", KEPT), process(1, "run faster", KEPT)];
    assert_eq!(b.plan(changed), []);
    assert_eq!(b.stop(&["p.0"]), [Stop(0, SIGTERM)]);
    b.exited(0, Exit::Signal(15));
    assert_eq!(b.code(), None, "all are down because that was asked for");
    assert_eq!(b.restart(&["p.1"], RestartMode::AtOnce), [Spawn(1)]);
}

#[test]
fn one_that_has_failed_is_started_when_a_plan_changes_it() {
    let ignored = Policy { on_exit: OnExit::Ignore, ..KEPT };
    let mut b = Bench::up(&[KEPT, ignored, ignored, ignored]);
    b.exited(1, Exit::Code(1));
    b.exited(2, Exit::Code(0));
    b.exited(3, Exit::Code(1));
    b.stop(&["p.3"]);
    let plan = |command: &str| {
        let policies = [KEPT, ignored, ignored, ignored].into_iter().enumerate();
        let process =
            |(index, policy)| process(index, if index == 0 { "run" } else { command }, policy);
        policies.map(process).collect()
    };
    assert_eq!(b.plan(plan("run")), [], "nothing has changed");
    let (changes, actions) = b.apply_plan(plan("run better"), RestartMode::AtOnce);
    assert_eq!(Bench::done(actions), [Spawn(1)], "neither what is done, nor what was stopped");
    assert_eq!(changes, Changes { started: names(&["p.1"]), ..Changes::default() });
}

#[test]
fn one_that_the_plan_has_no_more_is_not_restarted() {
    let mut b = Bench::up(&[KEPT; 2]);
    assert_eq!(b.plan(like(&[KEPT])), [Stop(1, SIGTERM)]);
    for pace in [RestartMode::AtOnce, RestartMode::Rolling] {
        assert_eq!(b.restart(&["p.1"], pace), []);
    }
    assert_eq!(b.exited(1, Exit::Signal(15)), []);
    assert_eq!(b.supervisor.count(), 1);
}

#[test]
fn plan_change_returns_what_was_done() {
    let mut b = Bench::up(&[KEPT; 4]);
    let patient = Policy { grace: Duration::from_mins(1), ..KEPT };
    let after = vec![
        process(0, "run", KEPT),
        process(1, "run faster", KEPT),
        process(2, "run", patient),
        process(4, "run", KEPT),
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
    assert_eq!(Bench::done(actions), [Stop(1, SIGTERM), Spawn(4), Stop(3, SIGTERM)]);
    // It comes back while it is still on its way down.
    let (changes, _) = b.apply_plan(like(&[KEPT; 4]), RestartMode::AtOnce);
    assert!(changes.started.contains(&"p.3".to_owned()), "{changes:?}");
    b.on(Event::StopSignal(SIGTERM));
    let (changes, actions) = b.apply_plan(like(&[KEPT; 2]), RestartMode::AtOnce);
    assert_eq!((changes, actions), (Changes::default(), vec![]), "too late");
}

#[test]
fn stop_returns_only_what_it_stopped() {
    let mut b = Bench::up(&[KEPT; 2]);
    let stop = |b: &mut Bench, names: &[&str]| {
        let ids = b.ids(names);
        b.supervisor.stop(b.now, &ids).0.stopped
    };
    assert_eq!(stop(&mut b, &["p.1"]), ["p.1"]);
    assert_eq!(stop(&mut b, &["p.0", "p.1"]), ["p.0"]);
}
