//! `start --focus`: a process has the terminal, and the output of the others waits.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::places::start_on_terminal;
use crate::postgres;
use crate::random::Random;
use crate::scenario::{
    Running, Scenario, children, free_port, is_alive, is_stopped, memory, tag, tagged, wait_until,
    wait_until_gone,
};
use crate::screen::{PROMPT, Screen};

/// The key that detaches.
const DETACH: &str = "\x1d";

/// A process that repeats what it reads, and one that prints all the time.
fn procfile(tag: &str) -> String {
    format!(
        "parrot: echo up; while read line; do echo \"got $line\"; done\n\
         other: exec $HOSTILE tick\n\
         tree: exec $HOSTILE tree {tag}\n"
    )
}

fn start(screen: &Screen, procfile: &str, args: &str) -> Running {
    screen.show(Scenario::procfile(procfile).args("start -N --focus parrot").args(args)).start()
}

/// The app, below the client and its parent.
fn app_of(running: &Running) -> Option<Pid> {
    let client = children(running.pid()).into_iter().next()?;
    children(client).into_iter().next()
}

#[test]
fn output_of_the_others_waits_until_the_user_detaches() {
    let tag = tag();
    let mut screen = Screen::new(24, 80);
    let before = screen.line_modes();
    let running = start(&screen, &procfile(&tag), "");
    screen.wait_for("attached to parrot, ctrl-] detaches").wait_for("up");
    screen.type_text("hello\r");
    screen.wait_for("\nhello\ngot hello");
    // What came before the process had the terminal may have been shown.
    let at = screen.raw().rfind("attached to").unwrap();
    assert!(!screen.raw()[at..].contains("tick"), "{}", screen.raw());
    screen.type_text(DETACH);
    screen.wait_for("detached from parrot, ctrl-] attaches again, Ctrl-C stops all");
    screen.wait_for("other.1  | tick");
    // The same key leads back.
    screen.type_text(DETACH);
    screen.wait_for_times("attached to parrot, ctrl-] detaches", 2);
    screen.type_text("again\r");
    screen.wait_for_times("got again", 1);
    screen.type_text(DETACH);
    screen.wait_for_times("detached from parrot", 2);
    screen.wait_for("parrot.1 | got again");
    screen.type_text("\x03");
    running.finish().code(0);
    screen.wait_for("ganger ");
    assert_eq!(screen.line_modes(), before);
    assert!(screen.is_reset());
    assert_eq!(tagged(&tag), []);
}

#[test]
fn nothing_that_waits_is_lost_or_shown_twice() {
    let mut screen = Screen::new(24, 80);
    let lines = "other: for i in 1 2 3; do for j in 1 2 3 4 5 6 7 8 9; do echo line $i$j; done; \
                 sleep 0.2; done; exec sleep 1000\n";
    let procfile = format!("parrot: read line; echo \"got $line\"; exec sleep 1000\n{lines}");
    let mut running = start(&screen, &procfile, "--color never");
    screen.wait_for("attached to parrot");
    running.wait_until("the last line", |running| running.run_client("logs").0.contains("line 39"));
    screen.type_text("x\r").wait_for("got x");
    screen.type_text(DETACH);
    screen.wait_for_times("line 39", 1);
    let raw = screen.raw();
    let shown: Vec<&str> = raw.lines().filter_map(|line| line.split("| line ").nth(1)).collect();
    let numbers = (1..=3).flat_map(|i| (1..=9).map(move |j| format!("{i}{j}")));
    assert_eq!(shown, numbers.collect::<Vec<_>>());
    screen.type_text("\x03");
    running.finish().code(0);
}

