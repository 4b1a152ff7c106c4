//! **What** to run: Procfile, `.env` files, `ganger.toml` and flags in, a
//! [`Plan`] out. Its only effect is reading files.

mod advice;
pub mod config;
pub mod dotenv;
pub mod env;
pub mod fail;
pub mod formation;
pub mod identity;
pub mod needs;
mod options;
pub mod other_runners;
mod policy;
pub mod port;
mod process;
pub mod procfile;
pub mod program;
pub mod ready;
pub mod scale;
pub mod shell;
pub mod sources;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

use config::Config;
use env::{Env, EnvSources, Layer, Origin, Variable};
use formation::FormationRequest;
use needs::Need;
use port::{AutoBlock, Base, Ports};
use ready::Ready;
use sources::{EnvFiles, SourceFile, Sources};

pub use advice::Advice;
pub use options::Options;
pub use policy::{Backoff, OnExit, Policy, Stdin};
use process::PORT_VAR_PREFIX;
pub use process::{ProcessPlan, identity_variables};

/// Everything resolved for a run: the processes and how they run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder of the app; absolute.
    pub root: PathBuf,
    /// The Procfile as the user knows it.
    pub procfile: String,
    /// All process types of the Procfile, in its order.
    pub process_types: Vec<procfile::ProcessType>,
    /// What runs, in the order of the Procfile.
    pub processes: Vec<Arc<ProcessPlan>>,
    /// The shell that runs the commands; absolute.
    pub shell: PathBuf,
    /// The environment that all processes share.
    pub env: Arc<Env>,
    /// Variables that a file and the real environment set differently.
    pub env_conflicts: Vec<String>,
    /// Whether the files win over the real environment.
    pub files_win: bool,
    /// Types that run once because the formation leaves them out.
    pub unlisted: Vec<String>,
    /// The port of the first type's first instance, if there are ports.
    pub base_port: Option<u16>,
    /// The block of ports around it, if it is `auto`.
    pub auto_block: Option<AutoBlock>,
    /// Facts that the user may not expect.
    pub advice: Vec<Advice>,
}

/// Why there is no plan. No error carries a value from a `.env` file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them")]
pub enum Error {
    #[error(transparent)]
    Read(#[from] sources::Error),
    #[error("`{file}` {error}")]
    Procfile { file: String, error: procfile::Error },
    #[error("`{file}` {error}")]
    Dotenv { file: String, error: dotenv::Error },
    #[error(transparent)]
    Env(#[from] env::Error),
    #[error("`{file}` {error}")]
    Config { file: String, error: config::Error },
    #[error(transparent)]
    Formation(#[from] formation::Error),
    #[error(transparent)]
    Port(#[from] port::Error),
    #[error("`PORT` ({origin}) is not a port; expected 1 to 65535")]
    BasePort { origin: Origin },
    #[error(transparent)]
    UnknownType(#[from] options::UnknownType),
    #[error(
        "`{name}` can't be handed a socket: a shell would stay between ganger and its program \
         (put `exec` before the program, or the rest into a script that ends with `exec`)"
    )]
    ShellBetween { name: String },
    #[error("`{config}` line {line}: `{name}` needs {error}")]
    Need { config: String, line: usize, name: String, error: needs::Error },
    #[error("`dir` of `{name}`: {reason}")]
    Folder { name: String, reason: String },
    #[error(
        "`{first}` and `{second}` would both get port {port} (change `port` of one of them in \
         `ganger.toml`)"
    )]
    SamePort { first: String, second: String, port: u16 },
    #[error("`{name}` is configured to listen, but `--no-port` leaves it without a port")]
    NothingToListenOn { name: String },
}

/// Variables that make a language runtime flush each line, although its output is a pipe.
/// Each is set unless the user sets it.
const UNBUFFERED_VARIABLES: [(&str, &str); 1] = [("PYTHONUNBUFFERED", "1")];

/// Variables of a process with a terminal. Each is set unless the user sets it, as is the case
/// where ganger itself runs on one.
const TERMINAL_VARIABLES: [(&str, &str); 1] = [("TERM", "xterm-256color")];

impl Plan {
    /// Resolves everything. Precedence: flags, `ganger.toml`, defaults.
    pub fn new(sources: &Sources, options: &Options) -> Result<Self, Error> {
        let (mut plan, config, ports, files) =
            Self::new_without_processes(sources, options, parse_process_types(sources)?)?;
        let types = plan.types();
        let request = FormationRequest {
            formation: options.formation.as_ref().or(config.formation()),
            chosen: &options.chosen,
            ignored: &options.ignored,
            scaled: Some(&options.scaled),
        };
        let counts = formation::count_instances(&types, &request)?;
        let advice = advice::on_formation(&types, &counts, &config, options);
        plan.advice.extend(advice);
        for (index, count) in counts.by_type.into_iter().enumerate() {
            let process_type = &plan.process_types[index];
            let listen = has_listener(process_type, &config, options);
            if listen && count > 0 {
                check_listen(process_type, ports)?;
            }
            let is_fixed = config.fixed_port(&process_type.name).is_some();
            if let Some(ports) = ports.filter(|_| !listen && !is_fixed) {
                ports.check(&process_type.name, count)?;
            }
            for instance in 1..=count {
                // All instances share the socket, and so the port of the first.
                let port_instance = if listen { 1 } else { instance };
                let port = ports
                    .map(|ports| port_of(ports, &config, &process_type.name, index, port_instance))
                    .transpose()?;
                let name = format!("{}.{instance}", process_type.name);
                let mut process = plan.plan_process(index, name, port, &config, options, &files)?;
                process.needs = resolve_needs(&process, &config, sources)?;
                plan.processes.push(Arc::new(process));
            }
        }
        plan.unlisted = counts.unlisted;
        check_same_ports(&plan.processes)?;
        Ok(plan)
    }

