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

use super::port_scan;
use super::supervisor::ProcessId;
use crate::notice::time;
use crate::plan::Process;
use crate::plan::needs::{Address, Need};
use crate::plan::ready::Ready;
use crate::plan::sources::reason;

/// What was found out.
#[derive(Debug)]
pub(super) enum ProbeResult {
    /// These of what a process needs are not there; none: all is.
    NeedsChecked(ProcessId, Vec<String>),
    /// A process is ready.
    Ready(ProcessId),
    /// A process listens, but not where it was told to.
    WrongPort(ProcessId, Vec<u16>),
    /// Somebody else listens where it was told to.
    PortConflict(ProcessId, String),
    /// It isn't ready, and this came of the last try.
    Failed(ProcessId, String),
    /// It is time for its command.
    CommandDue(ProcessId),
    /// Its command has run for too long.
    CommandTimedOut(ProcessId),
}

/// All that is being found out.
pub(super) struct Probes {
    tasks: HashMap<ProcessId, AbortHandle>,
    sender: UnboundedSender<ProbeResult>,
    found: UnboundedReceiver<ProbeResult>,
}

const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// One attempt may take as long as the whole, but not less than this.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// So long a service may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Who listens somewhere else for so long doesn't just prepare.
const WRONG_PORT_AFTER: Duration = Duration::from_secs(2);

impl Probes {
    pub(super) fn new() -> Self {
        let (sender, found) = unbounded_channel();
        Self { tasks: HashMap::new(), sender, found }
    }

    /// What is found out next. Nothing is lost if this is cancelled.
    pub(super) async fn next(&mut self) -> ProbeResult {
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// Finds out whether what it needs is there.
    pub(super) fn probe_needs(&mut self, id: ProcessId, process: &Process) {
        let (sender, needs) = (self.sender.clone(), process.needs.clone());
        self.begin(id, probe_needs(id, needs, sender));
    }

    /// Finds out when it is ready. What it says and what its command says of it, is
    /// for others to tell.
    pub(super) fn probe(&mut self, id: ProcessId, process: &Arc<Process>, pid: i32) {
        let sender = self.sender.clone();
        match (&process.ready, process.port) {
            (Ready::Port, Some(port)) => {
                let look = PortProbe::new(id, pid, port, sender);
                self.begin(id, await_port(look));
            }
            (Ready::Http(path), Some(port)) => {
                let look = PortProbe::new(id, pid, port, sender);
                self.begin(id, await_response(look, path.clone(), attempt_timeout(process)));
            }
            (Ready::Command(_), _) => self.check_in(MIN_PAUSE, id, process),
            (Ready::Started | Ready::Log(_), _) | (Ready::Port | Ready::Http(_), None) => {}
        }
    }

    /// Has its command run after a while.
    pub(super) fn check_in(&mut self, pause: Duration, id: ProcessId, process: &Process) {
        let (sender, limit) = (self.sender.clone(), attempt_timeout(process));
        self.begin(id, async move {
            sleep(pause).await;
            let _ = sender.send(ProbeResult::CommandDue(id));
            sleep(limit).await;
            let _ = sender.send(ProbeResult::CommandTimedOut(id));
        });
    }

    /// Nobody wants to know any more.
    pub(super) fn cancel(&mut self, id: ProcessId) {
        if let Some(task) = self.tasks.remove(&id) {
            task.abort();
        }
    }

    fn begin(&mut self, id: ProcessId, task: impl Future<Output = ()> + Send + 'static) {
        self.cancel(id);
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
        sleep((self.0.elapsed() / 20).clamp(MIN_PAUSE, MAX_PAUSE)).await;
    }
}

fn attempt_timeout(process: &Process) -> Duration {
    process.ready_timeout.max(PROBE_TIMEOUT)
}

/// Until all are there at once: one that was may be gone when the last one comes.
async fn probe_needs(id: ProcessId, needs: Vec<Need>, sender: UnboundedSender<ProbeResult>) {
    let pauses = Pauses::new();
    let mut told = None;
    loop {
        let mut unmet = Vec::new();
        for need in &needs {
            if !is_reachable(need).await {
                unmet.push(need.to_string());
            }
        }
        if told.as_ref() != Some(&unmet) {
            let _ = sender.send(ProbeResult::NeedsChecked(id, unmet.clone()));
        }
        if unmet.is_empty() {
            return;
        }
        told = Some(unmet);
        pauses.next().await;
    }
}

/// Of several addresses one is enough; without any, there is nobody to wait for.
async fn is_reachable(need: &Need) -> bool {
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
            let found = timeout(PROBE_TIMEOUT, lookup_host((host.as_str(), *port))).await;
            for address in found.into_iter().flatten().flatten() {
                if connects_in_time(TcpStream::connect(address)).await {
                    return true;
                }
            }
            false
        }
        Address::Unix(path) => connects_in_time(UnixStream::connect(path)).await,
    }
}

