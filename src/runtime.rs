//! The folder for what lives as long as a ganger does.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

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

fn temporary() -> PathBuf {
    std::env::temp_dir().join(format!("ganger-{}", geteuid()))
}

fn own(folder: PathBuf) -> io::Result<PathBuf> {
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = std::fs::symlink_metadata(&folder)?;
    let others = Mode::from_bits_truncate(found.mode()) & (Mode::S_IRWXG | Mode::S_IRWXO);
    if found.is_dir() && found.uid() == geteuid().as_raw() && others.is_empty() {
        Ok(folder)
    } else {
        let path = folder.display();
        Err(io::Error::other(format!("`{path}` is not a folder of this user's alone")))
    }
}
