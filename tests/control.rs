//! The client commands of a running ganger, and its HTTP API.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::scenario::{
    GANGER, Running, Scenario, TEST_TIMEOUT, children, runtime_files, tag, tagged, use_runtime_dir,
};

/// The output of a client command, and its exit code.
#[derive(Debug, Eq, PartialEq)]
pub struct ClientOutput(pub String, pub i32);

pub fn client_output(text: &str, code: i32) -> ClientOutput {
    ClientOutput(text.to_owned(), code)
}

/// Runs a client command in the folder of a running ganger.
pub fn run_client(folder: &Path, args: &str) -> ClientOutput {
    let mut command = Command::new(GANGER);
    command.args(args.split(' ')).current_dir(folder).env("HOME", "/root");
    use_runtime_dir(&mut command, folder);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    client_output(&String::from_utf8(text).unwrap(), output.status.code().unwrap())
}

impl Running {
    /// Runs a client command in the same folder.
    pub fn run_client(&self, args: &str) -> ClientOutput {
        run_client(self.folder(), args)
    }

    pub fn processes(&self) -> Vec<Value> {
        let ClientOutput(text, 0) = self.run_client("ps --json") else { panic!("no answer") };
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["schema_version"], 1);
        answer["processes"].as_array().unwrap().clone()
    }

    /// `NAME STATE` of each process.
    pub fn states(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let line =
            |process: &Value| format!("{} {}", text(&process["name"]), text(&process["state"]));
        self.processes().iter().map(line).collect()
    }

    pub fn wait_for_states(&mut self, expected: &[&str]) {
        self.wait_until("states", |running| running.states() == expected);
    }

    pub fn socket(&self) -> PathBuf {
        let mut files = runtime_files(self.folder()).into_iter();
        files.find(|path| path.extension().is_some_and(|it| it == "sock")).unwrap()
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    pub fn quit(self) {
        assert_eq!(self.run_client("quit"), client_output("", 0));
        self.finish().code(0);
    }
}

/// Sends a request without a body, and returns the JSON of the response.
pub fn request(socket: &Path, method: &str, path: &str) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: ganger\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

pub fn up(procfile: &str, args: &str) -> Running {
    let mut running = Scenario::procfile(procfile).args("start").args(args).start();
    running.wait_until("a socket", |running| running.run_client("ps").1 == 0);
    running
}

pub const SLEEPERS: &str = "web: exec sleep 1000\nworker: exec sleep 1000\n";

#[test]
fn ps_lists_running_processes() {
    let mut running = up("web: exec sleep 1000\njob: exit 3\n", "--any-can-die");
    running.wait_for_states(&["web.1 up", "job.1 down"]);
    let all = running.processes();
    assert_eq!(all[0]["pid"].as_i64().unwrap(), i64::from(children(running.keeper())[0].as_raw()));
    assert_eq!((&all[0]["port"], &all[0]["bound"]), (&Value::from(5000), &Value::from(false)));
    assert!(all[0]["memory"].as_u64().unwrap() > 100_000, "{all:?}");
    assert_eq!(all[1]["last_exit"], "exited (3)");
    assert_eq!((&all[1]["pid"], &all[1]["restarts"]), (&Value::Null, &Value::from(0)));
    let ClientOutput(table, 0) = running.run_client("ps j*") else { panic!("no answer") };
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("NAME "), "{table}");
    assert!(lines[1].starts_with("job.1  -    down   5100") && lines[1].ends_with("exited (3)"));
    running.signal(Signal::SIGTERM);
    running.finish().code(3);
}

#[test]
fn ps_counts_all_descendants_of_a_process_and_knows_its_port() {
    let port = crate::scenario::free_port();
    // The process that listens is a child in a session of its own.
    let procfile = "web: setsid -w $HOSTILE listen $PORT x\n";
    let mut running = up(procfile, &format!("-p {port}"));
    running.wait_until("bound", |running| running.processes()[0]["bound"] == true);
    running.quit();
}

#[test]
fn scale_changes_only_the_named_types() {
    let mut running = up(SLEEPERS, "");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    let before = running.processes()[0]["pid"].clone();
    assert_eq!(
        running.run_client("scale web+2 worker=0"),
        client_output("starting web.2 web.3\nstopping worker.1\n", 0)
    );
    running.wait_for_states(&["web.1 up", "web.2 up", "web.3 up"]);
    assert_eq!(running.processes()[0]["pid"], before);
    assert_eq!(running.run_client("scale web=3"), client_output("nothing to do\n", 0));
    assert_eq!(running.run_client("scale all=0"), client_output("stopping web.1 web.2 web.3\n", 0));
    running.wait_for_states(&[]);
    // ganger stays up, and can be scaled up again.
    assert_eq!(running.run_client("scale worker=1"), client_output("starting worker.1\n", 0));
    running.wait_for_states(&["worker.1 up"]);
    for (changes, error) in [
        ("wep=1", "the Procfile has no `wep` (did you mean `web`?)"),
        ("worker-2", "`worker-2`: only 1 of `worker` run"),
    ] {
        assert_eq!(
            running.run_client(&format!("scale {changes}")),
            ClientOutput(format!("ganger: {error}\n"), 2)
        );
    }
    let ClientOutput(error, 2) = running.run_client("scale web=101") else { panic!("no refusal") };
    assert!(
        error.starts_with("ganger: formation: 101 processes of `web` need more ports"),
        "{error}"
    );
    assert_eq!(running.states(), ["worker.1 up"]);
    running.quit();
}

