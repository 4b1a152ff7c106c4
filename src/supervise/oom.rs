//! Finds out whether the kernel has killed a process because memory ran out.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use super::state::ProcessId;
use crate::exit::Exit;

/// The number of such kills.
#[derive(Clone, Debug)]
struct OomKills {
    /// The file with the counter of ganger's control group, which its processes share
    /// (cgroups(7)), or else of the whole system.
    file: PathBuf,
    before: u64,
}

impl OomKills {
    fn baseline() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = files(&groups).into_iter().find(|file| read(file).is_some());
        let file = file.unwrap_or_else(|| "/proc/vmstat".into());
        Self { before: read(&file).unwrap_or_default(), file }
    }

    /// Whether there have been more since the last look.
    fn increased(&mut self) -> bool {
        let now = read(&self.file).unwrap_or(self.before);
        std::mem::replace(&mut self.before, now) < now
    }
}

/// Which processes were killed because memory ran out.
#[derive(Debug, Default)]
pub(super) struct OomWatch {
    /// Counted from the first start on.
    kills: Option<OomKills>,
    /// The names of the processes whose last end was such a kill.
    killed: HashSet<String>,
}

impl OomWatch {
    pub(super) fn begin(&mut self) {
        self.kills = Some(OomKills::baseline());
    }

    /// A process is started. What ran out of memory before has nothing to do with it.
    pub(super) fn on_spawn(&mut self, id: ProcessId) {
        if let Some(kills) = self.kills.as_mut().filter(|_| id.life > 1) {
            kills.increased();
        }
    }

    /// A process has ended. True if it was killed because memory ran out.
    pub(super) fn on_exit(&mut self, name: &str, exit: Exit) -> bool {
        let killed = exit.code() == Exit::Signal(libc::SIGKILL).code()
            && self.kills.as_mut().is_some_and(OomKills::increased);
        if killed {
            self.killed.insert(name.to_owned());
        } else {
            self.killed.remove(name);
        }
        killed
    }

    /// Whether this process was killed because memory ran out.
    pub(super) fn has_killed(&self, name: &str) -> bool {
        self.killed.contains(name)
    }
}

/// The files that may have the count for a process of these control groups.
fn files(groups: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let root = PathBuf::from("/sys/fs/cgroup");
        if controllers.is_empty() {
            Some(root.join(path).join("memory.events"))
        } else if controllers.split(',').any(|it| it == "memory") {
            Some(root.join("memory").join(path).join("memory.oom_control"))
        } else {
            None
        }
    };
    groups.lines().filter_map(file).collect()
}

fn read(file: &PathBuf) -> Option<u64> {
    count(&fs::read_to_string(file).ok()?)
}

/// All three files have a line of this name.
fn count(text: &str) -> Option<u64> {
    let line = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_file_and_the_line_of_either_version() {
        let files =
            |groups| files(groups).iter().map(|it| it.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            files("0::/user.slice/a.scope\n"),
            ["/sys/fs/cgroup/user.slice/a.scope/memory.events"]
        );
        assert_eq!(
            files("5:cpu,cpuacct:/a\n4:memory:/b\n"),
            ["/sys/fs/cgroup/memory/b/memory.oom_control"]
        );
        assert_eq!(count("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(count("low 0\n"), None);
    }
}
