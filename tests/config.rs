//! `ganger.toml`, and the settings that take precedence over it.

use nix::sys::signal::Signal;

use crate::scenario::{Finished, Scenario};

fn start(config: &str, args: &str) -> Finished {
    let procfile = "web: echo $PS $PORT\nworker: echo $PS $PORT\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    scenario.args("start --any-can-die").args(args).run()
}

#[test]
fn config_error_names_the_line() {
    start("formation = 'web=2'\nprot = 1\n", "")
        .refused("`ganger.toml` line 2: unknown key `prot` (did you mean `port`?)");
    start("port = 'x'\n", "")
        .refused("`ganger.toml` line 1: `port` must be a port or `auto`, not a string");
    start("\n[process.wroker]\n", "").refused(
        "`ganger.toml` line 2: process `wroker` is not in `Procfile` (did you mean `worker`?)",
    );
    start("[process.web]\non_exit = 'ignroe'\n", "").refused(
        "`ganger.toml` line 2: unknown value `ignroe` for `on_exit` (did you mean `ignore`?)",
    );
    start("[process.web]\nready = { prot = true }\n", "")
        .refused("`ganger.toml` line 2: unknown key `prot` (did you mean `port`?)");
    start("[process.web]\nafter = ['web']\n", "")
        .refused("`ganger.toml` line 2: `after` goes in a cycle: `web` comes after `web`");
    start("[process.web]\ngrace = 'soon'\n", "")
        .refused("`ganger.toml` line 2: `grace` must be a duration such as `30s`, not `soon`");
    start("[process.web]\ngrace = 30\n", "")
        .refused("`ganger.toml` line 2: `grace` needs a unit, as in `grace = \"30s\"`");
    start("[web]\ngrace = '30s'\n", "")
        .refused("`ganger.toml` line 1: unknown key `web` (did you mean `[process.web]`?)");
    start("", "--config other.toml")
        .refused("failed to read `other.toml`: No such file or directory");
}

/// The example that shows every key, and the JSON schema for editors.
const EXAMPLE: &str = include_str!("../docs/ganger.toml");

#[test]
fn documented_config_example_is_valid() {
    let procfile = "web: bin/web\nworker: bin/worker\ndb: bin/db\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", EXAMPLE).file("jobs/x", "");
    let scenario = scenario.file(".env", "").file(".env.local", "REDIS_URL=redis://cache\n");
    let text = scenario.args("check --explain").run().code(0).stdout();
    let web = "web.1\n  command  bin/web\n";
    let conditions = "  after    db\n  needs    `REDIS_URL` (cache:6379), localhost:25, \
                      /run/search.sock\n  fails    when it writes `EADDRINUSE|FATAL`\n  \
                      watches  app/**/*.rb, config/*.yml\n";
    assert!(text.starts_with(web) && text.contains(conditions), "{text}");
    assert!(text.contains("  ready    when `pg_isready -q -h localhost -p $PORT` exits with 0\n"));
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3-jsonschema")]
fn config_schema_accepts_the_example_and_knows_every_key() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    let script = "import json, jsonschema, tomllib\n\
                  schema = json.load(open('ganger.schema.json'))\n\
                  example = tomllib.load(open('ganger.toml', 'rb'))\n\
                  jsonschema.Draft7Validator.check_schema(schema)\n\
                  jsonschema.validate(example, schema)\n\
                  types = example['process'].values()\n\
                  keys = schema['definitions']['process']['properties']\n\
                  print(*schema['properties'])\n\
                  print(*keys)\n\
                  print(*sorted(set(keys) - {key for one in types for key in one}))\n\
                  print(*keys['backoff']['properties'])\n\
                  print(*keys['ready']['properties'])\n";
    let mut python = std::process::Command::new("/usr/bin/python3");
    let output = python.args(["-c", script]).current_dir(docs).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    // The keys that the error message of ganger lists.
    let known = |config: &str| {
        let error = start(config, "").code(2).stderr();
        let (_, known) = error.split_once("expected one of ").unwrap();
        known.split('`').skip(1).step_by(2).collect::<Vec<_>>().join(" ")
    };
    let in_process = known("[process.web]\nqqqqqqqqqqqqqqq = 1\n");
    let sorted = |line: &str| {
        let mut keys: Vec<String> = line.split(' ').map(str::to_owned).collect();
        keys.sort();
        keys
    };
    assert_eq!(lines[0], known("qqqqqqqqqqqqqqq = 1\n"));
    assert_eq!(sorted(lines[1]), sorted(&in_process));
    assert_eq!(lines[2], "", "keys that the example doesn't show");
    assert_eq!(lines[3], known("[process.web]\nbackoff = { qqqqqqqqqqqqq = 1 }\n"));
    assert_eq!(lines[4], known("[process.web]\nready = { qqqqqqqqqqqqq = 1 }\n"));
}

