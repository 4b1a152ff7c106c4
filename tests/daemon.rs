//! `start -D`: the app in the background.

use std::fs::File;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::control::request;
use crate::scenario::{Running, Scenario, is_alive, running_files, tag, tagged};

/// Output goes to a file: a pipe would not end before the daemon does.
fn start(procfile: &str, args: &str) -> Scenario {
    let scenario = Scenario::procfile(procfile).args("start -D").args(args);
    let folder = scenario.folder().to_owned();
    scenario.command(|command| {
        let log = File::create(folder.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
    })
}

fn log(running: &Running) -> String {
    std::fs::read_to_string(running.folder().join("log")).unwrap()
}

fn pid(running: &Running) -> Pid {
    let about = request(&running.socket(), "GET", "/");
    Pid::from_raw(about["pid"].as_i64().unwrap().try_into().unwrap())
}

#[test]
fn daemon_returns_when_all_is_up_and_stops_on_quit() {
    let tag = tag();
    let procfile =
        format!("a: echo hello; exec $HOSTILE leaf {tag}\nb: exec $HOSTILE leaf {tag}\n");
    let mut running = start(&procfile, "").start();
    assert!(running.wait().success());
    let pid = pid(&running);
    assert!(is_alive(pid) && pid != running.pid());
    assert_eq!(nix::unistd::getsid(Some(pid)), Ok(pid), "a session of its own");
    // Up is when the program runs.
    running.wait_until("both", |_| tagged(&tag).len() == 2);
    assert!(log(&running).contains("b.1 started"), "{}", log(&running));
    assert_eq!(running.run_client("logs --no-prefix a").0, "hello\n");
    let second = Scenario::procfile("a: true\n").in_folder(running.folder());
    let refusal = second.args("start").run().code(2).stderr();
    assert!(refusal.starts_with("ganger: already running for "), "{refusal}");
    assert_eq!(running.run_client("quit").1, 0);
    running.wait_until("ganger's exit", |_| !is_alive(pid));
    assert_eq!(tagged(&tag), []);
    running.wait_until("no file", |running| running_files(running.folder()).is_empty());
}

#[test]
fn sighup_reloads_a_daemon() {
    let mut running = start("a: exec sleep 1000\n", "").start();
    assert!(running.wait().success());
    let pid = pid(&running);
    std::fs::write(running.folder().join("Procfile"), "a: exec sleep 1000\nb: exec sleep 1000\n")
        .unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    running.wait_until("b", |running| log(running).contains("reloading: starting b.1\n"));
    std::fs::write(running.folder().join("Procfile"), "nonsense\n").unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    let expected = "failed to reload, so nothing changes: `Procfile` line 1: ";
    running.wait_until("no", |running| log(running).contains(expected));
    assert_eq!(running.run_client("wait a b --ready --timeout 60").1, 0);
    kill(pid, Signal::SIGTERM).unwrap();
    running.wait_until("ganger's exit", |_| !is_alive(pid));
}

#[test]
fn daemon_start_failure_is_the_exit_code() {
    for (procfile, args, code, expected) in [
        ("nonsense\n", "", 2, "ganger: `Procfile` line 1: expected `name: command`, found"),
        (
            "a: /nowhere/to/be/found\n",
            "",
            127,
            "ganger | a.1: can't run `/nowhere/to/be/found`: there is no such file\n\
             ganger | a.1 could not be started: command not found",
        ),
        ("a: exec sleep 1000\n", "-m b=1", 2, "ganger: the Procfile has no `b`"),
    ] {
        let mut running = start(procfile, args).start();
        assert_eq!(running.wait().code(), Some(code), "{procfile}");
        assert!(log(&running).starts_with(expected), "{}", log(&running));
    }
}

#[test]
fn daemon_start_fails_when_the_app_exits_at_once() {
    let codes: Vec<_> =
        (0..15).map(|_| start("a: false\n", "").start().wait().code().unwrap()).collect();
    assert_eq!(codes, [1; 15]);
    for (procfile, code, expected) in [
        ("a: exit 7\n", 7, "a.1 exited (7), stopping all\n"),
        ("a: kill -SEGV $$\n", 139, "a.1 was killed by SIGSEGV, stopping all\n"),
        ("a: sleep 0.3; exit 3\n", 3, "a.1 exited (3), stopping all\n"),
        ("a: true\n", 0, "a.1 exited (0), stopping all\n"),
    ] {
        let mut running = start(procfile, "").start();
        assert_eq!(running.wait().code(), Some(code), "{procfile}{}", log(&running));
        assert!(log(&running).contains(expected), "{}", log(&running));
        assert_eq!(running.run_client("ps").1, 3, "{procfile}");
    }
    // All other processes are stopped, and the report names the reason.
    let mut running = start("a: echo broken; exit 7\nb: exec sleep 1000\n", "").start();
    assert_eq!(running.wait().code(), Some(7));
    let report = "a.1 failed first: it exited (7)\nganger | its last lines:\nganger |   broken\n\
                  ganger | stopped because of it: b.1\n";
    assert!(log(&running).contains(report), "{}", log(&running));
}

#[test]
fn daemon_start_returns_the_exit_code_of_a_failed_optional_process() {
    let mut running = start("a: exit 7\nb: exec sleep 1000\n", "--can-die a").start();
    assert_eq!(running.wait().code(), Some(7), "{}", log(&running));
    // The other process goes on.
    assert!(running.run_client("ps").0.contains("\nb.1 "));
    assert_eq!(running.run_client("quit").1, 0);
}

#[test]
fn daemon_start_fails_when_a_process_crashes_repeatedly() {
    let config = "[process.a]\nready_timeout = '1s'\n";
    let scenario = start("a: exit 7\nb: exec sleep 1000\n", "-r a").file("ganger.toml", config);
    let mut running = scenario.start();
    assert_eq!(running.wait().code(), Some(4), "{}", log(&running));
    let expected = "ganger | a.1 is not ready after 1s: it exited (7)\n";
    assert!(log(&running).contains(expected), "{}", log(&running));
    assert!(running.run_client("ps").0.contains("\nb.1 "));
    assert_eq!(running.run_client("quit").1, 0);
}

#[test]
fn interrupted_daemon_start_stops_the_daemon() {
    let tag = tag();
    // A process that crashes and is restarted keeps the app from being up.
    let procfile = format!("a: exec $HOSTILE leaf {tag}\nb: /nowhere/b\n");
    let mut running = start(&procfile, "-r b").start();
    running.wait_until("a", |_| !tagged(&tag).is_empty());
    let pid = pid(&running);
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait().code(), Some(0));
    assert!(!is_alive(pid) && tagged(&tag).is_empty());
    assert!(log(&running).contains("ganger | SIGINT: stopping all\n"), "{}", log(&running));
}

