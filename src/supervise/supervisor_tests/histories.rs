//! Random histories. In each, no process is started twice, signalled when dead, killed before its
//! grace period is over, or left behind; a plan only affects what it changes; and a shutdown ends.

use std::collections::BTreeMap;

use Signal::{SIGINT, SIGKILL, SIGTERM};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// The actual state of one process.
#[derive(Default)]
struct SimulatedProcess {
    name: String,
    /// Whether the process itself is alive, and whether descendants of it are.
    is_alive: bool,
    has_descendants: bool,
    /// When it got its stop signal, in this incarnation.
    stop_sent: Option<Instant>,
    /// Whether it got SIGKILL in this incarnation; it may take time to exit.
    killed: bool,
}

impl SimulatedProcess {
    fn is_down(&self) -> bool {
        !self.is_alive && !self.has_descendants
    }
}

/// A simulated system, which carries out actions and produces events of its own.
struct Simulation {
    bench: Bench,
    plan: Vec<Arc<plan::ProcessPlan>>,
    processes: BTreeMap<u32, SimulatedProcess>,
    shutting_down: bool,
    swept: bool,
}

impl Simulation {
    fn new(policies: &[Policy]) -> Self {
        let bench = Bench::new(policies);
        let plan = plan(policies).processes;
        Self { bench, plan, processes: BTreeMap::new(), shutting_down: false, swept: false }
    }

    fn process(&mut self, index: u32) -> &mut SimulatedProcess {
        self.processes.get_mut(&index).expect("a process that was started")
    }

    fn find_supervised(&self, index: u32) -> Option<&Process> {
        self.bench.supervisor.processes.iter().find(|process| process.id().index == index)
    }

    /// Passes an event to the supervisor, and checks the actions that follow.
    fn on(&mut self, event: Event, force_stop: bool) -> Vec<Action> {
        if matches!(event, Event::StopSignal(_) | Event::StdoutClosed) {
            self.shutting_down = true;
        }
        let actions = self.bench.handle(event);
        self.check(actions, force_stop)
    }

    /// Checks the invariants of all actions.
    fn check(&mut self, actions: Vec<Action>, force_stop: bool) -> Vec<Action> {
        for action in &actions {
            match action {
                Action::Spawn(id, process) => self.on_spawn(*id, &process.name),
                Action::Stop(id, signal) => self.on_stop(*id, *signal, force_stop),
                Action::StopDescendants(id, _) => self.on_stop_descendants(*id),
                Action::StopOrphans => self.shutting_down = true,
                Action::Sweep => {
                    assert!(!self.swept, "sweep requested twice");
                    self.swept = true;
                    for process in self.processes.values_mut() {
                        assert!(
                            process.is_down() || process.killed,
                            "sweep requested before SIGKILL"
                        );
                        (process.is_alive, process.has_descendants) = (false, false);
                    }
                }
                Action::ProbeNeeds(..)
                | Action::Probe(..)
                | Action::CancelProbe(_)
                | Action::Notify(_) => {}
            }
        }
        actions
    }

    fn on_spawn(&mut self, id: ProcessId, name: &str) {
        assert!(!self.shutting_down, "spawned during shutdown");
        let same_name = self.processes.values().filter(|process| process.name == name);
        assert!(
            same_name.into_iter().all(SimulatedProcess::is_down),
            "two processes have the same name"
        );
        let process = SimulatedProcess {
            name: name.to_owned(),
            is_alive: true,
            ..SimulatedProcess::default()
        };
        self.processes.insert(id.index, process);
    }

    fn on_stop(&mut self, id: ProcessId, signal: Signal, force_stop: bool) {
        let now = self.bench.now;
        let known = self.find_supervised(id.index).expect("a supervised process");
        assert_eq!(id, known.id(), "signalled an earlier incarnation");
        // A plan may have changed the grace period since; the old one applies.
        let grace = known.policy().grace.min(Duration::from_secs(1));
        let process = self.process(id.index);
        assert!(!process.is_down(), "signalled a dead process");
        process.killed |= signal == SIGKILL;
        match (signal == SIGKILL, process.stop_sent) {
            (false, None) => process.stop_sent = Some(now),
            (false, Some(_)) => panic!("two stop signals"),
            (true, Some(since)) => {
                assert!(
                    force_stop || now - since >= grace,
                    "SIGKILL before the grace period is over: {:?}",
                    now - since
                );
            }
            (true, None) => panic!("SIGKILL without a stop signal"),
        }
    }

    fn on_stop_descendants(&mut self, id: ProcessId) {
        let now = self.bench.now;
        let process = self.process(id.index);
        assert!(!process.is_down() && !process.killed, "signalled a dead process");
        assert!(
            process.stop_sent.is_some_and(|since| since < now),
            "signalled descendants before the group"
        );
    }

