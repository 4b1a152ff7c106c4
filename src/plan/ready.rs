//! Readiness probes, and cycles of dependencies.

use std::time::Duration;

use serde::Deserialize;

/// When a process is ready: its readiness probe.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Ready {
    /// When it has been started.
    #[default]
    Started,
    /// When it, or a descendant, listens on PORT.
    Port,
    /// When GET of this path on PORT answers 2xx or 3xx.
    Http(String),
    /// When it writes this text.
    Log(String),
    /// When this command exits with 0, in the process's environment.
    Command(String),
    /// When it has exited with 0: the process is a job, such as a migration.
    Exit,
}

impl Ready {
    /// How long a process may take to become ready, by default. A job may have much to do.
    #[must_use]
    pub fn default_timeout(&self) -> Duration {
        match self {
            Self::Exit => Duration::from_hours(1),
            Self::Started | Self::Port | Self::Http(_) | Self::Log(_) | Self::Command(_) => {
                Duration::from_mins(1)
            }
        }
    }
}

/// `ready = { … }`, as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadyTable {
    port: Option<bool>,
    http: Option<String>,
    log: Option<String>,
    command: Option<String>,
    exit: Option<bool>,
}

impl<'de> Deserialize<'de> for Ready {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let error = |message: &str| Err(serde::de::Error::custom(message));
        let ReadyTable { port, http, log, command, exit } = ReadyTable::deserialize(deserializer)?;
        match (port, http, log, command, exit) {
            (Some(true), None, None, None, None) => Ok(Self::Port),
            (None, None, None, None, Some(true)) => Ok(Self::Exit),
            (Some(false), None, None, None, None) | (None, None, None, None, Some(false)) => {
                Ok(Self::Started)
            }
            (None, Some(path), None, None, None) => {
                if !path.starts_with('/') || path.contains(|char: char| !char.is_ascii_graphic()) {
                    return error("needs a path for `http`, such as `/healthz`");
                }
                Ok(Self::Http(path))
            }
            (None, None, Some(text), None, None) => {
                if text.is_empty() || text.contains('\n') {
                    return error("needs a part of one line for `log`, such as `Listening on`");
                }
                Ok(Self::Log(text))
            }
            (None, None, None, Some(command), None) => {
                if command.trim().is_empty() || command.contains('\0') {
                    return error("needs a command for `command`, such as `pg_isready`");
                }
                Ok(Self::Command(command))
            }
            _ => error("takes one of `port`, `http`, `log`, `command` and `exit`"),
        }
    }
}

/// The types that depend on each other in a cycle, if there is one: `a`, `b`, `a`. `after` gives
/// the dependencies of a type.
pub(super) fn find_cycle<'a>(
    types: &[&'a str],
    after: impl Fn(&str) -> Vec<&'a str>,
) -> Option<Vec<&'a str>> {
    let mut done: Vec<&str> = Vec::new();
    for start in types {
        // The path from the start to the current type, each type with its unvisited dependencies.
        let mut path = vec![(*start, after(start))];
        while let Some((here, unvisited)) = path.last_mut() {
            match unvisited.pop() {
                None => {
                    done.push(*here);
                    path.pop();
                }
                Some(next) if done.contains(&next) => {}
                Some(next) => {
                    if let Some(at) = path.iter().position(|(before, _)| *before == next) {
                        let names = path[at..].iter().map(|(name, _)| *name);
                        return Some(names.chain([next]).collect());
                    }
                    path.push((next, after(next)));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_cycle_is_found() {
        let find = |edges: &[(&'static str, &'static str)]| {
            let after = |name: &str| {
                edges.iter().filter(|(from, _)| *from == name).map(|(_, to)| *to).collect()
            };
            find_cycle(&["a", "b", "c", "d"], after).map(|names| names.join(" "))
        };
        assert_eq!(find(&[("a", "b"), ("b", "c"), ("a", "c"), ("d", "a")]), None);
        assert_eq!(find(&[("a", "a")]), Some("a a".into()));
        assert_eq!(find(&[("a", "b"), ("b", "c"), ("c", "b")]), Some("b c b".into()));
        assert_eq!(find(&[("d", "c"), ("c", "a"), ("a", "d")]), Some("a d c a".into()));
    }
}
