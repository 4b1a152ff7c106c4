//! What ganger and its keeper say to each other: frames of postcard over a
//! Unix stream socket, each a length (`u32`, native order) and a message. A
//! [`Request::Spawn`] carries the process's output as a descriptor, attached to
//! the first byte of its frame (`SCM_RIGHTS`, unix(7)), and the socket that it is
//! to have, attached to the second.

use serde::{Deserialize, Serialize};

/// The variable that marks whatever descends from a child: the keeper's identity
/// and the child's id.
pub const SESSION_VAR: &str = "GANGER_SESSION";

/// One life of one process; never used again. The keeper doesn't care what it means.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ChildId(pub u64);

/// What ganger asks for.
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
    /// Send a signal that ends the child: suspended processes are woken, and
    /// SIGKILL is repeated until none is left. The end comes as `Exited` or `Empty`.
    Stop {
        /// Which child.
        id: ChildId,
        /// The number of the signal.
        signal: i32,
        /// Which of its processes get it now.
        scope: Scope,
    },
    /// Send SIGTERM to descendants that belong to no child, now and whenever more
    /// of them turn up. Answered by `Strays`, and again when their number changes.
    StopOrphans,
    /// Send SIGKILL to whatever is left. Answered by `Swept`.
    Sweep,
    /// Suspend all children, and start none until `Resume`. Answered by `Suspended`.
    Suspend,
    /// Have all children go on.
    Resume,
    /// Report everything that has happened, and then answer `Pong` with this number.
    Ping(u64),
}

/// Which processes of a child a stop signal reaches at once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Scope {
    /// Its process group, and descendants outside of it as soon as the process that
    /// started them is gone. What still has its parent is left to the parent, which
    /// may stop its children in its own way, as a nested ganger does.
    Group,
    /// All of its descendants.
    All,
}

/// A program to start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SpawnRequest {
    /// The name under which it is reported.
    pub id: ChildId,
    /// The program and its arguments; without a slash, the program is looked for
    /// in the PATH of `env`.
    pub argv: Vec<Vec<u8>>,
    /// `KEY=value`, all of them.
    pub env: Vec<Vec<u8>>,
    /// The working directory.
    pub dir: Vec<u8>,
    /// What it reads.
    pub stdin: Stdin,
    /// What the socket is called that it is given, if it is (`sd_listen_fds(3)`).
    pub listener: Option<Vec<u8>>,
}

impl SpawnRequest {
    /// Whether no system would execute it, however much memory it has.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        let strings = self.argv.iter().chain(&self.env);
        strings.map(|string| string.len() + 1).sum::<usize>() > MAX_SPAWN_BYTES
    }
}

/// What a child reads.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Stdin {
    /// A pipe that the keeper holds open and never writes to.
    Pipe,
    /// `/dev/null`.
    Null,
}

/// What the keeper reports.
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
        /// What failed.
        step: SpawnStep,
        /// Why: an errno.
        errno: i32,
    },
    /// It was stopped before its start had its turn.
    Cancelled {
        /// Which child.
        id: ChildId,
    },
    /// The system has not executed the program for a while, and still does not.
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
        /// How.
        wait: WaitStatus,
        /// Its descendants that live on; if there are none, no `Empty` follows.
        left: Vec<Descendant>,
    },
    /// No process is left of a child that has exited.
    GroupEmpty {
        /// Which child.
        id: ChildId,
    },
    /// Descendants that live but belong to no child.
    Orphans {
        /// The processes.
        left: Vec<Descendant>,
    },
    /// All is swept, but for processes that the keeper may not kill.
    Swept {
        /// These.
        left: Vec<Descendant>,
    },
    /// Sent first, where isolation was asked for: children get it, or why not.
    Isolated(Result<(), IsolationError>),
    /// How many requests have been dealt with since the start.
    Progress {
        /// All of them.
        requests: u64,
        /// Those that started a program.
        spawns: u64,
    },
    /// No child runs.
    Suspended,
    /// The answer to `Ping`.
    Pong(u64),
}

impl Report {
    /// The child that it is about, if it is about one.
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
    /// What the system refuses.
    pub step: IsolationStep,
    /// In these words: an errno.
    pub errno: i32,
}

/// What isolation takes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum IsolationStep {
    /// A process-id namespace.
    #[error("the system refuses a process-id namespace")]
    Namespace,
    /// A user namespace, for one who is not root.
    #[error(
        "it takes root, or a user namespace, which the system refuses (see `sysctl user` and \
         `sysctl kernel.unprivileged_userns_clone`)"
    )]
    User,
    /// A `/proc` that shows the namespace.
    #[error("the system refuses a `/proc` of its own, as it does where its own is masked")]
    Mount,
}

/// A process that ganger did not start itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Descendant {
    /// Its process id.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum WaitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By the signal of this number.
    Signal(i32),
}

/// What can fail on the way to a running program.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SpawnStep {
    /// Making the process: fork(2), and the descriptors that it takes.
    Fork,
    /// Entering its working directory.
    Dir,
    /// Executing the program.
    Exec,
}

/// Arguments and environment of a process are never longer (execve(2)).
const MAX_SPAWN_BYTES: usize = 6 << 20;

/// A frame longer than this is a broken peer.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// The other side does not speak this protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the keeper's socket carries something that is no message")]
pub struct ProtocolError;

/// A message as it goes over the socket.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).expect("a message has a known size");
    let length = u32::try_from(frame.len() - 4).expect("a message is shorter than 4 GiB");
    frame[..4].copy_from_slice(&length.to_ne_bytes());
    frame
}

/// Puts messages together from whatever pieces the socket gives.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// What of `bytes` has been taken.
    taken: usize,
}

impl Decoder {
    /// Takes in what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is complete.
    pub fn take<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, ProtocolError> {
        let Some((length, rest)) = self.bytes[self.taken..].split_first_chunk() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_ne_bytes(*length)).map_err(|_| ProtocolError)?;
        if length > MAX_FRAME_BYTES {
            return Err(ProtocolError);
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let (message, after) = postcard::take_from_bytes(message).map_err(|_| ProtocolError)?;
        self.taken += 4 + length;
        if after.is_empty() { Ok(Some(message)) } else { Err(ProtocolError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_survive_any_cutting(
            argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4),
            pid in any::<i32>(),
            piece in 1usize..50,
        ) {
            let id = ChildId(7);
            let spawn = SpawnRequest { id, argv, env: vec![b"A=\xff".to_vec()], dir: vec![], stdin: Stdin::Null, listener: None };
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
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take::<Request>() {}
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take::<Report>() {}
        }
    }
}
