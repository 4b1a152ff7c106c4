//! Kills at random moments of start, run and shutdown: nobody is left.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chance::Chance;
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
    /// Neither is there to clean up: the next start does.
    Both,
    /// Not killed, but stopped for a while.
    Stopped,
}

fn moment(chance: &mut Chance, micros: u64) -> Duration {
    Duration::from_micros(chance.below(micros))
}

/// What one schedule hit.
fn once(phase: Phase, victim: Victim, chance: &mut Chance) -> Option<(Phase, Victim)> {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE marked {tag}\nb: exec $HOSTILE stubborn {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -m a=2 -t 0.05").start();
    match phase {
        Phase::Start => std::thread::sleep(moment(chance, 6000)),
        Phase::Run | Phase::Shutdown => {
            running.wait_until("nine", |running| {
                running.said_times("grown\n") == 2 && running.said_times("stubborn\n") == 1
            });
        }
    }
    match phase {
        Phase::Start => {}
        Phase::Run => std::thread::sleep(moment(chance, 3000)),
        Phase::Shutdown => {
            running.signal(Signal::SIGTERM);
            std::thread::sleep(moment(chance, 70_000));
        }
    }
    let hit = strike(&mut running, victim).map(|()| (phase, victim));
    running.wait();
    let keeper_is_gone = |running: &Running| {
        // ganger's end comes before its keeper's only where it was killed.
        keepers(running.folder()).iter().all(|keeper| !is_alive(*keeper))
    };
    running.wait_until("the keeper's end", keeper_is_gone);
    if victim == Victim::Both {
        let runtime = running.folder().to_str().unwrap().to_owned();
        let next = Scenario::procfile("a: true\n").env("XDG_RUNTIME_DIR", &runtime);
        next.args("start").run().code(0);
        assert_eq!(tagged(&tag), [], "{phase:?} {victim:?}");
    }
    running.wait_until("nobody", |_| tagged(&tag).is_empty());
    hit
}

/// Kills, or stops; nothing if whoever it is isn't there at that moment.
fn strike(running: &mut Running, victim: Victim) -> Option<()> {
    let ganger = running.pid();
    let keeper = running.keeper_if_any();
    if running.child.try_wait().unwrap().is_some() {
        return None;
    }
    match victim {
        Victim::Ganger => kill(ganger, Signal::SIGKILL).ok()?,
        Victim::Keeper => {
            // Without its keeper, or before it has one, ganger goes as well.
            match keeper {
                Some(keeper) => kill(keeper, Signal::SIGKILL).ok()?,
                None => {
                    running.signal(Signal::SIGKILL);
                    return None;
                }
            }
        }
        Victim::Both => {
            let traced = !keepers(running.folder()).is_empty();
            let Some(keeper) = keeper.filter(|_| traced) else {
                running.signal(Signal::SIGKILL);
                return None;
            };
            for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
                for pid in [keeper, ganger] {
                    kill(pid, signal).ok()?;
                }
            }
        }
        Victim::Stopped => {
            kill(ganger, Signal::SIGSTOP).ok()?;
            std::thread::sleep(Duration::from_millis(3));
            kill(ganger, Signal::SIGCONT).ok()?;
            // Nobody told it to end.
            running.signal(Signal::SIGTERM);
        }
    }
    Some(())
}

/// The keepers that have left a trace in this folder.
fn keepers(folder: &std::path::Path) -> Vec<Pid> {
    let traces = std::fs::read_dir(folder.join("ganger")).into_iter().flatten().flatten();
    let keeper = |trace: std::fs::DirEntry| {
        let name = trace.file_name().to_string_lossy().into_owned();
        name.rsplit('_').next()?.split('-').next()?.parse().ok().map(Pid::from_raw)
    };
    traces.filter_map(keeper).collect()
}

#[test]
fn at_any_moment_leave_nobody() {
    let phases = [Phase::Start, Phase::Run, Phase::Shutdown];
    let victims = [Victim::Ganger, Victim::Keeper, Victim::Both, Victim::Stopped];
    let mut chance = Chance(20);
    let mut hits = std::collections::BTreeMap::new();
    for _ in 0..25 {
        for phase in phases {
            for victim in victims {
                if let Some(hit) = once(phase, victim, &mut chance) {
                    *hits.entry(hit).or_insert(0) += 1;
                }
            }
        }
    }
    println!("{hits:?}");
    for phase in phases {
        for victim in victims {
            assert!(hits.get(&(phase, victim)).is_some_and(|hits| *hits > 3), "{hits:?}");
        }
    }
}
