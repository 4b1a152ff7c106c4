//! `ps` on a terminal: columns that do not fit are left out.

use crate::control::up;
use crate::scenario::{Scenario, free_port};
use crate::screen::Screen;

/// The table that `ps` writes to a terminal of this width, of an app with a process that is up and
/// one that is down. Values that differ between two runs are masked: `PID` stands for the process
/// id, and times and memory are 0.
fn table(columns: u16) -> String {
    let port = free_port();
    let procfile = "worker: exec sleep 1000\nmaintenance: exit 3\n";
    let mut running = up(procfile, &format!("-p {port} --can-die maintenance"));
    running.wait_for_states(&["worker.1 up", "maintenance.1 down"]);
    let pid = running.processes()[0]["pid"].to_string();
    let mut screen = Screen::new(24, columns);
    let ps = screen.show(Scenario::new().in_folder(running.folder()).args("ps")).start();
    ps.finish().code(0);
    screen.wait_until("three lines", |screen| screen.raw().matches("\r\n").count() == 3);
    running.run_client("quit");
    running.finish().code(3);
    // The width of the second column depends on the process id.
    let width = pid.len().max("PID".len());
    let mut text = screen.raw();
    for (cell, masked) in [("PID", "PID"), (pid.as_str(), "PID"), ("-", "-  ")] {
        text = text.replacen(&format!("  {cell:<width$}  "), &format!("  {masked}  "), 1);
    }
    text = text.replace(&port.to_string(), "PORT1").replace(&(port + 100).to_string(), "PORT2");
    text.split("\r\n").map(mask).collect::<Vec<_>>().join("\n")
}

/// Replaces the times and the memory in a line: `12s` and `0.1s` by `0`, `1.5M` by `0`.
fn mask(line: &str) -> String {
    let is_measured = |word: &str| {
        word.strip_suffix(['s', 'M']).is_some_and(|number| number.parse::<f64>().is_ok())
    };
    let masked = line.split(' ').map(|word| {
        if is_measured(word) { format!("{:<1$}", "0", word.len()) } else { word.to_owned() }
    });
    masked.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

#[test]
fn table_on_a_terminal_of_120_columns_is_complete() {
    let expected = "\
NAME           PID  STATE  PORT             UPTIME  ON EXIT   RESTARTS  CPU   MEMORY  LAST EXIT
worker.1       PID  up     PORT1 (unbound)  0       stop-all  0         0     0       -
maintenance.1  -    down   PORT2            -       ignore    0         -     -       exited (3)
";
    assert_eq!(table(120), expected);
}

#[test]
fn table_on_a_terminal_of_80_columns_leaves_out_policy_and_restarts() {
    let expected = "\
NAME           PID  STATE  PORT             UPTIME  CPU   MEMORY  LAST EXIT
worker.1       PID  up     PORT1 (unbound)  0       0     0       -
maintenance.1  -    down   PORT2            -       -     -       exited (3)
";
    assert_eq!(table(80), expected);
}

#[test]
fn table_on_a_terminal_of_40_columns_has_name_pid_and_state() {
    let expected = "\
NAME           PID  STATE
worker.1       PID  up
maintenance.1  -    down
";
    assert_eq!(table(40), expected);
}
