//! Which processes are meant: `web.1`, `web` for all of `web.*`, or a pattern.

use globset::{GlobBuilder, GlobMatcher};

use crate::logs::follow::Filter;
use crate::plan::formation::{did_you_mean, nearest};
use crate::supervise::supervisor::Status;

/// Nobody is called so.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Error {
    #[error("there is no process `{name}`{}", did_you_mean(.nearest.as_deref()))]
    Nobody { name: String, nearest: Option<String> },
    #[error("`{0}` is no name and no pattern")]
    Pattern(String),
}

/// Whom `patterns` mean, be they there now or later.
pub(super) fn filter(patterns: &[&str]) -> Result<Filter, Error> {
    let globs = patterns.iter().map(|pattern| glob(pattern)).collect::<Result<Vec<_>, _>>()?;
    let means = move |name: &str| {
        let kind = name.rsplit_once('.').map_or(name, |(kind, _)| kind);
        globs.iter().any(|glob| glob.is_match(name) || glob.is_match(kind))
    };
    Ok(Filter(Box::new(means)))
}

fn glob(pattern: &str) -> Result<GlobMatcher, Error> {
    let glob = GlobBuilder::new(pattern).build();
    Ok(glob.map_err(|_| Error::Pattern(pattern.to_owned()))?.compile_matcher())
}

/// All that one of `patterns` means, in the order of the plan.
pub(super) fn select<'a>(
    patterns: &[&str],
    processes: &'a [Status],
) -> Result<Vec<&'a Status>, Error> {
    let mut chosen = vec![false; processes.len()];
    for &pattern in patterns {
        let glob = glob(pattern)?;
        let means = |status: &Status| {
            let plan = &status.plan;
            glob.is_match(&plan.name) || glob.is_match(&plan.kind)
        };
        let mut any = false;
        for (status, chosen) in processes.iter().zip(&mut chosen) {
            let is_one = means(status);
            *chosen |= is_one;
            any |= is_one;
        }
        if !any {
            let known = processes.iter().flat_map(|it| [it.plan.kind.as_str(), &it.plan.name]);
            let nearest = nearest(pattern, known).map(str::to_owned);
            return Err(Error::Nobody { name: pattern.to_owned(), nearest });
        }
    }
    let pairs = processes.iter().zip(chosen);
    Ok(pairs.filter(|(_, chosen)| *chosen).map(|(status, _)| status).collect())
}
