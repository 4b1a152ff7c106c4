//! One process of the plan.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::env::{Env, Origin, Variable};
use super::fail::FailPattern;
use super::needs::Need;
use super::policy::{Policy, Stdin};
use super::ready::Ready;
use super::{Error, sources};

/// The prefix of the variables with the port of each type.
pub(super) const PORT_VAR_PREFIX: &str = "GANGER_PROCESS_";

/// The plan of one process: everything that is needed to run it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProcessPlan {
    /// `web.1`.
    pub name: String,
    /// `web`.
    pub process_type: String,
    /// The command, for the shell.
    pub command: String,
    /// The working directory; absolute.
    pub dir: PathBuf,
    /// The value of PORT, if it has one.
    pub port: Option<u16>,
    /// The environment that all processes share.
    pub shared: Arc<Env>,
    /// Its own variables, which win over the shared ones.
    pub env: Env,
    /// Whether ganger listens on PORT for all instances of the type.
    pub listen: bool,
    /// Whether its output is printed.
    pub shown: bool,
    /// How it is restarted and stopped.
    pub policy: Policy,
    /// Whether it runs on a terminal of its own. Otherwise its output is a pipe.
    pub pty: bool,
    /// Its stdin.
    pub stdin: Stdin,
    /// The readiness probe.
    pub ready: Ready,
    /// A line that matches says that it has failed.
    pub fail: Option<FailPattern>,
    /// How long it may take to become ready, and to wait for its dependencies.
    pub ready_timeout: Duration,
    /// Dependencies: types that are ready before it starts, and stop after it.
    pub after: Vec<String>,
    /// Backing services that must be reachable before it starts.
    pub needs: Vec<Need>,
    /// Globs of files, relative to the root: a change to one restarts the process.
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
        let error = |reason| Error::Folder { name: self.process_type.clone(), reason };
        sources::check_folder(&self.dir).map_err(error)
    }

    /// Whether both have the same dependencies and become ready in the same way.
    #[must_use]
    pub fn has_same_readiness(&self, other: &Self) -> bool {
        self.needs == other.needs
            && self.ready == other.ready
            && self.ready_timeout == other.ready_timeout
    }

    /// Whether both are restarted and stopped in the same way; the command may differ.
    #[must_use]
    pub fn has_same_policy(&self, other: &Self) -> bool {
        self.policy == other.policy
            && self.shown == other.shown
            && self.after == other.after
            && self.watch == other.watch
            && self.fail == other.fail
            && self.has_same_readiness(other)
    }

    /// Whether both run the same command in the same way; the policy may differ.
    #[must_use]
    pub fn has_same_command(&self, other: &Self) -> bool {
        let rest = |process: &Self| (process.port, process.listen, process.stdin);
        let (ours, theirs) = (self.environment(), other.environment());
        // Origins are not compared: they contain line numbers. The port variable of a type that
        // was added or removed does not restart the other types.
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

/// The variables with the name of a process and, as a shell sets it, its working directory: the
/// inherited PWD is ganger's own.
#[must_use]
pub fn identity_variables(name: &str, dir: &Path, compat: bool) -> Env {
    let others: &[&str] =
        if compat { &["FOREMAN_WORKER_NAME", "HONCHO_PROCESS_NAME", "DYNO"] } else { &[] };
    let names = ["PS"].iter().chain(others);
    let names = names.map(|key| (OsString::from(*key), Variable::from_ganger(name.to_owned())));
    let folder = Variable { value: dir.into(), origin: Origin::Ganger };
    names.chain([("PWD".into(), folder)]).collect()
}
