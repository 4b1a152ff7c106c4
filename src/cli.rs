//! Every verb and flag, as clap types. Nothing is resolved here.

use std::ffi::OsString;
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use nix::sys::signal::Signal;

use crate::notice::escape_controls;
use crate::plan::config::{parse_duration, parse_port, parse_signal, parse_size};
use crate::plan::formation::Formation;
use crate::plan::scale::Change;

/// The headings under which `--help` groups the options.
const RUNS: &str = "What runs";
const PORTS: &str = "Ports";
const STOPPING: &str = "Restarting and stopping";
const OUTPUT: &str = "Output";
const ENVIRONMENT: &str = "Environment";
const FILES: &str = "Files";
const GENERAL: &str = "General";

/// The width of `--help` where the terminal's is not known.
const DEFAULT_WIDTH: usize = 80;

/// Runs the processes of a Procfile, merges their output into one stream, and stops
/// them all cleanly.
///
/// The formation is how many instances of each process type run, as in
/// `web=2,worker=4`.
#[derive(Debug, Parser)]
#[command(
    name = "ganger",
    version,
    disable_version_flag = true,
    propagate_version = true,
    subcommand_required = true
)]
#[command(arg_required_else_help = true, infer_long_args = false, max_term_width = 100)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version, global = true)]
    version: Option<bool>,
}

impl Cli {
    /// Parses the command line. Exits if it asks for help or is invalid.
    #[must_use]
    pub fn read() -> Self {
        let args: Vec<OsString> = std::env::args_os().collect();
        let mut cli = Self::parse_args(args.clone()).unwrap_or_else(|error| {
            // The same error as it may be shown: a shell makes arguments of the names of files.
            let shown = |arg: OsString| escape_controls(&arg.to_string_lossy()).into_owned().into();
            let args = args.into_iter().map(shown).collect();
            Self::parse_args(args).err().unwrap_or(error).exit()
        });
        if cli.global.no_color {
            cli.global.color = When::Never;
        }
        cli
    }

