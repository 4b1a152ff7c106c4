//! Reserves ports among the gangers of this user.
//!
//! That no program listens on a port does not mean that it is free: another ganger may have given
//! it to a process that has not bound it yet, or never does.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::plan::port::AutoBlock;

/// A block of ports that no other ganger of this user gets, until this is dropped.
#[derive(Debug)]
pub(super) struct PortBlock(#[expect(dead_code, reason = "it is held")] Vec<Reservation>);

/// A locked file for a hundred ports. It is removed when this is dropped.
#[derive(Debug)]
struct Reservation {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl PortBlock {
    /// Reserves a block in this folder; none if another ganger has some of its ports.
    pub(super) fn reserve(folder: &Path, block: AutoBlock) -> io::Result<Option<Self>> {
        let mut reserved = Vec::new();
        for first in block.hundreds() {
            match lock(folder.join(format!("ports-{first}")))? {
                Some(reservation) => reserved.push(reservation),
                None => return Ok(None),
            }
        }
        Ok(Some(Self(reserved)))
    }
}

fn lock(path: PathBuf) -> io::Result<Option<Reservation>> {
    loop {
        let file =
            File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let inode = file.metadata()?.ino();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its last owner may just have removed it.
            Ok(_) if fs::metadata(&path).map_or(true, |found| found.ino() != inode) => {}
            Ok(lock) => return Ok(Some(Reservation { path, _lock: lock })),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}
