//! Facts about a plan that its user may not expect; each is a message at the start.

use std::ffi::OsStr;

use super::config::Config;
use super::env::{Env, Origin};
use super::formation::{ALL, InstanceCounts, Term};
use super::options::Options;
use super::sources::Sources;

/// Something about the plan that the user may not expect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Advice {
    /// A `.env` file beside the Procfile is not read: the Procfile is in another folder.
    UnreadEnv {
        /// The file.
        file: String,
    },
    /// A `.env` file sets the variable of a flag, which has no effect there.
    FlagVariable {
        /// The variable.
        variable: String,
        /// The file and line.
        origin: Origin,
        /// The flag: `--port`.
        flag: String,
        /// The key of `ganger.toml` with the same meaning, if there is one.
        key: Option<&'static str>,
    },
    /// Another runner takes the name of the Procfile from a variable.
    ProcfileVariable {
        /// The place where it is set.
        origin: Origin,
    },
    /// The formation lists types that don't run, because other types were named.
    TypesLeftOut {
        /// The types that don't run, with their counts: `web=2`.
        left_out: Vec<String>,
        /// The types that were named, with their counts.
        named: Vec<String>,
    },
    /// A process type runs, but one of its dependencies does not.
    DependencyNotInFormation {
        /// The type that runs.
        name: String,
        /// Its dependency that does not run.
        after: String,
    },
}

/// The variables of flags, each with the key of `ganger.toml` that has the same meaning.
const KEYS: [(&str, &str); 9] = [
    ("GANGER_ENV", "env"),
    ("GANGER_FORMATION", "formation"),
    ("GANGER_PORT", "port"),
    ("GANGER_AUTO_RESTART", "on_exit"),
    ("GANGER_CAN_DIE", "on_exit"),
    ("GANGER_ANY_CAN_DIE", "on_exit"),
    ("GANGER_STOP_SIGNALS", "stop_signal"),
    ("GANGER_TIMEOUT", "grace"),
    ("GANGER_LISTEN", "listen"),
];

/// Advice about the files.
pub(super) fn on_files(
    sources: &Sources,
    config: &Config,
    options: &Options,
    env: &Env,
) -> Vec<Advice> {
    let mut advice = Vec::new();
    if let Some(file) = sources.unread_env.as_ref().filter(|_| config.env.is_none()) {
        advice.push(Advice::UnreadEnv { file: file.clone() });
    }
    if let Some(var) = env.get(OsStr::new("PROCFILE")).filter(|_| sources.procfile_is_default) {
        let is_other = var.value != sources.procfile.name.as_str() && !var.value.is_empty();
        if is_other {
            advice.push(Advice::ProcfileVariable { origin: var.origin.clone() });
        }
    }
    for (variable, flag) in &options.flag_variables {
        let Some(var) = env.get(OsStr::new(variable)) else { continue };
        if matches!(var.origin, Origin::File { .. }) {
            let key = KEYS.iter().find(|(name, _)| name == variable).map(|(_, key)| *key);
            let (variable, flag, origin) = (variable.clone(), flag.clone(), var.origin.clone());
            advice.push(Advice::FlagVariable { variable, origin, flag, key });
        }
    }
    advice
}

/// Advice about the types that run, and those that do not.
pub(super) fn on_formation(
    types: &[&str],
    counts: &InstanceCounts,
    config: &Config,
    options: &Options,
) -> Vec<Advice> {
    let mut advice = Vec::new();
    let runs = |name: &str| {
        let index = types.iter().position(|it| *it == name);
        index.is_some_and(|index| counts.by_type[index] > 0)
    };
    let is_chosen = |name: &str| options.chosen.iter().any(|it| it.name == name || it.name == ALL);
    let formation = options.formation.as_ref().filter(|_| options.formation_is_flag);
    let terms = formation.map_or(&[][..], |formation| &formation.0);
    let write = |term: &Term| {
        let listed = || terms.iter().find(|it| it.name == term.name)?.count;
        format!("{}={}", term.name, term.count.or_else(listed).unwrap_or(1))
    };
    if !options.chosen.is_empty() {
        let is_left_out =
            |term: &&Term| term.count != Some(0) && term.name != ALL && !is_chosen(&term.name);
        let left_out: Vec<String> = terms.iter().filter(is_left_out).map(write).collect();
        if !left_out.is_empty() {
            let named = options.chosen.iter().map(write).collect();
            advice.push(Advice::TypesLeftOut { left_out, named });
        }
    }
    for name in types.iter().filter(|name| runs(name)) {
        for after in
            config.process(name).map(super::config::ProcessConfig::after).unwrap_or_default()
        {
            if !runs(after) {
                let (name, after) = ((*name).to_owned(), after.to_owned());
                advice.push(Advice::DependencyNotInFormation { name, after });
            }
        }
    }
    advice
}
