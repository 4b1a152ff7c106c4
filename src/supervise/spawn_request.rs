//! Makes the request that has the keeper start a process of the plan.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::keeper::protocol::{ChildId, SpawnRequest, Stdin};
use crate::plan::env::Variable;
use crate::plan::{self, ProcessPlan, shell};

/// A request to run `command` in the way of this process: its own command, or its probe
/// command. `terminal` is whether its output is a terminal.
pub(super) fn new(
    id: ChildId,
    process: &ProcessPlan,
    command: &str,
    shell: &Path,
    terminal: bool,
    listener: bool,
) -> io::Result<SpawnRequest> {
    let pair =
        |(key, var): (&OsString, &Variable)| [key.as_bytes(), b"=", var.value.as_bytes()].concat();
    let spawn = SpawnRequest {
        id,
        argv: shell::argv(shell, command).into_iter().map(OsStringExt::into_vec).collect(),
        env: process.environment().iter().map(pair).collect(),
        dir: process.dir.as_os_str().as_bytes().to_vec(),
        stdin: match process.stdin {
            plan::Stdin::Pipe if terminal => Stdin::Terminal,
            plan::Stdin::Pipe => Stdin::Pipe,
            plan::Stdin::Null => Stdin::Null,
        },
        terminal,
        listener: listener.then(|| process.process_type.as_bytes().to_vec()),
    };
    if spawn.is_too_long() {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    Ok(spawn)
}