    fn parse_args(args: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let is_terminal = stdout().is_terminal() || stderr().is_terminal() || stdin().is_terminal();
        if !is_terminal && std::env::var_os("COLUMNS").is_none() {
            command = command.term_width(DEFAULT_WIDTH);
        }
        let mut matches = command.try_get_matches_from_mut(args)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// The variables behind the flags of `start`, each with its flag.
#[must_use]
pub fn variables() -> Vec<(String, String)> {
    let command = Cli::command();
    let start = command.find_subcommand("start").into_iter().flat_map(clap::Command::get_arguments);
    let pair = |arg: &clap::Arg| {
        let flag = arg.get_long().map_or_else(|| "the names".to_owned(), |it| format!("--{it}"));
        Some((arg.get_env()?.to_str()?.to_owned(), flag))
    };
    command.get_arguments().chain(start).filter_map(pair).collect()
}

/// Flags that stand before or after any verb.
#[derive(Args, Debug)]
pub struct Global {
    /// The Procfile; `-` is standard input
    #[arg(help_heading = FILES, short = 'f', long, value_name = "FILE", env = "GANGER_PROCFILE", global = true)]
    pub procfile: Option<PathBuf>,
    /// The folder that processes run in [default: that of the Procfile]
    #[arg(help_heading = FILES, short = 'd', long, value_name = "DIR", env = "GANGER_ROOT", global = true)]
    pub root: Option<PathBuf>,
    /// Files of variables, the later over the earlier [default: .env]
    #[arg(help_heading = FILES, short = 'e', long, value_name = "FILES", env = "GANGER_ENV", global = true)]
    #[arg(value_delimiter = ',')]
    pub env: Vec<PathBuf>,
    /// The configuration [default: ganger.toml in the root]
    #[arg(help_heading = FILES, long, value_name = "FILE", env = "GANGER_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Where ganger listens for `ps`, `scale` and the like [default: by the folder]
    #[arg(help_heading = GENERAL, short = 's', long, value_name = "PATH", env = "GANGER_SOCKET", global = true)]
    pub socket: Option<PathBuf>,
    /// When to use colours
    #[arg(help_heading = GENERAL, long, value_name = "WHEN", env = "GANGER_COLOR", global = true)]
    #[arg(value_enum, default_value = "auto", visible_alias = "colour")]
    pub color: When,
    /// The same as `--color never`
    #[arg(help_heading = GENERAL, long, global = true, overrides_with = "color", visible_alias = "no-colour")]
    pub no_color: bool,
    /// Say on standard error what ganger decides and does
    #[arg(long, env = "GANGER_VERBOSE", global = true, value_parser = BoolishValueParser::new())]
    pub verbose: bool,
}

/// When to do something that depends on where the output goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum When {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the processes in the foreground
    #[command(visible_alias = "s")]
    Start(Start),
    /// Run one command, or one entry of the Procfile, in the app's environment
    #[command(visible_alias = "exec")]
    Run(Run),
    /// Check Procfile, `.env` files, configuration, formation and ports
    Check(Check),
    /// Show what runs here
    #[command(visible_alias = "status")]
    Ps(Ps),
    /// Stop processes, and keep them down
    Stop(Stop),
    /// Restart processes, or start those that are down
    Restart(Restart),
    /// Change how many run: `web=2 worker+1 clock-1 all=0`
    Scale(Scale),
    /// Read all files again, and start, stop or restart what that changes
    Reload(Reload),
    /// Send a signal to processes
    Signal(Signalled),
    /// Show what processes said, and with `-f` what they say
    Logs(Logs),
    /// Wait for processes
    Wait(Wait),
    /// Stop everything, and wait for it
    Quit,
    /// Print the version
    Version,
    /// A word that is no command.
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// What decides which processes there are, and what they get.
#[derive(Args, Debug)]
pub struct Formed {
    /// Process types to run, with a number if you like: `web=2 worker` [default: all]
    #[arg(help_heading = RUNS, value_name = "PROCESS", env = "GANGER_PROCESSES", value_delimiter = ',')]
    pub processes: Vec<Formation>,
    /// How many of each type, as in `web=2,worker=4`; those left out run once (`all=0` changes that)
    #[arg(help_heading = RUNS, short = 'm', long, visible_alias = "concurrency", env = "GANGER_FORMATION")]
    pub formation: Option<Formation>,
    /// Which ports.
    #[command(flatten)]
    pub ports: PortArgs,
    /// The same as naming process types, by a flag
    #[arg(help_heading = RUNS, short = 'l', long = "processes", value_name = "NAMES", value_delimiter = ',')]
    #[arg(id = "only")]
    pub only: Vec<Formation>,
    /// Process types that don't run
    #[arg(help_heading = RUNS, short = 'x', long, value_name = "NAMES", value_delimiter = ',')]
    #[arg(env = "GANGER_IGNORED_PROCESSES")]
    pub ignored_processes: Vec<String>,
    /// What every command gets.
    #[command(flatten)]
    pub given: Given,
    /// Why `-c` is nothing
    #[arg(short = 'c', hide = true, num_args = 0..=1, value_parser = no_c)]
    c: Option<String>,
}

/// What decides on ports.
#[derive(Args, Clone, Copy, Debug)]
pub struct PortArgs {
    /// The base of all ports, or `auto` for one where they are free [default: PORT, else 5000]
    #[arg(help_heading = PORTS, short = 'p', long, env = "GANGER_PORT", value_parser = Base::parse)]
    pub port: Option<Base>,
    /// The distance between the ports of two process types [default: 100]
    #[arg(help_heading = PORTS, short = 'P', long, value_name = "STEP", env = "GANGER_PORT_STEP", value_parser = parse_port)]
    pub port_step: Option<u16>,
    /// Give out no ports
    #[arg(short = 'N', long, env = "GANGER_NO_PORT", value_parser = BoolishValueParser::new())]
    pub no_port: bool,
}

/// Where ports begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Base {
    /// Where they would without a flag, if they are free there, or else above.
    Auto,
    /// Here.
    At(u16),
}

impl Base {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self::Auto) } else { parse_port(text).map(Self::At) }
    }

    /// The port that was named, if one was.
    #[must_use]
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Auto => None,
            Self::At(port) => Some(port),
        }
    }
}

