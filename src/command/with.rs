//! `ganger with`: starts the app, waits until all of it is ready, runs a command beside it, and
//! stops everything.
//!
//! The app runs in a ganger in the background, as with `start -D`, which stops when this process is
//! gone, however it ends. The command is a child of this process, in the same session and process
//! group, so that the terminal and the shell treat both as one job.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid, getpgrp, tcgetpgrp};
use tokio::process::Child;
use tokio::time::{sleep, sleep_until};

use super::client_commands::{exit_code, path};
use super::daemon::{self, Foreground, ForkSide, Startup};
use super::run::{self, Prepared};
use super::{file_locations, identity, print_error, start};
use crate::cli::{Global, With};
use crate::control::api::{ProcessStatus, State};
use crate::control::app_root::AppRoot;
use crate::control::client::{Client, Error, percent_encode};
use crate::control::socket;
use crate::keeper::command::CommandSession;
use crate::notice::{escape_controls, time};
use crate::plan::formation::ALL;
use crate::plan::port::Base;

/// The exit code if the app was not ready in time, or failed while the command ran.
const APP_FAILED: u8 = 125;
/// How long the app may take to be ready, unless the user chose another time.
const READY_TIMEOUT: Duration = Duration::from_mins(5);
/// The time between SIGTERM and SIGKILL for the command, unless the user chose another time.
const GRACE: Duration = Duration::from_secs(5);
/// The pause between two searches for what a command has started, and how many must find nothing: a
/// process that is about to execute its program has no environment for a moment.
const REST_PAUSE: Duration = Duration::from_millis(50);
const QUIET_SEARCHES: u32 = 3;
/// What is said if the app ends or fails while the command runs.
const DID_NOT_STAY_UP: &str = "the app did not stay up";
/// The pause before it is asked again whether the app has failed, if too many others ask.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn with(global: Global, with: With) -> anyhow::Result<u8> {
    run_with_app(global, with).or_else(exit_code)
}

fn run_with_app(mut global: Global, mut with: With) -> anyhow::Result<u8> {
    let limit = with.start.timeout.take().unwrap_or(READY_TIMEOUT);
    with.start.timeout = with.grace;
    (with.start.daemonize, with.start.ui, with.start.focus) = (false, false, None);
    if with.fresh {
        global.name = Some(format!("with-{}", std::process::id()));
        let ports = &mut with.start.plan.ports;
        // The variable is that of the app that runs already.
        let variable = std::env::var("GANGER_PORT").ok().and_then(|it| Base::parse(&it).ok());
        ports.no_fixed_ports = true;
        ports.port = ports.port.filter(|port| variable != Some(*port)).or(Some(Base::Auto));
    } else if let Some(client) = find_running(&global)? {
        let names = with.start.plan.names();
        let session = CommandSession::begin()?;
        return block_on(attach(&global, &with, &client, &names, &session, limit));
    }
    // It has to begin before the app: what the app leaves comes to this process, too.
    let session = CommandSession::begin()?;
    let held = tempfile::tempfile().context("failed to make a file for messages")?;
    match daemon::fork_background(Some(&session))? {
        ForkSide::Background(background) => {
            let output = if with.show {
                std::io::stderr().as_fd().try_clone_to_owned()?
            } else {
                with.start.quiet = vec![ALL.to_owned()];
                held.as_fd().try_clone_to_owned()?
            };
            nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
            nix::unistd::dup2_stdout(&output)?;
            nix::unistd::dup2_stderr(&output)?;
            start::start_app(&global, with.start, Some(background))
        }
        ForkSide::Foreground(app) => {
            block_on(App { foreground: app, held }.run(&global, &with, &session, limit))
        }
    }
}

fn block_on(run: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to wait for the app")?.block_on(run)
}

/// The ganger that runs this app already, as `start` would find it, if there is one.
fn find_running(global: &Global) -> anyhow::Result<Option<Client>> {
    if let Some(path) = &global.socket {
        return Ok(socket::is_bound(path, geteuid()).then(|| Client::at(path.clone())));
    }
    let locations = file_locations(global);
    let root = AppRoot::find(&locations)?;
    let identity = identity(global, &locations, &root.real);
    Ok(socket::find(&root, &identity).map(Client::at))
}

/// The app of this command, in a ganger in the background.
struct App {
    foreground: Foreground,
    /// What that ganger prints.
    held: File,
}

/// Why the command did not run to its end.
struct AppFailure {
    message: String,
    /// The processes whose output explains it.
    names: Vec<String>,
}

impl App {
    async fn run(
        mut self,
        global: &Global,
        with: &With,
        session: &CommandSession,
        limit: Duration,
    ) -> anyhow::Result<u8> {
        let mut signals = run::Signals::listen().context("failed to listen for signals")?;
        let code = self.run_command(global, with, session, limit, &mut signals).await;
        self.foreground.quit_with(&mut signals).await;
        session.kill_rest();
        code
    }

