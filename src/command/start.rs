//! `ganger start`: run the formation in the foreground.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::dup2_stdout;

use super::daemon::{self, Background, ForkSide, Startup};
use super::focus::{self, Focus};
use super::port_block::PortBlock;
use super::ports::{self, ResolvedPorts};
use super::{file_locations, identity, ps, read, ui, use_color};
use crate::cli::{Global, Start, When};
use crate::control::app::SelfDescription;
use crate::control::app_root::AppRoot;
use crate::control::last_run;
use crate::control::planner::{Planner, PlannerHandle};
use crate::control::registration::Registration;
use crate::control::revisions::Revisions;
use crate::control::run_file::RunFile;
use crate::control::server::{self, Server};
use crate::control::socket::{self, Aliases, Bound};
use crate::control::thread::Thread;
use crate::keeper;
use crate::keeper::client::Keeper;
use crate::keeper::stale_sessions::{self, SessionMarker};
use crate::keeper::start::StartedKeeper;
use crate::logs::format::Style;
use crate::logs::terminal::LongLines;
use crate::logs::{self, Logs};
use crate::notice::Notice;
use crate::panics;
use crate::plan::identity::Identity;
use crate::plan::sources::Sources;
use crate::plan::{Options, Plan, other_runners};
use crate::runtime_dir::{self, RuntimeDir};
use crate::supervise::display::Show;
use crate::supervise::engine::{Ended, Engine};
use crate::supervise::handle::Handle;
use crate::supervise::listeners::Listeners;
use crate::supervise::signals::Signals;
use crate::ui::user_terminal::{GuardSide, UserTerminal};

/// How many descriptors ganger itself needs before the first process.
const NEEDED_DESCRIPTORS: usize = 16;

pub(super) fn start(global: &Global, start: Start) -> anyhow::Result<u8> {
    let has_viewer = start.ui || start.focus.is_some();
    let terminal = if has_viewer {
        if start.ui {
            ui::check_terminal()?;
        } else {
            focus::check_terminal()?;
        }
        let terminal = UserTerminal::new()?;
        if let GuardSide::Guard(code) = terminal.fork_guard()? {
            return Ok(code);
        }
        Some(terminal)
    } else {
        None
    };
    let is_background = start.daemonize || has_viewer;
    let prints_json = start.json;
    let detach_keys = start.detach.keys.clone();
    let focus = start
        .focus
        .as_ref()
        .map(|process| Focus::new(process, &start, use_color(global.color, &std::io::stdout())));
    match is_background.then(|| daemon::fork_background(None)).transpose()? {
        None => start_app(global, start, None),
        Some(ForkSide::Background(background)) => {
            if start.json {
                // The foreground process prints the JSON. What is printed here is none.
                dup2_stdout(std::io::stderr()).context("failed to prepare the output")?;
            }
            start_app(global, start, Some(background))
        }
        Some(ForkSide::Foreground(mut foreground)) => match foreground.await_startup()? {
            Startup::Released(_) if start.ui => {
                let shown = ui::show(global, &detach_keys, true);
                let code = foreground.quit();
                shown.map(|_| code)
            }
            Startup::Released(_) if let (Some(focus), Some(terminal)) = (&focus, &terminal) => {
                focus.run(global, terminal, &foreground)
            }
            Startup::Released(code) if prints_json => {
                ps::print_json(global).map(|printed| if code == 0 { printed } else { code })
            }
            Startup::Released(code) | Startup::Exited(code) => Ok(code),
        },
    }
}

