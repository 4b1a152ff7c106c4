//! The socket through which a running ganger is found.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::signal::kill;
#[cfg(target_os = "linux")]
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, Uid, geteuid};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use super::app_root::AppRoot;
use super::peer;
use crate::notice::time;
use crate::plan::identity::{self, Identity};
use crate::runtime_dir;

/// A socket that this process listens on. It is removed when this is dropped.
#[derive(Debug)]
pub struct Bound {
    /// Accepts the clients.
    pub listener: UnixListener,
    /// The path of the socket.
    pub path: PathBuf,
    _file: SocketFile,
}

/// A file that clients connect to. It is removed when this is dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Its inode, which differs if another file has replaced it.
    inode: u64,
    /// Held as long as the file is in use: a ganger that can lock it finds a stale socket.
    _lock: Lock,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        remove(&self.path, self.inode);
    }
}

/// The other paths of a socket: hard links to it, beside it.
#[derive(Debug)]
pub struct Aliases {
    socket: PathBuf,
    identity: Identity,
    links: Vec<SocketFile>,
}

/// A locked file beside the socket, which is removed with it. It contains the process id of its
/// owner.
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

/// Removes a file, unless another one has replaced it.
fn remove(path: &Path, inode: u64) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == inode) {
        let _ = fs::remove_file(path);
    }
}

/// The reason why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another ganger listens there.
    #[error(
        "already running{}{}: `ganger ps` shows it, `ganger quit` stops it, and `--name NAME` runs \
         another one beside it", describe_age(*.age), describe_owner(*.owner)
    )]
    AlreadyRunning {
        /// Its process id, if that is known.
        owner: Option<i32>,
        /// For how long it has listened, if that is known.
        age: Option<Duration>,
    },
    /// The system returned an error.
    #[error("failed to listen on `{}`: {error}", path.display())]
    Refused {
        /// The path of the socket.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// Another file is there, which ganger must not remove.
    #[error(
        "`{}` is there already, and no socket of a ganger that has died (name another path with \
         `-s`)", .0.display()
    )]
    Occupied(PathBuf),
    /// The lock is not a regular file of this user: another user may have planted it.
    #[error(
        "`{}` is there already, and no lock of this user's ganger (remove it, or name another \
         path with `-s`)", .0.display()
    )]
    ForeignLock(PathBuf),
}

