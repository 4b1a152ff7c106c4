//! Processes on terminals of their own: `--pty`.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use rustix::termios::{InputModes, LocalModes, OutputModes};

use crate::scenario::{Scenario, children, tag, wait_until_gone};
use crate::screen::Screen;

/// Prints the properties of the standard streams of a process.
const PROBE: &str = "a: for fd in 0 1 2; do test -t $fd && echo terminal $fd; done; \
                     (: </dev/tty) 2>/dev/null && echo controlling; stty -a 2>&1; exit 0\n";

#[test]
fn process_has_a_terminal_as_its_stdin_output_and_controlling_terminal() {
    let lines = Scenario::procfile(PROBE).args("start --pty always").run().code(0).lines_of("a.1");
    let (streams, modes) = lines.split_at(4);
    assert_eq!(streams, ["terminal 0", "terminal 1", "terminal 2", "controlling"]);
    let modes = modes.join(" ");
    assert!(modes.contains("rows 24; columns 71;"), "less the prefix: {modes}");
    for mode in [" echo ", " opost ", " onlcr ", " -ixon ", " isig ", " icanon ", " iutf8"] {
        assert!(modes.contains(mode), "{mode}: {modes}");
    }
}

#[test]
fn pipes_are_used_where_output_is_no_terminal() {
    for args in ["start", "start --pty auto", "start --pty never"] {
        let lines = Scenario::procfile(PROBE).args(args).run().code(0).lines_of("a.1");
        assert!(!lines.join(" ").contains("terminal 1"), "{args}: {lines:?}");
    }
    let variable = Scenario::procfile(PROBE).args("start").env("GANGER_PTY", "always").run();
    assert!(variable.code(0).lines_of("a.1").contains(&"terminal 1".to_owned()));
}

