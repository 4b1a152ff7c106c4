//! `fail = { log = "…" }`: lines that say that a process has failed although it lives.

use crate::control::client_output;
use crate::scenario::{Running, Scenario, tag, tagged};

fn start(procfile: &str, config: &str) -> Running {
    Scenario::procfile(procfile).file("ganger.toml", config).args("start -N").start()
}

#[test]
fn process_that_writes_the_line_is_stopped_and_its_line_is_reported() {
    let tag = tag();
    let procfile = format!(
        "web: printf 'Error: listen \\033[31mEADDR'; sleep 0.1; printf 'INUSE\\033[0m :::3000\\n'; \
         exec $HOSTILE tree {tag}\n\
         other: exec $HOSTILE tree {tag}\n"
    );
    let finished = start(&procfile, "[process.web]\nfail = { log = 'EADDRINUSE|E.{4} \\d+$' }\n");
    let stderr = finished.finish().code(1).stderr();
    let said = "web.1 has failed: it wrote `Error: listen EADDRINUSE :::3000`, stopping all\n";
    assert!(stderr.contains(said), "{stderr}");
    let report = "web.1 failed first: it wrote `Error: listen EADDRINUSE :::3000`\n";
    assert!(stderr.contains(report), "{stderr}");
    assert!(stderr.contains("stopped because of it: other.1\n"), "{stderr}");
    assert_eq!(tagged(&tag), []);
}

#[test]
fn policy_decides_what_follows_the_line() {
    let config = "[process.web]\nfail = { log = '^fatal' }\non_exit = 'restart-on-failure'\n\
                  backoff = { min = '10ms', max = '20ms', give_up_after = 3 }\n";
    let procfile = "web: echo not fatal; test -e good || echo fatal: $PS; exec sleep 1000\n";
    let mut running = start(procfile, config);
    running.wait_for("web.1 has failed: it wrote `fatal: web.1`, restarting in ");
    running.wait_for("3 crashes in a row: GIVING UP, it stays down\n");
    running.finish().code(1);
    let config = config.replace("restart-on-failure", "ignore").replace("3 }", "9 }");
    let mut running = start(&format!("{procfile}other: exec sleep 1000\n"), &config);
    running.wait_for("web.1 has failed: it wrote `fatal: web.1`\n");
    running.wait_for_states(&["web.1 down", "other.1 up"]);
    let table = running.run_client("ps web").0;
    assert!(table.contains("wrote a line that matches `fail`"), "{table}");
    // A run without the line is no failure.
    std::fs::write(running.folder().join("good"), "").unwrap();
    assert_eq!(running.run_client("restart web --wait"), client_output("starting web.1\n", 0));
    running.quit();
}

#[test]
fn process_that_ignores_the_stop_signal_is_killed_and_restarted() {
    let config =
        "[process.web]\nfail = { log = 'stubborn' }\non_exit = 'restart'\ngrace = '0.2s'\n";
    let mut running =
        start("web: test -e good && exec sleep 1000; exec $HOSTILE stubborn\n", config);
    running.wait_for("web.1 has failed: it wrote `stubborn`, restarting in ");
    std::fs::write(running.folder().join("good"), "").unwrap();
    running.wait_for("SIGKILL\n");
    running.wait_until("restarted", |running| running.count_in_output("web.1 started") >= 2);
    running.wait_for_states(&["web.1 up"]);
    running.quit();
}

#[test]
fn invalid_pattern_is_refused() {
    let check = |fail: &str| {
        let config = format!("[process.web]\nfail = {fail}\n");
        Scenario::procfile("web: true\n").file("ganger.toml", config).args("check").run()
    };
    check("{ log = '(' }").refused(
        "`ganger.toml` line 2: `fail` must be a regular expression, not `(`: unclosed group",
    );
    check("{ log = '' }")
        .refused("`ganger.toml` line 2: `fail` needs a pattern for `log`, such as `EADDRINUSE`");
    check("{ log = '\\w{100}{100}' }").code(2);
    check("{ log = 'EADDRINUSE' }").code(0);
}
