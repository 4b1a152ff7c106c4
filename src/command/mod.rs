//! One thin file per command: gather, call, print.

mod attach;
mod check;
mod client_commands;
mod daemon;
mod focus;
mod json;
mod logs;
mod port_block;
mod ports;
mod ps;
mod ps_all;
mod run;
mod send;
mod start;
mod ui;
mod wait;
mod with;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::CommandFactory;
use nix::errno::Errno;

use crate::cli::{self, Cli, Command, CommonArgs, Global, PlanArgs, PortArgs, When};
use crate::notice::escape_controls;
use crate::plan::formation::{RELEASE, did_you_mean, nearest};
use crate::plan::identity::Identity;
use crate::plan::sources::{FileLocations, Sources};
use crate::plan::{Options, Plan};

/// The exit code for a mistake in flags or files.
pub const USAGE: u8 = 2;

/// Runs the command, and returns ganger's exit code.
pub fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if cli.global.verbose {
        let subscriber =
            tracing_subscriber::fmt().with_target(false).with_max_level(tracing::Level::DEBUG);
        subscriber.with_writer(std::io::stderr).without_time().init();
    }
    let code = match cli.command {
        Command::Start(start) => start::start(&cli.global, *start)?,
        Command::Run(run) => run::run(&cli.global, &run)?,
        Command::With(with) => with::with(cli.global, *with)?,
        Command::Check(check) => check::check(&cli.global, check)?,
        Command::Ps(ps) if ps.all => ps_all::ps_all(ps.output)?,
        Command::Ps(ps) => ps::ps(&cli.global, &ps)?,
        Command::Stop(stop) => client_commands::stop(&cli.global, &stop)?,
        Command::Restart(restart) => client_commands::restart(&cli.global, &restart)?,
        Command::Scale(scale) => client_commands::scale(&cli.global, &scale)?,
        Command::Reload(reload) => client_commands::reload(&cli.global, &reload)?,
        Command::Signal(signal) => client_commands::signal(&cli.global, &signal)?,
        Command::Attach(attach) => attach::attach(&cli.global, &attach)?,
        Command::Send(send) => send::send(&cli.global, &send)?,
        Command::Logs(logs) => logs::logs(&cli.global, &logs)?,
        Command::Wait(wait) => wait::wait(&cli.global, &wait)?,
        Command::Ui(detach) => ui::ui(&cli.global, &detach.keys)?,
        Command::Quit => client_commands::quit(&cli.global)?,
        Command::Unknown(words) => bail!(unknown_command(&cli.global, &words)),
        Command::Version(output) => {
            let version = env!("CARGO_PKG_VERSION");
            let text = if output.json {
                json::to_text(serde_json::json!({ "version": version }))
            } else {
                format!("ganger {version}\n")
            };
            std::io::stdout().write_all(text.as_bytes())?;
            0
        }
    };
    Ok(ExitCode::from(code))
}

/// Commands of other runners and tools, and the ganger command that does the same.
const FOREIGN_COMMANDS: [(&str, &str); 16] = [
    ("kill", "signal KILL"),
    ("k", "signal KILL"),
    ("up", "start"),
    ("down", "quit"),
    ("q", "quit"),
    ("stop-all", "quit"),
    ("tail", "logs -f"),
    ("log", "logs"),
    ("echo", "logs -f"),
    ("list", "ps"),
    ("ls", "ps"),
    ("r", "restart"),
    ("interrupt", "stop"),
    ("i", "stop"),
    ("e", "run"),
    ("console", "run"),
];

/// The error for an unknown command, with the command that was probably meant.
fn unknown_command(global: &Global, words: &[OsString]) -> String {
    let word = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    let locations = file_locations(global);
    // Standard input may not end.
    let is_file = locations.procfile.as_ref().is_none_or(|path| path.as_os_str() != "-");
    let sources = is_file.then(|| Sources::read(&locations, Vec::new()).ok()).flatten();
    let types = sources.and_then(|sources| Plan::parse_types(&sources).ok()).unwrap_or_default();
    let no_command = format!("there is no command `{}`", word.escape_debug());
    if types.contains(&word.clone().into_owned()) {
        let command = if word == RELEASE { "run" } else { "start" };
        return format!("{no_command}; to start it: `ganger {command} {word}`");
    }
    if let Some((_, ours)) = FOREIGN_COMMANDS.iter().find(|(theirs, _)| *theirs == word) {
        return format!("{no_command}; use `ganger {ours}`");
    }
    let command = Cli::command();
    let known =
        command.get_subcommands().filter(|it| !it.is_hide_set()).map(clap::Command::get_name);
    match nearest(&word, known) {
        Some(known) => format!("{no_command}{}", did_you_mean(Some(known))),
        None => format!("{no_command}: see `ganger help`"),
    }
}

