//! `run`: one command in the app's environment, on the user's terminal.

use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::scenario::{Scenario, is_alive};
use crate::screen::{PROMPT, Screen};

fn app() -> Scenario {
    let procfile = "web: bin/web\nconsole: echo \"$A from $PS\"; exit 5\nrelease: echo migrated\n";
    Scenario::procfile(procfile).file(".env", "A=b\n")
}

fn code_of(command: &str) -> i32 {
    app().args("run").args(command).run().status.code().unwrap()
}

#[test]
fn run_prints_output_unchanged() {
    let finished = app().args("run env").run().code(0);
    let lines: Vec<String> = finished.stdout().lines().map(str::to_owned).collect();
    assert!(lines.contains(&"A=b".to_owned()) && lines.contains(&"PS=run.1".to_owned()));
    assert!(!lines.iter().any(|line| line.starts_with("PORT=")));
    assert_eq!(finished.stderr(), "");
    let both = app().args("run sh -c").arg("echo out; echo err >&2").run().code(0);
    assert_eq!((both.stdout(), both.stderr()), ("out\n".into(), "err\n".into()));
    assert_eq!(app().args("exec printf %s x").run().code(0).stdout(), "x");
}

#[test]
fn run_returns_the_exact_exit_code() {
    assert_eq!(code_of("true"), 0);
    let sh = |script: &str| app().args("run sh -c").arg(script).run().status.code().unwrap();
    assert_eq!(sh("exit 7"), 7);
    assert_eq!(sh("kill -KILL $$"), 137);
    assert_eq!(sh("kill -TERM $$"), 143);
    let missing = app().args("run no-such-program").run().code(127);
    assert_eq!(missing.stderr(), "ganger: no command and no Procfile entry `no-such-program`\n");
    assert_eq!(code_of("/etc/passwd"), 126);
}

#[test]
fn run_passes_arguments_unchanged() {
    let output = |args: &str| app().args(args).run().code(0).stdout();
    assert_eq!(output("run printf %s, -f x --env y -v -- -h"), "-f,x,--env,y,-v,--,-h,");
    assert_eq!(output("run -- printf %s, -x"), "-x,");
    assert_eq!(app().args("run printf %s|").arg("a b  $A;c").run().code(0).stdout(), "a b  $A;c|");
}

#[test]
fn run_starts_procfile_entries() {
    assert_eq!(app().args("run console").run().code(5).stdout(), "b from run.1\n");
    assert_eq!(app().args("run release").run().code(0).stdout(), "migrated\n");
    // A name with arguments is a command: there is no command of that name.
    assert_eq!(code_of("console x"), 127);
    let with_arguments = app().args("run console x").run().code(127).stderr();
    let expected = "ganger: no command `console`, and the Procfile's entry takes no arguments: \
                    `ganger run console`\n";
    assert_eq!(with_arguments, expected);
    let typo = app().args("run consoel").run().code(127).stderr();
    let expected = "ganger: no command and no Procfile entry `consoel` (did you mean `console`?)\n";
    assert_eq!(typo, expected);
    let line = app().args("run").arg("echo $A | tr b c").run().code(0);
    assert_eq!(line.stdout(), "c\n");
}

#[test]
fn run_works_without_a_procfile() {
    let app = || Scenario::new().file(".env", "A=b\n");
    let shell = || app().args("run sh -c").arg("echo $A; exit 7");
    assert_eq!(shell().run().code(7).stdout(), "b\n");
    assert_eq!(app().args("run true").run().code(0).stderr(), "");
    let inside = Scenario::new().file("app/.env", "A=c\n").args("-d app run sh -c").arg("echo $A");
    assert_eq!(inside.run().code(0).stdout(), "c\n");
    // A Procfile that `-f` names must exist, and one that exists must be valid.
    app()
        .args("-f Procfile.dev run true")
        .run()
        .refused("failed to read `Procfile.dev`: No such file or directory");
    let broken = app().file("Procfile", "web\n").args("run true").run().code(2);
    assert!(broken.stderr().contains("`Procfile` line 1: expected `name: command`"));
}

#[test]
fn run_uses_the_folder_of_the_app() {
    let finished = Scenario::new()
        .file("app/Procfile", "web: a\n")
        .file("app/.env", "A=1\n")
        .args("-d app run sh -c")
        .arg("pwd; echo $PWD $A")
        .run()
        .code(0);
    let out = finished.stdout();
    let mut lines = out.lines();
    let folder = lines.next().unwrap();
    assert!(folder.ends_with("/app"));
    assert_eq!(lines.next().unwrap(), format!("{folder} 1"));
    let env = Scenario::new().file("app/Procfile", "web: a\n").args("-d app run env").run();
    assert!(
        env.code(0).stdout().lines().any(|line| line.starts_with("PWD=") && line.ends_with("/app"))
    );
}

#[test]
fn run_of_an_entry_has_the_port_of_its_type() {
    let procfile = "db: true\nweb: echo $PORT $GANGER_PROCESS_db_PORT $PS\n";
    let output = |args: &str| {
        let app =
            Scenario::procfile(procfile).file(".env", "A=b\n").file("dev", "web: echo dev $PORT\n");
        app.args(args).run().code(0).stdout()
    };
    assert_eq!(output("run web"), "5100 5000 run.1\n");
    assert_eq!(output("run -p 3000 web"), "3100 3000 run.1\n");
    assert_eq!(output("run --port 3000 -P 10 --compat-env web"), "3010 3000 run.1\n");
    assert_eq!(output("run -N web"), "run.1\n");
    assert_eq!(output("run -f dev web"), "dev 5000\n");
    assert_eq!(output("run -p 3000 printenv PORT"), "3000\n");
    app().args("run printenv PORT").run().code(1);
    app()
        .args("run --no-such web")
        .run()
        .refused("`run` has no flag `--no-such`: see `ganger help run`");
    app().args("run -p 65500 release").run().refused(
        "`release.1` would get port 65700, and 65535 is the last (lower `--port` or `--port-step`, or \
         do without ports: `--no-port`)",
    );
}

