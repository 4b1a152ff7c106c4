//! The folder for what lives as long as a ganger does.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::geteuid;

/// That of the login session (XDG Base Directory Specification, `XDG_RUNTIME_DIR`),
/// or where there is none, one of this user's under the temporary folder. It is
/// made if need be, and nobody else can write to it.
pub fn folder() -> io::Result<PathBuf> {
    own(folders().swap_remove(0))
}

/// The same, of those that outlive a login.
pub fn lasting_folder() -> io::Result<PathBuf> {
    own(temporary())
}

/// Where such a folder may be, the preferred one first.
#[must_use]
pub fn folders() -> Vec<PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let session = session.filter(|session| session.is_absolute() && session.is_dir());
    session.map(|session| session.join("ganger")).into_iter().chain([temporary()]).collect()
}

/// Those of them that are there, and that nobody else can have put anything into.
pub fn trusted() -> impl Iterator<Item = PathBuf> {
    folders().into_iter().filter(|folder| is_own(folder))
}

fn temporary() -> PathBuf {
    std::env::temp_dir().join(format!("ganger-{}", geteuid()))
}

fn own(folder: PathBuf) -> io::Result<PathBuf> {
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if is_own(&folder) {
        Ok(folder)
    } else {
        let path = folder.display();
        Err(io::Error::other(format!("`{path}` is not a folder of this user's alone")))
    }
}

fn is_own(folder: &Path) -> bool {
    let others = |mode| Mode::from_bits_truncate(mode) & (Mode::S_IRWXG | Mode::S_IRWXO);
    std::fs::symlink_metadata(folder).is_ok_and(|found| {
        found.is_dir() && found.uid() == geteuid().as_raw() && others(found.mode()).is_empty()
    })
}