#[test]
fn stopped_process_stays_down_until_restart() {
    let mut running = up(SLEEPERS, "-N -m web=2");
    assert_eq!(running.run_client("wait web worker --ready --timeout 60").1, 0);
    assert_eq!(
        running.run_client("stop web.1 worker"),
        client_output("stopping web.1 worker.1\n", 0)
    );
    running.wait_for_states(&["web.1 down", "web.2 up", "worker.1 down"]);
    let pid = |running: &Running| running.processes()[1]["pid"].as_i64().unwrap();
    let before = pid(&running);
    let both = client_output("starting web.1\nrestarting web.2\n", 0);
    assert_eq!(running.run_client("restart --wait web"), both);
    assert_eq!(running.states(), ["web.1 up", "web.2 up", "worker.1 down"]);
    assert_ne!(pid(&running), before);
    let expected = "ganger: there is no process `weg` (did you mean `web`?)\n";
    for command in ["stop", "restart", "signal USR1", "wait --ready"] {
        assert_eq!(running.run_client(&format!("{command} weg")), client_output(expected, 2));
    }
    running.quit();
}

#[test]
fn rolling_restart_takes_one_process_at_a_time() {
    let running = up("web: exec sleep 1000\n", "-N -m web=4");
    running.run_client("wait web --ready --timeout 60");
    let before: Vec<Value> = running.processes().iter().map(|it| it["pid"].clone()).collect();
    assert_eq!(running.run_client("restart --rolling --wait web").1, 0);
    let after: Vec<Value> = running.processes().iter().map(|it| it["pid"].clone()).collect();
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    assert_eq!(running.run_client("quit"), client_output("", 0));
    let stderr = running.finish().code(0).stderr();
    assert_one_after_the_other(&stderr);
}

#[test]
fn rolling_reload_takes_one_process_at_a_time() {
    let mut running = up("web: exec sleep 1000\nworker: exec sleep 1000\n", "-N -m web=4");
    running.run_client("wait web worker --ready --timeout 60");
    std::fs::write(running.folder().join(".env"), "A=1\n").unwrap();
    let all = client_output("restarting web.1 web.2 web.3 web.4 worker.1\n", 0);
    assert_eq!(running.run_client("reload --rolling"), all);
    running.wait_until("the last", |running| running.count_in_output("worker.1 started") == 2);
    running.run_client("quit");
    let stderr = running.finish().code(0).stderr();
    assert_one_after_the_other(&stderr);
}

/// Asserts that four processes of `web` were restarted one after the other.
fn assert_one_after_the_other(stderr: &str) {
    let (_, rolling) = stderr.split_once("web.1 stopped\n").unwrap();
    let words = |line: &str| {
        let (_, words) = line.split_once("| ").unwrap();
        words.split([' ', ',']).take(2).collect::<Vec<_>>().join(" ")
    };
    let rolling: Vec<String> = rolling.lines().take(7).map(words).collect();
    let expected =
        ["1 started", "2 stopped", "2 started", "3 stopped", "3 started", "4 stopped", "4 started"];
    assert_eq!(rolling, expected.map(|it| format!("web.{it}")));
}

#[test]
fn rolling_restart_pauses_at_a_failed_process_and_can_be_continued() {
    let procfile = "web: test ! -e broken || exit 3; exec sleep 1000\n";
    let mut running = up(procfile, "-N -m web=3 --any-can-die");
    running.wait_for_states(&["web.1 up", "web.2 up", "web.3 up"]);
    let before: Vec<Value> = running.processes().iter().map(|it| it["pid"].clone()).collect();
    std::fs::write(running.folder().join("broken"), "").unwrap();
    // It starts before it fails, so a waiting client may get either result.
    let ClientOutput(_, 0 | 4) = running.run_client("restart --rolling --wait web.1") else {
        panic!("no")
    };
    running.wait_for_states(&["web.1 down", "web.2 up", "web.3 up"]);
    let after: Vec<Value> = running.processes().iter().map(|it| it["pid"].clone()).collect();
    assert_eq!(after[1..], before[1..]);
    // The earlier failure is not the result of the next restart.
    std::fs::remove_file(running.folder().join("broken")).unwrap();
    let again = client_output("starting web.1\nrestarting web.2 web.3\n", 0);
    assert_eq!(running.run_client("restart --rolling --wait web"), again);
    assert_eq!(running.states(), ["web.1 up", "web.2 up", "web.3 up"]);
    // The exit code is 0: the failure was mended.
    running.quit();
}

#[test]
fn rolling_restart_of_a_broken_release_reaches_one_instance_only() {
    let config = "[process.web]\non_exit = 'ignore'\nready = { log = 'serving' }\n";
    let procfile = "web: test ! -e broken || exit 3; echo serving; exec sleep 1000\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.args("start -N -m web=3").start();
    running.wait_until("three", |running| running.count_in_output("is ready") == 3);
    std::fs::write(running.folder().join("broken"), "").unwrap();
    let failed = client_output("ganger: web.1 exited (3), and stays down\n", 4);
    assert_eq!(running.run_client("restart --rolling --wait web"), failed);
    running.wait_for("not restarted: web.2, web.3\n");
    assert_eq!(running.states(), ["web.1 down", "web.2 up", "web.3 up"]);
    running.run_client("quit");
    running.finish().code(3);
}

#[test]
fn reload_starts_failed_processes_again() {
    let procfile = "web: exec sleep 1000\njob: exit $CODE\ndone: exit 0\n";
    let scenario = Scenario::procfile(procfile).file(".env", "CODE=3\n");
    let mut running = scenario.args("start --any-can-die").start();
    running.wait_until("both", |running| running.count_in_output(" exited (") == 2);
    assert_eq!(running.run_client("reload"), client_output("nothing to do\n", 0));
    std::fs::write(running.folder().join(".env"), "CODE=0\n").unwrap();
    assert_eq!(
        running.run_client("reload"),
        client_output("starting job.1\nrestarting web.1\n", 0)
    );
    running.wait_for("job.1 exited (0)\n");
    assert_eq!(running.count_in_output("done.1 started"), 1);
    running.quit();
}

