//! ganger, or the whole app, is paused for a while: ganger handles what happened meanwhile before
//! it acts on a deadline.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cleanup, MARGIN, keeper_of};
use crate::scenario::{Running, Scenario, children, tag, tagged, wait_until};

/// A new cgroup (cgroups(7)), which can be frozen.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = fields.find(|fields| fields[2] == "cgroup2");
        let mount = mount.expect("a mounted cgroup2 hierarchy (cgroups(7))")[1];
        let group = Self(PathBuf::from(mount).join(format!("ganger-{}", tag())));
        fs::create_dir(&group.0).expect("a cgroup2 hierarchy that can be written");
        assert!(group.0.join("cgroup.freeze").exists(), "no freezer: Linux 5.2 or later has it");
        group
    }

    fn freeze(&self, frozen: bool) {
        let digit = u8::from(frozen);
        fs::write(self.0.join("cgroup.freeze"), digit.to_string()).unwrap();
        let done = format!("frozen {digit}");
        let events = || fs::read_to_string(self.0.join("cgroup.events")).unwrap();
        wait_until(&done, || events().contains(&done));
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

/// What is paused, and how.
enum Pause {
    /// ganger, by SIGSTOP.
    Ganger,
    /// ganger, its keeper and all processes, by SIGSTOP.
    All,
    /// ganger, its keeper and all processes, by the freezer of their cgroup: no process can notice.
    Freeze(Cgroup),
}

/// An app that can be paused.
struct App {
    running: Running,
    pause: Pause,
}

impl App {
    fn start(pause: Pause, scenario: Scenario, args: &str) -> Self {
        let enter = match &pause {
            Pause::Freeze(cgroup) => format!("echo $$ > {}/cgroup.procs && ", cgroup.0.display()),
            Pause::Ganger | Pause::All => String::new(),
        };
        let script = format!("{enter}exec $GANGER start {args}");
        Self { running: scenario.args("-c").arg(script).start(), pause }
    }

    fn pause_for(&self, duration: Duration) {
        let ganger = self.running.pid();
        match &self.pause {
            Pause::Freeze(cgroup) => {
                cgroup.freeze(true);
                std::thread::sleep(duration);
                cgroup.freeze(false);
            }
            Pause::Ganger => suspend_for(duration, &[ganger]),
            Pause::All => {
                let keeper = keeper_of(ganger).unwrap();
                let mut all = vec![ganger, keeper];
                all.extend(children(keeper));
                suspend_for(duration, &all);
            }
        }
    }
}

fn suspend_for(duration: Duration, pids: &[Pid]) {
    let send = |signal| {
        for pid in pids {
            // A process that crashes and restarts may be gone.
            let _ = kill(*pid, signal);
        }
    };
    send(Signal::SIGSTOP);
    std::thread::sleep(duration);
    send(Signal::SIGCONT);
}

/// Runs `round` in several threads, `each` times in each of them, and fails if any round failed.
fn rounds(threads: usize, each: usize, round: impl Fn() + Sync) {
    let run = || {
        let passes = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(&round)).is_ok();
        (0..each).filter(|_| !passes()).count()
    };
    let failed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(failed, 0, "failed of {} rounds", threads * each);
}

#[test]
fn process_that_exited_in_time_during_a_pause_is_not_killed() {
    rounds(4, 5, || {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let procfile = format!("a: exec $HOSTILE count-signals 4 {tag}\n");
        let scenario = Scenario::of("sh").file("Procfile", procfile);
        let mut app = App::start(Pause::Ganger, scenario, "-t 1");
        app.running.wait_for("a.1    | up\n").signal(Signal::SIGTERM);
        app.running.wait_for("a.1    | SIGTERM from parent\n");
        app.pause_for(Duration::from_millis(1500));
        let finished = app.running.finish_within(MARGIN);
        assert!(!finished.stderr().contains("SIGKILL"), "{}", finished.stderr());
        finished.code(0);
        assert_eq!(tagged(&tag), []);
    });
}

/// The process needs 1.5 s of running time, within a grace period of 3 s. The pause lasts longer.
fn grace_period_is_extended_by(pause: impl Fn() -> Pause + Sync) {
    rounds(2, 2, || {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let procfile = format!("a: exec $HOSTILE count-signals 30 {tag}\n");
        let scenario = Scenario::of("sh").file("Procfile", procfile);
        let mut app = App::start(pause(), scenario, "-t 3");
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
    grace_period_is_extended_by(|| Pause::All);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root and cgroups")]
fn grace_period_is_extended_by_a_frozen_cgroup() {
    grace_period_is_extended_by(|| Pause::Freeze(Cgroup::new()));
}

fn app_with_crash_loops_continues_after(pause: Pause) {
    let config = "[process.a]\non_exit = 'restart'\n\
                  backoff = { min = '1ms', max = '20ms', give_up_after = 1000000 }\n\
                  [process.b]\non_exit = 'restart'\n\
                  backoff = { min = '1ms', max = '20ms', give_up_after = 1000000 }\n";
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let procfile = format!("a: exit 1\nb: false\nc: exec $HOSTILE obedient {tag}\n");
    let scenario = Scenario::of("sh").file("Procfile", procfile).file("ganger.toml", config);
    let mut app = App::start(pause, scenario, "");
    app.running.wait_for("c.1    | up\n");
    let starts = |running: &Running| running.count_in_output(" started, pid ");
    app.running.wait_until("20 starts", |running| starts(running) > 20);
    app.pause_for(Duration::from_secs(6));
    let before = starts(&app.running);
    app.running.wait_until("20 more starts", |running| {
        assert_eq!(running.count_in_output("the keeper"), 0, "{}", running.output());
        starts(running) > before + 20
    });
    app.running.signal(Signal::SIGTERM);
    app.running.finish_within(MARGIN).code(0);
    assert_eq!(tagged(&tag), []);
}

#[test]
fn app_with_crash_loops_continues_after_a_pause_of_ganger() {
    app_with_crash_loops_continues_after(Pause::Ganger);
}

#[test]
fn app_with_crash_loops_continues_after_a_pause_of_all_processes() {
    app_with_crash_loops_continues_after(Pause::All);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root and cgroups")]
fn app_with_crash_loops_continues_after_its_cgroup_was_frozen() {
    rounds(2, 1, || app_with_crash_loops_continues_after(Pause::Freeze(Cgroup::new())));
}
