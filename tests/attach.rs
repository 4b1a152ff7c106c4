//! `ganger attach` and `ganger send`: typing into processes.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::control::ClientOutput;
use crate::random::Random;
use crate::scenario::{GANGER, Running, Scenario, children, is_alive, is_stopped, wait_until};
use crate::screen::Screen;
use crate::servers::Sshd;

/// The key that detaches.
const DETACH: &str = "\x1d";

/// A process that repeats what it reads.
const PARROT: &str = "a: echo up; while read line; do echo \"got $line\"; done\n";

fn start(procfile: &str, args: &str) -> Running {
    Scenario::procfile(procfile).args("start --pty always").args(args).start()
}

fn attach(running: &Running, screen: &Screen, args: &str) -> Running {
    screen.show(Scenario::of(GANGER).in_folder(running.folder()).args("attach").args(args)).start()
}

fn stop(running: Running) {
    running.signal(Signal::SIGTERM);
    running.finish();
}

#[test]
fn keys_go_to_the_process_and_its_screen_to_the_client() {
    let mut running = start(PARROT, "");
    running.wait_for("a.1    | up");
    let mut screen = Screen::new(24, 80);
    let before = screen.line_modes();
    let client = attach(&running, &screen, "a");
    screen.wait_for("attached to a, ctrl-] detaches").wait_for("up");
    screen.type_text("hello\r");
    screen.wait_for("\nhello\ngot hello");
    screen.type_text(DETACH);
    screen.wait_for("\nganger: detached from a");
    client.finish().code(0);
    assert_eq!(screen.line_modes(), before);
    running.wait_for("a.1    | got hello");
    // What is sent is echoed, as on any terminal.
    assert_eq!(running.run_client("send a.1 later\\n"), ClientOutput(String::new(), 0));
    running.wait_for("a.1    | got later\n");
    running.signal(Signal::SIGTERM);
    let lines = running.finish().lines_of("a.1");
    assert_eq!(lines, ["up", "hello", "got hello", "later", "got later"]);
}

#[test]
fn sent_control_keys_work_as_typed_ones() {
    let mut running =
        start("a: trap 'echo int; exit 5' INT; echo up; while :; do sleep 0.01; done\n", "");
    running.wait_for("a.1    | up");
    assert_eq!(running.run_client("send a \\x03"), ClientOutput(String::new(), 0));
    assert_eq!(running.finish().code(5).lines_of("a.1"), ["up", "^Cint"]);
}

#[test]
fn process_without_a_terminal_is_refused_with_the_way_out() {
    let running = Scenario::procfile("a: sleep 1000\n").args("start").start();
    let mut running = running;
    running.wait_for("a.1 started");
    let ClientOutput(text, code) = running.run_client("send a x");
    assert_eq!(
        text,
        "ganger: a.1 has no terminal: run `ganger start` on a terminal, or with `--pty always` \
         (`ganger logs -f a.1` follows its output)\n"
    );
    assert_eq!(code, 2);
    let ClientOutput(text, _) = running.run_client("attach a");
    assert!(text.starts_with("ganger: `attach` needs a terminal"), "{text}");
    stop(running);
}

#[test]
fn attach_needs_one_process() {
    let mut running = start("a: sleep 1000\n", "-m a=2");
    running.wait_for("a.2 started");
    let mut screen = Screen::new(24, 80);
    let client = attach(&running, &screen, "a");
    screen.wait_for("`a` is 2 processes: name one, such as `a.1`");
    client.finish().code(2);
    stop(running);
}

