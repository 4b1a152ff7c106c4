//! A developer's day in tmux: an error, a debugger, a restart, the end. What is on the screen is
//! kept as snapshots.

use std::fs;

use crate::scenario::{Scenario, wait_until};
use crate::tmux::Tmux;

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

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs tmux and python3")]
fn error_is_debugged_from_another_window() {
    let procfile = "web: exec /usr/bin/python3 server.py\n\
                    worker: echo ready; exec sleep 1000\n";
    let scenario = Scenario::of("tmux").file("Procfile", procfile).file("server.py", SERVER);
    let (shell, tmux) = Tmux::start(scenario, "app", 80, 24);
    tmux.type_keys("app", &["$GANGER start -N", "Enter"]);
    tmux.wait_for("app", "web.1    | listening");
    tmux.wait_for("app", "worker.1 | ready");
    fs::write(shell.folder().join("order"), "").unwrap();
    tmux.wait_for("app", "ERROR the total of the order is wrong");
    // The prompt is seen in the joined output, too.
    tmux.wait_for("app", "(Pdb)");

    tmux.open("debug");
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
