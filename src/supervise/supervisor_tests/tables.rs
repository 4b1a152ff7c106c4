//! The exact effects of each event.

use Effect::{Spawn, Stop, StopOrphans, Sweep};
use Signal::{SIGINT, SIGKILL, SIGTERM};

use super::*;
use crate::notice::StoppingProcess;

const STOP_ALL: OnExit = OnExit::StopAll;

#[test]
fn exit_stops_all_and_kills_after_the_grace_period() {
    let mut b = Bench::new(&[policy(STOP_ALL), policy(STOP_ALL)]);
    assert_eq!(b.on(Event::Tick), [Spawn(0), Spawn(1)]);
    b.spawned(0);
    b.spawned(1);
    assert_eq!(b.exited(0, Exit::Code(3)), [Stop(1, SIGTERM), StopOrphans]);
    assert_eq!(b.on(Event::Orphans(vec![])), []);
    let before = b.now;
    assert_eq!(b.advance_to_next_effect(), [Stop(1, SIGKILL)]);
    assert_eq!(b.now - before, Duration::from_secs(5));
    assert_eq!(b.exited(1, Exit::Signal(9)), [Sweep]);
    assert_eq!(b.code(), None);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(3));
}

#[test]
fn stop_within_the_grace_period_is_success() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(0, SIGTERM), StopOrphans]);
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.exited(0, Exit::Signal(15)), [Sweep]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn kill_after_the_grace_period_is_a_failure() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.advance_to_next_effect(), [Stop(0, SIGKILL)]);
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
        let actions = b.handle(Event::Tick);
        if !actions.iter().all(|action| matches!(action, Action::Notify(_))) {
            break actions;
        }
    };
    assert_eq!(actions, [Action::StopDescendants(b.id(0), SIGTERM)]);
    assert_eq!(b.now - before, Duration::from_secs(4));
    assert_eq!(b.advance_to_next_effect(), [Stop(0, SIGKILL)]);
    assert_eq!(b.now - before, Duration::from_secs(5));
}

#[test]
fn process_stopped_before_its_start_has_not_failed() {
    let mut b = Bench::new(&[policy(STOP_ALL)]);
    b.on(Event::Tick);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(0, SIGTERM), StopOrphans]);
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.exited(0, Exit::Cancelled), [Sweep]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn batch_of_events_has_the_effects_of_single_events() {
    let (mut batched, mut single) =
        (Bench::up(&[policy(STOP_ALL); 3]), Bench::up(&[policy(STOP_ALL); 3]));
    single.now = batched.now;
    let exits = [(0, Exit::Code(3)), (1, Exit::Code(4)), (2, Exit::Signal(15))];
    let events = exits.map(|(index, exit)| Event::Exited(batched.id(index), exit, Vec::new()));
    let now = batched.now;
    let all = batched.supervisor.handle_all(now, events.clone());
    let each: Vec<Action> = events.into_iter().flat_map(|event| single.handle(event)).collect();
    assert_eq!(all, each);
    assert_eq!(batched.supervisor.outcome_so_far(), single.supervisor.outcome_so_far());
}

#[test]
fn only_a_second_interrupt_kills_at_once() {
    let mut b = Bench::up(&[policy(OnExit::Restart)]);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), [Stop(0, SIGTERM), StopOrphans]);
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
fn term_does_not_count_as_the_first_interrupt() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), []);
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::StopSignal(SIGINT)), [Stop(0, SIGKILL)]);
}

#[test]
fn backoff_doubles_and_is_reset_by_uptime() {
    let mut b = Bench::new(&[policy(OnExit::Restart)]);
    b.on(Event::Tick);
    for full in [100, 200, 400] {
        b.spawned(0);
        let before = b.now;
        assert_eq!(b.exited(0, Exit::Code(1)), []);
        assert_eq!(b.advance_to_next_effect(), [Spawn(0)]);
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
fn exit_with_success_does_not_count_as_a_crash() {
    let backoff = Backoff { give_up_after: Some(2), ..Backoff::default() };
    let mut b = Bench::up(&[Policy { backoff, ..policy(OnExit::Restart) }]);
    for _ in 0..9 {
        b.exited(0, Exit::Code(0));
        assert_eq!(b.advance_to_next_effect(), [Spawn(0)]);
        b.spawned(0);
    }
    b.exited(0, Exit::Code(1));
    assert_eq!(b.advance_to_next_effect(), [Spawn(0)]);
    b.spawned(0);
    // The second crash in a row: the only process has failed, so the run ends.
    assert_eq!(b.exited(0, Exit::Code(4)), [StopOrphans]);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(4));
}

#[test]
fn give_up_fails_only_that_process() {
    let backoff = Backoff { give_up_after: Some(1), ..Backoff::default() };
    let mut b = Bench::up(&[Policy { backoff, ..policy(OnExit::Restart) }, policy(STOP_ALL)]);
    let id = b.id(0);
    let actions = b.handle(Event::Exited(id, Exit::Code(1), vec![]));
    let notice = Notice::Exited {
        name: "p.0".into(),
        exit: Exit::Code(1),
        left: vec![],
        next: Next::GiveUp(1),
    };
    assert_eq!(actions, [Action::Notify(notice)]);
    assert_eq!(b.supervisor.deadline(), None);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    b.exited(1, Exit::Signal(15));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(1));
}

