//! Whatever happens: nothing is started twice, signalled when dead, killed before
//! its grace is over, or left behind; what a plan doesn't change goes on; and a
//! shutdown ends.

use std::collections::BTreeMap;

use Signal::{SIGINT, SIGKILL, SIGTERM};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// What the world knows of one process.
#[derive(Default)]
struct Being {
    name: String,
    /// Whether the process that was started lives, and whether others of it do.
    leader: bool,
    others: bool,
    /// When it was first asked to stop in this life.
    asked: Option<Instant>,
    /// Whether it was killed in this life; it may be slow to go.
    killed: bool,
}

impl Being {
    fn is_gone(&self) -> bool {
        !self.leader && !self.others
    }
}

/// A world of its own, which does what it is told and much besides.
struct World {
    bench: Bench,
    plan: Vec<Arc<plan::ProcessPlan>>,
    beings: BTreeMap<u32, Being>,
    shutting_down: bool,
    swept: bool,
}

impl World {
    fn new(policies: &[Policy]) -> Self {
        let bench = Bench::new(policies);
        let plan = plan(policies).processes;
        Self { bench, plan, beings: BTreeMap::new(), shutting_down: false, swept: false }
    }

    fn being(&mut self, index: u32) -> &mut Being {
        self.beings.get_mut(&index).expect("a process that was started")
    }

    fn known(&self, index: u32) -> Option<&Process> {
        self.bench.supervisor.processes.iter().find(|process| process.id().index == index)
    }

    /// Passes on an event, and checks what follows from it.
    fn on(&mut self, event: Event, impatient: bool) -> Vec<Action> {
        if matches!(event, Event::StopSignal(_) | Event::StdoutClosed) {
            self.shutting_down = true;
        }
        let actions = self.bench.all(event);
        self.check(actions, impatient)
    }

