//! The formation: how many processes of each type.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::procfile::is_name;

/// One term of a formation: `web=2`, `all=0`, or the name of a type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Term {
    /// A process type, or `all`.
    pub name: String,
    /// The number; `None` for a name alone.
    pub count: Option<u32>,
}

/// A list of terms: `web=2,worker=4`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Formation(pub Vec<Term>);

/// Why a formation is invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not a number.
    #[error("formation: `{count}` is not a valid instance count; expected `{name}=2`")]
    Count {
        /// The text in place of the number.
        count: String,
        /// The process type.
        name: String,
    },
    /// `web=2 worker=1`.
    #[error("formation: separate types with a comma: `{0}`")]
    MissingComma(String),
    /// `web:2`.
    #[error("formation: `{found}` is written `{meant}`")]
    Colon {
        /// The text.
        found: String,
        /// The same with a `=`.
        meant: String,
    },
    /// No number where one is needed.
    #[error("formation: how many? `{0}=2`")]
    NoCount(String),
    /// A type that the Procfile doesn't have.
    #[error("the Procfile has no `{name}`{}", did_you_mean(.nearest.as_deref()))]
    Unknown {
        /// The name.
        name: String,
        /// The most similar name in the Procfile.
        nearest: Option<String>,
    },
    /// A type has two counts.
    #[error("formation names `{0}` twice")]
    Duplicate(String),
    /// `release` is not part of a formation.
    #[error("`release` is not part of the formation: it runs once, with `ganger run release`")]
    Release,
    /// The Procfile has only `release`.
    #[error("the Procfile has only `release`, which runs once: `ganger run release`")]
    OnlyRelease,
    /// More instances than `MAX_INSTANCES`, probably a typing error.
    #[error("formation: {count} processes of `{name}` are too many (limit {MAX_INSTANCES})")]
    TooMany {
        /// The process type.
        name: String,
        /// How many.
        count: u32,
    },
    /// All counts are 0.
    #[error("the formation has no process: give a type at least one, as in `{0}=1`")]
    NoProcess(String),
}

/// The maximum number of instances of one type.
const MAX_INSTANCES: u32 = 10_000;

/// ` (did you mean …?)`, or nothing.
#[must_use]
pub fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(" (did you mean `{nearest}`?)"))
}

/// The name in `known` that is most similar, if one is similar enough.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(similarity, _)| *similarity >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// The process type that `release` commands run under; never part of a formation.
pub const RELEASE: &str = "release";

/// The name that means all process types.
pub const ALL: &str = "all";

impl FromStr for Formation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
        terms.map(parse_term).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_term(text: &str) -> Result<Term, Error> {
    let Some((name, count)) = text.split_once('=') else {
        return match text.split_once(':') {
            Some((name, count)) if is_name(name) && count.parse::<u32>().is_ok() => {
                Err(Error::Colon { found: text.to_owned(), meant: format!("{name}={count}") })
            }
            Some(_) | None => Ok(Term { name: text.to_owned(), count: None }),
        };
    };
    let (name, count) = (name.trim().to_owned(), count.trim());
    match count.parse() {
        Ok(count) => Ok(Term { name, count: Some(count) }),
        Err(_) if count.contains('=') && text.contains(char::is_whitespace) => {
            Err(Error::MissingComma(text.split_whitespace().collect::<Vec<_>>().join(",")))
        }
        Err(_) => Err(Error::Count { count: count.to_owned(), name }),
    }
}

/// The requested formation, from all sources.
#[derive(Clone, Debug, Default)]
pub struct FormationRequest<'a> {
    /// `--formation`, or `formation` of ganger.toml.
    pub formation: Option<&'a Formation>,
    /// Types named on the command line; if there are any, no others run.
    pub chosen: &'a [Term],
    /// Types that do not run.
    pub ignored: &'a [String],
    /// Numbers set by `scale` while the app runs; they take precedence over everything else.
    pub scaled: Option<&'a BTreeMap<String, u32>>,
}

/// The number of instances of each type, in the order of the Procfile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InstanceCounts {
    /// The numbers.
    pub by_type: Vec<u32>,
    /// Types that run once because a formation leaves them out.
    pub unlisted: Vec<String>,
}

