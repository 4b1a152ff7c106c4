//! Text from outside on a terminal: control characters in names of processes and files are shown,
//! and have no effect.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::control::{ClientOutput, run_client};
use crate::scenario::{Scenario, free_port, hostile, install, tag, tagged_as, wait_until};
use crate::watch::wait_until_it_watches;

/// Sets the title of a terminal.
const TITLE: &str = "\x1b]0;pwned\x07";
const TITLE_SHOWN: &str = r"\u{1b}]0;pwned\u{7}";
/// Looks like another message.
const LINE: &str = "a\nganger | b";
const LINE_SHOWN: &str = r"a\nganger | b";

/// The hostile program under another name.
fn named(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    install(&hostile(), &path);
    path
}

/// A program of this name which listens on this port.
struct PortOwner(Child);

impl PortOwner {
    fn start(folder: &Path, name: &str, port: u16) -> Self {
        let mut command = Command::new(named(folder, name));
        command.args(["listen", &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        wait_until("a listener", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self(child)
    }
}

impl Drop for PortOwner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn port_owner_is_named_without_its_control_characters() {
    for (name, shown) in [(TITLE, TITLE_SHOWN), (LINE, LINE_SHOWN)] {
        let port = free_port();
        let start = format!("start -p {port}");
        let scenario = Scenario::procfile("web: touch started\n").args(&start);
        let _owner = PortOwner::start(scenario.folder(), name, port);
        scenario.run().refused(&format!(
            "web.1 needs port {port}, which {shown} (pid N) is using (free it, choose \
             others with `--port`, or let ganger: `--port auto`)"
        ));
        let finished = Scenario::procfile("worker: true\n").args(&start).run().code(0);
        let expected =
            format!("ganger   | worker.1 needs port {port}, which {shown} (pid N) is using\n");
        assert!(finished.stderr().starts_with(&expected), "{}", finished.stderr());
    }
}

#[test]
fn client_names_port_owner_without_control_characters() {
    // The second process gets the port above.
    let port = loop {
        let port = free_port();
        if port < 60_000 && std::net::TcpListener::bind(("127.0.0.1", port - 1)).is_ok() {
            break port;
        }
    };
    let scenario = Scenario::procfile("web: exec $HOSTILE listen $PORT\n");
    let owner = PortOwner::start(scenario.folder(), TITLE, port);
    let mut running = scenario.args(&format!("start -p {}", port - 1)).start();
    running.wait_for("web.1 is ready");
    let expected = format!(
        "ganger: web.2 needs port {port}, which {TITLE_SHOWN} (pid {}) is using (free it, and try \
         again)\n",
        owner.0.id()
    );
    assert_eq!(run_client(running.folder(), "scale web=2"), ClientOutput(expected, 2));
    assert_eq!(run_client(running.folder(), "quit").1, 0);
}

#[test]
fn descendants_are_named_without_their_control_characters() {
    for (name, shown) in [(TITLE, TITLE_SHOWN), (LINE, LINE_SHOWN)] {
        let tag = tag();
        let scenario = Scenario::procfile(format!("a: exec \"$NAMED\" orphan {tag}\n"));
        let path = named(scenario.folder(), name);
        let mut running = scenario.env("NAMED", path.to_str().unwrap()).args("start").start();
        let is_there = |_: &_| tagged_as("leaf", &tag).len() == 1;
        running.wait_for("orphan started").wait_until("the daemon", is_there);
        running.signal(Signal::SIGTERM);
        let finished = running.finish().code(0);
        let expected = format!("ganger | stopping orphaned processes: {shown} (pid N)\n");
        assert!(finished.stderr().contains(&expected), "{}", finished.stderr());
    }
}

#[test]
fn files_are_named_without_their_control_characters() {
    let refused = |args: [&str; 3], expected: &str| {
        let scenario = Scenario::procfile("a: true\n");
        let scenario = scenario.file(&format!("{TITLE}/Procfile"), "nonsense\n");
        let scenario = scenario.file(&format!("{TITLE}/env"), "nonsense\n");
        let scenario = scenario.file(&format!("{TITLE}/toml"), "nonsense = 1\n");
        let finished = args.iter().fold(scenario, Scenario::arg).run();
        assert!(finished.stderr().starts_with(expected), "{}", finished.stderr());
        assert!(!finished.stderr().contains(['\x1b', '\x07']), "{}", finished.stderr());
        assert_eq!(finished.stderr().lines().count(), 1, "{}", finished.stderr());
        finished.code(2);
    };
    for flag in ["-f", "-e", "--config"] {
        let folder = if flag == "-f" { " is a folder" } else { ": Is a directory" };
        let failed = if flag == "-f" { "ganger: " } else { "ganger: failed to read " };
        refused([flag, TITLE, "start"], &format!("{failed}`{TITLE_SHOWN}`{folder}"));
        let missing = format!("ganger: failed to read `{LINE_SHOWN}`: No such file");
        refused([flag, LINE, "start"], &missing);
    }
    refused(["-d", &format!("{TITLE}x"), "start"], "ganger: ");
    let inside = |name: &str| format!("{TITLE}/{name}");
    let shown = |name: &str| format!("ganger: `{TITLE_SHOWN}/{name}` line 1: ");
    refused(["-f", &inside("Procfile"), "start"], &shown("Procfile"));
    refused(["-e", &inside("env"), "start"], &shown("env"));
    refused(["--config", &inside("toml"), "start"], &shown("toml"));
    refused(["-f", &inside("Procfile"), "check"], &shown("Procfile"));
    refused(["-s", &inside("no/socket"), "start"], "ganger: failed to listen on `");
    let finished = Scenario::procfile("a: true\n").args("run").arg(TITLE).arg("x").run().code(127);
    let expected = format!("ganger: no command and no Procfile entry `{TITLE_SHOWN}`\n");
    assert_eq!(finished.stderr(), expected);
}

#[test]
fn arguments_are_shown_without_their_control_characters() {
    // A shell may expand `*` to such arguments.
    for (args, shown) in [(["start", TITLE], TITLE_SHOWN), (["ps", "--\x1b[2J"], r"--\u{1b}[2J")] {
        let scenario = Scenario::procfile("a: true\n");
        let finished = args.iter().fold(scenario, Scenario::arg).run();
        let stderr = finished.stderr();
        assert!(stderr.contains(shown) && !stderr.contains(['\x1b', '\x07']), "{stderr}");
        finished.code(2);
    }
}

#[test]
fn watched_file_is_named_without_its_control_characters() {
    let config = "[process.a]\nwatch = ['seen/*']\n";
    let scenario = Scenario::procfile("a: exec sleep 1000\n").file("ganger.toml", config);
    let mut running = scenario.file("seen/x", "").args("start").start();
    running.wait_for("a.1 started");
    // The root and `seen`.
    wait_until_it_watches(&mut running, 2);
    std::fs::write(running.folder().join("seen").join(LINE), "").unwrap();
    running.wait_for("changed, restarting a.1");
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    let expected = format!("ganger | `seen/{LINE_SHOWN}` has changed, restarting a.1\n");
    assert!(finished.stderr().contains(&expected), "{}", finished.stderr());
}

#[test]
fn check_explain_escapes_control_characters() {
    let scenario = Scenario::new()
        .file(&format!("{TITLE}/Procfile"), "a: printf '\x1b[2J'\n")
        .file(&format!("{TITLE}/.env"), "A=1\n");
    let finished = scenario.arg("-d").arg(TITLE).args("check --explain").run().code(0);
    let out = finished.stdout();
    assert!(out.contains(r"  command  printf '\u{1b}[2J'"), "{out}");
    assert!(out.contains(&format!("/{TITLE_SHOWN}\n")), "{out}");
    assert!(!out.contains(['\x1b', '\x07']), "{out}");
}

#[test]
fn report_escapes_control_characters_of_the_output() {
    let procfile =
        "a: printf 'x\\033]0;pwned\\007\\033[2Jy\\r\\a\\n'; exit 3\nb: exec sleep 1000\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(3);
    assert!(finished.stderr().contains("its last lines:\nganger |   x"), "{}", finished.stderr());
    assert!(!finished.stderr().contains(['\x1b', '\x07', '\r']), "{}", finished.stderr());
}
