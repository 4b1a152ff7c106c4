//! The flags that concern the plan, and their `GANGER_*` variables.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::config;
use super::formation::{Formation, RELEASE, Term, did_you_mean, nearest};
use super::identity::Identity;
use super::policy::{Backoff, OnExit, Policy};
use super::port::Base;
use super::scale::Scaled;

/// The flags.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--formation`.
    pub formation: Option<Formation>,
    /// Whether it comes from the command line, not from a variable.
    pub formation_is_flag: bool,
    /// Process types that were named; if there are any, no others run.
    pub chosen: Vec<Term>,
    /// `--ignored-processes`.
    pub ignored: Vec<String>,
    /// `--port`.
    pub port: Option<Base>,
    /// The base that `auto` means, if it is not the one that is derived from the app.
    pub auto_base: Option<u16>,
    /// The Procfile and `--name`, from which `auto` derives the base.
    pub identity: Identity,
    /// `--port-step`.
    pub port_step: Option<u16>,
    /// `--no-port`.
    pub no_port: bool,
    /// Fixed ports of the configuration do not count: another ganger may use them.
    pub no_fixed_ports: bool,
    /// `--timeout`.
    pub grace: Option<Duration>,
    /// `--auto-restart`.
    pub auto_restart: Vec<String>,
    /// `--can-die`.
    pub can_die: Vec<String>,
    /// `--any-can-die`.
    pub any_can_die: bool,
    /// `--listen`.
    pub listen: Vec<String>,
    /// `--quiet`.
    pub quiet: Vec<String>,
    /// `--stop-signals`.
    pub stop_signals: Vec<(String, Signal)>,
    /// `--pty`: whether processes run on terminals of their own.
    pub pty: bool,
    /// `--shell`; absolute.
    pub shell: Option<PathBuf>,
    /// `--env-override`.
    pub env_override: bool,
    /// `--compat-env`.
    pub compat_env: bool,
    /// The path of the control socket, which every process gets as a variable.
    pub control: Option<PathBuf>,
    /// The variables behind the flags, each with its flag.
    pub flag_variables: Vec<(String, String)>,
    /// Changes by `scale` since the start.
    pub scaled: Scaled,
}

/// A flag names an unknown process type.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{flag}` names `{name}`, which is not in `{procfile}`{}", did_you_mean(.nearest.as_deref()))]
pub struct UnknownType {
    /// The flag.
    pub flag: &'static str,
    /// The name.
    pub name: String,
    /// The Procfile as the user knows it.
    pub procfile: String,
    /// The most similar name in the Procfile.
    pub nearest: Option<String>,
}

impl Options {
    /// These options without the types that are not `known`: a running app may have been started
    /// with types that its Procfile no longer has.
    #[must_use]
    pub fn restricted_to(&self, known: &[String]) -> Self {
        let is_known = |name: &String| name == "all" || known.contains(name);
        let names = |list: &[String]| list.iter().filter(|it| is_known(it)).cloned().collect();
        let terms = |list: &[Term]| {
            list.iter().filter(|term| is_known(&term.name)).cloned().collect::<Vec<_>>()
        };
        let scaled = self.scaled.iter().filter(|(name, _)| is_known(name));
        let signals = self.stop_signals.iter().filter(|(name, _)| is_known(name));
        Self {
            formation: self.formation.as_ref().map(|formation| Formation(terms(&formation.0))),
            chosen: terms(&self.chosen),
            ignored: names(&self.ignored),
            auto_restart: names(&self.auto_restart),
            can_die: names(&self.can_die),
            listen: names(&self.listen),
            quiet: names(&self.quiet),
            stop_signals: signals.cloned().collect(),
            scaled: scaled.map(|(name, count)| (name.clone(), *count)).collect(),
            ..self.clone()
        }
    }

    /// Fails if a flag names an unknown type.
    pub(super) fn check_names(&self, types: &[&str], procfile: &str) -> Result<(), UnknownType> {
        let check = |flag, name: &str| {
            if types.contains(&name) && name != RELEASE {
                return Ok(());
            }
            let nearest = nearest(name, types.iter().copied()).map(str::to_owned);
            let (name, procfile) = (name.to_owned(), procfile.to_owned());
            Err(UnknownType { flag, name, procfile, nearest })
        };
        for name in self.auto_restart.iter().filter(|name| *name != "all") {
            check("--auto-restart", name)?;
        }
        for name in &self.can_die {
            check("--can-die", name)?;
        }
        for name in &self.listen {
            check("--listen", name)?;
        }
        for name in self.quiet.iter().filter(|name| *name != "all") {
            check("--quiet", name)?;
        }
        for (name, _) in &self.stop_signals {
            check("--stop-signals", name)?;
        }
        Ok(())
    }

    /// Whether the output of a process type is not printed.
    pub(super) fn is_quiet(&self, process_type: &str) -> bool {
        is_all(&self.quiet) || self.quiet.iter().any(|name| name == process_type)
    }

    /// The policy of a process type: by the flags, else by `ganger.toml`.
    pub(super) fn resolve_policy(
        &self,
        process_type: &str,
        config: Option<&config::ProcessConfig>,
    ) -> Policy {
        let default = Policy::default();
        let names = |list: &[String]| list.iter().any(|name| name == process_type);
        let backoff = config.map(|process| process.backoff).unwrap_or_default();
        let on_exit = if names(&self.auto_restart) {
            OnExit::Restart
        } else if names(&self.can_die) {
            OnExit::Ignore
        } else if is_all(&self.auto_restart) {
            OnExit::Restart
        } else if self.any_can_die {
            OnExit::Ignore
        } else {
            config.and_then(|process| process.on_exit).unwrap_or(default.on_exit)
        };
        let signal = self.stop_signals.iter().rev().find(|(name, _)| name == process_type);
        let signal = signal.map(|(_, signal)| *signal);
        let min = backoff.min.unwrap_or(default.backoff.min);
        Policy {
            on_exit,
            backoff: Backoff {
                min,
                max: backoff.max.unwrap_or(default.backoff.max).max(min),
                give_up_after: backoff.give_up_after,
            },
            stop_signal: signal
                .or_else(|| config.and_then(|process| process.stop_signal))
                .unwrap_or(default.stop_signal),
            grace: self
                .grace
                .or_else(|| config.and_then(|process| process.grace))
                .unwrap_or(default.grace),
        }
    }
}

fn is_all(list: &[String]) -> bool {
    list.iter().any(|name| name == "all")
}
