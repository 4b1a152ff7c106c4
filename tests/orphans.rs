//! No descendant outlives ganger, however it ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scenario::{Running, Scenario, is_alive, tag, tagged, wait_until_gone};

/// Fifty processes, each with two children and a daemon that has left the session, closed all
/// descriptors and cleared its environment.
fn start_trees(tag: &str) -> Running {
    let procfile = format!("tree: exec $HOSTILE tree {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -m tree=50 -N").start();
    running.wait_until("200 processes", |_| tagged(tag).len() == 200);
    running
}

#[test]
fn no_descendant_survives_sigterm_of_ganger() {
    let tag = tag();
    let running = start_trees(&tag);
    let keeper = running.keeper();
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    assert_eq!(tagged(&tag), []);
    assert!(!is_alive(keeper), "the keeper is still alive");
}

#[test]
fn no_descendant_survives_sigkill_of_ganger() {
    let tag = tag();
    let mut running = start_trees(&tag);
    let keeper = running.keeper();
    running.signal(Signal::SIGKILL);
    running.wait();
    wait_until_gone(&tag);
    running.wait_until("the keeper's exit", |_| !is_alive(keeper));
}

#[test]
fn no_descendant_survives_sigkill_of_the_keeper() {
    let tag = tag();
    let running = start_trees(&tag);
    kill(running.keeper(), Signal::SIGKILL).unwrap();
    let finished = running.finish().code(1);
    assert!(
        finished.stderr().ends_with("ganger  | the keeper has died: killing all\n"),
        "{}",
        finished.stderr()
    );
    assert_eq!(tagged(&tag), []);
}

#[test]
fn no_descendant_survives_a_frozen_keeper() {
    let tag = tag();
    let procfile = format!("tree: exec $HOSTILE tree {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -m tree=3 -t 30").start();
    running.wait_until("12 processes", |_| tagged(&tag).len() == 12);
    let keeper = running.keeper();
    kill(keeper, Signal::SIGSTOP).unwrap();
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(1);
    assert!(
        finished.stderr().contains("the keeper does not respond: killing all\n"),
        "{}",
        finished.stderr()
    );
    assert_eq!(tagged(&tag), []);
    assert!(!is_alive(keeper));
}

#[test]
fn no_descendant_survives_sigkill_of_gangers_group() {
    let tag = tag();
    let procfile = format!("tree: exec $HOSTILE tree {tag}\n");
    let mut running = Scenario::procfile(procfile)
        .args("start -m tree=3")
        .command(|command| {
            std::os::unix::process::CommandExt::process_group(command, 0);
        })
        .start();
    running.wait_until("12 processes", |_| tagged(&tag).len() == 12);
    kill(Pid::from_raw(-running.pid().as_raw()), Signal::SIGKILL).unwrap();
    running.wait();
    wait_until_gone(&tag);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn next_start_kills_what_a_killed_ganger_and_keeper_left() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE marked {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start -m a=5").start();
    running.wait_until("20 processes", |_| tagged(&tag).len() == 20);
    let both = [running.keeper(), running.pid()];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in both {
            kill(pid, signal).unwrap();
        }
    }
    running.wait();
    running.wait_until("no child", |_| tagged(&tag).len() == 15);
    // The next ganger may be started from a shell with this session marker.
    let folder = running.folder().join("ganger");
    let traces = || {
        let names = std::fs::read_dir(&folder).unwrap().map(|it| it.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        // Not the files of the socket, which stay for the next start.
        names.filter(|name| !name.contains('.')).collect::<Vec<_>>()
    };
    let trace = traces()[0].clone();
    let [namespace, _, keeper] = trace.split('_').collect::<Vec<_>>()[..] else {
        panic!("{trace}")
    };
    let mark = format!("{namespace}_{keeper}/1");
    let next = || {
        Scenario::procfile("a: true\n")
            .beside(running.folder())
            .env("GANGER_SESSION", &mark)
            .args("start")
    };
    let finished = next().run().code(0);
    assert_eq!(tagged(&tag), []);
    let message = "ganger | killed processes that an earlier ganger left behind: hostile (pid N), ";
    assert!(finished.stderr().starts_with(message), "{}", finished.stderr());
    // The next start finds no orphan any more.
    assert!(next().run().code(0).stderr().starts_with("ganger | a.1 started"));
    assert_eq!(traces(), Vec::<String>::new());
}

#[test]
fn child_inherits_no_descriptors_signals_or_terminal() {
    let finished = Scenario::of("sh")
        .file("Procfile", "a: exec $HOSTILE descriptors\nb: sleep 1; exec $HOSTILE signals\n")
        .args("-c")
        .arg("trap '' HUP USR1; exec $GANGER start --can-die a 5</dev/null 7>/dev/null")
        .run()
        .code(0);
    assert_eq!(finished.lines_of("a.1"), ["open: 0 1 2 3"], "3 is the list itself");
    let none = "0000000000000000";
    let signals = [
        format!("SigBlk:\t{none}"),
        format!("SigIgn:\t{}", "0000000000001000"),
        "session: true".into(),
        "group: true".into(),
    ];
    // Rust itself ignores SIGPIPE before `main`.
    assert_eq!(finished.lines_of("b.1"), signals);
}
