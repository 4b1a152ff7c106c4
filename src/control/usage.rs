//! The CPU time and memory that a process and its descendants use.

use std::time::Duration;

#[cfg(target_os = "linux")]
use tokio::task::spawn_blocking;

/// What a process and its descendants use together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Usage {
    /// The CPU time of all live processes.
    pub(super) cpu: Duration,
    /// Resident memory in bytes; shared pages count for each process.
    pub(super) memory: u64,
    /// Whether one of them listens on the PORT of the process.
    pub(super) bound: bool,
}

/// All processes of the system and all sockets that listen, at one moment.
#[cfg(target_os = "linux")]
pub(super) struct Survey {
    table: crate::supervise::port_scan::ProcessTable,
    listening: crate::supervise::port_scan::Listening,
}

#[cfg(target_os = "linux")]
impl Survey {
    /// Reads `/proc`, which takes a while: call it on another thread.
    pub(super) async fn take() -> Option<Self> {
        use crate::supervise::port_scan::{ProcessTable, listening};

        let take = || Self { table: ProcessTable::take(), listening: listening() };
        spawn_blocking(take).await.ok()
    }

    /// The usage of the process that was started as `leader` with this PORT.
    pub(super) fn usage(&self, leader: i32, port: Option<u16>) -> Usage {
        let mut usage = Usage::default();
        for (_, stat) in self.table.members(leader) {
            let ticks = (stat.utime + stat.stime) * 1000 / procfs::ticks_per_second();
            usage.cpu += Duration::from_millis(ticks);
            usage.memory += stat.rss * procfs::page_size();
        }
        usage.bound = port.is_some_and(|port| self.table.listens(leader, port, &self.listening));
        usage
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) struct Survey;

#[cfg(not(target_os = "linux"))]
impl Survey {
    pub(super) async fn take() -> Option<Self> {
        Some(Self)
    }

    pub(super) fn usage(&self, _leader: i32, _port: Option<u16>) -> Usage {
        Usage::default()
    }
}
