//! Watches files, for processes that are started again when one changes.
//!
//! A thread of its own does it. It watches the folders one by one, and not those
//! that git ignores: what tools put there may be more than everything else, and is
//! not a source.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::gitignore::Gitignore;
use notify::event::ModifyKind;
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::UnboundedSender;

use crate::plan::ProcessPlan;

/// What the watch has found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum FileChange {
    /// Files changed that these process types watch, one of them this.
    Changed(Vec<String>, PathBuf),
    /// Not everything can be watched, for this reason.
    WatchFailed(String),
}

/// Changes that follow each other faster than this are reported as one.
const QUIET_TIME: Duration = Duration::from_millis(200);
/// A longer series of changes is reported as several.
const MAX_BURST: Duration = Duration::from_secs(5);

/// The rules by which git ignores files.
const RULES: &str = ".gitignore";

/// Watches until it is dropped.
pub(super) struct Watch {
    root: PathBuf,
    patterns: Vec<(String, Vec<String>)>,
    messages: Sender<Message>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
    }
}

enum Message {
    Event(notify::Result<Event>),
    Stop,
}

impl Watch {
    /// Watches for the types of these processes; none, if no type has files to watch.
    pub(super) fn start(
        root: &Path,
        processes: &[Arc<ProcessPlan>],
        seen: UnboundedSender<FileChange>,
    ) -> Option<Self> {
        let patterns = patterns(processes);
        if patterns.is_empty() {
            return None;
        }
        let (messages, receive) = channel();
        let report = messages.clone();
        let on_event = move |event| drop(report.send(Message::Event(event)));
        let watcher = match notify::recommended_watcher(on_event) {
            Ok(watcher) => watcher,
            Err(error) => {
                let _ = seen.send(FileChange::WatchFailed(error.to_string()));
                return None;
            }
        };
        let wanted = patterns
            .iter()
            .map(|(process_type, globs)| Watched::new(process_type, globs))
            .collect();
        let mut worker = Worker {
            root: root.to_owned(),
            watched: wanted,
            watcher,
            folders: HashMap::new(),
            seen,
        };
        let work = move || {
            worker.learn_above();
            worker.enter(&worker.root.clone());
            worker.run(&receive);
        };
        std::thread::Builder::new().name("watch".into()).spawn(work).ok()?;
        Some(Self { root: root.to_owned(), patterns, messages })
    }

    /// Whether this is what these processes want in this folder, too.
    pub(super) fn is_for(&self, root: &Path, processes: &[Arc<ProcessPlan>]) -> bool {
        self.root == root && self.patterns == patterns(processes)
    }
}

/// For each process type what it watches.
fn patterns(processes: &[Arc<ProcessPlan>]) -> Vec<(String, Vec<String>)> {
    let mut patterns: Vec<(String, Vec<String>)> = Vec::new();
    for process in processes.iter().filter(|process| !process.watch.is_empty()) {
        if patterns.iter().all(|(process_type, _)| *process_type != process.process_type) {
            patterns.push((process.process_type.clone(), process.watch.clone()));
        }
    }
    patterns
}

fn set(globs: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    let glob = |text: &String| GlobBuilder::new(text).literal_separator(true).build().ok();
    for glob in globs.iter().filter_map(glob) {
        set.add(glob);
    }
    set.build().unwrap_or_default()
}

/// What one process type watches.
struct Watched {
    process_type: String,
    globs: GlobSet,
    /// The folders that its patterns begin with.
    prefixes: Vec<PathBuf>,
}

impl Watched {
    fn new(process_type: &str, patterns: &[String]) -> Self {
        let is_plain = |part: &&str| !part.contains(['*', '?', '[', '{', '\\']);
        let prefix = |pattern: &String| pattern.split('/').take_while(is_plain).collect();
        let prefixes = patterns.iter().map(prefix).collect();
        Self { process_type: process_type.to_owned(), globs: set(patterns), prefixes }
    }
}

