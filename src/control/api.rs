//! What goes over the control socket, as JSON; docs/control.md describes it.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::plan::OnExit;
use crate::plan::scale::{Change, Target};

pub use crate::changes::Changes;

/// The protocol of a connection that is attached to a process: bytes in both directions,
/// unchanged.
pub const ATTACH_PROTOCOL: &str = "ganger-attach";
/// The header of the response with the number of the attached client.
pub const ATTACHMENT_HEADER: &str = "ganger-attachment";

/// `GET /`: which ganger responds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct About {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The folder of the app.
    pub root: String,
    /// The Procfile as seen from the root.
    pub procfile: String,
    /// `--name`.
    pub name: Option<String>,
    /// How long it has run, in seconds.
    pub uptime: f64,
    /// The git revision of the root, if it is in a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

/// A git revision, as of the start or the last reload.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Revision {
    /// The commit, in hexadecimal digits.
    pub commit: String,
    /// Whether tracked files differed from it. None if git is missing or has not answered yet.
    pub dirty: Option<bool>,
}

/// The actual state of a process.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does not run.
    Down,
    /// It does not run, and is restarted after a pause.
    Backoff,
    /// It does not run, and waits before it starts.
    Waiting,
    /// It is being started.
    Starting,
    /// It runs.
    Up,
    /// It was asked to stop.
    Stopping,
    /// It was killed.
    Killed,
    /// It was killed, and still runs.
    Stuck,
}

/// One process, as in `GET /processes`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ProcessStatus {
    /// `web.1`.
    pub name: String,
    /// `web`.
    pub r#type: String,
    /// Its actual state.
    pub state: State,
    /// Whether it is ready.
    pub ready: bool,
    /// The dependencies and services that it waits for.
    pub waits_for: Vec<String>,
    /// What happens when it exits.
    pub on_exit: OnExit,
    /// The number of crashes in a row.
    pub crashes: u32,
    /// The number of crashes in a row after which it stays down.
    pub give_up_after: Option<u32>,
    /// When it is started again after a crash, in seconds.
    pub starts_in: Option<f64>,
    /// Its process id, if it or a member of its group is alive.
    pub pid: Option<i32>,
    /// Its PORT.
    pub port: Option<u16>,
    /// Whether it or one of its descendants listens on this port.
    pub bound: bool,
    /// How long it has been up, in seconds.
    pub uptime: Option<f64>,
    /// The number of restarts.
    pub restarts: u32,
    /// Its last exit, in words.
    pub last_exit: Option<String>,
    /// The CPU time of it and its descendants, in seconds.
    pub cpu: f64,
    /// The resident memory of it and its descendants, in bytes.
    pub memory: u64,
}

impl ProcessStatus {
    /// Its state in a few words.
    #[must_use]
    pub fn state_text(&self) -> String {
        match (self.state, self.ready, self.starts_in) {
            (State::Up, false, _) => "up, not ready".to_owned(),
            // A job.
            (State::Down, true, _) => "done".to_owned(),
            (State::Waiting, _, _) if !self.waits_for.is_empty() => {
                format!("waiting for {}", self.waits_for.join(", "))
            }
            (State::Backoff, _, Some(seconds)) => format!("backoff, {seconds:.1}s"),
            (state, _, _) => state.text().to_owned(),
        }
    }
}

impl State {
    /// The state in one word, as in JSON.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Backoff => "backoff",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Killed => "killed",
            Self::Stuck => "stuck",
        }
    }
}

/// `PATCH /formation`: new counts, by process type.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct FormationChange(BTreeMap<String, CountChange>);

/// A new count: a number, or a text such as `+1` or `-1`.
#[derive(Clone, Copy, Debug)]
struct CountChange(Target);

impl Serialize for CountChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Target::Exactly(to) => serializer.serialize_u32(to),
            Target::More(more) => serializer.collect_str(&format_args!("+{more}")),
            Target::Less(less) => serializer.collect_str(&format_args!("-{less}")),
        }
    }
}

impl<'de> Deserialize<'de> for CountChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let target = match &value {
            serde_json::Value::Number(to) => {
                to.as_u64().and_then(|to| u32::try_from(to).ok()).map(Target::Exactly)
            }
            serde_json::Value::String(text) => {
                let more = text.strip_prefix('+').map(|more| more.parse().map(Target::More));
                let less = text.strip_prefix('-').map(|less| less.parse().map(Target::Less));
                more.or(less).and_then(Result::ok)
            }
            _ => None,
        };
        let error = || {
            D::Error::custom(format_args!(
                "`{value}` is not an instance count; expected a number, or a text such as `+1`"
            ))
        };
        target.map(Self).ok_or_else(error)
    }
}

impl FormationChange {
    /// These changes. Of two for one type, the last counts.
    #[must_use]
    pub fn new(changes: &[Change]) -> Self {
        let one = |change: &Change| (change.name.clone(), CountChange(change.to));
        Self(changes.iter().map(one).collect())
    }

    /// The changes, by type.
    #[must_use]
    pub fn into_changes(self) -> Vec<Change> {
        let one = |(name, to): (String, CountChange)| Change { name, to: to.0 };
        self.0.into_iter().map(one).collect()
    }
}

/// A line of `GET /logs?format=json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogLine {
    /// When it ended, in UTC (RFC 3339).
    pub time: String,
    /// The process that wrote it, `web.1`.
    pub name: String,
    /// The line without its end and without escape sequences; what is not UTF-8 is replaced.
    pub line: String,
    /// Whether it goes on in the next record of the process, because it is too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Output that is missing in `GET /logs?format=json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MissedOutput {
    /// How many bytes; null if that is unknown, because the cursor is that of an earlier ganger.
    pub missed_bytes: Option<u64>,
}

/// A place in `GET /logs?format=json` where a later request can go on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogCursorRecord {
    /// The value of `cursor` for that request.
    pub cursor: String,
    /// The version of the schema.
    pub schema_version: u32,
}

/// The version of the schema of all JSON that ganger prints: it changes when a field changes its
/// meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// What stands before a cursor in `GET /logs?format=marked`.
pub const CURSOR_MARK: char = '\u{1e}';

/// `GET /exit`: how ganger has ended.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct AppExit {
    /// Its exit code.
    pub exit_code: u8,
}

/// The body of every response that is not 2xx.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ErrorBody {
    /// What went wrong, and what to do about it.
    pub error: String,
}
