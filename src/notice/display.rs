//! The wording of all messages.

use std::fmt;

use super::escape::{escape_controls, escape_controls_in_lines};
use super::{
    Cause, Chain, DiscardReason, FailureReason, Next, Notice, PortConflict, PortsTaken,
    ProbeFailure, ProcessSummary, StateSummary, StoppingProcess, members, time,
};
use crate::changes::Changes;
use crate::exit::Exit;
use crate::keeper::client::KeeperError;
use crate::keeper::protocol::Descendant;
use crate::plan::Advice;

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever a value holds, and wherever it comes from.
        f.write_str(&escape_controls_in_lines(&Words(self).to_string()))
    }
}

/// The text of a message, in which values from outside stand on one line.
struct Words<'a>(&'a Notice);

impl fmt::Display for Words<'_> {
    #[expect(clippy::too_many_lines, reason = "an arm for each message")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Notice::EnvConflict { keys, files_win } => {
                let keys = list(keys.iter());
                if *files_win {
                    write!(f, "{keys}: the `.env` file wins over the environment, as you asked")
                } else {
                    write!(f, "{keys}: the environment wins over the `.env` file")?;
                    f.write_str(" (`--env-override` reverses this)")
                }
            }
            Notice::Advice(advice) => f.write_str(&escape_controls(&advice.to_string())),
            Notice::Unlisted { types } => {
                let verb = if types.len() == 1 { "is" } else { "are" };
                let types = list(types.iter());
                write!(f, "{types} {verb} not in the formation: one each (`all=0` for none)")
            }
            Notice::OtherRunner { file, settings } => {
                write!(f, "`{}` is not read:", escape_controls(file))?;
                for (index, (theirs, ours)) in settings.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma} its `{}` is {ours} here", escape_controls(theirs))?;
                }
                Ok(())
            }
            Notice::PortConflict { conflict } => write!(f, "{conflict}"),
            Notice::PortsMoved { reason: PortsTaken::InUse(conflict), base } => {
                write!(f, "{conflict}: ports begin at {base}")
            }
            Notice::PortsMoved { reason: PortsTaken::Reserved(usual), base } => {
                write!(f, "another ganger has ports from {usual}: ports begin at {base}")
            }
            Notice::FileChanged { file, names } => {
                let file = escape_controls(file);
                write!(f, "`{file}` has changed, restarting {}", names.join(", "))
            }
            Notice::WatchFailed { reason } => {
                write!(f, "not all files can be watched: {}", escape_controls(reason))
            }
            Notice::OutOfMemory { name } => {
                write!(f, "{name}: the system ran out of memory and killed a process")
            }
            Notice::Report { name, exit, line, no_memory, lines, others } => {
                match line {
                    Some(line) => write!(f, "{name} failed first: it wrote `{line}`")?,
                    None => write!(f, "{name} failed first: it {exit}")?,
                }
                if *no_memory {
                    f.write_str("\nthe system ran out of memory and killed a process")?;
                }
                if !lines.is_empty() {
                    write!(f, "\nits last lines:\n  {}", lines.join("\n  "))?;
                }
                if !others.is_empty() {
                    write!(f, "\nstopped because of it: {}", others.join(", "))?;
                }
                Ok(())
            }
            Notice::StaleSessions { members: left } => {
                write!(f, "killed processes that an earlier ganger left behind: {}", members(left))
            }
            Notice::Started { name, pid, port, listened } => {
                write!(f, "{name} started, pid {pid}")?;
                match port {
                    Some(port) if *listened => write!(f, ", http://localhost:{port}"),
                    Some(port) => write!(f, ", port {port}"),
                    None => Ok(()),
                }
            }
            Notice::StartHangs { name, command, pid } => write!(
                f,
                "{name} hangs at its start: the system does not execute `{}` (pid {pid}); \
                 is its disk there, does a scanner hold it?",
                escape_controls(command)
            ),
            Notice::NoTerminal { name, reason } => write!(
                f,
                "{name} gets a pipe, because no terminal can be opened for it: {}",
                escape_controls(reason)
            ),
            Notice::NoOutput { name, after } => write!(
                f,
                "{name} has printed nothing for {}: if it keeps its output back because that is not \
                 a terminal, `--pty always` shows it at once",
                time(*after)
            ),
            Notice::WaitsForInput { name, prompt } => {
                let kind = name.rsplit_once('.').map_or(name.as_str(), |(kind, _)| kind);
                write!(
                    f,
                    "{name} seems to wait for input after `{}`, and none will come: `ganger start \
                     --pty always` lets `ganger attach {name}` answer it, or `ganger run {kind}` runs \
                     it on your terminal",
                    escape_controls(prompt)
                )
            }
            Notice::Watching { name } => {
                write!(f, "another client types into {name}: you watch until it detaches")
            }
            Notice::TypingPassed { name } => {
                write!(f, "the other client has detached from {name}: your keys go there now")
            }
            Notice::AttachedExited { name, exit, restarts } => {
                match exit {
                    Some(exit) => write!(f, "{name} {exit}")?,
                    None => write!(f, "{name} is down")?,
                }
                f.write_str(if *restarts { ", waiting for its restart" } else { ", detached" })
            }
            Notice::AttachedRestarted { name, pid } => {
                write!(f, "{name} started again")?;
                pid.map_or(Ok(()), |pid| write!(f, ", pid {pid}"))
            }
            Notice::WaitingFor { name, what } => {
                write!(f, "{name} waits for {}", one_line(what))
            }
            Notice::WaitingForPort { name, holders, port } => {
                write!(f, "{name} waits for {} to free port {port}", one_line(holders))
            }
            Notice::NeedsTimedOut { name, what, after } => {
                let verb = if what.len() == 1 { "is" } else { "are" };
                write!(f, "{name}: {} {verb} not there after {}", one_line(what), time(*after))
            }
            Notice::NoFolder { name, reason } | Notice::CannotExecute { name, reason } => {
                write!(f, "{name}: {}", escape_controls(reason))
            }
            Notice::DependencyFailed { chain } => write!(f, "{chain}"),
            Notice::Ready { name, port, after } => match port {
                Some(port) => write!(f, "{name} is ready, http://localhost:{port}"),
                None => write!(f, "{name} is ready after {}", time(*after)),
            },
            Notice::ReadyTimedOut { name, port, after, tried } => {
                let after = time(*after);
                match port {
                    Some(port) => write!(f, "{name} has not bound port {port} after {after}")?,
                    None => write!(f, "{name} is not ready after {after}")?,
                }
                tried.as_ref().map_or(Ok(()), |tried| write!(f, ": {tried}"))
            }
            Notice::DaemonIsUp { flags } => write!(
                f,
                "up in the background: `ganger {flags}logs -f` follows its output, \
                 `ganger {flags}quit` stops it"
            ),
            Notice::DaemonStaysUp { names } => {
                let verb = if names.len() == 1 { "is" } else { "are" };
                write!(
                    f,
                    "{} {verb} not ready, but the app stays up in the background: `ganger ps` \
                     shows it, `ganger logs -f` follows its output, `ganger quit` stops it",
                    names.join(", ")
                )
            }
            Notice::WrongPort { name, given, found } => {
                let found: Vec<String> = found.iter().map(u16::to_string).collect();
                let found = found.join(", ");
                write!(f, "{name} was given port {given}, but so far listens only on {found}")
            }
            Notice::RollingStopped { names } => {
                write!(f, "not restarted: {}", names.join(", "))
            }
            Notice::Exited { name, exit, left, next } => {
                write!(f, "{name} {exit}")?;
                leaving(f, left)?;
                describe_next(f, *next)
            }
            Notice::FailureLogged { name, line, next } => {
                write!(f, "{name} has failed: it wrote `{}`", escape_controls(line))?;
                describe_next(f, *next)
            }
            Notice::Stopped { name, exit } => match exit {
                Exit::Code(_)
                | Exit::FailureLogged
                | Exit::DependencyFailed
                | Exit::Cancelled
                | Exit::NotStarted { .. } => {
                    write!(f, "{name} {exit}")
                }
                Exit::Signal(libc::SIGKILL) => write!(f, "{name} was killed"),
                Exit::Signal(_) => write!(f, "{name} stopped"),
            },
            Notice::StoppingAll { cause } => write!(f, "{cause}"),
            Notice::StillStopping { processes, kill_in } => {
                write!(f, "waiting for {}", joined(processes, ", "))?;
                match kill_in {
                    Some(time_left) => write!(f, ": SIGKILL in {}", time(*time_left)),
                    None => f.write_str(" to exit"),
                }
            }
            Notice::Killing { name, signal, grace } => match grace {
                Some(grace) => {
                    write!(f, "{name} is still up {} after {signal}: SIGKILL", time(*grace))
                }
                None => write!(f, "{name}: SIGKILL"),
            },
            Notice::Unkillable { name } => {
                write!(f, "{name} is still running after SIGKILL: leaving it")
            }
            Notice::StoppingOrphans { left } => {
                write!(f, "stopping orphaned processes: {}", members(left))
            }
            Notice::KillingOrphans { left } => write!(f, "{}: SIGKILL", members(left)),
            Notice::KillFailed { left } => {
                write!(f, "could not kill {}: still running", members(left))
            }
            Notice::KeeperLost { lost } => {
                match lost {
                    KeeperError::NotExecuted(errno) => {
                        write!(f, "failed to execute the keeper: {}", errno.desc())?;
                    }
                    KeeperError::Died => f.write_str("the keeper has died")?,
                    KeeperError::Unresponsive => f.write_str("the keeper does not respond")?,
                    KeeperError::Protocol => f.write_str("the keeper sent an invalid message")?,
                }
                f.write_str(": killing all")
            }
            Notice::RuntimeDirFallback { reason, path } => {
                write!(f, "{}: using `{}`", escape_controls(reason), escape_controls(path))
            }
            Notice::NoControlSocket { reason } => {
                let reason = escape_controls(reason);
                write!(
                    f,
                    "no control socket, so `ganger ps`, `scale` and others can't reach this ganger: {reason}"
                )
            }
            Notice::Reloaded { outcome: Ok(changes) } => {
                write!(f, "reloading: {}", describe_changes(changes))
            }
            Notice::Reloaded { outcome: Err(reason) } => {
                let reason = escape_controls(reason);
                write!(f, "failed to reload, so nothing changes: {reason}")
            }
            Notice::Status { processes } => f.write_str(&joined(processes, "\n")),
            Notice::Discarded { bytes, why } => {
                write!(f, "{bytes} bytes of output discarded: {why}")
            }
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnreadEnv { file } => write!(
                f,
                "`{file}` is not read: without `-d`, `.env` is that of the current folder \
                 (`-e {file}` reads this one)"
            ),
            Self::FlagVariable { variable, origin, flag, key } => {
                write!(f, "`{variable}` ({origin}) sets no flag: use `{flag}` or the environment")?;
                key.map_or(Ok(()), |key| write!(f, ", or `{key}` in `ganger.toml`"))
            }
            Self::ProcfileVariable { origin } => {
                write!(f, "`PROCFILE` ({origin}) is not read: use `-f` or `GANGER_PROCFILE`")
            }
            Self::TypesLeftOut { left_out, named } => {
                let both = [named.as_slice(), left_out].concat().join(" ");
                let verb = if left_out.len() == 1 { "is" } else { "are" };
                write!(
                    f,
                    "{} {verb} left out, because other types are named (for all: \
                     `ganger start {both}`)",
                    list(left_out.iter())
                )
            }
            Self::DependencyNotInFormation { name, after } => {
                write!(f, "`{name}` starts without `{after}`, which is not part of this run")
            }
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.names.as_slice() else { return Ok(()) };
        let rest = rest.join(", which waits for ");
        write!(f, "{first} waits for {rest}, which {}", self.reason)
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(exit) => write!(f, "{exit}"),
            Self::NotReady { after } => write!(f, "is not ready after {}", time(*after)),
        }
    }
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpStatus { path, status } => {
                write!(f, "`GET {}` is answered with {status}", escape_controls(path))
            }
            Self::HttpError { path, reason } => {
                let (path, reason) = (escape_controls(path), escape_controls(reason));
                write!(f, "`GET {path}` is not answered ({reason})")
            }
            Self::HttpTimeout { path, after } => {
                write!(f, "`GET {}` is not answered in {}", escape_controls(path), time(*after))
            }
            Self::Command { command, exit } => write!(f, "`{}` {exit}", escape_controls(command)),
            Self::Exited(exit) => write!(f, "it {exit}"),
        }
    }
}

