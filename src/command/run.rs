//! `ganger run`: one command in the app's environment, on the user's terminal.
//!
//! It is forked from ganger itself, into the same session and process group, so
//! that the terminal and the shell treat the two as one job.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::Context;
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::read_for_run;
use crate::cli::{Global, Run};
use crate::plan::sources::reason;
use crate::plan::{self, Plan, identity, shell};
use crate::supervise::signals::is_ignored;

pub(super) fn run(global: &Global, run: &Run) -> anyhow::Result<u8> {
    let sources = read_for_run(global)?;
    let plan = Plan::for_run(&sources, &run.given.options()?, NAME)?;
    let program = Program::new(&plan, &run.command, run.given.compat_env)?;
    let mut command = Command::new(&program.argv[0]);
    command.args(&program.argv[1..]).current_dir(&program.dir).env_clear();
    for (key, var) in plan.env.iter().chain(&program.env) {
        command.env(key, &var.value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("failed to start the engine")?;
    runtime.block_on(async {
        // Before there is a child that a signal would leave alone.
        let signals = Signals::listen().context("failed to listen for signals")?;
        match command.spawn() {
            Ok(child) => wait(child, signals).await,
            Err(error) => {
                let name = program.argv[0].display();
                let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
                eprintln!("ganger: failed to run `{name}`: {}", reason(&error));
                Ok(code)
            }
        }
    })
}

/// What is run.
struct Program {
    argv: Vec<OsString>,
    dir: PathBuf,
    env: crate::plan::env::Env,
}

impl Program {
    /// A single name of a process type is that entry; a single word that a shell
    /// would read otherwise is given to one; all else is run as it stands.
    fn new(plan: &Plan, command: &[OsString], compat: bool) -> Result<Self, plan::Error> {
        let text = match command {
            [single] => single.to_str(),
            _ => None,
        };
        let process = plan.processes.iter().find(|process| Some(process.kind.as_str()) == text);
        let through_shell = |text: &str| shell::argv(&plan.shell, text);
        Ok(match (process, text) {
            (Some(process), _) => {
                process.check_folder()?;
                Self {
                    argv: through_shell(&process.command),
                    dir: process.dir.clone(),
                    env: process.env.clone(),
                }
            }
            (None, text) => {
                let argv = match text {
                    Some(text) if text.contains(SHELLS_BUSINESS) => through_shell(text),
                    Some(_) | None => command.to_vec(),
                };
                Self { argv, dir: plan.root.clone(), env: identity(NAME, &plan.root, compat) }
            }
        })
    }
}

/// What a single command is called, as `web.1` is by its name.
const NAME: &str = "run.1";

/// A word that has one of these is no program's name.
const SHELLS_BUSINESS: &[char] =
    &[' ', '\t', '\n', '$', '|', '&', ';', '<', '>', '(', ')', '`', '"', '\''];

/// What ganger is sent while the command runs; none where whoever started ganger
/// chose to ignore it, as nohup(1) does, and the command is to do the same.
struct Signals {
    int: Option<Signal>,
    quit: Option<Signal>,
    term: Option<Signal>,
    hup: Option<Signal>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let listen = |number| {
            let heard = !is_ignored(number);
            heard.then(|| signal(SignalKind::from_raw(number as i32))).transpose()
        };
        Ok(Self {
            int: listen(SIGINT)?,
            quit: listen(SIGQUIT)?,
            term: listen(SIGTERM)?,
            hup: listen(SIGHUP)?,
        })
    }
}

async fn next(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => drop(signals.recv().await),
        None => std::future::pending().await,
    }
}

/// Waits for the child, and gives its exit code. The terminal sends INT and QUIT
/// to it as well as to ganger, which leaves the answer to it; TERM and HUP come
/// to ganger alone, and are passed on.
async fn wait(mut child: Child, mut signals: Signals) -> anyhow::Result<u8> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let forward = |signal| {
        if let Some(pid) = pid {
            // Not waited for yet, so the number is still its own.
            let _ = kill(pid, signal);
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status.context("failed to wait for the command")?)),
            () = next(&mut signals.int) => {}
            () = next(&mut signals.quit) => {}
            () = next(&mut signals.term) => forward(SIGTERM),
            () = next(&mut signals.hup) => forward(SIGHUP),
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).unwrap_or(u8::MAX)
}
