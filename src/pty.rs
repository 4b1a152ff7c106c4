//! Pseudo-terminals (pty(7)): a process that runs on one behaves as on the user's terminal.
//!
//! ganger holds the master. The process has the other end as its controlling terminal, its
//! output and, unless it is configured otherwise, its stdin.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use memchr::memmem;
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
    /// It is as programs find a terminal, so that what they save, change and restore is right:
    /// input is echoed, and a newline gets a CR, which [`PtyReader`] removes again. Only that a
    /// byte stops the output is switched off.
    pub fn open(size: WindowSize) -> io::Result<(Self, OwnedFd)> {
        let master = openpt(open_flags())?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = open_slave(&master)?;
        let mut modes = tcgetattr(&slave)?;
        modes.input_modes.remove(InputModes::IXON | InputModes::IXOFF);
        #[cfg(target_os = "linux")]
        modes.input_modes.insert(InputModes::IUTF8);
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let pty = Self { master: Arc::new(master) };
        pty.set_size(size)?;
        Ok((pty, slave))
    }

    /// Sends input to the process, as if it was typed. Returns how much of it was accepted.
    pub fn write(&self, input: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&*self.master, input)?)
    }

    /// Whether the process reads whole lines. Otherwise it reads single keys, and draws by itself.
    #[must_use]
    pub fn reads_lines(&self) -> bool {
        let modes = tcgetattr(&*self.master);
        modes.is_ok_and(|modes| modes.local_modes.contains(LocalModes::ICANON))
    }

    /// Whether the terminal adds a CR to each newline now.
    #[must_use]
    pub fn adds_returns(&self) -> bool {
        adds_returns(&*self.master)
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

/// Whether a terminal adds a CR to each newline. A program that draws by itself switches that off.
fn adds_returns(master: impl AsFd) -> bool {
    let needed = OutputModes::OPOST | OutputModes::ONLCR;
    tcgetattr(master).is_ok_and(|modes| modes.output_modes.contains(needed))
}

/// Reads from the master of a terminal what the process has written: without the CR that the
/// terminal adds to each newline.
#[derive(Debug)]
pub struct PtyReader {
    master: File,
    /// A CR was read last. The newline that it belongs to may follow.
    holds_return: bool,
}

impl PtyReader {
    /// A reader of this master, which does not block.
    #[must_use]
    pub fn new(master: OwnedFd) -> Self {
        Self { master: master.into(), holds_return: false }
    }

    /// Reads until the buffer is full or nothing is left: one read returns at most a few
    /// kilobytes. Returns how much was read, and whether there may be more. The end of a terminal
    /// is an error (`EIO`), which counts as the end of the file.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        let mut count = 0;
        loop {
            let held = usize::from(self.holds_return);
            let Some(room) = buffer.get_mut(count + held..).filter(|room| !room.is_empty()) else {
                return Ok((count, true));
            };
            match self.master.read(room) {
                Ok(0) => return Ok((count + self.take_return(&mut buffer[count..]), false)),
                Ok(more) => {
                    self.take_return(&mut buffer[count..]);
                    let added = &mut buffer[count..count + held + more];
                    let mut kept = added.len();
                    if adds_returns(&self.master) {
                        kept = remove_returns(added);
                        self.holds_return = added[..kept].ends_with(b"\r");
                        kept -= usize::from(self.holds_return);
                    }
                    count += kept;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What came before it is returned first.
                Err(_) if count > 0 => return Ok((count, false)),
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    return Ok((self.take_return(buffer), false));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts the CR that is held back at the start of the buffer. Returns its length.
    fn take_return(&mut self, buffer: &mut [u8]) -> usize {
        let held = std::mem::take(&mut self.holds_return);
        if let Some(first) = buffer.first_mut().filter(|_| held) {
            *first = b'\r';
        }
        usize::from(held)
    }
}

impl AsFd for PtyReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

/// Removes one CR before each newline. Returns the new length.
fn remove_returns(bytes: &mut [u8]) -> usize {
    let Some(mut end) = memmem::find(bytes, b"\r\n") else { return bytes.len() };
    let mut from = end + 1;
    while let Some(length) = memmem::find(&bytes[from..], b"\r\n") {
        bytes.copy_within(from..from + length, end);
        end += length;
        from += length + 1;
    }
    bytes.copy_within(from.., end);
    end + bytes.len() - from
}

/// Resets what programs switch on in a terminal and may leave on when they are killed: alternate
/// screen, kitty keys, mouse, focus, bracketed paste, cursor, colours, scroll region, character
/// set (xterm control sequences; kitty keyboard protocol). The cursor stays where it is.
///
/// Leaving the alternate screen restores the saved cursor, which is therefore saved before.
pub const RESET_MODES: &str = "\x1b[=0u\x1b7\x1b[?1049l\x1b[=0u\x1b[>4m\x1b[!p\x1b[?7h\x1b[?1l\x1b>\
    \x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1005l\x1b[?1006l\
    \x1b[?1015l\x1b[?1016l\x1b[?2004l\x1b[?2026l\x1b[?2031l\x1b[?2048l\x1b(B\x0f\x1b[0m\x1b[?25h\x1b[0 q";

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
    use std::io::Write;

    use proptest::prelude::*;
    use rustix::termios::Termios;

    use super::*;

    #[test]
    fn input_is_echoed_and_no_byte_stops_the_output() {
        let (pty, slave) = Pty::open(WindowSize { rows: 10, columns: 40 }).unwrap();
        let mut slave = File::from(slave);
        assert_eq!(WindowSize::of(&slave), Some(WindowSize { rows: 10, columns: 40 }));
        assert_eq!(pty.write(b"typed\n").unwrap(), 6);
        let mut line = [0; 6];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"typed\n");
        slave.write_all(b"one\n\x13two\n").unwrap();
        let mut reader = PtyReader::new(pty.reader().unwrap());
        assert_eq!(read_all(&mut reader, 100), b"typed\none\n\x13two\n");
    }

    fn change_modes(slave: &OwnedFd, change: impl FnOnce(&mut Termios)) {
        let mut modes = tcgetattr(slave).unwrap();
        change(&mut modes);
        tcsetattr(slave, OptionalActions::Now, &modes).unwrap();
    }

    /// Reads all that is there, in pieces of at most `size` bytes.
    fn read_all(reader: &mut PtyReader, size: usize) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; size]);
        while let Ok((count @ 1.., _)) = reader.read(&mut buffer) {
            all.extend_from_slice(&buffer[..count]);
        }
        all
    }

    #[test]
    fn what_a_process_writes_is_read_unchanged() {
        let written = b"one\r\n\n\r\r\ntwo\r50%\rend\n";
        for size in [2, 3, 7, 1000] {
            let (pty, slave) = Pty::open(WindowSize::default()).unwrap();
            let mut reader = PtyReader::new(pty.reader().unwrap());
            // A CR at the end waits for what follows.
            for bytes in [&b"a\r"[..], written, b"last\r"] {
                rustix::io::write(&slave, bytes).unwrap();
            }
            drop(slave);
            let expected = [b"a\r", &written[..], b"last\r"].concat();
            assert_eq!(read_all(&mut reader, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn program_that_draws_by_itself_writes_its_own_returns() {
        let (pty, slave) = Pty::open(WindowSize::default()).unwrap();
        assert!(pty.adds_returns());
        change_modes(&slave, |modes| modes.output_modes.remove(OutputModes::OPOST));
        assert!(!pty.adds_returns());
        rustix::io::write(&slave, b"a\r\nb\n").unwrap();
        let mut reader = PtyReader::new(pty.reader().unwrap());
        assert_eq!(read_all(&mut reader, 100), b"a\r\nb\n");
    }

    proptest! {
        #[test]
        fn added_returns_are_removed(text in "[a\r\n]{0,40}") {
            let mut bytes = text.replace('\n', "\r\n").into_bytes();
            let length = remove_returns(&mut bytes);
            prop_assert_eq!(&bytes[..length], text.as_bytes());
        }
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
