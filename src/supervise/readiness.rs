//! Finds out when processes are ready, and whether what they need is there.
//!
//! Each process that is waited for has a task of its own, which ends with the
//! answer. What is looked at belongs to nobody else: the app notices nothing, but
//! for the request or command that it was configured with.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::listeners;
use super::supervisor::ProcessId;
use crate::notice::time;
use crate::plan::Process;
use crate::plan::needs::{Address, Need};
use crate::plan::ready::Ready;
use crate::plan::sources::reason;

/// What was found out.
#[derive(Debug)]
pub(super) enum Found {
    /// These of what a process needs are not there; none: all is.
    Unmet(ProcessId, Vec<String>),
    /// A process is ready.
    Ready(ProcessId),
    /// A process listens, but not where it was told to.
    Elsewhere(ProcessId, Vec<u16>),
    /// Somebody else listens where it was told to.
    Taken(ProcessId, String),
    /// It isn't ready, and this came of the last try.
    Tried(ProcessId, String),
    /// It is time for its command.
    Check(ProcessId),
    /// Its command has run for too long.
    CheckTooLong(ProcessId),
}

/// All that is being found out.
pub(super) struct Probes {
    tasks: HashMap<ProcessId, AbortHandle>,
    sender: UnboundedSender<Found>,
    found: UnboundedReceiver<Found>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// One attempt may take as long as the whole, but not less than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// So long a service may take to accept.
const ACCEPTED_IN: Duration = Duration::from_secs(1);
/// Who listens somewhere else for so long doesn't just prepare.
const ELSEWHERE_AFTER: Duration = Duration::from_secs(2);

impl Probes {
    pub(super) fn new() -> Self {
        let (sender, found) = unbounded_channel();
        Self { tasks: HashMap::new(), sender, found }
    }

    /// What is found out next. Nothing is lost if this is cancelled.
    pub(super) async fn next(&mut self) -> Found {
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// Finds out whether what it needs is there.
    pub(super) fn await_needs(&mut self, id: ProcessId, process: &Process) {
        let (sender, needs) = (self.sender.clone(), process.needs.clone());
        self.begin(id, await_needs(id, needs, sender));
    }

    /// Finds out when it is ready. What it says and what its command says of it, is
    /// for others to tell.
    pub(super) fn probe(&mut self, id: ProcessId, process: &Arc<Process>, pid: i32) {
        let sender = self.sender.clone();
        match (&process.ready, process.port) {
            (Ready::Port, Some(port)) => {
                let look = Lookout::new(id, pid, port, sender);
                self.begin(id, await_port(look));
            }
            (Ready::Http(path), Some(port)) => {
                let look = Lookout::new(id, pid, port, sender);
                self.begin(id, await_answer(look, path.clone(), patience(process)));
            }
            (Ready::Command(_), _) => self.check_in(FIRST_PAUSE, id, process),
            (Ready::Started | Ready::Log(_), _) | (Ready::Port | Ready::Http(_), None) => {}
        }
    }

    /// Has its command run after a while.
    pub(super) fn check_in(&mut self, pause: Duration, id: ProcessId, process: &Process) {
        let (sender, patience) = (self.sender.clone(), patience(process));
        self.begin(id, async move {
            sleep(pause).await;
            let _ = sender.send(Found::Check(id));
            sleep(patience).await;
            let _ = sender.send(Found::CheckTooLong(id));
        });
    }

    /// Nobody wants to know any more.
    pub(super) fn forget(&mut self, id: ProcessId) {
        if let Some(task) = self.tasks.remove(&id) {
            task.abort();
        }
    }

    fn begin(&mut self, id: ProcessId, task: impl Future<Output = ()> + Send + 'static) {
        self.forget(id);
        self.tasks.insert(id, tokio::spawn(task).abort_handle());
    }
}

/// The pauses between looks: a twentieth of the time that it has taken so far, so that
/// nobody waits much longer than need be, and nobody looks often for long.
struct Pauses(Instant);

impl Pauses {
    fn new() -> Self {
        Self(Instant::now())
    }

