//! A ganger as a process of another ganger: it stops its own processes in its own way.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::{Cleanup, MARGIN, keeper_of};
use crate::scenario::{Running, Scenario, tag, tagged};

/// A ganger with a ganger that runs these in its folder.
fn nested(procfile: &str, config: &str, args: &str) -> Running {
    let scenario = Scenario::procfile("inner: exec $GANGER start -d inner\n");
    let scenario = scenario.file("inner/Procfile", procfile).file("inner/ganger.toml", config);
    scenario.args("start").args(args).start()
}

#[test]
fn nested_processes_get_one_stop_signal_from_their_own_ganger() {
    let round = || {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let procfile = format!("a: exec $HOSTILE count-signals 6 {tag}\n");
        let mut running = nested(&procfile, "", "-t 30");
        running.wait_for("inner.1 | a.1    | up\n").signal(Signal::SIGTERM);
        let finished = running.finish_within(Duration::from_secs(30)).code(0);
        assert_eq!(tagged(&tag), []);
        finished.lines_of("inner.1").into_iter().filter(|line| line.starts_with("a.1 ")).collect()
    };
    let rounds: Vec<Vec<String>> = std::thread::scope(|scope| {
        let rounds: Vec<_> = (0..4).map(|_| scope.spawn(round)).collect();
        rounds.into_iter().map(|round| round.join().unwrap()).collect()
    });
    let expected = ["a.1    | up", "a.1    | SIGTERM from parent", "a.1    | signals: 1"];
    assert_eq!(rounds, vec![expected; 4]);
}

#[test]
fn nested_ganger_keeps_its_own_stop_order_and_signals() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let procfile = format!(
        "db: exec $HOSTILE count-signals 2 {tag}\napp: exec $HOSTILE count-signals 6 {tag}\n"
    );
    let config = "[process.db]\nready = { log = 'up' }\nstop_signal = 'INT'\n\
                  [process.app]\nready = { log = 'up' }\nafter = ['db']\n";
    let mut running = nested(&procfile, config, "-t 30");
    running.wait_for("inner.1 | app.1  | up\n").signal(Signal::SIGTERM);
    let finished = running.finish_within(Duration::from_secs(30)).code(0);
    assert_eq!(tagged(&tag), []);
    let lines = finished.lines_of("inner.1");
    let signals = lines.iter().filter(|line| line.contains("signals") || line.contains("from"));
    let expected = [
        "app.1  | SIGTERM from parent",
        "app.1  | signals: 1",
        "db.1   | SIGINT from parent",
        "db.1   | signals: 1",
    ];
    assert_eq!(signals.collect::<Vec<_>>(), expected);
    // Its messages have reached the outer one to the last.
    assert!(
        lines
            .iter()
            .any(|line| line == "ganger | db.1 stopped" || line == "ganger | db.1 exited (0)"),
        "{lines:?}"
    );
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn nested_processes_do_not_outlive_the_outer_grace_period() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let procfile = format!("a: exec $HOSTILE daemonize stay stubborn {tag}\n");
    let mut running = nested(&procfile, "", "-t 0.5");
    running.wait_for("inner.1 | a.1    | stubborn\n").signal(Signal::SIGTERM);
    running.finish_within(MARGIN).code(137);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn nested_processes_do_not_survive_either_ganger_or_keeper() {
    let inner = |running: &Running| crate::scenario::children(running.keeper())[0];
    let victims: [fn(&Running, nix::unistd::Pid) -> nix::unistd::Pid; 4] = [
        |running, _| running.pid(),
        |running, _| running.keeper(),
        |_, inner| inner,
        |_, inner| keeper_of(inner).unwrap(),
    ];
    for victim in victims {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let procfile = format!("a: exec $HOSTILE daemonize stay cleared stubborn {tag}\n");
        let mut running = nested(&procfile, "", "-t 0.5");
        running.wait_for("inner.1 | a.1    | stubborn\n");
        let inner = inner(&running);
        kill(victim(&running, inner), Signal::SIGKILL).unwrap();
        assert_ne!(running.wait().code(), Some(0));
        let since = std::time::Instant::now();
        running.wait_until("the exit of all processes", |_| {
            assert!(since.elapsed() < MARGIN, "still there: {:?}", tagged(&tag));
            tagged(&tag).is_empty()
        });
    }
}

#[test]
fn descendant_outside_the_group_is_stopped_after_its_process() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let procfile = format!(
        "a: setsid $HOSTILE count-signals 2 {tag} & exec $HOSTILE count-signals 10 {tag}\n"
    );
    let mut running = Scenario::procfile(procfile).args("start -t 30").start();
    running.wait_until("both", |running| running.count_in_output("| up\n") == 2);
    running.signal(Signal::SIGTERM);
    let lines = running.finish_within(Duration::from_secs(30)).code(0).lines_of("a.1");
    assert_eq!(tagged(&tag), []);
    let of_process = ["SIGTERM from parent", "signals: 1"];
    assert_eq!(lines[2..4], of_process, "{lines:?}");
    // The keeper is also its parent by then.
    assert_eq!(lines[4..], of_process, "{lines:?}");
}

#[test]
fn descendant_outside_the_group_is_asked_to_stop_before_it_is_killed() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let procfile =
        format!("a: setsid $HOSTILE count-signals 1 {tag} & exec $HOSTILE stubborn {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -t 3").start();
    running.wait_until("both", |running| {
        running.count_in_output("| up\n") == 1 && running.count_in_output("| stubborn\n") == 1
    });
    running.signal(Signal::SIGTERM);
    let lines = running.finish_within(Duration::from_secs(3) + MARGIN).code(137).lines_of("a.1");
    assert_eq!(tagged(&tag), []);
    assert!(lines.iter().any(|line| line.starts_with("SIGTERM from")), "{lines:?}");
}
