//! A developer's day in tmux: an error, a debugger, a restart, the end. What is on the screen is
//! kept as snapshots.

use std::fs;

use crate::scenario::{Scenario, tag, wait_until};
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

/// The shell in a window.
const SHELL: &str = "env PS1=% bash --norc --noediting";

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
    tmux.wait_for("day:app", "%");
    tmux.type_keys("day:app", &["$GANGER start -N", "Enter"]);
    tmux.wait_for("day:app", "web.1    | listening");
    tmux.wait_for("day:app", "worker.1 | ready");
    fs::write(folder.join("order"), "").unwrap();
    tmux.wait_for("day:app", "ERROR the total of the order is wrong");
    // The prompt is seen in the joined output, too.
    tmux.wait_for("day:app", "(Pdb)");

    tmux.run(&["new-window", "-t", "day", "-n", "debug", SHELL]);
    tmux.wait_for("day:debug", "%");
    tmux.type_keys("day:debug", &["clear; $GANGER attach web", "Enter"]);
    tmux.wait_for("day:debug", "(Pdb)");
    tmux.type_keys("day:debug", &["p total", "Enter"]);
    tmux.wait_for("day:debug", "41");
    tmux.type_keys("day:debug", &["n", "Enter"]);
    tmux.wait_for("day:debug", "-> print('order is paid:', total, flush=True)");
    tmux.type_keys("day:debug", &["p total", "Enter"]);
    tmux.wait_for("day:debug", "42");
    tmux.type_keys("day:debug", &["c", "Enter"]);
    tmux.wait_for("day:debug", "order is paid: 42");
    tmux.type_keys("day:debug", &["C-]"]);
    tmux.wait_for("day:debug", "detached from web");
    insta::assert_snapshot!("attached", tmux.screen("day:debug"));

    tmux.type_keys("day:debug", &["clear; $GANGER restart --wait web", "Enter"]);
    tmux.wait_for("day:debug", "restarting web.1");
    wait_until("the next run", || tmux.screen("day:app").matches("| listening").count() == 2);
    tmux.type_keys("day:debug", &["$GANGER quit; echo code=$?", "Enter"]);
    tmux.wait_for("day:debug", "code=0");
    tmux.wait_for("day:app", "worker.1 stopped");
    let screen = tmux.screen("day:app");
    // They start and stop in any order.
    let from = screen.find("web.1    | ERROR").unwrap();
    let to = screen.find("ganger   | asked to quit").unwrap();
    insta::assert_snapshot!("started", &screen[from..to]);
}
