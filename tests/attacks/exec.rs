//! The exec of a program hangs, as with a virus scanner, NFS or FUSE that does not respond. Here
//! fanotify(7) holds it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Cleanup, MARGIN};
use crate::scenario::{Running, Scenario, hostile, tag, tagged};

/// Holds every exec of one file until it is dropped.
struct Holder {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Holder {
    fn of(program: &Path) -> Self {
        let mut command = Command::new(hostile());
        command.arg("hold-exec").arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Self { child, lines };
        holder.wait_for("holding");
        holder
    }

    /// Waits until the program that holds the execs prints this line.
    fn wait_for(&mut self, line: &str) {
        let mut found = String::new();
        self.lines.read_line(&mut found).unwrap();
        assert_eq!(found.trim_end(), line);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints a line when it gets the stop signal, and exits.
const OBEDIENT: &str = "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.05; done";

/// Runs `a`, the process types of the Procfile lines `more`, `held`, whose exec hangs, and `last`.
fn up(tag: &str, args: &str, more: &str) -> (Holder, Running) {
    let last = "last: echo here; exec sleep 1000";
    let procfile = format!("a: {OBEDIENT}\n{more}held: ./held obedient {tag}\n{last}\n");
    let scenario = Scenario::procfile(procfile);
    let program = scenario.folder().join("held");
    // Another program copies it, so that no child of this one holds it open for writing.
    assert!(Command::new("cp").arg(hostile()).arg(&program).status().unwrap().success());
    let mut holder = Holder::of(&program);
    let mut running = scenario.args("start").args(args).start();
    holder.wait_for("held 1");
    running.wait_for("a.1    | up\n");
    (holder, running)
}

/// Whether a message names the process whose exec hangs.
fn is_named(stderr: &str) -> bool {
    stderr.lines().any(|line| line.contains("held.1") && line.contains("exec"))
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn other_processes_get_their_stop_signal_while_an_exec_hangs() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let (_holder, mut running) = up(&tag, "-t 6", "");
        let since = Instant::now();
        running.signal(signal);
        running.wait_until("term", |running| {
            assert!(since.elapsed() < MARGIN, "a.1 did not get SIGTERM in {MARGIN:?}");
            running.count_in_output("a.1    | term\n") > 0
        });
        let finished = running.finish_within(Duration::from_secs(6) + MARGIN);
        // The process whose exec hangs may be ended by the signal, or only by SIGKILL.
        assert!(matches!(finished.status.code(), Some(0 | 137)), "{:?}", finished.status);
        assert_eq!(tagged(&tag), []);
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn second_interrupt_kills_at_once_while_an_exec_hangs() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let (_holder, mut running) = up(&tag, "-t 1000", "b: exec $HOSTILE stubborn\n");
    running.wait_for("b.1    | stubborn\n");
    running.signal(Signal::SIGINT);
    running.wait_for("waiting for b.1").signal(Signal::SIGINT);
    running.finish_within(MARGIN).code(137);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn message_names_the_process_whose_exec_hangs() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let (_holder, mut running) = up(&tag, "-t 2", "");
    let since = Instant::now();
    running.wait_until("a message", |running| {
        assert!(since.elapsed() < Duration::from_secs(10), "no message in 10 s");
        is_named(&running.output())
    });
    running.signal(Signal::SIGINT);
    running.finish_within(Duration::from_secs(2) + MARGIN);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn requests_are_answered_while_an_exec_hangs() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let (_holder, mut running) = up(&tag, "-t 2", "");
    let since = Instant::now();
    assert_eq!(running.run_client("ps").1, 0);
    assert_eq!(running.run_client("stop a").1, 0);
    running.wait_until("term", |running| {
        assert!(since.elapsed() < MARGIN, "a.1 did not get SIGTERM in {MARGIN:?}");
        running.count_in_output("a.1    | term\n") > 0
    });
    running.signal(Signal::SIGTERM);
    running.finish_within(Duration::from_secs(2) + MARGIN);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn failure_of_another_process_stops_all_while_an_exec_hangs() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let more = "b: while ! [ -e fail ]; do sleep 0.05; done; exit 3\n";
    let (_holder, running) = up(&tag, "-t 2", more);
    std::fs::write(running.folder().join("fail"), "").unwrap();
    running.finish_within(Duration::from_secs(2) + MARGIN).code(3);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn later_processes_start_while_an_exec_hangs() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let (_holder, mut running) = up(&tag, "-t 2", "");
    let since = Instant::now();
    running.wait_until("last.1", |running| {
        assert!(since.elapsed() < MARGIN, "last.1 did not start in {MARGIN:?}");
        running.count_in_output("last.1 | here\n") > 0
    });
    running.signal(Signal::SIGINT);
    running.finish_within(Duration::from_secs(2) + MARGIN);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn process_runs_once_its_exec_goes_on() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let (holder, mut running) = up(&tag, "-t 5", "");
    // Longer than ganger waits for an answer of its keeper, so no state can be waited for.
    std::thread::sleep(Duration::from_secs(6));
    drop(holder);
    running.wait_for("held.1 | up\n").signal(Signal::SIGTERM);
    running.finish_within(MARGIN).code(0);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root (fanotify)")]
fn nothing_survives_sigkill_of_ganger_while_an_exec_hangs() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let more = format!("b: exec $HOSTILE daemonize stay cleared stubborn {tag}\n");
    let (_holder, mut running) = up(&tag, "", &more);
    running.wait_for("b.1    | stubborn\n");
    running.signal(Signal::SIGKILL);
    running.wait();
    let since = Instant::now();
    running.wait_until("the exit of all processes", |_| {
        assert!(since.elapsed() < 2 * MARGIN, "still there: {:?}", tagged(&tag));
        tagged(&tag).is_empty()
    });
}