    async fn run_command(
        &mut self,
        global: &Global,
        with: &With,
        session: &CommandSession,
        limit: Duration,
        signals: &mut run::Signals,
    ) -> anyhow::Result<u8> {
        let since = Instant::now();
        let startup = tokio::select! {
            startup = self.foreground.wait_until_started() => Some(startup?),
            signal = signals.next_end() => return Ok(128 + u8::try_from(signal as i32).unwrap_or_default()),
            () = sleep(limit) => None,
        };
        if let Some(Startup::Exited(code)) = startup {
            self.print_held();
            return Ok(if code == super::USAGE { code } else { APP_FAILED });
        }
        let client = find_running(global)?.context("the app does not answer")?;
        if startup != Some(Startup::Released(0)) {
            self.print_held();
            let failure = not_ready(&client, ALL, startup.is_none().then_some(limit)).await;
            report(&client, &failure, since).await;
            return Ok(APP_FAILED);
        }
        let code = beside(global, with, &client, ALL, session, signals, since).await?;
        if code.is_none() {
            // The last messages come when it has ended.
            self.foreground.quit_with(signals).await;
            self.print_held();
        }
        Ok(code.unwrap_or(APP_FAILED))
    }

    /// Prints what was held back.
    fn print_held(&self) {
        let mut bytes = [0; 8 << 10];
        let mut at = 0;
        while let Ok(count @ 1..) = self.held.read_at(&mut bytes, at) {
            let _ = std::io::stderr().write_all(&bytes[..count]);
            at += count as u64;
        }
    }
}

/// Runs the command beside an app that runs already, and goes on running.
async fn attach(
    global: &Global,
    with: &With,
    client: &Client,
    names: &[String],
    session: &CommandSession,
    limit: Duration,
) -> anyhow::Result<u8> {
    let mut signals = run::Signals::listen().context("failed to listen for signals")?;
    let since = Instant::now();
    let uri = path(names, &format!("/wait?for=ready&timeout={}", limit.as_secs_f64()));
    let ready = tokio::select! {
        ready = client.ask::<Vec<ProcessStatus>>(Method::GET, &uri, Vec::new()) => ready,
        signal = signals.next_end() => return Ok(128 + u8::try_from(signal as i32).unwrap_or_default()),
    };
    let all = if names.is_empty() { ALL.to_owned() } else { names.join(",") };
    let code = match ready {
        Ok(_) => beside(global, with, client, &all, session, &mut signals, since).await?,
        Err(Error::TimedOut(message)) => {
            let failure = AppFailure { message, ..not_ready(client, &all, None).await };
            report(client, &failure, since).await;
            None
        }
        Err(error) => return Err(error.into()),
    };
    session.kill_rest();
    Ok(code.unwrap_or(APP_FAILED))
}

/// Runs the command, as long as none of these processes fails. Returns its exit code; none if one
/// has failed, which is reported with its output since that time.
async fn beside(
    global: &Global,
    with: &With,
    client: &Client,
    names: &str,
    session: &CommandSession,
    signals: &mut run::Signals,
    since: Instant,
) -> anyhow::Result<Option<u8>> {
    let processes: Vec<ProcessStatus> = client.ask(Method::GET, "/processes", Vec::new()).await?;
    let ports = with.start.plan.ports;
    let common = &with.start.plan.common;
    let mut prepared = Prepared::beside(global, common, ports, &with.command, &processes)?;
    prepared.command.env("GANGER_CONTROL", std::path::absolute(client.path())?);
    // Commands of ganger in it mean the same app.
    let path = |path: &PathBuf| std::path::absolute(path);
    let procfile = global.procfile.as_ref().filter(|it| it.as_os_str() != "-");
    let chosen = [
        ("GANGER_SOCKET", global.socket.as_ref().map(path).transpose()?.map(OsString::from)),
        ("GANGER_ROOT", global.root.as_ref().map(path).transpose()?.map(OsString::from)),
        ("GANGER_PROCFILE", procfile.map(path).transpose()?.map(OsString::from)),
        ("GANGER_NAME", global.name.as_ref().map(OsString::from)),
    ];
    for (variable, value) in chosen {
        prepared.command.envs(value.map(|value| (variable, value)));
    }
    session.mark(&mut prepared.command);
    let mut child = match prepared.spawn() {
        Ok(child) => child,
        Err(code) => return Ok(Some(code)),
    };
    let mut failed = std::pin::pin!(wait_for_failure(client, names));
    let grace = with.grace.unwrap_or(GRACE);
    let (mut exited, mut app_failed, mut kill_at) = (None, false, None);
    let (mut suspends, mut interrupts, mut quiet_searches) = (false, 0, 0);
    loop {
        tokio::select! {
            status = child.wait(), if exited.is_none() => exited = Some(status?),
            failure = &mut failed, if !app_failed && exited.is_none() => {
                // What it has printed is lost when it ends, which may be soon.
                report(client, &failure, since).await;
                app_failed = true;
                signal_all(session, &child, Signal::SIGTERM);
                kill_at.get_or_insert(Instant::now() + grace);
            }
            signal = signals.next() => match signal {
                Signal::SIGCHLD => run::suspend_with(&child, &mut suspends)?,
                Signal::SIGTSTP => {
                    suspends = true;
                    run::suspend_with(&child, &mut suspends)?;
                }
                _ if exited.is_some() => kill_at = None,
                Signal::SIGINT | Signal::SIGQUIT if interrupts == 0 => {
                    interrupts += 1;
                    // The terminal sends it to the command as well.
                    if !is_in_foreground() {
                        run::forward(&child, signal);
                    }
                }
                Signal::SIGINT | Signal::SIGQUIT => {
                    signal_all(session, &child, Signal::SIGTERM);
                    kill_at.get_or_insert(Instant::now() + grace);
                }
                _ => {
                    signal_all(session, &child, signal);
                    kill_at.get_or_insert(Instant::now() + grace);
                }
            },
            () = until(kill_at) => {
                kill_at = None;
                let _ = child.start_kill();
            }
            () = sleep(REST_PAUSE), if exited.is_some() => {}
        }
        let Some(status) = exited else { continue };
        // A command that was stopped leaves the rest of the grace period to what it started.
        if kill_at.is_some() {
            quiet_searches = if session.is_alive() { 0 } else { quiet_searches + 1 };
        }
        if kill_at.is_none() || quiet_searches >= QUIET_SEARCHES {
            return Ok((!app_failed).then(|| run::code(status)));
        }
    }
}

