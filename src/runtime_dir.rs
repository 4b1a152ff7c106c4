//! The runtime folder of this user, for files that exist as long as a ganger runs: control
//! sockets and session markers.
//!
//! It is the same in every terminal, so that a client finds ganger in any environment:
//! `/tmp/ganger-UID`, never below TMPDIR. Another user may have created that name first,
//! because all users can write to `/tmp`. Then it is `~/.local/state/ganger`.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, geteuid};

/// The runtime folder, in use.
#[derive(Debug)]
pub struct RuntimeDir {
    /// Its path.
    pub path: PathBuf,
    /// Why the preferred folder is not used, if it is not.
    pub fallback_reason: Option<Unusable>,
    /// A lock that keeps systemd-tmpfiles(8) from removing old files.
    _in_use: Option<Flock<File>>,
}

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It belongs to another user.
    #[error("`{}` is a {kind} of user {owner} ({} can remove it)", path.display(), users_who_can_remove(*owner))]
    ForeignOwner {
        /// The path.
        path: PathBuf,
        /// The kind of file.
        kind: &'static str,
        /// The owner.
        owner: Uid,
    },
    /// It belongs to this user, but is not a folder.
    #[error("`{}` is a {kind}, and should be a folder (remove it)", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// The kind of file.
        kind: &'static str,
    },
    /// Other users can write to it, so that its files can't be trusted.
    #[error("other users can write to `{0}` (`chmod 700 {0}`)", path.display())]
    WritableByOthers {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses to create it.
    #[error("can't create `{}`: {}", path.display(), Errno::from_raw(error.raw_os_error().unwrap_or_default()).desc())]
    NotCreated {
        /// The path.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// There is no fallback, because the user has no home folder.
    #[error("no home of user {user} is known")]
    NoHome {
        /// The user.
        user: Uid,
    },
    /// Neither the preferred folder nor the fallback can be used.
    #[error("{preferred}; {fallback}")]
    Both {
        /// Why the preferred folder can't be used.
        preferred: Box<Unusable>,
        /// Why the fallback can't be used.
        fallback: Box<Unusable>,
    },
}

fn users_who_can_remove(owner: Uid) -> &'static str {
    if owner.is_root() { "root" } else { "that user or root" }
}

impl RuntimeDir {
    /// Creates the folder unless it exists.
    pub fn create() -> Result<Self, Unusable> {
        let preferred = match create_private(preferred(), Parents::Exist) {
            Ok(path) => return Ok(Self::new(path, None)),
            Err(error) => error,
        };
        let fallback = match fallback() {
            Some(path) => create_private(path, Parents::Created),
            None => Err(Unusable::NoHome { user: geteuid() }),
        };
        match fallback {
            Ok(path) => Ok(Self::new(path, Some(preferred))),
            Err(error) => {
                Err(Unusable::Both { preferred: Box::new(preferred), fallback: Box::new(error) })
            }
        }
    }

    fn new(path: PathBuf, fallback_reason: Option<Unusable>) -> Self {
        let lock = |file| Flock::lock(file, FlockArg::LockSharedNonblock).ok();
        let in_use = File::open(&path).ok().and_then(lock);
        Self { path, fallback_reason, _in_use: in_use }
    }
}

/// All folders of this user in which a ganger may have files: the preferred one, the fallback,
/// and those of earlier versions.
pub fn search_path() -> impl Iterator<Item = PathBuf> {
    let absolute = |key| std::env::var_os(key).map(PathBuf::from).filter(|it| it.is_absolute());
    let session = absolute("XDG_RUNTIME_DIR").map(|session| session.join("ganger"));
    let temporary = absolute("TMPDIR").map(|folder| folder.join(name(geteuid())));
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in [Some(preferred()), fallback(), session, temporary].into_iter().flatten() {
        if !all.contains(&folder) {
            all.push(folder);
        }
    }
    let is_own = |folder: &PathBuf| {
        fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && is_owned_by_user(&found))
    };
    all.into_iter().filter(is_own)
}

