//! A process whose main thread has ended while another thread runs: `/proc` shows the state `Z`.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::{Cleanup, MARGIN, keeper_of, kill_both, start_next};
use crate::scenario::{Running, Scenario, tag, tagged, tagged_as};

/// Runs a chain of programs that ends with one without a main thread.
fn up(chain: &str, tag: &str, args: &str) -> Running {
    let procfile = format!("a: exec $HOSTILE {chain} {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start").args(args).start();
    running.wait_for("a.1    | up\n");
    running
}

const DAEMON: &str = "daemonize stay leaderless";

#[test]
fn process_without_main_thread_is_stopped_by_term() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = up("leaderless obedient", &tag, "-t 1000");
    running.signal(Signal::SIGTERM);
    let finished = running.finish_within(MARGIN).code(0);
    assert!(finished.stderr().ends_with("ganger | a.1 stopped\n"), "{}", finished.stderr());
    assert_eq!(tagged(&tag), []);
}

#[test]
fn process_without_main_thread_is_killed_after_the_grace_period() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = up("leaderless stubborn", &tag, "-t 0.5");
    running.signal(Signal::SIGTERM);
    let stderr = running.finish_within(MARGIN).code(137).stderr();
    assert!(stderr.contains("a.1 is still up 0.5s after SIGTERM: SIGKILL\n"), "{stderr}");
    assert_eq!(tagged(&tag), []);
}

#[test]
fn daemon_without_main_thread_is_stopped_by_term() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    // Only SIGTERM can end it before the test gives up.
    let running = up(&format!("{DAEMON} obedient"), &tag, "-t 1000");
    running.signal(Signal::SIGTERM);
    running.finish_within(MARGIN).code(0);
    assert_eq!(tagged(&tag), []);
}

#[test]
fn daemon_without_main_thread_is_killed_after_the_grace_period() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = up(&format!("{DAEMON} stubborn"), &tag, "-t 0.5");
    running.signal(Signal::SIGTERM);
    let finished = running.finish_within(MARGIN);
    assert_eq!(tagged(&tag), []);
    finished.code(137);
}

#[test]
fn daemon_without_main_thread_does_not_survive_sigkill_of_ganger() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let mut running = up(&format!("{DAEMON} stubborn"), &tag, "");
    running.signal(Signal::SIGKILL);
    running.wait();
    wait_until_gone_within(&tag, MARGIN);
}

#[test]
fn daemon_without_main_thread_does_not_survive_sigkill_of_the_keeper() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = up(&format!("{DAEMON} stubborn"), &tag, "");
    kill(keeper_of(running.pid()).unwrap(), Signal::SIGKILL).unwrap();
    running.finish_within(MARGIN).code(1);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn daemon_without_main_thread_is_found_by_the_next_start() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let mut running = up(&format!("{DAEMON} stubborn"), &tag, "");
    kill_both(&mut running);
    assert_eq!(tagged(&tag).len(), 1, "only the daemon is left");
    let stderr = start_next(running.folder()).stderr();
    assert_eq!(tagged(&tag), []);
    assert!(stderr.contains("hostile (pid N)"), "{stderr}");
}

#[test]
fn daemon_without_main_thread_is_stopped_before_its_process_restarts() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let procfile = format!("a: exec $HOSTILE daemonize leave leaderless stubborn {tag}\n");
    let config = "[process.a]\non_exit = 'restart'\nbackoff = { min = '0s', max = '0s' }\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.args("start -t 0.2").start();
    for lives in 1..5 {
        running.wait_until("another life", |running| running.count_in_output("| up\n") >= lives);
        let copies = tagged_as("leaderless", &tag);
        assert!(copies.len() <= 1, "{copies:?}");
    }
    running.signal(Signal::SIGTERM);
    running.finish_within(MARGIN);
    assert_eq!(tagged(&tag), []);
}

#[test]
fn child_of_a_process_without_main_thread_is_stopped_with_it() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = up("daemonize stay leaderless-parent session obedient", &tag, "-t 1000");
    running.signal(Signal::SIGTERM);
    running.finish_within(MARGIN).code(0);
    assert_eq!(tagged(&tag), []);
}

fn wait_until_gone_within(tag: &str, limit: Duration) {
    let since = std::time::Instant::now();
    while !tagged(tag).is_empty() {
        assert!(since.elapsed() < limit, "still there: {:?}", tagged(tag));
        std::thread::sleep(Duration::from_millis(5));
    }
}
