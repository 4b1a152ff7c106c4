//! Seeded rounds: programs that try to escape, crossed with every way in which ganger may end. No
//! descendant survives, no other process is killed, and the exit code is true.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attacks::{Bystander, Cleanup, keeper_of, kill_both, session_marker_of, start_next};
use crate::random::Random;
use crate::scenario::{Running, Scenario, is_alive, tag, tagged, tagged_as};

const ROUNDS: u64 = 200;
const THREADS: usize = 8;

/// What SIGTERM and SIGCONT do to a program and its descendants.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Obedience {
    /// They end.
    Ends,
    /// Whether they end depends on the scheduler.
    MayEnd,
    /// They have to be killed.
    Ignores,
}

use Obedience::{Ends, Ignores, MayEnd};

/// How a program leaves its parent, and whether SIGTERM still ends it.
const WRAPPERS: [(&str, Obedience); 13] = [
    ("daemonize stay", Ends),
    ("daemonize stay", Ends),
    ("cleared", Ends),
    ("session", Ends),
    ("regroup", Ends),
    ("subreaper", Ends),
    ("sibling", Ends),
    ("threaded", Ends),
    ("leaderless-parent", Ends),
    ("traced", MayEnd),
    ("traced-leader", MayEnd),
    ("userns", Ends),
    // The first process of a PID namespace gets no signal from outside without a handler.
    ("pidns", Ignores),
];

/// The program that a chain of wrappers executes last.
const PROGRAMS: [(&str, Obedience); 5] = [
    ("obedient", Ends),
    ("leaderless obedient", Ends),
    ("suspended", Ends),
    ("leaderless stubborn", Ignores),
    ("stubborn", Ignores),
];

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Attack {
    Int,
    Term,
    KillGanger,
    KillKeeper,
    /// SIGKILL of both, and then the next start.
    KillBoth,
    /// SIGSTOP and SIGCONT of ganger, its keeper or both, and SIGTERM.
    Pause,
    /// SIGWINCH repeatedly, and SIGINT.
    Resize,
}

const ATTACKS: [Attack; 7] = [
    Attack::Int,
    Attack::Term,
    Attack::KillGanger,
    Attack::KillKeeper,
    Attack::KillBoth,
    Attack::Pause,
    Attack::Resize,
];

/// When the attack begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    /// While processes start.
    Early,
    /// When all are up.
    Up,
}

struct Round {
    seed: u64,
    attack: Attack,
    moment: Moment,
    chains: Vec<String>,
    obedience: Obedience,
}

