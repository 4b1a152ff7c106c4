use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::plan::{Backoff, Stdin, env::Env};

fn policy(on_exit: OnExit) -> Policy {
    Policy { on_exit, ..Policy::default() }
}

fn plan(policies: &[Policy]) -> Plan {
    let process = |(index, policy): (usize, &Policy)| crate::plan::Process {
        name: format!("p.{index}"),
        kind: "p".into(),
        command: "run".into(),
        dir: PathBuf::from("/"),
        port: None,
        env: Env::new(),
        policy: *policy,
        stdin: Stdin::Pipe,
    };
    Plan {
        root: PathBuf::from("/"),
        procfile: "Procfile".into(),
        entries: Vec::new(),
        processes: policies.iter().enumerate().map(process).collect(),
        shell: PathBuf::from("/bin/sh"),
        env: Env::new(),
        clashes: Vec::new(),
        files_win: false,
        unlisted: Vec::new(),
    }
}

/// A supervisor, and a clock that moves only when told to.
struct Bench {
    supervisor: Supervisor,
    now: Instant,
}

/// What is done, without what is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Done {
    Spawn(u32),
    Stop(u32, Signal),
    StopStrays,
    Sweep,
}

use Done::{Spawn, Stop, StopStrays, Sweep as Swept};
use Signal::{SIGINT, SIGKILL, SIGTERM};

impl Bench {
    fn new(policies: &[Policy]) -> Self {
        Self { supervisor: Supervisor::new(&plan(policies), 1), now: Instant::now() }
    }

    /// The same, with everything up.
    fn up(policies: &[Policy]) -> Self {
        let mut bench = Self::new(policies);
        bench.on(Event::Tick);
        for index in 0..policies.len() {
            bench.spawned(u32::try_from(index).unwrap());
        }
        bench
    }

    fn all(&mut self, event: Event) -> Vec<Action> {
        self.supervisor.handle(self.now, event)
    }

    fn on(&mut self, event: Event) -> Vec<Done> {
        let done = |action| match action {
            Action::Spawn(id) => Some(Spawn(id.index)),
            Action::Stop(id, signal) => Some(Stop(id.index, signal)),
            Action::StopStrays => Some(StopStrays),
            Action::Sweep => Some(Swept),
            Action::Say(_) => None,
        };
        self.all(event).into_iter().filter_map(done).collect()
    }

    fn id(&self, index: u32) -> ProcessId {
        self.supervisor.processes[index as usize].id(index as usize)
    }

    fn spawned(&mut self, index: u32) -> Vec<Done> {
        self.on(Event::Spawned(self.id(index), 100 + i32::try_from(index).unwrap()))
    }

    fn exited(&mut self, index: u32, exit: Exit) -> Vec<Done> {
        self.on(Event::Exited(self.id(index), exit, Vec::new()))
    }

    fn leaving(&mut self, index: u32, exit: Exit) -> Vec<Done> {
        self.on(Event::Exited(self.id(index), exit, vec![member(7)]))
    }

    fn empty(&mut self, index: u32) -> Vec<Done> {
        self.on(Event::Empty(self.id(index)))
    }

    /// Lets the clock run to the next deadline at which something is done.
    fn wait(&mut self) -> Vec<Done> {
        loop {
            self.now = self.supervisor.deadline().expect("something to wait for");
            let done = self.on(Event::Tick);
            if !done.is_empty() {
                return done;
            }
        }
    }

    fn code(&self) -> Option<u8> {
        self.supervisor.outcome().map(Outcome::code)
    }
}

fn member(pid: i32) -> Member {
    Member { pid, name: "x".into() }
}

const STOP_ALL: OnExit = OnExit::StopAll;

#[test]
fn one_exit_stops_the_others_and_kills_the_stubborn() {
    let mut b = Bench::new(&[policy(STOP_ALL), policy(STOP_ALL)]);
    assert_eq!(b.on(Event::Tick), [Spawn(0), Spawn(1)]);
    b.spawned(0);
    b.spawned(1);
    assert_eq!(b.exited(0, Exit::Code(3)), [Stop(1, SIGTERM), StopStrays]);
    assert_eq!(b.on(Event::Strays(vec![])), []);
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
    assert_eq!(b.on(Event::Asked(SIGTERM)), [Stop(0, SIGTERM), StopStrays]);
    b.on(Event::Strays(vec![]));
    assert_eq!(b.exited(0, Exit::Signal(15)), [Swept]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn killed_at_the_grace_is_no_success() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::Asked(SIGTERM));
    b.on(Event::Strays(vec![]));
    assert_eq!(b.wait(), [Stop(0, SIGKILL)]);
    b.exited(0, Exit::Signal(9));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(137));
}