#[test]
fn reload_restarts_only_changed_processes() {
    let mut running =
        up("web: exec sleep 1000\nworker: exec sleep 1000\nold: exec sleep 1000\n", "");
    running.wait_for_states(&["web.1 up", "worker.1 up", "old.1 up"]);
    running.run_client("scale worker=2");
    running.run_client("stop web");
    running.wait_for_states(&["web.1 down", "worker.1 up", "worker.2 up", "old.1 up"]);
    assert_eq!(running.run_client("reload"), client_output("nothing to do\n", 0));
    let procfile = running.folder().join("Procfile");
    std::fs::write(&procfile, "web: exec sleep 2000\nworker: exec sleep 1000\n<<<<\n").unwrap();
    let broken = "ganger: `Procfile` line 3: expected `name: command`, found `<<<<` (comments begin with `#`)\n";
    assert_eq!(running.run_client("reload"), client_output(broken, 2));
    assert_eq!(running.states(), ["web.1 down", "worker.1 up", "worker.2 up", "old.1 up"]);
    let text = "# a comment\nweb: exec sleep 2000\nworker: exec sleep 2000\nnew: exec sleep 1000\n";
    std::fs::write(&procfile, text).unwrap();
    std::fs::write(running.folder().join(".env"), "A=1\n").unwrap();
    let changed = "starting new.1\nstopping old.1\nrestarting worker.1 worker.2\n";
    assert_eq!(running.run_client("reload"), client_output(changed, 0));
    running.wait_for_states(&["web.1 down", "worker.1 up", "worker.2 up", "new.1 up"]);
    running.quit();
}

#[test]
fn signal_reaches_only_the_named_processes() {
    let procfile = "a: trap 'echo got' USR1; echo set; while :; do sleep 0.05; done\n\
                    b: trap 'echo got' USR1; echo set; while :; do sleep 0.05; done\n";
    let mut running = up(procfile, "");
    running.wait_until("both", |running| running.count_in_output("| set\n") == 2);
    assert_eq!(running.run_client("signal USR1 a"), client_output("signalled a.1\n", 0));
    running.wait_for("a.1    | got\n");
    assert_eq!(running.count_in_output("b.1    | got\n"), 0);
    assert_eq!(running.run_client("signal NONE a").1, 2);
    running.quit();
}

#[test]
fn wait_ends_at_its_timeout_and_when_a_process_exits() {
    let running = up(
        "a: until test -e go; do sleep 0.01; done; exit 4\nb: exec sleep 1000\n",
        "--any-can-die",
    );
    let late = "ganger: timed out after 0.2s\n";
    assert_eq!(running.run_client("wait a --exit --timeout 0.2"), client_output(late, 4));
    let file = running.folder().join("go");
    let touch = std::thread::spawn(move || std::fs::write(file, "").unwrap());
    assert_eq!(
        running.run_client("wait a --exit --timeout 60"),
        client_output("a.1 exited (4)\n", 0)
    );
    touch.join().unwrap();
    running.run_client("quit");
    running.finish().code(4);
}

#[test]
fn requests_to_a_stopping_ganger_are_refused() {
    let procfile = "a: trap '' TERM; echo set; while :; do sleep 0.05; done\n";
    let mut running = up(procfile, "-t 60");
    running.wait_for("| set\n").signal(Signal::SIGTERM);
    running.wait_for("stopping all\n");
    let stopping = client_output("ganger: ganger is shutting down\n", 3);
    for command in ["restart a", "stop a", "scale a=2", "reload", "wait a --ready"] {
        assert_eq!(running.run_client(command), stopping, "{command}");
    }
    assert_eq!(running.states(), ["a.1 stopping"]);
    assert_eq!(running.run_client("logs -n 1 --no-prefix a").0, "set\n");
    // A signal is still sent: the user could send it from a terminal, too.
    assert_eq!(running.run_client("signal KILL a").0, "signalled a.1\n");
    running.finish().code(0);
}

