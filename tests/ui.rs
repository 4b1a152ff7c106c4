//! The full-screen interface, `ganger ui` and `start --ui`.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scenario::{
    GANGER, Running, Scenario, children, is_alive, memory, tag, tagged, wait_until, wait_until_gone,
};
use crate::screen::Screen;
use crate::servers::Sshd;
use crate::tmux::Tmux;

const UP: &str = "\x1b[A";
const DOWN: &str = "\x1b[B";

/// An app, and its interface on a screen.
struct App {
    ganger: Running,
    ui: Running,
    screen: Screen,
    /// The modes of the terminal before.
    before: rustix::termios::Termios,
}

impl App {
    /// Starts the app, which must write `started` first.
    fn start(procfile: &str, args: &str, started: &str) -> Self {
        let mut ganger = Scenario::procfile(procfile).args("start").args(args).start();
        ganger.wait_for(started);
        let screen = Screen::new(24, 80);
        let ui = Scenario::new().in_folder(ganger.folder()).args("ui");
        let before = screen.modes();
        let ui = screen.show(ui).start();
        let mut app = Self { ganger, ui, screen, before };
        app.screen.wait_for(" up");
        app
    }
}

#[test]
fn enter_attaches_to_the_selected_process() {
    let procfile = "web: echo up; while read line; do echo \"got $line\"; done\n";
    let mut app = App::start(procfile, "--pty always", "| up");
    app.screen.type_text("\r");
    app.screen.wait_for("select a process first");
    app.screen.type_text(DOWN);
    app.screen.wait_for("── web.1 ──").type_text("\r");
    app.screen.wait_for("attached to web.1, ctrl-] detaches");
    assert!(!app.screen.emulated().alternate_screen());
    app.screen.type_text("q\r").wait_for("\ngot q");
    app.screen.type_text("\x1d");
    app.screen.wait_for("── web.1 ──").wait_for("got q");
    // The keys are those of the screen again.
    app.screen.type_text("q");
    app.ui.finish().code(0);
    assert_restored(&mut app.screen, &app.before);
    assert!(is_alive(app.ganger.pid()));
}

#[test]
fn process_without_a_terminal_can_not_be_attached_to() {
    let mut app = App::start("web: echo up; sleep 1000\n", "", "| up");
    app.screen.type_text(DOWN);
    app.screen.wait_for("── web.1 ──").type_text("\r");
    app.screen.wait_for("web.1 has no terminal");
    app.screen.type_text("q");
    app.ui.finish().code(0);
}

