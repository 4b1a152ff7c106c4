//! How a process is kept.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// How a process is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// What happens when it exits by itself.
    pub on_exit: OnExit,
    /// Pauses between restarts.
    pub backoff: Backoff,
    /// What asks it to stop.
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
    /// It is started again.
    Restart,
    /// It is started again, unless it exited with 0.
    RestartOnFailure,
    /// It stays down, and the others go on.
    Ignore,
}

/// Pauses between restarts: they double from `min` to `max`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// The pause after the first crash.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
    /// So many crashes in a row, and it stays down.
    pub give_up_after: Option<u32>,
}

impl Default for Backoff {
    fn default() -> Self {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(30));
        Self { min, max, give_up_after: None }
    }
}

/// What a process reads.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// A pipe that stays open and silent: many watchers leave at end of file.
    #[default]
    Pipe,
    /// `/dev/null`.
    Null,
}
