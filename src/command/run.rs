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
use nix::sys::signal::Signal::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP};
use nix::sys::signal::{self, kill, raise};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind};

use super::{file_locations, identity, print_error, read_for_run};
use crate::cli::{CommonArgs, Global, PortArgs, Run};
use crate::control::api::ProcessStatus;
use crate::control::run_file;
use crate::plan::env::{Env, Variable};
use crate::plan::formation::{did_you_mean, nearest};
use crate::plan::port::Base;
use crate::plan::program::exec_error;
use crate::plan::sources::Sources;
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
    let mut prepared = Prepared::new(&sources, &options, &run.command)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("failed to start the engine")?;
    runtime.block_on(async {
        // Before the child exists: a signal must not end ganger alone.
        let signals = Signals::listen().context("failed to listen for signals")?;
        match prepared.spawn() {
            Ok(child) => wait(child, signals).await,
            Err(code) => Ok(code),
        }
    })
}

/// A command that is ready to run.
pub(super) struct Prepared {
    pub(super) command: Command,
    program: Program,
    plan: Plan,
    words: Vec<OsString>,
}

impl Prepared {
    fn new(sources: &Sources, options: &Options, words: &[OsString]) -> anyhow::Result<Self> {
        let entry = match words {
            [single] => single.to_str(),
            _ => None,
        };
        let plan = Plan::for_run(sources, options, RUN_NAME, entry)?;
        let program = Program::new(&plan, words, options)?;
        let mut command = Command::new(&program.argv[0]);
        command.args(&program.argv[1..]).current_dir(&program.dir).env_clear();
        for (key, var) in plan.env.iter().chain(&program.env) {
            command.env(key, &var.value);
        }
        Ok(Self { command, program, plan, words: words.to_vec() })
    }

    /// A command that runs beside an app with these processes: it sees their ports.
    pub(super) fn beside(
        global: &Global,
        common: &CommonArgs,
        ports: PortArgs,
        words: &[OsString],
        processes: &[ProcessStatus],
    ) -> anyhow::Result<Self> {
        let sources = read_for_run(global)?;
        let options = ports.options(common.options()?);
        let planned = Self::new(&sources, &options, words)?;
        let moved =
            planned.plan.base_port.and_then(|base| moved_base(&planned.plan, base, processes));
        match moved {
            None => Ok(planned),
            Some(port) => {
                let port = Some(Base::At(port));
                Self::new(&sources, &Options { port, ..options }, words)
            }
        }
    }

    /// Runs it. If it can't be run, prints why, and returns the exit code.
    pub(super) fn spawn(&mut self) -> Result<Child, u8> {
        self.command.spawn().map_err(|error| {
            print_error(&self.program.describe(&error, &self.plan, &self.words));
            if error.kind() == ErrorKind::NotFound { 127 } else { 126 }
        })
    }
}

/// The base port of an app, if it is not `base`, as the ports of its processes show.
fn moved_base(plan: &Plan, base: u16, processes: &[ProcessStatus]) -> Option<u16> {
    processes.iter().find_map(|process| {
        let port = process.port.filter(|_| process.name.ends_with(".1"))?;
        let key = plan::type_port_variable(&process.r#type);
        let planned: u16 = plan.env.get(OsStr::new(&key))?.value.to_str()?.parse().ok()?;
        let moved = i32::from(port) - i32::from(planned);
        (moved != 0).then(|| u16::try_from(i32::from(base) + moved).ok())?
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
pub(super) struct Signals {
    int: Option<Signal>,
    quit: Option<Signal>,
    tstp: Option<Signal>,
    term: Option<Signal>,
    hup: Option<Signal>,
    /// The command has changed its state: it was suspended, or has exited.
    chld: Option<Signal>,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        let listen = |number| {
            let listens = !is_ignored(number);
            listens
                .then(|| tokio::signal::unix::signal(SignalKind::from_raw(number as i32)))
                .transpose()
        };
        Ok(Self {
            int: listen(SIGINT)?,
            quit: listen(SIGQUIT)?,
            tstp: listen(SIGTSTP)?,
            term: listen(SIGTERM)?,
            hup: listen(SIGHUP)?,
            chld: Some(tokio::signal::unix::signal(SignalKind::child())?),
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> signal::Signal {
        tokio::select! {
            () = next_of(&mut self.int) => SIGINT,
            () = next_of(&mut self.quit) => SIGQUIT,
            () = next_of(&mut self.term) => SIGTERM,
            () = next_of(&mut self.hup) => SIGHUP,
            () = next_of(&mut self.tstp) => SIGTSTP,
            () = next_of(&mut self.chld) => SIGCHLD,
        }
    }

    /// The next one that asks for an end, while no command runs.
    pub(super) async fn next_end(&mut self) -> signal::Signal {
        loop {
            match self.next().await {
                SIGCHLD => {}
                // If that is refused, the signal has no effect.
                SIGTSTP => drop(raise(SIGSTOP)),
                other => return other,
            }
        }
    }
}

async fn next_of(signals: &mut Option<Signal>) {
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
    let mut suspends = false;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status.context("failed to wait for the command")?)),
            signal = signals.next() => match signal {
                SIGINT | SIGQUIT | SIGCHLD => {}
                SIGTSTP => suspends = true,
                other => forward(&child, other),
            },
        }
        suspend_with(&child, &mut suspends)?;
    }
}

/// Suspends ganger if that was asked for and the child is suspended.
pub(super) fn suspend_with(child: &Child, suspends: &mut bool) -> anyhow::Result<()> {
    if *suspends && pid_of(child).is_some_and(is_suspended) {
        *suspends = false;
        raise(SIGSTOP).context("failed to suspend ganger")?;
    }
    Ok(())
}

/// Whether this child is suspended, unless an earlier call has returned that already.
fn is_suspended(child: Pid) -> bool {
    let Some(child) = rustix::process::Pid::from_raw(child.as_raw()) else { return false };
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(child), options), Ok(Some(_)))
}

/// The process id of a child that has not been waited for.
fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
}

/// Sends a signal to a child that has not been waited for.
pub(super) fn forward(child: &Child, signal: signal::Signal) {
    if let Some(pid) = pid_of(child) {
        // It is not reaped yet, so the process id is still its own.
        let _ = kill(pid, signal);
    }
}

pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).unwrap_or(u8::MAX)
}
