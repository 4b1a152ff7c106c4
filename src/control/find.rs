//! Finds the ganger that a command means.
//!
//! As git finds a repository, it is the one of the nearest root at or above the current folder.
//! A root is a folder in which a ganger runs, or which has a Procfile.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

use super::app_root::AppRoot;
use super::last_run::{self, LastRun};
use super::run_file::{self, Run, Running};
use super::socket;
use crate::plan::identity::Identity;
use crate::plan::sources::{FileLocations, PROCFILE};

/// The ganger that a command addresses, and a message about others in its root.
#[derive(Debug)]
pub struct Found {
    /// Its socket.
    pub socket: PathBuf,
    /// A message for the user, if several gangers run in its root.
    pub notice: Option<String>,
}

/// The reason why a command addresses no ganger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder can't be found.
    #[error(transparent)]
    Root(#[from] io::Error),
    /// None runs in this root. One may run in a root above.
    #[error("{}", .root.display())]
    NotRunning {
        /// The root.
        root: PathBuf,
        /// A root above in which a ganger runs.
        above: Option<String>,
        /// The one that ran last in this root, if it left something.
        last: Option<Box<LastRun>>,
    },
    /// Several gangers run in this root, and none of them is the default.
    #[error("several gangers run in `{root}`: choose one with {}", .flags.join(" or "))]
    Ambiguous {
        /// The root.
        root: String,
        /// The flags that choose each of them.
        flags: Vec<String>,
    },
}

/// Finds the ganger that runs the app at these locations, and has this name.
pub fn find(locations: &FileLocations, name: Option<&str>) -> Result<Found, Error> {
    let start = AppRoot::find(locations)?;
    let mut all = run_file::list();
    if geteuid().is_root() {
        all.extend(other_users(&start.real).into_iter().flat_map(run_file::list_of));
    }
    all.retain(|it| !it.run.has_own_socket());
    // A name without a folder means the file of that name in any root.
    let procfile = locations.procfile.is_some().then(|| {
        let seen = locations.procfile_from(&start.real).unwrap_or_else(|| PROCFILE.into());
        seen.display().to_string()
    });
    let is_meant = |run: &Run| {
        procfile.as_ref().is_none_or(|it| *it == run.procfile)
            && name.is_none_or(|name| run.name.as_deref() == Some(name))
    };
    let mut ended = last_run::list();
    ended.retain(|it| !it.run.has_own_socket());
    // The nearest root, if no ganger runs there.
    let mut nearest = None;
    for root in roots(&start, locations) {
        let running_at = |path: &Path| {
            let here = all.iter().filter(|it| it.run.has_root(path) && is_meant(&it.run));
            here.collect::<Vec<&Running>>()
        };
        // First by the path that the user knows, then by the folder that it leads to.
        let here = root.paths().map(running_at).find(|here| !here.is_empty());
        match (here, &nearest) {
            (Some(here), None) => return choose(&here),
            (Some(here), Some(nearest)) => {
                let above = here.first().map(|it| it.run.root.clone());
                return Err(not_running(nearest, above, None));
            }
            (None, Some(_)) => {}
            (None, None) => {
                if let Some(socket) = find_by_name(&root, procfile.as_deref(), name) {
                    return Ok(Found { socket, notice: None });
                }
                let last = |path: &Path| {
                    let here = ended.iter().filter(|it| it.run.has_root(path) && is_meant(&it.run));
                    choose_last(&here.collect::<Vec<_>>())
                };
                if let Some(last) = root.paths().find_map(last) {
                    return Err(not_running(&root, None, Some(last)));
                }
                if locations.names_root() || root.paths().any(|path| locations.is_root(path)) {
                    nearest = Some(root);
                }
            }
        }
    }
    Err(not_running(nearest.as_ref().unwrap_or(&start), None, None))
}

fn not_running(root: &AppRoot, above: Option<String>, last: Option<LastRun>) -> Error {
    Error::NotRunning { root: root.real.clone(), above, last: last.map(Box::new) }
}

/// Of these, which ran in one root, the one that is meant: the default one, or the latest.
fn choose_last(here: &[&LastRun]) -> Option<LastRun> {
    let default = here.iter().find(|it| it.run.is_default());
    let latest = || {
        let ended_at = |it: &&&LastRun| it.ending.as_ref().map(|ending| ending.at.to_bits());
        here.iter().max_by_key(ended_at)
    };
    default.or_else(latest).map(|it| LastRun::clone(it))
}

/// The folders in which a ganger is searched for, the nearest first: the folders above by the path
/// that the user knows, then by the real path.
fn roots(start: &AppRoot, locations: &FileLocations) -> Vec<AppRoot> {
    let mut roots = vec![start.clone()];
    if locations.names_root() {
        return roots;
    }
    let above = |path: &Path| path.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    for folder in start.paths().flat_map(above) {
        let Ok(real) = std::fs::canonicalize(&folder) else { continue };
        let root = AppRoot::new(&folder, real);
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

/// The users whose gangers root may address: the user of sudo(8), and the owner of the folder.
fn other_users(folder: &Path) -> Vec<Uid> {
    use std::os::unix::fs::MetadataExt;
    let sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    let owner = std::fs::metadata(folder).ok().map(|found| found.uid());
    let mut users: Vec<Uid> = sudo.into_iter().chain(owner).map(Uid::from_raw).collect();
    users.retain(|user| !user.is_root());
    users.dedup();
    users
}

/// Chooses one of these gangers of one root: the only one, or else the default one.
fn choose(here: &[&Running]) -> Result<Found, Error> {
    let flags = |it: &&Running| format!("`{}`", it.run.flags());
    let default = here.iter().find(|it| it.run.is_default());
    let unnamed = || match here.iter().filter(|it| it.run.name.is_none()).collect::<Vec<_>>()[..] {
        [only] => Some(only),
        _ => None,
    };
    let only = if let [only] = here { Some(only) } else { None };
    let Some(chosen) = only.or(default).or_else(unnamed) else {
        let root = here.first().map(|it| it.run.root.clone()).unwrap_or_default();
        return Err(Error::Ambiguous { root, flags: here.iter().map(flags).collect() });
    };
    let others = here.iter().filter(|it| it.socket != chosen.socket).map(flags);
    let others = others.collect::<Vec<_>>().join(", ");
    let (procfile, root) = (&chosen.run.procfile, &chosen.run.root);
    let notice = format!("`{procfile}` is meant; in `{root}` these run, too: {others}");
    Ok(Found { socket: chosen.socket.clone(), notice: (!others.is_empty()).then_some(notice) })
}

/// The socket of an earlier version, which wrote no run file.
fn find_by_name(root: &AppRoot, procfile: Option<&str>, name: Option<&str>) -> Option<PathBuf> {
    let is_default = procfile.is_none_or(|procfile| procfile == PROCFILE) && name.is_none();
    is_default.then(|| socket::find(root, &Identity::default())).flatten()
}