    /// A plan with one process, for `ganger run`: this process type, which may be
    /// `release`, or else a command with this name. The Procfile may be empty.
    pub fn for_run(
        sources: &Sources,
        options: &Options,
        name: &str,
        process_type: Option<&str>,
    ) -> Result<Self, Error> {
        let process_types = if sources.procfile.bytes.is_empty() {
            Vec::new()
        } else {
            parse_process_types(sources)?
        };
        let (mut plan, config, ports, files) =
            Self::new_without_processes(sources, options, process_types)?;
        if let Some(index) =
            plan.process_types.iter().position(|it| Some(it.name.as_str()) == process_type)
        {
            let process_type = &plan.process_types[index].name;
            let port = |ports: Ports| port_of(ports, &config, process_type, index, 1);
            let port = ports.map(port).transpose()?;
            let process =
                plan.plan_process(index, name.to_owned(), port, &config, options, &files)?;
            plan.processes.push(Arc::new(process));
        }
        Ok(plan)
    }

    /// The names of all process types in the Procfile of these sources.
    pub fn parse_types(sources: &Sources) -> Result<Vec<String>, Error> {
        let process_types = parse_process_types(sources)?;
        Ok(process_types.into_iter().map(|process_type| process_type.name).collect())
    }

    fn new_without_processes<'a>(
        sources: &'a Sources,
        options: &Options,
        process_types: Vec<procfile::ProcessType>,
    ) -> Result<(Self, Config, Option<Ports>, EnvSources<'a>), Error> {
        let procfile = sources.procfile.name.clone();
        let types: Vec<&str> =
            process_types.iter().map(|process_type| process_type.name.as_str()).collect();
        let mut config = match &sources.config {
            None => Config::default(),
            Some(text) => config::parse(&text.bytes, &types, &procfile)
                .map_err(|error| Error::Config { file: text.name.clone(), error })?,
        };
        if options.no_fixed_ports {
            config.forget_fixed_ports();
        }
        options.check_names(&types, &procfile)?;
        let mut files = EnvSources {
            real: &sources.environment,
            layers: env_layers(sources, &config)?,
            files_win: options.env_override,
            own: Env::new(),
        };
        let mut resolved = files.resolve()?;
        let auto_block = auto_block(&config, options, sources, &resolved.env, types.len());
        let ports = resolve_ports(&config, options, &resolved.env, auto_block)?;
        add_port_variables(&mut files.own, &process_types, ports, &config);
        if files.refer_to(|name| files.own.contains_key(OsStr::new(name))) {
            // The ports depend on PORT of the files, and other variables on the ports.
            resolved = files.resolve()?;
        }
        if options.port.is_some() && ports.is_some() {
            // `-p` overrides both values of PORT.
            resolved.env_conflicts.retain(|key| key != "PORT");
        }
        let advice = advice::on_files(sources, &config, options, &resolved.env);
        let mut env = resolved.env;
        env.extend(files.own.clone());
        if let Some(path) = &options.control {
            let control = Variable { value: path.into(), origin: Origin::Ganger };
            env.insert("GANGER_CONTROL".into(), control);
        }
        let plan = Self {
            root: sources.root.clone(),
            procfile,
            processes: Vec::new(),
            shell: options.shell.clone().unwrap_or_else(|| PathBuf::from(shell::DEFAULT)),
            env: Arc::new(env),
            env_conflicts: resolved.env_conflicts,
            files_win: options.env_override,
            unlisted: Vec::new(),
            base_port: ports.map(|ports| ports.base),
            auto_block,
            advice,
            process_types,
        };
        Ok((plan, config, ports, files))
    }

