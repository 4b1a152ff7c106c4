//! The processes that a request is about: `web.1`, `web` for all of `web.*`, or a pattern.

use std::collections::{HashMap, HashSet};

use globset::{GlobBuilder, GlobMatcher};

use crate::plan::formation::{ALL, did_you_mean, nearest};
use crate::supervise::supervisor::Status;

/// The number of different names and patterns in one request, and the length of each.
const MAX_NAMES: usize = 256;
const MAX_PATTERNS: usize = 32;
const MAX_NAME_BYTES: usize = 255;

/// The memory that a compiled pattern counts as, which is more than most need.
const PATTERN_MEMORY: usize = 32 << 10;

/// The pattern that every name matches.
const ANY: &str = "*";

/// The reason why names are invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Error {
    #[error("there is no process `{name}`{}", did_you_mean(.nearest.as_deref()))]
    Unknown { name: String, nearest: Option<String> },
    #[error("`{0}` is not a valid name or pattern")]
    Pattern(String),
    #[error("a name of more than {MAX_NAME_BYTES} bytes")]
    TooLong,
    #[error("more than {MAX_NAMES} different names in one request")]
    TooManyNames,
    #[error("more than {MAX_PATTERNS} different patterns in one request")]
    TooManyPatterns,
}

/// Names and patterns without duplicates. They are resolved to processes once for a request.
#[derive(Debug)]
pub(super) struct Names {
    /// In the order of the request.
    all: Vec<String>,
    literal: HashSet<String>,
    patterns: Vec<(String, GlobMatcher)>,
}

impl Names {
    /// Parses names that are separated by commas. It compiles patterns, which takes a while.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        let names = text.split(',').map(|name| if name == ALL { ANY } else { name });
        for name in names.filter(|name| seen.insert(*name)) {
            if name.len() > MAX_NAME_BYTES {
                return Err(Error::TooLong);
            }
            if all.len() == MAX_NAMES {
                return Err(Error::TooManyNames);
            }
            all.push(name.to_owned());
        }
        let (patterns, literal): (Vec<&String>, Vec<&String>) =
            all.iter().partition(|name| name.contains(is_special));
        if patterns.len() > MAX_PATTERNS {
            return Err(Error::TooManyPatterns);
        }
        let compile = |name: &String| {
            let glob = GlobBuilder::new(name).build();
            let glob = glob.map_err(|_| Error::Pattern(name.clone()))?;
            Ok((name.clone(), glob.compile_matcher()))
        };
        let patterns = patterns.into_iter().map(compile).collect::<Result<_, _>>()?;
        let literal = literal.into_iter().cloned().collect();
        Ok(Self { all, literal, patterns })
    }

    /// Whether this name is among them, as such and not by a pattern.
    pub(super) fn is_listed(&self, name: &str) -> bool {
        self.literal.contains(name)
    }

    /// Whether the names include a process of this name, now or later.
    pub(super) fn include(&self, name: &str) -> bool {
        let process_type = type_of(name);
        let is_match =
            |(_, glob): &(String, GlobMatcher)| glob.is_match(name) || glob.is_match(process_type);
        self.literal.contains(name)
            || self.literal.contains(process_type)
            || self.patterns.iter().any(is_match)
    }

    /// The memory that it takes to keep them.
    pub(super) fn memory(&self) -> usize {
        let names: usize = self.all.iter().map(|name| 2 * name.len() + 128).sum();
        names + self.patterns.len() * PATTERN_MEMORY
    }

    /// The positions of the processes that match, in the order of the plan. Each name has to match
    /// at least one process.
    pub(super) fn select(&self, processes: &[Status]) -> Result<Vec<usize>, Error> {
        let names =
            processes.iter().map(|it| (it.plan.name.as_str(), it.plan.process_type.as_str()));
        let names: Vec<(&str, &str)> = names.collect();
        let chosen = self.resolve(&names)?;
        let chosen = chosen.into_iter().enumerate().filter(|(_, chosen)| *chosen);
        Ok(chosen.map(|(index, _)| index).collect())
    }

    /// Which of these, given by name and type, the names include.
    pub(super) fn resolve(&self, names: &[(&str, &str)]) -> Result<Vec<bool>, Error> {
        let mut chosen = vec![false; names.len()];
        let mut positions: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, (name, process_type)) in names.iter().enumerate() {
            positions.entry(name).or_default().push(index);
            if process_type != name {
                positions.entry(process_type).or_default().push(index);
            }
        }
        for name in &self.all {
            let pattern = self.patterns.iter().find(|(pattern, _)| pattern == name);
            let meant: Vec<&usize> = match pattern {
                Some((_, glob)) => {
                    let matching = positions.iter().filter(|(name, _)| glob.is_match(name));
                    matching.flat_map(|(_, positions)| positions).collect()
                }
                None => positions.get(name.as_str()).into_iter().flatten().collect(),
            };
            if meant.is_empty() {
                let nearest = nearest(
                    name,
                    names.iter().flat_map(|(name, process_type)| [*process_type, *name]),
                );
                let nearest = nearest.map(str::to_owned);
                return Err(Error::Unknown { name: name.clone(), nearest });
            }
            for index in meant {
                chosen[*index] = true;
            }
        }
        Ok(chosen)
    }
}

/// The type of a process, by its name.
pub(super) fn type_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(process_type, _)| process_type)
}

/// The characters that make a name a pattern.
fn is_special(char: char) -> bool {
    matches!(char, '*' | '?' | '[' | ']' | '{' | '}' | '!' | '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Vec<bool>, Error> {
        let all = [("web.1", "web"), ("web.2", "web"), ("worker.1", "worker")];
        Names::parse(text)?.resolve(&all)
    }

    #[test]
    fn names_types_and_patterns_choose_processes() {
        assert_eq!(resolve("web"), Ok(vec![true, true, false]));
        assert_eq!(resolve("web.2,worker"), Ok(vec![false, true, true]));
        assert_eq!(resolve("w*"), Ok(vec![true; 3]));
        assert_eq!(resolve("w?b,*.1"), Ok(vec![true; 3]));
        assert_eq!(resolve("all"), Ok(vec![true; 3]));
        let (name, nearest) = ("wep".to_owned(), Some("web".to_owned()));
        assert_eq!(resolve("web,wep"), Err(Error::Unknown { name, nearest }));
        assert_eq!(resolve("[").unwrap_err(), Error::Pattern("[".to_owned()));
    }

    #[test]
    fn later_processes_are_included_by_the_same_rules() {
        let names = Names::parse("web,*.7").unwrap();
        let included = ["web.1", "web.99", "clock.7", "worker.1"].map(|name| names.include(name));
        assert_eq!(included, [true, true, true, false]);
    }
}
