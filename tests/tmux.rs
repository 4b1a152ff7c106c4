//! A tmux server for a test.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::scenario::{Running, Scenario, TEST_TIMEOUT, tag};

/// The shell in a window.
const SHELL: &str = "env PS1=% bash --norc --noediting";

/// A tmux server of its own, which is killed at the end.
pub struct Tmux {
    pub name: String,
    pub folder: PathBuf,
}

impl Tmux {
    /// A server whose first window, with this name, has a shell in the folder of the scenario, which
    /// is returned too. The scenario runs tmux.
    pub fn start(scenario: Scenario, window: &str, columns: u16, rows: u16) -> (Running, Self) {
        let name = tag();
        let new = format!("new-session -d -x {columns} -y {rows} -n {window} {SHELL}");
        let args = format!("-L {name} -f /dev/null {new}");
        let running = scenario.env("TMUX_TMPDIR", ".").args(&args).start().finish_but_keep();
        let tmux = Self { name, folder: running.folder().to_owned() };
        tmux.run(&["set-option", "-g", "status", "off"]);
        tmux.wait_for(window, "%");
        (running, tmux)
    }

    /// Opens another window with a shell.
    pub fn open(&self, window: &str) {
        self.run(&["new-window", "-n", window, SHELL]);
        self.wait_for(window, "%");
    }

    pub fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.name]).args(args).env("TMUX_TMPDIR", &self.folder);
        command.current_dir(&self.folder);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    pub fn type_keys(&self, window: &str, keys: &[&str]) {
        self.run(&[&["send-keys", "-t", window], keys].concat());
    }

    pub fn text(&self, window: &str) -> String {
        self.run(&["capture-pane", "-p", "-t", window])
    }

    #[track_caller]
    pub fn wait_for(&self, window: &str, text: &str) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !self.text(window).contains(text) {
            assert!(Instant::now() < deadline, "no `{text}`:\n{}", self.text(window));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The screen, with what differs from run to run left out.
    pub fn screen(&self, window: &str) -> String {
        let screen = self.text(window);
        let root = self.folder.canonicalize().unwrap().display().to_string();
        let pids = Regex::new(r"pid \d+").unwrap();
        pids.replace_all(&screen.replace(&root, "ROOT"), "pid PID").trim_end().to_owned()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
