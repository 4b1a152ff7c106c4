//! What a request has changed, from the supervisor to the client.

use serde::{Deserialize, Serialize};

/// What a request has changed, by the names of processes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Changes {
    /// Processes that are started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub started: Vec<String>,
    /// Processes that are stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<String>,
    /// Processes that are restarted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarted: Vec<String>,
    /// Processes that run on, under another policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adjusted: Vec<String>,
    /// Processes that got a signal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signalled: Vec<String>,
}
