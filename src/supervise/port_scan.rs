//! The owners of ports in use, and the descendants of processes, as the system
//! reports them.

use std::collections::HashMap;

use crate::notice::escape_controls;

/// Listeners that listen for TCP, by their port.
pub type Listening = HashMap<u16, Vec<Socket>>;

/// A socket that listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Socket {
    /// The number by which `/proc` knows it.
    pub inode: u64,
    /// The user that made it.
    pub uid: u32,
}

/// The program that uses a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortOwner {
    /// A process.
    Process {
        /// Its process id.
        pid: i32,
        /// Its name, as `ps` shows it.
        name: String,
    },
    /// A program that this user may not look into.
    Hidden {
        /// The user that it belongs to.
        uid: u32,
    },
}

impl std::fmt::Display for PortOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, name } => {
                write!(f, "{} (pid {pid})", escape_controls(name))
            }
            Self::Hidden { uid } => write!(f, "a program of the user {uid}"),
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::ffi::{OsStr, OsString};
    use std::io;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
    };
    use procfs::ProcError;
    use procfs::process::{FDTarget, Process, Stat};

    use super::{Listening, PortOwner, Socket};
    use crate::keeper::protocol::SESSION_VAR;

    /// All that listen. The kernel is asked for those alone (`sock_diag(7)`), which
    /// takes a hundredth of the time of reading about every connection.
    #[must_use]
    pub fn listening() -> Listening {
        ask_kernel().unwrap_or_else(|_| read_tables())
    }

    /// `NLMSG_ERROR` and `NLMSG_DONE`, netlink(7); `TCP_LISTEN`.
    const END: [u16; 2] = [2, 3];
    const LISTEN: u32 = 10;
    /// Of `struct nlmsghdr` and `struct inet_diag_req_v2`.
    const HEADER: usize = 16;
    const REQUEST: usize = HEADER + 56;

    fn ask_kernel() -> io::Result<Listening> {
        let kernel = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        let mut found = Listening::new();
        let mut buffer = vec![0; 32 << 10];
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = [0; REQUEST];
            let length = u32::try_from(REQUEST).map_err(io::Error::other)?;
            request[0..4].copy_from_slice(&length.to_ne_bytes());
            // SOCK_DIAG_BY_FAMILY; NLM_F_REQUEST and NLM_F_DUMP.
            request[4..6].copy_from_slice(&20u16.to_ne_bytes());
            request[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
            request[HEADER] = u8::try_from(family).map_err(io::Error::other)?;
            request[HEADER + 1] = u8::try_from(libc::IPPROTO_TCP).map_err(io::Error::other)?;
            request[HEADER + 4..HEADER + 8].copy_from_slice(&(1u32 << LISTEN).to_ne_bytes());
            send(kernel.as_raw_fd(), &request, MsgFlags::empty())?;
            while read_answer(
                recv(kernel.as_raw_fd(), &mut buffer, MsgFlags::empty())?,
                &buffer,
                &mut found,
            )? {}
        }
        Ok(found)
    }

    /// One datagram of messages; whether more are to come.
    fn read_answer(length: usize, buffer: &[u8], found: &mut Listening) -> io::Result<bool> {
        let broken = || io::Error::other("an answer that is none");
        let mut rest = buffer.get(..length).ok_or_else(broken)?;
        while let Some((head, _)) = rest.split_first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
            let length = usize::try_from(length).map_err(io::Error::other)?;
            match u16::from_ne_bytes([head[4], head[5]]) {
                // NLMSG_ERROR
                2 => return Err(broken()),
                kind if END.contains(&kind) => return Ok(false),
                _ => {}
            }
            // `struct inet_diag_msg`: its port is in network order.
            let message = rest.get(HEADER..length).ok_or_else(broken)?;
            let word = |at: usize| {
                let bytes = message.get(at..at + 4)?.try_into().ok()?;
                Some(u32::from_ne_bytes(bytes))
            };
            let port = message.get(4..6);
            if let (Some(&[high, low]), Some(uid), Some(inode)) = (port, word(64), word(68)) {
                let sockets = found.entry(u16::from_be_bytes([high, low])).or_default();
                sockets.push(Socket { inode: inode.into(), uid });
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(length > 0)
    }

    fn read_tables() -> Listening {
        let mut found = Listening::new();
        let tables = [procfs::net::tcp(), procfs::net::tcp6()];
        for entry in tables.into_iter().flatten().flatten() {
            if entry.state == procfs::net::TcpState::Listen {
                let sockets = found.entry(entry.local_address.port()).or_default();
                sockets.push(Socket { inode: entry.inode, uid: entry.uid });
            }
        }
        found
    }

    /// All processes of the system, as they were at one moment.
    pub struct ProcessTable {
        all: Vec<(Process, Stat)>,
        below: HashMap<i32, Vec<usize>>,
    }

    impl ProcessTable {
        /// Takes a look at every process.
        #[must_use]
        pub fn take() -> Self {
            let all = procfs::process::all_processes().into_iter().flatten().flatten();
            let all: Vec<(Process, Stat)> =
                all.filter_map(|process| process.stat().ok().map(|stat| (process, stat))).collect();
            let mut below: HashMap<i32, Vec<usize>> = HashMap::new();
            for (index, (_, stat)) in all.iter().enumerate() {
                below.entry(stat.ppid).or_default().push(index);
            }
            Self { all, below }
        }

        /// The process of this id, its session, and all that descend from them.
        pub fn members(&self, leader: i32) -> impl Iterator<Item = &(Process, Stat)> {
            let belongs = |stat: &Stat| stat.pid == leader || stat.session == leader;
            let mut members: Vec<usize> =
                (0..self.all.len()).filter(|index| belongs(&self.all[*index].1)).collect();
            let mut next = 0;
            while let Some(&member) = members.get(next) {
                for child in self.below.get(&self.all[member].1.pid).into_iter().flatten() {
                    if !members.contains(child) {
                        members.push(*child);
                    }
                }
                next += 1;
            }
            members.into_iter().map(|index| &self.all[index])
        }

        /// The ports on which a process and all that belongs to it listen.
        #[must_use]
        pub fn ports(&self, leader: i32, listening: &Listening) -> Vec<u16> {
            let open: Vec<u64> = self.members(leader).flat_map(|it| sockets(&it.0)).collect();
            let held = |sockets: &[Socket]| sockets.iter().any(|it| open.contains(&it.inode));
            let mut ports: Vec<u16> = listening
                .iter()
                .filter(|(_, sockets)| held(sockets))
                .map(|(port, _)| *port)
                .collect();
            ports.sort_unstable();
            ports
        }

        /// Whether a process or one that belongs to it listens on this port: also a daemon,
        /// which nothing but its environment ties to where it came from. Of one with
        /// privileges of its own, this user may not know which sockets it has: the port is
        /// its own if only its user has it.
        #[must_use]
        pub fn listens(&self, leader: i32, port: u16, listening: &Listening) -> bool {
            let Some(sockets) = listening.get(&port) else { return false };
            if self.ports(leader, listening).contains(&port) {
                return true;
            }
            match self.owner(port, listening) {
                Some(PortOwner::Process { pid, .. }) => {
                    let mark = self.mark(pid);
                    mark.is_some() && mark == self.mark(leader)
                }
                Some(PortOwner::Hidden { .. }) => {
                    let members = self.members(leader).map(|(process, _)| process);
                    let users: Vec<u32> = members.filter_map(hidden_user).collect();
                    sockets.iter().any(|it| users.contains(&it.uid))
                }
                None => false,
            }
        }

        /// The child and the keeper that the session marker of a process names.
        fn mark(&self, pid: i32) -> Option<OsString> {
            let (process, _) = self.all.iter().find(|(_, stat)| stat.pid == pid)?;
            process.environ().ok()?.remove(OsStr::new(SESSION_VAR))
        }

        /// The program that listens on this port, if there is one.
        #[must_use]
        pub fn owner(&self, port: u16, listening: &Listening) -> Option<PortOwner> {
            let listen = listening.get(&port)?;
            let is_one = |inode: &u64| listen.iter().any(|it| it.inode == *inode);
            let holds = |it: &&(Process, Stat)| sockets(&it.0).iter().any(is_one);
            let owner = self.all.iter().find(holds).map(|(_, stat)| {
                let (pid, name) = (stat.pid, stat.comm.clone());
                PortOwner::Process { pid, name }
            });
            owner.or_else(|| listen.first().map(|socket| PortOwner::Hidden { uid: socket.uid }))
        }
    }

    /// The user of a process that may not be looked into.
    fn hidden_user(process: &Process) -> Option<u32> {
        match process.fd() {
            Err(ProcError::PermissionDenied(_)) => process.status().ok().map(|it| it.euid),
            Ok(_) | Err(_) => None,
        }
    }

    fn sockets(process: &Process) -> Vec<u64> {
        let descriptors = process.fd().into_iter().flatten().flatten();
        let socket = |it: procfs::process::FDInfo| match it.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        };
        descriptors.filter_map(socket).collect()
    }

    #[cfg(test)]
    mod tests {
        use std::net::TcpListener;

        use super::*;

        #[test]
        fn this_process_listens_where_it_listens() {
            let one = TcpListener::bind("127.0.0.1:0").unwrap();
            let other = TcpListener::bind("[::]:0").unwrap();
            let mut ports = [&one, &other].map(|it| it.local_addr().unwrap().port());
            ports.sort_unstable();
            let me = i32::try_from(std::process::id()).unwrap();
            for listening in [ask_kernel().unwrap(), read_tables()] {
                let table = ProcessTable::take();
                let found = table.ports(me, &listening);
                assert!(ports.iter().all(|port| found.contains(port)), "{found:?} {ports:?}");
                let owner = table.owner(ports[0], &listening);
                assert!(matches!(owner, Some(PortOwner::Process { pid, .. }) if pid == me));
                assert!(table.listens(me, ports[1], &listening));
            }
            drop(one);
            drop(other);
        }
    }
}

#[cfg(target_os = "linux")]
pub use linux::{ProcessTable, listening};

/// Elsewhere it isn't known: a port is bound when it answers.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn listening() -> Listening {
    Listening::new()
}
