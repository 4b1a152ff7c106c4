//! What an earlier ganger left, where it and its keeper were killed at one
//! instant: whoever still has the mark of that keeper in its environment.
//!
//! To read every environment takes longer than all else at the start. So a
//! ganger leaves a trace, an empty file that says who it is, and takes it away at
//! its end; only a trace of the dead is a reason to look.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::unistd::{Pid, getpid};

use super::kill::{PATIENCE, send};
use super::protocol::{MARK, Member};
use super::tree::{self, Seen};

/// Whether the process of this identity runs.
fn is_alive(identity: &str) -> bool {
    let pid = identity.split('-').next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    pid.and_then(tree::look)
        .is_some_and(|seen| seen.alive && format!("{}-{}", seen.pid, seen.started) == identity)
}

/// Says, as long as it stands, that a ganger and its keeper are at work.
#[derive(Debug)]
pub struct Trace(PathBuf);

impl Trace {
    /// A trace in `folder` of this process and its keeper.
    pub fn leave(folder: &Path, keeper: Pid) -> io::Result<Self> {
        let gone = || io::Error::other("the keeper is gone");
        let (us, keeper) = (tree::identity(getpid()), tree::identity(keeper));
        let (us, keeper) = (us.ok_or_else(gone)?, keeper.ok_or_else(gone)?);
        let path = folder.join(format!("{}_{us}_{keeper}", namespace("self")?));
        File::create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The pid namespace of a process (`pid_namespaces(7)`): numbers mean nothing
/// outside of it.
fn namespace(pid: &str) -> io::Result<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/pid"))?;
    let number = |char: char| char.is_ascii_digit();
    Ok(link.to_string_lossy().chars().filter(|char| number(*char)).collect())
}

/// Kills what is left of all who left a trace in `folder` and are dead, and
/// returns whom it found.
#[must_use]
pub fn sweep(folder: &Path) -> Vec<Member> {
    let Ok(here) = namespace("self") else { return Vec::new() };
    let mut dead = Vec::new();
    let mut traces = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let [namespace, ganger, keeper] = name.split('_').collect::<Vec<_>>()[..]
            && namespace == here
            && !is_alive(ganger)
            && !is_alive(keeper)
        {
            dead.push(keeper.to_owned());
            traces.push(Trace(entry.path()));
        }
    }
    if dead.is_empty() {
        return Vec::new();
    }
    let since = Instant::now();
    let mut found: Vec<Member> = Vec::new();
    loop {
        let left = marked(&dead, &here);
        if left.is_empty() || since.elapsed() > PATIENCE {
            return found;
        }
        for seen in left {
            let _ = send(&seen, libc::SIGKILL);
            let member = seen.member();
            if !found.contains(&member) {
                found.push(member);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Who lives and has the mark of one of these sessions. A shell that was left may
/// be where this ganger was started: who it descends from is let be.
fn marked(sessions: &[String], here: &str) -> Vec<Seen> {
    let parent = |pid: &Pid| tree::look(*pid).map(|seen| seen.parent);
    let ours: Vec<Pid> = std::iter::successors(Some(getpid()), parent).collect();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_mark = |pid: &Pid| {
        let mark = tree::variable(*pid, MARK);
        let session = mark.as_deref().and_then(|mark| mark.split_once('/'));
        session.is_some_and(|(session, _)| sessions.iter().any(|dead| dead == session))
            && namespace(&pid.to_string()).is_ok_and(|namespace| namespace == here)
    };
    let others = pids.map(Pid::from_raw).filter(|pid| !ours.contains(pid));
    let found = others.filter(has_mark).filter_map(tree::look);
    found.filter(|seen| seen.alive).collect()
}