    /// Fails if a process would be started in a folder that does not exist.
    pub fn check_folders(&self) -> Result<(), Error> {
        self.processes.iter().try_for_each(|process| process.check_folder())
    }

    /// The names of all process types, in the order of the Procfile.
    #[must_use]
    pub fn types(&self) -> Vec<&str> {
        self.process_types.iter().map(|process_type| process_type.name.as_str()).collect()
    }

    fn plan_process(
        &self,
        index: usize,
        name: String,
        port: Option<u16>,
        config: &Config,
        options: &Options,
        files: &EnvSources,
    ) -> Result<ProcessPlan, Error> {
        let process_type = &self.process_types[index];
        let from_file = config.process(&process_type.name);
        let mut env = Env::new();
        for (key, value) in from_file.into_iter().flat_map(|process| &process.env) {
            let key = OsString::from(key);
            let real = self.env.get(&key).is_some_and(|var| var.origin == Origin::Environment);
            if !real || self.files_win {
                env.insert(key, Variable { value: value.into(), origin: Origin::Config });
            }
        }
        let dir = from_file.and_then(|process| process.dir.as_ref());
        let dir = dir.map_or_else(|| self.root.clone(), |dir| self.root.join(dir));
        env.extend(identity_variables(&name, &dir, options.compat_env));
        let defaults: &[_] = if options.pty { &TERMINAL_VARIABLES } else { &UNBUFFERED_VARIABLES };
        for (key, value) in defaults {
            let key = OsString::from(key);
            if !env.contains_key(&key) && !self.env.contains_key(&key) {
                env.insert(key, Variable::from_ganger((*value).to_owned()));
            }
        }
        if let Some(port) = port {
            let port = Variable::from_ganger(port.to_string());
            for (key, var) in files.resolve_for_port(&port)? {
                let shared = self.env.get(&key);
                if shared.is_some_and(|shared| shared.value != var.value) {
                    env.entry(key).or_insert(var);
                }
            }
            env.insert(PORT.into(), port);
        }
        let ready = choose_probe(process_type, port, config, options);
        Ok(ProcessPlan {
            process_type: process_type.name.clone(),
            command: process_type.command.clone(),
            dir,
            port,
            shared: Arc::clone(&self.env),
            env,
            listen: has_listener(process_type, config, options),
            shown: !options.is_quiet(&process_type.name),
            policy: options.resolve_policy(&process_type.name, from_file),
            pty: options.pty,
            stdin: from_file.and_then(|process| process.stdin).unwrap_or_default(),
            fail: from_file.and_then(|process| process.fail.clone()),
            ready_timeout: from_file
                .and_then(|process| process.ready_timeout)
                .unwrap_or(ready.default_timeout()),
            ready,
            after: from_file
                .map(config::ProcessConfig::after)
                .unwrap_or_default()
                .into_iter()
                .map(Into::into)
                .collect(),
            needs: Vec::new(),
            watch: from_file
                .into_iter()
                .flat_map(config::ProcessConfig::watch)
                .map(Into::into)
                .collect(),
            name,
        })
    }
}

