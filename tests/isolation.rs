//! Processes in a PID namespace of their own, which no descendant leaves or outlives.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scenario::{Running, Scenario, children, tag, tagged, wait_until_gone};

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs namespaces")]
fn isolated_processes_see_only_themselves_and_exit_normally() {
    // A terminal hangs up when `a` exits, which kills what has not left its session by then.
    let procfile = "a: echo $$ $(ls -d /proc/[0-9]* | wc -l); \
                    (setsid sh -c ': > left; exec sleep 1000' &); \
                    until test -e left; do sleep 0.01; done; exit 3\n\
                    b: sleep 1000\n";
    for pty in ["never", "always"] {
        let scenario = Scenario::procfile(procfile).args("start --isolate --pty").arg(pty);
        let finished = scenario.run().code(3);
        let numbers = finished.lines_of("a.1");
        let numbers: Vec<u32> = numbers[0].split(' ').map(|text| text.parse().unwrap()).collect();
        assert!(numbers[0] < 10 && numbers[1] < 10, "{pty}: {numbers:?}");
        let stderr = finished.stderr();
        assert!(stderr.contains("a.1 exited (3), leaving s"), "{pty}: {stderr}");
        let end = "(pid N), stopping all\nganger | b.1 stopped\n";
        assert!(stderr.contains(end), "{pty}: {stderr}");
    }
}

/// Three trees of four processes, each with a daemon that has no descriptors and no environment.
fn grove(tag: &str) -> Running {
    let procfile = format!("a: exec $HOSTILE tree {tag}\n");
    let mut running = Scenario::procfile(procfile).args("start --isolate -m a=3").start();
    running.wait_until("twelve", |_| tagged(tag).len() == 12);
    running
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs namespaces")]
fn isolated_processes_are_stopped_normally() {
    let tag = tag();
    let running = grove(&tag);
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert_eq!(finished.stderr().matches(" stopped\n").count(), 3);
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs namespaces")]
fn no_isolated_process_survives_sigkill_of_ganger_and_keeper() {
    let tag = tag();
    let mut running = grove(&tag);
    let both = [running.keeper(), running.pid()];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in both {
            kill(pid, signal).unwrap();
        }
    }
    running.wait();
    wait_until_gone(&tag);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs namespaces")]
fn no_isolated_process_survives_sigkill_of_ganger_or_keeper() {
    for victim in [Running::pid, Running::keeper, first] {
        let tag = tag();
        let mut running = grove(&tag);
        kill(victim(&running), Signal::SIGKILL).unwrap();
        assert_ne!(running.wait().code(), Some(0));
        wait_until_gone(&tag);
    }
}

/// The first process of the namespace.
fn first(running: &Running) -> Pid {
    let name = |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let below = children(running.keeper());
    below.into_iter().find(|pid| name(pid) == "keeper-init\n").unwrap()
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn isolation_works_without_root() {
    let finished = Scenario::as_nobody("a: echo $$ $(id -u); exit 7\n")
        .args("./ganger start --isolate")
        .run()
        .code(7);
    assert_eq!(finished.lines_of("a.1"), ["2 65534"]);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs namespaces")]
fn forbidden_isolation_starts_nothing() {
    let scenario = Scenario::of("unshare").file("Procfile", "a: touch started\n");
    let folder = scenario.folder().to_path_buf();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set=-all --inh-caps=-all $GANGER start --isolate";
    let started = folder.join("started");
    scenario.args("--user --map-root-user sh -c").arg(script).run().refused(
        "failed to isolate: it takes root, or a user namespace, which the system refuses (see \
         `sysctl user` and `sysctl kernel.unprivileged_userns_clone`): No space left on device",
    );
    assert!(!started.exists());
}