    fn exit(&mut self, index: u32, exit: Exit, leaves_descendant: bool) {
        let Some(id) = self.find_supervised(index).map(Process::id) else { return };
        let process = self.process(index);
        (process.is_alive, process.has_descendants) = (false, leaves_descendant);
        let left = if leaves_descendant { vec![member(7)] } else { vec![] };
        self.on(Event::Exited(id, exit, left), false);
    }

    fn empty_group(&mut self, index: u32) {
        let Some(id) = self.find_supervised(index).map(Process::id) else { return };
        self.process(index).has_descendants = false;
        self.on(Event::GroupEmpty(id), false);
    }

    /// Applies a plan with `count` processes, of which the one at `changed_index` has another command.
    fn apply_plan(&mut self, count: usize, changed_index: usize, policies: &[Policy]) {
        let before = self.plan.clone();
        let plan: Vec<_> = (0..count)
            .map(|index| match before.get(index) {
                Some(process) if index != changed_index => Arc::clone(process),
                Some(process) => {
                    let command = format!("{}!", process.command);
                    super::process(index, &command, policies[index % policies.len()])
                }
                None => super::process(index, "run", policies[index % policies.len()]),
            })
            .collect();
        self.plan.clone_from(&plan);
        let mode = if changed_index.is_multiple_of(2) {
            RestartMode::AtOnce
        } else {
            RestartMode::Rolling
        };
        let status: Vec<Status> = self.bench.supervisor.status().collect();
        let pending = status.iter().filter(|status| status.restart_pending);
        let pending: Vec<u32> = pending.map(|status| status.id.index).collect();
        let expected = if self.bench.supervisor.is_ending() {
            Changes::default()
        } else {
            expected_changes(&status, &plan)
        };
        let (changes, actions) = self.bench.apply_plan(plan.clone(), mode);
        assert_eq!(changes, expected, "the returned changes differ");
        let actions = self.check(actions, false);
        let is_unchanged = |name: &str| {
            let find = |plan: &[Arc<plan::ProcessPlan>]| {
                plan.iter().find(|process| process.name == name).cloned()
            };
            find(&plan).is_some() && find(&plan) == find(&before)
        };
        for action in actions {
            // An earlier restart request may have become due.
            if let Action::Stop(id, signal) = action
                && signal != SIGKILL
                && !pending.contains(&id.index)
            {
                assert!(
                    !is_unchanged(&self.process(id.index).name),
                    "stopped an unchanged process"
                );
            }
        }
    }

    /// Ends all processes that have their stop signal, and checks that the actual state is the
    /// desired state.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let stopping = self
                .processes
                .iter()
                .find(|(_, process)| process.stop_sent.is_some() && !process.is_down());
            let Some((&index, process)) = stopping else { break };
            if process.is_alive {
                self.exit(index, Exit::Signal(15), false);
            } else {
                self.empty_group(index);
            }
        }
        let names: Vec<&str> = self.plan.iter().map(|process| process.name.as_str()).collect();
        let known: Vec<&str> = self.bench.supervisor.processes.iter().map(Process::name).collect();
        assert_eq!(known, names, "the processes differ from the plan");
        for process in &self.bench.supervisor.processes {
            let is_up =
                self.processes.get(&process.id().index).is_some_and(|process| process.is_alive);
            let is_backing_off = matches!(process.state, State::Backoff { .. });
            assert_eq!(is_up || is_backing_off, process.want == Want::Up, "{}", process.name());
        }
    }
}

/// The expected changes of a plan, from the states before it.
fn expected_changes(before: &[Status], plan: &[Arc<plan::ProcessPlan>]) -> Changes {
    let find = |name: &str| before.iter().find(|status| status.plan.name == name);
    let is_planned = |name: &str| find(name).is_some_and(Status::is_planned);
    let mut changes = Changes::default();
    for process in plan {
        let name = process.name.clone();
        match find(&name) {
            Some(was) if was.is_planned() && was.plan.has_same_command(process) => {
                if !was.plan.has_same_policy(process) {
                    changes.adjusted.push(name);
                }
            }
            Some(was) if was.is_wanted() => changes.restarted.push(name),
            Some(was) if was.has_failed() || !was.is_planned() => changes.started.push(name),
            Some(_) => {}
            None => changes.started.push(name),
        }
    }
    let names = before.iter().map(|status| status.plan.name.clone());
    let is_in_plan = |name: &String| plan.iter().any(|process| process.name == *name);
    changes.stopped = names.filter(|name| is_planned(name) && !is_in_plan(name)).collect();
    changes
}

/// One step of a history: the choice of an event, its target, and an argument.
type Step = (u8, u32, u16);

