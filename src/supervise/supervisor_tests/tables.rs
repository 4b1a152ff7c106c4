//! What follows from each event, exactly.

use Done::{Spawn, Stop, StopStrays, Sweep as Swept};
use Signal::{SIGINT, SIGKILL, SIGTERM};

use super::*;
use crate::notice::StoppingProcess;

const STOP_ALL: OnExit = OnExit::StopAll;

#[test]
fn one_exit_stops_the_others_and_kills_the_stubborn() {
    let mut b = Bench::new(&[policy(STOP_ALL), policy(STOP_ALL)]);
    assert_eq!(b.on(Event::Tick), [Spawn(0), Spawn(1)]);
    b.spawned(0);
    b.spawned(1);
    assert_eq!(b.exited(0, Exit::Code(3)), [Stop(1, SIGTERM), StopStrays]);
    assert_eq!(b.on(Event::Orphans(vec![])), []);
    let before = b.now;
    assert_eq!(b.wait(), [Stop(1, SIGKILL)]);
    assert_eq!(b.now - before, Duration::from_secs(5));
    assert_eq!(b.exited(1, Exit::Signal(9)), [Swept]);
    assert_eq!(b.code(), None);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(3));
}

#[test]
fn asked_to_stop_and_all_went_in_time_is_success() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(0, SIGTERM), StopStrays]);
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.exited(0, Exit::Signal(15)), [Swept]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn killed_at_the_grace_is_no_success() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.wait(), [Stop(0, SIGKILL)]);
    b.exited(0, Exit::Signal(9));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(137));
}

#[test]
fn descendants_are_stopped_before_the_grace_period_is_over() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    let before = b.now;
    let actions = loop {
        b.now = b.supervisor.deadline().unwrap();
        let actions = b.all(Event::Tick);
        if !actions.iter().all(|action| matches!(action, Action::Notify(_))) {
            break actions;
        }
    };
    assert_eq!(actions, [Action::StopDescendants(b.id(0), SIGTERM)]);
    assert_eq!(b.now - before, Duration::from_secs(4));
    assert_eq!(b.wait(), [Stop(0, SIGKILL)]);
    assert_eq!(b.now - before, Duration::from_secs(5));
}

#[test]
fn one_that_was_stopped_before_its_start_has_not_failed() {
    let mut b = Bench::new(&[policy(STOP_ALL)]);
    b.on(Event::Tick);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(0, SIGTERM), StopStrays]);
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.exited(0, Exit::Cancelled), [Swept]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn events_that_come_together_are_what_they_are_one_by_one() {
    let (mut together, mut apart) =
        (Bench::up(&[policy(STOP_ALL); 3]), Bench::up(&[policy(STOP_ALL); 3]));
    apart.now = together.now;
    let exits = [(0, Exit::Code(3)), (1, Exit::Code(4)), (2, Exit::Signal(15))];
    let events = exits.map(|(index, exit)| Event::Exited(together.id(index), exit, Vec::new()));
    let now = together.now;
    let all = together.supervisor.handle_all(now, events.clone());
    let each: Vec<Action> = events.into_iter().flat_map(|event| apart.all(event)).collect();
    assert_eq!(all, each);
    assert_eq!(together.supervisor.outcome_so_far(), apart.supervisor.outcome_so_far());
}

#[test]
fn only_a_second_interrupt_kills_at_once() {
    let mut b = Bench::up(&[policy(OnExit::Restart)]);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), [Stop(0, SIGTERM), StopStrays]);
    b.now += Duration::from_millis(99);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), []);
    b.now += Duration::from_millis(500);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), []);
    assert_eq!(b.on(Event::StopSignal(Signal::SIGHUP)), []);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), [Stop(0, SIGKILL)]);
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), []);
}

#[test]
fn a_stop_before_the_interrupt_does_not_count_as_one() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), []);
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), [Stop(0, SIGKILL)]);
}