/// What every command gets, whether it is kept running or not.
#[derive(Args, Debug)]
pub struct Given {
    /// Let the files win over the real environment
    #[arg(help_heading = ENVIRONMENT, long, env = "GANGER_ENV_OVERRIDE", value_parser = BoolishValueParser::new())]
    pub env_override: bool,
    /// Also set the names that other runners set: `FOREMAN_WORKER_NAME`, `HONCHO_PROCESS_NAME`, `DYNO`
    #[arg(help_heading = ENVIRONMENT, long, env = "GANGER_COMPAT_ENV", value_parser = BoolishValueParser::new())]
    pub compat_env: bool,
    /// The shell that commands are given to [default: /bin/sh]
    #[arg(short = 'H', long, env = "GANGER_SHELL")]
    pub shell: Option<PathBuf>,
}

/// `ganger start`
#[derive(Args, Debug)]
pub struct Start {
    /// Which processes.
    #[command(flatten)]
    pub formed: Formed,
    /// How long a process may take to stop before it is killed [default: 5s]
    #[arg(help_heading = STOPPING, short = 't', long, value_name = "TIME", env = "GANGER_TIMEOUT", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Process types that are started again when they exit, or `all`
    #[arg(
        help_heading = STOPPING, short = 'r',
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        env = "GANGER_AUTO_RESTART"
    )]
    pub auto_restart: Vec<String>,
    /// Process types that may exit without stopping the others
    #[arg(help_heading = STOPPING, long, value_name = "NAMES", value_delimiter = ',', env = "GANGER_CAN_DIE")]
    pub can_die: Vec<String>,
    /// Any process may exit without stopping the others
    #[arg(help_heading = STOPPING, long, env = "GANGER_ANY_CAN_DIE", value_parser = BoolishValueParser::new())]
    pub any_can_die: bool,
    /// What asks a process type to stop, as in `web=INT,worker=QUIT` [default: TERM]
    #[arg(help_heading = STOPPING, short = 'i', long, value_name = "SIGNALS", value_delimiter = ',')]
    #[arg(env = "GANGER_STOP_SIGNALS", value_parser = stop_signal)]
    pub stop_signals: Vec<(String, Signal)>,
    /// Begin every line with the time
    #[arg(help_heading = OUTPUT, short = 'T', long, env = "GANGER_TIMESTAMP", value_parser = BoolishValueParser::new())]
    #[arg(alias = "show-timestamps")]
    pub timestamp: bool,
    /// Begin no line with the time, as is the default
    #[arg(help_heading = OUTPUT, long)]
    pub no_timestamp: bool,
    /// Don't begin lines with the name of their process
    #[arg(help_heading = OUTPUT, long, env = "GANGER_NO_PREFIX", value_parser = BoolishValueParser::new())]
    pub no_prefix: bool,
    /// Process types for which ganger itself listens on PORT: all instances share the
    /// socket, and get it as from systemd (`LISTEN_FDS`)
    #[arg(help_heading = PORTS, long, value_name = "NAMES", value_delimiter = ',', env = "GANGER_LISTEN")]
    pub listen: Vec<String>,
    /// Process types whose output isn't shown
    #[arg(help_heading = OUTPUT, short = 'q', long, value_name = "NAMES", value_delimiter = ',', env = "GANGER_QUIET")]
    pub quiet: Vec<String>,
    /// Colours for the process types, as xterm numbers: `2,3,4`
    #[arg(help_heading = OUTPUT, short = 'b', long, value_name = "COLORS", value_delimiter = ',', env = "GANGER_COLORS")]
    #[arg(value_parser = color_number)]
    pub colors: Vec<u8>,
    /// Keep all processes in a namespace that nothing leaves and nothing outlives (Linux)
    #[arg(help_heading = RUNS, long, env = "GANGER_ISOLATE", value_parser = BoolishValueParser::new())]
    pub isolate: bool,
    /// Go on in the background, and return when all processes are up; see `logs`, `quit`
    #[arg(help_heading = RUNS, short = 'D', long, env = "GANGER_DAEMONIZE", value_parser = BoolishValueParser::new())]
    pub daemonize: bool,
    /// How much of what each process said is kept in memory for `ganger logs`, as in `1M`
    /// [default: 256K]
    #[arg(help_heading = OUTPUT, long, value_name = "SIZE", env = "GANGER_RECENT", value_parser = parse_size)]
    pub recent: Option<usize>,
    /// What to call the terminal's window
    #[arg(short = 'w', long, env = "GANGER_TITLE")]
    pub title: Option<String>,
}

