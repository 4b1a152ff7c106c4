//! A tmux server for a test.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::scenario::TEST_TIMEOUT;

/// A tmux server of its own, which is killed at the end.
pub struct Tmux<'a> {
    pub name: &'a str,
    pub folder: &'a Path,
}

impl Tmux<'_> {
    pub fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", self.name]).args(args).env("TMUX_TMPDIR", self.folder);
        command.current_dir(self.folder);
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

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
