//! What is known of each ganger: a file in the runtime folder, beside its socket.
//!
//! Clients find a ganger by these files. `ganger ps --all` lists them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};
use serde::{Deserialize, Serialize};

use super::app_root::AppRoot;
use super::socket;
use crate::plan::identity::Identity;
use crate::plan::sources::PROCFILE;
use crate::runtime_dir;

/// The extension of a run file.
pub(super) const RUNNING: &str = "run";
/// The limit of the size of a run file.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The description of a ganger in its run file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Run {
    /// Its process id.
    pub pid: u32,
    /// The folder of the app, for display: a path need not be UTF-8.
    pub root: String,
    /// The Procfile as seen from the root.
    pub procfile: String,
    /// `--name`.
    pub name: Option<String>,
    /// The base port.
    #[serde(default)]
    pub base_port: Option<u16>,
    /// The hashes of the paths of the root.
    roots: Vec<String>,
    /// The path of its socket, if it is not beside the file.
    socket: Option<String>,
}

impl Run {
    /// Whether it runs the app whose root is at this path.
    #[must_use]
    pub fn has_root(&self, path: &Path) -> bool {
        self.roots.contains(&socket::hash_of(path))
    }

    /// Whether it was started with `-s`, so that clients need the same flag.
    #[must_use]
    pub fn has_own_socket(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether it was started without `--name`, with the default Procfile.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.name.is_none() && self.procfile == PROCFILE
    }

    /// The flags that choose it among the gangers of its root.
    #[must_use]
    pub fn flags(&self) -> String {
        let procfile = (self.procfile != PROCFILE || self.name.is_none())
            .then(|| format!("-f {}", self.procfile));
        let name = self.name.as_ref().map(|name| format!("--name {name}"));
        procfile.into_iter().chain(name).collect::<Vec<_>>().join(" ")
    }
}

/// The run file of this ganger. It is removed when this is dropped.
#[derive(Debug)]
pub struct RunFile {
    path: PathBuf,
    run: Run,
}

impl RunFile {
    /// Creates the run file of this ganger, whose socket is at `socket`, in the runtime folder.
    pub fn create(
        folder: &Path,
        root: &AppRoot,
        identity: &Identity,
        socket: &Path,
    ) -> io::Result<Self> {
        let stem = socket::stem_of(&root.real, identity);
        let is_beside = socket == folder.join(format!("{stem}.sock"));
        let (stem, own_socket) = if is_beside {
            (stem, None)
        } else {
            let stem = socket::stem_at(&root.real, identity, socket);
            (stem, Some(socket.display().to_string()))
        };
        let procfile = identity.procfile.as_deref().unwrap_or(Path::new(PROCFILE));
        let run = Run {
            pid: std::process::id(),
            root: root.real.display().to_string(),
            procfile: procfile.display().to_string(),
            name: identity.name.clone(),
            base_port: None,
            roots: Vec::new(),
            socket: own_socket,
        };
        let mut file = Self { path: folder.join(format!("{stem}.{RUNNING}")), run };
        file.set_root(root)?;
        Ok(file)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes this ganger reachable by the paths of this root.
    pub fn set_root(&mut self, root: &AppRoot) -> io::Result<()> {
        self.run.root = root.real.display().to_string();
        self.run.roots = root.paths().map(socket::hash_of).collect();
        self.write()
    }

    /// Tells clients the base port.
    pub fn set_base_port(&mut self, base: Option<u16>) -> io::Result<()> {
        self.run.base_port = base;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        replace(&self.path, &serde_json::to_vec(&self.run)?)
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes a file for this user alone. A reader gets the old file or the complete new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}

/// A running ganger.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its description.
    pub run: Run,
    /// Its socket.
    pub socket: PathBuf,
}

/// The ganger of this user that runs this Procfile of the app at this path, by this name.
#[must_use]
pub fn find(root: &Path, identity: &Identity) -> Option<Run> {
    let name = format!("{}.{RUNNING}", socket::stem_of(root, identity));
    let folders = runtime_dir::search_path().filter(|folder| runtime_dir::is_private(folder));
    let paths: Vec<PathBuf> = folders.map(|folder| folder.join(&name)).collect();
    paths.into_iter().find_map(|path| {
        let run = read(&path)?;
        socket::is_bound(&path.with_extension("sock"), geteuid()).then_some(run)
    })
}

/// All running gangers of this user.
#[must_use]
pub fn list() -> Vec<Running> {
    let folders = runtime_dir::search_path().filter(|folder| runtime_dir::is_private(folder));
    folders.flat_map(|folder| list_in(&folder, geteuid())).collect()
}

/// All running gangers of another user.
#[must_use]
pub fn list_of(user: Uid) -> Vec<Running> {
    runtime_dir::search_path_of(user).flat_map(|folder| list_in(&folder, user)).collect()
}

fn list_in(folder: &Path, user: Uid) -> Vec<Running> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let running = paths.filter(|path| path.extension().is_some_and(|it| it == RUNNING));
    let running = running.filter_map(|path| {
        let run = read(&path)?;
        let socket = run.socket.as_ref().map_or_else(|| path.with_extension("sock"), PathBuf::from);
        Some(Running { run, socket })
    });
    let running = running.filter(|it| socket::is_bound(&it.socket, user));
    let mut running: Vec<Running> = running.collect();
    running.sort_by_cached_key(|Running { run, .. }| {
        (run.root.clone(), run.procfile.clone(), run.name.clone())
    });
    running
}

pub(super) fn read(path: &Path) -> Option<Run> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
