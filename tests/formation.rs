//! Which processes run, in what number, and on which ports.

use crate::scenario::{Finished, Scenario};

const APP: &str = "web: echo $PS $PORT $SECRET\nworker: echo $PS $PORT\nclock: echo $PS $PORT\n";

fn app() -> Scenario {
    Scenario::procfile(APP).file(".env", "SECRET=hunter2\n")
}

fn start(args: &str) -> Finished {
    app().args("start --any-can-die").args(args).run()
}

/// The output of the processes, in the order of their names.
fn output_lines(finished: Finished) -> Vec<String> {
    let finished = finished.code(0);
    let mut lines: Vec<String> = finished
        .stdout()
        .lines()
        .map(|line| line.split_once(" | ").unwrap().1.trim_end().to_owned())
        .collect();
    lines.sort();
    lines
}

#[test]
fn one_process_of_each_type_runs_on_foremans_ports() {
    let finished = start("").code(0);
    let mut lines: Vec<String> = finished.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        ["clock.1  | clock.1 5200", "web.1    | web.1 5000 hunter2", "worker.1 | worker.1 5100",]
    );
    let mut notices: Vec<String> = finished.stderr().lines().map(str::to_owned).collect();
    notices.sort();
    assert_eq!(
        notices,
        [
            "ganger   | clock.1 exited (0)",
            "ganger   | clock.1 started, pid N, port 5200",
            "ganger   | no process is left",
            "ganger   | web.1 exited (0)",
            "ganger   | web.1 started, pid N, port 5000",
            "ganger   | worker.1 exited (0)",
            "ganger   | worker.1 started, pid N, port 5100",
        ]
    );
}

#[test]
fn formation_sets_the_number_of_processes() {
    let three = ["clock.1 5200", "web.1 5000 hunter2", "web.2 5001 hunter2", "web.3 5002 hunter2"];
    let all = [&three[..], &["worker.1 5100", "worker.2 5101"]].concat();
    for flag in ["-m", "--formation", "--concurrency"] {
        assert_eq!(output_lines(start(&format!("{flag} web=3,worker=2"))), all);
    }
    let finished = start("-m web=3,worker=2").code(0);
    let notice = "ganger   | `clock` is not in the formation: one each (`all=0` for none)\n";
    assert!(finished.stderr().starts_with(notice), "{}", finished.stderr());
}

#[test]
fn process_filters_do_not_change_ports() {
    assert_eq!(output_lines(start("worker")), ["worker.1 5100"]);
    assert_eq!(output_lines(start("-l worker")), ["worker.1 5100"]);
    assert_eq!(output_lines(start("-x web,clock")), ["worker.1 5100"]);
    assert_eq!(output_lines(start("-m all=0,worker=1")), ["worker.1 5100"]);
    let chosen = ["clock.1 5200", "web.1 5000 hunter2", "web.2 5001 hunter2"];
    assert_eq!(output_lines(start("web=2 clock")), chosen);
    assert_eq!(output_lines(start("web=2,clock")), chosen);
    assert_eq!(output_lines(start("-m web=2 web clock")), chosen);
}

#[test]
fn base_port_follows_its_precedence() {
    let with = |args: &str| output_lines(start(&format!("{args} worker")));
    assert_eq!(with("-p 3000"), ["worker.1 3100"]);
    assert_eq!(with("-p 3000 -P 10"), ["worker.1 3010"]);
    assert_eq!(with("-N"), ["worker.1"]);
    let worker = || app().args("start worker");
    assert_eq!(output_lines(worker().env("PORT", "3000").run()), ["worker.1 3100"]);
    assert_eq!(output_lines(worker().file(".env", "PORT=4000").run()), ["worker.1 4100"]);
    let both = worker().file(".env", "PORT=4000").env("PORT", "3000").run();
    assert_eq!(output_lines(both), ["worker.1 3100"]);
}

#[test]
fn release_has_no_port_but_keeps_its_index() {
    let procfile = "release: echo migrating\nweb: echo $PORT\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(0);
    assert_eq!(finished.stdout(), "web.1  | 5100\n");
    Scenario::procfile(procfile)
        .args("start release")
        .run()
        .refused("`release` is not part of the formation: it runs once, with `ganger run release`");
}

#[test]
fn procfile_with_release_only_is_valid_but_starts_nothing() {
    let app = |args: &str| Scenario::procfile("release: echo migrated\n").args(args).run();
    let check = app("check").code(0);
    assert_eq!(check.stdout(), "valid procfile detected (release)\n");
    app("start").refused("the Procfile has only `release`, which runs once: `ganger run release`");
    assert_eq!(app("run release").code(0).stdout(), "migrated\n");
}