/// `ganger run`
#[derive(Args, Debug)]
pub struct Run {
    /// What the command gets.
    #[command(flatten)]
    pub given: Given,
    /// The PORT of an entry, which is that of its process type.
    #[command(flatten)]
    pub ports: PortArgs,
    /// The command and its arguments, or the name of a process type; flags stand before it
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

/// `ganger check`
#[derive(Args, Debug)]
pub struct Check {
    /// Which processes.
    #[command(flatten)]
    pub formed: Formed,
    /// Show every process with its command and port, and where its variables come from
    #[arg(long)]
    pub explain: bool,
}

/// `ganger ps`
#[derive(Args, Debug)]
pub struct Ps {
    /// Which: `web.1`, `web` for all of `web.*`, or a pattern [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// How the answer is shown.
    #[command(flatten)]
    pub shown: Shown,
}

/// Which processes.
#[derive(Args, Debug)]
pub struct Named {
    /// Which: `web.1`, `web` for all of `web.*`, or a pattern
    #[arg(value_name = "PROCESS", required = true)]
    pub names: Vec<String>,
    /// How the answer is shown.
    #[command(flatten)]
    pub shown: Shown,
}

/// How an answer is shown.
#[derive(Args, Clone, Copy, Debug)]
pub struct Shown {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `ganger stop`
#[derive(Args, Debug)]
pub struct Stop {
    /// Which: `web.1`, `web` for all of `web.*`, a pattern, or `all` [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// How the answer is shown.
    #[command(flatten)]
    pub shown: Shown,
}

/// `ganger restart`
#[derive(Args, Debug)]
pub struct Restart {
    /// Which: `web.1`, `web` for all of `web.*`, a pattern, or `all` [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// How the answer is shown.
    #[command(flatten)]
    pub shown: Shown,
    /// One at a time, the next when the last is ready
    #[arg(long)]
    pub rolling: bool,
    /// Return when all are ready, or fail after this time
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1m", value_parser = parse_duration)]
    pub wait: Option<Duration>,
}

/// `ganger scale`
#[derive(Args, Debug)]
pub struct Scale {
    /// `web=2`, `worker+1`, `clock-1`, `all=0`
    #[arg(value_name = "CHANGE", required = true, value_delimiter = ',')]
    pub changes: Vec<Change>,
    /// How the answer is shown.
    #[command(flatten)]
    pub shown: Shown,
}

/// `ganger reload`
#[derive(Args, Debug)]
pub struct Reload {
    /// Restart one at a time, the next when the last is ready
    #[arg(long)]
    pub rolling: bool,
    /// Return when all that were started or restarted are ready, or fail after this time
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1m", value_parser = parse_duration)]
    pub wait: Option<Duration>,
    /// How the answer is shown.
    #[command(flatten)]
    pub shown: Shown,
}

/// `ganger signal`
#[derive(Args, Debug)]
pub struct Signalled {
    /// The signal: `USR1`, `SIGUSR1` or a number
    #[arg(value_name = "SIGNAL", value_parser = parse_signal)]
    pub signal: Signal,
    /// Which.
    #[command(flatten)]
    pub named: Named,
}

/// `ganger logs`
#[derive(Args, Debug)]
pub struct Logs {
    /// Which: `web.1`, `web` for all of `web.*`, or a pattern [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// How many lines at most [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N", value_parser = line_count)]
    pub lines: Option<usize>,
    /// None that is older than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// Follow the output; `-f` is not the Procfile here
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// The Procfile; `-` is standard input
    // The same id shadows the global flag, whose short name is that of `--follow`.
    #[arg(help_heading = FILES, long = "procfile", id = "procfile", value_name = "FILE")]
    #[arg(env = "GANGER_PROCFILE")]
    procfile: Option<PathBuf>,
    /// Begin every line with the time
    #[arg(short = 'T', long)]
    pub timestamp: bool,
    /// Don't begin lines with the name of their process
    #[arg(long)]
    pub no_prefix: bool,
}

/// `ganger wait`
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("until").required(true)))]
pub struct Wait {
    /// Which.
    #[command(flatten)]
    pub named: Named,
    /// Until they are ready
    #[arg(long, group = "until")]
    pub ready: bool,
    /// Until they have exited
    #[arg(long, group = "until")]
    pub exit: bool,
    /// Fail after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

fn color_number(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("`{text}` is not a colour number (0 to 255)"))
}