#[test]
fn crashes_back_off_and_time_forgives() {
    let mut b = Bench::new(&[policy(OnExit::Restart)]);
    b.on(Event::Tick);
    for full in [100, 200, 400] {
        b.spawned(0);
        let before = b.now;
        assert_eq!(b.exited(0, Exit::Code(1)), []);
        assert_eq!(b.wait(), [Spawn(0)]);
        let pause = b.now - before;
        let full = Duration::from_millis(full);
        assert!(pause <= full && pause >= full * 3 / 4, "{pause:?}");
    }
    b.spawned(0);
    b.now += Duration::from_secs(10);
    b.exited(0, Exit::Code(1));
    assert_eq!(b.supervisor.deadline(), Some(b.now + Duration::from_millis(100)));
}

#[test]
fn an_exit_with_success_is_no_crash() {
    let backoff = Backoff { give_up_after: Some(2), ..Backoff::default() };
    let mut b = Bench::up(&[Policy { backoff, ..policy(OnExit::Restart) }]);
    for _ in 0..9 {
        b.exited(0, Exit::Code(0));
        assert_eq!(b.wait(), [Spawn(0)]);
        b.spawned(0);
    }
    b.exited(0, Exit::Code(1));
    assert_eq!(b.wait(), [Spawn(0)]);
    b.spawned(0);
    // The second in a row: it alone goes down, and with it, here, everything.
    assert_eq!(b.exited(0, Exit::Code(4)), [StopStrays]);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(4));
}

#[test]
fn giving_up_fells_that_process_only() {
    let backoff = Backoff { give_up_after: Some(1), ..Backoff::default() };
    let mut b = Bench::up(&[Policy { backoff, ..policy(OnExit::Restart) }, policy(STOP_ALL)]);
    let id = b.id(0);
    let said = b.all(Event::Exited(id, Exit::Code(1), vec![]));
    let notice = Notice::Exited {
        name: "p.0".into(),
        exit: Exit::Code(1),
        left: vec![],
        next: Next::GiveUp(1),
    };
    assert_eq!(said, [Action::Notify(notice)]);
    assert_eq!(b.supervisor.deadline(), None);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    b.exited(1, Exit::Signal(15));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(1));
}

#[test]
fn policies_differ_in_what_an_exit_means() {
    for (on_exit, exit, restarted) in [
        (OnExit::Restart, Exit::Code(0), true),
        (OnExit::Restart, Exit::Signal(9), true),
        (OnExit::RestartOnFailure, Exit::Code(0), false),
        (OnExit::RestartOnFailure, Exit::Code(1), true),
        (OnExit::Ignore, Exit::Code(1), false),
    ] {
        let mut b = Bench::up(&[policy(on_exit), policy(STOP_ALL)]);
        assert_eq!(b.exited(0, exit), []);
        assert_eq!(b.supervisor.deadline().is_some(), restarted, "{on_exit:?} {exit:?}");
    }
}

#[test]
fn leaves_when_all_are_down_by_themselves() {
    let mut b = Bench::up(&[policy(OnExit::Ignore), policy(OnExit::Ignore)]);
    assert_eq!(b.exited(0, Exit::Signal(9)), []);
    assert_eq!(b.exited(1, Exit::Code(0)), [StopStrays]);
    assert_eq!(b.on(Event::Orphans(vec![])), [Swept]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(137));
}

#[test]
fn what_a_leader_leaves_is_stopped_before_it_counts_as_down() {
    let mut b = Bench::up(&[policy(OnExit::Restart)]);
    assert_eq!(b.leaving(0, Exit::Code(1)), [Stop(0, SIGTERM)]);
    assert_eq!(b.wait(), [Stop(0, SIGKILL)]);
    // The pause has long passed when it is gone.
    assert_eq!(b.empty(0), [Spawn(0)]);
    b.spawned(0);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    b.exited(0, Exit::Signal(15));
    b.on(Event::Swept(vec![]));
    // Killing what a crash left is no failure of the stop.
    assert_eq!(b.code(), Some(0));
}

