//! ganger never signals a process that it did not start: neither the children that the calling
//! script had before `exec ganger`, nor processes that inherited a session marker.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::{Bystander, Cleanup, MARGIN, keeper_of, kill_both, session_marker_of, start_next};
use crate::control::{ClientOutput, run_client};
use crate::scenario::{
    GANGER, Running, Scenario, children, hostile, is_alive, tag, tagged, tagged_as, wait_until_gone,
};
use crate::tmux::Tmux;

/// A script with a background job and a `>(tee log)`, which becomes ganger.
fn script(job: &str, tag: &str) -> Running {
    let script = format!(
        "$HOSTILE leaf {job} </dev/null >/dev/null 2>&1 &\n\
         exec 2> >(exec tee log >&2)\n\
         exec $GANGER start -t 2"
    );
    let procfile =
        format!("a: exec $HOSTILE daemonize stay stubborn {tag}\nb: exec $HOSTILE tree {tag}\n");
    let scenario = Scenario::of("bash").file("Procfile", procfile).args("-c").arg(script);
    let mut running = scenario.start();
    running.wait_for("| stubborn\n").wait_for("| grown\n");
    running
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs bash")]
fn children_of_the_calling_script_outlive_the_keeper() {
    let (job, tag) = (tag(), tag());
    let _cleanup = Cleanup(&job);
    let mut running = script(&job, &tag);
    let folder = running.folder().to_owned();
    kill(keeper_of(running.pid()).unwrap(), Signal::SIGKILL).unwrap();
    let since = Instant::now();
    let status = running.wait();
    assert!(since.elapsed() < MARGIN, "{:?}", since.elapsed());
    assert_eq!(tagged(&tag), [], "what ganger started is gone");
    assert_eq!(tagged(&job).len(), 1, "the background job is left alone");
    assert_eq!(status.code(), Some(1));
    // Only a `tee` that was left alone has written the last message.
    running.wait_until("the log", |_| {
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        assert!(since.elapsed() < 2 * MARGIN, "{log}");
        log.contains("the keeper has died")
    });
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs bash")]
fn children_of_the_calling_script_outlive_a_stop() {
    let (job, tag) = (tag(), tag());
    let _cleanup = Cleanup(&job);
    let mut running = script(&job, &tag);
    running.signal(Signal::SIGTERM);
    let since = Instant::now();
    assert_eq!(running.wait().code(), Some(137));
    assert!(since.elapsed() < Duration::from_secs(2) + MARGIN, "{:?}", since.elapsed());
    assert_eq!(tagged(&tag), []);
    assert_eq!(tagged(&job).len(), 1, "the background job is left alone");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs bash")]
fn children_of_the_calling_script_outlive_sigkill_of_ganger() {
    let (job, tag) = (tag(), tag());
    let _cleanup = Cleanup(&job);
    let mut running = script(&job, &tag);
    running.signal(Signal::SIGKILL);
    running.wait();
    wait_until_gone(&tag);
    assert_eq!(tagged(&job).len(), 1, "the background job is left alone");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs bash")]
fn later_children_of_a_background_job_outlive_the_keeper() {
    let (job, tag) = (tag(), tag());
    let _cleanup = Cleanup(&job);
    let script = format!(
        "(while ! [ -e more ]; do sleep 0.05; done; $HOSTILE leaf {job}; :) \
          </dev/null >/dev/null 2>&1 &\n\
         exec $GANGER start"
    );
    let procfile = format!("a: exec $HOSTILE obedient {tag}\n");
    let scenario = Scenario::of("bash").file("Procfile", procfile).args("-c").arg(script);
    let mut running = scenario.start();
    running.wait_for("a.1    | up\n");
    std::fs::write(running.folder().join("more"), "").unwrap();
    running.wait_until("the job's child", |_| tagged_as("leaf", &job).len() == 1);
    kill(keeper_of(running.pid()).unwrap(), Signal::SIGKILL).unwrap();
    running.wait();
    assert_eq!(tagged(&tag), []);
    assert_eq!(tagged_as("leaf", &job).len(), 1, "the job's child is left alone");
}

/// A ganger with a process and `more` lines of its Procfile, for the sweep of the
/// next start.
fn earlier(tag: &str, more: &str) -> Running {
    let procfile = format!("orphan: exec $HOSTILE daemonize stay tree {tag}\n{more}");
    let mut running = Scenario::procfile(procfile).args("start").start();
    running.wait_for("| grown\n");
    running
}

/// Kills ganger and its keeper at the same time, and starts the next one.
///
/// The orphans are killed, except for the daemon that has cleared its environment.
fn kill_and_start_next(mut running: Running, tag: &str) -> Running {
    kill_both(&mut running);
    let before = tagged(tag).len();
    assert!(before >= 4, "{before}");
    start_next(running.folder());
    assert!(tagged_as("tree", tag).is_empty(), "the orphan is left");
    let unmarked = |pid: &nix::unistd::Pid| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.is_empty())
    };
    let (known, left): (Vec<_>, Vec<_>) = tagged(tag).into_iter().partition(unmarked);
    assert_eq!(left, [], "descendants of the orphan are left");
    for pid in known {
        let _ = kill(pid, Signal::SIGKILL);
    }
    running
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn next_start_spares_a_process_whose_parent_is_alive() {
    let tag = tag();
    let running = earlier(&tag, "");
    let mut bystander = Bystander::with("GANGER_SESSION", &session_marker_of(running.pid()));
    kill_and_start_next(running, &tag);
    assert!(bystander.is_alive(), "it only inherited the marker");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn next_start_spares_a_terminal_and_the_shell_on_it() {
    let (tag, shell) = (tag(), tag());
    let _cleanup = Cleanup(&shell);
    let mut running = earlier(&tag, "");
    // script(1) stands for a terminal emulator that was started from a process.
    let mut terminal = Command::new("setsid");
    terminal.args(["--fork", "script", "-qfc"]).arg(format!("exec $HOSTILE leaf {shell}"));
    terminal.arg("/dev/null").stdin(Stdio::null()).stdout(Stdio::null());
    terminal.env("HOSTILE", hostile()).env("GANGER_SESSION", session_marker_of(running.pid()));
    assert!(terminal.status().unwrap().success());
    running.wait_until("a shell", |_| tagged_as("leaf", &shell).len() == 1);
    kill_and_start_next(running, &tag);
    assert_eq!(tagged_as("leaf", &shell).len(), 1, "the shell is left alone");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs tmux")]
fn next_start_spares_a_tmux_server_and_its_shells() {
    let (tag, shell) = (tag(), tag());
    let _cleanup = [Cleanup(&tag), Cleanup(&shell)];
    let more = format!(
        "tmux: TMUX_TMPDIR=$PWD tmux -L {tag} -f /dev/null new-session -d \
         \"$HOSTILE leaf {shell}\"; echo there; exec sleep 1000\n"
    );
    let mut running = earlier(&tag, &more);
    running.wait_for("tmux.1   | there\n");
    running.wait_until("a shell", |_| tagged_as("leaf", &shell).len() == 1);
    let folder = running.folder().to_owned();
    let server = Tmux { name: tag.clone(), folder: folder.clone() };
    let pid = server.run(&["display-message", "-p", "#{pid}"]);
    assert!(!pid.is_empty());
    kill_both(&mut running);
    start_next(&folder);
    assert!(tagged_as("tree", &tag).is_empty(), "the orphan is left");
    assert_eq!(server.run(&["display-message", "-p", "#{pid}"]), pid, "the server is left alone");
    assert_eq!(tagged_as("leaf", &shell).len(), 1, "the shell is left alone");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn next_start_spares_a_nested_ganger_and_its_processes() {
    let (tag, inner) = (tag(), tag());
    let more = "nested: $GANGER start -D -d inner && echo there; exec sleep 1000\n";
    let procfile = format!("orphan: exec $HOSTILE daemonize stay tree {tag}\n{more}");
    let scenario = Scenario::procfile(procfile);
    let inner_procfile = format!("a: exec $HOSTILE daemonize stay obedient {inner}\n");
    let mut running = scenario.file("inner/Procfile", inner_procfile).args("start").start();
    running.wait_for("| grown\n").wait_for("nested.1 | there\n");
    running.wait_until("a daemon", |_| tagged_as("obedient", &inner).len() == 1);
    let running = kill_and_start_next(running, &tag);
    let ClientOutput(answer, code) = ask_inner(running.folder(), "ps");
    assert_eq!(code, 0, "the nested ganger is left alone: {answer}");
    assert_eq!(tagged(&inner).len(), 2, "its processes are left alone");
    assert_eq!(ask_inner(running.folder(), "quit").1, 0);
    wait_until_gone(&inner);
}

/// A client of the ganger in the folder `inner`.
fn ask_inner(folder: &Path, args: &str) -> ClientOutput {
    run_client(folder, &format!("{args} -d inner"))
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs a private runtime folder")]
fn next_start_kills_orphans_that_a_session_manager_adopted() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE daemonize stay tree {tag}\n");
    let manager = Scenario::of(hostile()).file("Procfile", procfile);
    let mut manager = manager.args("manage-session").arg(GANGER).args("start").start();
    // The daemon executes its last program on its own.
    manager.wait_for("| grown\n").wait_until("all", |_| tagged_as("leaf", &tag).len() == 3);
    let ganger = children(manager.pid())[0];
    let both = [keeper_of(ganger).unwrap(), ganger];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in both {
            kill(pid, signal).unwrap();
        }
    }
    let orphans = |way: &str| tagged_as(way, &tag).len();
    manager.wait_until("orphans", |manager| {
        children(manager.pid()).len() >= 2 && !both.iter().any(|pid| is_alive(*pid))
    });
    assert_eq!((orphans("tree"), orphans("leaf")), (1, 3));
    start_next(manager.folder());
    // One orphan has cleared its environment.
    assert_eq!((orphans("tree"), orphans("leaf")), (0, 1));
    drop(Cleanup(&tag));
}
