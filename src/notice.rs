//! Everything that ganger says at run time: one enum, one `Display`.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::keeper::client::Lost;
use crate::keeper::protocol::Member;
use crate::supervise::exit::Exit;

/// A sentence that ganger says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// A file and the real environment differ.
    Clash {
        /// The variables.
        keys: Vec<String>,
        /// Whether the file won.
        files_win: bool,
    },
    /// Types run that the formation doesn't name.
    Unlisted {
        /// They.
        types: Vec<String>,
    },
    /// An earlier ganger was killed together with its keeper.
    Leftovers {
        /// Who was left of what it ran, and has been killed now.
        members: Vec<Member>,
    },
    /// A process runs.
    Started {
        /// `web.1`.
        name: String,
        /// Its process id.
        pid: i32,
        /// Its PORT, if it was given one.
        port: Option<u16>,
    },
    /// A process ended by itself.
    Exited {
        /// `web.1`.
        name: String,
        /// How.
        exit: Exit,
        /// Who of it lives on, and is stopped now.
        left: Vec<Member>,
        /// What ganger does about it.
        next: Next,
    },
    /// A process ended because it was told to, and nobody of it is left.
    Stopped {
        /// `web.1`.
        name: String,
        /// How.
        exit: Exit,
    },
    /// Everything is being stopped.
    StoppingAll {
        /// Why.
        cause: Cause,
    },
    /// Some take their time.
    Waiting {
        /// Who, with process ids.
        names: Vec<String>,
        /// When the first of them is killed; none if they have been.
        kill_in: Option<Duration>,
    },
    /// A process did not go when asked.
    Killing {
        /// `web.1`.
        name: String,
        /// What it was asked with.
        signal: Signal,
        /// How long it had; none if the user would not wait.
        grace: Option<Duration>,
    },
    /// A process doesn't even go when killed.
    Unkillable {
        /// `web.1`.
        name: String,
    },
    /// Some belong to no process, and are stopped.
    Strays {
        /// They.
        left: Vec<Member>,
    },
    /// Some belong to no process, and did not go when asked.
    KillingStrays {
        /// They.
        left: Vec<Member>,
    },
    /// Some could not be killed.
    Survivors {
        /// They.
        left: Vec<Member>,
    },
    /// The keeper is no more.
    KeeperLost {
        /// What became of it.
        lost: Lost,
    },
    /// ganger can't be asked anything while it runs.
    Uncontrolled {
        /// Why.
        reason: String,
    },
    /// The files were read again, because a signal said so.
    Reloaded {
        /// What that changes, or why it changes nothing.
        outcome: Result<String, String>,
    },
    /// Where things stand.
    Status {
        /// One line a process.
        lines: Vec<String>,
    },
    /// Output could not be written.
    Discarded {
        /// How many bytes of it.
        bytes: u64,
        /// Why.
        why: Discarded,
    },
}

/// What ganger does about an exit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Stops all.
    StopAll,
    /// Starts it again, after a pause.
    Restart(Duration),
    /// Nothing.
    StayDown,
    /// Nothing, after so many crashes in a row.
    GiveUp(u32),
}

/// Why everything is being stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// A signal to ganger.
    Signal(Signal),
    /// Somebody asked for it (`ganger quit`).
    Asked,
    /// A process exited whose policy says so.
    Exit,
    /// Nobody reads the output any more.
    StdoutClosed,
    /// No process is left, and none is to be started.
    AllDown,
}