#[test]
fn restart_policy_decides_what_an_exit_does() {
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
fn run_ends_when_all_processes_have_exited() {
    let mut b = Bench::up(&[policy(OnExit::Ignore), policy(OnExit::Ignore)]);
    assert_eq!(b.exited(0, Exit::Signal(9)), []);
    assert_eq!(b.exited(1, Exit::Code(0)), [StopOrphans]);
    assert_eq!(b.on(Event::Orphans(vec![])), [Sweep]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(137));
}

#[test]
fn descendants_are_stopped_before_a_restart() {
    let mut b = Bench::up(&[policy(OnExit::Restart)]);
    assert_eq!(b.exited_with_descendant(0, Exit::Code(1)), [Stop(0, SIGTERM)]);
    assert_eq!(b.advance_to_next_effect(), [Stop(0, SIGKILL)]);
    // The backoff is over by the time the group is empty.
    assert_eq!(b.group_empty(0), [Spawn(0)]);
    b.spawned(0);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    b.exited(0, Exit::Signal(15));
    b.on(Event::Swept(vec![]));
    // Killing descendants after a crash does not make the stop a failure.
    assert_eq!(b.code(), Some(0));
}

#[test]
fn process_has_stopped_when_its_group_is_empty() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    let exit = Exit::Signal(15);
    assert_eq!(b.handle(Event::Exited(b.id(0), exit, vec![member(7)])), []);
    let stopped = Notice::Stopped { name: "p.0".into(), exit };
    assert_eq!(b.handle(Event::GroupEmpty(b.id(0))), [Action::Notify(stopped)]);
}

#[test]
fn orphans_have_the_same_grace_period() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![member(7)]));
    b.now += Duration::from_secs(1);
    assert_eq!(b.exited(0, Exit::Code(0)), []);
    let before = b.now;
    assert_eq!(b.advance_to_next_effect(), [Sweep]);
    assert_eq!(b.now - before, Duration::from_secs(4));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(137));
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![member(7)]));
    b.exited(0, Exit::Code(0));
    assert_eq!(b.on(Event::Orphans(vec![])), [Sweep]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn process_that_survives_sigkill_is_named() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.on(Event::Orphans(vec![]));
    assert_eq!(b.advance_to_next_effect(), [Stop(0, SIGKILL)]);
    assert_eq!(b.advance_to_next_effect(), [Sweep]);
    let actions = b.handle(Event::Swept(vec![member(100)]));
    assert_eq!(actions, [Action::Notify(Notice::KillFailed { left: vec![member(100)] })]);
    assert_eq!(b.code(), Some(137));
}

#[test]
fn process_that_is_starting_is_stopped_too() {
    let mut b = Bench::new(&[policy(STOP_ALL), policy(STOP_ALL)]);
    b.on(Event::Tick);
    assert_eq!(b.on(Event::StopSignal(SIGTERM)), [Stop(0, SIGTERM), Stop(1, SIGTERM), StopOrphans]);
    b.spawned(0);
    b.on(Event::Orphans(vec![]));
    let errno = nix::errno::Errno::ENOENT;
    let not_started = Exit::NotStarted { step: crate::keeper::protocol::SpawnStep::Exec, errno };
    b.exited(1, not_started);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Sweep]);
}

#[test]
fn starts_are_cancelled_before_the_message_that_all_is_stopped() {
    let mut b = Bench::new(&[policy(STOP_ALL); 3]);
    b.on(Event::Tick);
    b.spawned(0);
    b.spawned(1);
    let is_message = |action: &Action| matches!(action, Action::Notify(_));
    let stop = |index| Action::Stop(b.id(index), SIGTERM);
    let (running, starting) = (stop(1), stop(2));
    let actions = b.handle(Event::Exited(b.id(0), Exit::Code(1), Vec::new()));
    let position = |wanted: &Action| actions.iter().position(|action| action == wanted);
    let message = actions.iter().position(is_message);
    assert!(position(&starting) < message && message < position(&running), "{actions:?}");

    let mut b = Bench::new(&[policy(STOP_ALL)]);
    b.on(Event::Tick);
    let actions = b.handle(Event::StopSignal(SIGTERM));
    assert_eq!(actions[0], Action::Stop(b.id(0), SIGTERM), "{actions:?}");
    assert!(is_message(&actions[1]), "{actions:?}");
}

#[test]
fn message_names_processes_that_are_still_up() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::StopSignal(SIGTERM));
    b.now += Duration::from_secs(1);
    let waiting = Notice::StillStopping {
        processes: vec![StoppingProcess { name: "p.0".into(), pid: Some(100), left: vec![] }],
        kill_in: Some(Duration::from_secs(4)),
    };
    assert_eq!(b.handle(Event::Tick), [Action::Notify(waiting)]);
    assert_eq!(b.handle(Event::Tick), []);
}

#[test]
fn exit_of_an_earlier_incarnation_is_ignored() {
    let mut b = Bench::up(&[policy(OnExit::Restart)]);
    let first = b.id(0);
    b.exited(0, Exit::Code(1));
    b.advance_to_next_effect();
    b.spawned(0);
    assert_eq!(b.on(Event::Exited(first, Exit::Code(1), vec![])), []);
    assert!(matches!(b.supervisor.processes[0].state, State::Up { .. }));
}

#[test]
fn restarted_process_no_longer_decides_the_exit_code() {
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
    assert_eq!(
        b.code(),
        Some(8),
        "the exit code is set by the first failed process that was not restarted"
    );
}

#[test]
fn report_names_processes_stopped_by_the_first_failure_only() {
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