fn run_history(policies: &[Policy], steps: &[Step]) {
    let mut simulation = Simulation::new(policies);
    simulation.on(Event::Tick, false);
    for &(choice, target, argument) in steps {
        let all: Vec<u32> = simulation.processes.keys().copied().collect();
        let index = all.get(target as usize % all.len().max(1)).copied().unwrap_or_default();
        let (is_alive, has_descendants) = simulation
            .processes
            .get(&index)
            .map_or((false, false), |process| (process.is_alive, process.has_descendants));
        let exit =
            if argument % 3 == 0 { Exit::Code(0) } else { Exit::Code(i32::from(argument % 7)) };
        let id = simulation.find_supervised(index).map(Process::id);
        match (choice, id) {
            (0..=2, Some(id)) if is_alive => drop(simulation.on(Event::Spawned(id, 100), false)),
            (3..=5, _) if is_alive => simulation.exit(index, exit, argument % 4 == 0),
            (3..=5, _) if has_descendants => simulation.empty_group(index),
            (6, _) if argument % 64 == 0 => drop(simulation.on(Event::StopSignal(SIGTERM), false)),
            (7, _) if argument % 64 == 0 => drop(simulation.on(Event::StopSignal(SIGINT), true)),
            (8, _) if simulation.shutting_down => {
                let left = if argument % 2 == 0 { vec![member(9)] } else { vec![] };
                simulation.on(Event::Orphans(left), false);
            }
            (9, _) => {
                simulation.on(Event::Exited(ProcessId { index, life: 0 }, exit, vec![]), false);
            }
            (10..=11, _) => {
                simulation.apply_plan(
                    usize::from(argument % 5),
                    usize::from(argument / 5 % 8),
                    policies,
                );
                if argument % 2 == 0 && !simulation.shutting_down {
                    simulation.settle();
                }
            }
            (14, Some(_)) if !simulation.shutting_down => {
                let known = simulation.bench.supervisor.processes.iter().map(Process::id);
                let ids: Vec<ProcessId> = known.skip(usize::from(argument % 3)).collect();
                let (now, supervisor) = (simulation.bench.now, &mut simulation.bench.supervisor);
                let (_, actions) = match argument % 5 {
                    0 => supervisor.stop(now, &ids),
                    1 | 2 => supervisor.restart(now, &ids, RestartMode::AtOnce),
                    _ => supervisor.restart(now, &ids, RestartMode::Rolling),
                };
                simulation.check(actions, false);
                simulation.settle();
            }
            // The clock jumps: the machine was suspended, or the clock was set.
            (12, _) => {
                simulation.bench.now += Duration::from_hours(1);
                simulation.on(Event::Tick, false);
            }
            (13, _) => {
                let back = Duration::from_millis(u64::from(argument));
                simulation.bench.now =
                    simulation.bench.now.checked_sub(back).unwrap_or(simulation.bench.now);
                simulation.on(Event::Tick, false);
            }
            _ => {
                simulation.bench.now += Duration::from_millis(u64::from(argument) * 10);
                simulation.on(Event::Tick, false);
            }
        }
    }
    shut_down(&mut simulation);
}

/// Checks that a shutdown ends after any history, if SIGKILL works.
fn shut_down(simulation: &mut Simulation) {
    simulation.on(Event::StopSignal(SIGTERM), false);
    simulation.on(Event::Orphans(vec![member(9)]), false);
    for _ in 0..1000 {
        if simulation.swept {
            break;
        }
        if let Some(deadline) = simulation.bench.supervisor.deadline() {
            simulation.bench.now = simulation.bench.now.max(deadline);
            simulation.on(Event::Tick, false);
        }
        let all: Vec<u32> = simulation.processes.keys().copied().collect();
        for index in all {
            let known = simulation.find_supervised(index);
            let killed = known.is_some_and(|it| matches!(it.state, State::Killed { .. }));
            let process = simulation.process(index);
            match (process.is_alive, process.has_descendants) {
                (true, _) if killed => simulation.exit(index, Exit::Signal(9), false),
                (false, true) if killed => simulation.empty_group(index),
                _ => {}
            }
        }
    }
    assert!(simulation.swept, "the shutdown does not end");
    assert!(simulation.processes.values().all(SimulatedProcess::is_down), "a process is left");
    simulation.on(Event::Swept(vec![]), false);
    assert!(
        simulation.bench.supervisor.outcome().is_some()
            && simulation.bench.supervisor.deadline().is_none()
    );
}

#[test]
fn invariants_hold_in_any_history() {
    let on_exit = prop_oneof![
        1 => Just(OnExit::StopAll),
        9 => Just(OnExit::Restart),
        9 => Just(OnExit::RestartOnFailure),
        9 => Just(OnExit::Ignore),
    ];
    let policy_strategy = (on_exit, proptest::option::of(1u32..4), 0u64..10).prop_map(
        |(on_exit, give_up_after, grace)| {
            let backoff = Backoff { give_up_after, ..Backoff::default() };
            Policy { backoff, grace: Duration::from_secs(grace), ..policy(on_exit) }
        },
    );
    let policies = proptest::collection::vec(policy_strategy, 1..4);
    let steps = proptest::collection::vec((0u8..16, 0u32..6, any::<u16>()), 0..200);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) };
    let mut runner = TestRunner::new(config);
    runner
        .run(&(policies, steps), |(policies, steps)| {
            run_history(&policies, &steps);
            Ok(())
        })
        .unwrap();
}