#[test]
fn wait_continues_while_a_process_is_restarted() {
    let procfile = "a: test -e go || exit 1; echo up; exec sleep 1000\n";
    let config = "[process.a]\nready = { log = 'up' }\nbackoff = { min = '10ms', max = '20ms' }\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.args("start -r a").start();
    running.wait_until("an answer", |running| running.run_client("ps").1 == 0);
    let mut waiting =
        Scenario::new().in_folder(running.folder()).args("wait a --ready --timeout 60").start();
    running.wait_until("some tries", |running| running.count_in_output("a.1 exited (1)") > 5);
    assert_eq!(waiting.child.try_wait().unwrap(), None);
    std::fs::write(running.folder().join("go"), "").unwrap();
    assert_eq!(waiting.finish().code(0).stdout(), "a.1 is ready\n");
    running.quit();
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn start_waits_until_another_process_frees_the_port() {
    let port = crate::scenario::free_port();
    // It frees the port half a second after SIGTERM.
    let slow = "import http.server, os, signal, sys, threading, time\n\
                def leave(*_):\n\
                \x20   time.sleep(0.5)\n\
                \x20   os._exit(0)\n\
                signal.signal(signal.SIGTERM, leave)\n\
                http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), \
                http.server.SimpleHTTPRequestHandler).serve_forever()\n";
    let procfile = "web: exec python3 slow.py\napi: exec python3 slow.py\n";
    let scenario = Scenario::procfile(procfile).file("slow.py", slow);
    let ready = "[process.web]\nready = { port = true }\n[process.api]\nready = { port = true }\n";
    let mut running = scenario.file("ganger.toml", ready).args(&format!("start -p {port}")).start();
    running.wait_until("both", |running| running.count_in_output(" is ready") == 2);
    let swapped = "api: exec python3 slow.py\nweb: exec python3 slow.py\n";
    std::fs::write(running.folder().join("Procfile"), swapped).unwrap();
    assert_eq!(running.run_client("reload"), client_output("restarting api.1 web.1\n", 0));
    running.wait_until("both again", |running| running.count_in_output(" is ready") == 4);
    let renamed = "www: exec python3 slow.py\nweb: exec python3 slow.py\n";
    std::fs::write(running.folder().join("Procfile"), renamed).unwrap();
    std::fs::write(running.folder().join("ganger.toml"), "").unwrap();
    assert_eq!(running.run_client("reload"), client_output("starting www.1\nstopping api.1\n", 0));
    running.wait_for(&format!("www.1 waits for api.1 to free port {port}\n"));
    running.wait_for("www.1 started");
    running.quit();
}

#[test]
fn invalid_change_is_refused_with_a_hint() {
    let mut running = up(SLEEPERS, "-N");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    let many = "ganger: formation: 40000000 processes of `web` are too many (limit 10000)\n";
    assert_eq!(running.run_client("scale web=40000000"), client_output(many, 2));
    let twice = "ganger: `web` is changed twice: say it once\n";
    assert_eq!(running.run_client("scale web+1 web+1"), client_output(twice, 2));
    // An invalid request is refused before anything is done.
    let pids = |running: &Running| {
        running.processes().iter().map(|it| it["pid"].clone()).collect::<Vec<_>>()
    };
    let before = pids(&running);
    for uri in ["restart?wait=-1", "restart?rolling=maybe", "wait", "signal"] {
        let method = if uri == "wait" { "GET" } else { "POST" };
        let answer = request(&running.socket(), method, &format!("/processes/web/{uri}"));
        assert!(answer["error"].is_string(), "{answer}");
    }
    assert_eq!(pids(&running), before);
    running.quit();
    // A flag may name a type that a reload removes and adds.
    let mut running = up(SLEEPERS, "-N --can-die worker -m worker=2");
    let procfile = running.folder().join("Procfile");
    std::fs::write(&procfile, "web: exec sleep 1000\n").unwrap();
    assert_eq!(running.run_client("reload"), client_output("stopping worker.1 worker.2\n", 0));
    running.wait_for_states(&["web.1 up"]);
    std::fs::write(&procfile, SLEEPERS).unwrap();
    assert_eq!(running.run_client("reload"), client_output("starting worker.1 worker.2\n", 0));
    // A running process does not change between listening and not listening.
    running.quit();
    let port = crate::scenario::free_port();
    let mut running = up("web: exec sleep 1000\n", &format!("-p {port}"));
    running.wait_for_states(&["web.1 up"]);
    let config = "[process.web]\nlisten = true\n";
    std::fs::write(running.folder().join("ganger.toml"), config).unwrap();
    let refusal = "ganger: `listen` of `web` can't change while it runs (take it down first: \
                   `ganger scale web=0`, and then up again)\n";
    assert_eq!(running.run_client("reload"), client_output(refusal, 2));
    running.run_client("scale web=0");
    running.wait_for_states(&[]);
    assert_eq!(running.run_client("reload").1, 0);
    assert_eq!(running.run_client("scale web=1"), client_output("starting web.1\n", 0));
    running.wait_until("again", |running| running.count_in_output("web.1 started, pid ") == 2);
    running.quit();
}

#[test]
fn wait_fails_at_once_for_a_process_that_can_not_become_ready() {
    let mut running = up("a: exec sleep 1000\nb: exit 0\n", "-N --any-can-die -m a=2");
    running.wait_for_states(&["a.1 up", "a.2 up", "b.1 down"]);
    running.run_client("stop a.1");
    for (name, why) in [("a.1", "was stopped, and stays down"), ("b", "exited (0), and stays down")]
    {
        let name_of_it = if name == "b" { "b.1" } else { name };
        let expected = format!("ganger: {name_of_it} {why}\n");
        assert_eq!(
            running.run_client(&format!("wait {name} --ready")),
            client_output(&expected, 4)
        );
    }
    running.quit();
}

#[test]
fn exit_removes_only_its_own_socket() {
    let running = up(SLEEPERS, "");
    let socket = running.socket();
    // A user has removed the files, and started another ganger.
    std::fs::remove_file(&socket).unwrap();
    std::fs::remove_file(socket.with_extension("sock.lock")).unwrap();
    let mut other = Scenario::procfile("b: exec sleep 1000\n").in_folder(running.folder());
    other = other.args("start -N");
    let mut other = other.start();
    other.wait_for("b.1 started");
    running.signal(Signal::SIGTERM);
    let folder = running.folder().to_owned();
    let keep = running.finish_but_keep();
    assert_eq!(run_client(&folder, "ps").1, 0);
    assert_eq!(run_client(&folder, "quit").1, 0);
    other.finish().code(0);
    drop(keep);
}

#[test]
fn client_commands_report_that_no_ganger_runs() {
    for command in [
        "ps",
        "stop a",
        "restart a",
        "scale a=1",
        "reload",
        "signal HUP a",
        "wait a --exit",
        "quit",
    ] {
        let scenario = Scenario::new();
        let root = scenario.folder().canonicalize().unwrap();
        let finished = scenario.args(command).run().code(3);
        let expected = format!(
            "ganger: no ganger runs in `{}` (start one with `ganger start`, or name its socket: `-s`)\n",
            root.display()
        );
        assert_eq!(finished.stderr(), expected);
    }
}

#[test]
fn stop_and_restart_without_names_or_with_all_mean_all_processes() {
    let mut running = up(SLEEPERS, "-N");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    assert_eq!(
        running.run_client("restart --wait"),
        client_output("restarting web.1 worker.1\n", 0)
    );
    assert_eq!(
        running.run_client("restart all --wait"),
        client_output("restarting web.1 worker.1\n", 0)
    );
    assert_eq!(running.run_client("stop"), client_output("stopping web.1 worker.1\n", 0));
    running.wait_for_states(&["web.1 down", "worker.1 down"]);
    assert_eq!(running.run_client("restart --wait"), client_output("starting web.1 worker.1\n", 0));
    assert_eq!(running.run_client("stop all"), client_output("stopping web.1 worker.1\n", 0));
    // ganger stays up, and starts them again.
    running.wait_for_states(&["web.1 down", "worker.1 down"]);
    running.quit();
}

#[test]
fn reload_waits_until_what_it_started_is_ready() {
    let config = "[process.a]\nready = { log = 'ready' }\n[process.b]\nready = { log = 'ready' }\n";
    let ready = "sleep 0.3; echo ready; exec sleep 1000";
    let scenario = Scenario::procfile(format!("a: {ready}\nb: {ready}\n"));
    let mut running = scenario.file("ganger.toml", config).args("start -N").start();
    running.wait_for("b.1 is ready");
    let change = |text: &str| std::fs::write(running.folder().join("Procfile"), text).unwrap();
    change(&format!("a: {ready} 1\nb: {ready} 1\nc: exec sleep 1000\n"));
    assert_eq!(
        running.run_client("reload --rolling --wait"),
        client_output("starting c.1\nrestarting a.1 b.1\n", 0)
    );
    let states = running.processes().into_iter().map(|process| process["ready"].clone());
    assert_eq!(states.collect::<Vec<_>>(), [true, true, true]);
    assert_eq!(running.run_client("reload --wait"), client_output("nothing to do\n", 0));
    change(&format!("a: exec sleep 1000\nb: {ready} 1\nc: exec sleep 1000\n"));
    assert_eq!(
        running.run_client("reload --wait=0.5s"),
        client_output("ganger: timed out after 0.5s\n", 4)
    );
    running.quit();
}

#[test]
fn suspended_ganger_is_reported_in_a_few_seconds() {
    let mut running = up("web: exec sleep 1000\n", "-N");
    running.wait_for("web.1 started");
    let pid = running.pid();
    kill(pid, Signal::SIGSTOP).unwrap();
    let expected = format!(
        "ganger: ganger (pid {pid}) does not answer: it may be suspended (`kill -CONT {pid}` \
         continues it)\n"
    );
    let folder = running.folder().to_owned();
    let commands = ["ps", "stop web", "logs -f", "wait web --exit", "restart web --wait", "quit"];
    let clients: Vec<_> = commands
        .map(|args| {
            let folder = folder.clone();
            let ask = move || {
                let since = Instant::now();
                (args, run_client(&folder, args), since.elapsed())
            };
            std::thread::spawn(ask)
        })
        .into();
    for client in clients {
        let (args, answer, took) = client.join().unwrap();
        assert_eq!(answer, client_output(&expected, 1), "{args}");
        assert!(took < Duration::from_secs(20), "{args}: {took:?}");
    }
    kill(pid, Signal::SIGCONT).unwrap();
    running.quit();
}

#[test]
fn client_waits_longer_than_the_answer_timeout_for_a_slow_operation() {
    let running = up("web: exec sleep 1000\nslow: sleep 7\n", "-N --can-die slow");
    assert_eq!(running.run_client("wait slow --exit"), client_output("slow.1 exited (0)\n", 0));
    running.quit();
}

#[test]
fn second_start_in_a_folder_is_refused_and_a_stale_socket_replaced() {
    let running = up(SLEEPERS, "");
    let pid = running.pid();
    let ClientOutput(refusal, code) = running.run_client("start");
    let (age, rest) = refusal.split_once(" (pid ").unwrap();
    assert!(age.starts_with("ganger: already running for ") && age.ends_with('s'), "{age}");
    let expected = format!(
        "{pid}): `ganger ps` shows it, `ganger quit` stops it, and `--name NAME` runs another one \
         beside it\n"
    );
    assert_eq!((rest, code), (expected.as_str(), 2));
    let folder = running.folder().to_owned();
    let mut other = Scenario::procfile("a: exec sleep 1000\n")
        .in_folder(&folder)
        .args("start -s other.sock -N")
        .start();
    other.wait_for("started");
    running.run_client("-s other.sock quit");
    other.finish().code(0);
    assert!(!folder.join("other.sock").exists());
    // A ganger that is killed leaves its socket.
    kill(pid, Signal::SIGKILL).unwrap();
    let keeper = running.keeper_if_any();
    let mut running = running;
    running.wait();
    running.wait_until("the keeper's exit", |_| {
        keeper.is_none_or(|it| !crate::scenario::is_alive(it))
    });
    assert_eq!(running.run_client("ps").1, 3);
    let socket = running.socket();
    let mut next = Scenario::procfile(SLEEPERS).in_folder(&folder).args("start").start();
    next.wait_until("an answer", |_| running.run_client("ps").1 == 0);
    assert_eq!(running.run_client("quit").1, 0);
    next.finish().code(0);
    assert!(!socket.exists());
}

#[test]
fn file_that_is_no_stale_socket_is_not_replaced() {
    let procfile = "a: exec sleep 1000\n";
    let refused = |scenario: Scenario, name: &str| {
        let path = scenario.folder().join(name);
        scenario.args("start -s").arg(name).run().refused(&format!(
            "`{}` is there already, and no socket of a ganger that has died (name another path \
             with `-s`)",
            path.display()
        ));
    };
    let scenario = Scenario::procfile(procfile);
    let (folder, path) = (scenario.folder().to_owned(), scenario.folder().join("Procfile"));
    refused(Scenario::procfile("").in_folder(&folder), path.to_str().unwrap());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), procfile);
    // A socket on which another program listens is not removed, and neither is a file that has the
    // name of a lock file.
    let path = folder.join("other.sock");
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    refused(Scenario::procfile("").in_folder(&folder), path.to_str().unwrap());
    assert!(UnixStream::connect(&path).is_ok());
    drop(other);
    let files = || std::fs::read_dir(&folder).unwrap().flatten().map(|it| it.file_name());
    assert!(!files().any(|name| name.to_string_lossy().ends_with(".lock")));
    std::fs::write(folder.join("other.lock"), "mine").unwrap();
    let mut running = scenario.args("start -s other.sock").start();
    running.wait_until("an answer", |running| running.run_client("-s other.sock ps").1 == 0);
    assert_eq!(running.run_client("-s other.sock quit").1, 0);
    assert_eq!(std::fs::read_to_string(folder.join("other.lock")).unwrap(), "mine");
    let expected = format!(
        "ganger: no ganger runs at `{}` (start one with `ganger start`, or name its socket: `-s`)\n",
        path.display()
    );
    assert_eq!(
        running.run_client(&format!("-s {} ps", path.display())),
        client_output(&expected, 3)
    );
    running.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn stale_socket_is_replaced_in_a_container_where_pids_repeat() {
    let scenario = Scenario::procfile(SLEEPERS);
    let folder = scenario.folder().to_owned();
    let contained = || {
        let scenario = Scenario::of("unshare").in_folder(&folder);
        scenario.args("--pid --fork --mount-proc --kill-child").arg(GANGER).args("start").start()
    };
    for _ in 0..2 {
        let mut running = contained();
        running.wait_until("an answer", |_| {
            let mut ps = Command::new(GANGER);
            ps.arg("ps").current_dir(&folder);
            use_runtime_dir(&mut ps, &folder);
            ps.output().unwrap().status.success()
        });
        // As with `docker kill` and a new container on the same volume.
        kill(children(running.pid())[0], Signal::SIGKILL).unwrap();
        running.wait();
    }
}

