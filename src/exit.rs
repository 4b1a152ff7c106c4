//! How processes end, and what ganger's own exit code makes of it.

use std::fmt;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::keeper::protocol::{SpawnStep, WaitStatus};

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By the signal of this number.
    Signal(i32),
    /// It ran, and wrote a line that says that it has failed.
    FailureLogged,
    /// It never ran, because what it waited for did not come.
    DependencyFailed,
    /// It never ran, because it was stopped before.
    Cancelled,
    /// It never ran.
    NotStarted {
        /// What failed.
        step: SpawnStep,
        /// Why.
        errno: Errno,
    },
}

impl Exit {
    /// Whether anything but success.
    #[must_use]
    pub fn failed(self) -> bool {
        match self {
            Self::Code(code) => code != 0,
            Self::Cancelled => false,
            Self::Signal(_)
            | Self::FailureLogged
            | Self::DependencyFailed
            | Self::NotStarted { .. } => true,
        }
    }

    /// The code that a shell would exit with: 128 + n for a signal, 127 for a program
    /// that isn't there, 126 for one that can't be executed, or not in its folder.
    #[must_use]
    pub fn code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::FailureLogged | Self::DependencyFailed => 1,
            Self::Cancelled => 0,
            Self::NotStarted { step: SpawnStep::Exec, errno: Errno::ENOENT } => 127,
            Self::NotStarted { .. } => 126,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl From<WaitStatus> for Exit {
    fn from(wait: WaitStatus) -> Self {
        match wait {
            WaitStatus::Code(code) => Self::Code(code),
            WaitStatus::Signal(signal) => Self::Signal(signal),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited ({code})"),
            Self::Signal(signal) => write!(f, "was killed by {}", signal_name(*signal)),
            Self::FailureLogged => f.write_str("wrote a line that matches `fail`"),
            Self::DependencyFailed | Self::Cancelled => f.write_str("was not started"),
            Self::NotStarted { step, errno } => {
                let what = match step {
                    SpawnStep::Fork => "could not be started",
                    SpawnStep::Dir => "could not be started in its folder",
                    SpawnStep::Exec => "could not be started",
                };
                match (step, errno) {
                    (SpawnStep::Dir, Errno::ENOENT) => {
                        f.write_str("could not be started: its folder is missing")
                    }
                    (SpawnStep::Exec, Errno::ENOENT) => write!(f, "{what}: command not found"),
                    (SpawnStep::Fork, Errno::EMFILE | Errno::ENFILE) => {
                        write!(f, "{what}: {} (raise the limit with `ulimit -n`)", errno.desc())
                    }
                    _ => write!(f, "{what}: {}", errno.desc()),
                }
            }
        }
    }
}

/// `SIGKILL`, or `signal 34`.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {signal}"),
    }
}

/// What ganger's exit code is made from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Who failed before any stop began, and was not started again, in order.
    pub failures: Vec<Failure>,
    /// The processes that were stopped only because of the first.
    pub stopped: Vec<String>,
    /// Whether anybody had to be killed, because it didn't go when asked.
    pub killed: bool,
}

/// A process that failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// `web.1`.
    pub name: String,
    /// How it ended.
    pub exit: Exit,
    /// The line in which it said that it has failed, if it did.
    pub line: Option<String>,
}

/// What a process that was killed because it did not go counts as.
const KILLED: Exit = Exit::Signal(libc::SIGKILL);

impl Outcome {
    /// Who failed first.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Failure> {
        self.failures.first()
    }

    /// ganger's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match (self.first_failure(), self.killed) {
            (Some(failure), _) => failure.exit.code(),
            (None, true) => KILLED.code(),
            (None, false) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_a_shells() {
        let not_started = |errno| Exit::NotStarted { step: SpawnStep::Exec, errno };
        let no_folder = Exit::NotStarted { step: SpawnStep::Dir, errno: Errno::ENOENT };
        for (exit, code) in [
            (Exit::Code(0), 0),
            (Exit::Code(7), 7),
            (Exit::Signal(9), 137),
            (Exit::Signal(11), 139),
            (not_started(Errno::ENOENT), 127),
            (not_started(Errno::EACCES), 126),
            (no_folder, 126),
        ] {
            assert_eq!((exit.code(), exit.failed()), (code, code != 0), "{exit}");
        }
    }

    #[test]
    fn first_failure_decides_the_exit_code() {
        let outcome = |exit: Option<Exit>, killed| {
            let failure = exit.map(|exit| Failure { name: "a.1".into(), exit, line: None });
            Outcome { failures: failure.into_iter().collect(), killed, ..Outcome::default() }.code()
        };
        assert_eq!(outcome(None, false), 0);
        assert_eq!(outcome(None, true), 137);
        assert_eq!(outcome(Some(Exit::Code(3)), true), 3);
    }
}
