//! Names, colours, times and titles.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use nix::pty::openpty;

use crate::scenario::Scenario;

#[test]
fn names_are_padded_to_the_longest_one() {
    let finished =
        Scenario::procfile("a: echo 1\nlonger: echo 2\n").args("start --any-can-die").run().code(0);
    let mut lines: Vec<String> = finished.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["a.1      | 1", "longer.1 | 2"]);
}

#[test]
fn no_prefix_leaves_out_names() {
    let finished = Scenario::procfile("a: printf 'one\\ntwo'\n").args("start --no-prefix").run();
    assert_eq!(finished.code(0).stdout(), "one\ntwo\n");
}

#[test]
fn timestamp_adds_the_time() {
    let finished = Scenario::procfile("a: echo 1\n").args("start -T").run().code(0);
    let out = finished.stdout();
    let (time, line) = out.split_once(' ').unwrap();
    assert!(
        time.len() == 8 && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b':'),
        "{out}"
    );
    assert_eq!(line, "a.1    | 1\n");
    let finished = Scenario::procfile("a: echo 1\n").args("start -T --no-timestamp").run().code(0);
    assert_eq!(finished.stdout(), "a.1    | 1\n");
}

#[test]
fn color_follows_flags_and_environment() {
    let out = |args: &str, env: &[(&str, &str)]| {
        let scenario = Scenario::procfile("a: echo 1\nb: sleep 1000\n").args("start").args(args);
        let scenario = env.iter().fold(scenario, |scenario, (key, value)| scenario.env(key, value));
        scenario.run().code(0).stdout()
    };
    assert_eq!(out("", &[]), "a.1    | 1\n");
    let coloured = out("--color always", &[]);
    assert!(coloured.starts_with("\x1b[") && coloured.ends_with("1\n"), "{coloured:?}");
    assert_eq!(out("", &[("CLICOLOR_FORCE", "1")]), coloured);
    assert_eq!(out("", &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), "a.1    | 1\n");
    for never in ["--color never", "--no-color", "--no-colour", "--color always --no-color"] {
        assert_eq!(out(never, &[("CLICOLOR_FORCE", "1")]), "a.1    | 1\n");
    }
    let chosen = out("--color always -b 123,45", &[]);
    assert!(chosen.starts_with("\x1b[38;5;123m"), "{chosen:?}");
}

#[test]
fn stdout_and_stderr_decide_about_color_separately() {
    let terminal = openpty(None, None).unwrap();
    let slave = File::from(terminal.slave);
    let scenario = Scenario::procfile("a: echo 1\n").args("start").env("TERM", "xterm");
    let scenario = scenario.command(|command| {
        command.stdout(slave);
    });
    let finished = scenario.run().code(0);
    assert!(finished.stderr().contains("ganger | a.1 exited (0), stopping all\n"));
    assert!(!finished.stderr().contains('\x1b'), "{:?}", finished.stderr());
    let mut screen = [0; 1000];
    let count = File::from(terminal.master).read(&mut screen).unwrap();
    assert!(screen[..count].starts_with(b"\x1b["), "{:?}", &screen[..count]);
}

#[test]
fn hidden_processes_are_not_shown() {
    let procfile = "a: echo 1\nb: echo 2\n";
    let finished = Scenario::procfile(procfile).args("start -q a --any-can-die").run().code(0);
    assert_eq!(finished.stdout(), "b.1    | 2\n");
}

#[test]
fn window_title_is_set_and_restored() {
    let terminal = openpty(None, None).unwrap();
    let slave = File::from(terminal.slave);
    let stderr = slave.try_clone().unwrap();
    let scenario =
        Scenario::procfile("a: echo 1\n").args("start --title").arg("my app").command(|command| {
            command.env("TERM", "xterm").stdout(Stdio::from(slave)).stderr(Stdio::from(stderr));
        });
    scenario.run().code(0);
    let mut screen = Vec::new();
    // Reading returns EIO when no process has the terminal open.
    let _ = File::from(terminal.master).read_to_end(&mut screen);
    let screen = String::from_utf8_lossy(&screen).into_owned();
    assert!(screen.starts_with("\x1b[22;0t\x1b]0;my app\x07"), "{screen:?}");
    assert!(screen.ends_with("\x1b[23;0t"), "{screen:?}");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs bash")]
fn shell_is_configurable() {
    let scenario = || Scenario::procfile("a: echo ${BASH_VERSION:+bash} ${x:-none}\n");
    let shell = |args: &str| scenario().args("start").args(args).run();
    assert_eq!(shell("").code(0).lines_of("a.1"), ["none"]);
    assert_eq!(shell("-H bash").code(0).lines_of("a.1"), ["bash none"]);
    assert_eq!(shell("--shell /bin/bash").code(0).lines_of("a.1"), ["bash none"]);
    shell("-H nosh").refused("there is no shell `nosh`");
}