/// Starts the app in this process, and runs it to its end.
pub(super) fn start_app(
    global: &Global,
    start: Start,
    background: Option<Background>,
) -> anyhow::Result<u8> {
    // It starts while ganger reads the files.
    let keeper = start_keeper(start.isolate)?;
    let options = Options {
        grace: start.timeout,
        auto_restart: start.auto_restart,
        can_die: start.can_die,
        any_can_die: start.any_can_die,
        listen: start.listen,
        quiet: start.quiet,
        stop_signals: start.stop_signals,
        pty: match start.pty {
            When::Always => true,
            When::Never => false,
            When::Auto => std::io::stdout().is_terminal(),
        },
        ..start.plan.options()?
    };
    let locations = file_locations(global);
    let sources = read(&locations)?;
    let root = AppRoot::new(&locations.root(), sources.root.clone());
    let identity = identity(global, &locations, &root.real);
    let Control { bound, registration, runtime_dir, notices: first } =
        listen(global.socket.as_deref(), &root, &identity, background.is_some())?;
    let path = bound.as_ref().map(|bound| bound.path.clone());
    let mut options = Options { control: path, identity: identity.clone(), ..options };
    let plan = Plan::new(&sources, &options)?;
    plan.check_folders()?;
    if let Some(process) = &start.focus {
        focus::check(&plan, process)?;
    }
    // Orphans of an earlier ganger may use the ports.
    let stale_sessions: Vec<_> = runtime_dir::search_path()
        .flat_map(|folder| stale_sessions::kill_stale_orphans(&folder))
        .collect();
    let folder = runtime_dir.as_ref().map(|dir| dir.path.as_path());
    let ResolvedPorts { plan, notices: on_ports, block } =
        ports::resolve_ports(plan, &sources, &mut options, folder)?;
    let mut notices = first;
    if !stale_sessions.is_empty() {
        notices.push(Notice::StaleSessions { members: stale_sessions });
    }
    notices.extend(on_ports);
    notices.extend(other_runners_notices(&sources));
    let sockets = Listeners::default().for_plan(&plan)?;
    let style = Style {
        color: use_color(global.color, &std::io::stdout()),
        timestamp: start.timestamp && !start.no_timestamp,
        prefix: !start.no_prefix,
        width: 0,
    };
    let long_lines = if start.long.are_cut() { LongLines::Trim } else { LongLines::Wrap };
    let show = Show {
        style: style.fit_names(plan.processes.iter().map(|process| process.name.as_str())),
        palette: start.colors,
    };
    let _title = Title::set(start.title.as_deref().filter(|_| background.is_none()));
    let revision = Revisions::default();
    let planner = Planner { locations, sources, options, registration, revision };
    let run = Run {
        plan,
        sockets,
        show,
        colored_notices: use_color(global.color, &std::io::stderr()),
        long_lines,
        recent: start.recent.unwrap_or(logs::recent::DEFAULT_RECENT_BYTES),
        keeper,
        background,
        has_viewer: start.ui || start.focus.is_some(),
        runtime_dir,
        real_root: root.real,
        identity,
        own_socket: global.socket.clone(),
        _ports: block,
        notices,
    };
    supervise(run, planner, bound)
}

/// Messages about settings files of other runners, which ganger does not read.
fn other_runners_notices(sources: &Sources) -> impl Iterator<Item = Notice> {
    sources.other_runner_files.iter().filter_map(|text| {
        let settings = other_runners::list_settings(&text.name, &text.bytes);
        let file = text.name.clone();
        (!settings.is_empty()).then_some(Notice::OtherRunner { file, settings })
    })
}

/// What runs, and how its output is printed and kept.
struct Run {
    plan: Plan,
    sockets: Listeners,
    show: Show,
    colored_notices: bool,
    long_lines: LongLines,
    recent: usize,
    keeper: StartedKeeper,
    background: Option<Background>,
    /// Whether the app is shown by another process, and ends with it.
    has_viewer: bool,
    runtime_dir: Option<RuntimeDir>,
    /// The folder of the app without symbolic links.
    real_root: PathBuf,
    identity: Identity,
    /// `-s`.
    own_socket: Option<PathBuf>,
    _ports: Option<PortBlock>,
    /// Messages to print before anything runs.
    notices: Vec<Notice>,
}

/// How clients find this ganger.
struct Control {
    bound: Option<Bound>,
    registration: Registration,
    runtime_dir: Option<RuntimeDir>,
    /// Messages about it.
    notices: Vec<Notice>,
}

