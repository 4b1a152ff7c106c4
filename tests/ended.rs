//! What is left of an app that has ended, and what its followers are told.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::control::{ClientOutput, client_output, request, run_client};
use crate::scenario::{Running, Scenario, is_alive, runtime_files, wait_until};
use crate::screen::Screen;

/// A daemon, whose output goes to a file.
fn daemon(procfile: &str, args: &str) -> Running {
    let scenario = Scenario::procfile(procfile).args("start -D").args(args);
    let folder = scenario.folder().to_owned();
    let scenario = scenario.command(|command| {
        let log = File::create(folder.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
    });
    let mut running = scenario.start();
    let code = running.wait().code();
    assert_eq!(code, Some(0), "{}", fs::read_to_string(folder.join("log")).unwrap());
    running
}

fn root(folder: &Path) -> String {
    fs::canonicalize(folder).unwrap().display().to_string()
}

/// The output of a command, with `N` for how long ago something was.
fn ask(running: &Running, args: &str) -> ClientOutput {
    let ClientOutput(text, code) = running.run_client(args);
    let text = match text.split_once(" ended ").zip(text.split_once(" ago with ")) {
        Some(((before, _), (_, after))) => format!("{before} ended N ago with {after}"),
        None => text,
    };
    ClientOutput(text, code)
}

fn record(running: &Running) -> Option<PathBuf> {
    let files = runtime_files(running.folder());
    files.into_iter().find(|path| path.extension().is_some_and(|it| it == "last"))
}

const FAILS: &str =
    "a: echo broken; until test -e go; do sleep 0.02; done; exit 7\nb: exec sleep 1000\n";

#[test]
fn ps_and_logs_answer_after_a_daemon_has_failed() {
    let mut running = daemon(FAILS, "");
    assert_eq!(record(&running), None);
    fs::write(running.folder().join("go"), "").unwrap();
    running.wait_until("its end", |running| record(running).is_some());
    running.wait_until("its end", |running| running.run_client("ps").0.contains("ended"));
    let root = root(running.folder());
    let report = format!(
        "ganger: no ganger runs in `{root}`; the last one ended N ago with exit code 7 (`ganger \
         logs` shows its last lines)\n  a.1 failed first: it exited (7)\n  its last lines:\n    \
         broken\n  stopped because of it: b.1\n"
    );
    assert_eq!(ask(&running, "ps"), client_output(&report, 3));
    assert_eq!(ask(&running, "quit"), client_output(&report, 3));
    let with_report = |lines: &str, code| client_output(&format!("{lines}{report}"), code);
    assert_eq!(ask(&running, "logs --no-prefix a"), with_report("broken\n", 3));
    assert_eq!(ask(&running, "logs -n 1 a.1"), with_report("a.1    | broken\n", 3));
    assert_eq!(ask(&running, "logs --since 0 a"), with_report("", 3));
    let ClientOutput(unknown, 2) = ask(&running, "logs wep") else { panic!("it is known") };
    assert!(unknown.ends_with("ganger: there is no process `wep`\n"), "{unknown}");
    assert_eq!(ask(&running, "logs -f --exit-code a"), with_report("a.1    | broken\n", 7));
    let ClientOutput(own, 3) = ask(&running, "logs ganger") else { panic!("no answer") };
    assert!(own.contains("ganger | a.1 exited (7), stopping all\n"), "{own}");
    let ClientOutput(text, 3) = running.run_client("ps --json") else { panic!("no answer") };
    let json = text.split("ganger: ").next().unwrap();
    let last: Value = serde_json::from_str(json).unwrap();
    assert_eq!(last["processes"], Value::Array(Vec::new()));
    assert_eq!(last["last_run"]["exit_code"], 7);
    assert_eq!(last["last_run"]["report"][0], "a.1 failed first: it exited (7)");
    let mode = fs::metadata(record(&running).unwrap()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The next start forgets it.
    let next = Scenario::procfile("c: true\n").in_folder(running.folder()).args("start");
    fs::write(running.folder().join("Procfile"), "c: true\n").unwrap();
    next.run().code(0);
    let nothing = format!(
        "ganger: no ganger runs in `{root}` (start one with `ganger start`, or name its socket: \
         `-s`)\n"
    );
    assert_eq!(ask(&running, "ps"), client_output(&nothing, 3));
    assert_eq!(record(&running), None);
}

#[test]
fn daemon_that_was_stopped_leaves_its_last_lines() {
    let mut running = daemon("a: echo up; exec sleep 1000\n", "--name x");
    let log = fs::read_to_string(running.folder().join("log")).unwrap();
    let hint = "ganger | up in the background: `ganger --name x logs -f` follows its output, \
                `ganger --name x quit` stops it\n";
    assert!(log.ends_with(hint), "{log}");
    assert_eq!(running.run_client("quit"), client_output("", 0));
    running.wait_until("its end", |running| record(running).is_some());
    let ClientOutput(text, 3) = ask(&running, "logs --no-prefix") else { panic!("no answer") };
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"up") && lines.contains(&"a.1 stopped"), "{text}");
    assert!(text.contains("the last one ended N ago with exit code 0 ("), "{text}");
    assert_eq!(ask(&running, "ps --name y").0.matches("ended").count(), 0);
}