/// The working directory: the path in PWD if it is that folder, else its real path; empty if it
/// has no path.
fn working_dir() -> PathBuf {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let here = identity(Path::new("."));
    let is_here = |path: &PathBuf| path.is_absolute() && here.is_some() && identity(path) == here;
    let known = std::env::var_os("PWD").map(PathBuf::from).filter(is_here);
    known.or_else(|| std::env::current_dir().ok().filter(is_here)).unwrap_or_default()
}

/// Prints an error on one line, without control characters.
pub fn print_error(error: &impl std::fmt::Display) {
    eprintln!("ganger: {}", escape_controls(&format!("{error:#}")));
}

/// Adds a hint to an error that was caused by the limit of open files.
#[must_use]
pub fn with_hint(error: anyhow::Error) -> anyhow::Error {
    let is_limit = |errno| matches!(Errno::from_raw(errno), Errno::EMFILE | Errno::ENFILE);
    let hit_limit = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error)
            .is_some_and(is_limit)
            || cause.downcast_ref::<Errno>().is_some_and(|errno| is_limit(*errno as i32))
    });
    if hit_limit { anyhow::anyhow!("{error:#} (raise the limit with `ulimit -n`)") } else { error }
}

/// The locations of all files, by the flags.
fn file_locations(global: &Global) -> FileLocations {
    FileLocations {
        base: working_dir(),
        procfile: global.procfile.clone(),
        root: global.root.clone(),
        env: global.env.clone(),
        config: global.config.clone(),
    }
}

/// What tells the ganger of these flags from others with this root.
fn identity(global: &Global, locations: &FileLocations, root: &Path) -> Identity {
    Identity { procfile: locations.procfile_from(root), name: global.name.clone() }
}

/// Reads all files; the Procfile may be missing.
fn read_for_run(global: &Global) -> anyhow::Result<Sources> {
    Ok(Sources::read_for_run(&file_locations(global), std::env::vars_os().collect())?)
}

/// Reads all files.
fn read(locations: &FileLocations) -> anyhow::Result<Sources> {
    Ok(Sources::read(locations, std::env::vars_os().collect())?)
}

impl PlanArgs {
    /// These flags as options of the plan.
    fn options(self) -> anyhow::Result<Options> {
        // A flag wins over a variable, and the variable of the names is GANGER_PROCESSES.
        let from_variable = std::env::var_os("GANGER_PROCESSES").is_some();
        if !self.only.is_empty() && !self.processes.is_empty() && !from_variable {
            bail!("process types are named twice: by `--processes`, and without");
        }
        let named = if self.only.is_empty() { self.processes } else { self.only };
        Ok(Options {
            formation_is_flag: self.formation.is_some()
                && std::env::var_os("GANGER_FORMATION").is_none(),
            flag_variables: cli::variables(),
            formation: self.formation,
            chosen: named.into_iter().flat_map(|formation| formation.0).collect(),
            ignored: self.ignored_processes,
            ..self.ports.options(self.common.options()?)
        })
    }
}

impl PlanArgs {
    /// The process types that are named, if not all are meant.
    fn names(&self) -> Vec<String> {
        let named = self.only.iter().chain(&self.processes).flat_map(|formation| &formation.0);
        named.map(|term| term.name.clone()).collect()
    }
}

impl PortArgs {
    /// These options, with the port flags.
    fn options(self, options: Options) -> Options {
        let Self { port, port_step, no_port, no_fixed_ports } = self;
        Options { port, port_step, no_port, no_fixed_ports, ..options }
    }
}

impl CommonArgs {
    /// These flags as options of the plan.
    fn options(&self) -> anyhow::Result<Options> {
        Ok(Options {
            shell: self.shell.as_deref().map(find_shell).transpose()?,
            env_override: self.env_override,
            compat_env: self.compat_env,
            ..Options::default()
        })
    }
}

fn find_shell(shell: &Path) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = if shell.components().count() > 1 {
        Some(shell.to_path_buf())
    } else {
        std::env::split_paths(&path).map(|folder| folder.join(shell)).find(|path| path.is_file())
    };
    match found {
        Some(found) if found.is_file() => std::path::absolute(&found)
            .with_context(|| format!("failed to find `{}`", found.display())),
        Some(_) | None => bail!("there is no shell `{}`", shell.display()),
    }
}

/// Whether to use colours, by the flag, `NO_COLOR` (no-color.org) and `CLICOLOR_FORCE`
/// (bixense.com/clicolors).
fn use_color(when: When, on: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let forced = std::env::var_os("CLICOLOR_FORCE");
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto if set("NO_COLOR") => false,
        When::Auto if forced.is_some_and(|value| !value.is_empty() && value != "0") => true,
        When::Auto => {
            let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
            on.is_terminal() && !dumb
        }
    }
}

/// The names of all process types, as foreman's `check` prints them.
fn names(plan: &Plan) -> String {
    let names: Vec<&str> = plan.process_types.iter().map(|it| it.name.as_str()).collect();
    names.join(", ")
}