#[test]
fn flags_override_variables_which_override_the_config_file() {
    let app = |args: &str, variable: &str| {
        let scenario = Scenario::procfile("web: echo $PORT\n").file("ganger.toml", "port = 1000\n");
        let scenario =
            if variable.is_empty() { scenario } else { scenario.env("GANGER_PORT", variable) };
        scenario.args("start").args(args).run().code(0).lines_of("web.1")
    };
    assert_eq!(app("", ""), ["1000"]);
    assert_eq!(app("", "2000"), ["2000"]);
    assert_eq!(app("-p 3000", "2000"), ["3000"]);
    let port = |env: &str, real: &str| {
        let scenario = Scenario::procfile("web: echo $PORT\n").file("ganger.toml", "port = 1000\n");
        scenario.file(".env", env).env("PORT", real).args("start").run().code(0).lines_of("web.1")
    };
    assert_eq!(port("PORT=2000\n", "3000"), ["3000"]);
    assert_eq!(port("PORT=2000\n", ""), ["1000"]);
    let refused = Scenario::procfile("web: true\n").env("GANGER_PORT", "x").args("start").run();
    assert!(refused.code(2).stderr().contains("`x` is not a port; expected 1 to 65535"));
}

#[test]
fn flag_variable_in_an_env_file_is_reported() {
    let app = || {
        let env = "A=1\nGANGER_PORT=3000\nGANGER_VERBOSE=1\nGANGER_MINE=x\nPROCFILE=Procfile.dev\n";
        Scenario::procfile("web: echo $PORT\n").file(".env", env)
    };
    let expected = |name: &str| {
        format!(
            "{name}`PROCFILE` (.env:5) is not read: use `-f` or `GANGER_PROCFILE`\n\
             {name}`GANGER_VERBOSE` (.env:3) sets no flag: use `--verbose` or the environment\n\
             {name}`GANGER_PORT` (.env:2) sets no flag: use `--port` or the environment, or `port` in \
             `ganger.toml`\n"
        )
    };
    let start = app().args("start").run().code(0);
    assert_eq!(start.lines_of("web.1"), ["5000"]);
    assert!(start.stderr().starts_with(&expected("ganger | ")), "{}", start.stderr());
    assert_eq!(app().args("check").run().code(0).stderr(), expected("ganger: "));
    // In the environment, the variable has an effect, and names another Procfile.
    let set = app().env("GANGER_PORT", "4000").env("GANGER_PROCFILE", "Procfile").args("start");
    let set = set.run().code(0);
    assert_eq!(set.lines_of("web.1"), ["4000"]);
    let stderr = set.stderr();
    assert!(!stderr.contains("`GANGER_PORT` (") && !stderr.contains("`PROCFILE`"), "{stderr}");
    let variable = Scenario::procfile("web: true\n").env("PROCFILE", "other").args("check").run();
    let expected = "ganger: `PROCFILE` (environment) is not read: use `-f` or `GANGER_PROCFILE`\n";
    assert_eq!(variable.code(0).stderr(), expected);
}

#[test]
fn every_flag_has_a_variable() {
    let finished = Scenario::new()
        .file("app/Procfile.dev", "web: echo $PS $PORT $A $DYNO\nclock: echo no\ncss: echo quiet\n")
        .file("app/one.env", "A=one\n")
        .file("app/two.env", "A=two\n")
        .env("GANGER_PROCFILE", "app/Procfile.dev")
        .env("GANGER_ENV", "app/one.env,app/two.env")
        .env("GANGER_FORMATION", "web=2")
        .env("GANGER_PORT_STEP", "10")
        .env("GANGER_IGNORED_PROCESSES", "clock")
        .env("GANGER_QUIET", "css")
        .env("GANGER_ANY_CAN_DIE", "true")
        .env("GANGER_COMPAT_ENV", "1")
        .env("GANGER_ENV_OVERRIDE", "yes")
        .env("GANGER_NO_PREFIX", "on")
        .env("A", "real")
        .args("start")
        .run()
        .code(0);
    let mut lines: Vec<String> = finished.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["web.1 5000 two web.1", "web.2 5001 two web.2"]);
}