fn parse_process_types(sources: &Sources) -> Result<Vec<procfile::ProcessType>, Error> {
    let SourceFile { name, bytes } = &sources.procfile;
    procfile::parse(bytes).map_err(|error| Error::Procfile { file: name.clone(), error })
}

/// Whether ganger listens for this type.
fn has_listener(process_type: &procfile::ProcessType, config: &Config, options: &Options) -> bool {
    let from_file = config.process(&process_type.name).and_then(|process| process.listen);
    options.listen.contains(&process_type.name) || from_file.unwrap_or_default()
}

/// The readiness probe: as configured, else the port for `web` and for dependencies.
fn choose_probe(
    process_type: &procfile::ProcessType,
    port: Option<u16>,
    config: &Config,
    options: &Options,
) -> Ready {
    let from_file = config.process(&process_type.name).and_then(|process| process.ready.clone());
    let counts = process_type.name == "web" || config.is_dependency(&process_type.name);
    match from_file {
        // A port on which ganger itself listens is bound before the process starts.
        Some(Ready::Port) | None if has_listener(process_type, config, options) => Ready::Started,
        Some(Ready::Port | Ready::Http(_)) if port.is_none() => Ready::Started,
        Some(ready) => ready,
        None if counts && port.is_some() => Ready::Port,
        None => Ready::Started,
    }
}

/// The backing services of a process, resolved in its environment.
fn resolve_needs(
    process: &ProcessPlan,
    config: &Config,
    sources: &Sources,
) -> Result<Vec<Need>, Error> {
    let from_file = config.process(&process.process_type);
    let need = |(text, at): (&str, usize)| {
        Need::from_env(text, &process.shared, &process.env).map_err(|error| {
            let (config, line) = match &sources.config {
                Some(text) => (text.name.clone(), config::line_of(&text.bytes, at)),
                None => Default::default(),
            };
            Error::Need { config, line, name: process.process_type.clone(), error }
        })
    };
    from_file.into_iter().flat_map(config::ProcessConfig::needs).map(need).collect()
}

fn check_listen(process_type: &procfile::ProcessType, ports: Option<Ports>) -> Result<(), Error> {
    let name = process_type.name.clone();
    match ports {
        None => Err(Error::NothingToListenOn { name }),
        Some(_) if !shell::is_replaced(&process_type.command) => Err(Error::ShellBetween { name }),
        Some(_) => Ok(()),
    }
}

/// The name of the variable with the port of a type's first instance.
#[must_use]
pub fn type_port_variable(process_type: &str) -> String {
    format!("{PORT_VAR_PREFIX}{}_PORT", process_type.replace('-', "_"))
}

/// Adds a variable with the port of each type's first instance. If types share a variable, as
/// `foo-bar` and `foo_bar` do, the type with that exact name wins, else the first in the Procfile.
fn add_port_variables(
    env: &mut Env,
    process_types: &[procfile::ProcessType],
    ports: Option<Ports>,
    config: &Config,
) {
    let Some(ports) = ports else { return };
    let (other, exact): (Vec<_>, Vec<_>) = process_types
        .iter()
        .enumerate()
        .partition(|(_, process_type)| process_type.name.contains('-'));
    for (index, process_type) in other.into_iter().rev().chain(exact) {
        if let Ok(port) = port_of(ports, config, &process_type.name, index, 1) {
            let key = type_port_variable(&process_type.name);
            env.insert(key.into(), Variable::from_ganger(port.to_string()));
        }
    }
}

