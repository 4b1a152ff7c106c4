//! Stopping: the stop signal, the grace period, SIGKILL, and no process is left.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::scenario::{Scenario, children, free_port, tag, tagged, tagged_as, wait_until_gone};

#[test]
fn process_that_ignores_the_stop_signal_is_killed_after_the_grace_period() {
    let procfile = "a: exec $HOSTILE stubborn\n";
    let mut running = Scenario::procfile(procfile).args("start -t 1.5").start();
    running.wait_for("a.1    | stubborn").signal(Signal::SIGTERM);
    let finished = running.finish().code(137);
    assert!(finished.took >= Duration::from_millis(1500));
    assert_eq!(
        finished.stderr(),
        "ganger | a.1 started, pid N, port 5000\n\
         ganger | SIGTERM: stopping all\n\
         ganger | waiting for a.1 (pid N): SIGKILL in 0.5s\n\
         ganger | a.1 is still up 1.5s after SIGTERM: SIGKILL\n\
         ganger | a.1 was killed\n"
    );
}

#[test]
fn second_interrupt_kills_at_once() {
    let procfile = "a: exec $HOSTILE stubborn\n";
    let mut running = Scenario::procfile(procfile).args("start -t 1000").start();
    running.wait_for("a.1    | stubborn").signal(Signal::SIGINT);
    // Repeated TERM and HUP change nothing, and the reminder shows that.
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGHUP);
    running.wait_for("waiting for a.1").signal(Signal::SIGINT);
    let finished = running.finish().code(137);
    assert!(finished.stderr().ends_with("ganger | a.1: SIGKILL\nganger | a.1 was killed\n"));
}

/// The time since boot, in the unit of process start times (`proc_pid_stat(5)`).
fn ticks_since_boot() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    // Hundredths of a second, as in every Linux of today.
    uptime.split_whitespace().next().unwrap().replace('.', "").parse().unwrap()
}

#[test]
fn no_process_is_started_after_the_message_that_all_is_stopped() {
    let sleeper = "read -r stat < /proc/self/stat; echo \"$stat\" >> stats; exec sleep 1000";
    let sleepers = |name: &str| {
        let lines: Vec<String> = (0..60).map(|it| format!("{name}{it}: {sleeper}")).collect();
        lines.join("\n")
    };
    let procfile = format!("{}\nfails: exit 1\n{}\n", sleepers("a"), sleepers("b"));
    let mut running = Scenario::procfile(procfile).file("stats", "").args("start -N").start();
    running.wait_for("fails.1 exited (1), stopping all\n");
    let stopped_at = ticks_since_boot();
    let folder = running.folder().to_owned();
    let running = running.finish_but_keep();
    let stats = std::fs::read_to_string(folder.join("stats")).unwrap();
    for stat in stats.lines() {
        let started_at: u64 = stat.split(' ').nth(21).unwrap().parse().unwrap();
        assert!(started_at <= stopped_at + 1, "{stat}");
    }
    drop(running);
}

#[test]
fn grandchildren_of_a_shell_are_stopped() {
    let tag = tag();
    let procfile = format!("a: $HOSTILE stubborn {tag} & $HOSTILE stubborn {tag}; true\n");
    let mut running = Scenario::procfile(procfile).args("start -t 2").start();
    running.wait_until("two", |running| {
        tagged(&tag).len() == 2 && running.count_in_output("stubborn\n") == 2
    });
    running.signal(Signal::SIGTERM);
    let stderr = running.finish().code(137).stderr();
    let still_up = "waiting for a.1 (hostile (pid N), hostile (pid N)): SIGKILL in ";
    assert!(stderr.contains(still_up), "{stderr}");
    assert!(tagged(&tag).is_empty());
}

#[test]
fn descendants_are_stopped_before_a_restart() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE leave 1 {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -t 0.3 -r all").start();
    let again = "a.1 is still up 0.3s after SIGTERM: SIGKILL\n";
    running.wait_for("a.1 exited (1), leaving hostile (pid ").wait_for(again);
    running.wait_until("a second life", |running| running.count_in_output("leaving\n") == 2);
    assert!(tagged_as("stubborn", &tag).len() <= 1, "two lives at one time");
    running.signal(Signal::SIGTERM);
    running.finish();
    wait_until_gone(&tag);
}

