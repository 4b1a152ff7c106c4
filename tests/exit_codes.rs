//! The first failure decides, and nothing that failed yields 0.

use nix::sys::signal::Signal;

use crate::scenario::Scenario;

fn code_of(command: &str) -> i32 {
    Scenario::procfile(format!("a: {command}\n")).args("start").run().status.code().unwrap()
}

#[test]
fn is_that_of_the_process() {
    assert_eq!(code_of("true"), 0);
    assert_eq!(code_of("exit 7"), 7);
    assert_eq!(code_of("exec $HOSTILE killed SIGKILL"), 137);
    assert_eq!(code_of("exec $HOSTILE killed SIGSEGV"), 139);
    assert_eq!(code_of("$HOSTILE killed SIGSEGV; exit $?"), 139);
    assert_eq!(code_of("kill -34 $$"), 162, "a real-time signal");
    assert_eq!(code_of("no-such-program --flag"), 127);
    assert_eq!(code_of("/etc/passwd"), 126);
}

#[test]
fn the_first_failure_decides() {
    let procfile = "a: exit 3\nb: trap 'exit 4' TERM; while :; do sleep 0.1; done\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(3);
    let stderr = finished.stderr();
    assert!(stderr.contains("a.1 exited (3), stopping all\n"), "{stderr}");
}

#[test]
fn the_first_that_exits_with_success_stops_all_with_success() {
    let procfile = "css: true\nweb: sleep 1000\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(0);
    assert!(finished.stderr().contains("css.1 exited (0), stopping all\n"));
}

#[test]
fn asked_to_stop_and_all_went_in_time() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let procfile = "a: echo up; exec sleep 1000\nb: trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done\n";
        let mut running = Scenario::procfile(procfile).args("start").start();
        running.wait_for("a.1    | up").wait_for("b.1    | up").signal(signal);
        let finished = running.finish().code(0);
        assert!(finished.stderr().contains(&format!("{signal}: stopping all\n")));
    }
}

#[test]
fn a_folder_that_is_not_there() {
    let finished = Scenario::procfile("a: true\n")
        .file("ganger.toml", "[process.a]\ndir = 'nowhere'\n")
        .args("start")
        .run()
        .code(127);
    let expected = "ganger | a.1 could not be started in its folder: No such file or directory, stopping all\n";
    assert_eq!(finished.stderr(), expected);
}

#[test]
fn of_processes_that_may_die_counts_when_all_are_down() {
    let procfile = "a: exit 3\nb: sleep 0.2; exit 5\nc: sleep 0.3\n";
    let finished = Scenario::procfile(procfile).args("start --any-can-die").run().code(3);
    assert_eq!(finished.stderr().matches("stopping all").count(), 0);
    Scenario::procfile("a: true\nb: sleep 0.2\n").args("start --any-can-die").run().code(0);
}

#[test]
fn a_crash_that_was_made_good_does_not_count() {
    let procfile =
        "a: echo run >> log; test $(wc -l < log) -gt 2 || exit 1; echo stable; sleep 1000\n";
    let mut running = Scenario::procfile(procfile).args("start -r a").start();
    running.wait_for("stable").signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert_eq!(finished.stderr().matches("a.1 exited (1), starting it again in 0").count(), 2);
}