/// Asserts that a shell could use the terminal as before.
fn assert_restored(screen: &mut Screen, before: &rustix::termios::Termios) {
    screen.wait_until("the normal screen", |screen| !screen.emulated().alternate_screen());
    let (now, shown) = (screen.modes(), screen.emulated());
    assert!(!shown.hide_cursor());
    assert_eq!(shown.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
    let modes = |it: &rustix::termios::Termios| {
        (it.input_modes, it.output_modes, it.control_modes, it.local_modes)
    };
    assert_eq!(modes(&now), modes(before));
}

#[test]
fn ui_shows_processes_and_their_output() {
    let procfile =
        "web: echo hello from web; sleep 1000\nworker: echo hello from worker; sleep 1000\n";
    let mut app = App::start(procfile, "", "hello from worker");
    app.screen.wait_for("2 of 2 up").wait_for("web.1    | hello from web");
    app.screen.wait_for("ganger   | web.1 started");
    app.screen.type_text(DOWN);
    app.screen.wait_for("── web.1 ──").wait_until("only its output", |screen| {
        screen.text().contains("\nhello from web") && !screen.text().contains("from worker")
    });
    app.screen.type_text(DOWN);
    app.screen.wait_for("── worker.1 ──").wait_for("\nhello from worker");
    app.screen.type_text(&UP.repeat(3));
    app.screen.wait_for("── all ──").wait_for("worker.1 | hello from worker");
    assert_ne!(app.screen.modes().local_modes, app.before.local_modes);
    app.screen.type_text("q");
    app.ui.finish().code(0);
    assert_restored(&mut app.screen, &app.before);
    assert!(is_alive(app.ganger.pid()));
}

#[test]
fn ui_restarts_stops_starts_and_scales() {
    let mut app = App::start("web: echo up as $PS; sleep 1000\n", "", "up as web.1");
    app.screen.type_text(DOWN);
    app.screen.wait_for("── web.1 ──").type_text("r");
    app.screen.wait_until("another incarnation", |screen| {
        screen.text().matches("up as web.1").count() == 2
    });
    let is = |screen: &Screen, state: &str| {
        let text = screen.text();
        let row = text.lines().find(|line| line.contains("web.1  ")).unwrap_or_default();
        row.contains(state)
    };
    app.screen.wait_until("the new state", |screen| is(screen, " up,")).type_text("s");
    app.screen.wait_until("a process that is down", |screen| is(screen, " down ")).type_text("s");
    app.screen.wait_until("a process that is up", |screen| is(screen, " up,"));
    app.screen.type_text("+");
    app.screen.wait_for("2 of 2 up").type_text("-");
    app.screen.wait_for("1 of 1 up");
}

/// Whether the list is beside the output, not above it.
fn is_beside(screen: &Screen) -> bool {
    screen.text().lines().any(|line| line.contains("NAME") && line.contains("── "))
}

#[test]
fn ui_fits_the_size_of_the_terminal() {
    let mut app = App::start("web: echo up; sleep 1000\n", "", "| up");
    app.screen.wait_for("── all");
    assert!(!is_beside(&app.screen));
    app.screen.resize(60, 200);
    app.screen.wait_until("the list beside the output", is_beside);
    app.screen.resize(24, 80);
    app.screen.wait_until("the list above the output", |screen| !is_beside(screen));
}

#[test]
fn ui_asks_before_it_stops_everything() {
    let mut app = App::start("web: echo up; sleep 1000\n", "", "| up");
    app.screen.type_text("Q");
    app.screen.wait_for("stop everything and end ganger?").type_text("n");
    app.screen.wait_until("no question", |screen| !screen.text().contains("end ganger?"));
    app.screen.type_text("Qy");
    app.ui.finish().code(0);
    app.ganger.finish().code(0);
    app.screen.wait_for("web.1 stopped");
}

#[test]
fn ui_shows_a_prompt_and_finds_text() {
    let procfile = "web: seq 1000; printf 'name? '; sleep 1000\n";
    let mut app = App::start(procfile, "", "| 1000");
    app.screen.type_text(DOWN);
    app.screen.wait_for("name?").type_text("/77\r");
    app.screen.wait_for("\n977").type_text("n");
    app.screen.wait_until("the next match", |screen| {
        screen.text().contains("\n877") && !screen.text().contains("\n977")
    });
    app.screen.wait_for("lines below");
    app.screen.type_text("G");
    app.screen.wait_for("name?");
}

/// The text that base64 (RFC 4648) stands for.
fn decoded(base64: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |digit: &u8| DIGITS.iter().position(|it| it == digit).unwrap();
    let mut bytes = Vec::new();
    for group in base64.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0_usize, |bits, digit| (bits << 6) | value(digit));
        let [.., first, second, third] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        // The last group may be shorter.
        bytes.extend_from_slice(&[first, second, third][..group.len() - 1]);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn output_on_the_screen_is_copied() {
    let procfile = "web: seq 1000; printf 'Zoë? '; sleep 1000\n";
    let mut app = App::start(procfile, "", "| 1000");
    app.screen.type_text(DOWN);
    app.screen.wait_for("── web.1 ──").wait_for("\nZoë?").type_text("y");
    app.screen.wait_for("rows copied, if the terminal allows it");
    let raw = app.screen.raw();
    let (_, copied) = raw.split_once("\x1b]52;c;").unwrap();
    let text = decoded(copied.split_once("\x1b\\").unwrap().0);
    let rows = |text: &str| text.lines().map(|row| row.trim_end().to_owned()).collect::<Vec<_>>();
    let (copied, shown) = (rows(&text), rows(&app.screen.text()));
    assert!(copied.ends_with(&["999".to_owned(), "1000".to_owned(), "Zoë?".to_owned()]), "{text}");
    assert!(copied.len() > 10, "{text}");
    // Nothing but the output: neither the list nor the footer.
    let at = shown.iter().position(|row| *row == copied[0]).unwrap();
    assert_eq!(shown[at..shown.len() - 1], copied);
    assert!(shown[at - 1].starts_with("── web.1 ──"), "{shown:?}");
}

#[test]
fn ui_prints_the_report_when_ganger_ends() {
    let procfile = "web: echo up; sleep 1000\nbad: read line </dev/null; while ! [ -e go ]; do sleep 0.05; done; echo wrong; exit 3\n";
    let mut app = App::start(procfile, "", "| up");
    app.screen.wait_for("2 of 2 up");
    std::fs::write(app.ganger.folder().join("go"), "").unwrap();
    app.ui.finish().code(0);
    app.ganger.finish().code(3);
    app.screen.wait_for("bad.1 exited (3), stopping all").wait_for("web.1 stopped");
    assert_restored(&mut app.screen, &app.before);
}

fn mouse_mode(screen: &Screen) -> vt100::MouseProtocolMode {
    screen.emulated().mouse_protocol_mode()
}

#[test]
fn terminal_is_restored_when_the_ui_is_killed() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGHUP] {
        let mut app = App::start("web: echo up; sleep 1000\n", "", "| up");
        // Without it, the terminal selects text.
        assert_eq!(mouse_mode(&app.screen), vt100::MouseProtocolMode::None);
        app.screen.type_text("m");
        app.screen.wait_for("the mouse is on");
        assert_ne!(mouse_mode(&app.screen), vt100::MouseProtocolMode::None);
        let client = children(app.ui.pid())[0];
        kill(client, signal).unwrap();
        let code = app.ui.wait().code();
        assert_eq!(code, Some(if signal == Signal::SIGKILL { 137 } else { 0 }), "{signal}");
        assert_restored(&mut app.screen, &app.before);
        assert!(is_alive(app.ganger.pid()));
    }
}