#[test]
fn daemon_start_times_out_for_a_process_that_keeps_restarting() {
    let config = "[process.b]\nready_timeout = '0.5s'\n";
    let scenario = start("a: exec sleep 1000\nb: /nowhere/b\n", "-r b");
    let mut running = scenario.file("ganger.toml", config).start();
    assert_eq!(running.wait().code(), Some(4));
    assert!(log(&running).contains("ganger | b.1 is not ready after 0.5s\n"), "{}", log(&running));
    // ganger goes on, and responds.
    let pid = pid(&running);
    assert!(running.run_client("ps").0.contains("\na.1   "));
    running.run_client("quit");
    running.wait_until("ganger's exit", |_| !is_alive(pid));
}

#[test]
fn late_process_leaves_the_app_up_with_a_message() {
    let config = "[process.b]\nready = { log = 'never' }\nready_timeout = '0.5s'\n";
    let scenario = start("a: exec sleep 1000\nb: exec sleep 1000\n", "");
    let mut running = scenario.file("ganger.toml", config).start();
    assert_eq!(running.wait().code(), Some(4));
    let expected = "ganger | b.1 is not ready after 0.5s\n\
                    ganger | b.1 is not ready, but the app stays up in the background: `ganger ps` \
                    shows it, `ganger logs -f` follows its output, `ganger quit` stops it\n";
    assert!(log(&running).ends_with(expected), "{}", log(&running));
    assert_eq!(running.states(), ["a.1 up", "b.1 up"]);
    assert_eq!(running.run_client("quit").1, 0);
}