#[test]
fn type_that_is_left_out_beside_a_formation_is_named() {
    let first = |args: &str| {
        let finished = start(args).code(0);
        finished.stderr().lines().next().unwrap().split_once(" | ").unwrap().1.to_owned()
    };
    assert_eq!(
        first("-m web=2,worker=3 worker"),
        "`web=2` is left out, because other types are named (for all: `ganger start worker=3 web=2`)"
    );
    assert_eq!(
        first("-m web=2 worker=1"),
        "`web=2` is left out, because other types are named (for all: `ganger start worker=1 web=2`)"
    );
    assert_eq!(
        first("web -m worker=2,clock=3"),
        "`worker=2`, `clock=3` are left out, because other types are named (for all: \
         `ganger start web=1 worker=2 clock=3`)"
    );
    for args in ["-m all=0,worker=2 worker", "-m web=0 worker", "worker"] {
        let first = first(args);
        assert!(first.starts_with("worker.") && first.contains(" started"), "{args}: {first}");
    }
    let by_variable =
        app().env("GANGER_FORMATION", "web=2").args("start --any-can-die worker").run();
    assert!(!by_variable.code(0).stderr().contains("left out"));
}

#[test]
fn dependency_that_does_not_run_is_named() {
    let config = "[process.web]\nafter = ['worker', 'clock']\n";
    let scenario = app().file("ganger.toml", config).args("start web clock --any-can-die -N");
    let notice = "ganger  | `web` starts without `worker`, which is not part of this run\n";
    let stderr = scenario.run().code(0).stderr();
    assert!(stderr.starts_with(notice), "{stderr}");
}

#[test]
fn port_variable_without_effect_is_not_mentioned() {
    let app = |args: &str| {
        let app = app().file(".env", "PORT=4000\n").env("PORT", "3000").args("start worker");
        app.args(args).run().code(0).stderr()
    };
    let clash = "`PORT`: the environment wins";
    assert!(app("").contains(clash));
    assert!(!app("-p 6000").contains(clash));
    assert!(app("-N").contains(clash), "the process gets it then");
}

#[test]
fn impossible_formation_starts_nothing() {
    let refused = |args: &str, expected: &str| {
        let touches = "web: touch started\nworker: touch started\n";
        let scenario = Scenario::procfile(touches).args("start").args(args);
        let mut running = scenario.start();
        running.wait();
        assert!(!running.folder().join("started").exists());
        running.finish().refused(expected);
    };
    let wroker = "the Procfile has no `wroker` (did you mean `worker`?)";
    refused("wroker", wroker);
    refused("-m wroker=1", wroker);
    refused("-x wroker", wroker);
    refused(
        "--can-die wroker",
        "`--can-die` names `wroker`, which is not in `Procfile` (did you mean `worker`?)",
    );
    refused(
        "-r wroker",
        "`--auto-restart` names `wroker`, which is not in `Procfile` (did you mean `worker`?)",
    );
    refused(
        "-q wroker",
        "`--quiet` names `wroker`, which is not in `Procfile` (did you mean `worker`?)",
    );
    refused(
        "-m web=101",
        "formation: 101 processes of `web` need more ports than the step of 100 leaves \
         (raise `--port-step`, or do without ports: `--no-port`)",
    );
    refused(
        "-p 65500",
        "`worker.1` would get port 65600, and 65535 is the last (lower `--port` or `--port-step`, \
         or do without ports: `--no-port`)",
    );
    refused("-m all=0", "the formation has no process: give a type at least one, as in `web=1`");
}

#[test]
fn invalid_formation_starts_nothing() {
    let error = |args: &str| {
        let finished = start(args).code(2);
        assert_eq!(finished.stdout(), "");
        finished.stderr().lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        error("-m web=-1"),
        "error: invalid value 'web=-1' for '--formation <FORMATION>': \
         formation: `-1` is not a valid instance count; expected `web=2`"
    );
    assert!(error("-m worker:3").ends_with("formation: `worker:3` is written `worker=3`"));
    assert!(error("worker:3").ends_with("formation: `worker:3` is written `worker=3`"));
    let blank = app().args("start -m").arg("web=2 worker=1").run().code(2).stderr();
    let expected = "formation: separate types with a comma: `web=2,worker=1`";
    assert!(blank.lines().next().unwrap().ends_with(expected), "{blank}");
    assert_eq!(
        error("-p 65536"),
        "error: invalid value '65536' for '--port <PORT>': \
         `65536` is not a port; expected 1 to 65535"
    );
    assert_eq!(
        error("-c x"),
        "error: invalid value 'x' for '-c [<C>]': \
         `-c` is a colour in foreman, `can die` in overmind and a concurrency in honcho: \
         say `--color`, `--can-die` or `--concurrency`"
    );
    assert_eq!(
        error("-b red"),
        "error: invalid value 'red' for '--colors <COLORS>': \
         `red` is not a colour number (0 to 255)"
    );
    assert!(error("--no-such-flag").contains("'--no-such-flag'"));
}