#[test]
fn output_that_waits_is_bounded_and_the_rest_is_counted() {
    // Four times what ganger keeps for all clients together, in lines of 33 bytes.
    const FLOOD: usize = 33_000_000;
    const LEFT_OUT: &str = " bytes of output discarded: they were not read in time";
    let procfile = format!(
        "parrot: echo up; exec sleep 1000\n\
         other: until test -e begin; do sleep 0.01; done; \
         yes a line of a flood without an end | head -c {FLOOD}; touch over; \
         until test -e go; do sleep 0.01; done; \
         while :; do echo after it; sleep 0.05; done\n"
    );
    let mut screen = Screen::new(24, 100);
    let running = start(&screen, &procfile, "");
    let folder = running.folder().to_owned();
    screen.wait_for("attached to parrot");
    std::fs::write(folder.join("begin"), "").unwrap();
    screen.wait_until("the whole flood", |_| folder.join("over").exists());
    let used = memory(app_of(&running).unwrap());
    assert!(used < 40 << 20, "{used} bytes");
    screen.type_text(DETACH);
    screen.wait_for_times("detached from parrot", 1);
    std::fs::write(folder.join("go"), "").unwrap();
    screen.wait_for("other.1  | after it");
    let raw = screen.raw();
    let parts: Vec<&str> = raw.split(LEFT_OUT).collect();
    let (last, before) = parts.split_last().unwrap();
    let number = |part: &&str| {
        let digits = part.rsplit(|char: char| !char.is_ascii_digit()).next().unwrap();
        digits.parse::<usize>().unwrap()
    };
    let left_out: usize = before.iter().map(number).sum();
    assert!((FLOOD / 2..FLOOD).contains(&left_out), "{left_out}");
    // The messages stand where something is missing, and at least one before what came later.
    assert!(before[0].contains("a line of a flood without an end"));
    assert!(last.contains("after it") && !before.iter().any(|part| part.contains("after it")));
    screen.type_text("\x03");
    running.finish().code(0);
    screen.wait_until("reset", Screen::is_reset);
}

#[test]
fn first_interrupt_goes_to_the_process_and_a_second_one_stops_all() {
    let tag = tag();
    let procfile = format!(
        "parrot: trap 'echo int' INT; echo up; while :; do sleep 0.05; done\n\
         tree: exec $HOSTILE tree {tag}\n"
    );
    let mut screen = Screen::new(24, 80);
    let running = start(&screen, &procfile, "");
    screen.wait_for("attached to parrot").wait_for("up");
    screen.type_text("\x03");
    screen.wait_for_times("int\r\n", 1);
    assert!(is_alive(running.pid()));
    // Two within a second.
    screen.type_text("\x03\x03");
    running.finish().code(0);
    assert_eq!(tagged(&tag), []);
    assert!(screen.is_reset());
}

#[test]
fn end_of_the_process_ends_the_app_with_its_code_and_the_report() {
    let mut screen = Screen::new(24, 80);
    let running =
        start(&screen, "parrot: read line; echo \"bye $line\"; exit 7\nb: exec sleep 1000\n", "");
    screen.wait_for("attached to parrot");
    screen.type_text("now\r");
    running.finish().code(7);
    screen.wait_for("bye now").wait_for("parrot.1 exited (7), stopping all");
    assert!(screen.is_reset());
}

#[test]
fn process_that_starts_later_is_attached_to_then() {
    let config = "[process.parrot]\nafter = ['job']\n[process.job]\nready = { exit = true }\n";
    let procfile = "parrot: echo up; read line; echo \"got $line\"; exec sleep 1000\n\
                    job: echo migrating; until test -e go; do sleep 0.01; done\n";
    let mut screen = Screen::new(24, 80);
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let running = screen.show(scenario.args("start -N --focus parrot.1")).start();
    screen.wait_for("job.1    | migrating");
    assert!(!screen.text().contains("attached"), "{}", screen.text());
    std::fs::write(running.folder().join("go"), "").unwrap();
    screen.wait_for("attached to parrot.1");
    screen.type_text("x\r").wait_for("got x");
    screen.type_text(DETACH).wait_for("detached from");
    screen.type_text("\x03");
    running.finish().code(0);
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    for (args, message) in [
        ("--focus none", "`--focus none`: there is no such process"),
        ("--focus a -m a=2", "`--focus a` is 2 processes: name one, such as `a.1`"),
        ("--focus a --pty never", "`--focus a`: a.1 has no terminal (`--pty never`)"),
    ] {
        let mut screen = Screen::new(24, 100);
        let scenario = Scenario::procfile("a: touch ran; sleep 1000\n").args("start").args(args);
        let running = screen.show(scenario).start();
        let folder = running.folder().to_owned();
        screen.wait_for(message);
        running.finish().code(2);
        assert!(!folder.join("ran").exists(), "{args}");
    }
    let finished = Scenario::procfile("a: true\n").args("start --focus a").run().code(2);
    assert!(
        finished.stderr().starts_with("ganger: `--focus` needs a terminal"),
        "{}",
        finished.stderr()
    );
}