struct Worker {
    root: PathBuf,
    watched: Vec<Watched>,
    watcher: RecommendedWatcher,
    /// What git ignores, for each folder that is watched, and those above the root.
    folders: HashMap<PathBuf, Gitignore>,
    seen: UnboundedSender<FileChange>,
}

/// Changes that are reported as one, because they follow each other closely.
struct Burst {
    /// The first file that changed.
    file: PathBuf,
    /// The process types that watch a file that changed.
    types: BTreeSet<String>,
    began: Instant,
    /// When the last event was handled, and the wait for the next one began.
    waits_since: Instant,
}

impl Burst {
    fn new(file: PathBuf, now: Instant) -> Self {
        Self { file, types: BTreeSet::new(), began: now, waits_since: now }
    }

    /// How long to wait for another event.
    fn timeout(&self, now: Instant) -> Duration {
        QUIET_TIME.min(MAX_BURST.saturating_sub(now.duration_since(self.began)))
    }

    /// Whether it is over, after a wait that no event has ended. A wait that took much longer than
    /// its timeout proves nothing: ganger did not run meanwhile, and has to read the events first.
    fn is_over(&mut self, now: Instant) -> bool {
        let waited = now.duration_since(std::mem::replace(&mut self.waits_since, now));
        waited < 2 * QUIET_TIME || now.duration_since(self.began) >= MAX_BURST
    }
}

impl Worker {
    /// Until the watch is dropped.
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut burst: Option<Burst> = None;
        loop {
            let message = match &burst {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(burst) => messages.recv_timeout(burst.timeout(Instant::now())),
            };
            match message {
                Ok(Message::Event(Ok(event))) => {
                    for path in self.changed(&event) {
                        let types = self.watched_by(&path);
                        if !types.is_empty() {
                            let burst =
                                burst.get_or_insert_with(|| Burst::new(path, Instant::now()));
                            burst.types.extend(types);
                        }
                    }
                    if let Some(burst) = &mut burst {
                        burst.waits_since = Instant::now();
                    }
                }
                Ok(Message::Event(Err(error))) => self.blind(&error.to_string()),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(Burst { types, file, .. }) =
                        burst.take_if(|burst| burst.is_over(Instant::now()))
                    {
                        let types = types.into_iter().collect();
                        let _ = self.seen.send(FileChange::Changed(types, file));
                    }
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The files that an event is about; folders that are new are watched from now on.
    fn changed(&mut self, event: &Event) -> Vec<PathBuf> {
        if event.need_rescan() {
            // The system has lost count, and so have we.
            self.leave(&self.root.clone());
            return self.enter(&self.root.clone());
        }
        let renewed = match event.kind {
            EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => true,
            EventKind::Modify(_) | EventKind::Any => false,
            EventKind::Access(_) | EventKind::Other => return Vec::new(),
        };
        let mut files = Vec::new();
        for path in &event.paths {
            let is_folder = path.is_dir() && !path.is_symlink();
            if renewed {
                // Of this name there is nothing more, or something else.
                self.leave(path);
            }
            if self.is_ignored(path, is_folder) {
                continue;
            }
            if is_folder {
                // What came with it, or before it was watched, is new as well.
                if !self.folders.contains_key(path) {
                    files.extend(self.enter(path));
                }
            } else {
                if path.file_name().is_some_and(|name| name == RULES) {
                    self.follow_rules(path.parent().unwrap_or(&self.root.clone()));
                }
                files.push(path.clone());
            }
        }
        files
    }

    /// What git ignores below a folder has changed.
    fn follow_rules(&mut self, folder: &Path) {
        self.leave(folder);
        self.enter(folder);
    }

    /// Watches a folder and those in it, and returns the files there.
    fn enter(&mut self, folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            // Before it is read: what comes later is an event.
            if let Err(error) = self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                match error.kind {
                    // Gone again.
                    ErrorKind::PathNotFound | ErrorKind::WatchNotFound => continue,
                    ErrorKind::Io(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    ErrorKind::Generic(_) | ErrorKind::Io(_) | ErrorKind::InvalidConfig(_) => {
                        self.blind(&format!("`{}`: {error}", folder.display()));
                        continue;
                    }
                    ErrorKind::MaxFilesWatch => {
                        self.blind(&error.to_string());
                        return files;
                    }
                }
            }
            self.learn(&folder);
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                // A link is followed nowhere: it may lead round in a circle.
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let path = entry.path();
                match (self.is_ignored(&path, is_folder), is_folder) {
                    (true, _) => {}
                    (false, true) if self.may_matter(&path) => folders.push(path),
                    (false, true) => {}
                    (false, false) => files.push(path),
                }
            }
        }
        files
    }