#[test]
fn gangers_in_two_folders_are_independent() {
    let (one, other) = (up("a: exec sleep 1000\n", ""), up("b: exec sleep 1000\n", ""));
    assert!(one.states()[0].starts_with("a.1 ") && other.states()[0].starts_with("b.1 "));
    one.quit();
    assert_eq!(other.run_client("ps").1, 0);
    other.quit();
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn client_of_another_user_is_refused() {
    let running = up(SLEEPERS, "");
    let socket = running.socket();
    let ask = || {
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "curl", "-sS"])
            .args(["-w", "%{http_code}", "--unix-socket"])
            .arg(&socket)
            .args(["-X", "POST", "http://ganger/quit"])
            .output()
            .unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    };
    assert!(!ask().1, "the modes of the files don't refuse");
    // If the modes did not refuse:
    for path in [running.folder(), socket.parent().unwrap(), &socket] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let refusal = r#"{"error":"this ganger belongs to another user"}403"#;
    assert_eq!(ask(), (refusal.to_owned(), true));
    // A client does not use a folder that other users can write to.
    let ClientOutput(text, code) = running.run_client("ps");
    assert_eq!(code, 3);
    assert!(text.contains("other users can write to `/tmp/ganger-0`"), "{text}");
    // A second ganger is refused all the same.
    let ClientOutput(refusal, 2) = running.run_client("start") else {
        panic!("a second ganger runs")
    };
    assert!(
        refusal.contains("already running for ")
            && refusal.contains(&format!(" (pid {}): ", running.pid())),
        "{refusal}"
    );
    let folder = socket.parent().unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    running.quit();
}

