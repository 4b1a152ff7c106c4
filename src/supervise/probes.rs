//! Probes whether processes are ready, and whether the services that they need are reachable.
//!
//! Each probe is a task, which ends with its result. Probing does not disturb the app, except
//! for the request or the command that it was configured with.

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
use super::state::ProcessId;
use crate::notice::ProbeFailure;
use crate::plan::ProcessPlan;
use crate::plan::needs::{Address, Need};
use crate::plan::ready::Ready;
use crate::plan::sources::reason;

/// The result of a probe.
#[derive(Debug)]
pub(super) enum ProbeResult {
    /// These services that a process needs are not reachable; none: all are.
    NeedsProbed(ProcessId, Vec<String>),
    /// A process is ready.
    Ready(ProcessId),
    /// A process listens, but not on the port that it was given.
    WrongPort(ProcessId, Vec<u16>),
    /// Another program listens on the port that it was given.
    PortConflict(ProcessId, String),
    /// It is not ready.
    Failed(ProcessId, ProbeFailure),
    /// It is time to run its probe command.
    CommandDue(ProcessId),
    /// Its probe command has run for too long.
    CommandTimedOut(ProcessId),
}

/// All running probes.
pub(super) struct Probes {
    tasks: HashMap<ProcessId, AbortHandle>,
    /// The processes with a probe command.
    commands: HashMap<ProcessId, Arc<ProcessPlan>>,
    sender: UnboundedSender<ProbeResult>,
    results: UnboundedReceiver<ProbeResult>,
}

const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// The minimum time for one attempt: it may take as long as the whole probe, but not less.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a service may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A process that listens only on other ports is reported after this time, or after three quarters
/// of its ready timeout if that is shorter: a debugger's port is often bound long before its own.
const WRONG_PORT_AFTER: Duration = Duration::from_secs(10);
/// The pause before a probe command is run again.
const COMMAND_PAUSE: Duration = Duration::from_millis(500);

impl Probes {
    pub(super) fn new() -> Self {
        let (sender, results) = unbounded_channel();
        Self { tasks: HashMap::new(), commands: HashMap::new(), sender, results }
    }

    /// The next result. Nothing is lost if this is cancelled.
    pub(super) async fn next(&mut self) -> ProbeResult {
        match self.results.recv().await {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }

    /// Probes the services that a process needs, until all are reachable.
    pub(super) fn probe_needs(&mut self, id: ProcessId, process: &ProcessPlan) {
        let (sender, needs) = (self.sender.clone(), process.needs.clone());
        self.start(id, probe_needs(id, needs, sender));
    }

    /// Probes until a process is ready. Its output and its probe command belong to the
    /// engine: `CommandDue` asks for the command.
    pub(super) fn probe(&mut self, id: ProcessId, process: &Arc<ProcessPlan>, pid: i32) {
        let sender = self.sender.clone();
        match (&process.ready, process.port) {
            (Ready::Port, Some(port)) => {
                let probe = PortProbe::new(id, pid, port, process, sender);
                self.start(id, await_port(probe));
            }
            (Ready::Http(path), Some(port)) => {
                let probe = PortProbe::new(id, pid, port, process, sender);
                self.start(id, await_response(probe, path.clone(), attempt_timeout(process)));
            }
            (Ready::Command(_), _) => {
                self.commands.insert(id, Arc::clone(process));
                self.schedule_command(MIN_PAUSE, id, process);
            }
            (Ready::Started | Ready::Log(_) | Ready::Exit, _)
            | (Ready::Port | Ready::Http(_), None) => {}
        }
    }

    /// The process and its probe command, if it has one and is still probed.
    pub(super) fn command(&self, id: ProcessId) -> Option<(&ProcessPlan, &str)> {
        let process = self.commands.get(&id)?;
        match &process.ready {
            Ready::Command(command) => Some((process, command)),
            Ready::Started | Ready::Log(_) | Ready::Port | Ready::Http(_) | Ready::Exit => None,
        }
    }

    /// Has the probe command run again after a pause.
    pub(super) fn repeat_command(&mut self, id: ProcessId) {
        if let Some(process) = self.commands.get(&id).cloned() {
            self.schedule_command(COMMAND_PAUSE, id, &process);
        }
    }

    fn schedule_command(&mut self, pause: Duration, id: ProcessId, process: &ProcessPlan) {
        let (sender, limit) = (self.sender.clone(), attempt_timeout(process));
        self.start(id, async move {
            sleep(pause).await;
            let _ = sender.send(ProbeResult::CommandDue(id));
            sleep(limit).await;
            let _ = sender.send(ProbeResult::CommandTimedOut(id));
        });
    }

    /// Ends all probes for a process. True if its probe command may still run.
    pub(super) fn cancel(&mut self, id: ProcessId) -> bool {
        if let Some(task) = self.tasks.remove(&id) {
            task.abort();
        }
        self.commands.remove(&id).is_some()
    }

    fn start(&mut self, id: ProcessId, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task).abort_handle();
        if let Some(before) = self.tasks.insert(id, task) {
            before.abort();
        }
    }
}

/// The pauses between attempts: a twentieth of the duration of the probe so far. So
/// nothing waits much longer than it has to, and nothing is probed often for long.
struct Pauses(Instant);

