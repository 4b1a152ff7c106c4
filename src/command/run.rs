//! `ganger run`: runs one command in the app's environment, on the user's terminal.
//!
//! It is forked from ganger itself, in the same session and process group, so that the terminal
//! and the shell treat both as one job.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP};
use nix::sys::signal::{kill, raise};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{file_locations, identity, print_error, read_for_run};
use crate::cli::{Global, Run};
use crate::control::run_file;
use crate::plan::env::{Env, Variable};
use crate::plan::formation::{did_you_mean, nearest};
use crate::plan::program::exec_error;
use crate::plan::{self, Options, Plan, identity_variables, shell};
use crate::supervise::signals::is_ignored;

pub(super) fn run(global: &Global, run: &Run) -> anyhow::Result<u8> {
    if let Some(flag) = run.command[0].to_str().filter(|first| first.starts_with('-')) {
        bail!("`run` has no flag `{flag}`: see `ganger help run`");
    }
    let sources = read_for_run(global)?;
    let locations = file_locations(global);
    let identity = identity(global, &locations, &sources.root);
    // With `auto`, its ports are those of the app that runs.
    let auto_base = run_file::find(&sources.root, &identity).and_then(|run| run.base_port);
    let options = Options { auto_base, identity, ..run.ports.options(run.common.options()?) };
    let process_type = match run.command.as_slice() {
        [single] => single.to_str(),
        _ => None,
    };
    let plan = Plan::for_run(&sources, &options, RUN_NAME, process_type)?;
    let program = Program::new(&plan, &run.command, &options)?;
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
        // Before the child exists: a signal must not end ganger alone.
        let signals = Signals::listen().context("failed to listen for signals")?;
        match command.spawn() {
            Ok(child) => wait(child, signals).await,
            Err(error) => {
                let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
                print_error(&program.describe(&error, &plan, &run.command));
                Ok(code)
            }
        }
    })
}

/// The program to run.
struct Program {
    argv: Vec<OsString>,
    dir: PathBuf,
    env: Env,
    /// Whether it is a process type.
    is_process_type: bool,
}

impl Program {
    /// A process type, if the first word names one; a single word with shell syntax, which goes to
    /// the shell; else the words as they are.
    fn new(plan: &Plan, command: &[OsString], options: &Options) -> Result<Self, plan::Error> {
        let through_shell = |text: &str| shell::argv(&plan.shell, text);
        if let Some(process) = plan.processes.first() {
            process.check_folder()?;
            return Ok(Self {
                argv: through_shell(&process.command),
                dir: process.dir.clone(),
                env: process.env.clone(),
                is_process_type: true,
            });
        }
        let argv = match command {
            [single] => single.to_str().filter(|text| text.contains(SHELL_METACHARS)),
            _ => None,
        };
        let mut env = identity_variables(RUN_NAME, &plan.root, options.compat_env);
        if let Some(port) = plan.base_port.filter(|_| options.port.is_some()) {
            env.insert("PORT".into(), Variable::from_ganger(port.to_string()));
        }
        let argv = argv.map_or_else(|| command.to_vec(), through_shell);
        Ok(Self { argv, dir: plan.root.clone(), env, is_process_type: false })
    }

    /// The reason why it can't be executed.
    fn describe(&self, error: &io::Error, plan: &Plan, command: &[OsString]) -> String {
        let name = self.argv[0].to_string_lossy();
        let is_missing = error.kind() == ErrorKind::NotFound && !name.contains('/');
        if is_missing && self.argv[0] == command[0] && !self.is_process_type {
            if plan.types().contains(&&*name) {
                return format!(
                    "no command `{name}`, and the Procfile's entry takes no arguments: \
                     `ganger run {name}`"
                );
            }
            let meant = did_you_mean(nearest(&name, plan.types()));
            return format!("no command and no Procfile entry `{name}`{meant}");
        }
        let search_path = self.env.get(OsStr::new("PATH")).or(plan.env.get(OsStr::new("PATH")));
        let search_path = search_path.map(|var| var.value.as_os_str());
        match error.raw_os_error() {
            Some(errno) => {
                exec_error(&self.argv[0], &self.dir, search_path, Errno::from_raw(errno))
            }
            None => format!("failed to run `{name}`: {error}"),
        }
    }
}

/// The name of a command that is not a process type.
const RUN_NAME: &str = "run.1";

/// A word with one of these goes to the shell.
const SHELL_METACHARS: &[char] =
    &[' ', '\t', '\n', '$', '|', '&', ';', '<', '>', '(', ')', '`', '"', '\''];

/// The signals that ganger handles while the command runs. Signals that were ignored when ganger
/// was started, as by nohup(1), stay ignored for the command, too.
struct Signals {
    int: Option<Signal>,
    quit: Option<Signal>,
    tstp: Option<Signal>,
    term: Option<Signal>,
    hup: Option<Signal>,
    /// The command has changed its state: it was suspended, or has exited.
    chld: Option<Signal>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let listen = |number| {
            let listens = !is_ignored(number);
            listens.then(|| signal(SignalKind::from_raw(number as i32))).transpose()
        };
        Ok(Self {
            int: listen(SIGINT)?,
            quit: listen(SIGQUIT)?,
            tstp: listen(SIGTSTP)?,
            term: listen(SIGTERM)?,
            hup: listen(SIGHUP)?,
            chld: Some(signal(SignalKind::child())?),
        })
    }
}

async fn next(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => drop(signals.recv().await),
        None => std::future::pending().await,
    }
}

/// Waits for the child, and returns its exit code. The terminal sends INT, QUIT and TSTP to both,
/// so ganger leaves them to the child; TERM and HUP are sent to ganger alone, which forwards them.
///
/// After TSTP, ganger suspends itself once the child is suspended, and no earlier: the shell waits
/// for ganger alone before it uses the terminal again, and the child may still have to restore it,
/// or read from it.
async fn wait(mut child: Child, mut signals: Signals) -> anyhow::Result<u8> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let forward = |signal| {
        if let Some(pid) = pid {
            // It is not reaped yet, so the process id is still its own.
            let _ = kill(pid, signal);
        }
    };
    let mut suspends = false;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status.context("failed to wait for the command")?)),
            () = next(&mut signals.int) => {}
            () = next(&mut signals.quit) => {}
            () = next(&mut signals.tstp) => suspends = true,
            () = next(&mut signals.term) => forward(SIGTERM),
            () = next(&mut signals.hup) => forward(SIGHUP),
            () = next(&mut signals.chld) => {}
        }
        if suspends && pid.is_some_and(is_suspended) {
            suspends = false;
            raise(SIGSTOP).context("failed to suspend ganger")?;
        }
    }
}

/// Whether this child is suspended, unless an earlier call has returned that already.
fn is_suspended(child: Pid) -> bool {
    let Some(child) = rustix::process::Pid::from_raw(child.as_raw()) else { return false };
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(child), options), Ok(Some(_)))
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).unwrap_or(u8::MAX)
}