impl fmt::Display for PortConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, port, owner, .. } = self;
        write!(f, "{process} needs port {port}, which ")?;
        match owner {
            Some(owner) => write!(f, "{} is using", escape_controls(owner)),
            None => f.write_str("is in use"),
        }
    }
}

impl fmt::Display for StoppingProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            _ if !self.left.is_empty() => write!(f, "{} ({})", self.name, members(&self.left)),
            Some(pid) => write!(f, "{} (pid {pid})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for ProcessSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(pid) = self.pid {
            write!(f, " (pid {pid})")?;
        }
        match &self.state {
            StateSummary::Down { last: None } => f.write_str(": down"),
            StateSummary::Down { last: Some(exit) } => write!(f, ": down, {exit}"),
            StateSummary::Backoff { restart_in } => {
                write!(f, ": down, restarting in {}", time(*restart_in))
            }
            StateSummary::Waiting => f.write_str(": waiting"),
            StateSummary::Starting => f.write_str(": starting"),
            StateSummary::Up { uptime, is_ready } => {
                let not = if *is_ready { "" } else { ", not ready" };
                write!(f, ": up {}{not}", time(*uptime))
            }
            StateSummary::Stopping { kill_in } => {
                write!(f, ": stopping, SIGKILL in {}", time(*kill_in))
            }
            StateSummary::Killed => f.write_str(": killed"),
            StateSummary::Stuck => f.write_str(": killed, and still there"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "{signal}: stopping all"),
            Self::QuitRequest => f.write_str("asked to quit: stopping all"),
            Self::Exit => f.write_str("stopping all"),
            Self::StdoutClosed => f.write_str("nothing reads the output any more: stopping all"),
            Self::AllDown => f.write_str("no process is left"),
        }
    }
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("nothing read them"),
            Self::SlowReader => f.write_str("they were not read in time"),
            Self::WriteFailed(reason) => f.write_str(reason),
        }
    }
}