#[test]
fn one_client_types_and_the_others_watch() {
    let mut running = start(PARROT, "");
    running.wait_for("a.1    | up");
    let (mut first, mut second) = (Screen::new(24, 80), Screen::new(30, 90));
    let first_client = attach(&running, &first, "a.1 --detach-keys ctrl-p,ctrl-q");
    first.wait_for("ctrl-p,ctrl-q detaches").wait_for("up");
    let second_client = attach(&running, &second, "a.1");
    second.wait_for("[ganger: another client types into a.1: you watch until it detaches]");
    second.type_text("no\r");
    first.type_text("one\r");
    second.wait_for("got one");
    first.wait_for("got one");
    first.type_text("\x10\x11");
    second.wait_for("[ganger: the other client has detached from a.1: your keys go there now]");
    first_client.finish().code(0);
    second.type_text("two\r");
    second.wait_for("got two");
    assert!(!second.text().contains("got no"), "{}", second.text());
    second.type_text(DETACH);
    second_client.finish().code(0);
    stop(running);
}

#[test]
fn client_stays_over_a_restart_and_leaves_when_the_process_is_down() {
    let mut running = start("a: echo up; read line; echo \"life $line\"; exit 3\n", "-r a");
    running.wait_for("a.1    | up");
    let mut screen = Screen::new(24, 80);
    let client = attach(&running, &screen, "a");
    screen.wait_for("\nup");
    screen.type_text("one\r");
    screen.wait_for("life one\n");
    screen.wait_for("[ganger: a.1 exited (3), waiting for its restart]");
    screen.wait_for("[ganger: a.1 started again, pid ").wait_until("up again", |screen| {
        screen.text().rsplit_once("started again").is_some_and(|(_, after)| after.contains("up"))
    });
    screen.type_text("two\r");
    screen.wait_for("life two\n");
    assert_eq!(running.run_client("stop a").1, 0);
    screen.wait_for(", detached]");
    client.finish().code(0);
    assert!(screen.is_reset());
    stop(running);
}

#[test]
fn smallest_window_decides_the_size() {
    let procfile = "a: trap 'stty size' WINCH; echo up; while :; do sleep 0.01; done\n";
    let mut running = start(procfile, "");
    running.wait_for("a.1    | up");
    let (mut large, small) = (Screen::new(40, 120), Screen::new(20, 100));
    let large_client = attach(&running, &large, "a");
    large.wait_for("40 120");
    let small_client = attach(&running, &small, "a");
    large.wait_for("20 100");
    large.resize(50, 90);
    large.wait_for("20 90");
    large.type_text(DETACH);
    large_client.finish().code(0);
    running.wait_for("| 20 100");
    small_client.signal(Signal::SIGTERM);
    running.wait_for("| 24 71");
    stop(running);
}

#[test]
fn password_is_not_echoed() {
    let procfile = "a: stty -echo; printf 'Password: '; read word; stty echo; echo; \
                    echo \"${#word} keys\"; read line\n";
    let running = start(procfile, "");
    let mut screen = Screen::new(24, 80);
    let mut ready = running;
    ready.wait_until("the prompt", |running| running.run_client("logs a").0.contains("Password: "));
    let client = attach(&ready, &screen, "a");
    screen.wait_for("Password: ");
    screen.type_text("secret\r");
    screen.wait_for("6 keys");
    assert!(!screen.raw().contains("secret"));
    screen.type_text(DETACH);
    client.finish().code(0);
    assert!(!ready.run_client("logs a").0.contains("secret"));
    stop(ready);
}

/// What a full-screen program switches on.
const MODES_ON: &str = r"\033[?1049h\033[?25l\033[?1h\033=\033[?1003h\033[?1006h\033[?1004h\033[?2004h\033[>1u\033[31m";