    async fn next(&self) {
        sleep((self.0.elapsed() / 20).clamp(FIRST_PAUSE, LONGEST_PAUSE)).await;
    }
}

fn patience(process: &Process) -> Duration {
    process.ready_timeout.max(PATIENCE)
}

/// Until all are there at once: one that was may be gone when the last one comes.
async fn await_needs(id: ProcessId, needs: Vec<Need>, sender: UnboundedSender<Found>) {
    let pauses = Pauses::new();
    let mut told = None;
    loop {
        let mut unmet = Vec::new();
        for need in &needs {
            if !is_met(need).await {
                unmet.push(need.to_string());
            }
        }
        if told.as_ref() != Some(&unmet) {
            let _ = sender.send(Found::Unmet(id, unmet.clone()));
        }
        if unmet.is_empty() {
            return;
        }
        told = Some(unmet);
        pauses.next().await;
    }
}

/// Of several addresses one is enough; without any, there is nobody to wait for.
async fn is_met(need: &Need) -> bool {
    for address in &need.addresses {
        if accepts(address).await {
            return true;
        }
    }
    need.addresses.is_empty()
}

async fn accepts(address: &Address) -> bool {
    match address {
        Address::Tcp(host, port) => {
            // One of the addresses of a name may lead nowhere.
            let found = timeout(PATIENCE, lookup_host((host.as_str(), *port))).await;
            for address in found.into_iter().flatten().flatten() {
                if is_in_time(TcpStream::connect(address)).await {
                    return true;
                }
            }
            false
        }
        Address::Unix(path) => is_in_time(UnixStream::connect(path)).await,
    }
}

async fn is_in_time<T>(connected: impl Future<Output = io::Result<T>>) -> bool {
    timeout(ACCEPTED_IN, connected).await.is_ok_and(|connected| connected.is_ok())
}

/// Looks whether a process listens on its port, and tells what else there is to see,
/// each thing once.
struct Lookout {
    id: ProcessId,
    pid: i32,
    port: u16,
    sender: UnboundedSender<Found>,
    since: Instant,
    elsewhere: Vec<u16>,
    holder: Option<String>,
}

impl Lookout {
    fn new(id: ProcessId, pid: i32, port: u16, sender: UnboundedSender<Found>) -> Self {
        let since = Instant::now();
        Self { id, pid, port, sender, since, elsewhere: Vec::new(), holder: None }
    }

    /// Whether it is there.
    async fn look(&mut self) -> bool {
        let everywhere = self.since.elapsed() > ELSEWHERE_AFTER;
        let (pid, port) = (self.pid, self.port);
        let Ok(sight) = spawn_blocking(move || look(pid, port, everywhere)).await else {
            return false;
        };
        if !sight.is_there && !sight.elsewhere.is_empty() && sight.elsewhere != self.elsewhere {
            self.elsewhere.clone_from(&sight.elsewhere);
            self.tell(Found::Elsewhere(self.id, sight.elsewhere));
        }
        if let Some(holder) = sight.holder.filter(|holder| Some(holder) != self.holder.as_ref()) {
            self.holder = Some(holder.clone());
            self.tell(Found::Taken(self.id, holder));
        }
        sight.is_there
    }

    fn tell(&self, found: Found) {
        let _ = self.sender.send(found);
    }
}

async fn await_port(mut look: Lookout) {
    let pauses = Pauses::new();
    while !look.look().await {
        pauses.next().await;
    }
    look.tell(Found::Ready(look.id));
}

/// Whoever answers need not be a descendant: a container's port isn't, say.
async fn await_answer(mut look: Lookout, path: String, patience: Duration) {
    let pauses = Pauses::new();
    let mut told = None;
    loop {
        let outcome = match timeout(patience, answer(look.port, &path)).await {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => break,
            Ok(Ok(status)) => format!("`GET {path}` is answered with {}", status.as_u16()),
            Ok(Err(error)) => format!("`GET {path}` is not answered ({})", reason(&error)),
            Err(_) => format!("`GET {path}` is not answered in {}", time(patience)),
        };
        if told.as_ref() != Some(&outcome) {
            told = Some(outcome.clone());
            look.tell(Found::Tried(look.id, outcome));
        }
        look.look().await;
        pauses.next().await;
    }
    look.tell(Found::Ready(look.id));
}

/// What there is to see of where a process listens.
#[derive(Default)]
struct Sight {
    is_there: bool,
    /// Where it listens instead.
    elsewhere: Vec<u16>,
    /// Who listens there instead.
    holder: Option<String>,
}

#[cfg(target_os = "linux")]
fn look(pid: i32, port: u16, everywhere: bool) -> Sight {
    let listening = listeners::listening();
    let somebody = listening.contains_key(&port);
    if !somebody && !everywhere {
        return Sight::default();
    }
    let census = listeners::Census::take();
    if census.listens(pid, port, &listening) {
        return Sight { is_there: true, ..Sight::default() };
    }
    let elsewhere = if everywhere { census.ports(pid, &listening) } else { Vec::new() };
    let holder = census.holder(port, &listening).map(|holder| holder.to_string());
    Sight { is_there: false, elsewhere, holder }
}

/// Who listens isn't known here; that somebody does is the best that can be said.
#[cfg(not(target_os = "linux"))]
fn look(_pid: i32, port: u16, _everywhere: bool) -> Sight {
    let is_there = std::net::TcpStream::connect(("localhost", port)).is_ok();
    Sight { is_there, ..Sight::default() }
}

/// How a GET is answered.
async fn answer(port: u16, path: &str) -> io::Result<StatusCode> {
    let stream = TcpStream::connect(("localhost", port)).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", format!("localhost:{port}"));
    let request = request.header("user-agent", "ganger").header("connection", "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other);
    connection.abort();
    Ok(response?.status())
}
