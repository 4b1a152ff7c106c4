//! Reads the state of processes from `/proc` (proc(5)).

use std::fs;

use nix::unistd::Pid;

/// The state of a process.
pub struct ProcStat {
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Whether it is not a zombie.
    pub alive: bool,
}

/// The state of a process; `None` if it does not exist.
pub fn read_stat(pid: i32) -> Option<ProcStat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(ProcStat { alive, parent: number()?, group: number()?, session: number()? })
}

/// The children of a process that are not zombies.
pub fn list_children(pid: Pid) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter(|pid| read_stat(*pid).is_some_and(|stat| stat.alive)).collect()
}

/// The command line of a process.
pub fn read_arguments(pid: i32) -> Vec<String> {
    read_strings(pid, "cmdline")
}

/// The value of a variable in the environment of a process.
pub fn read_variable(pid: i32, name: &str) -> Option<String> {
    let pairs = read_strings(pid, "environ");
    pairs.iter().find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn read_strings(pid: i32, file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.split_terminator('\0').map(str::to_owned).collect()
}
