//! The protocol between ganger and its keeper: frames over a Unix stream socket.
//!
//! A frame is a length (`u32`, native byte order) and a message in postcard's format. A
//! [`Request::Spawn`] carries descriptors (`SCM_RIGHTS`, unix(7)): the process's output is
//! attached to the first byte of the frame, and the socket that the process is to inherit, if
//! there is one, to the second.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A keeper that makes no progress for so long has failed.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The variable that marks every descendant of a child. Its value names the keeper and the
/// child's id.
pub const SESSION_VAR: &str = "GANGER_SESSION";

/// Identifies a child; it is never used again. Its meaning is up to the caller.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ChildId(pub u64);

/// A message from ganger to its keeper.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Request {
    /// Start a program. Answered by `Spawned`, `SpawnFailed` or `Cancelled`.
    Spawn(SpawnRequest),
    /// Send a signal to the child and its descendants.
    Signal {
        /// Which child.
        id: ChildId,
        /// The number of the signal.
        signal: i32,
    },
    /// Send a signal that ends the child. Suspended processes are woken, and SIGKILL is repeated
    /// until no process is left. The end is reported by `Exited` or `GroupEmpty`.
    Stop {
        /// Which child.
        id: ChildId,
        /// The number of the signal.
        signal: i32,
        /// Which of its processes get the signal now.
        scope: Scope,
    },
    /// Send SIGTERM to orphans, now and whenever more of them turn up. Answered by `Orphans`,
    /// and again whenever they change.
    StopOrphans,
    /// Send SIGKILL to everything that is left. Answered by `Swept`.
    Sweep,
    /// Suspend all children, and start no more until `Resume`. Answered by `Suspended`.
    Suspend,
    /// Resume all children.
    Resume,
    /// Report everything that has happened so far, and then answer `Pong` with this number.
    Ping(u64),
}

/// Which processes of a child a stop signal reaches at once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Scope {
    /// Its process group at once, and a descendant outside of the group as soon as it has lost
    /// its parent. Until then it is left to the parent, which may stop its children in its own
    /// way, as a nested ganger does.
    Group,
    /// All of its descendants.
    All,
}

/// A program to start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SpawnRequest {
    /// The id under which it is reported.
    pub id: ChildId,
    /// The program and its arguments. A program without a slash is searched in the PATH of
    /// `env`.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, each variable as `KEY=value`.
    pub env: Vec<Vec<u8>>,
    /// The working directory.
    pub dir: Vec<u8>,
    /// Its standard input.
    pub stdin: Stdin,
    /// Whether its output is a terminal, which becomes its controlling terminal.
    pub terminal: bool,
    /// The name of the socket that it inherits, if it does (`sd_listen_fds(3)`).
    pub listener: Option<Vec<u8>>,
}

impl SpawnRequest {
    /// Whether its arguments and environment are longer than any system accepts.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        let strings = self.argv.iter().chain(&self.env);
        strings.map(|string| string.len() + 1).sum::<usize>() > MAX_SPAWN_BYTES
    }
}

/// The standard input of a child.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Stdin {
    /// A pipe that stays open and into which nothing is ever written.
    Pipe,
    /// `/dev/null`.
    Null,
    /// The terminal that its output is.
    Terminal,
}

/// A message from the keeper to ganger.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Report {
    /// The program runs.
    Spawned {
        /// Which child.
        id: ChildId,
        /// Its process id, which is also its group's and its session's.
        pid: i32,
    },
    /// The program could not be started.
    SpawnFailed {
        /// Which child.
        id: ChildId,
        /// The step that failed.
        step: SpawnStep,
        /// The error, an errno.
        errno: i32,
    },
    /// The child was stopped before it was started.
    Cancelled {
        /// Which child.
        id: ChildId,
    },
    /// The system has not executed the program for a while.
    StartHangs {
        /// Which child.
        id: ChildId,
        /// The process that waits in execve(2).
        pid: i32,
    },
    /// The child has exited.
    Exited {
        /// Which child.
        id: ChildId,
        /// Its exit status.
        wait: WaitStatus,
        /// Its descendants that still run. If there are none, no `GroupEmpty` follows.
        left: Vec<Descendant>,
    },
    /// No process is left of a child that was reported as exited.
    GroupEmpty {
        /// Which child.
        id: ChildId,
    },
    /// Orphans: descendants that run and belong to no child.
    Orphans {
        /// The processes.
        left: Vec<Descendant>,
    },
    /// Everything is killed, except processes that the keeper may not kill.
    Swept {
        /// Those processes.
        left: Vec<Descendant>,
    },
    /// Sent first if isolation was requested: whether children are isolated.
    Isolated(Result<(), IsolationError>),
    /// How many requests have been handled since the keeper started.
    Progress {
        /// All requests.
        requests: u64,
        /// Requests to start a program.
        spawns: u64,
    },
    /// All children are suspended.
    Suspended,
    /// The answer to `Ping`.
    Pong(u64),
}

