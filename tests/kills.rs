//! SIGKILL and SIGSTOP at random moments of start, run and stop: no process survives.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::random::Random;
use crate::scenario::{Running, Scenario, is_alive, tag, tagged};

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    Start,
    Run,
    Shutdown,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Victim {
    Ganger,
    Keeper,
    Both,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Fate {
    /// If both are killed, the next start cleans up.
    Killed,
    /// Suspended for a moment. Then ganger gets SIGTERM.
    Stopped,
    /// Suspended for ever.
    Frozen,
}

type Strike = (Phase, Victim, Fate);

fn moment(random: &mut Random, micros: u64) -> Duration {
    Duration::from_micros(random.below(micros))
}

/// How long a start takes on an idle machine, in microseconds.
const START: u64 = 6000;

/// Runs one schedule, and returns it if the processes existed at that moment. A strike at the start
/// comes within `start` microseconds.
fn once(strike: Strike, start: u64, random: &mut Random) -> Option<Strike> {
    let (phase, victim, fate) = strike;
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE marked {tag}\nb: exec $HOSTILE stubborn {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -m a=2 -t 0.05").start();
    match phase {
        Phase::Start => std::thread::sleep(moment(random, start)),
        Phase::Run | Phase::Shutdown => {
            running.wait_until("three processes", |running| {
                running.count_in_output("grown\n") == 2
                    && running.count_in_output("stubborn\n") == 1
            });
        }
    }
    match phase {
        Phase::Start => {}
        Phase::Run => std::thread::sleep(moment(random, 3000)),
        Phase::Shutdown => {
            running.signal(Signal::SIGTERM);
            std::thread::sleep(moment(random, 70_000));
        }
    }
    let hit = hit(&mut running, victim, fate).map(|()| strike);
    running.wait();
    let keeper_is_gone = |running: &Running| {
        // ganger exits before its keeper only if it was killed.
        keepers(running.folder()).iter().all(|keeper| !is_alive(*keeper))
    };
    running.wait_until("the keeper's exit", keeper_is_gone);
    if (victim, fate) == (Victim::Both, Fate::Killed) {
        let next = Scenario::procfile("a: true\n").beside(running.folder());
        next.args("start").run().code(0);
        assert_eq!(tagged(&tag), [], "{strike:?}");
    }
    running.wait_until("no process", |_| tagged(&tag).is_empty());
    hit
}

/// Kills or suspends a process, if it exists at that moment.
fn hit(running: &mut Running, victim: Victim, fate: Fate) -> Option<()> {
    let ganger = running.pid();
    let keeper = running.keeper_if_any();
    if running.child.try_wait().unwrap().is_some() {
        return None;
    }
    let traced = !keepers(running.folder()).is_empty();
    let victims = match (victim, keeper) {
        (Victim::Ganger, _) => vec![ganger],
        (Victim::Keeper, Some(keeper)) => vec![keeper],
        (Victim::Both, Some(keeper)) if traced || fate != Fate::Killed => vec![keeper, ganger],
        // If ganger has no keeper, it is killed itself.
        (Victim::Keeper | Victim::Both, _) => {
            running.signal(Signal::SIGKILL);
            return None;
        }
    };
    // Each process gets it, even if the other has exited.
    let send = |signal| {
        let sent: Vec<bool> = victims.iter().map(|pid| kill(*pid, signal).is_ok()).collect();
        sent.iter().all(|sent| *sent)
    };
    if !send(Signal::SIGSTOP) {
        send(Signal::SIGCONT);
        return None;
    }
    match fate {
        Fate::Killed => drop(send(Signal::SIGKILL)),
        Fate::Stopped => {
            std::thread::sleep(Duration::from_millis(3));
            // The keeper may have exited already, and ganger may be about to exit.
            send(Signal::SIGCONT);
            // ganger has got no stop signal yet.
            running.signal(Signal::SIGTERM);
        }
        Fate::Frozen => {}
    }
    Some(())
}

/// The keepers with a session marker in this folder.
fn keepers(folder: &std::path::Path) -> Vec<Pid> {
    let traces = std::fs::read_dir(folder.join("ganger")).into_iter().flatten().flatten();
    let keeper = |trace: std::fs::DirEntry| {
        let name = trace.file_name().to_string_lossy().into_owned();
        name.rsplit('_').next()?.split('-').next()?.parse().ok().map(Pid::from_raw)
    };
    traces.filter_map(keeper).collect()
}

const PHASES: [Phase; 3] = [Phase::Start, Phase::Run, Phase::Shutdown];

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn no_process_survives_sigkill_at_any_moment() {
    let mut random = Random(20);
    let mut hits = BTreeMap::new();
    for round in 0..100 {
        for strike in strikes() {
            // On a busy machine a start takes longer, and more rounds hit its moments.
            let is_rare = hits.get(&strike).is_none_or(|hits| *hits <= 3);
            if round >= 25 && !is_rare {
                continue;
            }
            if let Some(hit) = once(strike, START << (round / 25), &mut random) {
                *hits.entry(hit).or_insert(0) += 1;
            }
        }
    }
    println!("{hits:?}");
    for strike in strikes() {
        assert!(hits.get(&strike).is_some_and(|hits| *hits > 3), "{hits:?}");
    }
}

fn strikes() -> impl Iterator<Item = Strike> {
    let victims = [Victim::Ganger, Victim::Keeper, Victim::Both];
    let fates = [Fate::Killed, Fate::Stopped];
    let both = victims.into_iter().flat_map(move |victim| fates.map(|fate| (victim, fate)));
    both.flat_map(|(victim, fate)| PHASES.map(|phase| (phase, victim, fate)))
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn no_process_survives_a_keeper_frozen_at_any_moment() {
    // Each round takes as long as the timeout of ganger for its keeper.
    let one = |(phase, seed)| {
        let mut random = Random(seed);
        // Sometimes there is no process yet.
        (0..100).find_map(|_| once((phase, Victim::Keeper, Fate::Frozen), START, &mut random))
    };
    let schedules = PHASES.into_iter().flat_map(|phase| (0..4).map(move |seed| (phase, seed)));
    let hits = std::thread::scope(|scope| {
        let all: Vec<_> = schedules.map(|it| scope.spawn(move || one(it))).collect();
        all.into_iter().filter_map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    let hits_of = |phase| hits.iter().filter(|hit| hit.0 == phase).count();
    assert_eq!(PHASES.map(hits_of), [4; 3]);
}
