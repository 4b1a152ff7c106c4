//! The environments in which ganger runs: as PID 1, as another user, without a terminal, an
//! environment or an output, and with inherited signal settings.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{self, SigHandler, SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::scenario::{
    GANGER, Running, Scenario, children, is_alive, tag, tagged, wait_until_gone,
};

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn ganger_as_pid_1_reaps_orphans_and_forwards_signals() {
    let tag = tag();
    let procfile = format!(
        "a: trap '' USR1; exec $HOSTILE orphan {tag}\nb: trap 'echo forwarded' USR1; while :; do sleep 0.05; done\n"
    );
    let mut running = Scenario::of("unshare")
        .file("Procfile", procfile)
        .args("--pid --fork --mount-proc --kill-child")
        .arg(GANGER)
        .args("start")
        .start();
    running.wait_for("orphan started\n");
    let ganger = children(running.pid())[0];
    // Another program leaves an orphan, which becomes a child of PID 1.
    let other = std::process::Command::new("nsenter")
        .args(["--target", &ganger.to_string(), "--pid", "--mount"])
        .args(["sh", "-c", "(sleep 0.1 &)"])
        .status();
    assert!(other.unwrap().success());
    running.wait_until("only the keeper", |_| children(ganger).len() == 1);
    // The orphan was reaped. ganger forwards the signals that it gets.
    kill(ganger, Signal::SIGUSR1).unwrap();
    running.wait_for("b.1    | forwarded\n");
    // The orphan of `a` may be an earlier or a later child of the keeper.
    let is_b = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        memchr::memmem::find(&line, b"echo forwarded").is_some()
    };
    let b = children(children(ganger)[0]).into_iter().find(is_b).unwrap();
    kill(b, Signal::SIGKILL).unwrap();
    running.finish().code(137);
    wait_until_gone(&tag);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn ganger_as_pid_1_stops_on_sigterm() {
    let mut running = Scenario::of("unshare")
        .file("Procfile", "a: echo up; sleep 1000\n")
        .args("--pid --fork --mount-proc --kill-child")
        .arg(GANGER)
        .args("start")
        .start();
    running.wait_for("| up\n");
    kill(children(running.pid())[0], Signal::SIGTERM).unwrap();
    running.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn ganger_runs_in_a_folder_that_it_can_not_write() {
    let tag = tag();
    let procfile = format!("a: id -u; touch x || echo refused; exec $HOSTILE tree {tag}\n");
    let mut running = Scenario::as_nobody(&procfile).args("./ganger start").start();
    running.wait_for("grown\n").signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert_eq!(finished.lines_of("a.1")[0], "65534");
    assert!(finished.lines_of("a.1").contains(&"refused".to_owned()));
    assert_eq!(tagged(&tag), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn process_that_became_root_is_reported_as_left() {
    let tag = tag();
    let scenario = Scenario::as_nobody(&format!("a: exec ./hostile become-root {tag}\n"));
    let program = scenario.folder().join("hostile");
    std::fs::set_permissions(program, PermissionsExt::from_mode(0o4755)).unwrap();
    let mut running = scenario.args("./ganger start -t 0.2").start();
    running.wait_for("root\n").signal(Signal::SIGTERM);
    let stderr = running.finish().code(137).stderr();
    let expected = "ganger | a.1 is still running after SIGKILL: leaving it\n\
                    ganger | could not kill hostile (pid N): still running\n";
    assert!(stderr.ends_with(expected), "{stderr}");
    let [left] = tagged(&tag)[..] else { panic!("expected one process") };
    kill(left, Signal::SIGKILL).unwrap();
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn ganger_runs_under_sudo() {
    let procfile = "a: id -un; echo up; sleep 1000\n";
    let mut running = Scenario::as_nobody(procfile)
        .command(|command| {
            let folder = command.get_current_dir().unwrap().to_owned();
            *command = std::process::Command::new("sudo");
            command.current_dir(folder).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        })
        .args("-n -u nobody ./ganger start")
        .start();
    running.wait_for("| up\n").signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert_eq!(finished.lines_of("a.1"), ["nobody", "up"]);
    assert!(finished.stderr().ends_with("a.1 stopped\n"), "{}", finished.stderr());
}

#[test]
fn current_folder_that_was_removed_is_reported() {
    let finished = Scenario::of("sh")
        .args("-c")
        .arg("mkdir gone && cd gone && rmdir ../gone && echo 'a: true' | $GANGER start -f -")
        .run();
    finished.refused("the current folder does not exist");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn limit_of_processes_is_reported() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE leaf {tag}\n");
    let scenario = Scenario::as_nobody(&procfile).args("prlimit --nproc=30 ./ganger start -m a=60");
    let finished = scenario.run().code(126);
    let expected = "could not be started: Try again, stopping all\n";
    assert!(finished.stderr().contains(expected), "{}", finished.stderr());
    assert_eq!(tagged(&tag), []);
}

#[test]
fn ganger_runs_without_an_environment() {
    let scenario = Scenario::procfile("a: ls -d /\n").args("start").command(|command| {
        command.env_clear();
    });
    assert_eq!(scenario.run().code(0).lines_of("a.1"), ["/"]);
}

#[test]
fn ganger_runs_without_an_output() {
    let finished = Scenario::of("sh")
        .file("Procfile", "a: echo lost; exit 3\n")
        .args("-c")
        .arg("exec $GANGER start >&- 2>&-")
        .run();
    assert_eq!((finished.stdout(), finished.stderr()), (String::new(), String::new()));
    finished.code(3);
}

#[test]
fn ganger_runs_under_nohup_and_timeout() {
    let mut running = Scenario::of("nohup")
        .file("Procfile", "a: echo up; sleep 1000\n")
        .arg(GANGER)
        .args("start")
        .start();
    running.wait_for("| up\n").signal(Signal::SIGHUP);
    running.signal(Signal::SIGQUIT);
    running.wait_for("a.1 (pid ").signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert!(!finished.stderr().contains("SIGHUP"), "{}", finished.stderr());
    let scenario = Scenario::of("timeout").file("Procfile", "a: sleep 1000\n");
    let finished = scenario.args("--preserve-status 1").arg(GANGER).args("start").run().code(0);
    assert!(finished.stderr().ends_with("SIGTERM: stopping all\nganger | a.1 stopped\n"));
}

#[test]
fn interrupt_stops_a_background_job_of_a_script() {
    let scenario = Scenario::of("sh").file("Procfile", "a: echo up; exec sleep 1000\n");
    let script = "$GANGER start & echo job=$!; wait $!; echo code=$?";
    let mut running = scenario.args("-c").arg(script).start();
    running.wait_for("| up\n").wait_for("job=");
    let output = running.output();
    let job = output.lines().find_map(|line| line.strip_prefix("job=")).unwrap();
    let job = Pid::from_raw(job.parse().unwrap());
    kill(job, Signal::SIGQUIT).unwrap();
    running.wait_for("a.1 (pid ");
    kill(job, Signal::SIGINT).unwrap();
    let finished = running.finish();
    assert!(finished.stderr().ends_with("SIGINT: stopping all\nganger | a.1 stopped\n"));
    assert!(finished.stdout().ends_with("code=0\n"), "{}", finished.stdout());
}

/// `program`, started with these signals blocked, or with SIGCHLD ignored.
fn with_inherited_signals(
    scenario: Scenario,
    blocked: &'static [Signal],
    ignored: bool,
) -> Scenario {
    let inherit = move || {
        let mut mask = SigSet::empty();
        for signal in blocked {
            mask.add(*signal);
        }
        mask.thread_set_mask()?;
        if ignored {
            #[expect(unsafe_code, reason = "dispositions belong to the whole process")]
            // SAFETY: to ignore a signal runs nothing of ours.
            unsafe { signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
        }
        Ok(())
    };
    scenario.command(|command| {
        #[expect(unsafe_code, reason = "it takes a step between fork and exec")]
        // SAFETY: system calls alone.
        unsafe {
            command.pre_exec(inherit)
        };
    })
}

const STOP_SIGNALS: &[Signal] =
    &[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD];

#[test]
fn inherited_blocked_signals_still_stop_start() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let scenario = Scenario::procfile("a: exec $HOSTILE signals; sleep 1000\n");
        let scenario = scenario.args("start --can-die a");
        let mut running = with_inherited_signals(scenario, STOP_SIGNALS, false).start();
        running.wait_for("SigBlk:\t0000000000000000\n");
        drop(running);
        let scenario = Scenario::procfile("a: echo up; exec sleep 1000\n").args("start");
        let mut running = with_inherited_signals(scenario, STOP_SIGNALS, false).start();
        running.wait_for("| up\n").signal(signal);
        let finished = running.finish_within(Duration::from_secs(20)).code(0);
        assert!(finished.stderr().contains(&format!("{signal}: stopping all\n")));
    }
}

#[test]
fn inherited_blocked_signals_still_stop_run() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let scenario = Scenario::procfile("a: true\n").args("run sh -c");
        let scenario =
            scenario.arg("trap 'exit 3' TERM HUP; echo up; while :; do sleep 0.05; done");
        let mut running = with_inherited_signals(scenario, STOP_SIGNALS, false).start();
        running.wait_for("up\n").signal(signal);
        running.finish_within(Duration::from_secs(20)).code(3);
    }
}

#[test]
fn inherited_blocked_signals_still_stop_a_starting_daemon() {
    let scenario = Scenario::procfile("a: echo up; exec sleep 1000\n");
    let scenario = scenario.file("ganger.toml", "[process.a]\nready = { log = 'never' }\n");
    let mut running =
        with_inherited_signals(scenario.args("start -D"), STOP_SIGNALS, false).start();
    running.wait_for("| up\n").signal(Signal::SIGINT);
    let finished = running.finish_within(Duration::from_secs(20)).code(0);
    assert!(finished.stderr().contains("SIGINT: stopping all\n"), "{}", finished.stderr());
}

#[test]
fn inherited_ignored_sigchld_does_not_change_exit_codes() {
    for (args, code) in [
        ("start", 7),
        ("start -D", 7),
        ("run a", 7),
        ("run sh -c", 5),
        ("run no-such-program", 127),
    ] {
        let scenario = Scenario::procfile("a: echo up; exit 7\n").args(args);
        let scenario = if args.ends_with("-c") { scenario.arg("exit 5") } else { scenario };
        let finished = with_inherited_signals(scenario, &[], true).run();
        assert!(!finished.stderr().contains("No child"), "{args}: {}", finished.stderr());
        finished.code(code);
    }
    // The command does not ignore it, either.
    let scenario = Scenario::procfile("a: true\n").args("run sh -c").arg("(exit 6) & wait $!");
    with_inherited_signals(scenario, &[], true).run().code(6);
}

/// ganger in a session of its own, on the terminal whose other end is returned. The session hangs up
/// when that is dropped.
pub fn start_on_terminal(procfile: &str, args: &str) -> (Running, OwnedFd) {
    let terminal = openpty(None, None).unwrap();
    // Otherwise ganger would keep the end open that is closed later.
    fcntl(&terminal.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    let slave = File::from(terminal.slave);
    let (out, err) = (slave.try_clone().unwrap(), slave.try_clone().unwrap());
    let scenario = Scenario::of("setsid").file("Procfile", procfile).arg("-c").arg(GANGER);
    let scenario = scenario.args(args).command(|command| {
        command.stdin(Stdio::from(slave)).stdout(Stdio::from(out)).stderr(Stdio::from(err));
    });
    (scenario.start(), terminal.master)
}

#[test]
fn terminal_that_hangs_up_stops_all() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE tree {tag}\n");
    let (mut running, terminal) = start_on_terminal(&procfile, "start");
    running.wait_until("four", |_| tagged(&tag).len() == 4);
    drop(terminal);
    assert_eq!(running.wait().code(), Some(0));
    assert_eq!(tagged(&tag), []);
}

#[test]
fn storm_of_signals_is_survived() {
    let mut running = Scenario::procfile("a: exec $HOSTILE tick\n").args("start -t 1000").start();
    running.wait_for("tick");
    for _ in 0..10_000 {
        running.signal(Signal::SIGWINCH);
    }
    let before = running.count_in_output("tick");
    running.wait_until("more ticks", |running| running.count_in_output("tick") > before);
    for _ in 0..5000 {
        // ganger may have exited before the last signals.
        let _ = kill(running.pid(), Signal::SIGTERM);
        let _ = kill(running.pid(), Signal::SIGHUP);
    }
    running.finish().code(0);
}

#[test]
fn suspended_start_continues() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE leaf {tag}\n");
    for micros in (0..40).map(|step| step * 200) {
        let mut running = Scenario::procfile(&procfile).args("start -m a=3").start();
        std::thread::sleep(Duration::from_micros(micros));
        running.signal(Signal::SIGTSTP);
        // ganger is suspended at some time from now on. It is not suspended if it has no handler
        // yet and its process group is orphaned, so that no shell could continue it.
        running.wait_until("three", |running| {
            running.signal(Signal::SIGCONT);
            tagged(&tag).len() == 3 && running.count_in_output(" started, pid ") == 3
        });
        running.signal(Signal::SIGTERM);
        while running.child.try_wait().unwrap().is_none() {
            running.signal(Signal::SIGCONT);
            std::thread::sleep(Duration::from_millis(5));
        }
        running.finish().code(0);
        assert_eq!(tagged(&tag), []);
    }
}

#[test]
fn suspended_stop_continues() {
    let procfile = "a: exec $HOSTILE stubborn\n";
    let mut running = Scenario::procfile(procfile).args("start -t 1").start();
    running.wait_for("stubborn").signal(Signal::SIGTERM);
    running.wait_for("stopping all").signal(Signal::SIGTSTP);
    let keeper = running.keeper();
    let child = children(keeper)[0];
    let pid = running.pid();
    let suspended = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    };
    running.wait_until("both suspended", |_| suspended(pid) && suspended(child));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(is_alive(child), "the time during which nothing ran was counted as grace period");
    running.signal(Signal::SIGCONT);
    running.finish().code(137);
}