async fn connects_in_time<T>(connected: impl Future<Output = io::Result<T>>) -> bool {
    timeout(CONNECT_TIMEOUT, connected).await.is_ok_and(|connected| connected.is_ok())
}

/// Looks whether a process listens on its port, and tells what else there is to see,
/// each thing once.
struct PortProbe {
    id: ProcessId,
    pid: i32,
    port: u16,
    sender: UnboundedSender<ProbeResult>,
    since: Instant,
    elsewhere: Vec<u16>,
    owner: Option<String>,
}

impl PortProbe {
    fn new(id: ProcessId, pid: i32, port: u16, sender: UnboundedSender<ProbeResult>) -> Self {
        let since = Instant::now();
        Self { id, pid, port, sender, since, elsewhere: Vec::new(), owner: None }
    }

    /// Whether it is there.
    async fn look(&mut self) -> bool {
        let everywhere = self.since.elapsed() > WRONG_PORT_AFTER;
        let (pid, port) = (self.pid, self.port);
        let Ok(state) = spawn_blocking(move || look(pid, port, everywhere)).await else {
            return false;
        };
        if !state.is_there && !state.elsewhere.is_empty() && state.elsewhere != self.elsewhere {
            self.elsewhere.clone_from(&state.elsewhere);
            self.tell(ProbeResult::WrongPort(self.id, state.elsewhere));
        }
        if let Some(owner) = state.owner.filter(|owner| Some(owner) != self.owner.as_ref()) {
            self.owner = Some(owner.clone());
            self.tell(ProbeResult::PortConflict(self.id, owner));
        }
        state.is_there
    }

    fn tell(&self, found: ProbeResult) {
        let _ = self.sender.send(found);
    }
}

async fn await_port(mut look: PortProbe) {
    let pauses = Pauses::new();
    while !look.look().await {
        pauses.next().await;
    }
    look.tell(ProbeResult::Ready(look.id));
}

/// Whoever answers need not be a descendant: a container's port isn't, say.
async fn await_response(mut look: PortProbe, path: String, limit: Duration) {
    let pauses = Pauses::new();
    let mut told = None;
    loop {
        let outcome = match timeout(limit, request_status(look.port, &path)).await {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => break,
            Ok(Ok(status)) => format!("`GET {path}` is answered with {}", status.as_u16()),
            Ok(Err(error)) => format!("`GET {path}` is not answered ({})", reason(&error)),
            Err(_) => format!("`GET {path}` is not answered in {}", time(limit)),
        };
        if told.as_ref() != Some(&outcome) {
            told = Some(outcome.clone());
            look.tell(ProbeResult::Failed(look.id, outcome));
        }
        look.look().await;
        pauses.next().await;
    }
    look.tell(ProbeResult::Ready(look.id));
}

/// What there is to see of where a process listens.
#[derive(Default)]
struct PortState {
    is_there: bool,
    /// Where it listens instead.
    elsewhere: Vec<u16>,
    /// Who listens there instead.
    owner: Option<String>,
}

#[cfg(target_os = "linux")]
fn look(pid: i32, port: u16, everywhere: bool) -> PortState {
    let listening = port_scan::listening();
    let somebody = listening.contains_key(&port);
    if !somebody && !everywhere {
        return PortState::default();
    }
    let table = port_scan::ProcessTable::take();
    if table.listens(pid, port, &listening) {
        return PortState { is_there: true, ..PortState::default() };
    }
    let elsewhere = if everywhere { table.ports(pid, &listening) } else { Vec::new() };
    let owner = table.owner(port, &listening).map(|owner| owner.to_string());
    PortState { is_there: false, elsewhere, owner }
}

/// Who listens isn't known here; that somebody does is the best that can be said.
#[cfg(not(target_os = "linux"))]
fn look(_pid: i32, port: u16, _everywhere: bool) -> PortState {
    let is_there = std::net::TcpStream::connect(("localhost", port)).is_ok();
    PortState { is_there, ..PortState::default() }
}

/// How a GET is answered.
async fn request_status(port: u16, path: &str) -> io::Result<StatusCode> {
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
