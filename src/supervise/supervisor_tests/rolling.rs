//! One after the other.

use Done::{Spawn, Stop};
use Signal::SIGTERM;

use super::dependencies::chain;
use super::plans::{KEPT, like};
use super::*;

/// Processes with a port each, in a plan of their own.
fn with_ports(ports: &[(&str, u16)]) -> Vec<Arc<plan::ProcessPlan>> {
    let one = |(name, port): &(&str, u16)| {
        let mut one = plan::ProcessPlan::clone(&process(0, "run", policy(IGNORE)));
        (one.name, one.kind) = (format!("{name}.1"), (*name).to_owned());
        (one.port, one.env) = (Some(*port), Env::new());
        one.env.insert("PORT".into(), crate::plan::env::Variable::from_ganger(port.to_string()));
        Arc::new(one)
    };
    ports.iter().map(one).collect()
}

#[test]
fn a_port_changes_hands_when_it_is_free() {
    let mut b = Bench::of(with_ports(&[("web", 5000), ("api", 5100)]));
    b.on(Event::Tick);
    b.spawned(0);
    b.spawned(1);
    // A type gets another name, and its port goes with it.
    let renamed = with_ports(&[("www", 5000), ("api", 5100)]);
    assert_eq!(b.plan(renamed), [Stop(0, SIGTERM)]);
    let id = b.supervisor.processes[2].id();
    assert_eq!(b.supervisor.processes[2].name(), "web.1");
    assert_eq!(b.on(Event::Exited(id, Exit::Signal(15), vec![member(7)])), []);
    assert_eq!(b.on(Event::GroupEmpty(id)), [Spawn(2)]);
    b.spawned(0);
    // Two change places, at once or one after the other.
    for (pace, first) in [(RestartMode::AtOnce, 5100), (RestartMode::Rolling, 5000)] {
        let swapped = with_ports(&[("www", first), ("api", 10_100 - first)]);
        let mut asked = Bench::done(b.apply_plan(swapped, pace).1);
        for _ in 0..2 {
            for done in std::mem::take(&mut asked) {
                match done {
                    Stop(index, _) => {
                        let all = &b.supervisor.processes;
                        let id = all.iter().map(Process::id).find(|id| id.index == index).unwrap();
                        asked.extend(b.on(Event::Exited(id, Exit::Signal(15), vec![])));
                    }
                    Spawn(_) | Done::StopStrays | Done::Sweep => asked.push(done),
                }
            }
        }
        let spawned: Vec<_> = asked.iter().filter(|done| matches!(done, Spawn(_))).collect();
        assert_eq!(spawned.len(), 2, "{pace:?} {asked:?}");
        b.spawned(0);
        b.spawned(1);
    }
}

const IGNORE: OnExit = OnExit::Ignore;

#[test]
fn a_rolling_restart_takes_one_at_a_time() {
    let mut b = Bench::up(&[KEPT; 3]);
    let all = ["p.0", "p.1", "p.2"];
    assert_eq!(b.restart(&all, RestartMode::Rolling), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
    assert_eq!(b.spawned(0), [Stop(1, SIGTERM)]);
    assert_eq!(b.exited(1, Exit::Signal(15)), [Spawn(1)]);
    // It comes up only at the second try.
    assert_eq!(b.exited(1, Exit::Code(1)), []);
    assert_eq!(b.wait(), [Spawn(1)]);
    assert_eq!(b.spawned(1), [Stop(2, SIGTERM)]);
    assert_eq!(b.exited(2, Exit::Signal(15)), [Spawn(2)]);
    assert_eq!(b.spawned(2), []);
    assert!(!b.supervisor.rolling.is_active());
}

#[test]
fn a_new_plan_does_not_hurry_those_whose_turn_is_to_come() {
    let mut b = Bench::up(&[KEPT; 2]);
    let all = ["p.0", "p.1"];
    assert_eq!(b.restart(&all, RestartMode::Rolling), [Stop(0, SIGTERM)]);
    assert_eq!(b.plan(like(&[KEPT; 3])), [Spawn(2)]);
    assert_eq!(b.spawned(2), []);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
    assert_eq!(b.spawned(0), [Stop(1, SIGTERM)]);
}

#[test]
fn a_roll_goes_on_when_the_last_is_ready_and_stops_when_it_is_late() {
    let mut processes = chain(&[policy(IGNORE); 3]);
    for process in &mut processes {
        Arc::make_mut(process).after.clear();
    }
    let all = ["p0.1", "p1.1", "p2.1"];
    let mut b = Bench::of(processes);
    b.on(Event::Tick);
    for index in 0..3 {
        b.spawned(index);
        b.ready(index);
    }
    assert_eq!(b.restart(&all, RestartMode::Rolling), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
    assert_eq!(b.spawned(0), []);
    assert_eq!(b.ready(0), [Stop(1, SIGTERM)]);
    b.exited(1, Exit::Signal(15));
    b.spawned(1);
    b.now = b.supervisor.deadline().unwrap();
    let expected = ["p1.1 is not ready after 1m", "not restarted: p2.1"];
    assert_eq!(b.said(Event::Tick), expected);
    // The next roll is another, be the late one ready by then or not.
    let last = |b: &mut Bench| b.restart(&["p2.1"], RestartMode::Rolling);
    assert_eq!(last(&mut b), [Stop(2, SIGTERM)]);
    assert_eq!(b.exited(2, Exit::Signal(15)), [Spawn(2)]);
    b.spawned(2);
    b.ready(2);
    assert_eq!(b.ready(1), []);
    assert_eq!(last(&mut b), [Stop(2, SIGTERM)]);
}

#[test]
fn a_roll_stops_where_one_fails_and_stays_down() {
    let gives_up = Policy {
        backoff: Backoff { give_up_after: Some(1), ..Backoff::default() },
        ..policy(OnExit::Restart)
    };
    for policy in [policy(IGNORE), gives_up] {
        let mut b = Bench::up(&[policy; 3]);
        assert_eq!(b.restart(&["p.0", "p.1", "p.2"], RestartMode::Rolling), [Stop(0, SIGTERM)]);
        assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
        let id = b.id(0);
        let said = b.said(Event::Exited(id, Exit::Code(1), vec![]));
        assert_eq!(said[1..], ["not restarted: p.1, p.2"]);
        let is_ready = |status: Status| status.is_ready() && !status.restart_pending;
        assert!(b.supervisor.status().skip(1).all(is_ready), "the others go on as they are");
    }
}