#[test]
fn terminal_is_restored_when_ganger_is_killed() {
    let mut app = App::start("web: echo up; sleep 1000\n", "", "| up");
    app.ganger.signal(Signal::SIGKILL);
    app.ui.finish().code(0);
    assert_restored(&mut app.screen, &app.before);
}

#[test]
fn start_with_ui_stops_everything_when_the_screen_is_left() {
    let tag = tag();
    let mut screen = Screen::new(60, 200);
    let before = screen.modes();
    let procfile = format!("web: echo up {tag}; sleep 1000\n");
    let running = screen.show(Scenario::procfile(procfile).args("start --ui")).start();
    screen.wait_for("1 of 1 up").wait_for(&format!("web.1  | up {tag}"));
    screen.type_text("q");
    screen.wait_for("stop everything and end ganger?").type_text("y");
    running.finish().code(0);
    screen.wait_for("web.1 stopped");
    assert_restored(&mut screen, &before);
}

#[test]
fn start_with_ui_has_the_exit_code_of_the_app() {
    let mut screen = Screen::new(24, 80);
    let procfile = "web: echo up; sleep 1000\nbad: sleep 1; echo wrong; exit 7\n";
    let running = screen.show(Scenario::procfile(procfile).args("start --ui")).start();
    running.finish().code(7);
    screen.wait_for("bad.1 exited (7), stopping all").wait_for("wrong");
}

#[test]
fn interrupt_in_start_with_ui_stops_everything() {
    let mut screen = Screen::new(24, 80);
    let running = screen.show(Scenario::procfile("web: sleep 1000\n").args("start --ui")).start();
    screen.wait_for("1 of 1 up").type_text("\x03");
    running.finish().code(0);
    screen.wait_for("web.1 stopped");
}

#[test]
fn everything_stops_when_the_screen_of_start_is_killed() {
    let tag = tag();
    let mut screen = Screen::new(24, 80);
    let procfile = format!("web: exec $HOSTILE leaf {tag}\n");
    let mut running = screen.show(Scenario::procfile(procfile).args("start --ui")).start();
    screen.wait_for("1 of 1 up");
    let client = children(running.pid())[0];
    kill(client, Signal::SIGKILL).unwrap();
    assert_eq!(running.wait().code(), Some(137));
    screen.wait_until("the normal screen", |screen| !screen.emulated().alternate_screen());
    wait_until_gone(&tag);
}