fn describe_next(f: &mut fmt::Formatter<'_>, next: Next) -> fmt::Result {
    match next {
        Next::StopAll => f.write_str(", stopping all"),
        Next::Restart(pause) => write!(f, ", restarting in {}", time(pause)),
        Next::StayDown => Ok(()),
        Next::GiveUp(crashes) => {
            let crashes = match crashes {
                1 => "1 crash".to_owned(),
                more => format!("{more} crashes in a row"),
            };
            write!(f, ", {crashes}: GIVING UP, it stays down")
        }
    }
}

fn leaving(f: &mut fmt::Formatter<'_>, left: &[Descendant]) -> fmt::Result {
    if left.is_empty() { Ok(()) } else { write!(f, ", leaving {}", members(left)) }
}

fn one_line(parts: &[String]) -> String {
    escape_controls(&parts.join(", ")).into_owned()
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("`{}`", escape_controls(name))).collect::<Vec<_>>().join(", ")
}

fn joined<T: fmt::Display>(all: &[T], separator: &str) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(separator)
}

/// The changes on one line.
fn describe_changes(changes: &Changes) -> String {
    let Changes { started, stopped, restarted, adjusted, signalled } = changes;
    let all = [
        ("starting", started),
        ("stopping", stopped),
        ("restarting", restarted),
        ("adjusting", adjusted),
        ("signalled", signalled),
    ];
    let all = all.into_iter().filter(|(_, names)| !names.is_empty());
    let all: Vec<String> = all.map(|(verb, names)| format!("{verb} {}", names.join(" "))).collect();
    if all.is_empty() { "nothing to do".to_owned() } else { all.join(", ") }
}