/// Binds the control socket of the app in the folder `root`, or at `path`. If no folder can be
/// used, ganger runs without a socket, unless it runs in the background.
fn listen(
    path: Option<&Path>,
    root: &AppRoot,
    identity: &Identity,
    in_background: bool,
) -> anyhow::Result<Control> {
    if path.is_none() {
        socket::check_vacant(root, identity)?;
    }
    let dir = RuntimeDir::create().inspect_err(|error| tracing::debug!(%error));
    let mut notices = Vec::new();
    if let Ok(RuntimeDir { path, fallback_reason: Some(reason), .. }) = &dir {
        let (reason, path) = (reason.to_string(), path.display().to_string());
        notices.push(Notice::RuntimeDirFallback { reason, path });
    }
    let bound = match (path, &dir) {
        (Some(path), _) => Ok((socket::bind(&std::path::absolute(path)?)?, None)),
        (None, Ok(dir)) => match bind(&dir.path, root, identity) {
            Ok((bound, aliases)) => Ok((bound, Some(aliases))),
            Err(running @ socket::Error::AlreadyRunning { .. }) => return Err(running.into()),
            Err(
                other @ (socket::Error::Refused { .. }
                | socket::Error::Occupied(_)
                | socket::Error::ForeignLock(_)),
            ) => Err(other.to_string()),
        },
        (None, Err(error)) => Err(format!("{error} (name a socket with `-s`)")),
    };
    let (bound, aliases) = match bound {
        Ok((bound, aliases)) => (Some(bound), aliases),
        Err(reason) if in_background => bail!("there is no place for the control socket: {reason}"),
        Err(reason) => {
            notices.push(Notice::NoControlSocket { reason });
            (None, None)
        }
    };
    let run_file = bound.as_ref().zip(dir.as_ref().ok()).and_then(|(bound, dir)| {
        let created = RunFile::create(&dir.path, root, identity, &bound.path);
        created.inspect_err(|error| tracing::debug!(%error)).ok()
    });
    let registration = Registration { aliases, run_file };
    Ok(Control { bound, registration, runtime_dir: dir.ok(), notices })
}

fn bind(
    folder: &Path,
    root: &AppRoot,
    identity: &Identity,
) -> Result<(Bound, Aliases), socket::Error> {
    let bound = socket::bind(&folder.join(socket::name_of(&root.real, identity)))?;
    let mut aliases = Aliases::new(&bound, identity.clone());
    aliases.set(root)?;
    Ok((bound, aliases))
}

/// The flags by which commands find this ganger, each followed by a blank.
fn flags(identity: &Identity, own_socket: Option<&Path>) -> String {
    let path = |flag: &str, path: &Path| format!("{flag} {} ", path.display());
    let socket = own_socket.map(|socket| path("-s", socket));
    let procfile = identity.procfile.as_deref().filter(|procfile| procfile.as_os_str() != "-");
    let procfile = procfile.map(|procfile| path("-f", procfile));
    let name = identity.name.as_ref().map(|name| format!("--name {name} "));
    match socket {
        Some(socket) => socket,
        None => procfile.into_iter().chain(name).collect(),
    }
}