#[test]
fn config_sets_formation_and_files() {
    let output = |config: &str, args: &str| {
        let mut lines: Vec<String> =
            start(config, args).code(0).stdout().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        output("formation = 'all=0,worker=1'\nport = 2000\n", ""),
        ["worker.1 | worker.1 2100"]
    );
    let two = ["web.1  | web.1 5000", "web.2  | web.2 5001"];
    assert_eq!(output("formation = 'web=9'\n", "-m web=2,all=0"), two);
    let env = Scenario::procfile("web: echo $A\n")
        .file("ganger.toml", "env = ['.env', 'more.env']\n")
        .file(".env", "A=1\n")
        .file("more.env", "A=2\n");
    assert_eq!(env.args("start").run().code(0).lines_of("web.1"), ["2"]);
    Scenario::procfile("web: true\n")
        .file("ganger.toml", "env = ['more.env']\n")
        .args("start")
        .run()
        .refused("failed to read `more.env`: No such file or directory");
}

#[test]
fn config_sets_options_of_one_process() {
    let finished = Scenario::procfile("web: pwd; cat; echo $A\n")
        .file("ganger.toml", "[process.web]\ndir = 'api'\nstdin = 'null'\nenv = { A = 'b c' }\n")
        .file("api/x", "")
        .args("start")
        .run()
        .code(0);
    let lines = finished.lines_of("web.1");
    assert!(lines[0].ends_with("/api"));
    assert_eq!(lines[1..], ["b c"]);
}

#[test]
fn restart_on_failure_does_not_restart_after_success() {
    let procfile = "a: echo x >> log; test $(wc -l < log) -gt 2 || exit 3\nb: sleep 1000\n";
    let config =
        "[process.a]\non_exit = 'restart-on-failure'\nbackoff = { min = '10ms', max = '20ms' }\n";
    let mut running =
        Scenario::procfile(procfile).file("ganger.toml", config).args("start").start();
    running.wait_for("a.1 exited (0)\n").signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert_eq!(finished.stderr().matches("a.1 exited (3), restarting in 0.1s\n").count(), 2);
}

#[test]
fn process_that_always_crashes_is_given_up() {
    let config = "[process.a]\non_exit = 'restart'\n\
                  backoff = { min = '1ms', max = '2ms', give_up_after = 3 }\n";
    let procfile = "a: exit 9\nb: sleep 1000\n";
    let mut running =
        Scenario::procfile(procfile).file("ganger.toml", config).args("start").start();
    running.wait_for("a.1 exited (9), 3 crashes in a row: GIVING UP, it stays down\n");
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(9);
    assert_eq!(finished.stderr().matches("a.1 started").count(), 3);
}

#[test]
fn config_sets_grace_period_and_stop_signal() {
    let config = "[process.a]\ngrace = '100ms'\nstop_signal = 'INT'\n";
    let procfile = "a: trap 'echo int' INT; echo up; while :; do sleep 0.05; done\n";
    let mut running =
        Scenario::procfile(procfile).file("ganger.toml", config).args("start").start();
    running.wait_for("a.1    | up").signal(Signal::SIGTERM);
    let finished = running.finish().code(137);
    assert!(finished.stdout().contains("a.1    | int\n"));
    assert!(finished.stderr().contains("a.1 is still up 0.1s after SIGINT: SIGKILL\n"));
}

#[test]
fn flag_overrides_the_variable_of_the_opposite_flag() {
    let app = || Scenario::procfile("web: echo $PS\nworker: echo $PS\n");
    let app =
        |args: &str| app().env("GANGER_PROCESSES", "web").args("start --no-prefix").args(args);
    assert_eq!(app("").run().code(0).stdout(), "web.1\n");
    assert_eq!(app("-l worker").run().code(0).stdout(), "worker.1\n");
    assert_eq!(app("worker").run().code(0).stdout(), "worker.1\n");
    let stamped = || app("").env("GANGER_TIMESTAMP", "1");
    assert!(stamped().run().code(0).stdout().ends_with(" web.1\n"));
    assert_eq!(stamped().args("--no-timestamp").run().code(0).stdout(), "web.1\n");
    Scenario::procfile("web: a\n")
        .args("start web -l web")
        .run()
        .refused("process types are named twice: by `--processes`, and without");
}