#[test]
fn terminal_that_hangs_up_stops_all() {
    let tag = tag();
    let (mut running, terminal) = start_on_terminal(&procfile(&tag), "start -N --focus parrot");
    running.wait_until("a whole tree", |_| tagged(&tag).len() == 4);
    drop(terminal);
    running.wait();
    wait_until_gone(&tag);
}

#[test]
fn ctrl_z_suspends_everything_and_fg_resumes_it() {
    let tag = tag();
    let scenario = Scenario::of("bash").file("Procfile", procfile(&tag));
    let mut screen = Screen::new(24, 80);
    let mut shell = screen.start_shell(scenario);
    screen.type_text("$GANGER start -N --focus parrot\n");
    screen.wait_for("attached to parrot");
    shell.wait_until("a whole tree", |_| tagged(&tag).len() == 4);
    // In focus, and after it.
    for times in [1, 2] {
        screen.type_text("\x1a");
        screen.wait_for_times(PROMPT, 1 + times);
        let members = tagged(&tag);
        shell.wait_until("all stopped", |_| members.iter().all(|pid| is_stopped(*pid)));
        screen.type_text("fg\n");
        shell.wait_until("all go on", |_| !members.iter().any(|pid| is_stopped(*pid)));
        if times == 1 {
            screen.type_text("hello\r");
            screen.wait_for_times("got hello", 1);
            screen.type_text(DETACH);
            screen.wait_for_times("detached from parrot", 1);
        }
    }
    screen.wait_for("other.1  | tick");
    screen.type_text("\x03");
    screen.wait_for_times(PROMPT, 4);
    screen.type_text("echo code=$?\n");
    screen.wait_for_times("code=0", 1);
    screen.type_text("exit\n");
    shell.wait();
    assert_eq!(tagged(&tag), []);
}

