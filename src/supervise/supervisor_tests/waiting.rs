//! What is waited for, for how long, and what it means that it does not come.

use Done::Spawn;
use Signal::SIGTERM;

use super::dependencies::chain;
use super::*;
use crate::plan::needs::{Address, Need};

fn in_need(policy: Policy) -> Arc<plan::ProcessPlan> {
    let mut one = plan::ProcessPlan::clone(&process(0, "run", policy));
    let addresses = vec![Address::Tcp("db".into(), 1)];
    one.needs = vec![Need { variable: Some("DATABASE_URL".into()), addresses }];
    Arc::new(one)
}

fn needy() -> Bench {
    Bench::of(vec![in_need(policy(OnExit::StopAll))])
}

#[test]
fn what_it_needs_comes_first() {
    let mut b = needy();
    assert_eq!(b.on(Event::Tick), []);
    let unmet = || vec!["`DATABASE_URL` (db:1)".to_owned()];
    let id = b.id(0);
    assert_eq!(b.said(Event::NeedsProbed(id, unmet())), ["p.0 waits for `DATABASE_URL` (db:1)"]);
    assert_eq!(b.said(Event::NeedsProbed(id, unmet())), Vec::<String>::new());
    // An answer to an earlier question is none to this.
    assert_eq!(b.on(Event::NeedsProbed(ProcessId { life: 0, ..id }, vec![])), []);
    assert_eq!(b.on(Event::NeedsProbed(id, vec![])), [Spawn(0)]);
}

#[test]
fn what_never_comes_is_named() {
    let mut b = needy();
    b.on(Event::Tick);
    b.on(Event::NeedsProbed(b.id(0), vec!["`DATABASE_URL` (db:1)".into()]));
    b.now = b.supervisor.deadline().unwrap();
    let expected =
        ["p.0: `DATABASE_URL` (db:1) is not there after 1m", "p.0 was not started, stopping all"];
    assert_eq!(b.said(Event::Tick), expected);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(1));
}

#[test]
fn a_stop_ends_the_wait() {
    let mut b = needy();
    b.on(Event::Tick);
    let actions = b.all(Event::StopSignal(SIGTERM));
    assert!(actions.contains(&Action::CancelProbe(b.id(0))), "{actions:?}");
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

/// Time to get ready is not won by crashing.
#[test]
fn one_that_crashes_until_its_time_is_over_is_late() {
    let mut b = Bench::of(chain(&[policy(OnExit::Restart), policy(OnExit::Ignore)]));
    assert_eq!(b.on(Event::Tick), [Spawn(0)]);
    let mut said = Vec::new();
    let since = b.now;
    while said.is_empty() {
        assert!(b.now - since < Duration::from_mins(2), "never late");
        b.spawned(0);
        b.now += Duration::from_secs(1);
        b.exited(0, Exit::Code(1));
        b.now = b.supervisor.deadline().unwrap();
        said = b.said(Event::Tick);
    }
    assert!(b.now - since >= Duration::from_mins(1));
    let expected = [
        "p0.1 is not ready after 1m",
        "p1.1 waits for p0.1, which is not ready after 1m",
        "p1.1 was not started",
    ];
    assert_eq!(said, expected);
    // It is tried again all the same, is late no second time, and may still get there.
    b.spawned(0);
    let late = |b: &Bench| b.supervisor.status().next().unwrap().is_late();
    assert!(late(&b));
    assert_eq!(b.said(Event::Ready(b.id(0)))[0].split(" after").next(), Some("p0.1 is ready"));
    assert!(!late(&b));
    // And when it goes down another day, it has as much time again.
    b.exited(0, Exit::Code(1));
    b.wait();
    b.spawned(0);
    assert_eq!(b.supervisor.deadline(), Some(b.now + Duration::from_mins(1)));
}

#[test]
fn what_is_not_there_is_waited_for_as_long_as_it_takes() {
    let gives_up = Policy {
        backoff: Backoff { give_up_after: Some(2), ..Backoff::default() },
        ..policy(OnExit::Restart)
    };
    let mut b = Bench::of(vec![in_need(gives_up)]);
    b.on(Event::Tick);
    for _ in 0..10 {
        b.on(Event::NeedsProbed(b.id(0), vec!["db".into()]));
        b.now += Duration::from_mins(1);
        b.on(Event::Tick);
        b.now += Duration::from_secs(1);
        b.on(Event::Tick);
    }
    let status = b.supervisor.status().next().unwrap();
    assert_eq!((status.crashes, status.restarts, status.is_wanted()), (0, 0, true));
    assert_eq!(b.on(Event::NeedsProbed(b.id(0), vec![])), [Spawn(0)]);
    // That time was none in which it could get ready.
    b.spawned(0);
    assert!(!b.supervisor.status().next().unwrap().is_late());
}

#[test]
fn a_new_plan_changes_what_is_waited_for() {
    let mut b = needy();
    b.on(Event::Tick);
    b.on(Event::NeedsProbed(b.id(0), vec!["db".into()]));
    let id = b.id(0);
    // Another service: the question is another, and so is the time for it.
    b.now += Duration::from_secs(50);
    let mut other = plan::ProcessPlan::clone(&in_need(policy(OnExit::StopAll)));
    other.needs[0].addresses = vec![Address::Tcp("other".into(), 1)];
    let other = Arc::new(other);
    let actions = b.apply_plan(vec![Arc::clone(&other)], RestartMode::AtOnce).1;
    assert_eq!(actions, [Action::CancelProbe(id), Action::ProbeNeeds(id, other)]);
    b.now += Duration::from_secs(50);
    assert_eq!(b.said(Event::Tick), Vec::<String>::new());
    // None at all: there is nothing to wait for.
    let none = vec![process(0, "run", policy(OnExit::StopAll))];
    assert_eq!(b.plan(none), [Spawn(0)]);
}

#[test]
fn a_new_plan_changes_when_it_is_ready() {
    let with = |ready: Ready, seconds| {
        let mut one = plan::ProcessPlan::clone(&process(0, "run", policy(OnExit::StopAll)));
        (one.ready, one.ready_timeout) = (ready, Duration::from_secs(seconds));
        Arc::new(one)
    };
    let mut b = Bench::of(vec![with(Ready::Command("false".into()), 60)]);
    b.on(Event::Tick);
    b.spawned(0);
    let id = b.id(0);
    let next = with(Ready::Command("true".into()), 2);
    let actions = b.apply_plan(vec![Arc::clone(&next)], RestartMode::AtOnce).1;
    assert_eq!(actions, [Action::CancelProbe(id), Action::Probe(id, next)]);
    b.all(Event::ProbeFailed(
        id,
        ProbeFailure::Command { command: "true".into(), exit: Exit::Code(127) },
    ));
    b.now += Duration::from_secs(2);
    assert_eq!(b.said(Event::Tick), ["p.0 is not ready after 2s: `true` exited (127)"]);
    // Also when it is late already.
    b.plan(vec![with(Ready::Started, 2)]);
    let status = b.supervisor.status().next().unwrap();
    assert!(status.is_ready() && !status.is_late());
}