#[test]
fn only_a_second_interrupt_kills_at_once() {
    let mut b = Bench::up(&[policy(OnExit::Restart)]);
    assert_eq!(b.on(Event::Asked(SIGINT)), [Stop(0, SIGTERM), StopStrays]);
    b.now += Duration::from_millis(99);
    assert_eq!(b.on(Event::Asked(SIGINT)), []);
    b.now += Duration::from_millis(500);
    assert_eq!(b.on(Event::Asked(SIGTERM)), []);
    assert_eq!(b.on(Event::Asked(Signal::SIGHUP)), []);
    assert_eq!(b.on(Event::Asked(SIGINT)), [Stop(0, SIGKILL)]);
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::Asked(SIGINT)), []);
}

#[test]
fn a_stop_before_the_interrupt_does_not_count_as_one() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::Asked(SIGTERM));
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::Asked(SIGINT)), []);
    b.now += Duration::from_secs(1);
    assert_eq!(b.on(Event::Asked(SIGINT)), [Stop(0, SIGKILL)]);
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
    b.on(Event::Strays(vec![]));
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
    assert_eq!(said, [Action::Say(notice)]);
    assert_eq!(b.supervisor.deadline(), None);
    b.on(Event::Asked(SIGTERM));
    b.on(Event::Strays(vec![]));
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
    assert_eq!(b.on(Event::Strays(vec![])), [Swept]);
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
    b.on(Event::Asked(SIGTERM));
    b.on(Event::Strays(vec![]));
    b.exited(0, Exit::Signal(15));
    b.on(Event::Swept(vec![]));
    // Killing what a crash left is no failure of the stop.
    assert_eq!(b.code(), Some(0));
}

#[test]
fn strays_get_the_same_grace() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::Asked(SIGTERM));
    b.on(Event::Strays(vec![member(7)]));
    b.now += Duration::from_secs(1);
    assert_eq!(b.exited(0, Exit::Code(0)), []);
    let before = b.now;
    assert_eq!(b.wait(), [Swept]);
    assert_eq!(b.now - before, Duration::from_secs(4));
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(137));
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::Asked(SIGTERM));
    b.on(Event::Strays(vec![member(7)]));
    b.exited(0, Exit::Code(0));
    assert_eq!(b.on(Event::Strays(vec![])), [Swept]);
    b.on(Event::Swept(vec![]));
    assert_eq!(b.code(), Some(0));
}

#[test]
fn who_does_not_even_go_when_killed_is_left_and_named() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::Asked(SIGTERM));
    b.on(Event::Strays(vec![]));
    assert_eq!(b.wait(), [Stop(0, SIGKILL)]);
    assert_eq!(b.wait(), [Swept]);
    let said = b.all(Event::Swept(vec![member(100)]));
    assert_eq!(said, [Action::Say(Notice::Survivors { left: vec![member(100)] })]);
    assert_eq!(b.code(), Some(137));
}

#[test]
fn what_is_still_starting_is_stopped_too() {
    let mut b = Bench::new(&[policy(STOP_ALL), policy(STOP_ALL)]);
    b.on(Event::Tick);
    assert_eq!(b.on(Event::Asked(SIGTERM)), [Stop(0, SIGTERM), Stop(1, SIGTERM), StopStrays]);
    b.spawned(0);
    b.on(Event::Strays(vec![]));
    let errno = nix::errno::Errno::ENOENT;
    let not_started = Exit::NotStarted { step: crate::keeper::protocol::Step::Exec, errno };
    b.exited(1, not_started);
    assert_eq!(b.exited(0, Exit::Signal(15)), [Swept]);
}

#[test]
fn says_who_is_still_up() {
    let mut b = Bench::up(&[policy(STOP_ALL)]);
    b.on(Event::Asked(SIGTERM));
    b.now += REMIND_AFTER;
    let waiting = Notice::Waiting {
        names: vec!["p.0 (pid 100)".into()],
        kill_in: Some(Duration::from_secs(4)),
    };
    assert_eq!(b.all(Event::Tick), [Action::Say(waiting)]);
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
