//! The socket through which a running ganger is found.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};

use crate::runtime;

/// A socket that this process listens on; it goes when this is dropped.
#[derive(Debug)]
pub struct Bound {
    /// What accepts clients.
    pub listener: UnixListener,
    /// Where.
    pub path: PathBuf,
    /// What tells it from another that has taken its place.
    inode: u64,
    /// Held as long as the socket is ours: who can take it finds a stale one.
    _lock: Lock,
}

/// A locked file beside the socket, which goes with it.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    inode: u64,
    _file: Flock<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        remove(&self.path, self.inode);
    }
}

/// Removes a file, if it is still the one that was made.
fn remove(path: &Path, inode: u64) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == inode) {
        let _ = fs::remove_file(path);
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error(
        "{} already runs here: change it with `ganger scale` or `ganger reload`, or give this one \
         a socket of its own with `-s`", who(*.0)
    )]
    Taken(Option<i32>),
    /// The system refuses it.
    #[error("failed to listen on `{}`: {error}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something else is there, which is not ganger's to take away.
    #[error(
        "`{}` is there already, and no socket of a ganger that has died (name another path with \
         `-s`)", .0.display()
    )]
    Occupied(PathBuf),
}

fn who(pid: Option<i32>) -> String {
    // Who is in another namespace has no number here.
    let pid = pid.filter(|pid| *pid > 0);
    pid.map_or_else(|| "a ganger".to_owned(), |pid| format!("a ganger (pid {pid})"))
}

/// What the socket for an app in the folder `root` is called: after the folder,
/// and a hash of its whole path (FNV-1a) that is the same in every version.
#[must_use]
pub fn name(root: &Path) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in root.as_os_str().as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let last = root.file_name().unwrap_or_default().to_string_lossy();
    let short: String = last.chars().filter(char::is_ascii_alphanumeric).take(24).collect();
    format!("{short}-{hash:016x}.sock")
}

/// Where a client looks for the app in the folder `root`.
#[must_use]
pub fn candidates(root: &Path) -> Vec<PathBuf> {
    runtime::trusted().map(|folder| folder.join(name(root))).collect()
}

/// Fails if somebody listens where a client would look for the app in this folder.
pub fn check_vacant(root: &Path) -> Result<(), Error> {
    let live = candidates(root).into_iter().find(|path| UnixStream::connect(path).is_ok());
    live.map_or(Ok(()), |path| Err(Error::Taken(holder(&path))))
}

/// Listens at `path`, for this user alone, in place of whoever has died there.
pub fn bind(path: &Path) -> Result<Bound, Error> {
    let refused = |error| Error::Refused { path: path.to_owned(), error };
    // Also of the lock: who can open it could hold it.
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
    let bound = lock(path).and_then(|lock| {
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let inode = fs::symlink_metadata(path).map_err(refused)?.ino();
        Ok(Bound { listener, path: path.to_owned(), inode, _lock: lock })
    });
    umask(before);
    bound
}

/// Takes away what a ganger has left that died, and nothing else.
fn clear(path: &Path) -> Result<(), Error> {
    let refused = |error| Error::Refused { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(refused)
            }
            Ok(_) | Err(_) => Err(Error::Occupied(path.to_owned())),
        },
        Ok(_) => Err(Error::Occupied(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

fn lock(path: &Path) -> Result<Lock, Error> {
    let refused = |error| Error::Refused { path: path.to_owned(), error };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    loop {
        let file = File::options().create(true).append(true).open(&lock_path);
        let lock = Flock::lock(file.map_err(refused)?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => Error::Taken(holder(path)),
            errno => refused(errno.into()),
        })?;
        // Whoever had it may just have taken the file away.
        let ours = lock.metadata().map_err(refused)?.ino();
        if fs::metadata(&lock_path).is_ok_and(|found| found.ino() == ours) {
            return Ok(Lock { path: lock_path, inode: ours, _file: lock });
        }
    }
}

/// Who listens there.
fn holder(path: &Path) -> Option<i32> {
    let stream = UnixStream::connect(path).ok()?;
    #[cfg(target_os = "linux")]
    {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
        getsockopt(&stream, PeerCredentials).ok().map(|peer| peer.pid())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = stream;
        None
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        remove(&self.path, self.inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_always_the_same() {
        assert_eq!(name(Path::new("/home/me/My App!")), "MyApp-93b023b3e45eaad3.sock");
        assert_ne!(name(Path::new("/a/x")), name(Path::new("/b/x")));
    }
}
