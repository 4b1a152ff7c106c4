//! `ganger with`, beside the shell script that it replaces.

use std::io;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::report::{Row, SECONDS, TIMES};
use crate::runner::{Runner, Stage, worker_command};

/// Three servers, on these ports.
const PORTS: [u16; 3] = [45_000, 45_100, 45_200];
const CONFIG: &str = "[process.a]\nready = { port = true }\n[process.b]\nready = { port = true }\n\
                      [process.c]\nready = { port = true }\n";

/// From the start to the end: three servers up, `true`, all gone.
pub(crate) fn with(runs: usize) -> io::Result<Vec<Row>> {
    let server = worker_command("serve");
    let stage = Stage::new(vec![server.clone(); PORTS.len()])?;
    std::fs::write(stage.dir.join("ganger.toml"), CONFIG)?;
    let script = script(&server);
    let (mut shell, mut ganger, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let mut command = Command::new("/bin/sh");
        shell.push(run(command.args(["-euc", &script]).current_dir(&stage.dir))?);
        let mut command = Command::new(Runner::ganger().program);
        let command = command.args(["with", "-p", "45000", "--", "true"]).current_dir(&stage.dir);
        ganger.push(run(command)?);
        times.extend(shell.last().zip(ganger.last()).map(|(shell, ganger)| shell / ganger));
    }
    Ok(vec![
        Row::new("*reference* a shell script that polls with curl every 100 ms", SECONDS, shell),
        Row::new("`ganger with -- true`, three servers", SECONDS, ganger),
        Row::new("the script against ganger", TIMES, times),
    ])
}

/// What is written by hand: start, poll, run, stop, wait.
fn script(server: &str) -> String {
    let start = |port: &u16| format!("PORT={port} {server} & pids=\"$pids $!\"\n");
    let poll = |port: &u16| {
        format!("until curl -fso /dev/null http://127.0.0.1:{port}/; do sleep 0.1; done\n")
    };
    let starts: String = PORTS.iter().map(start).collect();
    let polls: String = PORTS.iter().map(poll).collect();
    format!("pids=\n{starts}{polls}true\nkill $pids\nwait $pids || true\n")
}

/// The seconds that a command takes, which has to succeed.
fn run(command: &mut Command) -> io::Result<f64> {
    let since = Instant::now();
    let status =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let took = since.elapsed().as_secs_f64();
    if status.success() {
        Ok(took)
    } else {
        Err(io::Error::other(format!("{command:?}: {status}")))
    }
}
