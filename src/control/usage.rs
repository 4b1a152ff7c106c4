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

/// For each leader, with its port; takes a look at every process of the system.
#[cfg(target_os = "linux")]
pub(super) fn of(leaders: &[(i32, Option<u16>)]) -> Vec<Usage> {
    use crate::supervise::listeners::{Census, listening};

    let (census, listening) = (Census::take(), listening());
    let of = |&(leader, port): &(i32, Option<u16>)| {
        let mut usage = Usage::default();
        for (_, stat) in census.members(leader) {
            let ticks = (stat.utime + stat.stime) * 1000 / procfs::ticks_per_second();
            usage.cpu += Duration::from_millis(ticks);
            usage.memory += stat.rss * procfs::page_size();
        }
        usage.bound = port.is_some_and(|port| census.listens(leader, port, &listening));
        usage
    };
    leaders.iter().map(of).collect()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn of(leaders: &[(i32, Option<u16>)]) -> Vec<Usage> {
    vec![Usage::default(); leaders.len()]
}