fn env_layers(sources: &Sources, config: &Config) -> Result<Vec<Layer>, Error> {
    let texts = match (&sources.env, &config.env) {
        (EnvFiles::Named(texts), _) => texts.clone(),
        (EnvFiles::Default(_), Some(paths)) => {
            paths.iter().map(|path| sources.read_env(path)).collect::<Result<_, _>>()?
        }
        (EnvFiles::Default(text), None) => text.iter().cloned().collect(),
    };
    let parse = |text: sources::SourceFile| match dotenv::parse(&text.bytes) {
        Ok(assignments) => Ok(Layer { file: text.name, assignments }),
        Err(error) => Err(Error::Dotenv { file: text.name, error }),
    };
    texts.into_iter().map(parse).collect()
}

/// The port of an instance: after the fixed port of its type, if that has one.
fn port_of(
    ports: Ports,
    config: &Config,
    name: &str,
    index: usize,
    instance: u32,
) -> Result<u16, port::Error> {
    match config.fixed_port(name) {
        Some(first) => Ports { base: first, ..ports }.port(name, 0, instance),
        None => ports.port(name, index, instance),
    }
}

/// Fails if two processes would get the same port, which only fixed ports can cause.
fn check_same_ports(processes: &[Arc<ProcessPlan>]) -> Result<(), Error> {
    let mut owners: HashMap<u16, &ProcessPlan> = HashMap::new();
    for process in processes {
        let Some(port) = process.port else { continue };
        let other = owners.insert(port, process);
        // Instances of a type for which ganger listens share a port.
        let is_other =
            |other: &&ProcessPlan| other.process_type != process.process_type || !process.listen;
        if let Some(other) = other.filter(is_other) {
            let (first, second) = (other.name.clone(), process.name.clone());
            return Err(Error::SamePort { first, second, port });
        }
    }
    Ok(())
}

/// The block of ports that is derived from the app, if the base port is `auto`: the first one that
/// has no fixed port.
fn auto_block(
    config: &Config,
    options: &Options,
    sources: &Sources,
    env: &Env,
    types: usize,
) -> Option<AutoBlock> {
    let is_auto = match (options.port, port_variable(env)) {
        (Some(base), _) => base == Base::Auto,
        (None, Some(_)) => false,
        (None, None) => config.port == Some(Base::Auto),
    };
    let step = options.port_step.unwrap_or(port::DEFAULT.step);
    let derive = || {
        let usual = AutoBlock::derive(options.identity.hash(&sources.root), types, step);
        let has_fixed = |block: &AutoBlock| config.fixed_ports().any(|port| block.contains(port));
        usual.and_others().find(|block| !has_fixed(block)).unwrap_or(usual)
    };
    (is_auto && !options.no_port).then(derive)
}

fn port_variable(env: &Env) -> Option<&Variable> {
    env.get(OsStr::new(PORT)).filter(|var| !var.value.is_empty())
}

fn resolve_ports(
    config: &Config,
    options: &Options,
    env: &Env,
    auto_block: Option<AutoBlock>,
) -> Result<Option<Ports>, Error> {
    if options.no_port {
        return Ok(None);
    }
    let step = options.port_step.unwrap_or(port::DEFAULT.step);
    let base = match (auto_block, options.port, port_variable(env)) {
        (Some(block), _, _) => options.auto_base.unwrap_or_else(|| block.base()),
        (None, Some(Base::At(port)), _) => port,
        (None, Some(Base::Auto) | None, Some(var)) => {
            let parsed = var.value.to_str().and_then(|text| port::parse_port(text).ok());
            parsed.ok_or_else(|| Error::BasePort { origin: var.origin.clone() })?
        }
        (None, Some(Base::Auto) | None, None) => match config.port {
            Some(Base::At(port)) => port,
            Some(Base::Auto) | None => port::DEFAULT.base,
        },
    };
    Ok(Some(Ports { base, step }))
}