#[test]
fn suspended_ui_gives_the_terminal_back() {
    let mut ganger = Scenario::procfile("web: echo up; sleep 1000\n").args("start").start();
    ganger.wait_for("| up");
    let mut screen = Screen::new(24, 80);
    let before = screen.modes();
    let shell = Scenario::of("sh").in_folder(ganger.folder()).args("-mc");
    let shell = shell.arg("$GANGER ui; echo suspended; read line; fg; echo left");
    let shell = screen.show(shell).start();
    screen.wait_for("1 of 1 up").type_text("\x1a");
    screen.wait_for("suspended");
    assert_restored(&mut screen, &before);
    screen.type_text("\r");
    screen.wait_until("the screen", |screen| screen.emulated().alternate_screen());
    screen.wait_for("1 of 1 up").type_text("q");
    screen.wait_for("left");
    shell.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs tmux")]
fn ui_is_used_in_tmux_against_a_daemon() {
    let procfile = "web: while read line; do echo \"got $line\"; done\n\
                    worker: echo hello from worker; exec sleep 1000\n";
    let scenario = Scenario::of("tmux").file("Procfile", procfile);
    let (_shell, tmux) = Tmux::start(scenario, "app", 80, 24);
    tmux.type_keys("app", &["$GANGER start -ND --pty always && $GANGER ui", "Enter"]);
    tmux.wait_for("app", "2 of 2 up");
    tmux.wait_for("app", "worker.1 | hello from worker");
    tmux.type_keys("app", &["Down"]);
    tmux.wait_for("app", "── web.1 ──");
    tmux.type_keys("app", &["Enter"]);
    tmux.wait_for("app", "attached to web.1");
    tmux.type_keys("app", &["typed in tmux", "Enter"]);
    tmux.wait_for("app", "got typed in tmux");
    tmux.type_keys("app", &["C-]"]);
    tmux.wait_for("app", "── web.1 ──");
    tmux.run(&["resize-window", "-x", "200", "-y", "60"]);
    let is_beside = |line: &str| line.contains("NAME") && line.contains("── web.1 ──");
    wait_until("the list beside the output", || tmux.text("app").lines().any(is_beside));
    tmux.type_keys("app", &["r"]);
    tmux.wait_for("app", "web.1 started, pid ");
    tmux.type_keys("app", &["Qy"]);
    tmux.wait_for("app", "worker.1 stopped");
    // The shell has its screen and its keys again.
    tmux.type_keys("app", &["echo code=$?", "Enter"]);
    tmux.wait_for("app", "code=0");
    tmux.wait_for("app", "$GANGER ui");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs sshd")]
fn ui_works_over_ssh() {
    let mut ganger = Scenario::procfile("web: echo up; sleep 1000\n").args("start").start();
    ganger.wait_for("| up");
    let sshd = Sshd::start(ganger.folder());
    let mut screen = Screen::new(24, 80);
    let folder = ganger.folder().display().to_string();
    let command = format!("{GANGER} ui -d {folder}");
    let before = screen.modes();
    let ui = screen.show(sshd.run("-tt -e none", &command)).start();
    screen.wait_for("1 of 1 up").wait_for("web.1  | up");
    screen.type_text(DOWN);
    screen.wait_for("── web.1 ──");
    screen.resize(60, 200);
    screen.wait_until("the list beside the output", is_beside);
    screen.type_text("q");
    ui.finish().code(0);
    assert_restored(&mut screen, &before);
    // A connection that is lost ends the screen and not the app.
    let mut ui = screen.show(sshd.run("-tt -e none", &command)).start();
    screen.wait_for("1 of 1 up");
    assert!(!tagged(&folder).is_empty());
    ui.signal(Signal::SIGKILL);
    ui.wait();
    wait_until_gone(&folder);
    assert!(is_alive(ganger.pid()));
}

#[test]
fn ui_is_readable_without_colour() {
    let colored = |bytes: &str| {
        let colors = regex::Regex::new(r"\x1b\[[0-9;:]*m").unwrap();
        let is_color = |it: &str| {
            let numbers = it[2..it.len() - 1].split(';').map(|number| number.parse().unwrap_or(0));
            numbers.into_iter().any(|number| matches!(number, 30..=38 | 40..=48 | 90..=107))
        };
        colors.find_iter(bytes).filter(|it| is_color(it.as_str())).count()
    };
    let procfile = "web: printf '\\033[31mred\\033[0m\\n'; sleep 1000\n";
    for (variable, args, expected) in
        [("NO_COLOR", "", false), ("OTHER", "--color never", false), ("OTHER", "", true)]
    {
        let mut screen = Screen::new(24, 80);
        let scenario = Scenario::procfile(procfile).env(variable, "1");
        let ui = screen.show(scenario.args("start --ui").args(args)).start();
        screen.wait_for("1 of 1 up").wait_for("web.1  | red");
        // What is selected is seen by more than a colour.
        screen.type_text(DOWN);
        screen.wait_for("\n> web.1  ").wait_for("── web.1 ──").wait_for("\nred");
        screen.type_text("Qy");
        ui.finish().code(0);
        let raw = screen.raw();
        assert_eq!(colored(&raw) > 0, expected, "{variable} {args}: {raw:?}");
    }
}

#[test]
fn full_screen_needs_a_terminal() {
    let procfile = "web: sleep 1000\n";
    for args in ["ui", "start --ui"] {
        Scenario::procfile(procfile)
            .args(args)
            .run()
            .refused("a full screen needs a terminal: use `ganger ps` and `ganger logs -f` here");
    }
    let screen = Screen::new(24, 80);
    let dumb = screen.show(Scenario::procfile(procfile)).env("TERM", "dumb").args("start --ui");
    dumb.run().code(2);
}

/// Presses a key, and returns how long it took until its effect was shown.
fn time_key(screen: &mut Screen) -> Duration {
    let asked = Instant::now();
    screen.type_text("?").wait_for("any key closes this");
    let took = asked.elapsed();
    screen.type_text("x");
    screen.wait_until("no help", |screen| !screen.text().contains("any key closes"));
    // A user presses a few keys in a second: each one draws a frame.
    screen.wait_until("the next key", |_| asked.elapsed() > Duration::from_millis(100));
    took
}

/// The processor time of a process so far.
fn cpu_time(pid: Pid) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

#[test]
fn key_is_answered_at_once_beside_a_flood() {
    let flood = "flood: exec yes a line of a process that floods the screen\n".to_owned();
    let others = (0..49).map(|instance| format!("p{instance}: echo up; sleep 1000\n"));
    let procfile: Vec<String> = std::iter::once(flood).chain(others).collect();
    let mut app = App::start(&procfile.concat(), "-q flood", "p48.1");
    app.screen.wait_for("50 of 50 up");
    app.screen.type_text(DOWN);
    app.screen.wait_for("── flood.1 ──").wait_for("\na line");
    let client = children(app.ui.pid())[0];
    // By then it keeps as much output as it ever will, or nearly so.
    let mut times: Vec<Duration> = (0..10).map(|_| time_key(&mut app.screen)).collect();
    let (memory_before, cpu_before, since) = (memory(client), cpu_time(client), Instant::now());
    while since.elapsed() < Duration::from_secs(5) || times.len() < 20 {
        times.push(time_key(&mut app.screen));
    }
    let (elapsed, cpu) = (since.elapsed(), cpu_time(client).saturating_sub(cpu_before));
    // On an idle machine it is below 50 ms; other tests may run beside this one.
    times.sort_unstable();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    assert!(median < Duration::from_millis(500), "{times:?}");
    assert!(slowest < Duration::from_secs(2), "{times:?}");
    // On an idle machine it is below a tenth.
    assert!(cpu < elapsed / 2, "{cpu:?} of {elapsed:?}");
    let used = memory(client);
    assert!(used <= memory_before * 3 / 2 + (4 << 20), "{memory_before} and then {used} bytes");
    assert!(used < 64 << 20, "{used} bytes");
}
