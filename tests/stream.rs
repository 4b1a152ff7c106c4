//! The stream of `start` and `logs` on a terminal.

use crate::scenario::Scenario;
use crate::screen::Screen;

/// The lines of a process on the screen at the end.
fn lines_on_screen(screen: &Screen, name: &str) -> Vec<String> {
    let text = screen.text();
    let lines =
        text.lines().filter_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('|'));
    lines.map(|line| line.trim().to_owned()).collect()
}

/// Runs a Procfile on a terminal to its end.
fn run_on_terminal(columns: u16, procfile: &str, args: &str) -> Screen {
    let mut screen = Screen::new(24, columns);
    let scenario = Scenario::procfile(procfile).args("start").args(args);
    screen.show(scenario).run().code(0);
    screen.wait_for("a.1 exited (0), stopping all");
    screen
}

#[test]
fn process_can_not_clear_the_terminal_or_set_its_title() {
    let procfile =
        "a: printf 'one\\n\\033[2J\\033[H\\033]0;title\\007\\033[?1049h\\033[6ntwo\\n'\n";
    let screen = run_on_terminal(80, procfile, "");
    assert_eq!(lines_on_screen(&screen, "a.1"), ["one", "two"]);
    let written = screen.raw();
    for sequence in ["\x1b[2J", "\x1b[H", "\x1b]0", "\x1b[?1049h", "\x1b[6n"] {
        assert!(!written.contains(sequence), "{written:?}");
    }
}

#[test]
fn colour_of_a_process_does_not_reach_other_lines() {
    let procfile = "a: printf '\\033[31mred\\nstill red\\033[0m\\nplain\\n'\n";
    let screen = run_on_terminal(80, procfile, "--color always");
    let color_of = |text: &str| {
        let rows: Vec<String> = screen.emulated().rows(0, 80).collect();
        let row = rows.iter().position(|row| row.contains(text)).unwrap();
        let column = rows[row].find(text).unwrap();
        let cell = |column: usize| {
            let (row, column) = (row.try_into().unwrap(), column.try_into().unwrap());
            screen.emulated().cell(row, column).unwrap().fgcolor()
        };
        cell(column)
    };
    assert_eq!(color_of("red"), vt100::Color::Idx(1));
    assert_eq!(color_of("still red"), vt100::Color::Idx(1));
    assert_eq!(color_of("plain"), vt100::Color::Default);
    assert_eq!(color_of("stopping all"), vt100::Color::Default);
}

#[test]
fn progress_bar_stays_on_its_row() {
    let steps = "for n in 10 40 70 100; do printf \"\\r$n%%\"; sleep 0.3; done; echo";
    let screen = run_on_terminal(80, &format!("a: {steps}\n"), "");
    assert_eq!(lines_on_screen(&screen, "a.1"), ["100%"]);
    let written = screen.raw();
    assert!(written.contains("40%"), "each state was shown: {written:?}");
}

#[test]
fn long_lines_continue_beside_the_names() {
    let procfile = "a: printf '%0100d\\n' 7\n";
    let screen = run_on_terminal(80, procfile, "");
    let (first, rest) = ("0".repeat(71), format!("{}7", "0".repeat(28)));
    let expected = format!("a.1    | {first}\n       | {rest}\n");
    assert!(screen.text().contains(&expected), "{}", screen.text());
}

#[test]
fn long_lines_are_cut_on_request() {
    let procfile = "a: printf '%0100d\\n' 7; printf '%071d\\n' 8\n";
    for args in ["--trim", "--wrap --trim"] {
        let screen = run_on_terminal(80, procfile, args);
        let expected = format!("a.1    | {}…\na.1    | {}8\n", "0".repeat(70), "0".repeat(70));
        assert!(screen.text().contains(&expected), "{}", screen.text());
    }
}

#[test]
fn lines_fit_the_terminal_after_a_resize() {
    let wait = "while ! [ -e go ]; do sleep 0.05; done";
    let procfile = format!("a: printf '%0100d\\n' 7; {wait}; printf '%0100d\\n' 8\n");
    let mut screen = Screen::new(24, 80);
    let running = screen.show(Scenario::procfile(procfile).args("start")).start();
    screen.wait_for(&format!("       | {}7", "0".repeat(28)));
    screen.resize(24, 120);
    std::fs::write(running.folder().join("go"), "").unwrap();
    screen.wait_for(&format!("a.1    | {}8", "0".repeat(99)));
    running.finish().code(0);
}

#[test]
fn stream_to_a_pipe_is_not_changed() {
    let text = "\\033[31mred\\033[2J\\rreturned\\n";
    let finished = Scenario::procfile(format!("a: printf '{text}'\n")).args("start").run().code(0);
    assert_eq!(finished.out, b"a.1    | \x1b[31mred\x1b[2J\rreturned\n");
}

#[test]
fn recent_output_is_shown_on_a_terminal_as_by_start() {
    let procfile = "a: printf 'one\\n\\033[2J\\033[31mtwo\\n10%%\\r100%%\\n'; sleep 1000\n";
    let mut running = Scenario::procfile(procfile).args("start").start();
    running.wait_for("100%");
    let folder = running.folder().to_owned();
    let mut screen = Screen::new(24, 80);
    screen.show(Scenario::new().in_folder(&folder).args("logs a")).run().code(0);
    screen.wait_for("100%");
    assert_eq!(screen.text().trim_end(), "a.1    | one\na.1    | two\na.1    | 100%");
    let written = screen.raw();
    assert!(written.contains("\x1b[31mtwo\x1b[0m"), "{written:?}");
}

#[test]
fn process_that_waits_for_input_gets_a_hint() {
    let procfile = "web: printf 'name? '; read name; echo $name\n";
    let mut running = Scenario::procfile(procfile).args("start").start();
    running.wait_for(
        "ganger | web.1 seems to wait for input after `name?`, and none will come: `ganger start \
         --pty always` lets `ganger attach web.1` answer it, or `ganger run web` runs it on your \
         terminal\n",
    );
}

#[test]
fn process_without_a_terminal_gets_a_hint_on_the_terminal_of_ganger() {
    let procfile = "web: printf 'name? '; read name; echo $name\n";
    // Wide enough for the message.
    let mut screen = Screen::new(24, 300);
    let scenario = Scenario::procfile(procfile).args("start --pty never");
    let running = screen.show(scenario).start();
    screen.wait_for("web.1  | name?");
    screen.wait_for(
        "ganger | web.1 seems to wait for input after `name?`, and none will come: `ganger start \
         --pty always` lets `ganger attach web.1` answer it, or `ganger run web` runs it on your \
         terminal",
    );
    screen.type_text("\x03");
    running.finish().code(0);
}

#[test]
fn messages_are_read_by_the_name_of_ganger() {
    let mut running = Scenario::procfile("a: echo up; sleep 1000\n").args("start").start();
    running.wait_for("| up");
    let logs = |names: &str| {
        let logs = Scenario::new().in_folder(running.folder()).args("logs");
        logs.args(names).run().code(0).stdout()
    };
    let own = logs("ganger");
    assert!(own.starts_with("ganger | a.1 started, pid "), "{own}");
    assert_eq!(own.lines().count(), 1);
    let all = logs("a ganger");
    assert!(all.contains("ganger | a.1 started") && all.contains("a.1    | up\n"), "{all}");
    assert_eq!(logs(""), all);
    for names in ["*", "all", "a"] {
        assert_eq!(logs(names), "a.1    | up\n", "{names}");
    }
}
