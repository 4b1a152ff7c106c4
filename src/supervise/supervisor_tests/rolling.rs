//! Rolling restarts, and ports that move from one process to another.

use Effect::{Spawn, Stop};
use Signal::SIGTERM;

use super::dependencies::chain;
use super::plans::{RESTART, processes_with};
use super::*;

/// Processes with these names and ports.
fn with_ports(ports: &[(&str, u16)]) -> Vec<Arc<plan::ProcessPlan>> {
    let with_port = |(name, port): &(&str, u16)| {
        let mut process = plan::ProcessPlan::clone(&process(0, "run", policy(IGNORE)));
        (process.name, process.process_type) = (format!("{name}.1"), (*name).to_owned());
        (process.port, process.env) = (Some(*port), Env::new());
        process
            .env
            .insert("PORT".into(), crate::plan::env::Variable::from_ganger(port.to_string()));
        Arc::new(process)
    };
    ports.iter().map(with_port).collect()
}

#[test]
fn process_starts_when_its_port_is_released() {
    let mut b = Bench::with_processes(with_ports(&[("web", 5000), ("api", 5100)]));
    b.on(Event::Tick);
    b.spawned(0);
    b.spawned(1);
    // A type is renamed, and its new process gets the same port.
    let renamed = with_ports(&[("www", 5000), ("api", 5100)]);
    let (_, actions) = b.apply_plan(renamed, RestartMode::AtOnce);
    let holders = vec!["web.1".to_owned()];
    let waiting = Notice::WaitingForPort { name: "www.1".to_owned(), holders, port: 5000 };
    assert!(actions.contains(&Action::Notify(waiting)), "{actions:?}");
    assert_eq!(Bench::effects(actions), [Stop(0, SIGTERM)]);
    let id = b.supervisor.processes[2].id();
    assert_eq!(b.supervisor.processes[2].name(), "web.1");
    assert_eq!(b.on(Event::Exited(id, Exit::Signal(15), vec![member(7)])), []);
    assert_eq!(b.on(Event::GroupEmpty(id)), [Spawn(2)]);
    b.spawned(0);
    // Two processes swap ports, at once or in a rolling reload.
    for (mode, first) in [(RestartMode::AtOnce, 5100), (RestartMode::Rolling, 5000)] {
        let swapped = with_ports(&[("www", first), ("api", 10_100 - first)]);
        let mut effects = Bench::effects(b.apply_plan(swapped, mode).1);
        for _ in 0..2 {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Stop(index, _) => {
                        let all = &b.supervisor.processes;
                        let id = all.iter().map(Process::id).find(|id| id.index == index).unwrap();
                        effects.extend(b.on(Event::Exited(id, Exit::Signal(15), vec![])));
                    }
                    Spawn(_) | Effect::StopOrphans | Effect::Sweep => effects.push(effect),
                }
            }
        }
        let spawned: Vec<_> = effects.iter().filter(|effect| matches!(effect, Spawn(_))).collect();
        assert_eq!(spawned.len(), 2, "{mode:?} {effects:?}");
        b.spawned(0);
        b.spawned(1);
    }
}

const IGNORE: OnExit = OnExit::Ignore;

#[test]
fn rolling_restart_restarts_one_process_at_a_time() {
    let mut b = Bench::up(&[RESTART; 3]);
    let all = ["p.0", "p.1", "p.2"];
    assert_eq!(b.restart(&all, RestartMode::Rolling), [Stop(0, SIGTERM)]);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
    assert_eq!(b.spawned(0), [Stop(1, SIGTERM)]);
    assert_eq!(b.exited(1, Exit::Signal(15)), [Spawn(1)]);
    // It crashes once before it is up.
    assert_eq!(b.exited(1, Exit::Code(1)), []);
    assert_eq!(b.advance_to_next_effect(), [Spawn(1)]);
    assert_eq!(b.spawned(1), [Stop(2, SIGTERM)]);
    assert_eq!(b.exited(2, Exit::Signal(15)), [Spawn(2)]);
    assert_eq!(b.spawned(2), []);
    assert!(!b.supervisor.rolling.is_active());
}

#[test]
fn new_plan_keeps_pending_rolling_restarts_pending() {
    let mut b = Bench::up(&[RESTART; 2]);
    let all = ["p.0", "p.1"];
    assert_eq!(b.restart(&all, RestartMode::Rolling), [Stop(0, SIGTERM)]);
    assert_eq!(b.plan(processes_with(&[RESTART; 3])), [Spawn(2)]);
    assert_eq!(b.spawned(2), []);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
    assert_eq!(b.spawned(0), [Stop(1, SIGTERM)]);
}

#[test]
fn rolling_restart_continues_on_readiness_and_stops_on_timeout() {
    let mut processes = chain(&[policy(IGNORE); 3]);
    for process in &mut processes {
        Arc::make_mut(process).after.clear();
    }
    let all = ["p0.1", "p1.1", "p2.1"];
    let mut b = Bench::with_processes(processes);
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
    assert_eq!(b.messages(Event::Tick), expected);
    // A new rolling restart works, whether or not the late process is ready by then.
    let last = |b: &mut Bench| b.restart(&["p2.1"], RestartMode::Rolling);
    assert_eq!(last(&mut b), [Stop(2, SIGTERM)]);
    assert_eq!(b.exited(2, Exit::Signal(15)), [Spawn(2)]);
    b.spawned(2);
    b.ready(2);
    assert_eq!(b.ready(1), []);
    assert_eq!(last(&mut b), [Stop(2, SIGTERM)]);
}

#[test]
fn rolling_restart_stops_at_a_failed_process() {
    let gives_up = Policy {
        backoff: Backoff { give_up_after: Some(1), ..Backoff::default() },
        ..policy(OnExit::Restart)
    };
    for policy in [policy(IGNORE), gives_up] {
        let mut b = Bench::up(&[policy; 3]);
        assert_eq!(b.restart(&["p.0", "p.1", "p.2"], RestartMode::Rolling), [Stop(0, SIGTERM)]);
        assert_eq!(b.exited(0, Exit::Signal(15)), [Spawn(0)]);
        let id = b.id(0);
        let messages = b.messages(Event::Exited(id, Exit::Code(1), vec![]));
        assert_eq!(messages[1..], ["not restarted: p.1, p.2"]);
        let is_ready = |status: Status| status.is_ready() && !status.restart_pending;
        assert!(b.supervisor.status().skip(1).all(is_ready), "the other processes keep running");
    }
}