#[test]
fn detached_child_frees_its_port_before_a_restart() {
    let (tag, port) = (tag(), free_port());
    let procfile = format!("a: exec $HOSTILE detach {port} {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -r all").start();
    running.wait_until("three lives", |running| {
        running.count_in_output("detached, port bound\n") >= 3
    });
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert!(!finished.stdout().contains("port in use"), "{}", finished.stdout());
    assert!(tagged(&tag).is_empty());
}

#[test]
fn zombie_does_not_delay_the_stop() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE zombie {tag}\nb: sleep 1000\n");
    let mut running = Scenario::procfile(procfile).args("start --can-die a -t 5").start();
    running.wait_for("a.1 exited (0)\n");
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert!(finished.took < Duration::from_secs(5), "waited for a zombie");
    assert!(tagged(&tag).is_empty());
}

#[test]
fn orphans_are_named_and_stopped() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE orphan {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start").start();
    // Only the program that the daemon executes last has a cleared environment.
    running
        .wait_for("orphan started")
        .wait_until("the daemon", |_| tagged_as("leaf", &tag).len() == 1);
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    let expected = "ganger | stopping orphaned processes: hostile (pid N)\n";
    assert!(finished.stderr().contains(expected), "{}", finished.stderr());
    assert!(tagged(&tag).is_empty());
}

#[test]
fn custom_stop_signal_reaches_suspended_processes() {
    let procfile = "a: trap 'echo int; exit 0' INT; echo up; while :; do sleep 0.1; done\n\
                    b: trap 'echo quit; exit 0' QUIT; echo up; kill -STOP $$; while :; do sleep 0.1; done\n";
    let mut running = Scenario::procfile(procfile)
        .file("ganger.toml", "[process.b]\nstop_signal = 'QUIT'\n")
        .args("start -i a=INT")
        .start();
    running.wait_for("a.1    | up").wait_for("b.1    | up").signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert!(
        finished.stdout().contains("a.1    | int\n")
            && finished.stdout().contains("b.1    | quit\n")
    );
}

#[test]
fn user_signals_are_forwarded_and_quit_prints_the_status() {
    let procfile =
        "a: trap 'echo one' USR1; trap 'echo two' USR2; echo up; while :; do sleep 0.05; done\n";
    let mut running = Scenario::procfile(procfile).args("start").start();
    running.wait_for("a.1    | up").signal(Signal::SIGUSR1);
    running.wait_for("a.1    | one").signal(Signal::SIGUSR2);
    running.wait_for("a.1    | two").signal(Signal::SIGQUIT);
    running.wait_for("ganger | a.1 (pid ").signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn hundreds_of_processes_are_suspended_before_ganger_is() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE leaf {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -N -m a=400").start();
    running.wait_until("400", |running| running.count_in_output(" started, pid ") == 400);
    let pid = running.pid();
    running.signal(Signal::SIGTSTP);
    running.wait_until("ganger suspended", |_| is_suspended(pid));
    let suspended = tagged(&tag).into_iter().filter(|pid| is_suspended(*pid)).count();
    running.signal(Signal::SIGCONT);
    assert_eq!(suspended, 400);
    running.wait_until("all running", |_| !tagged(&tag).into_iter().any(is_suspended));
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

fn is_suspended(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

#[test]
fn all_processes_are_suspended_and_resumed() {
    // A shell that waits for a child of vfork(2) can't be suspended.
    let mut running = Scenario::procfile("a: exec $HOSTILE tick\n").args("start").start();
    running.wait_for("tick").signal(Signal::SIGTSTP);
    let pid = running.pid();
    running.wait_until("ganger suspended", |_| is_suspended(pid));
    let child = children(running.keeper())[0];
    running.wait_until("a.1 suspended", |_| is_suspended(child));
    let before = running.count_in_output("tick");
    running.signal(Signal::SIGCONT);
    running.wait_until("more", |running| running.count_in_output("tick") > before + 2);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}
