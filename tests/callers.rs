//! Every kind of caller gets the output and the exit code, and control back: a shell that captures
//! the output, a pipe, `ssh -n`, cron, a service manager, a CI runner without a terminal.

use std::fs;
use std::path::Path;

use crate::scenario::{Finished, GANGER, Scenario, runtime_files};
use crate::servers::{Cron, Sshd, Systemd};

/// How a caller runs a command line of the shell, which stands for `CMD` here. Each ends with the
/// exit code, and prints all output.
const CALLERS: [(&str, &[&str]); 11] = [
    ("$(…)", &["sh", "-c", "out=$(CMD 2>&1); code=$?; printf '%s\n' \"$out\"; exit $code"]),
    ("a pipe", &["sh", "-c", "{ CMD 2>&1; echo $? > code; } | cat; exit $(cat code)"]),
    ("nohup", &["sh", "-c", "nohup CMD 2>&1"]),
    ("setsid", &["setsid", "-w", "sh", "-c", "CMD 2>&1 < /dev/null"]),
    ("a background job", &["sh", "-c", "CMD 2>&1 & wait $!"]),
    ("a closed input", &["sh", "-c", "CMD 2>&1 <&-"]),
    ("timeout", &["timeout", "50", "sh", "-c", "CMD 2>&1"]),
    // crontab(5): these variables, an input that has ended, and the output for a mail.
    (
        "cron",
        &[
            "env",
            "-i",
            "SHELL=/bin/sh",
            "PATH=/usr/bin:/bin",
            "HOME=/root",
            "LOGNAME=root",
            "sh",
            "-c",
            "{ : | CMD 2>&1; echo $? > code; } | cat; exit $(cat code)",
        ],
    ),
    // systemd.exec(5): a session of its own, /dev/null, and the journal's socket.
    (
        "a service manager",
        &[
            "python3",
            "-c",
            "import socket, subprocess, sys\n\
             ours, theirs = socket.socketpair()\n\
             env = {'PATH': '/usr/bin:/bin', 'INVOCATION_ID': '1', 'JOURNAL_STREAM': '8:1'}\n\
             run = subprocess.Popen(['sh', '-c', '''CMD'''], env=env, stdin=subprocess.DEVNULL,\n\
             \x20   stdout=theirs, stderr=theirs, start_new_session=True)\n\
             theirs.close()\n\
             for piece in iter(lambda: ours.recv(4096), b''):\n\
             \x20   sys.stdout.buffer.write(piece)\n\
             sys.exit(run.wait())",
        ],
    ),
    (
        "subprocess.run",
        &[
            "python3",
            "-c",
            "import subprocess, sys\n\
             done = subprocess.run('''CMD''', shell=True, capture_output=True, timeout=50)\n\
             sys.stdout.buffer.write(done.stdout + done.stderr)\n\
             sys.exit(done.returncode)",
        ],
    ),
    // A runner without a terminal, which closes what it does not use.
    ("a CI runner", &["env", "CI=true", "TERM=dumb", "setsid", "-w", "sh", "-c", "CMD 2>&1 <&-"]),
];

const PROCFILE: &str = "app: echo early; until test -e go; do sleep 0.02; done; exit 3\n";

/// A command line of ganger, run by a caller in this folder. It ends when all that could print to
/// the caller is gone.
fn call(caller: &[&str], folder: &Path, args: &str) -> Finished {
    let text = |argument: &&str| argument.replace("CMD", &format!("{GANGER} {args}"));
    let arguments = caller[1..].iter().map(text);
    let scenario = Scenario::of(caller[0]).in_folder(folder);
    arguments.fold(scenario, Scenario::arg).run()
}

/// The four ways to start something, as this caller.
fn check(name: &str, call: impl Fn(&Path, &str) -> Finished) {
    let scenario = Scenario::procfile(PROCFILE).file("beside.sh", "echo beside; exit 7\n");
    let folder = scenario.folder();
    let daemon = call(folder, "start -D");
    let (output, code) = (daemon.stdout(), daemon.status.code());
    assert_eq!(code, Some(0), "{name}: {output}");
    let hint =
        "up in the background: `ganger logs -f` follows its output, `ganger quit` stops it\n";
    assert!(output.contains("app.1  | early\n") && output.ends_with(hint), "{name}: {output}");
    for (args, code) in [("ps", 0), ("logs app", 0), ("quit", 0), ("ps", 3)] {
        let finished = call(folder, args);
        assert_eq!(finished.status.code(), Some(code), "{name}: {args}: {}", finished.stdout());
    }
    let finished = call(folder, "with -- sh beside.sh");
    assert_eq!(finished.status.code(), Some(7), "{name}: {}", finished.stdout());
    assert_eq!(finished.stdout().trim_end(), "beside", "{name}");
    fs::write(folder.join("go"), "").unwrap();
    let finished = call(folder, "start");
    let (output, code) = (finished.stdout(), finished.status.code());
    assert_eq!(code, Some(3), "{name}: {output}");
    let expected = "app.1 exited (3), stopping all\n";
    assert!(output.contains("app.1  | early\n") && output.contains(expected), "{name}: {output}");
    // What an app fails with before it is ready is what the daemon's start fails with.
    assert_eq!(call(folder, "start -D").status.code(), Some(3), "{name}");
    let finished = call(folder, "run app");
    assert_eq!(finished.status.code(), Some(3), "{name}");
    assert_eq!(finished.stdout().trim_end(), "early", "{name}");
    let left = runtime_files(folder);
    assert!(left.iter().all(|path| path.extension().is_some_and(|it| it == "last")), "{left:?}");
}

#[test]
fn every_caller_gets_output_and_exit_code() {
    std::thread::scope(|scope| {
        for (name, caller) in CALLERS {
            scope.spawn(move || check(name, |folder, args| call(caller, folder, args)));
        }
    });
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs sshd")]
fn ssh_gets_output_and_exit_code() {
    let app = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(app.path());
    check("ssh -n", |folder, args| {
        let command = format!("cd {} && {GANGER} {args} 2>&1", folder.display());
        sshd.run("-n", &command).in_folder(folder).run()
    });
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs cron")]
fn job_of_cron_gets_output_and_exit_code() {
    let cron = Cron::start();
    check("a job of cron", |folder, args| {
        cron.run(&format!("cd {} && {GANGER} {args}", folder.display()))
    });
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs systemd")]
fn systemd_run_gets_output_and_exit_code() {
    let systemd = Systemd::start();
    // When the main process of a service exits, systemd kills the others unless it is told not to.
    for mode in ["--scope", "--wait --pipe --property=KillMode=process"] {
        check(mode, |folder, args| {
            let folder = folder.display();
            let options = format!("--quiet --collect --working-directory={folder} {mode}");
            systemd.run(&options, &format!("{GANGER} {args} 2>&1"))
        });
    }
}
