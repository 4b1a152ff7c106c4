//! What the system says of processes (proc(5)).

use std::fs;

use nix::unistd::Pid;

/// A process.
pub struct Seen {
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Whether it is no zombie.
    pub alive: bool,
}

pub fn look(pid: i32) -> Option<Seen> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(Seen { alive, parent: number()?, group: number()?, session: number()? })
}

/// The children of a process that are no zombies.
pub fn children(pid: Pid) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter(|pid| look(*pid).is_some_and(|seen| seen.alive)).collect()
}

pub fn arguments(pid: i32) -> Vec<String> {
    list(pid, "cmdline")
}

pub fn variable(pid: i32, name: &str) -> Option<String> {
    let pairs = list(pid, "environ");
    pairs.iter().find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn list(pid: i32, file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.split_terminator('\0').map(str::to_owned).collect()
}
