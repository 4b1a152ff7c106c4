//! `ganger start`: run the formation in the foreground.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{read, use_color};
use crate::cli::{Global, Start};
use crate::keeper::client::{self, Keeper};
use crate::keeper::leftovers::{self, Trace};
use crate::logs::Logs;
use crate::logs::format::Style;
use crate::notice::Notice;
use crate::plan::{Options, Plan};
use crate::runtime;
use crate::supervise::engine::{Engine, Show};
use crate::supervise::signals::Signals;

/// What ganger itself needs open at once, before the first process.
const DESCRIPTORS: usize = 16;

pub(super) fn start(global: &Global, start: Start) -> anyhow::Result<u8> {
    let options = Options {
        grace: start.timeout,
        auto_restart: start.auto_restart,
        can_die: start.can_die,
        any_can_die: start.any_can_die,
        quiet: start.quiet,
        stop_signals: start.stop_signals,
        ..start.formed.options()?
    };
    let plan = Plan::new(&read(global)?, &options)?;
    let style = Style {
        color: use_color(global.color, &std::io::stdout()),
        timestamp: start.timestamp && !start.no_timestamp,
        prefix: !start.no_prefix,
        width: 0,
    };
    let show = Show {
        style: style.fit(plan.processes.iter().map(|process| process.name.as_str())),
        palette: start.colors,
    };
    let _title = Title::set(start.title.as_deref());
    supervise(plan, show, use_color(global.color, &std::io::stderr()), start.isolate)
}

/// Runs the plan to its end, and returns the exit code that it gives.
fn supervise(plan: Plan, show: Show, colored_notices: bool, isolate: bool) -> anyhow::Result<u8> {
    spare_descriptors()?;
    let folder = runtime::folder().inspect_err(|error| tracing::debug!(%error)).ok();
    let leftovers = folder.as_deref().map(leftovers::sweep).unwrap_or_default();
    let keeper = client::start(isolate).context(if isolate {
        "failed to isolate"
    } else {
        "failed to start the keeper"
    })?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A refusal shows when descriptors run out.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("failed to start the engine")?;
    runtime.block_on(async {
        let pid = keeper.pid();
        let keeper = Keeper::new(keeper).context("failed to talk to the keeper")?;
        let signals = Signals::listen().context("failed to listen for signals")?;
        let logs =
            Logs::start(show.style, colored_notices).context("failed to start the output")?;
        if !leftovers.is_empty() {
            logs.say(Notice::Leftovers { members: leftovers });
        }
        let mut engine = Engine::new(plan, show, keeper, logs, signals);
        engine.begin();
        // Takes time that is the keeper's now.
        let _trace = folder.and_then(|folder| Trace::leave(&folder, pid).ok());
        Ok(engine.run().await)
    })
}

/// Fails where the limit of open files leaves no room to begin with.
fn spare_descriptors() -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    let spare: Result<Vec<_>, _> =
        (0..DESCRIPTORS).map(|_| stdin.as_fd().try_clone_to_owned()).collect();
    match spare {
        Ok(_) => Ok(()),
        Err(error) => Err(error).context(
            "failed to start: the limit of open files is too low (raise it with `ulimit -n`)",
        ),
    }
}

/// The title of the terminal's window, which is put back at the end (xterm's
/// control sequences, "window manipulation").
struct Title;

impl Title {
    fn set(title: Option<&str>) -> Option<Self> {
        let title = title.filter(|_| std::io::stdout().is_terminal())?;
        let printable: String = title.chars().filter(|char| !char.is_control()).collect();
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "\x1b[22;0t\x1b]0;{printable}\x07").and_then(|()| stdout.flush());
        Some(Self)
    }
}

impl Drop for Title {
    fn drop(&mut self) {
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "\x1b[23;0t").and_then(|()| stdout.flush());
    }
}
