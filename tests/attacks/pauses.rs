//! ganger, or all of the app, stands still for a while: what has happened counts
//! before a deadline does.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cleanup, MARGIN, keeper_of};
use crate::scenario::{Running, Scenario, TEST_TIMEOUT, children, tag, tagged};

/// A cgroup of its own (cgroups(7)), which can be frozen.
struct Cgroup(PathBuf);

impl Cgroup {
    /// None where no version 2 hierarchy can be written.
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = fields.find(|fields| fields[2] == "cgroup2")?[1].to_owned();
        let group = Self(PathBuf::from(mount).join(format!("ganger-{name}")));
        fs::create_dir(&group.0).ok()?;
        group.0.join("cgroup.freeze").exists().then_some(group)
    }

    fn freeze(&self, frozen: bool) {
        let digit = u8::from(frozen);
        fs::write(self.0.join("cgroup.freeze"), digit.to_string()).unwrap();
        let since = Instant::now();
        let done = format!("frozen {digit}");
        while !fs::read_to_string(self.0.join("cgroup.events")).unwrap().contains(&done) {
            assert!(since.elapsed() < TEST_TIMEOUT);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let since = Instant::now();
        while fs::remove_dir(&self.0).is_err() && since.elapsed() < MARGIN {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What stands still.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Paused {
    /// ganger alone.
    Ganger,
    /// ganger, its keeper, and all processes, by SIGSTOP.
    All,
    /// The same, by the freezer of their cgroup: none of them can notice.
    Cgroup,
}

/// An app that can be paused.
struct App {
    running: Running,
    cgroup: Option<Cgroup>,
    paused: Paused,
}

impl App {
    fn start(paused: Paused, scenario: Scenario, args: &str) -> Self {
        let cgroup = (paused == Paused::Cgroup).then(|| Cgroup::new(&tag())).flatten();
        // Where there is no freezer, signals have to do.
        let paused = if cgroup.is_none() && paused == Paused::Cgroup {
            println!("no cgroup can be frozen here: SIGSTOP instead");
            Paused::All
        } else {
            paused
        };
        let enter = cgroup.as_ref().map(|it| it.0.join("cgroup.procs").display().to_string());
        let script = format!("[ -z \"$ENTER\" ] || echo $$ > $ENTER; exec $GANGER start {args}");
        let scenario = scenario.env("ENTER", &enter.unwrap_or_default());
        Self { running: scenario.args("-c").arg(script).start(), cgroup, paused }
    }

    fn pause_for(&self, pause: Duration) {
        match (self.paused, &self.cgroup) {
            (Paused::Cgroup, Some(cgroup)) => {
                cgroup.freeze(true);
                std::thread::sleep(pause);
                cgroup.freeze(false);
            }
            (Paused::Ganger, _) => {
                self.running.signal(Signal::SIGSTOP);
                std::thread::sleep(pause);
                self.running.signal(Signal::SIGCONT);
            }
            (Paused::All | Paused::Cgroup, _) => {
                let keeper = keeper_of(self.running.pid()).unwrap();
                let mut all: Vec<Pid> = vec![self.running.pid(), keeper];
                all.extend(children(keeper));
                for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
                    for pid in &all {
                        // A process that comes and goes may have gone.
                        let _ = kill(*pid, signal);
                    }
                    if signal == Signal::SIGSTOP {
                        std::thread::sleep(pause);
                    }
                }
            }
        }
    }
}

/// Runs the same in several threads, each so many times; says how often it failed.
fn rounds(threads: usize, each: usize, round: impl Fn() + Sync) {
    let run = || {
        let holds = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(&round)).is_ok();
        (0..each).filter(|_| !holds()).count()
    };
    let failed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(failed, 0, "of {} rounds", threads * each);
}

#[test]
fn process_that_exited_in_time_during_a_pause_is_not_killed() {
    rounds(4, 5, || {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let procfile = format!("a: exec $HOSTILE count-signals 4 {tag}\n");
        let scenario = Scenario::of("sh").file("Procfile", procfile);
        let mut app = App::start(Paused::Ganger, scenario, "-t 1");
        app.running.wait_for("a.1    | up\n").signal(Signal::SIGTERM);
        app.running.wait_for("a.1    | SIGTERM from parent\n");
        app.pause_for(Duration::from_millis(1500));
        let finished = app.running.finish_within(MARGIN);
        assert!(!finished.stderr().contains("SIGKILL"), "{}", finished.stderr());
        finished.code(0);
        assert_eq!(tagged(&tag), []);
    });
}

/// The process needs 1.5 s of running time, of 3 s of grace.
fn pause_lengthens_the_grace(paused: Paused) {
    rounds(2, 2, || {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let procfile = format!("a: exec $HOSTILE count-signals 30 {tag}\n");
        let scenario = Scenario::of("sh").file("Procfile", procfile);
        let mut app = App::start(paused, scenario, "-t 3");
        app.running.wait_for("a.1    | up\n").signal(Signal::SIGTERM);
        app.running.wait_for("a.1    | SIGTERM from parent\n");
        app.pause_for(Duration::from_secs(4));
        let finished = app.running.finish_within(Duration::from_secs(3) + MARGIN).code(0);
        assert_eq!(finished.lines_of("a.1")[2..], ["signals: 1"]);
        assert_eq!(tagged(&tag), []);
    });
}

#[test]
fn grace_period_is_extended_by_a_pause_of_all_processes() {
    pause_lengthens_the_grace(Paused::All);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root and cgroups")]
fn grace_period_is_extended_by_a_frozen_cgroup() {
    pause_lengthens_the_grace(Paused::Cgroup);
}

#[test]
fn app_with_crash_loops_continues_after_a_pause() {
    let config = "[process.a]\non_exit = 'restart'\n\
                  backoff = { min = '1ms', max = '20ms', give_up_after = 1000000 }\n\
                  [process.b]\non_exit = 'restart'\n\
                  backoff = { min = '1ms', max = '20ms', give_up_after = 1000000 }\n";
    let round = |paused| {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let procfile = format!("a: exit 1\nb: false\nc: exec $HOSTILE obedient {tag}\n");
        let scenario = Scenario::of("sh").file("Procfile", procfile).file("ganger.toml", config);
        let mut app = App::start(paused, scenario, "");
        app.running.wait_for("c.1    | up\n");
        let lives = |running: &Running| running.count_in_output(" started, pid ");
        app.running.wait_until("some lives", |running| lives(running) > 20);
        app.pause_for(Duration::from_secs(6));
        let before = lives(&app.running);
        app.running.wait_until("more lives", |running| {
            assert_eq!(
                running.count_in_output("the keeper"),
                0,
                "{paused:?}: {}",
                running.output()
            );
            lives(running) > before + 20
        });
        app.running.signal(Signal::SIGTERM);
        let finished = app.running.finish_within(MARGIN);
        finished.code(0);
        assert_eq!(tagged(&tag), []);
    };
    let round = &round;
    std::thread::scope(|scope| {
        let all = [Paused::Ganger, Paused::All, Paused::Cgroup, Paused::Cgroup];
        let threads: Vec<_> = all.map(|paused| scope.spawn(move || round(paused))).into();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