impl Report {
    /// The child that the report concerns, if it concerns one.
    #[must_use]
    pub fn child(&self) -> Option<ChildId> {
        match self {
            Self::Spawned { id, .. }
            | Self::SpawnFailed { id, .. }
            | Self::Cancelled { id }
            | Self::StartHangs { id, .. }
            | Self::Exited { id, .. }
            | Self::GroupEmpty { id } => Some(*id),
            Self::Orphans { .. }
            | Self::Swept { .. }
            | Self::Isolated(_)
            | Self::Progress { .. }
            | Self::Suspended
            | Self::Pong(_) => None,
        }
    }
}

/// Why children can't be isolated.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{step}: {}", nix::errno::Errno::from_raw(*errno).desc())]
pub struct IsolationError {
    /// The step that the system refused.
    pub step: IsolationStep,
    /// The error, an errno.
    pub errno: i32,
}

/// A step on the way to isolated children.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum IsolationStep {
    /// Creating a process-id namespace.
    #[error("the system refuses a process-id namespace")]
    Namespace,
    /// Creating a user namespace, which a user other than root needs.
    #[error(
        "it takes root, or a user namespace, which the system refuses (see `sysctl user` and \
         `sysctl kernel.unprivileged_userns_clone`)"
    )]
    User,
    /// Mounting a `/proc` that shows the namespace.
    #[error("the system refuses a `/proc` of its own, as it does where its own is masked")]
    Mount,
}

/// A process that ganger did not start itself, but a child or one of its descendants.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Descendant {
    /// Its process id.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
}

/// The exit status of a child.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum WaitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was killed by the signal with this number.
    Signal(i32),
}

/// A step on the way to a running program.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SpawnStep {
    /// Creating the process: fork(2), and the descriptors that this takes.
    Fork,
    /// Entering its working directory.
    Dir,
    /// Executing the program.
    Exec,
}

/// No system accepts longer arguments and environment (execve(2)).
const MAX_SPAWN_BYTES: usize = 6 << 20;

/// A frame that claims to be longer is not one of this protocol.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// The peer sent bytes that are not a message of this protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the keeper's socket received an invalid message")]
pub struct ProtocolError;

/// Encodes a message as a frame.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).expect("a message has a known size");
    let length = u32::try_from(frame.len() - 4).expect("a message is shorter than 4 GiB");
    frame[..4].copy_from_slice(&length.to_ne_bytes());
    frame
}

/// Assembles messages from the pieces in which the socket delivers them.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How many of `bytes` have been decoded.
    decoded: usize,
}

impl Decoder {
    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.decoded);
        self.decoded = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is complete.
    pub fn take<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, ProtocolError> {
        let Some((length, rest)) = self.bytes[self.decoded..].split_first_chunk() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_ne_bytes(*length)).map_err(|_| ProtocolError)?;
        if length > MAX_FRAME_BYTES {
            return Err(ProtocolError);
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let (message, after) = postcard::take_from_bytes(message).map_err(|_| ProtocolError)?;
        self.decoded += 4 + length;
        if after.is_empty() { Ok(Some(message)) } else { Err(ProtocolError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_are_decoded_from_pieces_of_any_size(
            argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4),
            pid in any::<i32>(),
            piece in 1usize..50,
        ) {
            let id = ChildId(7);
            let spawn = SpawnRequest { id, argv, env: vec![b"A=\xff".to_vec()], dir: vec![], stdin: Stdin::Null, terminal: false, listener: None };
            let requests = [Request::Spawn(spawn), Request::Stop { id, signal: pid, scope: Scope::All }, Request::Sweep];
            let wire: Vec<u8> = requests.iter().flat_map(encode).collect();
            let mut decoder = Decoder::default();
            let mut read = Vec::new();
            for piece in wire.chunks(piece) {
                decoder.push(piece);
                while let Some(request) = decoder.take::<Request>().unwrap() {
                    read.push(request);
                }
            }
            prop_assert_eq!(read, requests);
        }

        #[test]
        fn invalid_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take::<Request>() {}
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take::<Report>() {}
        }
    }
}