fn describe_owner(pid: Option<i32>) -> String {
    // A process in another namespace has no id here.
    let pid = pid.filter(|pid| *pid > 0);
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

fn describe_age(age: Option<Duration>) -> String {
    age.map_or_else(String::new, |age| format!(" for {}", time(age)))
}

/// The age of the socket at this path.
fn age_of(path: &Path) -> Option<Duration> {
    fs::symlink_metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

/// The name of the socket of the ganger that runs `Procfile` in the folder `root`.
#[must_use]
pub fn name(root: &Path) -> String {
    name_of(root, &Identity::default())
}

/// The name of the socket of a ganger: the name of its root, and a hash of the path of the root.
#[must_use]
pub fn name_of(root: &Path, identity: &Identity) -> String {
    format!("{}.sock", stem_of(root, identity))
}

/// The names of all files of a ganger begin with this.
#[must_use]
pub(super) fn stem_of(root: &Path, identity: &Identity) -> String {
    let last = root.file_name().unwrap_or_default().to_string_lossy();
    let letters = last.chars().filter(char::is_ascii_alphanumeric);
    let hash = hash_of(root);
    if *identity == Identity::default() {
        return format!("{}-{hash}", letters.take(24).collect::<String>());
    }
    // The path of a socket must not be long (unix(7): 107 bytes).
    let short = format!("{:08x}", identity.hash(root) & 0xffff_ffff);
    format!("{}-{hash}-{short}", letters.take(16).collect::<String>())
}

/// The hash of a root's path.
pub(super) fn hash_of(root: &Path) -> String {
    format!("{:016x}", Identity::default().hash(root))
}

/// The prefix of the files of a ganger that was started with `-s`.
pub(super) fn stem_at(root: &Path, identity: &Identity, socket: &Path) -> String {
    let hash = identity::hash(socket.as_os_str().as_encoded_bytes());
    format!("{}-{:08x}", stem_of(root, identity), hash & 0xffff_ffff)
}

/// The socket of the ganger with this identity in the folder `root`, found by its name as in
/// earlier versions. A socket that other users could have created is not used.
#[must_use]
pub fn find(root: &AppRoot, identity: &Identity) -> Option<PathBuf> {
    let folders = runtime_dir::search_path().filter(|folder| runtime_dir::is_private(folder));
    find_in(folders, root, identity)
}

/// Fails if a ganger with this identity runs in the folder `root`.
pub fn check_vacant(root: &AppRoot, identity: &Identity) -> Result<(), Error> {
    let found = find_in(runtime_dir::search_path(), root, identity);
    let Some(path) = found else { return Ok(()) };
    Err(Error::AlreadyRunning { owner: owner_pid(&path), age: age_of(&path) })
}

fn find_in(
    folders: impl Iterator<Item = PathBuf>,
    root: &AppRoot,
    identity: &Identity,
) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = folders.collect();
    let name = |path| name_of(path, identity);
    let mut sockets =
        root.paths().flat_map(|path| folders.iter().map(move |folder| folder.join(name(path))));
    sockets.find(|path| is_bound(path, geteuid()))
}

/// Listens at `path`, for this user alone, in place of a ganger that has died.
pub fn bind(path: &Path) -> Result<Bound, Error> {
    let refused = |error| Error::Refused { path: path.to_owned(), error };
    let lock = lock(path)?;
    clear(path)?;
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let inode = fs::symlink_metadata(path).map_err(refused)?.ino();
    let file = SocketFile { path: path.to_owned(), inode, _lock: lock };
    Ok(Bound { listener, path: path.to_owned(), _file: file })
}

impl Aliases {
    /// A set without paths.
    #[must_use]
    pub fn new(bound: &Bound, identity: Identity) -> Self {
        Self { socket: bound.path.clone(), identity, links: Vec::new() }
    }

    /// Makes the socket reachable by the paths of `root`, and no longer by other paths but its own.
    pub fn set(&mut self, root: &AppRoot) -> Result<(), Error> {
        let name = |path| name_of(path, &self.identity);
        let paths: Vec<PathBuf> =
            root.paths().map(|path| self.socket.with_file_name(name(path))).collect();
        self.links.retain(|link| paths.contains(&link.path));
        for path in paths {
            if path != self.socket && self.links.iter().all(|link| link.path != path) {
                let link = self.link(path)?;
                self.links.push(link);
            }
        }
        Ok(())
    }

    /// Creates a hard link, which is treated as the socket itself.
    fn link(&self, path: PathBuf) -> Result<SocketFile, Error> {
        let lock = lock(&path)?;
        clear(&path)?;
        let linked = fs::hard_link(&self.socket, &path)
            .and_then(|()| Ok(fs::symlink_metadata(&path)?.ino()));
        match linked {
            Ok(inode) => Ok(SocketFile { path, inode, _lock: lock }),
            Err(error) => Err(Error::Refused { path, error }),
        }
    }
}

/// Removes the socket of a ganger that has died, and nothing else.
fn clear(path: &Path) -> Result<(), Error> {
    let refused = |error| Error::Refused { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match connect(path) {
            Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path).map_err(refused),
            Ok(_) | Err(_) => Err(Error::Occupied(path.to_owned())),
        },
        Ok(_) => Err(Error::Occupied(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

/// A process id in a lock is not longer.
const MAX_PID_BYTES: u64 = 20;
/// How long an owner of a lock may take to write its process id.
const OWNER_TIMEOUT: Duration = Duration::from_secs(1);

fn lock(path: &Path) -> Result<Lock, Error> {
    let refused = |error| Error::Refused { path: path.to_owned(), error };
    let lock_path = lock_path(path);
    let since = Instant::now();
    loop {
        let file = open_lock(&lock_path)?;
        let inode = file.metadata().map_err(refused)?.ino();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // Its last owner may just have removed the file.
                if fs::symlink_metadata(&lock_path).is_ok_and(|found| found.ino() == inode) {
                    file.set_len(0).map_err(refused)?;
                    writeln!(file, "{}", std::process::id()).map_err(refused)?;
                    return Ok(Lock { path: lock_path, inode, _file: file });
                }
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let owner = owner_pid(path);
                if owner.is_some() || since.elapsed() > OWNER_TIMEOUT {
                    return Err(Error::AlreadyRunning { owner, age: age_of(path) });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((_, errno)) => return Err(refused(errno.into())),
        }
    }
}

/// Opens the file, or creates it. Where other users can write, it may be any kind of file.
fn open_lock(path: &Path) -> Result<File, Error> {
    let foreign = || Error::ForeignLock(path.to_owned());
    let refused = |error| Error::Refused { path: path.to_owned(), error };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    // A process that can open the file could lock it: only this user may.
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits())
        .open(path);
    let is_own = |found: &fs::Metadata| {
        // With other links, it would be another file of this user.
        found.is_file() && found.uid() == geteuid().as_raw() && found.nlink() <= 1
    };
    match file {
        Ok(file) if file.metadata().is_ok_and(|found| is_own(&found)) => Ok(file),
        Ok(_) => Err(foreign()),
        Err(_) if fs::symlink_metadata(path).is_ok_and(|found| !is_own(&found)) => Err(foreign()),
        Err(error) => Err(refused(error)),
    }
}

/// The process that listens at the other end, or else that holds the lock.
fn owner_pid(path: &Path) -> Option<i32> {
    let listener = connect(path).ok().and_then(|stream| peer::pid(&stream));
    listener.or_else(|| {
        // It may be any kind of file.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let mut text = String::new();
        let lock = File::options().read(true).custom_flags(flags).open(lock_path(path)).ok()?;
        lock.take(MAX_PID_BYTES).read_to_string(&mut text).ok()?;
        let pid = text.strip_suffix('\n')?.parse().ok()?;
        // The text may still be from an earlier owner, which has exited.
        kill(Pid::from_raw(pid), None).is_ok().then_some(pid)
    })
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Whether a ganger of this user, or of root, listens here.
#[must_use]
pub fn is_bound(path: &Path, user: Uid) -> bool {
    let is_trusted = |owner: Uid| owner == user || owner.is_root();
    match connect(path) {
        #[cfg(target_os = "linux")]
        Ok(stream) => getsockopt(&stream, PeerCredentials)
            .is_ok_and(|peer| is_trusted(Uid::from_raw(peer.uid()))),
        #[cfg(not(target_os = "linux"))]
        Ok(_) => true,
        // It is suspended, and its queue is full.
        Err(rustix::io::Errno::AGAIN) => {
            fs::metadata(path).is_ok_and(|found| is_trusted(Uid::from_raw(found.uid())))
        }
        Err(_) => false,
    }
}

/// A connection that is not waited for, however full the queue of the listener is.
pub(super) fn connect(path: &Path) -> rustix::io::Result<UnixStream> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_always_the_same() {
        assert_eq!(name(Path::new("/home/me/My App!")), "MyApp-93b023b3e45eaad3.sock");
        assert_ne!(name(Path::new("/a/x")), name(Path::new("/b/x")));
        let dev = Identity { procfile: Some("Procfile.dev".into()), name: None };
        let name = name_of(Path::new("/home/me/My App!"), &dev);
        assert_eq!(name, "MyApp-93b023b3e45eaad3-1a0f6bba.sock");
    }
}