#[test]
fn invalid_requests_change_nothing() {
    let mut running = up(SLEEPERS, "");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    let before = running.processes();
    // Connections that stay open: with no request, half a head and half a body.
    let mut held = Vec::new();
    for half in
        ["", "GET /proc", "PATCH /formation HTTP/1.1\r\nhost: g\r\ncontent-length: 99\r\n\r\n{"]
    {
        let mut stream = running.connect();
        stream.write_all(half.as_bytes()).unwrap();
        held.push(stream);
    }
    let answer = |request: &[u8]| {
        let mut stream = running.connect();
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(answer(b"\0\xff\xfe nonsense\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let long = format!("GET /{} HTTP/1.1\r\nhost: g\r\n\r\n", "x".repeat(100_000));
    assert!(!answer(long.as_bytes()).contains(" 200 "));
    let body = |method: &str, uri: &str, body: &str| {
        let length = body.len();
        let headers = "host: g\r\nconnection: close\r\ncontent-length:";
        answer(format!("{method} {uri} HTTP/1.1\r\n{headers} {length}\r\n\r\n{body}").as_bytes())
    };
    for (method, uri, text) in [
        ("PATCH", "/formation", "[]"),
        ("PATCH", "/formation", "{\"web\": -1}"),
        ("PATCH", "/formation", "{\"web\": 1.5}"),
        ("PATCH", "/formation", "{\"web\": [2]}"),
        ("PATCH", "/formation", "{\"web=2,worker\": 3}"),
        ("POST", "/processes/web/signal?signal=NONE", ""),
        ("GET", "/processes/web/wait?for=ever", ""),
        ("GET", "/processes/web/wait?for=exit&timeout=-1", ""),
    ] {
        assert_eq!(body(method, uri, text), "HTTP/1.1 400 Bad Request", "{method} {uri} {text}");
    }
    let huge = format!("{{\"web\": \"{}\"}}", "+".repeat(100_000));
    assert!(!body("PATCH", "/formation", &huge).contains(" 200 "));
    assert_eq!(body("DELETE", "/processes", ""), "HTTP/1.1 404 Not Found");
    assert_eq!(body("GET", "/nowhere", ""), "HTTP/1.1 404 Not Found");
    let pids = |all: &[Value]| all.iter().map(|it| it["pid"].clone()).collect::<Vec<_>>();
    assert_eq!(pids(&running.processes()), pids(&before));
    // INT has an effect at once, even if a client keeps its connection open.
    running.signal(Signal::SIGINT);
    running.finish().code(0);
    drop(held);
}

#[test]
fn hundred_concurrent_clients_are_answered() {
    let running = up(SLEEPERS, "");
    let socket = running.socket();
    let ask = |_| {
        let socket = socket.clone();
        std::thread::spawn(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            let request = "GET /processes HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"worker.1\"")
        })
    };
    let all: Vec<_> = (0..100).map(ask).collect();
    assert!(all.into_iter().all(|one| one.join().unwrap()));
    running.quit();
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs curl")]
fn documented_curl_requests_work() {
    let page = include_str!("../docs/control.md");
    let procfile = "web: exec sleep 1000\nworker: trap '' USR1; while :; do sleep 0.1; done\n";
    let mut running = up(procfile, "-N -m worker=2 --pty always");
    running.wait_for_states(&["web.1 up", "worker.1 up", "worker.2 up"]);
    let requests: Vec<&str> = page.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(requests.len() > 10);
    for request in requests {
        let mut shell = Command::new("sh");
        shell.args(["-euc", request]).env("GANGER_CONTROL", running.socket());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{request}: {output:?}");
    }
    running.finish().code(0);
}

#[test]
fn every_answer_is_available_as_json() {
    let mut running = up(SLEEPERS, "");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    for (command, expected) in [
        ("scale --json web=2", json!({"started": ["web.2"]})),
        ("scale --json web=2", json!({})),
        ("restart --json --wait worker", json!({"restarted": ["worker.1"]})),
        ("signal --json CONT web.1", json!({"signalled": ["web.1"]})),
        ("stop --json web.2", json!({"stopped": ["web.2"]})),
        ("reload --json", json!({})),
    ] {
        let ClientOutput(text, 0) = running.run_client(command) else { panic!("{command}") };
        let mut changes = json!({"started": [], "stopped": [], "restarted": [], "adjusted": [],
            "signalled": [], "schema_version": 1});
        changes.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), changes, "{command}");
    }
    let ClientOutput(text, 0) = running.run_client("wait --json worker --ready") else {
        panic!("no answer")
    };
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["processes"][0]["name"], "worker.1");
    running.wait_for_states(&["web.1 up", "web.2 down", "worker.1 up"]);
    assert_eq!(
        running.run_client("wait web.2 --exit"),
        client_output("web.2 was killed by SIGTERM\n", 0)
    );
    running.quit();
}