/// Why output was not written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Discarded {
    /// Nobody read it while ganger was stopping.
    Blocked,
    /// Somebody who follows what is said did not keep up.
    Slow,
    /// The system refused it, in its words.
    Refused(String),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clash { keys, files_win } => {
                let keys = list(keys.iter());
                if *files_win {
                    write!(f, "{keys}: the `.env` file wins over the environment, as you asked")
                } else {
                    write!(f, "{keys}: the environment wins over the `.env` file")?;
                    f.write_str(" (`--env-override` turns that round)")
                }
            }
            Self::Unlisted { types } => {
                let verb = if types.len() == 1 { "is" } else { "are" };
                let types = list(types.iter());
                write!(f, "{types} {verb} not in the formation: one each (`all=0` for none)")
            }
            Self::Leftovers { members: left } => {
                write!(
                    f,
                    "killed what an earlier ganger left when it was killed: {}",
                    members(left)
                )
            }
            Self::Started { name, pid, port } => {
                write!(f, "{name} started, pid {pid}")?;
                match port {
                    Some(port) if name.starts_with("web.") => {
                        write!(f, ", http://localhost:{port}")
                    }
                    Some(port) => write!(f, ", port {port}"),
                    None => Ok(()),
                }
            }
            Self::Exited { name, exit, left, next } => {
                write!(f, "{name} {exit}")?;
                leaving(f, left)?;
                match next {
                    Next::StopAll => f.write_str(", stopping all"),
                    Next::Restart(pause) => write!(f, ", starting it again in {}", time(*pause)),
                    Next::StayDown => Ok(()),
                    Next::GiveUp(crashes) => {
                        write!(f, ", {crashes} crashes in a row: GIVING UP, it stays down")
                    }
                }
            }
            Self::Stopped { name, exit } => match exit {
                Exit::Code(_) | Exit::NotStarted { .. } => write!(f, "{name} {exit}"),
                Exit::Signal(libc::SIGKILL) => write!(f, "{name} was killed"),
                Exit::Signal(_) => write!(f, "{name} stopped"),
            },
            Self::StoppingAll { cause } => write!(f, "{cause}"),
            Self::Waiting { names, kill_in } => {
                write!(f, "waiting for {}", names.join(", "))?;
                match kill_in {
                    Some(time_left) => write!(f, ": SIGKILL in {}", time(*time_left)),
                    None => f.write_str(" to be gone"),
                }
            }
            Self::Killing { name, signal, grace } => match grace {
                Some(grace) => {
                    write!(f, "{name} is still up {} after {signal}: SIGKILL", time(*grace))
                }
                None => write!(f, "{name}: SIGKILL"),
            },
            Self::Unkillable { name } => {
                write!(f, "{name} doesn't go, not even at SIGKILL: leaving it")
            }
            Self::Strays { left } => {
                write!(f, "no process of yours owns {}: stopping what is left", members(left))
            }
            Self::KillingStrays { left } => write!(f, "{}: SIGKILL", members(left)),
            Self::Survivors { left } => {
                write!(f, "could not kill {}: still running", members(left))
            }
            Self::KeeperLost { lost } => {
                f.write_str(match lost {
                    Lost::Died => "the keeper has died",
                    Lost::Silent => "the keeper doesn't answer",
                    Lost::Garbled => "the keeper talks nonsense",
                })?;
                f.write_str(": killing all")
            }
            Self::Uncontrolled { reason } => {
                write!(f, "no `ganger ps`, `scale` and the like for this one: {reason}")
            }
            Self::Reloaded { outcome: Ok(changes) } => write!(f, "reloading: {changes}"),
            Self::Reloaded { outcome: Err(reason) } => {
                write!(f, "failed to reload, so nothing changes: {reason}")
            }
            Self::Status { lines } => f.write_str(&lines.join("\n")),
            Self::Discarded { bytes, why } => write!(f, "{bytes} bytes of output discarded: {why}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "{signal}: stopping all"),
            Self::Asked => f.write_str("asked to quit: stopping all"),
            Self::Exit => f.write_str("stopping all"),
            Self::StdoutClosed => f.write_str("nobody reads the output any more: stopping all"),
            Self::AllDown => f.write_str("no process is left"),
        }
    }
}

impl fmt::Display for Discarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("nobody read them"),
            Self::Slow => f.write_str("they were not read in time"),
            Self::Refused(reason) => f.write_str(reason),
        }
    }
}

fn leaving(f: &mut fmt::Formatter<'_>, left: &[Member]) -> fmt::Result {
    if left.is_empty() { Ok(()) } else { write!(f, ", leaving {}", members(left)) }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Who they are, with process ids.
#[must_use]
pub fn members(members: &[Member]) -> String {
    let show = |member: &Member| format!("{} (pid {})", member.name, member.pid);
    members.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// A time as people say it, to a tenth of a second.
#[must_use]
pub fn time(duration: Duration) -> String {
    let tenths = duration.as_millis().div_ceil(100);
    let (minutes, tenths) = (tenths / 600, tenths % 600);
    let seconds = match tenths % 10 {
        0 => format!("{}s", tenths / 10),
        tenth => format!("{}.{tenth}s", tenths / 10),
    };
    match (minutes, tenths) {
        (0, _) => seconds,
        (minutes, 0) => format!("{minutes}m"),
        (minutes, _) => format!("{minutes}m {seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = |millis| time(Duration::from_millis(millis));
        assert_eq!([100, 99, 1000, 4999].map(shown), ["0.1s", "0.1s", "1s", "5s"]);
        assert_eq!([60_000, 90_500].map(shown), ["1m", "1m 30.5s"]);
    }

    #[test]
    fn sentences() {
        let member = |pid| Member { pid, name: "sleep".into() };
        let exited = |exit, left, next| Notice::Exited { name: "css.1".into(), exit, left, next };
        let notices = [
            Notice::Started { name: "web.1".into(), pid: 7, port: Some(5000) },
            Notice::Started { name: "worker.1".into(), pid: 8, port: Some(5100) },
            exited(Exit::Code(0), vec![], Next::StopAll),
            exited(Exit::Signal(11), vec![member(9)], Next::Restart(Duration::from_millis(200))),
            exited(Exit::Code(1), vec![], Next::GiveUp(10)),
            Notice::Unlisted { types: vec!["web".into(), "clock".into()] },
            Notice::Waiting {
                names: vec!["web.1 (pid 7)".into()],
                kill_in: Some(Duration::from_secs(4)),
            },
            Notice::Strays { left: vec![member(9), member(10)] },
        ];
        insta::assert_snapshot!(notices.map(|notice| notice.to_string()).join("\n"));
    }
}
