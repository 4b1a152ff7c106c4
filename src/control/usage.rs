//! What a process and all that belongs to it use, as the system tells it.

use std::time::Duration;

/// What the members of one process use together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Usage {
    /// CPU time, of those that are alive.
    pub(super) cpu: Duration,
    /// Resident memory, in bytes; what they share counts for each.
    pub(super) memory: u64,
    /// Whether one of them listens on the port that the process was given.
    pub(super) bound: bool,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{HashMap, HashSet};
    use std::time::Duration;

    use procfs::process::{FDTarget, Process, Stat};

    use super::Usage;

    /// For each leader, with its port; takes a look at every process of the system.
    pub(in crate::control) fn of(leaders: &[(i32, Option<u16>)]) -> Vec<Usage> {
        let all = procfs::process::all_processes().into_iter().flatten().flatten();
        let all: Vec<(Process, Stat)> =
            all.filter_map(|process| process.stat().ok().map(|stat| (process, stat))).collect();
        let mut below: HashMap<i32, Vec<usize>> = HashMap::new();
        for (index, (_, stat)) in all.iter().enumerate() {
            below.entry(stat.ppid).or_default().push(index);
        }
        let listening = listening();
        let of = |&(leader, port): &(i32, Option<u16>)| {
            let mut members: Vec<usize> = (0..all.len())
                .filter(|index| all[*index].1.pid == leader || all[*index].1.session == leader)
                .collect();
            let mut next = 0;
            while let Some(&member) = members.get(next) {
                for child in below.get(&all[member].1.pid).into_iter().flatten() {
                    if !members.contains(child) {
                        members.push(*child);
                    }
                }
                next += 1;
            }
            let sockets = port.and_then(|port| listening.get(&port));
            let mut usage = Usage::default();
            for member in members {
                let (process, stat) = &all[member];
                let ticks = (stat.utime + stat.stime) * 1000 / procfs::ticks_per_second();
                usage.cpu += Duration::from_millis(ticks);
                usage.memory += stat.rss * procfs::page_size();
                usage.bound |= sockets.is_some_and(|sockets| holds(process, sockets));
            }
            usage
        };
        leaders.iter().map(of).collect()
    }

    /// The sockets that listen, by their port.
    fn listening() -> HashMap<u16, HashSet<u64>> {
        let mut sockets: HashMap<u16, HashSet<u64>> = HashMap::new();
        let tables = [procfs::net::tcp(), procfs::net::tcp6()];
        for entry in tables.into_iter().flatten().flatten() {
            if entry.state == procfs::net::TcpState::Listen {
                sockets.entry(entry.local_address.port()).or_default().insert(entry.inode);
            }
        }
        sockets
    }

    fn holds(process: &Process, sockets: &HashSet<u64>) -> bool {
        let descriptors = process.fd().into_iter().flatten().flatten();
        descriptors
            .into_iter()
            .any(|it| matches!(it.target, FDTarget::Socket(inode) if sockets.contains(&inode)))
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::of;

#[cfg(not(target_os = "linux"))]
pub(super) fn of(leaders: &[(i32, Option<u16>)]) -> Vec<Usage> {
    vec![Usage::default(); leaders.len()]
}