#[test]
fn streaming_clients_leave_room_for_other_requests() {
    let mut running = up(SLEEPERS, "");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    let follow = || {
        let mut stream = running.connect();
        stream.write_all(b"GET /logs?follow=true HTTP/1.1\r\nhost: g\r\n\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        (stream, head)
    };
    let followers: Vec<_> = (0..96).map(|_| follow()).collect();
    assert!(followers.iter().all(|(_, head)| head == b"HTTP/1.1 200"));
    assert_eq!(follow().1, *b"HTTP/1.1 503");
    let full = client_output("ganger: too many streaming clients (limit 96)\n", 2);
    assert_eq!(running.run_client("wait web --exit"), full);
    assert_eq!(running.run_client("scale web=2"), client_output("starting web.2\n", 0));
    // A client that disconnects makes room.
    drop(followers);
    running.wait_until("room", |running| running.run_client("wait worker --ready").1 == 0);
    running.quit();
}

#[test]
fn change_of_restart_policy_needs_no_restart() {
    let mut running = up(SLEEPERS, "");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    let config = "[process.web]\ngrace = '1s'\n";
    std::fs::write(running.folder().join("ganger.toml"), config).unwrap();
    assert_eq!(running.run_client("reload"), client_output("adjusting web.1\n", 0));
    assert_eq!(running.run_client("reload"), client_output("nothing to do\n", 0));
    running.quit();
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs curl")]
fn processes_get_the_control_socket_in_their_environment() {
    let procfile = "a: curl -fsS --unix-socket $GANGER_CONTROL http://ganger/formation; echo\n";
    let mut running = Scenario::procfile(procfile).args("start -m a=2 --any-can-die").start();
    running.wait_for("{\"a\":2}\n").signal(Signal::SIGTERM);
    running.finish();
}

#[test]
fn random_changes_end_with_the_desired_processes() {
    let tag = tag();
    let procfile = format!(
        "a: exec $HOSTILE leaf {tag} $PS\nb: exec $HOSTILE leaf {tag} $PS\n\
         flood: exec $HOSTILE flood\n"
    );
    let mut running = up(&procfile, "-N -r all -q flood");
    // Other clients send requests repeatedly, and one follows the output.
    let over = Arc::new(AtomicBool::new(false));
    let socket = running.socket();
    let ask = |uri: &'static str| {
        let (over, socket) = (Arc::clone(&over), socket.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut stream = UnixStream::connect(&socket).unwrap();
                let request = format!("GET {uri} HTTP/1.1\r\nhost: g\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                let mut piece = [0; 4096];
                while !over.load(Ordering::Relaxed) && stream.read(&mut piece).unwrap() > 0 {}
            }
        })
    };
    let asking = ["/processes", "/processes/a*,b", "/logs?follow=true"].map(ask);
    let mut random = crate::random::Random(7);
    for _ in 0..30 {
        let (a, b) = (random.below(6), random.below(4));
        // Several changes at once, and some kills between them.
        for _ in 0..random.below(3) {
            let _ = running.run_client(&format!("scale a={} b+1", random.below(6)));
        }
        if let Some(pid) = tagged(&tag).first() {
            let _ = kill(*pid, Signal::SIGTERM);
        }
        if running.run_client("ps").1 != 0 {
            break;
        }
        let scaled = running.run_client(&format!("scale a={a} b={b}"));
        let _ = running.run_client("restart *");
        running.wait_until(&format!("{a} of a and {b} of b: {scaled:?}"), |running| {
            let names = names(&tag);
            let mut once = names.clone();
            once.dedup();
            assert_eq!(names, once, "two of one name");
            running.states().iter().all(|state| state.ends_with(" up"))
                && names.len() == usize::try_from(a + b).unwrap()
        });
    }
    over.store(true, Ordering::Relaxed);
    for one in asking {
        one.join().unwrap();
    }
    running.quit();
    assert_eq!(tagged(&tag), []);
}

/// The names of the processes that are alive, in order.
fn names(tag: &str) -> Vec<String> {
    let name = |pid: &nix::unistd::Pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let last = line.split(|byte| *byte == 0).rfind(|arg| !arg.is_empty());
        String::from_utf8_lossy(last.unwrap_or_default()).into_owned()
    };
    // A process that has exited meanwhile has no name.
    let mut names: Vec<String> = tagged(tag).iter().map(name).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    names
}

