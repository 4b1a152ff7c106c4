//! Every command and flag, as clap types. Nothing is resolved here.

use std::ffi::OsString;
use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use nix::sys::signal::Signal;
use regex::Regex;

use crate::keys::detach::DetachKeys;
use crate::keys::input::Input;
use crate::notice::escape_controls;
use crate::plan::config::{parse_duration, parse_signal, parse_size};
use crate::plan::formation::Formation;
use crate::plan::identity::parse_name;
use crate::plan::port::{Base, parse_port};
use crate::plan::scale::Change;

/// The page of `ganger help scripting`.
const SCRIPTING: &str = include_str!("../docs/scripting.md");

/// The headings under which `--help` groups the options.
const RUNS: &str = "What runs";
const PORTS: &str = "Ports";
const STOPPING: &str = "Restarting and stopping";
const OUTPUT: &str = "Output";
const ENVIRONMENT: &str = "Environment";
const FILES: &str = "Files";
const GENERAL: &str = "General";

/// What `--help` says of the effects of a command.
const READS: &str = "It only reads: it changes nothing, neither in files nor in a running app.";
const CHANGES: &str = "It changes the running app.";
const STARTS: &str = "It starts processes, and changes no file.";

/// The width of `--help` if the terminal's width is unknown.
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
#[command(after_help = "`ganger help scripting` is a page for scripts, CI and coding assistants.")]
#[command(arg_required_else_help = true, infer_long_args = false, max_term_width = 100)]
pub struct Cli {
    /// The flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version, global = true)]
    version: Option<bool>,
}

