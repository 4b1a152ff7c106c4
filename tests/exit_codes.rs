//! The first failure decides, and nothing that failed yields 0.

use nix::sys::signal::Signal;

use crate::scenario::Scenario;

fn code_of(command: &str) -> i32 {
    Scenario::procfile(format!("a: {command}\n")).args("start").run().status.code().unwrap()
}

#[test]
fn exit_code_is_that_of_the_failed_process() {
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
fn first_failure_decides_the_exit_code() {
    let procfile = "a: exit 3\nb: trap 'exit 4' TERM; while :; do sleep 0.1; done\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(3);
    let stderr = finished.stderr();
    assert!(stderr.contains("a.1 exited (3), stopping all\n"), "{stderr}");
}

#[test]
fn success_of_one_process_stops_all_with_success() {
    let procfile = "css: true\nweb: sleep 1000\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(0);
    assert!(finished.stderr().contains("css.1 exited (0), stopping all\n"));
}

#[test]
fn clean_stop_on_request_exits_with_success() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let procfile = "a: echo up; exec sleep 1000\nb: trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done\n";
        let mut running = Scenario::procfile(procfile).args("start").start();
        running.wait_for("a.1    | up").wait_for("b.1    | up").signal(signal);
        let finished = running.finish().code(0);
        assert!(finished.stderr().contains(&format!("{signal}: stopping all\n")));
    }
}

#[test]
fn missing_folder_is_reported_before_anything_starts() {
    let app = |config: &str| {
        let procfile = "a: touch started; sleep 1000\nb: touch started\n";
        Scenario::procfile(procfile).file("ganger.toml", config).file("file", "")
    };
    let refused = |config: &str, args: &str, problem: &str| {
        let scenario = app(config).args(args);
        let root = scenario.folder().canonicalize().unwrap();
        let mut running = scenario.start();
        running.wait();
        assert!(!running.folder().join("started").exists());
        running.finish().refused(&problem.replace("ROOT", root.to_str().unwrap()));
    };
    let missing = "[process.b]\ndir = 'jobs'\n";
    let problem = "`dir` of `b`: the folder `ROOT/jobs` does not exist";
    for args in ["check", "start", "start -D", "run b"] {
        refused(missing, args, problem);
    }
    refused("[process.b]\ndir = 'file'\n", "start", "`dir` of `b`: `ROOT/file` is not a folder");
    // A type that does not run may do without.
    app(missing).args("check a").run().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn folder_without_permission_is_refused() {
    let scenario = Scenario::as_nobody("a: true\n");
    let jobs = scenario.folder().canonicalize().unwrap().join("jobs");
    let scenario = scenario.file("ganger.toml", "[process.a]\ndir = 'jobs'\n").file("jobs/x", "");
    std::fs::set_permissions(&jobs, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    scenario.args("./ganger start").run().refused(&format!(
        "`dir` of `a`: can't enter the folder `{}`: Permission denied",
        jobs.display()
    ));
}

#[test]
fn folder_that_disappears_later_is_named_and_counts_as_126() {
    let config = "[process.a]\ndir = 'jobs'\non_exit = 'restart'\n\
                  backoff = { min = '1ms', max = '1ms', give_up_after = 2 }\n";
    let scenario = Scenario::procfile("a: rmdir $PWD; exit 3\nb: sleep 1000\n")
        .file("ganger.toml", config)
        .args("start");
    let jobs = scenario.folder().canonicalize().unwrap().join("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let mut running = scenario.start();
    running.wait_for("GIVING UP, it stays down\n").signal(Signal::SIGTERM);
    let stderr = running.finish().code(126).stderr();
    let expected = format!(
        "ganger | a.1: the folder `{}` does not exist\n\
         ganger | a.1 could not be started: its folder is missing, 2 crashes in a row: \
         GIVING UP, it stays down\n",
        jobs.display()
    );
    assert!(stderr.contains(&expected), "{stderr}");
}

#[test]
fn program_that_can_not_be_started_is_named() {
    for (command, code, reason, exit) in [
        ("bundel exec", 127, "can't run `bundel`: not found in PATH", "command not found"),
        ("./none.sh", 127, "can't run `./none.sh`: there is no such file", "command not found"),
        (
            "./bad.sh",
            127,
            "`./bad.sh`: its interpreter `/usr/bin/rubyy` is missing",
            "command not found",
        ),
        (
            "./plain.sh",
            126,
            "`./plain.sh` is not executable (`chmod +x ./plain.sh`)",
            "Permission denied",
        ),
    ] {
        let scenario = Scenario::procfile(format!("a: {command}\n")).args("start");
        let scenario = scenario.file("bad.sh", "#!/usr/bin/rubyy\n").file("plain.sh", "true\n");
        let bad = scenario.folder().join("bad.sh");
        std::fs::set_permissions(bad, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let expected = format!(
            "ganger | a.1: {reason}\nganger | a.1 could not be started: {exit}, stopping all\n"
        );
        assert_eq!(scenario.run().code(code).stderr(), expected);
    }
}

#[test]
fn no_process_is_started_after_stopping_all() {
    let others = (0..20).map(|at| format!("p{at}: exec sleep 1000"));
    let lines: Vec<String> = ["a: /nowhere/a".to_owned()].into_iter().chain(others).collect();
    let scenario = Scenario::procfile(lines.join("\n")).args("start");
    let stderr = scenario.run().code(127).stderr();
    let (_, after) = stderr.split_once("stopping all\n").unwrap();
    assert!(!after.contains("started, pid"), "{stderr}");
}

#[test]
fn failure_of_optional_processes_counts_when_all_are_down() {
    let procfile = "a: exit 3\nb: sleep 0.2; exit 5\nc: sleep 0.3\n";
    let finished = Scenario::procfile(procfile).args("start --any-can-die").run().code(3);
    assert_eq!(finished.stderr().matches("stopping all").count(), 0);
    Scenario::procfile("a: true\nb: sleep 0.2\n").args("start --any-can-die").run().code(0);
}

#[test]
fn crash_followed_by_success_does_not_count() {
    let procfile =
        "a: echo run >> log; test $(wc -l < log) -gt 2 || exit 1; echo stable; sleep 1000\n";
    let mut running = Scenario::procfile(procfile).args("start -r a").start();
    running.wait_for("stable").signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert_eq!(finished.stderr().matches("a.1 exited (1), restarting in 0").count(), 2);
}
