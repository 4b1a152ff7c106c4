//! What a request has changed, from the supervisor to the client.

use serde::{Deserialize, Serialize};

/// What a request has changed, by the names of processes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Changes {
    /// Processes that are started.
    #[serde(default)]
    pub started: Vec<String>,
    /// Processes that are stopped.
    #[serde(default)]
    pub stopped: Vec<String>,
    /// Processes that are restarted.
    #[serde(default)]
    pub restarted: Vec<String>,
    /// Processes that run on, under another policy.
    #[serde(default)]
    pub adjusted: Vec<String>,
    /// Processes that got a signal.
    #[serde(default)]
    pub signalled: Vec<String>,
}