impl Round {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let attack = ATTACKS[usize::try_from(seed).unwrap() % ATTACKS.len()];
        // Before all processes are up, it is not known which orphans are left.
        let early = attack != Attack::KillBoth && random.below(4) == 0;
        let mut round = Self {
            seed,
            attack,
            moment: if early { Moment::Early } else { Moment::Up },
            chains: Vec::new(),
            obedience: Ends,
        };
        for _ in 0..=random.below(2) {
            let chain = round.chain(&mut random);
            round.chains.push(chain);
        }
        round
    }

    /// Up to four wrappers, and a program.
    fn chain(&mut self, random: &mut Random) -> String {
        let mut pick = |count: usize| usize::try_from(random.below(count as u64)).unwrap();
        let mut words: Vec<&str> = Vec::new();
        for _ in 0..pick(5) {
            let (wrapper, obedience) = WRAPPERS[pick(WRAPPERS.len())];
            // The next start does not find a process without a valid session marker and without a
            // parent. See docs/guarantees.md.
            if self.attack == Attack::KillBoth && matches!(wrapper, "cleared" | "pidns") {
                continue;
            }
            // A process can have only one tracer.
            if is_tracing(wrapper) && words.iter().any(|word| is_tracing(word)) {
                continue;
            }
            words.push(wrapper);
            self.obedience = self.obedience.max(obedience);
        }
        let (program, obedience) = PROGRAMS[pick(PROGRAMS.len())];
        words.push(program);
        self.obedience = self.obedience.max(obedience);
        words.join(" ")
    }

    /// The exit codes that ganger may return after a stop signal.
    fn codes(&self) -> &'static [i32] {
        match (self.moment, self.obedience) {
            (Moment::Up, Ends) => &[0],
            (Moment::Up, Ignores) => &[137],
            (Moment::Early, _) | (Moment::Up, MayEnd) => &[0, 137],
        }
    }

    fn run(&self) {
        let (tag, job) = (tag(), tag());
        let lines = self.chains.iter().enumerate();
        let lines = lines.map(|(at, chain)| format!("p{at}: exec $HOSTILE {chain} {tag}\n"));
        // The grace period is short if a process has to be killed, and long if none has.
        let grace = if self.obedience == Ends { "60" } else { "0.5" };
        let script = format!(
            "$HOSTILE leaf {job} </dev/null >/dev/null 2>&1 & exec $GANGER start -t {grace}"
        );
        let scenario = Scenario::of("sh").file("Procfile", lines.collect::<String>());
        let mut running = scenario.args("-c").arg(script).start();
        let _cleanup = (Cleanup(&job), Cleanup(&tag));
        running.wait_until("ganger", |running| {
            keeper_of(running.pid()).is_some() && tagged_as("leaf", &job).len() == 1
        });
        let mut random = Random(self.seed ^ 0xa77a_c4ed);
        match self.moment {
            Moment::Early => {
                std::thread::sleep(Duration::from_micros(random.below(20_000)));
            }
            Moment::Up => {
                running.wait_until("all programs", |running| {
                    let started =
                        running.count_in_output("| up\n") + running.count_in_output("| stubborn\n");
                    started == self.chains.len()
                });
            }
        }
        self.attack(&mut running, &mut random);
        wait_until_gone_within(&tag, Duration::from_secs(20));
        assert_eq!(tagged(&job).len(), 1, "the job of the calling script was killed");
    }

    fn attack(&self, running: &mut Running, random: &mut Random) {
        let (ganger, keeper) = (running.pid(), keeper_of(running.pid()).unwrap());
        match self.attack {
            Attack::Int => self.stop(running, Signal::SIGINT),
            Attack::Term => self.stop(running, Signal::SIGTERM),
            Attack::KillGanger => {
                running.signal(Signal::SIGKILL);
                running.wait();
                running.wait_until("the keeper's exit", |_| !is_alive(keeper));
            }
            Attack::KillKeeper => {
                kill(keeper, Signal::SIGKILL).unwrap();
                let code = running.wait().code();
                assert!(code.is_some_and(|code| code > 0), "{code:?} after the keeper's death");
            }
            Attack::KillBoth => {
                let mut bystander = Bystander::with("GANGER_SESSION", &session_marker_of(ganger));
                kill_both(running);
                start_next(running.folder());
                assert!(bystander.is_alive(), "a process that inherited the mark");
            }
            Attack::Pause => {
                let victims = [vec![ganger], vec![keeper], vec![ganger, keeper]];
                let victims = &victims[usize::try_from(random.below(3)).unwrap()];
                for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
                    for pid in victims {
                        kill(*pid, signal).unwrap();
                    }
                    std::thread::sleep(Duration::from_micros(random.below(50_000)));
                }
                self.stop(running, Signal::SIGTERM);
            }
            Attack::Resize => {
                for _ in 0..100 {
                    running.signal(Signal::SIGWINCH);
                    std::thread::sleep(Duration::from_micros(500));
                }
                self.stop(running, Signal::SIGINT);
            }
        }
    }

    fn stop(&self, running: &mut Running, signal: Signal) {
        running.signal(signal);
        let status = running.wait();
        // A signal may arrive before ganger, which still starts, has a handler for it.
        let early = self.moment == Moment::Early && status.code().is_none();
        let is_true = status.code().is_some_and(|code| self.codes().contains(&code));
        assert!(early || is_true, "{status:?} instead of {:?}\n{}", self.codes(), running.output());
    }
}

fn is_tracing(word: &str) -> bool {
    word.starts_with("traced")
}

fn wait_until_gone_within(tag: &str, limit: Duration) {
    let since = Instant::now();
    loop {
        let left = tagged(tag);
        if left.is_empty() {
            return;
        }
        if since.elapsed() > limit {
            let line = |pid: &Pid| crate::scenario::command_line(*pid);
            let lines: Vec<_> = left.iter().map(line).collect();
            let lines = lines.iter().map(|line| String::from_utf8_lossy(line).replace('\0', " "));
            let lines: Vec<_> = lines.collect();
            panic!("still there after {limit:?}: {lines:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn no_escape_program_survives_ganger() {
    let next = AtomicU64::new(0);
    let since = Instant::now();
    let work = || {
        let mut failed = Vec::new();
        let mut run = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= ROUNDS {
                return (run, failed);
            }
            let round = Round::new(seed);
            run += 1;
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| round.run()));
            if result.is_err() {
                println!("round {seed} failed");
                let Round { seed, attack, moment, chains, obedience } = round;
                failed.push(format!("{seed}: {attack:?} {moment:?} {obedience:?} {chains:?}"));
            }
        }
    };
    let (mut run, mut failed) = (0, Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let (more, mut of_thread) = thread.join().unwrap();
            run += more;
            failed.append(&mut of_thread);
        }
    });
    println!("{run} rounds in {:?}", since.elapsed());
    assert!(failed.is_empty(), "{} of {run} rounds:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn rounds_cover_every_attack_and_every_way_to_escape() {
    let mut counts = BTreeMap::new();
    for round in (0..ROUNDS).map(Round::new) {
        *counts.entry(format!("{:?}", round.attack)).or_insert(0) += 1;
        let words: Vec<&str> = round.chains.iter().flat_map(|chain| chain.split(' ')).collect();
        let ways = WRAPPERS.iter().chain(&PROGRAMS).map(|(way, _)| way.split(' ').next().unwrap());
        for way in ways.collect::<std::collections::BTreeSet<_>>() {
            *counts.entry(way.to_owned()).or_insert(0) += usize::from(words.contains(&way));
        }
    }
    println!("{counts:?}");
    assert!(counts.values().all(|count| *count >= 10), "{counts:?}");
}
