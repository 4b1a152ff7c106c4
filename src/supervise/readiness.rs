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
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::listeners;
use super::supervisor::ProcessId;
use crate::plan::Process;
use crate::plan::needs::{Address, Need};
use crate::plan::ready::Ready;

/// What was found out.
#[derive(Debug)]
pub(super) enum Found {
    /// These of what a process needs are not there; none: all is.
    Unmet(ProcessId, Vec<String>),
    /// A process is ready.
    Ready(ProcessId),
    /// A process listens, but not where it was told to.
    Elsewhere(ProcessId, Vec<u16>),
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
/// So long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);
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
            (Ready::Port, Some(port)) => self.begin(id, await_port(id, pid, port, sender)),
            (Ready::Http(path), Some(port)) => {
                self.begin(id, await_answer(id, pid, port, path.clone(), sender));
            }
            (Ready::Command(_), _) => self.check_in(FIRST_PAUSE, id),
            (Ready::Started | Ready::Log(_), _) | (Ready::Port | Ready::Http(_), None) => {}
        }
    }

    /// Has its command run after a while.
    pub(super) fn check_in(&mut self, pause: Duration, id: ProcessId) {
        let sender = self.sender.clone();
        self.begin(id, async move {
            sleep(pause).await;
            let _ = sender.send(Found::Check(id));
            sleep(PATIENCE).await;
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

async fn await_needs(id: ProcessId, mut needs: Vec<Need>, sender: UnboundedSender<Found>) {
    let pauses = Pauses::new();
    let mut told = None;
    loop {
        let mut unmet = Vec::new();
        for need in needs {
            if !is_met(&need).await {
                unmet.push(need);
            }
        }
        needs = unmet;
        if told != Some(needs.len()) {
            told = Some(needs.len());
            let _ = sender.send(Found::Unmet(id, needs.iter().map(Need::to_string).collect()));
        }
        if needs.is_empty() {
            return;
        }
        pauses.next().await;
    }
}

async fn is_met(need: &Need) -> bool {
    for address in &need.addresses {
        if accepts(address).await {
            return true;
        }
    }
    false
}

async fn accepts(address: &Address) -> bool {
    let connected = async {
        match address {
            Address::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).await.map(drop),
            Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        }
    };
    timeout(Duration::from_secs(1), connected).await.is_ok_and(|connected| connected.is_ok())
}

/// Until one that belongs to the process listens on this port; tells also if that
/// is on another.
async fn await_port(id: ProcessId, pid: i32, port: u16, sender: UnboundedSender<Found>) {
    let (since, mut told) = (Instant::now(), false);
    let pauses = Pauses::new();
    loop {
        let late = !told && since.elapsed() > ELSEWHERE_AFTER;
        match spawn_blocking(move || look(pid, port, late)).await {
            Ok(Look::There) => break,
            Ok(Look::Elsewhere(ports)) => {
                told = true;
                let _ = sender.send(Found::Elsewhere(id, ports));
            }
            Ok(Look::Nowhere) | Err(_) => {}
        }
        pauses.next().await;
    }
    let _ = sender.send(Found::Ready(id));
}

async fn await_answer(
    id: ProcessId,
    pid: i32,
    port: u16,
    path: String,
    sender: UnboundedSender<Found>,
) {
    let (since, mut told) = (Instant::now(), false);
    let pauses = Pauses::new();
    while !timeout(PATIENCE, answers(port, &path)).await.is_ok_and(|it| it.is_ok_and(|ok| ok)) {
        // Whoever answers need not be a descendant: a container's port isn't, say.
        if !told
            && since.elapsed() > ELSEWHERE_AFTER
            && let Ok(Look::Elsewhere(ports)) = spawn_blocking(move || look(pid, port, true)).await
        {
            told = true;
            let _ = sender.send(Found::Elsewhere(id, ports));
        }
        pauses.next().await;
    }
    let _ = sender.send(Found::Ready(id));
}

/// Where a process listens.
enum Look {
    There,
    Elsewhere(Vec<u16>),
    Nowhere,
}

#[cfg(target_os = "linux")]
fn look(pid: i32, port: u16, everywhere: bool) -> Look {
    let listening = listeners::listening();
    if !listening.contains_key(&port) && !everywhere {
        return Look::Nowhere;
    }
    let ports = listeners::Census::take().ports(pid, &listening);
    match ports.as_slice() {
        ports if ports.contains(&port) => Look::There,
        [] => Look::Nowhere,
        ports if everywhere => Look::Elsewhere(ports.to_vec()),
        _ => Look::Nowhere,
    }
}

/// Who listens isn't known here; that somebody does is the best that can be said.
#[cfg(not(target_os = "linux"))]
fn look(_pid: i32, port: u16, _everywhere: bool) -> Look {
    match std::net::TcpStream::connect(("localhost", port)) {
        Ok(_) => Look::There,
        Err(_) => Look::Nowhere,
    }
}

/// Whether a GET is answered with 2xx or 3xx.
async fn answers(port: u16, path: &str) -> io::Result<bool> {
    let stream = TcpStream::connect(("localhost", port)).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", format!("localhost:{port}"));
    let request = request.header("user-agent", "ganger").header("connection", "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other);
    connection.abort();
    let status = response?.status();
    Ok(status.is_success() || status.is_redirection())
}
