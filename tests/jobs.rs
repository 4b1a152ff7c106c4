//! Jobs: processes that are ready when they have exited with 0, such as migrations.

use nix::sys::signal::Signal;

use crate::control::client_output;
use crate::scenario::{Running, Scenario};

const PROCFILE: &str = "web: echo serving; exec sleep 1000\n\
                        migrate: until test -e go; do sleep 0.01; done; echo $PS; exit $(cat go)\n";

fn config(of_migrate: &str) -> String {
    format!(
        "[process.web]\nafter = ['migrate']\nready = {{ log = 'serving' }}\n\
         [process.migrate]\nready = {{ exit = true }}\n{of_migrate}"
    )
}

fn start(of_migrate: &str) -> Running {
    let scenario = Scenario::procfile(PROCFILE).file("ganger.toml", config(of_migrate));
    let mut running = scenario.args("start -N").start();
    running.wait_for("web.1 waits for migrate.1\n");
    running.wait_until("a socket", |running| running.run_client("ps").1 == 0);
    running
}

fn finish_job(running: &Running, code: &str) {
    std::fs::write(running.folder().join("new"), code).unwrap();
    std::fs::rename(running.folder().join("new"), running.folder().join("go")).unwrap();
}

#[test]
fn process_starts_after_the_job_that_it_depends_on() {
    let mut running = start("");
    running.wait_for_states(&["web.1 waiting", "migrate.1 up"]);
    let late = client_output("ganger: timed out after 0.1s\n", 4);
    assert_eq!(running.run_client("wait migrate --ready --timeout 0.1"), late);
    finish_job(&running, "0");
    let both = client_output("web.1 is ready\nmigrate.1 is ready\n", 0);
    assert_eq!(running.run_client("wait all --ready --timeout 60"), both);
    assert_eq!(running.states(), ["web.1 up", "migrate.1 down"]);
    assert_eq!(running.processes()[1]["ready"], true);
    let table = running.run_client("ps migrate").0;
    assert!(table.contains("migrate.1  -    done "), "{table}");
    // A restart of all runs the job first again.
    assert_eq!(running.run_client("restart --wait").1, 0);
    running.wait_until("the job", |running| running.count_in_output("| migrate.1\n") == 2);
    assert_eq!(running.run_client("reload").0, "nothing to do\n");
    std::fs::write(running.folder().join(".env"), "A=1\n").unwrap();
    let all = client_output("starting migrate.1\nrestarting web.1\n", 0);
    assert_eq!(running.run_client("reload --wait"), all);
    running.wait_until("the job", |running| running.count_in_output("| migrate.1\n") == 3);
    running.quit();
}

#[test]
fn failed_job_stops_all_with_its_exit_code() {
    let running = start("");
    finish_job(&running, "7");
    let finished = running.finish().code(7);
    assert!(!finished.stdout().contains("serving"), "{}", finished.stdout());
    assert!(finished.stderr().contains("migrate.1 exited (7), stopping all\n"));
}

/// ganger's own messages, without their prefix.
fn messages(stderr: &str) -> Vec<&str> {
    stderr.lines().filter_map(|line| line.split_once(" | ")).map(|(_, message)| message).collect()
}

#[test]
fn what_depends_on_a_failed_job_is_not_started_even_if_the_job_may_fail() {
    let running = start("on_exit = 'ignore'\n");
    finish_job(&running, "7");
    // The job stops nothing; that `web` can't be started does.
    let finished = running.finish().code(7);
    assert!(!finished.stdout().contains("serving"), "{}", finished.stdout());
    let stderr = finished.stderr();
    let expected = [
        "migrate.1 exited (7)",
        "web.1 waits for migrate.1, which exited (7)",
        "web.1 was not started, stopping all",
    ];
    assert!(messages(&stderr).windows(3).any(|lines| lines == expected), "{stderr}");
}

#[test]
fn failed_job_and_what_depends_on_it_stay_down_until_they_are_restarted() {
    let procfile = format!("{PROCFILE}clock: exec sleep 1000\n");
    let ignore = "on_exit = 'ignore'\n";
    let config = config(ignore).replace("after =", &format!("{ignore}after ="));
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.args("start -N").start();
    running.wait_for("web.1 waits for migrate.1\n");
    finish_job(&running, "7");
    running.wait_for("web.1 waits for migrate.1, which exited (7)\n");
    running.wait_for("web.1 was not started\n");
    running.wait_for_states(&["web.1 down", "migrate.1 down", "clock.1 up"]);
    let all = running.processes();
    for (process, last_exit) in all.iter().zip(["was not started", "exited (7)"]) {
        assert_eq!(process["ready"], false, "{process}");
        assert_eq!(process["last_exit"], last_exit);
    }
    let table = running.run_client("ps migrate").0;
    assert!(table.contains("migrate.1  -    down ") && table.ends_with("exited (7)\n"), "{table}");
    // It ends at once, with or without a limit.
    let failed = client_output("ganger: migrate.1 exited (7), and stays down\n", 4);
    assert_eq!(running.run_client("wait migrate --ready"), failed);
    let not_started = client_output("ganger: web.1 was not started, and stays down\n", 4);
    assert_eq!(running.run_client("wait web --ready --timeout 1s"), not_started);
    // A restart of both makes up for it.
    finish_job(&running, "0");
    assert_eq!(running.run_client("restart --wait web migrate").1, 0);
    assert_eq!(running.states(), ["web.1 up", "migrate.1 down", "clock.1 up"]);
    running.quit();
}

#[test]
fn failed_job_is_repeated_if_its_policy_says_so() {
    let mut running = start("on_exit = 'restart-on-failure'\nbackoff = { max = '100ms' }\n");
    finish_job(&running, "7");
    running.wait_for("migrate.1 exited (7), restarting in ");
    finish_job(&running, "0");
    running.wait_for("web.1     | serving\n");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn daemon_is_up_when_its_jobs_are_done() {
    let scenario = Scenario::procfile(PROCFILE).file("ganger.toml", config(""));
    let mut running = scenario.args("start -D -N").start();
    running.wait_for("web.1 waits for migrate.1\n");
    finish_job(&running, "0");
    assert!(running.wait().success());
    assert_eq!(running.states(), ["web.1 up", "migrate.1 down"]);
    assert_eq!(running.run_client("quit"), client_output("", 0));
}

#[test]
fn cycle_through_a_job_is_refused() {
    let config = "[process.web]\nafter = ['migrate']\n\
                  [process.migrate]\nafter = ['web']\nready = { exit = true }\n";
    let scenario = Scenario::procfile(PROCFILE).file("ganger.toml", config);
    scenario.args("check").run().refused(
        "`ganger.toml` line 4: `after` goes in a cycle: `migrate` comes after `web` comes after \
         `migrate`",
    );
}