#[test]
fn terminals_are_used_where_output_is_a_terminal() {
    let procfile = "a: stty size; test -t 0 && echo yes; sleep 1000\n";
    let mut screen = Screen::new(30, 100);
    let running = screen.show(Scenario::procfile(procfile).args("start")).start();
    screen.wait_for("a.1    | yes").wait_for("a.1    | 30 91\n");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    let mut screen = Screen::new(30, 100);
    let scenario = Scenario::procfile("a: test -t 1 || echo no; sleep 1000\n");
    let running = screen.show(scenario.args("start --pty never")).start();
    screen.wait_for("a.1    | no");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn size_of_the_terminal_follows_the_window() {
    let procfile = "a: trap 'stty size' WINCH; echo up; while :; do sleep 0.01; done\n\
                    b: trap 'echo b again' WINCH; echo b; while :; do sleep 0.01; done\n";
    let mut screen = Screen::new(24, 80);
    let running = screen.show(Scenario::procfile(procfile).args("start -T --no-timestamp")).start();
    screen.wait_for("a.1    | up").wait_for("b.1    | b");
    screen.resize(40, 120);
    screen.wait_for("a.1    | 40 111").wait_for("b.1    | b again");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn output_of_a_terminal_is_complete_and_unchanged() {
    let procfile = "a: seq 50000; printf 'a\\r\\n\\tb\\0c\\377\\n'; printf last\n";
    let finished = Scenario::procfile(procfile).args("start --no-prefix --pty always").run();
    let finished = finished.code(0);
    let mut expected: Vec<u8> = (1..=50000).flat_map(|it| format!("{it}\n").into_bytes()).collect();
    expected.extend(b"a\r\n\tb\0c\xff\nlast\n");
    assert!(finished.out == expected, "{} of {} bytes", finished.out.len(), expected.len());
}

#[test]
fn stdin_may_be_dev_null_on_a_terminal() {
    let procfile = "a: cat; test -t 0 || echo over; test -t 1 && echo terminal\n";
    let scenario =
        Scenario::procfile(procfile).file("ganger.toml", "[process.a]\nstdin = 'null'\n");
    let lines = scenario.args("start --pty always").run().code(0).lines_of("a.1");
    assert_eq!(lines, ["over", "terminal"]);
}

#[test]
fn process_on_a_terminal_has_no_other_descriptors() {
    let scenario = Scenario::procfile("a: exec $HOSTILE descriptors\n").args("start --pty always");
    assert_eq!(scenario.run().code(0).lines_of("a.1"), ["open: 0 1 2 3"], "3 is the list itself");
}

#[test]
fn process_that_closes_its_output_is_not_hung_up() {
    let procfile = "a: exec sh -c 'exec <&- >file 2>&1; trap \"echo hup; exit 7\" HUP; echo up; \
                    while ! test -e go; do sleep 0.01; done; exit 3'\n";
    let mut running = Scenario::procfile(procfile).args("start --pty always").start();
    let file = running.folder().join("file");
    running.wait_until("up", |_| fs::read(&file).is_ok_and(|text| text == b"up\n"));
    fs::write(running.folder().join("go"), "").unwrap();
    running.finish().code(3);
}

#[test]
fn keys_typed_into_the_terminal_of_ganger_reach_no_process() {
    let procfile = "a: read line; echo over\n\
                    b: until test -e typed; do sleep 0.01; done; echo later; sleep 1000\n";
    let mut screen = Screen::new(24, 80);
    let running = screen.show(Scenario::procfile(procfile).args("start")).start();
    screen.wait_for("b.1 started");
    screen.type_text("a line\n");
    fs::write(running.folder().join("typed"), "").unwrap();
    screen.wait_for("b.1    | later");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    assert!(!screen.text().contains("over"), "{}", screen.text());
}

#[test]
fn restart_opens_a_new_terminal() {
    let procfile =
        "a: stty size; stty rows 3 columns 4; test -e again || { touch again; exit 1; }\n";
    let scenario = Scenario::procfile(procfile).args("start --pty always -r a");
    let mut running = scenario.start();
    running.wait_until("two sizes", |running| running.count_in_output("| 24 71\n") == 2);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn processes_on_terminals_leave_no_orphans() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let tag = tag();
        let procfile = format!("a: exec $HOSTILE tree {tag}\n");
        let mut running = Scenario::procfile(procfile).args("start --pty always").start();
        running.wait_until("four", |_| crate::scenario::tagged(&tag).len() == 4);
        running.signal(signal);
        running.wait();
        wait_until_gone(&tag);
    }
}

#[test]
fn suspended_ganger_suspends_processes_on_terminals() {
    let mut screen = Screen::new(24, 80);
    let running = screen.show(Scenario::procfile("a: exec $HOSTILE tick\n").args("start")).start();
    screen.wait_for("tick");
    let process = children(running.keeper())[0];
    let state = |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    // The group of a session's leader is orphaned, where the key of the terminal has no effect.
    running.signal(Signal::SIGTSTP);
    screen.wait_until("suspended", |_| state(process) == 'T' && state(running.pid()) == 'T');
    let before = screen.raw().matches("tick").count();
    running.signal(Signal::SIGCONT);
    screen.wait_until("more", |screen| screen.raw().matches("tick").count() > before + 2);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn terminal_of_the_user_is_left_as_it_was() {
    let mut screen = Screen::new(24, 80);
    let before = screen.modes();
    let procfile = "a: stty raw -echo; echo up; sleep 1000\n";
    let running = screen.show(Scenario::procfile(procfile).args("start")).start();
    screen.wait_for("a.1    | up");
    let is_same = |modes: &rustix::termios::Termios| {
        modes.local_modes == before.local_modes
            && modes.input_modes == before.input_modes
            && modes.output_modes == before.output_modes
    };
    assert!(before.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON));
    assert!(before.output_modes.contains(OutputModes::OPOST));
    assert!(before.input_modes.contains(InputModes::ICRNL));
    assert!(is_same(&screen.modes()), "while a process runs");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    assert!(is_same(&screen.modes()), "at the end");
}

/// Waits for the first line of programs whose C library buffers output to a pipe.
#[track_caller]
fn first_line_comes_at_once(command: &str, files: &[(&str, &str)]) {
    let scenario = Scenario::procfile(format!("a: {command}\n")).env("PYTHONUNBUFFERED", "");
    let scenario = files.iter().fold(scenario, |scenario, (name, text)| scenario.file(name, text));
    if command.starts_with("./") {
        let mut cc = Command::new("cc");
        let compile = cc.args(["-o", "first", "first.c"]).current_dir(scenario.folder());
        assert!(compile.status().unwrap().success());
    }
    let mut screen = Screen::new(24, 80);
    let running = screen.show(scenario.args("start")).start();
    screen.wait_for("a.1    | first");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn first_line_of_a_c_program_comes_at_once_on_a_terminal() {
    let program = "#include <stdio.h>\n#include <unistd.h>\n\
                   int main(void) { printf(\"first\\n\"); for (;;) pause(); }\n";
    first_line_comes_at_once("./first", &[("first.c", program)]);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn first_line_of_a_python_program_comes_at_once_on_a_terminal() {
    let program = "import time\nprint('first')\ntime.sleep(1000)\n";
    first_line_comes_at_once("exec /usr/bin/python3 first.py", &[("first.py", program)]);
}
