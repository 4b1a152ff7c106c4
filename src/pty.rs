//! Pseudo-terminals (pty(7)): a process that runs on one behaves as on the user's terminal.
//!
//! ganger holds the master. The process has the other end as its controlling terminal, its
//! output and, unless it is configured otherwise, its stdin.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcgetwinsize,
    tcsetattr, tcsetwinsize,
};

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowSize {
    /// The number of rows.
    pub rows: u16,
    /// The number of columns.
    pub columns: u16,
}

impl Default for WindowSize {
    /// The size that programs assume if a terminal does not know its own.
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// A terminal has at least as many columns, however long the names of processes are.
const MIN_COLUMNS: u16 = 20;

impl WindowSize {
    /// The size of a terminal; none if `file` is not a terminal or does not know its size.
    pub fn of(file: impl AsFd) -> Option<Self> {
        let size = tcgetwinsize(file).ok()?;
        let is_known = size.ws_row > 0 && size.ws_col > 0;
        is_known.then_some(Self { rows: size.ws_row, columns: size.ws_col })
    }

    /// The size that is left beside a prefix of `width` columns.
    #[must_use]
    pub fn beside(self, width: usize) -> Self {
        let width = u16::try_from(width).unwrap_or(u16::MAX);
        let columns = self.columns.saturating_sub(width).max(MIN_COLUMNS.min(self.columns));
        Self { columns, ..self }
    }
}

/// The master of a terminal. The terminal hangs up when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Pty {
    master: Arc<OwnedFd>,
}

impl Pty {
    /// Opens a terminal of this size. Returns its master, which does not block, and the other
    /// end, for a process.
    ///
    /// What the process writes is passed on unchanged (no CR before a newline), what it is sent
    /// is not echoed, and no byte stops its output.
    pub fn open(size: WindowSize) -> io::Result<(Self, OwnedFd)> {
        let master = openpt(open_flags())?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = open_slave(&master)?;
        let mut modes = tcgetattr(&slave)?;
        modes.output_modes.remove(OutputModes::OPOST);
        modes.local_modes.remove(LocalModes::ECHO);
        modes.input_modes.remove(InputModes::IXON | InputModes::IXOFF);
        #[cfg(target_os = "linux")]
        modes.input_modes.insert(InputModes::IUTF8);
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let pty = Self { master: Arc::new(master) };
        pty.set_size(size)?;
        Ok((pty, slave))
    }

    /// Another descriptor of the master, to read from.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        self.master.try_clone()
    }

    /// Changes the size. Returns whether it was another one; the system sends SIGWINCH then.
    pub fn set_size(&self, size: WindowSize) -> io::Result<bool> {
        let WindowSize { rows, columns } = size;
        let changed = WindowSize::of(self) != Some(size);
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&*self.master, size)?;
        Ok(changed)
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

/// No program inherits the master, and ganger gets no controlling terminal.
fn open_flags() -> OpenptFlags {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    #[cfg(target_os = "linux")]
    let flags = flags | OpenptFlags::CLOEXEC;
    flags
}

/// Opens the other end without its path, which another mount of `/dev/pts` would change.
#[cfg(target_os = "linux")]
fn open_slave(master: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::pty::ioctl_tiocgptpeer(master, open_flags())?)
}

#[cfg(not(target_os = "linux"))]
fn open_slave(master: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::OpenOptionsExt;

    rustix::io::fcntl_setfd(master, rustix::io::FdFlags::CLOEXEC)?;
    let name = rustix::pty::ptsname(master, Vec::new())?;
    let path = std::ffi::OsString::from_vec(name.into_bytes());
    let mut options = std::fs::File::options();
    Ok(options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)?.into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn output_is_passed_on_unchanged_and_input_is_not_echoed() {
        let (pty, slave) = Pty::open(WindowSize { rows: 10, columns: 40 }).unwrap();
        let mut master = File::from(pty.reader().unwrap());
        let mut slave = File::from(slave);
        assert_eq!(WindowSize::of(&slave), Some(WindowSize { rows: 10, columns: 40 }));
        master.write_all(b"typed\n").unwrap();
        let mut line = [0; 6];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"typed\n");
        slave.write_all(b"one\n\x13two\n").unwrap();
        let mut output = [0; 100];
        let count = master.read(&mut output).unwrap();
        assert_eq!(&output[..count], b"one\n\x13two\n");
    }

    #[test]
    fn end_comes_behind_the_last_bytes() {
        let (pty, slave) = Pty::open(WindowSize::default()).unwrap();
        File::from(slave).write_all(b"last").unwrap();
        let mut master = File::from(pty.reader().unwrap());
        let mut output = Vec::new();
        let error = master.read_to_end(&mut output).unwrap_err();
        assert_eq!((output.as_slice(), error.raw_os_error()), (&b"last"[..], Some(libc::EIO)));
    }

    #[test]
    fn size_leaves_room_for_the_prefix() {
        let size = WindowSize { rows: 24, columns: 80 };
        assert_eq!(size.beside(9).columns, 71);
        assert_eq!(size.beside(100).columns, 20);
        assert_eq!(WindowSize { rows: 24, columns: 10 }.beside(9).columns, 10);
    }

    #[test]
    fn new_size_is_reported_once() {
        let (pty, _slave) = Pty::open(WindowSize::default()).unwrap();
        let size = WindowSize { rows: 50, columns: 132 };
        assert!(pty.set_size(size).unwrap());
        assert!(!pty.set_size(size).unwrap());
    }
}
