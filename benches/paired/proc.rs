//! What `/proc` says about a process.
//!
//! A process can end between two reads, so everything here answers "none" or
//! "nothing" rather than failing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The times in `/proc/PID/stat` are in units of `USER_HZ`, which is 100 on
/// every architecture that Rust's standard library runs on.
const TICK: Duration = Duration::from_millis(10);

fn path(pid: Pid, file: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(file)
}

fn read(pid: Pid, file: &str) -> String {
    fs::read_to_string(path(pid, file)).unwrap_or_default()
}

/// The content of one file of each thread of a process.
fn of_threads(pid: Pid, file: &str) -> impl Iterator<Item = String> {
    fs::read_dir(path(pid, "task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(move |thread| fs::read_to_string(thread.path().join(file)).ok())
}

/// The number behind `key` in `/proc/PID/status` or a file like it.
fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
}

pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    let lists: Vec<String> = of_threads(pid, "children").collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace());
    pids.filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn descendants(pid: Pid) -> Vec<Pid> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(children(parent));
        next += 1;
    }
    found
}

/// The program that a process executes; none for a zombie.
pub(crate) fn program(pid: Pid) -> Option<PathBuf> {
    fs::read_link(path(pid, "exe")).ok()
}

/// A runner and its helpers: the children that execute the same program, as
/// ganger's keeper does. What it manages belongs to neither.
pub(crate) fn with_helpers(runner: Pid) -> Vec<Pid> {
    let Some(own) = program(runner) else { return Vec::new() };
    let helpers = children(runner).into_iter().filter(|&child| program(child) == Some(own.clone()));
    std::iter::once(runner).chain(helpers).collect()
}

/// The most memory that a process ever had resident, in bytes.
pub(crate) fn peak_memory(pid: Pid) -> Option<u64> {
    field(&read(pid, "status"), "VmHWM").map(|kib| kib * 1024)
}

/// The CPU time of the threads that a process has now, to the nanosecond.
pub(crate) fn cpu_of_threads(pid: Pid) -> Duration {
    let times = of_threads(pid, "schedstat");
    let nanos = times.filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    Duration::from_nanos(nanos.sum())
}

/// The CPU time of a process with all threads that it ever had, but without its
/// children; a zombie still tells it.
pub(crate) fn cpu(pid: Pid) -> Duration {
    // The name, which may contain anything, ends at the last parenthesis; user
    // and system time are fields 14 and 15 counted from the pid.
    let stat = read(pid, "stat");
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    TICK * ticks.filter_map(|field| field.parse::<u32>().ok()).sum()
}

pub(crate) fn voluntary_switches(pid: Pid) -> u64 {
    of_threads(pid, "status").filter_map(|text| field(&text, "voluntary_ctxt_switches")).sum()
}

pub(crate) fn name(pid: Pid) -> String {
    read(pid, "comm").trim_end().to_owned()
}

/// The arguments of a process, each with a NUL behind it.
pub(crate) fn command_line(pid: Pid) -> String {
    read(pid, "cmdline")
}

/// Is there such a process, and is it no zombie?
pub(crate) fn lives(pid: Pid) -> bool {
    program(pid).is_some()
}

/// Ends a process and everything below it.
pub(crate) fn kill_tree(root: Pid) {
    let below = descendants(root);
    for pid in std::iter::once(root).chain(below) {
        // One that is gone already is what we want.
        let _ = kill(pid, Signal::SIGKILL);
    }
}