#[test]
fn terminal_is_restored_whatever_is_killed() {
    let mut random = Random(7);
    let procfile = format!("a: stty raw -echo; printf '{MODES_ON}up'; sleep 1000\n");
    for schedule in 0..50 {
        let mut running = start(&procfile, "");
        running.wait_for("a.1 started");
        let mut screen = Screen::new(24, 80);
        let before = screen.line_modes();
        let mut client = attach(&running, &screen, "a");
        screen.wait_for("up").wait_until("modes", |screen| screen.emulated().alternate_screen());
        let guarded = children(client.pid())[0];
        std::thread::sleep(Duration::from_millis(random.below(20)));
        let victim = random.below(5);
        let victim = match victim {
            0 => client.pid(),
            1 => guarded,
            2 => running.pid(),
            3 => running.keeper(),
            _ => children(running.keeper())[0],
        };
        kill(victim, Signal::SIGKILL).unwrap();
        client.wait();
        wait_until("the client's end", || !is_alive(guarded));
        screen.wait_until("reset", Screen::is_reset);
        assert_eq!(screen.line_modes(), before, "schedule {schedule}");
        let _ = kill(running.pid(), Signal::SIGTERM);
        running.wait();
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn python_debugger_can_be_stepped_through() {
    let program =
        "import pdb\nx = 41\npdb.set_trace()\nx += 1\nprint('result', x)\ninput('more? ')\n";
    let mut running = Scenario::procfile("a: exec /usr/bin/python3 app.py\n")
        .file("app.py", program)
        .args("start --pty always")
        .start();
    running.wait_until("(Pdb)", |running| running.run_client("logs a").0.contains("(Pdb)"));
    let mut screen = Screen::new(24, 80);
    let client = attach(&running, &screen, "a");
    screen.wait_for("(Pdb) ");
    screen.type_text("p x + 1000\r");
    screen.wait_for("(Pdb) p x + 1000\n1041\n(Pdb) ");
    // The line editor knows the line before.
    screen.type_text("\x1b[A\r");
    screen.wait_for("1041\n(Pdb) p x + 1000\n1041\n(Pdb) ");
    screen.type_text("c\r");
    screen.wait_for("(Pdb) c\nresult 42\nmore? ");
    screen.type_text(DETACH);
    client.finish().code(0);
    stop(running);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs node")]
fn node_repl_can_be_used() {
    let mut running = start("a: exec node -i\n", "");
    running.wait_until("prompt", |running| running.run_client("logs a").0.contains("> "));
    let mut screen = Screen::new(24, 80);
    let client = attach(&running, &screen, "a");
    screen.wait_for("> ");
    screen.type_text("6 * 7\r");
    screen.wait_for("\n42\n> ");
    screen.type_text(DETACH);
    client.finish().code(0);
    stop(running);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs less and vim")]
fn full_screen_programs_draw_their_screen_for_a_client() {
    let lines: Vec<String> = (1..100).map(|number| format!("line {number}")).collect();
    let text = lines.join("\n") + "\n";
    let procfile = "less: exec less text\nvim: exec vim -u NONE -i NONE -n text\n";
    let mut running =
        Scenario::procfile(procfile).file("text", text).args("start --pty always").start();
    running.wait_for("vim.1 started");
    for (name, more, keys, shown) in
        [("less", "line 29", "G", "line 99"), ("vim", "line 29", "G", "line 99")]
    {
        // From now on it follows the size of its terminal.
        running.wait_until("its screen", |running| {
            running.run_client(&format!("logs {name}")).0.contains("line 1")
        });
        let mut screen = Screen::new(30, 100);
        let client = attach(&running, &screen, name);
        screen.wait_for("line 1\n").wait_for(more);
        assert!(screen.emulated().alternate_screen(), "{name}");
        screen.type_text(keys);
        screen.wait_for(shown);
        screen.type_text(DETACH);
        screen.wait_for("detached from");
        client.finish().code(0);
        assert!(screen.is_reset(), "{name}");
    }
    stop(running);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs irb")]
fn irb_can_be_used() {
    let mut running = start("a: exec irb --noautocomplete\n", "");
    // It first asks how wide a character is, and waits for the answer of a terminal.
    running.wait_until("question", |running| running.run_client("logs a").0.contains('\u{25bd}'));
    let mut screen = Screen::new(24, 80);
    let client = attach(&running, &screen, "a");
    screen.wait_for("> ");
    screen.type_text("6 * 7\r");
    screen.wait_for("=> 42");
    // The line editor knows the line before.
    screen.type_text("\x1b[A + 1\r");
    screen.wait_for("=> 43");
    screen.type_text(DETACH);
    client.finish().code(0);
    stop(running);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs node")]
fn node_inspector_can_be_stepped_through() {
    let program = "let x = 41;\nx += 1;\ndebugger;\nconsole.log('result', x);\n";
    let port = crate::scenario::free_port();
    let mut running = Scenario::procfile(format!("a: exec node inspect --port={port} app.js\n"))
        .file("app.js", program)
        .args("start --pty always")
        .start();
    running.wait_until("debug>", |running| running.run_client("logs a").0.contains("debug>"));
    let mut screen = Screen::new(24, 80);
    let client = attach(&running, &screen, "a");
    screen.wait_for("debug> ");
    screen.type_text("cont\r");
    screen.wait_for("break in app.js:3");
    screen.type_text("exec('x + 1000')\r");
    screen.wait_for("1042");
    screen.type_text("next\r");
    screen.wait_for("break in app.js:4");
    screen.type_text(DETACH);
    client.finish().code(0);
    stop(running);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs sshd")]
fn attach_works_over_ssh() {
    let mut running = start(PARROT, "");
    running.wait_for("a.1    | up");
    let sshd = Sshd::start(running.folder());
    let mut screen = Screen::new(30, 100);
    let command = format!("cd {} && {GANGER} attach a", running.folder().display());
    let client = screen.show(sshd.run("-tt -e none", &command)).start();
    screen.wait_for("attached to a, ctrl-] detaches").wait_for("up");
    screen.type_text("from afar\r");
    screen.wait_for("got from afar");
    screen.type_text(DETACH);
    screen.wait_for("detached from a");
    client.finish().code(0);
    stop(running);
}

#[test]
fn attach_works_against_a_daemon_which_outlives_the_client() {
    let scenario = Scenario::procfile(PARROT).args("start -D --pty always");
    let folder = scenario.folder().to_owned();
    let daemon = scenario.start().finish_but_keep();
    let mut screen = Screen::new(24, 80);
    let client = attach(&daemon, &screen, "a");
    screen.wait_for("attached to a, ctrl-] detaches").wait_for("up");
    screen.type_text("hello\r");
    screen.wait_for("\nhello\ngot hello");
    screen.type_text(DETACH);
    screen.wait_for("detached from a");
    client.finish().code(0);
    // A client is hung up, and the next one goes on where that was.
    let mut client = attach(&daemon, &screen, "a");
    screen.wait_for_times("attached to a", 2);
    client.signal(Signal::SIGHUP);
    client.wait();
    screen.wait_until("reset", Screen::is_reset);
    let mut screen = Screen::new(24, 80);
    let client = Scenario::of(GANGER).in_folder(daemon.folder()).args("connect a");
    let mut client = screen.show(client).start();
    screen.wait_for("got hello");
    screen.type_text("again\r");
    screen.wait_for("got again");
    // The daemon's end is the client's.
    assert_eq!(daemon.run_client("quit").1, 0);
    client.wait();
    screen.wait_for(", detached]").wait_until("reset", Screen::is_reset);
    assert!(crate::scenario::running_files(&folder).is_empty());
}

#[test]
fn attached_client_goes_on_after_ganger_was_suspended() {
    let mut running = start(PARROT, "");
    running.wait_for("a.1    | up");
    let mut screen = Screen::new(24, 80);
    let client = attach(&running, &screen, "a");
    screen.wait_for("attached to a");
    let process = children(running.keeper())[0];
    running.signal(Signal::SIGTSTP);
    wait_until("all suspended", || is_stopped(process) && is_stopped(running.pid()));
    screen.type_text("meanwhile\r");
    running.signal(Signal::SIGCONT);
    screen.wait_for("got meanwhile");
    screen.type_text(DETACH);
    client.finish().code(0);
    stop(running);
}
