//! Backing services and readiness: what a process waits for, for how long, and what a timeout does.

use Effect::Spawn;
use Signal::SIGTERM;

use super::dependencies::chain;
use super::*;
use crate::plan::needs::{Address, Need};

fn process_with_need(policy: Policy) -> Arc<plan::ProcessPlan> {
    let mut process = plan::ProcessPlan::clone(&process(0, "run", policy));
    let addresses = vec![Address::Tcp("db".into(), 1)];
    process.needs = vec![Need { variable: Some("DATABASE_URL".into()), addresses }];
    Arc::new(process)
}

fn bench_with_need() -> Bench {
    Bench::with_processes(vec![process_with_need(policy(OnExit::StopAll))])
}

#[test]
fn process_starts_when_its_needs_are_reachable() {
    let mut b = bench_with_need();
    assert_eq!(b.on(Event::Tick), []);
    let unmet = || vec!["`DATABASE_URL` (db:1)".to_owned()];
    let id = b.id(0);
    assert_eq!(
        b.messages(Event::NeedsProbed(id, unmet())),
        ["p.0 waits for `DATABASE_URL` (db:1)"]
    );
    assert_eq!(b.messages(Event::NeedsProbed(id, unmet())), Vec::<String>::new());
    // The result of an earlier probe is ignored.
    assert_eq!(b.on(Event::NeedsProbed(ProcessId { life: 0, ..id }, vec![])), []);
    assert_eq!(b.on(Event::NeedsProbed(id, vec![])), [Spawn(0)]);
}

#[test]
fn unreachable_need_is_named_after_timeout() {
    let mut b = bench_with_need();
    b.on(Event::Tick);
    b.on(Event::NeedsProbed(b.id(0), vec!["`DATABASE_URL` (db:1)".into()]));
    b.now = b.supervisor.deadline().unwrap();
    let expected =
        ["p.0: `DATABASE_URL` (db:1) is not there after 1m", "p.0 was not started, stopping all"];
    assert_eq!(b.messages(Event::Tick), expected);
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(1));
}

#[test]
fn stop_cancels_the_probe_of_needs() {
    let mut b = bench_with_need();
    b.on(Event::Tick);
    let actions = b.handle(Event::StopSignal(SIGTERM));
    assert!(actions.contains(&Action::CancelProbe(b.id(0))), "{actions:?}");
    b.on(Event::Orphans(vec![]));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

/// A crash does not extend the ready timeout.
#[test]
fn process_that_crashes_until_its_ready_timeout_is_late() {
    let mut b = Bench::with_processes(chain(&[policy(OnExit::Restart), policy(OnExit::Ignore)]));
    assert_eq!(b.on(Event::Tick), [Spawn(0)]);
    let mut messages = Vec::new();
    let since = b.now;
    while messages.is_empty() {
        assert!(b.now - since < Duration::from_mins(2), "never late");
        b.spawned(0);
        b.now += Duration::from_secs(1);
        b.exited(0, Exit::Code(1));
        b.now = b.supervisor.deadline().unwrap();
        messages = b.messages(Event::Tick);
    }
    assert!(b.now - since >= Duration::from_mins(1));
    let expected = [
        "p0.1 is not ready after 1m",
        "p1.1 waits for p0.1, which is not ready after 1m",
        "p1.1 was not started",
    ];
    assert_eq!(messages, expected);
    // It is restarted, is not reported late again, and can still become ready.
    b.spawned(0);
    let late = |b: &Bench| b.supervisor.status().next().unwrap().is_late();
    assert!(late(&b));
    assert_eq!(b.messages(Event::Ready(b.id(0)))[0].split(" after").next(), Some("p0.1 is ready"));
    assert!(!late(&b));
    // After a later crash, it has the whole ready timeout again.
    b.exited(0, Exit::Code(1));
    b.advance_to_next_effect();
    b.spawned(0);
    assert_eq!(b.supervisor.deadline(), Some(b.now + Duration::from_mins(1)));
}

#[test]
fn waiting_for_needs_does_not_count_as_crashing() {
    let gives_up = Policy {
        backoff: Backoff { give_up_after: Some(2), ..Backoff::default() },
        ..policy(OnExit::Restart)
    };
    let mut b = Bench::with_processes(vec![process_with_need(gives_up)]);
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
    // The time it waited does not count towards its ready timeout.
    b.spawned(0);
    assert!(!b.supervisor.status().next().unwrap().is_late());
}

#[test]
fn new_plan_changes_needs_of_a_waiting_process() {
    let mut b = bench_with_need();
    b.on(Event::Tick);
    b.on(Event::NeedsProbed(b.id(0), vec!["db".into()]));
    let id = b.id(0);
    // Another service: a new probe with a new timeout.
    b.now += Duration::from_secs(50);
    let mut other = plan::ProcessPlan::clone(&process_with_need(policy(OnExit::StopAll)));
    other.needs[0].addresses = vec![Address::Tcp("other".into(), 1)];
    let other = Arc::new(other);
    let actions = b.apply_plan(vec![Arc::clone(&other)], RestartMode::AtOnce).1;
    assert_eq!(actions, [Action::CancelProbe(id), Action::ProbeNeeds(id, other)]);
    b.now += Duration::from_secs(50);
    assert_eq!(b.messages(Event::Tick), Vec::<String>::new());
    // No needs: the process starts.
    let none = vec![process(0, "run", policy(OnExit::StopAll))];
    assert_eq!(b.plan(none), [Spawn(0)]);
}

#[test]
fn new_plan_changes_the_readiness_probe() {
    let with = |ready: Ready, seconds| {
        let mut one = plan::ProcessPlan::clone(&process(0, "run", policy(OnExit::StopAll)));
        (one.ready, one.ready_timeout) = (ready, Duration::from_secs(seconds));
        Arc::new(one)
    };
    let mut b = Bench::with_processes(vec![with(Ready::Command("false".into()), 60)]);
    b.on(Event::Tick);
    b.spawned(0);
    let id = b.id(0);
    let next = with(Ready::Command("true".into()), 2);
    let actions = b.apply_plan(vec![Arc::clone(&next)], RestartMode::AtOnce).1;
    assert_eq!(actions, [Action::CancelProbe(id), Action::Probe(id, next)]);
    b.handle(Event::ProbeFailed(
        id,
        ProbeFailure::Command { command: "true".into(), exit: Exit::Code(127) },
    ));
    b.now += Duration::from_secs(2);
    assert_eq!(b.messages(Event::Tick), ["p.0 is not ready after 2s: `true` exited (127)"]);
    // A new plan can also make a late process ready.
    b.plan(vec![with(Ready::Started, 2)]);
    let status = b.supervisor.status().next().unwrap();
    assert!(status.is_ready() && !status.is_late());
}
