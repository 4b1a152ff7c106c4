//! The policy of a process: restarts, backoff, stop signal and grace period.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// How a process is restarted and stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// What happens when it exits by itself.
    pub on_exit: OnExit,
    /// The delays before restarts.
    pub backoff: Backoff,
    /// The stop signal.
    pub stop_signal: Signal,
    /// The time between the stop signal and SIGKILL.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            on_exit: OnExit::StopAll,
            backoff: Backoff::default(),
            stop_signal: Signal::SIGTERM,
            grace: Duration::from_secs(5),
        }
    }
}

/// What happens when a process exits by itself.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExit {
    /// Everything is stopped.
    StopAll,
    /// It is restarted.
    Restart,
    /// It is restarted, unless it exited with 0.
    RestartOnFailure,
    /// It stays down, and the other processes keep running.
    Ignore,
}

/// The delays before restarts, which double from `min` to `max`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// The delay after the first crash.
    pub min: Duration,
    /// The longest delay.
    pub max: Duration,
    /// After how many crashes in a row it stays down.
    pub give_up_after: Option<u32>,
}

impl Default for Backoff {
    fn default() -> Self {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(30));
        Self { min, max, give_up_after: None }
    }
}

/// The stdin of a process.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// A pipe that stays open and empty: many file watchers exit at end of file.
    #[default]
    Pipe,
    /// `/dev/null`.
    Null,
}