#[test]
fn kept_lines_are_shown_as_those_of_a_running_app() {
    let procfile = "a: echo life >> lives; echo \"life $(wc -l < lives)\"; \
                    printf '\\033[2J\\033[31mred\\033[0m\\n'; exec sleep 1000\n";
    let mut running = daemon(procfile, "");
    assert_eq!(running.run_client("restart --wait a").1, 0);
    running.wait_until("two lives", |running| running.run_client("logs a").0.contains("life 2"));
    let json = |args: &str| -> Vec<serde_json::Value> {
        let ClientOutput(text, 3) = ask(&running, args) else { panic!("`{args}` finds an app") };
        let objects = text.lines().filter(|line| line.starts_with('{'));
        objects.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(running.run_client("quit").1, 0);
    wait_until("its end", || record(&running).is_some());
    let lines = json("logs a --json --this-run -n 2");
    let texts: Vec<&str> = lines.iter().filter_map(|it| it["line"].as_str()).collect();
    assert_eq!(texts, ["life 2", "red"]);
    // A later cursor is that of another ganger.
    let cursor = lines.last().unwrap()["cursor"].as_str().unwrap();
    let lines = json(&format!("logs --json --cursor {cursor}"));
    assert!(lines[0]["missed_bytes"].is_null() && lines[0].get("missed_bytes").is_some());
    assert_eq!(lines.iter().filter(|it| it["line"] == "life 1").count(), 1);
    // On a terminal, what would change it is left out.
    let mut screen = Screen::new(24, 80);
    let logs = Scenario::new().in_folder(running.folder()).args("logs --this-run a --color always");
    screen.show(logs).start().finish().code(3);
    screen.wait_for("a.1    | life 2").wait_for("a.1    | red");
    assert!(screen.raw().contains("\x1b[31m") && !screen.raw().contains("\x1b[2J"));
    assert!(!screen.text().contains("life 1"), "{}", screen.text());
}

#[test]
fn daemon_that_was_killed_is_reported() {
    let mut running = daemon("a: exec sleep 1000\n", "");
    let pid = request(&running.socket(), "GET", "/")["pid"].as_i64().unwrap();
    let process = Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(process, Signal::SIGKILL).unwrap();
    running.wait_until("its end", |_| !is_alive(process));
    let expected = format!(
        "ganger: no ganger runs in `{}`; the last one (pid {pid}) was killed\n",
        root(running.folder())
    );
    // Its parent may be slow to reap it.
    running.wait_until("its end", |running| running.run_client("ps").0.contains("killed"));
    assert_eq!(running.run_client("ps"), client_output(&expected, 3));
}

#[test]
fn refused_start_and_a_command_keep_what_the_last_run_left() {
    let mut running = daemon("a: echo up; exec sleep 1000\n", "-N");
    assert_eq!(running.run_client("quit"), client_output("", 0));
    running.wait_until("its end", |running| record(running).is_some());
    let path = record(&running).unwrap();
    let left = fs::read(&path).unwrap();
    let again = |args: &str| Scenario::new().in_folder(running.folder()).args(args).run();
    let config = running.folder().join("ganger.toml");
    fs::write(&config, "[process.a]\ndir = 'missing'\n").unwrap();
    again("start").code(2);
    assert_eq!(fs::read(&path).unwrap(), left);
    fs::remove_file(config).unwrap();
    again("with -N -- true").code(0);
    assert_eq!(fs::read(&path).unwrap(), left);
}

#[test]
fn foreground_run_leaves_nothing() {
    let scenario = Scenario::procfile("a: exit 7\n");
    let folder = scenario.folder().to_owned();
    let running = scenario.args("start").start().finish_but_keep();
    assert_eq!(runtime_files(&folder), Vec::<PathBuf>::new());
    assert_eq!(running.run_client("ps").1, 3);
}

#[test]
fn follower_is_told_why_the_app_ended_and_its_exit_code() {
    for (args, code) in [("logs -f", 0), ("logs -f --exit-code", 7)] {
        let scenario = Scenario::procfile(FAILS);
        let folder = scenario.folder().to_owned();
        let mut running = scenario.args("start").start();
        running.wait_for("broken\n").wait_for("b.1 started");
        let mut follower = Scenario::new().in_folder(&folder).args(args).start();
        follower.wait_for("broken\n");
        fs::write(folder.join("go"), "").unwrap();
        let output = follower.finish().code(code).stdout();
        for expected in ["a.1 exited (7), stopping all\n", "a.1 failed first: it exited (7)\n"] {
            assert!(output.contains(&format!("ganger | {expected}")), "{output}");
        }
        running.finish().code(7);
    }
    let refused = Scenario::procfile(FAILS).args("logs --exit-code").run().code(2).stderr();
    assert!(refused.contains("--follow"), "{refused}");
}

#[test]
fn messages_of_ganger_are_part_of_the_logs() {
    let mut running = Scenario::procfile("a: exec sleep 1000\n").args("start").start();
    running.wait_for("a.1 started");
    let ClientOutput(own, 0) = running.run_client("logs ganger") else { panic!("no answer") };
    assert!(own.starts_with("ganger | a.1 started, pid "), "{own}");
    assert_eq!(running.run_client("logs").0, own);
    assert_eq!(running.run_client("logs a"), client_output("", 0));
    let ClientOutput(colored, 0) = running.run_client("logs --color always") else { panic!() };
    assert!(colored.starts_with("\x1b[1mganger | \x1b[0ma.1 started"), "{colored:?}");
    running.quit();
}

#[test]
fn log_file_can_be_truncated_while_it_is_written() {
    let procfile =
        "a: echo before; until test -e go; do sleep 0.02; done; echo after; exec sleep 1000\n";
    let scenario = Scenario::of("sh").file("Procfile", procfile).args("-c");
    let mut running = scenario.arg("exec $GANGER start >> log 2>&1").start();
    let folder = running.folder().to_owned();
    let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
    running.wait_until("before", |_| log().contains("before\n"));
    // As logrotate(8) does with `copytruncate`.
    fs::copy(folder.join("log"), folder.join("log.1")).unwrap();
    File::options().write(true).open(folder.join("log")).unwrap().set_len(0).unwrap();
    fs::write(folder.join("go"), "").unwrap();
    running.wait_until("after", |_| log().contains("after\n"));
    assert_eq!(log(), "a.1    | after\n");
    assert_eq!(run_client(&folder, "quit").1, 0);
    running.finish().code(0);
}

#[test]
fn output_can_go_to_a_program_that_rotates_it() {
    let procfile = "a: seq 1 1000; exec sleep 1000\n";
    let scenario = Scenario::of("sh").file("Procfile", procfile).args("-c");
    let script = "$GANGER start --no-prefix 2> /dev/null | split -l 100 - app.log.";
    let mut running = scenario.arg(script).start();
    let folder = running.folder().to_owned();
    running.wait_until("all", |_| run_client(&folder, "logs -n 1 --no-prefix a").0 == "1000\n");
    assert_eq!(run_client(&folder, "quit").1, 0);
    let _running = running.finish_but_keep();
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("app.log."));
    files.sort();
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let numbers: Vec<String> = (1..=1000).map(|number| number.to_string()).collect();
    let expected = numbers.join("\n") + "\n";
    assert_eq!((files.len(), text), (10, expected));
}