    /// Checks what must hold for the actions that follow from anything.
    fn check(&mut self, actions: Vec<Action>, impatient: bool) -> Vec<Action> {
        for action in &actions {
            match action {
                Action::Spawn(id, process) => self.on_spawn(*id, &process.name),
                Action::Stop(id, signal) => self.on_stop(*id, *signal, impatient),
                Action::StopDescendants(id, _) => self.on_stop_descendants(*id),
                Action::StopOrphans => self.shutting_down = true,
                Action::Sweep => {
                    assert!(!self.swept, "swept twice");
                    self.swept = true;
                    for being in self.beings.values_mut() {
                        assert!(
                            being.is_gone() || being.killed,
                            "a process was swept before it was killed"
                        );
                        (being.leader, being.others) = (false, false);
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
        let namesakes = self.beings.values().filter(|being| being.name == name);
        assert!(namesakes.into_iter().all(Being::is_gone), "two of one name");
        let being = Being { name: name.to_owned(), leader: true, ..Being::default() };
        self.beings.insert(id.index, being);
    }

    fn on_stop(&mut self, id: ProcessId, signal: Signal, impatient: bool) {
        let now = self.bench.now;
        let known = self.known(id.index).expect("one that is supervised");
        assert_eq!(id, known.id(), "signalled an earlier life");
        // A plan may have changed it meanwhile, and it is killed by the old.
        let grace = known.policy().grace.min(Duration::from_secs(1));
        let being = self.being(id.index);
        assert!(!being.is_gone(), "signalled the dead");
        being.killed |= signal == SIGKILL;
        match (signal == SIGKILL, being.asked) {
            (false, None) => being.asked = Some(now),
            (false, Some(_)) => panic!("asked twice"),
            (true, Some(since)) => {
                assert!(impatient || now - since >= grace, "no grace: {:?}", now - since);
            }
            (true, None) => panic!("killed without being asked"),
        }
    }

    fn on_stop_descendants(&mut self, id: ProcessId) {
        let now = self.bench.now;
        let being = self.being(id.index);
        assert!(!being.is_gone() && !being.killed, "signalled the dead");
        assert!(being.asked.is_some_and(|since| since < now), "before its group");
    }

    fn exit(&mut self, index: u32, exit: Exit, leaving: bool) {
        let Some(id) = self.known(index).map(Process::id) else { return };
        let being = self.being(index);
        (being.leader, being.others) = (false, leaving);
        let left = if leaving { vec![member(7)] } else { vec![] };
        self.on(Event::Exited(id, exit, left), false);
    }

    fn empty(&mut self, index: u32) {
        let Some(id) = self.known(index).map(Process::id) else { return };
        self.being(index).others = false;
        self.on(Event::GroupEmpty(id), false);
    }

    /// A plan with `count` processes, of which the one at `changed` runs otherwise.
    fn plan(&mut self, count: usize, changed: usize, policies: &[Policy]) {
        let before = self.plan.clone();
        let plan: Vec<_> = (0..count)
            .map(|index| match before.get(index) {
                Some(process) if index != changed => Arc::clone(process),
                Some(process) => {
                    let command = format!("{}!", process.command);
                    super::process(index, &command, policies[index % policies.len()])
                }
                None => super::process(index, "run", policies[index % policies.len()]),
            })
            .collect();
        self.plan.clone_from(&plan);
        let mode =
            if changed.is_multiple_of(2) { RestartMode::AtOnce } else { RestartMode::Rolling };
        let status: Vec<Status> = self.bench.supervisor.status().collect();
        let pending = status.iter().filter(|status| status.restart_pending);
        let pending: Vec<u32> = pending.map(|status| status.id.index).collect();
        let expected = if self.bench.supervisor.is_ending() {
            Changes::default()
        } else {
            differences(&status, &plan)
        };
        let (done, actions) = self.bench.apply_plan(plan.clone(), mode);
        assert_eq!(done, expected, "not what was done");
        let actions = self.check(actions, false);
        let as_before = |name: &str| {
            let of = |plan: &[Arc<plan::ProcessPlan>]| {
                plan.iter().find(|process| process.name == name).cloned()
            };
            of(&plan).is_some() && of(&plan) == of(&before)
        };
        for action in actions {
            // The time of one that was asked earlier may have come, or its turn.
            if let Action::Stop(id, signal) = action
                && signal != SIGKILL
                && !pending.contains(&id.index)
            {
                assert!(!as_before(&self.being(id.index).name), "stopped one that did not change");
            }
        }
    }

    /// Lets everything that was asked to end do so, and checks that what is
    /// wanted is what is.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let waiting =
                self.beings.iter().find(|(_, being)| being.asked.is_some() && !being.is_gone());
            let Some((&index, being)) = waiting else { break };
            if being.leader {
                self.exit(index, Exit::Signal(15), false);
            } else {
                self.empty(index);
            }
        }
        let names: Vec<&str> = self.plan.iter().map(|process| process.name.as_str()).collect();
        let known: Vec<&str> = self.bench.supervisor.processes.iter().map(Process::name).collect();
        assert_eq!(known, names, "not those of the plan, in its order");
        for process in &self.bench.supervisor.processes {
            let is_up = self.beings.get(&process.id().index).is_some_and(|being| being.leader);
            let pausing = matches!(process.state, State::Backoff { .. });
            assert_eq!(is_up || pausing, process.want == Want::Up, "{}", process.name());
        }
    }
}

/// What a plan changes, from the states before it.
fn differences(before: &[Status], plan: &[Arc<plan::ProcessPlan>]) -> Changes {
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
    let is_left = |name: &String| plan.iter().any(|process| process.name == *name);
    changes.stopped = names.filter(|name| is_planned(name) && !is_left(name)).collect();
    changes
}

/// One step of a history: what happens, to whom, and how.
type Step = (u8, u32, u16);

fn live(policies: &[Policy], steps: &[Step]) {
    let mut world = World::new(policies);
    world.on(Event::Tick, false);
    for &(what, whom, how) in steps {
        let all: Vec<u32> = world.beings.keys().copied().collect();
        let index = all.get(whom as usize % all.len().max(1)).copied().unwrap_or_default();
        let (leader, others) =
            world.beings.get(&index).map_or((false, false), |being| (being.leader, being.others));
        let exit = if how % 3 == 0 { Exit::Code(0) } else { Exit::Code(i32::from(how % 7)) };
        let id = world.known(index).map(Process::id);
        match (what, id) {
            (0..=2, Some(id)) if leader => drop(world.on(Event::Spawned(id, 100), false)),
            (3..=5, _) if leader => world.exit(index, exit, how % 4 == 0),
            (3..=5, _) if others => world.empty(index),
            (6, _) if how % 64 == 0 => drop(world.on(Event::StopSignal(SIGTERM), false)),
            (7, _) if how % 64 == 0 => drop(world.on(Event::StopSignal(SIGINT), true)),
            (8, _) if world.shutting_down => {
                let left = if how % 2 == 0 { vec![member(9)] } else { vec![] };
                world.on(Event::Orphans(left), false);
            }
            (9, _) => {
                world.on(Event::Exited(ProcessId { index, life: 0 }, exit, vec![]), false);
            }
            (10..=11, _) => {
                world.plan(usize::from(how % 5), usize::from(how / 5 % 8), policies);
                if how % 2 == 0 && !world.shutting_down {
                    world.settle();
                }
            }
            (14, Some(_)) if !world.shutting_down => {
                let known = world.bench.supervisor.processes.iter().map(Process::id);
                let ids: Vec<ProcessId> = known.skip(usize::from(how % 3)).collect();
                let (now, supervisor) = (world.bench.now, &mut world.bench.supervisor);
                let (_, actions) = match how % 5 {
                    0 => supervisor.stop(now, &ids),
                    1 | 2 => supervisor.restart(now, &ids, RestartMode::AtOnce),
                    _ => supervisor.restart(now, &ids, RestartMode::Rolling),
                };
                world.check(actions, false);
                world.settle();
            }
            // A clock that jumps: this machine slept, or it was set.
            (12, _) => {
                world.bench.now += Duration::from_hours(1);
                world.on(Event::Tick, false);
            }
            (13, _) => {
                let back = Duration::from_millis(u64::from(how));
                world.bench.now = world.bench.now.checked_sub(back).unwrap_or(world.bench.now);
                world.on(Event::Tick, false);
            }
            _ => {
                world.bench.now += Duration::from_millis(u64::from(how) * 10);
                world.on(Event::Tick, false);
            }
        }
    }
    end(&mut world);
}

/// Whatever happened, a shutdown ends once SIGKILL does its work.
fn end(world: &mut World) {
    world.on(Event::StopSignal(SIGTERM), false);
    world.on(Event::Orphans(vec![member(9)]), false);
    for _ in 0..1000 {
        if world.swept {
            break;
        }
        if let Some(deadline) = world.bench.supervisor.deadline() {
            world.bench.now = world.bench.now.max(deadline);
            world.on(Event::Tick, false);
        }
        let all: Vec<u32> = world.beings.keys().copied().collect();
        for index in all {
            let known = world.known(index);
            let killed = known.is_some_and(|it| matches!(it.state, State::Killed { .. }));
            let being = world.being(index);
            match (being.leader, being.others) {
                (true, _) if killed => world.exit(index, Exit::Signal(9), false),
                (false, true) if killed => world.empty(index),
                _ => {}
            }
        }
    }
    assert!(world.swept, "a shutdown does not end");
    assert!(world.beings.values().all(Being::is_gone), "a process was left behind");
    world.on(Event::Swept(vec![]), false);
    assert!(
        world.bench.supervisor.outcome().is_some() && world.bench.supervisor.deadline().is_none()
    );
}

#[test]
fn what_must_hold_holds_in_any_history() {
    let on_exit = prop_oneof![
        1 => Just(OnExit::StopAll),
        9 => Just(OnExit::Restart),
        9 => Just(OnExit::RestartOnFailure),
        9 => Just(OnExit::Ignore),
    ];
    let one =
        (on_exit, proptest::option::of(1u32..4), 0u64..10).prop_map(|(on_exit, most, grace)| {
            let backoff = Backoff { give_up_after: most, ..Backoff::default() };
            Policy { backoff, grace: Duration::from_secs(grace), ..policy(on_exit) }
        });
    let policies = proptest::collection::vec(one, 1..4);
    let steps = proptest::collection::vec((0u8..16, 0u32..6, any::<u16>()), 0..200);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) };
    let mut runner = TestRunner::new(config);
    runner
        .run(&(policies, steps), |(policies, steps)| {
            live(&policies, &steps);
            Ok(())
        })
        .unwrap();
}
