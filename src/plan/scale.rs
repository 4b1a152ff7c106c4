//! Changes to the formation of a running app: `web=2 worker+1 clock-1 all=0`.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::Plan;
use super::formation::{self, ALL, check_name};
use super::procfile::is_name;

/// The number of instances of each type that `scale` has changed.
pub type Scaled = BTreeMap<String, u32>;

/// A change to the number of instances of one type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// A process type, or `all`.
    pub name: String,
    /// The new number.
    pub to: Target,
}

/// The new number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// This number.
    Exactly(u32),
    /// More by this number.
    More(u32),
    /// Fewer by this number.
    Less(u32),
}

/// Why a change can't be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them")]
pub enum Error {
    #[error("how many? `ganger scale {0}=2`")]
    NoCount(String),
    #[error("`{0}` is not a change to the formation; expected `web=2`, `web+1` or `web-1`")]
    NoChange(String),
    #[error("`{name}-{less}`: only {running} of `{name}` run")]
    TooFew { name: String, less: u32, running: u32 },
    #[error("`{name}+{more}`: that is too many")]
    TooMany { name: String, more: u32 },
    #[error(transparent)]
    Name(#[from] formation::Error),
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // The last operator: a name may contain `-`, but neither `=` nor `+`.
        let (name, rest) = text.split_at(text.rfind(['=', '+', '-']).unwrap_or(0));
        let name = name.trim();
        let to = rest.get(1..).and_then(|number| number.trim().parse().ok());
        let target = match (rest.as_bytes().first(), to) {
            (Some(b'='), Some(to)) => Target::Exactly(to),
            (Some(b'+'), Some(to)) => Target::More(to),
            (Some(b'-'), Some(to)) => Target::Less(to),
            _ if is_name(text) => return Err(Error::NoCount(text.to_owned())),
            _ => return Err(Error::NoChange(text.to_owned())),
        };
        if !is_name(name) {
            return Err(Error::NoChange(text.to_owned()));
        }
        Ok(Self { name: name.to_owned(), to: target })
    }
}

/// Applies the changes to the counts in `before`, for an app that runs `plan`. A change to a named
/// type overrides `all`.
pub fn scale(plan: &Plan, before: &Scaled, changes: &[Change]) -> Result<Scaled, Error> {
    let types = plan.types();
    for change in changes {
        check_name(&change.name, &types)?;
    }
    let mut scaled = before.clone();
    let runnable = types.into_iter().filter(|name| *name != formation::RELEASE);
    for name in runnable {
        let of = |process: &&std::sync::Arc<super::ProcessPlan>| process.process_type == name;
        let mut count = u32::try_from(plan.processes.iter().filter(of).count()).unwrap_or(u32::MAX);
        let named = changes.iter().filter(|change| change.name == name);
        let general = changes.iter().filter(|change| change.name == ALL);
        let mut touched = false;
        for change in general.chain(named) {
            touched = true;
            count = match change.to {
                Target::Exactly(to) => to,
                Target::More(more) => count
                    .checked_add(more)
                    .ok_or_else(|| Error::TooMany { name: name.to_owned(), more })?,
                Target::Less(less) => count.checked_sub(less).ok_or_else(|| {
                    let name = name.to_owned();
                    Error::TooFew { name, less, running: count }
                })?,
            };
        }
        if touched {
            scaled.insert(name.to_owned(), count);
        }
    }
    Ok(scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Options;
    use crate::plan::sources::{EnvFiles, SourceFile, Sources};

    fn plan(procfile: &str, scaled: &Scaled) -> Plan {
        let text = |name: &str, text: &str| SourceFile { name: name.into(), bytes: text.into() };
        let sources = Sources {
            root: "/app".into(),
            procfile: text("Procfile", procfile),
            config: None,
            env: EnvFiles::Named(Vec::new()),
            procfile_is_default: true,
            unread_env: None,
            other_runner_files: Vec::new(),
            environment: Vec::new(),
        };
        Plan::new(&sources, &Options { scaled: scaled.clone(), ..Options::default() }).unwrap()
    }

    const PROCFILE: &str = "web: serve\nmy-worker: work\nrelease: migrate\n";

    fn scaled(changes: &str) -> Result<Scaled, String> {
        let changes: Result<Vec<Change>, Error> = changes.split(' ').map(str::parse).collect();
        let changes = changes.map_err(|error| error.to_string())?;
        let plan = plan(PROCFILE, &Scaled::new());
        scale(&plan, &Scaled::new(), &changes).map_err(|error| error.to_string())
    }

    #[test]
    fn scale_accepts_absolute_and_relative_counts() {
        let shown = |changes| scaled(changes).map(|scaled| format!("{scaled:?}"));
        assert_eq!(shown("web=3"), Ok(r#"{"web": 3}"#.into()));
        assert_eq!(shown("web+2 my-worker-1"), Ok(r#"{"my-worker": 0, "web": 3}"#.into()));
        assert_eq!(shown("web=2 all=0"), Ok(r#"{"my-worker": 0, "web": 2}"#.into()));
    }

    #[test]
    fn invalid_change_is_refused() {
        insta::assert_snapshot!(
            [
                "web",
                "web=x",
                "web=-1",
                "=1",
                "web-2",
                "wep=1",
                "release=1",
                "web=1.5",
                "web=4294967296"
            ]
            .map(|change| scaled(change).unwrap_err())
            .join("\n")
        );
    }
}