/// Signals the command and all that it has started: a shell passes on nothing.
fn signal_all(session: &CommandSession, child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    // Where no processes can be found, it is signalled alone.
    if !pid.is_some_and(|pid| session.signal(pid, signal)) {
        run::forward(child, signal);
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether this process is in the foreground of its terminal.
fn is_in_foreground() -> bool {
    let foreground = File::open("/dev/tty").ok().and_then(|terminal| tcgetpgrp(terminal).ok());
    foreground == Some(getpgrp())
}

/// Returns when one of these processes has failed, or the app ends.
async fn wait_for_failure(client: &Client, names: &str) -> AppFailure {
    let uri = format!("/processes/{}/wait?for=failed", percent_encode(names));
    loop {
        match client.ask::<Vec<ProcessStatus>>(Method::GET, &uri, Vec::new()).await {
            Ok(processes) => {
                let is_down = |it: &ProcessStatus| it.state == State::Down && !it.ready;
                let down: Vec<ProcessStatus> = processes.into_iter().filter(is_down).collect();
                let words = |process: &ProcessStatus| {
                    let exit = process.last_exit.as_deref().unwrap_or("is down");
                    format!(": {} {}", process.name, escape_controls(exit))
                };
                let words: String = down.iter().map(words).collect();
                let names = down.into_iter().map(|process| process.name).collect();
                return AppFailure { message: format!("{DID_NOT_STAY_UP}{words}"), names };
            }
            Err(Error::Busy(_)) => sleep(RETRY_PAUSE).await,
            Err(Error::Refused(message)) => return AppFailure { message, names: Vec::new() },
            Err(_) => {
                return AppFailure { message: DID_NOT_STAY_UP.to_owned(), names: Vec::new() };
            }
        }
    }
}

/// Names the processes that are not ready.
async fn not_ready(client: &Client, names: &str, after: Option<Duration>) -> AppFailure {
    let uri = format!("/processes/{}", percent_encode(names));
    let all: Result<Vec<ProcessStatus>, _> = client.ask(Method::GET, &uri, Vec::new()).await;
    let late = all.unwrap_or_default().into_iter().filter(|process| !process.ready);
    let names: Vec<String> = late.map(|process| process.name).collect();
    let after = after.map(|after| format!(" after {}", time(after))).unwrap_or_default();
    let verb = if names.len() == 1 { "is" } else { "are" };
    AppFailure { message: format!("{} {verb} not ready{after}", names.join(", ")), names }
}

/// Prints why the app failed, and what the processes have written meanwhile.
async fn report(client: &Client, failure: &AppFailure, since: Instant) {
    print_error(&failure.message);
    if failure.names.is_empty() {
        return;
    }
    let (names, since) = (percent_encode(&failure.names.join(",")), since.elapsed().as_secs_f64());
    let uri = format!("/logs?names={names}&since={since}");
    if let Ok(mut answer) = client.send(Method::GET, &uri, Vec::new()).await {
        while let Ok(Some(bytes)) = answer.next().await {
            let _ = std::io::stderr().write_all(&bytes);
        }
    }
}
