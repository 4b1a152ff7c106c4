//! Processes that enter other namespaces: the guarantees, and their limits.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cleanup, MARGIN, keeper_of, kill_both, start_next};
use crate::scenario::{
    Running, Scenario, children, hostile, tag, tagged, tagged_as, wait_until, wait_until_gone,
};

fn up(chain: &str, tag: &str, args: &str) -> Running {
    let procfile = format!("a: exec {chain} {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start").args(args).start();
    running.wait_for("a.1    | up\n");
    running
}

fn assert_gone_within(running: &mut Running, tag: &str, limit: Duration) {
    let since = Instant::now();
    running.wait_until("the exit of all processes", |_| {
        assert!(since.elapsed() < limit, "still there: {:?}", tagged(tag));
        tagged(tag).is_empty()
    });
}

/// In each of these PID namespaces, SIGTERM does not end the first process.
const PID_NAMESPACES: [&str; 4] = [
    "unshare -p -f $HOSTILE obedient",
    "unshare -p -f --mount-proc $HOSTILE daemonize stay obedient",
    "unshare -Urpf $HOSTILE session obedient",
    "$HOSTILE userns userns pidns userns pidns daemonize stay cleared obedient",
];

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn processes_in_new_pid_namespaces_are_stopped() {
    for chain in PID_NAMESPACES {
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        let running = up(chain, &tag, "-t 0.5");
        running.signal(Signal::SIGTERM);
        let finished = running.finish_within(MARGIN);
        assert_eq!(tagged(&tag), [], "{chain}");
        finished.code(137);
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn processes_in_new_pid_namespaces_do_not_survive_ganger_or_its_keeper() {
    for chain in PID_NAMESPACES {
        for victim in [Running::pid, Running::keeper] {
            let tag = tag();
            let _cleanup = Cleanup(&tag);
            let mut running = up(chain, &tag, "");
            kill(victim(&running), Signal::SIGKILL).unwrap();
            assert_ne!(running.wait().code(), Some(0));
            assert_gone_within(&mut running, &tag, MARGIN);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn first_process_of_a_namespace_is_found_by_the_next_start() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let mut running = up("$HOSTILE daemonize stay pidns obedient", &tag, "");
    kill_both(&mut running);
    start_next(running.folder());
    let left = tagged(&tag);
    for pid in &left {
        let _ = kill(*pid, Signal::SIGKILL);
    }
    assert_eq!(left, []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn unprivileged_user_namespaces_are_stopped() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let chain = "$HOSTILE userns userns daemonize stay session cleared obedient";
    let procfile = format!("a: exec {chain} {tag}\n");
    let scenario = Scenario::as_nobody(&procfile).args("./ganger start -t 10");
    let mut running = scenario.start();
    running.wait_for("a.1    | up\n").signal(Signal::SIGTERM);
    running.finish_within(MARGIN).code(0);
    assert_eq!(tagged(&tag), []);
}

/// A PID namespace outside of ganger, as a container has.
struct Container(Child);

impl Container {
    fn new(tag: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["-p", "-f", "--kill-child"]).arg(hostile()).args(["leaf", tag]);
        let container = Self(command.stdin(Stdio::null()).spawn().unwrap());
        wait_until("the first process", || !tagged_as("leaf", tag).is_empty());
        container
    }

    /// Its first process.
    fn init(&self) -> Pid {
        children(Pid::from_raw(self.0.id().cast_signed()))[0]
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The namespace ends with its first process, and that with unshare(1).
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn process_that_enters_a_foreign_pid_namespace_is_stopped() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for victim in [Running::pid, Running::keeper] {
            let (tag, foreign) = (tag(), tag());
            let _cleanup = Cleanup(&tag);
            let container = Container::new(&foreign);
            let chain = format!("nsenter -t {} -p $HOSTILE obedient", container.init());
            let mut running = up(&chain, &tag, "-t 1000");
            // The keeper ignores SIGTERM.
            running.signal(if victim(&running) == running.pid() {
                signal
            } else {
                Signal::SIGTERM
            });
            if signal == Signal::SIGKILL {
                kill(victim(&running), signal).unwrap();
            }
            let since = Instant::now();
            running.wait();
            assert!(since.elapsed() < MARGIN);
            assert_gone_within(&mut running, &tag, MARGIN);
            assert_eq!(tagged_as("leaf", &foreign).len(), 1, "the container is left alone");
        }
    }
}

/// In a foreign namespace, an orphan becomes a child of the first process there, and not of the
/// keeper. See docs/guarantees.md.
#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn daemon_in_a_foreign_pid_namespace_belongs_to_that_namespace() {
    let (tag, foreign) = (tag(), tag());
    let _cleanup = Cleanup(&tag);
    let container = Container::new(&foreign);
    let enter = format!("nsenter -t {} -p $HOSTILE daemonize stay", container.init());
    let running = up(&format!("{enter} obedient"), &tag, "-t 0.5");
    let daemon = tagged_as("obedient", &tag);
    assert_eq!(children(container.init()), daemon);
    assert!(!children(keeper_of(running.pid()).unwrap()).contains(&daemon[0]));
    running.signal(Signal::SIGTERM);
    running.finish_within(MARGIN).code(0);
    assert!(tagged(&tag).iter().all(|pid| daemon.contains(pid)), "{:?}", tagged(&tag));
    assert_eq!(tagged_as("leaf", &foreign).len(), 1, "the container is left alone");
    drop(container);
    wait_until_gone(&tag);
}

/// A mount of a file, until it is dropped.
struct Mount(std::path::PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn isolated_process_can_not_enter_a_foreign_pid_namespace() {
    let (tag, foreign) = (tag(), tag());
    let _cleanup = Cleanup(&tag);
    let container = Container::new(&foreign);
    let procfile = format!("a: exec nsenter --pid=namespace $HOSTILE obedient {tag}\n");
    let scenario = Scenario::procfile(procfile).file("namespace", "");
    // Its own /proc does not show the other namespace.
    let mount = Mount(scenario.folder().join("namespace"));
    let namespace = format!("/proc/{}/ns/pid", container.init());
    let mut command = Command::new("mount");
    assert!(command.arg("--bind").arg(namespace).arg(&mount.0).status().unwrap().success());
    let finished = scenario.args("start --isolate").run().code(1);
    let lines = finished.lines_of("a.1");
    assert!(lines.iter().any(|line| line.ends_with("failed: Invalid argument")), "{lines:?}");
    assert_eq!(tagged(&tag), []);
}