/// The folders in which a ganger of another user may have files, as far as only that user can
/// write there. For root, which may control every ganger.
pub fn search_path_of(user: Uid) -> impl Iterator<Item = PathBuf> {
    let home = || parse_home(&fs::read("/etc/passwd").ok()?, user);
    let folders = [Some(preferred_of(user)), home().map(|home| home.join(STATE_DIR))];
    let is_theirs = move |folder: &PathBuf| {
        fs::symlink_metadata(folder).is_ok_and(|found| {
            found.is_dir() && found.uid() == user.as_raw() && !is_writable_by_others(&found)
        })
    };
    folders.into_iter().flatten().filter(is_theirs)
}

/// Whether other users can't write to a folder of this user.
#[must_use]
pub fn is_private(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|found| !is_writable_by_others(&found))
}

fn name(user: Uid) -> String {
    format!("ganger-{user}")
}

fn preferred() -> PathBuf {
    preferred_of(geteuid())
}

fn preferred_of(user: Uid) -> PathBuf {
    Path::new("/tmp").join(name(user))
}

/// Where the fallback lies in a home folder.
const STATE_DIR: &str = ".local/state/ganger";

fn fallback() -> Option<PathBuf> {
    find_home().map(|home| home.join(STATE_DIR))
}

/// The home folder of this user. HOME is not trusted: sudo(8) may keep the HOME of another user.
fn find_home() -> Option<PathBuf> {
    let is_own = |home: &PathBuf| {
        home.is_absolute() && fs::metadata(home).is_ok_and(|found| is_owned_by_user(&found))
    };
    let named = std::env::var_os("HOME").map(PathBuf::from).filter(is_own);
    // getpwuid(3) loads libraries, which is not safe in a static program.
    let known = || parse_home(&fs::read("/etc/passwd").ok()?, geteuid());
    named.or_else(|| known().filter(is_own))
}

/// The home folder of a user in the content of a passwd(5) file.
fn parse_home(passwd: &[u8], user: Uid) -> Option<PathBuf> {
    let user = user.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [_, _, id, _, _, home, _] = fields[..] else { return None };
        (id == user.as_bytes()).then(|| Path::new(OsStr::from_bytes(home)).to_owned())
    })
}

fn is_owned_by_user(found: &Metadata) -> bool {
    found.uid() == geteuid().as_raw()
}

fn is_writable_by_others(found: &Metadata) -> bool {
    found.mode() & 0o022 != 0
}

/// Whether the parents of a folder exist or are created with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Parents {
    Exist,
    Created,
}

/// Creates a folder to which only this user can write, unless it exists.
fn create_private(path: PathBuf, parents: Parents) -> Result<PathBuf, Unusable> {
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).recursive(parents == Parents::Created).create(&path) {
        Ok(()) => {}
        // This includes a dangling symbolic link.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Unusable::NotCreated { path, error }),
    }
    let found = match fs::symlink_metadata(&path) {
        Ok(found) => found,
        Err(error) => return Err(Unusable::NotCreated { path, error }),
    };
    let kind = match found.file_type() {
        it if it.is_dir() => "folder",
        it if it.is_symlink() => "symbolic link",
        _ => "file",
    };
    if !is_owned_by_user(&found) {
        Err(Unusable::ForeignOwner { path, kind, owner: Uid::from_raw(found.uid()) })
    } else if !found.is_dir() {
        Err(Unusable::NotADirectory { path, kind })
    } else if is_writable_by_others(&found) {
        Err(Unusable::WritableByOthers { path })
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_read_from_passwd() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\n# x\nme:x:1000:1000::/home/m\xe9:/bin/sh\n";
        let home = |user| parse_home(passwd, Uid::from_raw(user));
        assert_eq!(home(0), Some("/root".into()));
        assert_eq!(home(1000), Some(OsStr::from_bytes(b"/home/m\xe9").into()));
        assert_eq!(home(100), None);
    }
}