impl Pauses {
    fn new() -> Self {
        Self(Instant::now())
    }

    async fn next(&self) {
        sleep((self.0.elapsed() / 20).clamp(MIN_PAUSE, MAX_PAUSE)).await;
    }
}

fn attempt_timeout(process: &ProcessPlan) -> Duration {
    process.ready_timeout.max(PROBE_TIMEOUT)
}

/// Until all are reachable at once: the first may be gone again when the last one comes.
async fn probe_needs(id: ProcessId, needs: Vec<Need>, sender: UnboundedSender<ProbeResult>) {
    let pauses = Pauses::new();
    let mut reported = None;
    loop {
        let mut missing = Vec::new();
        for need in &needs {
            if !is_reachable(need).await {
                missing.push(need.to_string());
            }
        }
        if reported.as_ref() != Some(&missing) {
            let _ = sender.send(ProbeResult::NeedsProbed(id, missing.clone()));
        }
        if missing.is_empty() {
            return;
        }
        reported = Some(missing);
        pauses.next().await;
    }
}

/// Of several addresses one is enough; without any, there is nothing to wait for.
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

/// Probes whether a process listens on its port, and reports what else it finds, once.
struct PortProbe {
    id: ProcessId,
    pid: i32,
    port: u16,
    sender: UnboundedSender<ProbeResult>,
    /// When it is reported that it listens only on other ports.
    report_other_ports_at: Instant,
    other_ports: Vec<u16>,
    owner: Option<String>,
}

impl PortProbe {
    fn new(
        id: ProcessId,
        pid: i32,
        port: u16,
        process: &ProcessPlan,
        sender: UnboundedSender<ProbeResult>,
    ) -> Self {
        let report_other_ports_at =
            Instant::now() + WRONG_PORT_AFTER.min(process.ready_timeout * 3 / 4);
        Self { id, pid, port, sender, report_other_ports_at, other_ports: Vec::new(), owner: None }
    }

    /// Whether it listens on its port.
    async fn listens(&mut self) -> bool {
        let all_ports = self.report_other_ports_at <= Instant::now();
        let (pid, port) = (self.pid, self.port);
        let Ok(state) = spawn_blocking(move || inspect_port(pid, port, all_ports)).await else {
            return false;
        };
        if !state.listens && !state.other_ports.is_empty() && state.other_ports != self.other_ports
        {
            self.other_ports.clone_from(&state.other_ports);
            self.report(ProbeResult::WrongPort(self.id, state.other_ports));
        }
        if let Some(owner) = state.owner.filter(|owner| Some(owner) != self.owner.as_ref()) {
            self.owner = Some(owner.clone());
            self.report(ProbeResult::PortConflict(self.id, owner));
        }
        state.listens
    }

    fn report(&self, result: ProbeResult) {
        let _ = self.sender.send(result);
    }
}

async fn await_port(mut probe: PortProbe) {
    let pauses = Pauses::new();
    while !probe.listens().await {
        pauses.next().await;
    }
    probe.report(ProbeResult::Ready(probe.id));
}

/// Any program may respond, not only a descendant, for example a container.
async fn await_response(mut probe: PortProbe, path: String, limit: Duration) {
    let pauses = Pauses::new();
    let mut reported = None;
    loop {
        let failure = match timeout(limit, request_status(probe.port, &path)).await {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => break,
            Ok(Ok(status)) => {
                ProbeFailure::HttpStatus { path: path.clone(), status: status.as_u16() }
            }
            Ok(Err(error)) => {
                ProbeFailure::HttpError { path: path.clone(), reason: reason(&error) }
            }
            Err(_) => ProbeFailure::HttpTimeout { path: path.clone(), after: limit },
        };
        if reported.as_ref() != Some(&failure) {
            reported = Some(failure.clone());
            probe.report(ProbeResult::Failed(probe.id, failure));
        }
        probe.listens().await;
        pauses.next().await;
    }
    probe.report(ProbeResult::Ready(probe.id));
}

/// Where a process listens.
#[derive(Default)]
struct PortState {
    listens: bool,
    /// The ports on which it listens instead.
    other_ports: Vec<u16>,
    /// The program that listens there instead.
    owner: Option<String>,
}

#[cfg(target_os = "linux")]
fn inspect_port(pid: i32, port: u16, all_ports: bool) -> PortState {
    let listening = port_scan::listening();
    let is_used = listening.contains_key(&port);
    if !is_used && !all_ports {
        return PortState::default();
    }
    let table = port_scan::ProcessTable::take();
    if table.listens(pid, port, &listening) {
        return PortState { listens: true, ..PortState::default() };
    }
    let other_ports = if all_ports { table.ports(pid, &listening) } else { Vec::new() };
    let owner = table.owner(port, &listening).map(|owner| owner.to_string());
    PortState { listens: false, other_ports, owner }
}

/// The owner of a port is not known on this system; that a program listens has to be enough.
#[cfg(not(target_os = "linux"))]
fn inspect_port(_pid: i32, port: u16, _all_ports: bool) -> PortState {
    let listens = std::net::TcpStream::connect(("localhost", port)).is_ok();
    PortState { listens, ..PortState::default() }
}

/// The status of the response to a GET.
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
