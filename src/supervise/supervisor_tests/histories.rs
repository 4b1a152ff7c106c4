//! Whatever happens: nothing is started twice, signalled when dead, killed before
//! its grace is over, or left behind; and a shutdown ends.

use Signal::{SIGINT, SIGKILL, SIGTERM};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// A world of its own, which does what it is told and much besides.
struct World {
    bench: Bench,
    /// Whether a leader lives, and whether others of it do.
    alive: Vec<(bool, bool)>,
    /// When each was first asked to stop in this life.
    asked: Vec<Option<Instant>>,
    /// Whether it was killed in this life; it may be slow to go.
    killed: Vec<bool>,
    shutting_down: bool,
    swept: bool,
}

impl World {
    fn new(policies: &[Policy]) -> Self {
        let alive = vec![(false, false); policies.len()];
        let asked = vec![None; policies.len()];
        let killed = vec![false; policies.len()];
        let bench = Bench::new(policies);
        Self { bench, alive, asked, killed, shutting_down: false, swept: false }
    }

    /// Passes on an event, and checks what must hold for whatever follows.
    fn on(&mut self, event: Event, impatient: bool) {
        if matches!(event, Event::Asked(_) | Event::StdoutClosed) {
            self.shutting_down = true;
        }
        let answers = self.bench.all(event);
        for action in answers {
            match action {
                Action::Spawn(id) => {
                    let at = id.index as usize;
                    assert_eq!(self.alive[at], (false, false), "spawned twice");
                    assert!(!self.shutting_down, "spawned during shutdown");
                    self.alive[at] = (true, false);
                    (self.asked[at], self.killed[at]) = (None, false);
                }
                Action::Stop(id, signal) => {
                    let at = id.index as usize;
                    assert_ne!(self.alive[at], (false, false), "signalled the dead");
                    assert_eq!(id, self.bench.id(id.index), "signalled an earlier life");
                    self.killed[at] |= signal == SIGKILL;
                    let grace = self.bench.supervisor.processes[at].policy.grace;
                    match (signal == SIGKILL, self.asked[at]) {
                        (false, None) => self.asked[at] = Some(self.bench.now),
                        (false, Some(_)) => panic!("asked twice"),
                        (true, Some(since)) => {
                            let waited = self.bench.now - since;
                            assert!(impatient || waited >= grace, "no grace: {waited:?}");
                        }
                        (true, None) => panic!("killed without being asked"),
                    }
                }
                Action::StopStrays => self.shutting_down = true,
                Action::Sweep => {
                    assert!(!self.swept, "swept twice");
                    self.swept = true;
                    for (alive, killed) in self.alive.iter_mut().zip(&self.killed) {
                        let gone = *alive == (false, false);
                        assert!(gone || *killed, "swept who was not even killed");
                        *alive = (false, false);
                    }
                }
                Action::Say(_) => {}
            }
        }
    }

    fn exit(&mut self, index: u32, exit: Exit, leaving: bool) {
        let others = &mut self.alive[index as usize];
        *others = (false, leaving);
        let left = if leaving { vec![member(7)] } else { vec![] };
        self.on(Event::Exited(self.bench.id(index), exit, left), false);
    }

    fn empty(&mut self, index: u32) {
        self.alive[index as usize].1 = false;
        self.on(Event::Empty(self.bench.id(index)), false);
    }
}

/// One step of a history: what happens, to whom, and how.
type Step = (u8, u32, u16);

fn live(policies: &[Policy], steps: &[Step]) {
    let mut world = World::new(policies);
    world.on(Event::Tick, false);
    for &(what, whom, how) in steps {
        let index = whom % u32::try_from(policies.len()).unwrap();
        let (leader, others) = world.alive[index as usize];
        let exit = if how % 3 == 0 { Exit::Code(0) } else { Exit::Code(i32::from(how % 7)) };
        match what {
            0..=2 if leader => world.on(Event::Spawned(world.bench.id(index), 100), false),
            3..=5 if leader => world.exit(index, exit, how % 4 == 0),
            3..=5 if others => world.empty(index),
            6 if how % 16 == 0 => world.on(Event::Asked(SIGTERM), false),
            7 if how % 16 == 0 => world.on(Event::Asked(SIGINT), true),
            8 if world.shutting_down => {
                let left = if how % 2 == 0 { vec![member(9)] } else { vec![] };
                world.on(Event::Strays(left), false);
            }
            9 => world.on(Event::Exited(ProcessId { index, life: 0 }, exit, vec![]), false),
            _ => {
                world.bench.now += Duration::from_millis(u64::from(how) * 10);
                world.on(Event::Tick, false);
            }
        }
    }
    // Whatever happened, a shutdown ends once SIGKILL does its work.
    world.on(Event::Asked(SIGTERM), false);
    world.on(Event::Strays(vec![member(9)]), false);
    for _ in 0..1000 {
        if world.swept {
            break;
        }
        if let Some(deadline) = world.bench.supervisor.deadline() {
            world.bench.now = world.bench.now.max(deadline);
            world.on(Event::Tick, false);
        }
        for index in 0..u32::try_from(policies.len()).unwrap() {
            let killed = matches!(
                world.bench.supervisor.processes[index as usize].state,
                State::Killed { .. }
            );
            match world.alive[index as usize] {
                (true, _) if killed => world.exit(index, Exit::Signal(9), false),
                (false, true) if killed => world.empty(index),
                _ => {}
            }
        }
    }
    assert!(world.swept, "a shutdown does not end");
    assert!(world.alive.iter().all(|alive| *alive == (false, false)), "left somebody behind");
    world.on(Event::Swept(vec![]), false);
    assert!(
        world.bench.supervisor.outcome().is_some() && world.bench.supervisor.deadline().is_none()
    );
}

#[test]
fn what_must_hold_holds_in_any_history() {
    let on_exit = prop_oneof![
        Just(OnExit::StopAll),
        Just(OnExit::Restart),
        Just(OnExit::RestartOnFailure),
        Just(OnExit::Ignore),
    ];
    let one =
        (on_exit, proptest::option::of(1u32..4), 0u64..10).prop_map(|(on_exit, most, grace)| {
            let backoff = Backoff { give_up_after: most, ..Backoff::default() };
            Policy { backoff, grace: Duration::from_secs(grace), ..policy(on_exit) }
        });
    let policies = proptest::collection::vec(one, 1..4);
    let steps = proptest::collection::vec((0u8..12, 0u32..4, any::<u16>()), 0..200);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) };
    let mut runner = TestRunner::new(config);
    runner
        .run(&(policies, steps), |(policies, steps)| {
            live(&policies, &steps);
            Ok(())
        })
        .unwrap();
}
