//! The lines that say that a process has failed, although it runs.

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

/// The limit for the program that a pattern is compiled to, in bytes: output is matched as it is
/// read.
const MAX_PROGRAM_BYTES: usize = 256 << 10;

/// A regular expression. A process that writes a line that matches has failed.
#[derive(Clone, Debug)]
pub struct FailPattern(Regex);

impl FailPattern {
    fn new(pattern: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(pattern)
            .size_limit(MAX_PROGRAM_BYTES)
            .dfa_size_limit(2 * MAX_PROGRAM_BYTES)
            .build();
        built.map(Self).map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("must be a regular expression, not `{pattern}`: {reason}")
        })
    }

    /// The pattern as a regular expression, which matches bytes.
    #[must_use]
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for FailPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for FailPattern {}

/// `fail = { log = "…" }`, as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailTable {
    log: String,
}

impl<'de> Deserialize<'de> for FailPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let FailTable { log } = FailTable::deserialize(deserializer)?;
        if log.is_empty() {
            return Err(serde::de::Error::custom(
                "needs a pattern for `log`, such as `EADDRINUSE`",
            ));
        }
        Self::new(&log).map_err(serde::de::Error::custom)
    }
}