/// Runs the plan to its end, and returns the exit code.
fn supervise(run: Run, mut planner: Planner, control: Option<Bound>) -> anyhow::Result<u8> {
    let run_path = planner.registration.run_file.as_ref().map(|file| file.path().to_owned());
    // The app of a command, and one with a socket of its own, leave what an earlier one has left.
    let has_command = run.background.as_ref().is_some_and(Background::has_command);
    let run_path = run_path.filter(|_| !has_command && run.own_socket.is_none());
    // What it leaves is only kept for an app in the background.
    let is_kept = run.background.is_some() && !run.has_viewer;
    let Run { plan, sockets, show, keeper, background, runtime_dir, identity, own_socket, .. } =
        run;
    let flags = flags(&identity, own_socket.as_deref());
    let base_port = plan.base_port;
    let about = SelfDescription {
        root: plan.root.clone(),
        identity,
        started: Instant::now(),
        revision: planner.revision.subscribe(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("failed to start the engine")?;
    let ended = runtime.block_on(async {
        let pid = keeper.pid();
        let keeper = Keeper::new(keeper).context("failed to talk to the keeper")?;
        let signals =
            Signals::listen(background.is_some()).context("failed to listen for signals")?;
        let (logs, threads) =
            Logs::new(show.style, run.colored_notices, run.long_lines, run.recent)
                .context("failed to prepare the output")?;
        for notice in run.notices {
            logs.print_message(notice);
        }
        let mut engine = Engine::new(plan, sockets, show, keeper, logs, signals);
        if background.is_some() {
            engine.survive_closed_stdout();
        }
        engine.begin().await;
        // The keeper starts processes while ganger does the following.
        let _trace =
            runtime_dir.as_ref().and_then(|dir| SessionMarker::create(&dir.path, pid).ok());
        planner.registration.set_base_port(base_port);
        // The other process shows everything from the beginning.
        if run.has_viewer {
            daemon::release_streams();
        }
        threads.start().context("failed to start the output")?;
        // A start that was refused has kept it.
        if let Some(path) = &run_path {
            last_run::forget(path);
        }
        let handle = engine.handle();
        planner.revision.refresh(&run.real_root);
        let clients = Thread::start().context("failed to start a thread for clients")?;
        let (requests, planner) = planner.start(&clients, handle.clone());
        let mut command = None;
        if let Some(background) = background {
            if let Some(link) = background.command_link() {
                tokio::spawn(link.quit_with_command(handle.clone()));
            }
            command = background.command_link();
            let (engine, planner) = (handle.clone(), requests.clone());
            tokio::spawn(daemon::reload_on_hangup(engine, planner));
            if run.has_viewer {
                tokio::spawn(background.release_for_viewer(handle.clone()));
            } else {
                tokio::spawn(background.release(handle.clone(), flags));
            }
        }
        let serve = |bound: Bound| serve(bound, &clients, handle, requests, about);
        let control = control.map(serve).transpose()?;
        let Ended { code, report, recent } = engine.run().await;
        if let Some(command) = command {
            command.finish();
        }
        if let Some(path) = run_path.filter(|_| is_kept) {
            last_run::leave(&path, code, report, recent.as_ref())
                .unwrap_or_else(|error| tracing::debug!(%error));
        }
        let (bound, server) = control.unzip();
        if let Some(server) = &server {
            server.finish().await;
        }
        // The run file goes before the socket: the next ganger may have the same names.
        planner.finish().await;
        drop(bound);
        Ok((code, server, clients))
    });
    // Nothing but this process is left now.
    let code = ended.map(|(code, server, _clients)| {
        runtime.block_on(async {
            if let Some(server) = server {
                server.tell_end(code).await;
            }
        });
        code
    });
    // Clients that are still connected are not waited for.
    runtime.shutdown_background();
    code
}

fn start_keeper(isolate: bool) -> anyhow::Result<StartedKeeper> {
    spare_descriptors()?;
    let keeper = keeper::start::start_keeper(isolate).context(if isolate {
        "failed to isolate"
    } else {
        "failed to start the keeper"
    })?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If this is refused, an error comes when descriptors run out.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    Ok(keeper)
}

/// Serves clients as long as the socket exists.
fn serve(
    bound: Bound,
    clients: &Thread,
    engine: Handle,
    planner: PlannerHandle,
    about: SelfDescription,
) -> anyhow::Result<(Bound, Server)> {
    let listener = bound.listener.try_clone().context("failed to listen")?;
    panics::silence_caught();
    Ok((bound, server::start(clients, listener, engine, planner, about)))
}

/// Fails if the limit of open files is too low to start.
fn spare_descriptors() -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    let spare: Result<Vec<_>, _> =
        (0..NEEDED_DESCRIPTORS).map(|_| stdin.as_fd().try_clone_to_owned()).collect();
    match spare {
        Ok(_) => Ok(()),
        Err(error) => Err(error).context("failed to start"),
    }
}

/// Sets the title of the terminal's window, and restores it at the end (xterm control sequences,
/// "window manipulation").
struct Title;

impl Title {
    fn set(title: Option<&str>) -> Option<Self> {
        let title = title.filter(|_| std::io::stdout().is_terminal())?;
        let printable: String = title.chars().filter(|char| !char.is_control()).collect();
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "\x1b[22;0t\x1b]0;{printable}\x07").and_then(|()| stdout.flush());
        Some(Self)
    }
}

impl Drop for Title {
    fn drop(&mut self) {
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "\x1b[23;0t").and_then(|()| stdout.flush());
    }
}