/// Decides how many processes of each type run.
pub fn count_instances(
    types: &[&str],
    request: &FormationRequest,
) -> Result<InstanceCounts, Error> {
    let listed = request.formation.map_or(&[][..], |formation| &formation.0);
    for term in listed.iter().chain(request.chosen) {
        check_name(&term.name, types)?;
    }
    for name in request.ignored {
        check_name(name, types)?;
    }
    for (index, term) in listed.iter().enumerate() {
        if term.count.is_none() {
            return Err(Error::NoCount(term.name.clone()));
        }
        if listed[..index].iter().any(|other| other.name == term.name) {
            return Err(Error::Duplicate(term.name.clone()));
        }
    }
    let in_formation = |name: &str| listed.iter().find(|term| term.name == name)?.count;
    let all = in_formation(ALL);
    let is_ignored = |name: &str| request.ignored.iter().any(|other| other == name || other == ALL);
    let scaled = |name: &str| request.scaled.and_then(|scaled| scaled.get(name)).copied();
    let mut unlisted = Vec::new();
    let mut by_type = Vec::new();
    for &name in types {
        let chosen = request.chosen.iter().rev().find(|term| term.name == name || term.name == ALL);
        let count = match (in_formation(name), chosen) {
            _ if name == RELEASE => 0,
            _ if let Some(count) = scaled(name) => count,
            _ if is_ignored(name) => 0,
            (_, Some(Term { count: Some(count), .. })) => *count,
            (listed, Some(Term { count: None, .. })) => listed.unwrap_or(1),
            (_, None) if !request.chosen.is_empty() => 0,
            (Some(count), None) => count,
            (None, None) => {
                if request.formation.is_some() && all.is_none() {
                    unlisted.push(name.to_owned());
                }
                all.unwrap_or(1)
            }
        };
        if count > MAX_INSTANCES {
            return Err(Error::TooMany { name: name.to_owned(), count });
        }
        by_type.push(count);
    }
    let is_scaled = request.scaled.is_some_and(|scaled| !scaled.is_empty());
    if !is_scaled && by_type.iter().all(|&count| count == 0) {
        let example = types.iter().find(|name| **name != RELEASE);
        let error = |name: &&str| Error::NoProcess((*name).to_owned());
        return Err(example.map_or(Error::OnlyRelease, error));
    }
    Ok(InstanceCounts { by_type, unlisted })
}

pub(super) fn check_name(name: &str, types: &[&str]) -> Result<(), Error> {
    match name {
        RELEASE => Err(Error::Release),
        ALL => Ok(()),
        known if types.contains(&known) => Ok(()),
        unknown => Err(Error::Unknown {
            name: unknown.to_owned(),
            nearest: nearest(unknown, types.iter().copied()).map(str::to_owned),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPES: [&str; 4] = ["web", "release", "worker", "clock"];

    fn counts(formation: &str, chosen: &str) -> Result<Vec<u32>, String> {
        let parse = |text: &str| text.parse::<Formation>().map_err(|error| error.to_string());
        let formation = if formation.is_empty() { None } else { Some(parse(formation)?) };
        let chosen = parse(chosen)?.0;
        let request = FormationRequest {
            formation: formation.as_ref(),
            chosen: &chosen,
            ignored: &[],
            scaled: None,
        };
        match count_instances(&TYPES, &request) {
            Ok(counts) => Ok(counts.by_type),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn formation_and_chosen_types_set_instance_counts() {
        assert_eq!(counts("", ""), Ok(vec![1, 0, 1, 1]));
        assert_eq!(counts("worker=4", ""), Ok(vec![1, 0, 4, 1]));
        assert_eq!(counts("all=0,worker=1", ""), Ok(vec![0, 0, 1, 0]));
        assert_eq!(counts("all=2", ""), Ok(vec![2, 0, 2, 2]));
        assert_eq!(counts("", "web=2,clock"), Ok(vec![2, 0, 0, 1]));
        assert_eq!(counts("all=0,web=3", "web,worker"), Ok(vec![3, 0, 1, 0]));
        assert_eq!(counts("web=0", ""), Ok(vec![0, 0, 1, 1]));
    }

    #[test]
    fn invalid_formation_is_refused() {
        let error = |formation, chosen| counts(formation, chosen).unwrap_err();
        let unknown = "the Procfile has no `wroker` (did you mean `worker`?)";
        assert_eq!(error("wroker=1", ""), unknown);
        assert_eq!(error("", "zzz"), "the Procfile has no `zzz`");
        let negative = "formation: `-1` is not a valid instance count; expected `web=2`";
        assert_eq!(error("web=-1", ""), negative);
        assert_eq!(error("worker", ""), "formation: how many? `worker=2`");
        assert_eq!(error("worker:3", ""), "formation: `worker:3` is written `worker=3`");
        let blank = "formation: separate types with a comma: `web=2,worker=1`";
        assert_eq!(error("web=2 worker=1", ""), blank);
        assert_eq!(error("web=1,web=2", ""), "formation names `web` twice");
        assert_eq!(error("", "release"), Error::Release.to_string());
        assert_eq!(error("all=0", ""), Error::NoProcess("web".into()).to_string());
        assert_eq!(
            count_instances(&["release"], &FormationRequest::default()),
            Err(Error::OnlyRelease)
        );
        let many = "formation: 40000000 processes of `web` are too many (limit 10000)";
        assert_eq!(error("web=40000000", ""), many);
    }

    #[test]
    fn types_missing_from_formation_are_listed() {
        let formation = "worker=2".parse().unwrap();
        let request =
            FormationRequest { formation: Some(&formation), ..FormationRequest::default() };
        let counts = count_instances(&TYPES, &request).unwrap();
        assert_eq!(counts.unlisted, ["web", "clock"]);
    }

    proptest! {
        #[test]
        fn never_panics(formation in "[a-z=,0-9-]{0,30}", chosen in "[a-z=,0-9]{0,20}") {
            let _ = counts(&formation, &chosen);
        }
    }
}