#[test]
fn logs_command_shows_the_output_of_start() {
    let procfile = "web: echo one; printf tw; sleep 0.1; echo o; printf three; exec sleep 1000\n\
                    mute: echo 1; echo 2; exec sleep 1000\n";
    let mut running = up(procfile, "-q mute");
    let all = "web.1  | one\nweb.1  | two\nweb.1  | three\n";
    running.wait_until("all", |running| running.run_client("logs web") == client_output(all, 0));
    let of_mute = client_output("1\n2\n", 0);
    running.wait_until("all", |running| running.run_client("logs --no-prefix m*") == of_mute);
    assert_eq!(running.run_client("logs -n 1 --no-prefix web.1"), client_output("three\n", 0));
    assert_eq!(running.run_client("logs --since 0 web"), client_output("", 0));
    let ClientOutput(colored, 0) = running.run_client("logs -n 1 --color always -T web") else {
        panic!("no")
    };
    let stamped = colored.as_bytes().get(2) == Some(&b':');
    assert!(colored.contains("\x1b[38;5;") && stamped, "{colored:?}");
    for args in ["logs wep", "logs -f wep", "logs web wep"] {
        let expected = "ganger: there is no process `wep` (did you mean `web`?)\n";
        assert_eq!(running.run_client(args), client_output(expected, 2));
    }
    assert!(!running.folder().join("Procfile.log").exists());
    running.quit();
}

#[test]
fn unterminated_last_line_ends_when_the_process_exits() {
    let procfile = "a: printf $PS; test -e go && exec sleep 1000; exit 1\n";
    let config = "[process.a]\nbackoff = { min = '10ms', max = '20ms' }\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.args("start -r a").start();
    running.wait_until("three lives", |running| running.count_in_output("a.1    | a.1\n") == 3);
    std::fs::write(running.folder().join("go"), "").unwrap();
    let lines = |running: &Running| running.run_client("logs --no-prefix a").0;
    running.wait_until("all lines", |it| {
        it.run_client("ps").0.contains(" up ") && lines(it).len() > 15
    });
    assert!(lines(&running).lines().all(|line| line == "a.1"), "{}", lines(&running));
    running.quit();
}

#[test]
fn client_that_does_not_read_logs_does_not_block_others() {
    let procfile = "a: $HOSTILE lines 30000 100; echo end; exec sleep 1000\n";
    let mut running = up(procfile, "-q a");
    running.wait_until("all", |running| running.run_client("logs -n 1 --no-prefix").0 == "end\n");
    let ask = |_| {
        let mut stream = running.connect();
        stream.write_all(b"GET /logs HTTP/1.1\r\nhost: g\r\n\r\n").unwrap();
        stream
    };
    let held: Vec<UnixStream> = (0..128).map(ask).collect();
    running.wait_until("an answer", |running| running.run_client("scale a=1").1 == 0);
    let memory = crate::scenario::memory(running.pid());
    assert!(memory < 128 << 20, "{memory}");
    drop(held);
    running.quit();
}

#[test]
fn recent_output_keeps_the_end() {
    let mut running = up("a: $HOSTILE lines 20000 100; echo end; exec sleep 1000\n", "");
    running.wait_for("| end\n");
    let ClientOutput(text, 0) = running.run_client("logs --no-prefix a") else {
        panic!("no answer")
    };
    assert!(text.ends_with("\nend\n") && text.len() <= 256 << 10 && text.len() > 250 << 10);
    assert!(text.lines().next().unwrap().starts_with("000"), "begins with a whole line");
    running.quit();
}

#[test]
fn size_of_recent_output_is_configurable() {
    let procfile = "a: $HOSTILE lines 2000 100; echo end; exec sleep 1000\n";
    for (size, expected) in [("10K", 8000..=10 << 10), ("0", 0..=0)] {
        let mut running = up(procfile, &format!("--recent {size}"));
        running.wait_for("| end\n");
        let ClientOutput(text, 0) = running.run_client("logs --no-prefix a") else {
            panic!("no answer")
        };
        assert!(expected.contains(&text.len()), "{size}: {}", text.len());
        running.quit();
    }
    let refused = Scenario::procfile(procfile).args("start --recent much").run().code(2).stderr();
    assert!(refused.contains("`much` is not a size; expected `256K` or `1M`"), "{refused}");
}

#[test]
fn added_or_removed_type_does_not_affect_others() {
    let mut running = up("a: exec sleep 1000\n", "");
    running.wait_for_states(&["a.1 up"]);
    let both = "a: exec sleep 1000\nb: exec sleep 1000\n";
    std::fs::write(running.folder().join("Procfile"), both).unwrap();
    assert_eq!(running.run_client("reload"), client_output("starting b.1\n", 0));
    std::fs::write(running.folder().join("Procfile"), "a: exec sleep 1000\n").unwrap();
    assert_eq!(running.run_client("reload"), client_output("stopping b.1\n", 0));
    running.quit();
}

#[test]
fn follower_gets_all_output_and_ends_with_ganger() {
    let procfile =
        "a: echo ready; until test -e go; do sleep 0.01; done; $HOSTILE lines 5000 100; exit 0\n";
    let running = up(procfile, "");
    let mut follower =
        Scenario::new().in_folder(running.folder()).args("logs --no-prefix -f a").start();
    follower.wait_for("ready\n");
    std::fs::write(running.folder().join("go"), "").unwrap();
    let received = follower.finish().code(0).stdout();
    let written: Vec<String> = running.finish().code(0).lines_of("a.1");
    assert!(
        received.lines().eq(written.iter().map(String::as_str)),
        "{} {}",
        received.len(),
        written.len()
    );
}

#[test]
fn follower_that_does_not_read_does_not_block_output() {
    let mut running = up("a: exec $HOSTILE flood\nb: exec $HOSTILE tick\n", "-q a");
    let mut stream = running.connect();
    let request = "GET /logs?follow=true&n=0 HTTP/1.1\r\nhost: g\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let before = running.count_in_output("tick");
    running.wait_until("output of the other process", |running| {
        running.count_in_output("tick") > before + 20
    });
    let memory = crate::scenario::memory(running.pid());
    assert!(memory < 40 << 20, "{memory}");
    // Bytes that did not fit are counted; the others arrive as soon as the client reads.
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while memchr::memmem::find(&received, b"bytes of output discarded: they were not read in time")
        .is_none()
    {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "it ended");
        let start = received.len().saturating_sub(200);
        received.drain(..start);
        received.extend_from_slice(&buffer[..count]);
    }
    running.signal(Signal::SIGINT);
    running.finish().code(0);
}