    fn blind(&self, reason: &str) {
        let _ = self.seen.send(FileChange::WatchFailed(reason.to_owned()));
    }

    /// Whether something in this folder may be what a pattern means.
    fn may_matter(&self, folder: &Path) -> bool {
        let Ok(relative) = folder.strip_prefix(&self.root) else { return false };
        self.watched.iter().any(|watched| {
            watched.prefixes.iter().any(|it| it.starts_with(relative) || relative.starts_with(it))
        })
    }

    /// If that was a folder, it and all in it is gone: another may come in its place.
    fn leave(&mut self, folder: &Path) {
        if self.folders.contains_key(folder) {
            for (gone, _) in self.folders.extract_if(|known, _| known.starts_with(folder)) {
                // The system may have forgotten it already.
                let _ = self.watcher.unwatch(&gone);
            }
        }
    }

    fn learn(&mut self, folder: &Path) {
        let (rules, _) = Gitignore::new(folder.join(RULES));
        self.folders.insert(folder.to_owned(), rules);
    }

    /// The rules of the folders above the app, if it is a part of a repository.
    fn learn_above(&mut self) {
        let root = self.root.clone();
        let top = root.ancestors().find(|folder| folder.join(".git").exists());
        let above = |folder: &&Path| top.is_some_and(|top| folder.starts_with(top));
        for folder in root.ancestors().skip(1).take_while(above) {
            self.learn(folder);
        }
    }

    /// The rules that are nearest to a file decide (gitignore(5)).
    fn is_ignored(&self, path: &Path, is_folder: bool) -> bool {
        if path.components().any(|part| part.as_os_str() == ".git") {
            return true;
        }
        for rules in path.ancestors().skip(1).filter_map(|folder| self.folders.get(folder)) {
            match rules.matched_path_or_any_parents(path, is_folder) {
                ignore::Match::Ignore(_) => return true,
                ignore::Match::Whitelist(_) => return false,
                ignore::Match::None => {}
            }
        }
        false
    }

    fn watched_by(&self, path: &Path) -> Vec<String> {
        let Ok(relative) = path.strip_prefix(&self.root) else { return Vec::new() };
        let of = self.watched.iter().filter(|watched| watched.globs.is_match(relative));
        of.map(|watched| watched.process_type.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_over_after_a_quiet_time() {
        let now = Instant::now();
        let mut burst = Burst::new("a".into(), now);
        assert_eq!(burst.timeout(now), QUIET_TIME);
        assert!(burst.is_over(now + QUIET_TIME));
    }

    #[test]
    fn burst_is_not_over_after_a_pause_of_ganger() {
        let now = Instant::now();
        let mut burst = Burst::new("a".into(), now);
        let resumed = now + Duration::from_secs(2);
        assert!(!burst.is_over(resumed));
        assert!(burst.is_over(resumed + QUIET_TIME));
    }

    #[test]
    fn burst_is_over_after_its_longest_duration() {
        let now = Instant::now();
        let mut burst = Burst::new("a".into(), now);
        let late = now + MAX_BURST.saturating_sub(QUIET_TIME / 2);
        burst.waits_since = late;
        assert_eq!(burst.timeout(late), QUIET_TIME / 2);
        assert!(burst.is_over(now + MAX_BURST));
        assert!(Burst::new("a".into(), now).is_over(now + 2 * MAX_BURST));
    }
}