#[test]
fn who_was_told_to_stop_has_stopped_when_nobody_of_it_is_left() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    let exit = Exit::Signal(15);
    assert_eq!(b.all(Event::Exited(b.id(0), exit, vec![member(7)])), []);
    let stopped = Notice::Stopped { name: "p.0".into(), exit };
    assert_eq!(b.all(Event::GroupEmpty(b.id(0))), [Action::Notify(stopped)]);
}

#[test]
fn strays_get_the_same_grace() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![member(7)]));
    b.now += Duration::from_secs(1);
    assert_eq!(b.exited(0, Exit::Code(0)), []);
    let before = b.now;
    assert_eq!(b.wait(), [Swept]);
    assert_eq!(b.now - before, Duration::from_secs(4));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(137));
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![member(7)]));
    b.exited(0, Exit::Code(0));
    assert_eq!(b.on(Event::Orphans(vec![])), [Swept]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn who_does_not_even_go_when_killed_is_left_and_named() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.wait(), [Stop(0, SIGKILL)]);
    assert_eq!(b.wait(), [Swept]);
    let said = b.all(Event::Swept(vec![member(100)]));
    assert_eq!(said, [Action::Notify(Notice::KillFailed { left: vec![member(100)] })]);
    assert_eq!(b.code(), Some(137));
}

#[test]
fn what_is_still_starting_is_stopped_too() {
    let mut b = Bench::new(&[policy(STOP_ALL), policy(STOP_ALL)]);
    b.on(Event::Tick);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(0, SIGTERM), Stop(1, SIGTERM), StopStrays]);
    b.spawned(0);
    b.on(Event::Orphans(vec![]));
    let errno = nix::errno::Errno::ENOENT;
    let not_started = Exit::NotStarted { step: crate::keeper::protocol::SpawnStep::Exec, errno };
    b.exited(1, not_started);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Swept]);
}

#[test]
fn says_who_is_still_up() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.now += Duration::from_secs(1);
    let waiting = Notice::StillStopping {
        processes: vec![StoppingProcess { name: "p.0".into(), pid: Some(100), left: vec![] }],
        kill_in: Some(Duration::from_secs(4)),
    };
    assert_eq!(b.all(Event::Tick), [Action::Notify(waiting)]);
    assert_eq!(b.all(Event::Tick), []);
}

#[test]
fn an_earlier_life_is_not_taken_for_this_one() {
    let mut b = Bench::up(&[policy(OnExit::Restart)]);
    let first = b.id(0);
    b.exited(0, Exit::Code(1));
    b.wait();
    b.spawned(0);
    assert_eq!(b.on(Event::Exited(first, Exit::Code(1), vec![])), []);
    assert!(matches!(b.supervisor.processes[0].state, State::Up { .. }));
}

#[test]
fn one_that_is_started_again_has_not_failed_for_good() {
    let mut b = Bench::up(&[policy(OnExit::Ignore); 3]);
    b.exited(0, Exit::Code(7));
    b.exited(1, Exit::Code(8));
    b.restart(&["p.0"], RestartMode::AtOnce);
    b.spawned(0);
    b.on(Event::StopSignal(SIGTERM));
    b.exited(0, Exit::Signal(15));
    b.exited(2, Exit::Signal(15));
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(8), "the first that failed and was not started again");
}

#[test]
fn who_is_stopped_because_of_another_is_stopped_because_of_no_third() {
    let mut b =
        Bench::up(&[policy(OnExit::Ignore), policy(OnExit::StopAll), policy(OnExit::Restart)]);
    b.exited(0, Exit::Code(7));
    b.exited(1, Exit::Code(0));
    let outcome = b.supervisor.outcome_so_far();
    assert_eq!((outcome.code(), outcome.stopped.len()), (7, 0));
    let mut b =
        Bench::up(&[policy(OnExit::Ignore), policy(OnExit::StopAll), policy(OnExit::Restart)]);
    b.exited(1, Exit::Code(7));
    assert_eq!(b.supervisor.outcome_so_far().stopped, ["p.0", "p.2"]);
}