#[test]
fn daemon_survives_the_reader_of_its_output() {
    let procfile = "a: while :; do echo line; sleep 0.02; done\n";
    let scenario = Scenario::of("sh").file("Procfile", procfile);
    let mut running = scenario.args("-c").arg("$GANGER start -D 2>&1 | head -n 1").start();
    running.wait();
    running.wait_until("an answer", |running| running.run_client("ps").1 == 0);
    let pid = pid(&running);
    let lines = |running: &Running| running.run_client("logs a").0.lines().count();
    let before = lines(&running);
    running.wait_until("more lines", |running| lines(running) > before + 10);
    assert_eq!(running.run_client("quit").1, 0);
    running.wait_until("ganger's exit", |_| !is_alive(pid));
}

#[test]
fn start_prints_json_when_all_is_up() {
    let scenario = Scenario::procfile("a: echo early; echo late >&2; exec sleep 1000\n");
    let folder = scenario.folder().to_owned();
    let client = |args: &str| Scenario::new().in_folder(&folder).args(args).run();
    let finished = client("start -ND --json").code(0);
    let answer: serde_json::Value = serde_json::from_slice(&finished.out).unwrap();
    let process = &answer["processes"][0];
    assert_eq!((process["name"].as_str(), process["state"].as_str()), (Some("a.1"), Some("up")));
    assert_eq!(answer["root"].as_str(), folder.canonicalize().unwrap().to_str());
    let stderr = finished.stderr();
    assert!(stderr.contains("a.1    | early\n") && stderr.contains("a.1    | late\n"), "{stderr}");
    let again: serde_json::Value = serde_json::from_slice(&client("ps --json").out).unwrap();
    assert_eq!(again["pid"], answer["pid"]);
    client("quit").code(0);
    // Without the background, there is no end of the start.
    let stderr = client("start --json").code(2).stderr();
    assert!(stderr.contains("--daemonize"), "{stderr}");
}

#[test]
fn captured_output_ends_when_all_is_up() {
    let procfile = "a: echo early; until test -e go; do sleep 0.01; done; echo late; \
                    touch done; exec sleep 1000\n";
    let scenario = Scenario::of("sh").file("Procfile", procfile).args("-c");
    let script =
        r#"captured=$(echo input | $GANGER start -D 2>&1); echo "code $?"; echo "$captured""#;
    let mut running = scenario.arg(script).start();
    running.wait_for("code 0\n");
    let pid = pid(&running);
    std::fs::write(running.folder().join("go"), "").unwrap();
    running.wait_until("done", |running| running.folder().join("done").exists());
    for stream in 0..=2 {
        let open = std::fs::read_link(format!("/proc/{pid}/fd/{stream}")).unwrap();
        assert_eq!(open.to_str(), Some("/dev/null"), "stream {stream}");
    }
    assert_eq!(running.run_client("logs --no-prefix a").0, "early\nlate\n");
    assert_eq!(running.run_client("quit").1, 0);
    let stdout = running.finish().code(0).stdout();
    assert!(stdout.contains("a.1 started") && stdout.contains("early"), "{stdout}");
    assert!(!stdout.contains("late"), "{stdout}");
}

#[test]
fn output_to_a_regular_file_stays() {
    let mut running = start("a: until test -e go; do sleep 0.01; done; echo late\n", "").start();
    assert!(running.wait().success());
    std::fs::write(running.folder().join("go"), "").unwrap();
    running.wait_until("late", |running| log(running).contains("a.1    | late\n"));
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs script(1)")]
fn daemon_releases_the_terminal() {
    let procfile = "a: echo early; until test -e go; do sleep 0.01; done; echo late; \
                    touch done; exec sleep 1000\n";
    let scenario = Scenario::of("script").file("Procfile", procfile);
    // script(1) provides a terminal, and exits when no process has it open any more.
    let scenario = scenario.args("-qec").arg("exec $GANGER start -D").arg("/dev/null");
    let mut running = scenario.env("SHELL", "/bin/sh").start();
    running.wait();
    let pid = pid(&running);
    std::fs::write(running.folder().join("go"), "").unwrap();
    running.wait_until("done", |running| running.folder().join("done").exists());
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let open: Vec<_> = open.map(|it| std::fs::read_link(it.path()).unwrap_or_default()).collect();
    assert!(open.iter().all(|path| !path.starts_with("/dev/pts")), "{open:?}");
    assert_eq!(running.run_client("logs --no-prefix a").0, "early\nlate\n");
    assert_eq!(running.run_client("quit").1, 0);
    let stdout = running.finish().stdout();
    assert!(stdout.contains("a.1 started") && !stdout.contains("late"), "{stdout}");
}