#[test]
fn run_explains_why_a_program_can_not_be_run() {
    let output = |args: &str, code: i32| {
        let app = app().file("plain.sh", "#!/bin/sh\n").file("bad.sh", "#!/usr/bin/rubyy -w\n");
        let app = app.file("Procfile", "web: bundel exec puma\n");
        let bad = app.folder().join("bad.sh");
        std::fs::set_permissions(bad, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        app.args(args).run().code(code).stderr()
    };
    assert_eq!(
        output("run ./none.sh", 127),
        "ganger: can't run `./none.sh`: there is no such file\n"
    );
    assert_eq!(
        output("run ./bad.sh", 127),
        "ganger: `./bad.sh`: its interpreter `/usr/bin/rubyy` is missing\n"
    );
    assert_eq!(
        output("run ./plain.sh", 126),
        "ganger: `./plain.sh` is not executable (`chmod +x ./plain.sh`)\n"
    );
    assert_eq!(output("run /etc", 126), "ganger: can't run `/etc`: it is a folder\n");
    assert_eq!(output("run web", 127), "ganger: can't run `bundel`: not found in PATH\n");
}

#[test]
fn run_reads_stdin() {
    let mut running = app()
        .args("run cat")
        .command(|command| {
            command.stdin(Stdio::piped());
        })
        .start();
    running.child.stdin.take().unwrap().write_all(b"to be read").unwrap();
    assert_eq!(running.finish().code(0).stdout(), "to be read");
}

#[test]
fn run_forwards_term_and_hup_and_leaves_int_to_the_command() {
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGHUP, "HUP")] {
        let script = format!("trap 'exit 3' {name}; echo up; while :; do sleep 0.05; done");
        let mut running = app().args("run sh -c").arg(script).start();
        running.wait_for("up").signal(signal);
        running.finish().code(3);
    }
    let scenario = app().args("run sh -c").arg("echo up; read x; exit 4").command(|command| {
        command.stdin(Stdio::piped());
    });
    let mut running = scenario.start();
    running.wait_for("up").signal(Signal::SIGINT);
    running.signal(Signal::SIGQUIT);
    drop(running.child.stdin.take());
    running.finish().code(4);
}

#[test]
fn run_keeps_inherited_ignored_signals() {
    let scenario = Scenario::of("nohup").file("Procfile", "a: true\n").arg(crate::scenario::GANGER);
    let scenario = scenario.args("run sh -c").arg("kill -HUP $$; kill -HUP $PPID; echo alive");
    assert_eq!(scenario.run().code(0).stdout(), "alive\n");
}

#[test]
fn run_uses_the_terminal_with_job_control() {
    let mut screen = Screen::new(24, 80);
    let mut running = screen.start_shell(Scenario::of("bash").file("Procfile", "a: true\n"));
    screen.type_text(
        "$GANGER run sh -c 'test -t 0 && test -t 1 && stty -a >/dev/null && echo is-a-\"terminal\"; exec cat'\n",
    );
    screen.wait_for_times("is-a-terminal", 1);
    screen.type_text("ech\x7fho1\n");
    screen.wait_for_times("\necho1\r\n", 1);
    // Suspended by the key, and continued by the shell.
    screen.type_text("\x1a");
    screen.wait_for_times(PROMPT, 2);
    screen.type_text("fg\n");
    screen.wait_for_times("exec cat'\r\n", 3);
    screen.type_text("after fg\n");
    screen.wait_for_times("after fg\r\n", 2);
    // The key interrupts the command, and ganger returns its exit code.
    screen.type_text("\x03");
    screen.wait_for_times(PROMPT, 3);
    screen.type_text("echo code=$?\n");
    screen.wait_for_times("code=130", 1);
    screen.type_text("exit\n");
    running.wait();
    assert!(!is_alive(running.pid()));
}

#[test]
fn run_suspends_ganger_only_after_its_command() {
    // As an editor does, which restores the screen before it suspends itself.
    let script = "trap 'echo saving; until test -e go; do sleep 0.01; done; echo saved; \
                  kill -STOP $$; kill $!' TSTP\n\
                  sleep 1000 & echo up; wait\n\
                  echo resumed\n";
    let scenario = Scenario::of("bash").file("Procfile", "a: true\n").file("editor.sh", script);
    let mut screen = Screen::new(24, 80);
    let mut running = screen.start_shell(scenario);
    screen.type_text("$GANGER run sh editor.sh\n");
    screen.wait_for_times("up\r\n", 1);
    screen.type_text("\x1a");
    screen.wait_for_times("saving\r\n", 1);
    std::fs::write(running.folder().join("go"), "").unwrap();
    screen.wait_for_times(PROMPT, 2);
    let raw = screen.raw();
    let (before, after) = raw.split_once("saved\r\n").expect("saved before the prompt");
    assert_eq!((before.matches(PROMPT).count(), after.matches(PROMPT).count()), (1, 1), "{raw:?}");
    screen.type_text("fg\n");
    screen.wait_for_times("resumed\r\n", 1);
    screen.wait_for_times(PROMPT, 3);
    screen.type_text("exit\n");
    running.wait();
}
