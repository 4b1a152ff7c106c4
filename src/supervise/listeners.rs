//! The sockets that ganger itself listens on, and passes to all processes of a
//! type: they share one port, and while one is restarted, a client waits
//! for the next instead of being refused (`sd_listen_fds(3)`).

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{Backlog, listen};

use crate::plan::Plan;
use crate::plan::sources::reason;

/// All sockets, by their port.
#[derive(Clone, Debug, Default)]
pub struct Listeners(BTreeMap<u16, Arc<OwnedFd>>);

/// A port can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on port {port} for `{process_type}`: {}", reason(.error))]
pub struct Error {
    /// The port.
    pub port: u16,
    /// The process type.
    pub process_type: String,
    /// Why.
    pub error: io::Error,
}

impl Listeners {
    /// The listeners that `plan` needs: those of these that it keeps, and new ones
    /// on all addresses of this machine.
    pub fn for_plan(&self, plan: &Plan) -> Result<Self, Error> {
        let mut sockets = BTreeMap::new();
        for process in plan.processes.iter().filter(|process| process.listen) {
            let Some(port) = process.port else { continue };
            let socket = match self.0.get(&port).or_else(|| sockets.get(&port)) {
                Some(socket) => Arc::clone(socket),
                None => Arc::new(bind(port).map_err(|error| {
                    let process_type = process.process_type.clone();
                    Error { port, process_type, error }
                })?),
            };
            sockets.insert(port, socket);
        }
        Ok(Self(sockets))
    }

    /// The one of this port, for a process.
    pub(super) fn get(&self, port: u16) -> Option<io::Result<OwnedFd>> {
        self.0.get(&port).map(|socket| socket.as_fd().try_clone_to_owned())
    }
}

/// IPv6 takes IPv4 as well, unless the system has no IPv6 or keeps the two apart.
fn bind(port: u16) -> io::Result<OwnedFd> {
    let any: [SocketAddr; 2] =
        [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    let apart = std::fs::read("/proc/sys/net/ipv6/bindv6only").is_ok_and(|it| it == b"1\n");
    let listener = match TcpListener::bind(any[usize::from(apart)]) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(any[1]),
        bound => bound,
    }?;
    // As long as the queue may be: it holds the clients while no process accepts.
    listen(&listener, Backlog::MAXCONN)?;
    Ok(listener.into())
}