fn line_count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number of lines"))
}

fn stop_signal(text: &str) -> Result<(String, Signal), String> {
    let (name, signal) = text.split_once('=').ok_or("expected `web=INT`")?;
    Ok((name.to_owned(), parse_signal(signal)?))
}

/// One letter, three meanings: whoever types it is told, rather than surprised.
fn no_c(_: &str) -> Result<String, String> {
    Err("`-c` is a colour in foreman, `can die` in overmind and a concurrency in honcho: \
         say `--color`, `--can-die` or `--concurrency`"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn after_logs_f_follows() {
        let read = |line: &str| Cli::parse_from(line.split(' '));
        for line in ["ganger logs -f", "ganger -f my logs -f web", "ganger -f logs logs web -f"] {
            let Verb::Logs(logs) = read(line).verb else { panic!("{line}") };
            assert!(logs.follow, "{line}");
        }
        for line in
            ["ganger logs --procfile x -f", "ganger -f x logs -f", "ganger -f y logs --procfile x"]
        {
            assert_eq!(read(line).global.procfile, Some("x".into()), "{line}");
        }
        let cli = read("ganger -f logs start -f x");
        assert_eq!(cli.global.procfile, Some("x".into()));
    }

    #[test]
    fn flags_of_run_stand_before_the_command() {
        let read = |line: &str| {
            let cli = Cli::parse_from(line.split(' '));
            let Verb::Run(run) = cli.verb else { panic!("{line}") };
            (cli.global, run)
        };
        let (global, run) = read("ganger run -p 3000 --compat-env -f dev -d app web -p x -f y");
        assert_eq!(run.ports.port, Some(Base::At(3000)));
        assert!(run.given.compat_env && global.procfile == Some("dev".into()));
        assert_eq!(run.command, ["web", "-p", "x", "-f", "y"]);
    }

    #[test]
    fn colour_is_turned_off_as_in_foreman_and_honcho() {
        for line in ["ganger start --no-color", "ganger --no-colour start", "ganger ps --no-color"]
        {
            assert!(Cli::parse_from(line.split(' ')).global.no_color, "{line}");
        }
        let last = Cli::parse_from("ganger start --color always --no-color".split(' '));
        assert!(last.global.no_color);
    }

    #[test]
    fn every_flag_has_a_variable() {
        let command = Cli::command();
        let start = command.find_subcommand("start").unwrap();
        let without: Vec<&str> = start
            .get_arguments()
            .filter(|arg| arg.get_env().is_none() && !arg.is_hide_set())
            .filter_map(clap::Arg::get_long)
            .collect();
        // What `--processes` names can be said by GANGER_PROCESSES, and what
        // `--no-timestamp` says is the default.
        assert_eq!(without, ["processes", "no-timestamp"]);
    }
}