impl Cli {
    /// Parses the command line. Exits if it asks for help or is invalid.
    #[must_use]
    pub fn read() -> Self {
        let args: Vec<OsString> = std::env::args_os().collect();
        if args.get(1..).is_some_and(|words| words == ["help", "scripting"]) {
            // A closed pipe, as of `| head`, is no failure.
            let _ = stdout().write_all(SCRIPTING.as_bytes());
            std::process::exit(0);
        }
        let mut cli = Self::parse_args(args.clone()).unwrap_or_else(|error| {
            // Arguments may be file names with control characters, from a glob: the error is printed without.
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

/// Flags before or after any command.
#[derive(Args, Debug)]
pub struct Global {
    /// The Procfile; `-` reads standard input
    #[arg(help_heading = FILES, short = 'f', long, value_name = "FILE", env = "GANGER_PROCFILE", global = true)]
    pub procfile: Option<PathBuf>,
    /// The folder in which processes run [default: that of the Procfile]
    #[arg(help_heading = FILES, short = 'd', long, value_name = "DIR", env = "GANGER_ROOT", global = true)]
    pub root: Option<PathBuf>,
    /// Files with environment variables; later files win [default: .env]
    #[arg(help_heading = FILES, short = 'e', long, value_name = "FILES", env = "GANGER_ENV", global = true)]
    #[arg(value_delimiter = ',')]
    pub env: Vec<PathBuf>,
    /// The configuration file [default: ganger.toml in the root]
    #[arg(help_heading = FILES, long, value_name = "FILE", env = "GANGER_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// The control socket, for `ps`, `scale` and so on [default: by the root folder]
    #[arg(help_heading = GENERAL, short = 's', long, value_name = "PATH", env = "GANGER_SOCKET", global = true)]
    pub socket: Option<PathBuf>,
    /// The name of this ganger, to run several of one Procfile; the other commands choose by it
    #[arg(help_heading = GENERAL, long, value_name = "NAME", env = "GANGER_NAME", global = true)]
    #[arg(value_parser = parse_name)]
    pub name: Option<String>,
    /// When to use colours
    #[arg(help_heading = GENERAL, long, value_name = "WHEN", env = "GANGER_COLOR", global = true)]
    #[arg(value_enum, default_value = "auto", visible_alias = "colour")]
    pub color: When,
    /// The same as `--color never`
    #[arg(help_heading = GENERAL, long, global = true, overrides_with = "color", visible_alias = "no-colour")]
    pub no_color: bool,
    /// Print on standard error what ganger decides and does
    #[arg(long, env = "GANGER_VERBOSE", global = true, value_parser = BoolishValueParser::new())]
    pub verbose: bool,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum When {
    /// If the output is a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the processes of the Procfile
    #[command(visible_alias = "s")]
    #[command(after_help = STARTS)]
    Start(Box<Start>),
    /// Run one command, or one Procfile entry, in the app's environment
    #[command(visible_alias = "exec")]
    #[command(after_help = STARTS)]
    Run(Run),
    /// Start the app, run a command once all is ready, and stop everything
    With(Box<With>),
    /// Validate Procfile, `.env` files, ganger.toml, formation and ports
    #[command(after_help = READS)]
    Check(Check),
    /// Show the processes of the running app
    #[command(visible_alias = "status")]
    #[command(after_help = READS)]
    Ps(Ps),
    /// Stop processes; they stay down
    #[command(after_help = CHANGES)]
    Stop(Stop),
    /// Restart processes, and start those that are down
    #[command(after_help = CHANGES)]
    Restart(Restart),
    /// Change the number of instances: `web=2 worker+1 clock-1 all=0`
    #[command(after_help = CHANGES)]
    Scale(Scale),
    /// Re-read all files, and restart only what changed
    #[command(after_help = CHANGES)]
    Reload(Reload),
    /// Send a signal to processes
    #[command(after_help = CHANGES)]
    Signal(SignalArgs),
    /// Type into a process from this terminal, and see its screen
    #[command(visible_alias = "connect")]
    #[command(after_help = CHANGES)]
    Attach(Attach),
    /// Type a text into a process
    #[command(after_help = CHANGES)]
    Send(Send),
    /// Print recent output; `-f` follows it
    #[command(after_help = READS)]
    Logs(Logs),
    /// Wait until processes are ready, have exited, or have printed a line
    #[command(after_help = READS)]
    Wait(Wait),
    /// Show and control the running app on a full screen
    #[command(after_help = CHANGES)]
    Ui(DetachArgs),
    /// Stop everything, and wait until ganger has exited
    #[command(after_help = CHANGES)]
    Quit,
    /// Print the version
    #[command(after_help = READS)]
    Version(OutputArgs),
    /// An unknown command.
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// The flags that decide which processes run, and with which environment.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Process types to run, each with an optional number: `web=2 worker` [default: all]
    #[arg(help_heading = RUNS, value_name = "PROCESS", env = "GANGER_PROCESSES", value_delimiter = ',')]
    pub processes: Vec<Formation>,
    /// The formation, as in `web=2,worker=4`; other types run once (`all=0`: not at all)
    #[arg(help_heading = RUNS, short = 'm', long, visible_alias = "concurrency", env = "GANGER_FORMATION")]
    pub formation: Option<Formation>,
    /// The port flags.
    #[command(flatten)]
    pub ports: PortArgs,
    /// Process types to run, as a flag
    #[arg(help_heading = RUNS, short = 'l', long = "processes", value_name = "NAMES", value_delimiter = ',')]
    #[arg(id = "only")]
    pub only: Vec<Formation>,
    /// Process types that do not run
    #[arg(help_heading = RUNS, short = 'x', long, value_name = "NAMES", value_delimiter = ',')]
    #[arg(env = "GANGER_IGNORED_PROCESSES")]
    pub ignored_processes: Vec<String>,
    /// The flags that `start` and `run` share.
    #[command(flatten)]
    pub common: CommonArgs,
    /// `-c` is an error, which explains why
    #[arg(short = 'c', hide = true, num_args = 0..=1, value_parser = refuse_c)]
    c: Option<String>,
}

/// The flags that decide on ports.
#[derive(Args, Clone, Copy, Debug)]
pub struct PortArgs {
    /// The base port, or `auto` for free ports, the same in each run [default: PORT, else 5000]
    #[arg(help_heading = PORTS, short = 'p', long, env = "GANGER_PORT", value_parser = Base::parse)]
    pub port: Option<Base>,
    /// The distance between the ports of two process types [default: 100]
    #[arg(help_heading = PORTS, short = 'P', long, value_name = "STEP", env = "GANGER_PORT_STEP", value_parser = parse_port)]
    pub port_step: Option<u16>,
    /// Set no PORT
    #[arg(short = 'N', long, env = "GANGER_NO_PORT", value_parser = BoolishValueParser::new())]
    pub no_port: bool,
    /// Whether fixed ports do not count, which `with --fresh` sets.
    #[arg(skip)]
    pub no_fixed_ports: bool,
}

/// The flags that `start` and `run` share.
#[derive(Args, Debug)]
pub struct CommonArgs {
    /// Files win over the real environment
    #[arg(help_heading = ENVIRONMENT, long, env = "GANGER_ENV_OVERRIDE", value_parser = BoolishValueParser::new())]
    pub env_override: bool,
    /// Also set the variables of other runners: `FOREMAN_WORKER_NAME`, `HONCHO_PROCESS_NAME`, `DYNO`
    #[arg(help_heading = ENVIRONMENT, long, env = "GANGER_COMPAT_ENV", value_parser = BoolishValueParser::new())]
    pub compat_env: bool,
    /// The shell that runs the commands [default: /bin/sh]
    #[arg(short = 'H', long, env = "GANGER_SHELL")]
    pub shell: Option<PathBuf>,
}

/// `ganger start`
#[derive(Args, Debug)]
pub struct Start {
    /// The processes.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// The grace period before SIGKILL when a process is stopped [default: 5s]
    #[arg(help_heading = STOPPING, short = 't', long, value_name = "TIME", env = "GANGER_TIMEOUT", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Process types that are restarted when they exit, or `all`
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
    /// The stop signals, as in `web=INT,worker=QUIT` [default: TERM]
    #[arg(help_heading = STOPPING, short = 'i', long, value_name = "SIGNALS", value_delimiter = ',')]
    #[arg(env = "GANGER_STOP_SIGNALS", value_parser = stop_signal)]
    pub stop_signals: Vec<(String, Signal)>,
    /// Whether each process runs on a terminal of its own, so that it writes colours and flushes
    /// every line; otherwise its output is a pipe (`auto`: if ganger's output is a terminal)
    #[arg(help_heading = OUTPUT, long, value_name = "WHEN", env = "GANGER_PTY")]
    #[arg(value_enum, default_value = "auto", hide_possible_values = true)]
    pub pty: When,
    /// Print the time before each line
    #[arg(help_heading = OUTPUT, short = 'T', long, env = "GANGER_TIMESTAMP", value_parser = BoolishValueParser::new())]
    #[arg(alias = "show-timestamps")]
    pub timestamp: bool,
    /// Print no time before lines, which is the default
    #[arg(help_heading = OUTPUT, long)]
    pub no_timestamp: bool,
    /// Print lines without the name of their process
    #[arg(help_heading = OUTPUT, long, env = "GANGER_NO_PREFIX", value_parser = BoolishValueParser::new())]
    pub no_prefix: bool,
    /// What happens to long lines.
    #[command(flatten)]
    pub long: LongLineArgs,
    /// Process types for which ganger listens on PORT: all instances share the socket, and
    /// inherit it as from systemd (`LISTEN_FDS`)
    #[arg(help_heading = PORTS, long, value_name = "NAMES", value_delimiter = ',', env = "GANGER_LISTEN")]
    pub listen: Vec<String>,
    /// Process types whose output is not printed, or `all`
    #[arg(help_heading = OUTPUT, short = 'q', long, value_name = "NAMES", value_delimiter = ',', env = "GANGER_QUIET")]
    pub quiet: Vec<String>,
    /// Colours for the process types, as xterm numbers: `2,3,4`
    #[arg(help_heading = OUTPUT, short = 'b', long, value_name = "COLORS", value_delimiter = ',', env = "GANGER_COLORS")]
    #[arg(value_parser = color_number)]
    pub colors: Vec<u8>,
    /// Run all processes in a PID namespace, which no descendant can leave or outlive (Linux)
    #[arg(help_heading = RUNS, long, env = "GANGER_ISOLATE", value_parser = BoolishValueParser::new())]
    pub isolate: bool,
    /// Run in the background; return when all processes are ready (then use `logs`, `quit`)
    #[arg(help_heading = RUNS, short = 'D', long, env = "GANGER_DAEMONIZE", value_parser = BoolishValueParser::new())]
    pub daemonize: bool,
    /// With `-D`: once it is up, print what `ps --json` prints; the rest goes to standard error
    #[arg(help_heading = OUTPUT, long, requires = "daemonize")]
    pub json: bool,
    /// Show the app on a full screen, as `ganger ui` does; leaving it stops everything
    #[arg(help_heading = OUTPUT, long, env = "GANGER_UI", value_parser = BoolishValueParser::new())]
    #[arg(conflicts_with = "daemonize")]
    pub ui: bool,
    /// Attach this terminal to a process, for a debugger or a prompt; what the others print is
    /// shown when you detach. Leaving it stops everything
    #[arg(help_heading = OUTPUT, long, value_name = "PROCESS", env = "GANGER_FOCUS")]
    #[arg(conflicts_with_all = ["daemonize", "ui"])]
    pub focus: Option<String>,
    /// The keys that detach from the process in focus.
    #[command(flatten)]
    pub detach: DetachArgs,
    /// How much recent output of each process is kept for `ganger logs`, as in `1M`
    /// [default: 256K]
    #[arg(help_heading = OUTPUT, long, value_name = "SIZE", env = "GANGER_RECENT", value_parser = parse_size)]
    pub recent: Option<usize>,
    /// The title of the terminal's window
    #[arg(short = 'w', long, env = "GANGER_TITLE")]
    pub title: Option<String>,
}

/// What happens to lines that are longer than a row of the terminal.
#[derive(Args, Clone, Copy, Debug)]
pub struct LongLineArgs {
    /// On a terminal, continue long lines below their beginning, which is the default
    #[arg(help_heading = OUTPUT, long, overrides_with = "trim")]
    wrap: bool,
    /// On a terminal, cut long lines
    #[arg(help_heading = OUTPUT, long, env = "GANGER_TRIM", value_parser = BoolishValueParser::new())]
    #[arg(overrides_with = "wrap")]
    trim: bool,
}

impl LongLineArgs {
    /// Whether long lines are cut. A flag wins over a variable.
    #[must_use]
    pub fn are_cut(self) -> bool {
        self.trim && !self.wrap
    }
}

/// `ganger with`
#[derive(Args, Debug)]
#[command(mut_arg("timeout", |arg| arg
    .help("How long the app may take to be ready [default: 5m]")
    .env("GANGER_WITH_TIMEOUT")
    .help_heading(RUNS)))]
#[command(mut_arg("daemonize", |arg| arg.hide(true)))]
#[command(mut_arg("ui", |arg| arg.hide(true)))]
#[command(mut_arg("json", |arg| arg.hide(true)))]
#[command(
    after_help = "It exits with the exit code of the command; 125 if the app was not ready in \
    time, or failed while the command ran. If the app runs already, it is used, and goes on.\n\n\
    It starts processes, and changes no file."
)]
pub struct With {
    /// The app.
    #[command(flatten)]
    pub start: Start,
    /// The grace period before SIGKILL when a process is stopped [default: 5s]
    #[arg(help_heading = STOPPING, long, value_name = "TIME", value_parser = parse_duration)]
    pub grace: Option<Duration>,
    /// Start another one if the app runs already, on other ports
    #[arg(help_heading = RUNS, long)]
    pub fresh: bool,
    /// Print the output of the processes, to standard error
    #[arg(help_heading = OUTPUT, long)]
    pub show: bool,
    /// The command and its arguments, or a process type
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `ganger run`
#[derive(Args, Debug)]
pub struct Run {
    /// Its environment.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The PORT of a Procfile entry.
    #[command(flatten)]
    pub ports: PortArgs,
    /// The command and its arguments, or a process type; flags come before it
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
    /// The processes.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Show each process with its command and port, and the source of its variables
    #[arg(long, conflicts_with = "json")]
    pub explain: bool,
    /// The output flags.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `ganger ps`
#[derive(Args, Debug)]
pub struct Ps {
    /// Processes: `web.1`, `web` for all of `web.*`, or a glob [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// List all running gangers of this user instead, whatever their folder
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// The output flags.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The processes.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// Processes: `web.1`, `web` for all of `web.*`, or a glob
    #[arg(value_name = "PROCESS", required = true)]
    pub names: Vec<String>,
    /// The output flags.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The output flags.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// Print the response as JSON
    #[arg(long)]
    pub json: bool,
}

/// `ganger stop`
#[derive(Args, Debug)]
pub struct Stop {
    /// Processes: `web.1`, `web` for all of `web.*`, a glob, or `all` [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// The output flags.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `ganger restart`
#[derive(Args, Debug)]
pub struct Restart {
    /// Processes: `web.1`, `web` for all of `web.*`, a glob, or `all` [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// The output flags.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Restart one process at a time, each when the one before is ready
    #[arg(long)]
    pub rolling: bool,
    /// Return when all are ready; fail after this time
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
    /// The output flags.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `ganger reload`
#[derive(Args, Debug)]
pub struct Reload {
    /// Restart one process at a time, each when the one before is ready
    #[arg(long)]
    pub rolling: bool,
    /// Return when all started and restarted processes are ready; fail after this time
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1m", value_parser = parse_duration)]
    pub wait: Option<Duration>,
    /// The output flags.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `ganger signal`
#[derive(Args, Debug)]
pub struct SignalArgs {
    /// The signal: `USR1`, `SIGUSR1` or a number
    #[arg(value_name = "SIGNAL", value_parser = parse_signal)]
    pub signal: Signal,
    /// The processes.
    #[command(flatten)]
    pub named: NameArgs,
}

/// How the user leaves a process.
#[derive(Args, Clone, Debug)]
pub struct DetachArgs {
    /// The keys that detach from a process, as in `ctrl-p,ctrl-q`
    #[arg(help_heading = OUTPUT, long = "detach-keys", value_name = "KEYS")]
    #[arg(env = "GANGER_DETACH_KEYS", default_value = "ctrl-]")]
    pub keys: DetachKeys,
}

/// `ganger attach`
#[derive(Args, Debug)]
pub struct Attach {
    /// The process: `web.1`, or `web` if there is one
    #[arg(value_name = "PROCESS")]
    pub process: String,
    /// The keys that detach.
    #[command(flatten)]
    pub detach: DetachArgs,
    /// Only watch: your keys go nowhere, and the size of your window has no effect
    #[arg(long)]
    pub watch: bool,
}

/// `ganger send`
#[derive(Args, Debug)]
pub struct Send {
    /// The process: `web.1`, `web` for all of `web.*`, or a glob
    #[arg(value_name = "PROCESS")]
    pub process: String,
    /// What to type, with the escapes `\n`, `\r`, `\t`, `\e`, `\0`, `\\` and `\x03`
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    pub text: Input,
}

/// `ganger logs`
#[derive(Args, Debug)]
pub struct Logs {
    /// Processes: `web.1`, `web` for all of `web.*`, or a glob [default: all]
    #[arg(value_name = "PROCESS")]
    pub names: Vec<String>,
    /// The maximum number of lines [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N", value_parser = line_count)]
    pub lines: Option<usize>,
    /// Only output that is not older than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// Only lines that this regular expression matches
    #[arg(short = 'g', long, value_name = "REGEX", value_parser = parse_regex)]
    pub grep: Option<Regex>,
    /// Only what each process has written since it was last started
    #[arg(long)]
    pub this_run: bool,
    /// Only what is new since this cursor, which ends every answer with `--json`
    #[arg(long, requires = "json")]
    pub cursor: Option<String>,
    /// Print a JSON object for each line, and then the next cursor
    #[arg(long)]
    pub json: bool,
    /// Follow the output (`-f` is not the Procfile here)
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// The Procfile; `-` reads standard input
    // The same id shadows the global flag, which has the same short name as `--follow`.
    #[arg(help_heading = FILES, long = "procfile", id = "procfile", value_name = "FILE")]
    #[arg(env = "GANGER_PROCFILE")]
    procfile: Option<PathBuf>,
    /// Follow until ganger ends, and exit with its exit code
    #[arg(long, requires = "follow")]
    pub exit_code: bool,
    /// Print the time before each line
    #[arg(short = 'T', long)]
    pub timestamp: bool,
    /// Print lines without the name of their process
    #[arg(long)]
    pub no_prefix: bool,
    /// What happens to long lines.
    #[command(flatten)]
    pub long: LongLineArgs,
}

/// `ganger wait`
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("until").required(true)))]
pub struct Wait {
    /// The processes.
    #[command(flatten)]
    pub named: NameArgs,
    /// Wait until they are ready
    #[arg(long, group = "until")]
    pub ready: bool,
    /// Wait until they have exited
    #[arg(long, group = "until")]
    pub exit: bool,
    /// Wait until each has written a line that this regular expression matches, from now on
    #[arg(long, group = "until", value_name = "REGEX", value_parser = parse_regex)]
    pub log: Option<Regex>,
    /// With `--log`: also what they have written since they were last started
    #[arg(long, requires = "log")]
    pub this_run: bool,
    /// Fail after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

fn color_number(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("`{text}` is not a colour number (0 to 255)"))
}

/// Parses a regular expression.
fn parse_regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        format!("it is not a regular expression: {}", reason.trim_start_matches("error: "))
    })
}

fn line_count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number of lines"))
}

fn stop_signal(text: &str) -> Result<(String, Signal), String> {
    let (name, signal) = text.split_once('=').ok_or("expected `web=INT`")?;
    Ok((name.to_owned(), parse_signal(signal)?))
}

/// Refuses `-c`, which has three meanings in three runners.
fn refuse_c(_: &str) -> Result<String, String> {
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
            let Command::Logs(logs) = read(line).command else { panic!("{line}") };
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
            let Command::Run(run) = cli.command else { panic!("{line}") };
            (cli.global, run)
        };
        let (global, run) = read("ganger run -p 3000 --compat-env -f dev -d app web -p x -f y");
        assert_eq!(run.ports.port, Some(Base::At(3000)));
        assert!(run.common.compat_env && global.procfile == Some("dev".into()));
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
        // `--processes` is set by GANGER_PROCESSES, `--no-timestamp` and `--wrap` are the defaults,
        // and a script that reads JSON asks for it.
        assert_eq!(without, ["processes", "no-timestamp", "wrap", "json"]);
    }
}