#[test]
fn terminal_is_restored_and_nothing_is_left_whatever_is_killed() {
    let mut random = Random(11);
    for _ in 0..50 {
        let tag = tag();
        let mut screen = Screen::new(24, 80);
        let before = screen.line_modes();
        let procfile = format!(
            "parrot: stty raw -echo; printf '\\033[?1049h\\033[?25l\\033[?1003h\\033[31mup'; \
             exec $HOSTILE tree {tag}\n"
        );
        let mut running = start(&screen, &procfile, "");
        screen.wait_until("modes", |screen| screen.emulated().alternate_screen());
        let client = children(running.pid())[0];
        let app = app_of(&running).unwrap();
        std::thread::sleep(Duration::from_millis(random.below(20)));
        let victim = match random.below(5) {
            0 => running.pid(),
            1 => client,
            2 => app,
            3 => children(app)[0],
            _ => tagged(&tag)[0],
        };
        kill(victim, Signal::SIGKILL).unwrap();
        running.wait();
        wait_until_gone(&tag);
        screen.wait_until("reset", Screen::is_reset);
        screen.wait_until("line modes", |screen| screen.line_modes() == before);
        wait_until("client and app", || ![client, app].into_iter().any(is_alive));
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn debugger_is_used_in_focus() {
    let program = "import pdb\nx = 41\npdb.set_trace()\nx += 1\nprint('result', x)\ninput()\n";
    let mut screen = Screen::new(24, 80);
    let procfile = "parrot: exec /usr/bin/python3 app.py\nother: exec $HOSTILE tick\n";
    let scenario = Scenario::procfile(procfile).file("app.py", program);
    let running = screen.show(scenario.args("start -N --focus parrot")).start();
    screen.wait_for("(Pdb) ");
    screen.type_text("p x + 1000\r");
    screen.wait_for("(Pdb) p x + 1000\n1041\n(Pdb) ");
    screen.type_text("\x1b[A\r");
    screen.wait_for("1041\n(Pdb) p x + 1000\n1041\n(Pdb) ");
    screen.type_text("c\r");
    screen.wait_for("(Pdb) c\nresult 42");
    screen.type_text(DETACH);
    screen.wait_for("parrot.1 | result 42").wait_for("other.1  | tick");
    screen.type_text("\x03");
    running.finish().code(0);
}

/// Starts a program in focus, and returns it when it has written `prompt`.
fn start_program(screen: &mut Screen, program: &str, prompt: &str) -> Running {
    let procfile = format!("parrot: exec {program}\nother: exec $HOSTILE tick\n");
    let running = start(screen, &procfile, "");
    screen.wait_for(prompt);
    running
}

/// Detaches, sees the output of the others, attaches again, and stops all by two interrupts.
fn stop_program(screen: &mut Screen, running: Running) {
    screen.type_text(DETACH);
    screen.wait_for_times("detached from parrot", 1).wait_for("other.1  | tick");
    screen.type_text(DETACH);
    screen.wait_for_times("attached to parrot", 2);
    screen.type_text("\x03\x03");
    running.finish().code(0);
    assert!(screen.is_reset());
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs irb")]
fn irb_is_used_in_focus() {
    for (program, prompt) in [
        ("irb --noautocomplete", "irb(main)"),
        ("env IRB_USE_AUTOCOMPLETE=false ruby -e 'x = 41; binding.irb; puts x'", "irb(main)"),
    ] {
        let mut screen = Screen::new(24, 80);
        let running = start_program(&mut screen, program, prompt);
        screen.type_text("x = 42\r");
        screen.wait_for("=> 42");
        screen.type_text("x + 1\r");
        screen.wait_for("=> 43");
        screen.type_text("\x1b[A + 1\r");
        screen.wait_for("=> 44");
        stop_program(&mut screen, running);
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs node")]
fn node_inspector_is_used_in_focus() {
    let program = "let x = 41;\nx += 1;\ndebugger;\nconsole.log('result', x);\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.js");
    std::fs::write(&file, program).unwrap();
    let mut screen = Screen::new(24, 80);
    let command = format!("node inspect --port={} {}", free_port(), file.display());
    let running = start_program(&mut screen, &command, "debug> ");
    screen.type_text("cont\r");
    screen.wait_for("app.js:3");
    screen.type_text("exec('x + 1000')\r");
    screen.wait_for("1042");
    stop_program(&mut screen, running);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs PostgreSQL")]
fn psql_is_used_in_focus_beside_its_server() {
    let procfile = format!(
        "parrot: PAGER= exec psql -h 127.0.0.1 -p $GANGER_PROCESS_db_PORT -U postgres\n\
         db: {}\n",
        postgres::COMMAND
    );
    let config = format!("{}[process.parrot]\nafter = ['db']\n", postgres::CONFIG);
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let scenario = postgres::add_database(scenario);
    let mut screen = Screen::new(24, 80);
    let args = format!("start --focus parrot -p {}", free_port());
    let running = screen.show(scenario.args(&args)).start();
    screen.wait_for("postgres=# ");
    screen.type_text("select 6 * 7 as answer;\r");
    screen.wait_for(" answer \n").wait_for("42").wait_for("(1 row)");
    // An interrupt belongs to psql, which clears the line. Another one stops all only at once.
    screen.type_text("select 1");
    screen.wait_for("postgres=# select 1").type_text("\x03");
    screen.wait_for("^C\npostgres=# ");
    screen.type_text("\x1b[A\r");
    screen.wait_for_times("(1 row)", 2);
    screen.type_text(DETACH);
    screen.wait_for("parrot.1 | (1 row)");
    screen.type_text("\x03");
    running.finish().code(0);
    screen.wait_for("db.1 exited (0)");
    assert!(screen.is_reset());
}
