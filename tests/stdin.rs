//! The standard input of processes: it never has any bytes, and never ends.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;

use nix::pty::openpty;
use nix::sys::signal::Signal;

use crate::scenario::{Scenario, children};

#[test]
fn process_that_exits_at_end_of_stdin_stays_up() {
    let mut running =
        Scenario::procfile("a: cat; echo over\nc: wc -l; echo over\nb: echo up; sleep 1000\n")
            .args("start")
            .start();
    running.wait_for("b.1    | up").wait_until("cat", |running| {
        // cat waits in read(2): it has not found the end of its input.
        children(running.keeper()).into_iter().flat_map(children).any(|cat| {
            let channel = std::fs::read_to_string(format!("/proc/{cat}/wchan"));
            let name = std::fs::read_to_string(format!("/proc/{cat}/comm"));
            name.is_ok_and(|name| name == "cat\n")
                && channel.is_ok_and(|channel| channel.contains("pipe"))
        })
    });
    running.signal(Signal::SIGTERM);
    assert!(!running.finish().code(0).stdout().contains("over"));
}

#[test]
fn no_process_reads_from_the_terminal() {
    let terminal = openpty(None, None).unwrap();
    let slave = File::from(terminal.slave);
    let procfile = "a: (read x </dev/tty) || echo none; echo up; read line; echo over\n\
                    b: until test -e keyed; do sleep 0.01; done; echo later; sleep 1000\n";
    // setsid(1) makes it the controlling terminal, and executes ganger.
    let scenario = Scenario::of("setsid")
        .file("Procfile", procfile)
        .arg("-c")
        .arg(crate::scenario::GANGER)
        .args("start")
        .command(|command| {
            command.stdin(Stdio::from(slave));
        });
    let mut running = scenario.start();
    running.wait_for("a.1    | up");
    let mut master = File::from(terminal.master);
    master.write_all(b"a key\n").unwrap();
    // A process that read the key would have printed its line by now.
    std::fs::write(running.folder().join("keyed"), "").unwrap();
    running.wait_for("b.1    | later\n");
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    let lines = finished.lines_of("a.1");
    assert!(lines.contains(&"none".to_owned()) && !lines.contains(&"over".to_owned()), "{lines:?}");
}

#[test]
fn stdin_may_be_dev_null() {
    let scenario = Scenario::procfile("a: cat; echo over\n")
        .file("ganger.toml", "[process.a]\nstdin = 'null'\n");
    assert_eq!(scenario.args("start").run().code(0).lines_of("a.1"), ["over"]);
}

#[test]
fn ganger_runs_with_closed_stdin() {
    let finished = Scenario::of("sh")
        .file("Procfile", "a: exec $HOSTILE descriptors\n")
        .args("-c")
        .arg("exec $GANGER start <&-")
        .run()
        .code(0);
    assert_eq!(finished.lines_of("a.1"), ["open: 0 1 2 3"], "3 is the list itself");
}
