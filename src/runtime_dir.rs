//! The folder of this user for what lasts as long as a ganger does: control sockets and
//! session markers.
//!
//! It is the same from every terminal, so that a ganger is found whatever the environment
//! says: `/tmp/ganger-UID`, and never below TMPDIR. Since all users can write to `/tmp`,
//! another one may have that name first. Then it is `~/.local/state/ganger`.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, geteuid};

/// The folder, in use.
#[derive(Debug)]
pub struct RuntimeDir {
    /// Where it is.
    pub path: PathBuf,
    /// Why it is not the preferred one, if it isn't.
    pub fallback_reason: Option<Unusable>,
    /// As long as it is locked, systemd-tmpfiles(8) removes nothing from it for its age.
    _in_use: Option<Flock<File>>,
}

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Another user made it.
    #[error("`{}` is a {kind} of user {owner} ({} can remove it)", path.display(), remover(*owner))]
    ForeignOwner {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// Whose it is.
        owner: Uid,
    },
    /// It is this user's, but something else.
    #[error("`{}` is a {kind}, and should be a folder (remove it)", path.display())]
    NotADirectory {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Others may have put anything into it.
    #[error("other users can write to `{0}` (`chmod 700 {0}`)", path.display())]
    WritableByOthers {
        /// Where.
        path: PathBuf,
    },
    /// The system refuses it.
    #[error("can't create `{}`: {}", path.display(), Errno::from_raw(error.raw_os_error().unwrap_or_default()).desc())]
    NotCreated {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no place for a second choice.
    #[error("no home of user {user} is known")]
    NoHome {
        /// Who.
        user: Uid,
    },
    /// Neither of the two places is usable.
    #[error("{preferred}; {fallback}")]
    Both {
        /// Why the preferred one isn't.
        preferred: Box<Unusable>,
        /// Why the other one isn't.
        fallback: Box<Unusable>,
    },
}

fn remover(owner: Uid) -> &'static str {
    if owner.is_root() { "root" } else { "that user or root" }
}

impl RuntimeDir {
    /// Creates the folder, if need be.
    pub fn create() -> Result<Self, Unusable> {
        let preferred = match create_private(preferred(), Parents::AreThere) {
            Ok(path) => return Ok(Self::new(path, None)),
            Err(error) => error,
        };
        let fallback = match fallback() {
            Some(path) => create_private(path, Parents::AreCreated),
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

/// Every folder of this user's where a ganger may have left something: the two above, and
/// those where earlier versions did.
pub fn search_path() -> impl Iterator<Item = PathBuf> {
    let absolute = |key| std::env::var_os(key).map(PathBuf::from).filter(|it| it.is_absolute());
    let session = absolute("XDG_RUNTIME_DIR").map(|session| session.join("ganger"));
    let temporary = absolute("TMPDIR").map(|folder| folder.join(name()));
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in [Some(preferred()), fallback(), session, temporary].into_iter().flatten() {
        if !all.contains(&folder) {
            all.push(folder);
        }
    }
    let is_own = |folder: &PathBuf| {
        fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && is_ours(&found))
    };
    all.into_iter().filter(is_own)
}

/// Whether only this user can have put something into a folder of its own.
#[must_use]
pub fn is_private(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|found| !is_writable_by_others(&found))
}

fn name() -> String {
    format!("ganger-{}", geteuid())
}

fn preferred() -> PathBuf {
    Path::new("/tmp").join(name())
}

fn fallback() -> Option<PathBuf> {
    home().map(|home| home.join(".local/state/ganger"))
}

/// The home of this user. HOME is that of another one where sudo(8) keeps it.
fn home() -> Option<PathBuf> {
    let is_own = |home: &PathBuf| {
        home.is_absolute() && fs::metadata(home).is_ok_and(|found| is_ours(&found))
    };
    let named = std::env::var_os("HOME").map(PathBuf::from).filter(is_own);
    // getpwuid(3) loads libraries, which a static program can't do safely.
    let known = || home_in(&fs::read("/etc/passwd").ok()?, geteuid());
    named.or_else(|| known().filter(is_own))
}

/// The home of a user in a file as passwd(5) describes it.
fn home_in(passwd: &[u8], user: Uid) -> Option<PathBuf> {
    let user = user.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [_, _, id, _, _, home, _] = fields[..] else { return None };
        (id == user.as_bytes()).then(|| Path::new(OsStr::from_bytes(home)).to_owned())
    })
}

fn is_ours(found: &Metadata) -> bool {
    found.uid() == geteuid().as_raw()
}

fn is_writable_by_others(found: &Metadata) -> bool {
    found.mode() & 0o022 != 0
}

/// The folders above one that is created.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Parents {
    AreThere,
    AreCreated,
}

/// A folder that only this user can put something into.
fn create_private(path: PathBuf, parents: Parents) -> Result<PathBuf, Unusable> {
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).recursive(parents == Parents::AreCreated).create(&path) {
        Ok(()) => {}
        // Including a link to nothing.
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
    if !is_ours(&found) {
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
    fn home_of_a_user_stands_in_passwd() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\n# x\nme:x:1000:1000::/home/m\xe9:/bin/sh\n";
        let home = |user| home_in(passwd, Uid::from_raw(user));
        assert_eq!(home(0), Some("/root".into()));
        assert_eq!(home(1000), Some(OsStr::from_bytes(b"/home/m\xe9").into()));
        assert_eq!(home(100), None);
    }
}
