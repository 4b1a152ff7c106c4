//! One process of the plan.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::env::{Env, Origin, Variable};
use super::needs::Need;
use super::policy::{Policy, Stdin};
use super::ready::Ready;
use super::{Error, sources};

/// How the variables begin that tell every process where the others listen.
pub(super) const PORT_VAR_PREFIX: &str = "GANGER_PROCESS_";

/// One running instance of a process type, to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProcessPlan {
    /// `web.1`.
    pub name: String,
    /// `web`.
    pub kind: String,
    /// What the shell is given.
    pub command: String,
    /// The working directory; absolute.
    pub dir: PathBuf,
    /// The value of PORT, if it is given one.
    pub port: Option<u16>,
    /// The environment that all processes share.
    pub shared: Arc<Env>,
    /// What it has beside that, or instead of it.
    pub env: Env,
    /// Whether ganger listens there, for all instances of the type together.
    pub listen: bool,
    /// Whether what it says is shown.
    pub shown: bool,
    /// How it is kept.
    pub policy: Policy,
    /// What it reads.
    pub stdin: Stdin,
    /// When it is ready.
    pub ready: Ready,
    /// How long that may take, and how long it waits for what it needs.
    pub ready_timeout: Duration,
    /// The types that are ready before it starts, and stopped after it.
    pub after: Vec<String>,
    /// What is there before it starts.
    pub needs: Vec<Need>,
    /// Patterns of the files whose change starts it again, relative to the root.
    pub watch: Vec<String>,
}

impl ProcessPlan {
    /// All its variables, its own over the shared ones.
    #[must_use]
    pub fn environment(&self) -> Env {
        let mut env = Env::clone(&self.shared);
        env.extend(self.env.iter().map(|(key, var)| (key.clone(), var.clone())));
        env
    }

    /// Fails if its folder does not exist.
    pub fn check_folder(&self) -> Result<(), Error> {
        let error = |reason| Error::Folder { name: self.kind.clone(), reason };
        sources::check_folder(&self.dir).map_err(error)
    }

    /// Whether the two wait for the same, and are waited for in the same way.
    #[must_use]
    pub fn has_same_readiness(&self, other: &Self) -> bool {
        self.needs == other.needs
            && self.ready == other.ready
            && self.ready_timeout == other.ready_timeout
    }

    /// Whether what is kept by the one is kept just so by the other; how it runs may
    /// differ.
    #[must_use]
    pub fn has_same_policy(&self, other: &Self) -> bool {
        self.policy == other.policy
            && self.shown == other.shown
            && self.after == other.after
            && self.watch == other.watch
            && self.has_same_readiness(other)
    }

    /// Whether what runs by the one would run just so by the other; how it is kept
    /// may differ.
    #[must_use]
    pub fn has_same_command(&self, other: &Self) -> bool {
        let rest = |process: &Self| (process.port, process.listen, process.stdin);
        let (ours, theirs) = (self.environment(), other.environment());
        // Where a value stands may have changed, as every line number does. And that
        // there is another type now, or no longer, is no news to those that run.
        let known = |env: &Env, key: &OsString| {
            env.contains_key(key) || !key.as_encoded_bytes().starts_with(PORT_VAR_PREFIX.as_bytes())
        };
        let same = |one: &Env, other: &Env| {
            let mut pairs = one.iter().filter(|(key, _)| known(other, key));
            pairs.all(|(key, var)| other.get(key).is_some_and(|it| it.value == var.value))
        };
        self.command == other.command
            && self.dir == other.dir
            && rest(self) == rest(other)
            && same(&ours, &theirs)
            && same(&theirs, &ours)
    }
}

/// The variables that tell a process its own name and, as a shell would, where it
/// is: what was inherited names ganger's own folder.
#[must_use]
pub fn identity_variables(name: &str, dir: &Path, compat: bool) -> Env {
    let others: &[&str] =
        if compat { &["FOREMAN_WORKER_NAME", "HONCHO_PROCESS_NAME", "DYNO"] } else { &[] };
    let names = ["PS"].iter().chain(others);
    let names = names.map(|key| (OsString::from(*key), Variable::from_ganger(name.to_owned())));
    let folder = Variable { value: dir.into(), origin: Origin::Ganger };
    names.chain([("PWD".into(), folder)]).collect()
}
