//! A developer's day in tmux: an error, a debugger, a restart, the end. What is on the screen is
//! kept as snapshots.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::scenario::{Scenario, TEST_TIMEOUT, tag, wait_until};

/// A server that has a mistake, and stops there when it finds it.
const SERVER: &str = r"
import os, time
print('listening', flush=True)
while not os.path.exists('order'):
    time.sleep(0.01)
os.remove('order')
total = 41
print('\033[31mERROR\033[0m the total of the order is wrong', flush=True)
breakpoint()
total += 1
print('order is paid:', total, flush=True)
time.sleep(1000)
";

/// The shell in a window.
const SHELL: &str = "env PS1=% bash --norc --noediting";

/// A tmux server of its own, which is killed at the end.
struct Tmux<'a> {
    name: &'a str,
    folder: &'a Path,
}

impl Tmux<'_> {
    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", self.name]).args(args).env("TMUX_TMPDIR", self.folder);
        command.current_dir(self.folder);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    fn type_keys(&self, window: &str, keys: &[&str]) {
        self.run(&[&["send-keys", "-t", &format!("day:{window}")], keys].concat());
    }

    fn text(&self, window: &str) -> String {
        self.run(&["capture-pane", "-p", "-t", &format!("day:{window}")])
    }

    #[track_caller]
    fn wait_for(&self, window: &str, text: &str) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !self.text(window).contains(text) {
            assert!(Instant::now() < deadline, "no `{text}`:\n{}", self.text(window));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The screen, with what differs from run to run left out.
    fn screen(&self, window: &str) -> String {
        let screen = self.text(window);
        let root = self.folder.canonicalize().unwrap().display().to_string();
        let pids = Regex::new(r"pid \d+").unwrap();
        pids.replace_all(&screen.replace(&root, "ROOT"), "pid PID").trim_end().to_owned()
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs tmux and python3")]
fn error_is_debugged_from_another_window() {
    let name = tag();
    let mut shell = Scenario::of("tmux")
        .file(
            "Procfile",
            "web: exec /usr/bin/python3 server.py\nworker: echo ready; exec sleep 1000\n",
        )
        .file("server.py", SERVER)
        .env("TMUX_TMPDIR", ".")
        .args(&format!("-L {name} -f /dev/null new-session -d -x 80 -y 24 -s day -n app {SHELL}"))
        .start();
    shell.wait();
    let folder = shell.folder().to_owned();
    let tmux = Tmux { name: &name, folder: &folder };
    tmux.run(&["set-option", "-g", "status", "off"]);
    tmux.wait_for("app", "%");
    tmux.type_keys("app", &["$GANGER start -N", "Enter"]);
    tmux.wait_for("app", "web.1    | listening");
    tmux.wait_for("app", "worker.1 | ready");
    fs::write(folder.join("order"), "").unwrap();
    tmux.wait_for("app", "ERROR the total of the order is wrong");
    // The prompt is seen in the joined output, too.
    tmux.wait_for("app", "(Pdb)");

    tmux.run(&["new-window", "-t", "day", "-n", "debug", SHELL]);
    tmux.wait_for("debug", "%");
    tmux.type_keys("debug", &["clear; $GANGER attach web", "Enter"]);
    tmux.wait_for("debug", "(Pdb)");
    tmux.type_keys("debug", &["p total", "Enter"]);
    tmux.wait_for("debug", "41");
    tmux.type_keys("debug", &["n", "Enter"]);
    tmux.wait_for("debug", "-> print('order is paid:', total, flush=True)");
    tmux.type_keys("debug", &["p total", "Enter"]);
    tmux.wait_for("debug", "42");
    tmux.type_keys("debug", &["c", "Enter"]);
    tmux.wait_for("debug", "order is paid: 42");
    tmux.type_keys("debug", &["C-]"]);
    tmux.wait_for("debug", "detached from web");
    insta::assert_snapshot!("attached", tmux.screen("debug"));

    tmux.type_keys("debug", &["clear; $GANGER restart --wait web", "Enter"]);
    tmux.wait_for("debug", "restarting web.1");
    wait_until("the next run", || tmux.screen("app").matches("| listening").count() == 2);
    tmux.type_keys("debug", &["$GANGER quit; echo code=$?", "Enter"]);
    tmux.wait_for("debug", "code=0");
    tmux.wait_for("app", "worker.1 stopped");
    let screen = tmux.screen("app");
    // They start and stop in any order.
    let from = screen.find("web.1    | ERROR").unwrap();
    let to = screen.find("ganger   | asked to quit").unwrap();
    insta::assert_snapshot!("started", &screen[from..to]);
}
