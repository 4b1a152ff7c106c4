//! Programs that misbehave: no output is lost, and no descendant survives.

use nix::sys::signal::Signal;

use crate::scenario::{Running, Scenario, is_alive, own_memory, tag, tagged};

/// Starts a misbehaving program that stays up, and waits until `ready` returns true.
fn up(way: &str, tag: &str, args: &str, ready: impl FnMut(&Running) -> bool) -> Running {
    let procfile = format!("a: exec $HOSTILE {way} {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -N").args(args).start();
    running.wait_until(way, ready);
    running
}

fn wrote(text: &'static str) -> impl Fn(&Running) -> bool {
    move |running| running.count_in_output(text) > 0
}

fn stop(running: Running, tag: &str, code: i32) -> String {
    running.signal(Signal::SIGTERM);
    let stderr = running.finish().code(code).stderr();
    assert_eq!(tagged(tag), []);
    stderr
}

#[test]
fn fork_bomb_is_stopped() {
    let tag = tag();
    let running = up("bomb 8", &tag, "", |running| running.count_in_output("boom\n") == 256);
    stop(running, &tag, 0);
    // While it forks, ganger is killed.
    let tag = self::tag();
    let mut running = up("bomb 9", &tag, "", |_| tagged(&tag).len() > 20);
    running.signal(Signal::SIGKILL);
    running.wait();
    running.wait_until("no process", |_| tagged(&tag).is_empty());
}

#[test]
fn process_that_changes_its_pid_is_stopped() {
    let tag = tag();
    // The first process exits at once; its descendants are stopped with it.
    let running = up("runner", &tag, "--can-die a -t 0.5", wrote("running\n"));
    running.finish();
    assert_eq!(tagged(&tag), []);
    let tag = self::tag();
    let procfile = format!("a: $HOSTILE runner {tag}; sleep 1000\n");
    let mut running = Scenario::procfile(procfile).args("start -t 0.5").start();
    running.wait_for("running\n");
    let keeper = running.keeper();
    running.signal(Signal::SIGKILL);
    running.wait();
    running.wait_until("no process", |_| tagged(&tag).is_empty() && !is_alive(keeper));
}

#[test]
fn process_that_ignores_all_signals_is_killed() {
    let tag = tag();
    let running = up("deaf", &tag, "-t 0.3", wrote("deaf\n"));
    let stderr = stop(running, &tag, 137);
    assert!(stderr.contains("a.1 is still up 0.3s after SIGTERM: SIGKILL\n"), "{stderr}");
}

#[test]
fn process_that_suspended_itself_is_stopped() {
    let tag = tag();
    let running = up("stopped", &tag, "-t 1000", wrote("stopping\n"));
    stop(running, &tag, 0);
}

#[test]
fn descendant_that_holds_the_pipe_does_not_block_exit() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE hold {tag}\n");
    let finished = Scenario::procfile(procfile).args("start").run().code(0);
    assert_eq!(finished.stdout(), "a.1    | last words\n");
    assert_eq!(tagged(&tag), []);
}

#[test]
fn lines_written_byte_by_byte_are_complete() {
    let finished =
        Scenario::procfile("a: exec $HOSTILE bytewise 2000\n").args("start").run().code(0);
    let expected: Vec<String> = (0..2000).map(|line| format!("line {line}")).collect();
    assert!(finished.lines_of("a.1") == expected);
}

#[test]
fn flood_of_output_does_not_delay_others_or_signals() {
    let procfile =
        "a: exec $HOSTILE flood\nb: sleep 0.5; echo passed; kill -INT $GANGER_PID; sleep 1000\n";
    let finished = Scenario::of("sh")
        .file("Procfile", procfile)
        .args("-c")
        .arg("sh -c 'export GANGER_PID=$$; exec $GANGER start' | grep passed")
        .run()
        .code(0);
    assert_eq!(finished.stdout(), "b.1    | passed\n");
    assert!(finished.stderr().contains("ganger | SIGINT: stopping all\n"));
}

#[test]
fn incomplete_escape_sequences_and_lone_returns_pass_through() {
    let finished = Scenario::procfile("a: exec $HOSTILE escape\n").args("start").run().code(0);
    let expected = b"a.1    | 10 %\r20 %\r\x1b[2K30 %\r\na.1    | \x1b[31mred\x1b[0m \x1b[3\n";
    assert_eq!(finished.out, expected);
}

#[test]
fn process_that_closes_its_output_stays_up() {
    let tag = tag();
    let mut running = up("mute", &tag, "", wrote("bye\n"));
    running.wait_until("it goes on", |_| tagged(&tag).len() == 1);
    let stderr = stop(running, &tag, 0);
    assert!(stderr.ends_with("ganger | a.1 stopped\n"), "{stderr}");
}

#[test]
fn process_that_changes_its_group_is_killed() {
    let tag = tag();
    let running = up("regroup", &tag, "-t 0.3", wrote("stubborn\n"));
    assert_eq!(tagged(&tag).len(), 2);
    stop(running, &tag, 137);
}

#[test]
fn process_that_runs_out_of_memory_is_reported() {
    let finished = Scenario::procfile("a: exec $HOSTILE eat\n").args("start").run();
    let stderr = finished.code(134).stderr();
    assert!(stderr.contains("a.1 was killed by SIGABRT, stopping all\n"), "{stderr}");
}

#[test]
fn endless_restarts_leak_nothing() {
    let config = "[process.a]\non_exit = 'restart'\nbackoff = { min = '0s', max = '0s' }\n";
    // Its output goes to a file: a pipe whose reader is slow makes ganger queue more. What is
    // kept of its own messages is full after a few lives.
    let scenario = Scenario::of("sh")
        .file("Procfile", "a: /bin/true\nb: sleep 1000\n")
        .file("ganger.toml", config)
        .file("start.sh", "exec $GANGER start --recent 8K >output 2>&1\n");
    let mut running = scenario.args("start.sh").start();
    let lives = |running: &Running, count| {
        let output = std::fs::read_to_string(running.folder().join("output")).unwrap_or_default();
        output.matches("a.1 started, pid ").count() >= count
    };
    running.wait_until("ten lives", |running| lives(running, 10));
    let held = |running: &Running| {
        let of = |pid| {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            (open, own_memory(pid))
        };
        (of(running.pid()), of(running.keeper()))
    };
    // What is lost with each life adds up in every part of the run. What is queued while the
    // disk is busy takes memory once.
    let mut parts = vec![held(&running)];
    for count in (2_000..=10_000).step_by(2_000) {
        running.wait_until("two thousand more lives", |running| lives(running, count));
        parts.push(held(&running));
    }
    let grows = |parts: &[(usize, usize)]| {
        // A start at that moment has a pipe or two open.
        let files = parts.iter().any(|part| part.0.abs_diff(parts[0].0) > 6);
        files || parts.windows(2).all(|pair| pair[1].1 > pair[0].1 + (8 << 10))
    };
    let (ganger, keeper): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    assert!(!grows(&ganger), "ganger: open files, memory: {ganger:?}");
    assert!(!grows(&keeper), "keeper: open files, memory: {keeper:?}");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}
