//! What goes over the socket, as JSON.

use serde::{Deserialize, Serialize};

use crate::plan::OnExit;

/// `GET /`: who answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct About {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The folder of the app.
    pub root: String,
}

/// What a process is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing of it is there.
    Down,
    /// The same, until it is started again after a crash.
    Backoff,
    /// The same, until what it waits for is there.
    Waiting,
    /// It is being started.
    Starting,
    /// It runs.
    Up,
    /// It was asked to end.
    Stopping,
    /// It was killed.
    Killed,
    /// It was killed, and doesn't go.
    Stuck,
}

/// One process, as in `GET /processes`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Process {
    /// `web.1`.
    pub name: String,
    /// `web`.
    pub r#type: String,
    /// What it is.
    pub state: State,
    /// Whether others can count on it.
    pub ready: bool,
    /// What it waits for before it is started.
    pub waits_for: Vec<String>,
    /// What happens when it exits.
    pub on_exit: OnExit,
    /// How often it has crashed in a row.
    pub crashes: u32,
    /// So many crashes in a row, and it stays down.
    pub give_up_after: Option<u32>,
    /// When it is started again after a crash, in seconds.
    pub starts_in: Option<f64>,
    /// Its process id, if something of it is there.
    pub pid: Option<i32>,
    /// The PORT that it was given.
    pub port: Option<u16>,
    /// Whether it, or something that belongs to it, listens there.
    pub bound: bool,
    /// How long it has been up, in seconds.
    pub uptime: Option<f64>,
    /// How often it has been started again.
    pub restarts: u32,
    /// How it ended last, in words.
    pub last_exit: Option<String>,
    /// The CPU time of all that belongs to it, in seconds.
    pub cpu: f64,
    /// The resident memory of all that belongs to it, in bytes.
    pub memory: u64,
}

/// What an order did, by the names of processes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Changes {
    /// Started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub started: Vec<String>,
    /// Stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<String>,
    /// Started again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarted: Vec<String>,
    /// Kept otherwise from now on, without a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adjusted: Vec<String>,
    /// Sent a signal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signalled: Vec<String>,
}

/// Every answer that isn't 2xx.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ErrorBody {
    /// Why.
    pub error: String,
}
