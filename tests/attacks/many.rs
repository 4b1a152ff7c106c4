//! Stopping grows in proportion to the number of processes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::scenario::{Running, Scenario, TEST_TIMEOUT, tagged};

/// How much longer it may take with four times as many processes, on a busy machine.
const MAX_RATIO: f64 = 6.0;

/// An argument of sleep(1) that no other process has, so that it can be a tag.
fn sleep_time() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("1000.{:06}{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn sleepers(count: usize, time: &str) -> Running {
    let scenario = Scenario::procfile(format!("a: sleep {time}\n"));
    let mut running = scenario.args(&format!("start -N -m a={count} -s socket -t 20")).start();
    running.wait_until("all up", |running| running.count_in_output(" started, pid ") == count);
    running
}

fn stop(count: usize) -> Duration {
    let time = sleep_time();
    let running = sleepers(count, &time);
    assert_eq!(tagged(&time).len(), count);
    let since = Instant::now();
    running.signal(Signal::SIGTERM);
    let finished = running.finish_within(TEST_TIMEOUT).code(0);
    let took = since.elapsed();
    assert_eq!(tagged(&time), []);
    assert_eq!(finished.stderr().matches(" stopped\n").count(), count);
    took
}

/// Fails if `of` takes out of proportion longer with four times as many processes. Other tests run
/// at the same time, so it is tried several times; what grows with the square takes 16 times as
/// long in each.
fn assert_proportion(done: &str, few: usize, of: impl Fn(usize) -> Duration) {
    let many = few * 4;
    let mut ratios = Vec::new();
    for _ in 0..4 {
        let took = [few, many].map(|count| of(count).as_secs_f64());
        let ratio = took[1] / took[0];
        println!("{done} {few} in {:.3} s, {many} in {:.3} s: {ratio:.1} times", took[0], took[1]);
        if ratio < MAX_RATIO {
            return;
        }
        ratios.push(ratio);
    }
    panic!("{ratios:?}");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "starts 2,000 processes and measures time")]
fn time_to_stop_grows_in_proportion() {
    assert_proportion("stopped", 500, stop);
}

/// The time to scale from `count` processes to one.
fn scale_down(count: usize) -> Duration {
    let time = sleep_time();
    let mut running = sleepers(count, &time);
    let since = Instant::now();
    assert_eq!(running.run_client("scale a=1 -s socket").1, 0);
    running.wait_until("one", |running| running.count_in_output(" stopped\n") == count - 1);
    let took = since.elapsed();
    assert_eq!(tagged(&time).len(), 1);
    running.signal(Signal::SIGTERM);
    running.finish_within(TEST_TIMEOUT).code(0);
    took
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "starts 2,000 processes and measures time")]
fn time_to_scale_down_grows_in_proportion() {
    assert_proportion("scaled down", 400, scale_down);
}

fn restart(count: usize) -> Duration {
    let time = sleep_time();
    let mut running = sleepers(count, &time);
    let since = Instant::now();
    assert_eq!(running.run_client("restart a -s socket").1, 0);
    running
        .wait_until("all again", |running| running.count_in_output(" started, pid ") == 2 * count);
    let took = since.elapsed();
    assert_eq!(tagged(&time).len(), count);
    running.signal(Signal::SIGTERM);
    running.finish_within(TEST_TIMEOUT).code(0);
    took
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "starts 2,000 processes and measures time")]
fn time_to_restart_all_grows_in_proportion() {
    assert_proportion("restarted", 400, restart);
}