/// The name of the variable with the port of a process.
const PORT: &str = "PORT";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::Signal;

    use super::*;
    use formation::Formation;
    use identity::Identity;

    const PROCFILE: &str = "web: serve\nrelease: migrate\nmy-worker: work\nclock: tick\n";

    fn sources(config: &str, env: &str, real: &[(&str, &str)]) -> Sources {
        let text = |name: &str, text: &str| SourceFile { name: name.into(), bytes: text.into() };
        Sources {
            root: "/app".into(),
            procfile: text("Procfile", PROCFILE),
            config: Some(text("ganger.toml", config)),
            env: EnvFiles::Default(Some(text(".env", env))),
            procfile_is_default: true,
            unread_env: None,
            other_runner_files: Vec::new(),
            environment: real.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        }
    }

    fn resolve_ports(
        sources: &Sources,
        options: &Options,
    ) -> Result<Vec<(String, Option<u16>)>, String> {
        let plan = Plan::new(sources, options).map_err(|error| error.to_string())?;
        Ok(plan.processes.iter().map(|process| (process.name.clone(), process.port)).collect())
    }

    #[test]
    fn type_keeps_its_ports_when_others_are_left_out() {
        let plain = sources("", "", &[]);
        let options = Options {
            chosen: "my-worker=2,clock".parse::<Formation>().unwrap().0,
            ..Options::default()
        };
        let expected = [("my-worker.1", 5200), ("my-worker.2", 5201), ("clock.1", 5300)];
        let expected = expected.map(|(name, port)| (name.to_owned(), Some(port)));
        assert_eq!(resolve_ports(&plain, &options).unwrap(), expected);
    }

    #[test]
    fn base_port_follows_precedence() {
        let base = |config: &str, env: &str, real: &[(&str, &str)], port| {
            let options = Options { port, ..Options::default() };
            resolve_ports(&sources(config, env, real), &options).map(|found| found[0].1.unwrap())
        };
        assert_eq!(
            base("port = 2000", "PORT=4000", &[("PORT", "3000")], Some(Base::At(1000))),
            Ok(1000)
        );
        assert_eq!(base("port = 2000", "PORT=4000", &[("PORT", "3000")], None), Ok(3000));
        assert_eq!(base("port = 2000", "PORT=4000", &[], None), Ok(4000));
        assert_eq!(base("port = 2000", "PORT=", &[], None), Ok(2000));
        assert_eq!(base("port = 2000", "", &[], None), Ok(2000));
        assert_eq!(base("", "PORT=", &[], None), Ok(5000));
        let error = base("", "A=1\nPORT=hunter2", &[], None).unwrap_err();
        assert_eq!(error, "`PORT` (.env:2) is not a port; expected 1 to 65535");
    }

    #[test]
    fn auto_base_depends_on_root_procfile_and_name() {
        let base = |config: &str, env: &str, options: &Options| {
            resolve_ports(&sources(config, env, &[]), options).unwrap()[0].1.unwrap()
        };
        let auto = Options { port: Some(Base::Auto), ..Options::default() };
        let derived = base("", "", &auto);
        assert!((10_000..32_000).contains(&derived) && derived.is_multiple_of(100), "{derived}");
        assert_eq!(base("", "PORT=3000", &auto), derived, "the flag wins");
        assert_eq!(base("port = 'auto'", "", &Options::default()), derived);
        assert_eq!(base("port = 'auto'", "PORT=3000", &Options::default()), 3000);
        let named = |name: &str| {
            let identity = Identity { name: Some(name.into()), ..Identity::default() };
            base("", "", &Options { identity, ..auto.clone() })
        };
        let bases: std::collections::HashSet<u16> =
            ["a", "b", "c", "d"].map(named).into_iter().chain([derived]).collect();
        assert!(bases.len() > 3, "{bases:?}");
        assert_eq!(base("", "", &Options { auto_base: Some(12_300), ..auto }), 12_300);
    }

    #[test]
    fn reference_to_a_port_sees_the_port_of_the_process() {
        let env = "WEB=http://localhost:$GANGER_PROCESS_web_PORT\nMINE=:${PORT}\nDEEP=$MINE/x\n";
        let value = |sources: &Sources, process: usize, key: &str| {
            let options = Options { port: Some(Base::At(7000)), ..Options::default() };
            let plan = Plan::new(sources, &options).unwrap();
            let env = plan.processes[process].environment();
            env[OsStr::new(key)].value.to_str().unwrap().to_owned()
        };
        for real in [&[][..], &[("PORT", "3000")]] {
            let sources = sources("", env, real);
            for process in [0, 1] {
                assert_eq!(value(&sources, process, "WEB"), "http://localhost:7000");
            }
            assert_eq!(value(&sources, 0, "DEEP"), ":7000/x");
            assert_eq!(value(&sources, 1, "DEEP"), ":7200/x");
        }
        let sources = sources("[process.web]\nenv = { MINE = 'own' }", env, &[("DEEP", "real")]);
        assert_eq!(value(&sources, 0, "MINE"), "own");
        assert_eq!(value(&sources, 0, "DEEP"), "real");
    }

    #[test]
    fn type_with_the_exact_name_has_the_port_variable() {
        let port = |procfile: &str, key: &str| {
            let procfile = SourceFile { name: "Procfile".into(), bytes: procfile.into() };
            let sources = Sources { procfile, ..sources("", "", &[]) };
            let plan = Plan::new(&sources, &Options::default()).unwrap();
            plan.env[std::ffi::OsStr::new(key)].value.to_str().unwrap().to_owned()
        };
        let key = "GANGER_PROCESS_foo_bar_PORT";
        assert_eq!(port("foo-bar: a\nfoo_bar: b\n", key), "5100");
        assert_eq!(port("foo_bar: b\nfoo-bar: a\n", key), "5000");
        assert_eq!(port("a-b_c: a\na_b-c: b\n", "GANGER_PROCESS_a_b_c_PORT"), "5000");
    }

    #[test]
    fn process_environment_has_identity_and_ports() {
        let config = "[process.web]\nenv = { A = 'config', B = 'config', C = 'config' }";
        let sources = sources(config, "A=file", &[("B", "real")]);
        let options = Options { compat_env: true, ..Options::default() };
        let plan = Plan::new(&sources, &options).unwrap();
        let env = plan.processes[0].environment();
        let shown: Vec<String> = env
            .iter()
            .map(|(key, var)| format!("{}={}", key.display(), var.value.display()))
            .collect();
        insta::assert_debug_snapshot!(shown);
    }

    #[test]
    fn flags_override_config_file() {
        let config = "[process.web]\non_exit = 'restart'\ngrace = '9s'\nstop_signal = 'QUIT'\n\
                      backoff = { min = '1m' }\n[process.clock]\non_exit = 'ignore'\n";
        let policies = |options: Options| {
            let plan = Plan::new(&sources(config, "", &[]), &options).unwrap();
            plan.processes.iter().map(|process| process.policy).collect::<Vec<_>>()
        };
        let plain = policies(Options::default());
        assert_eq!(plain[0].on_exit, OnExit::Restart);
        assert_eq!(plain[0].grace, Duration::from_secs(9));
        assert_eq!(plain[0].stop_signal, Signal::SIGQUIT);
        assert_eq!(plain[0].backoff.max, Duration::from_mins(1));
        assert_eq!(plain[1], Policy::default());
        let flagged = policies(Options {
            grace: Some(Duration::from_secs(1)),
            can_die: vec!["web".into()],
            auto_restart: vec!["all".into()],
            stop_signals: vec![("web".into(), Signal::SIGINT)],
            ..Options::default()
        });
        assert_eq!(flagged[0].on_exit, OnExit::Ignore);
        assert_eq!(flagged[0].grace, Duration::from_secs(1));
        assert_eq!(flagged[0].stop_signal, Signal::SIGINT);
        assert_eq!(flagged[2].on_exit, OnExit::Restart);
    }
}
