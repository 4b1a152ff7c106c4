//! The programs that run under the runners: this binary again, as `--worker NAME`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

/// The length of every line, newline included.
pub(crate) const LINE: usize = 100;
/// What a program that doesn't flush after each line writes at once.
pub(crate) const BULK: usize = 8 * 1024;
/// Ends the line of a tick, and occurs in no other line.
pub(crate) const TICK_END: u8 = b'!';
/// The digits before it.
pub(crate) const TICK_DIGITS: usize = 20;
/// The payload of every line is made of these.
pub(crate) const FILLER: u8 = b'x';

/// A line that can be recognized whole: it begins with `<` and ends with `>`.
pub(crate) fn line() -> [u8; LINE] {
    let mut line = [FILLER; LINE];
    line[0] = b'<';
    line[LINE - 2] = b'>';
    line[LINE - 1] = b'\n';
    line
}

/// Nanoseconds since the epoch: `Instant` can't be compared between processes.
pub(crate) fn nanos(at: SystemTime) -> u128 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// A server on PORT that answers every request.
fn serve() -> io::Result<()> {
    let port = std::env::var("PORT").map_err(io::Error::other)?;
    let port: u16 = port.parse().map_err(io::Error::other)?;
    for client in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let mut client = client?;
        let _ = client.read(&mut [0; 1024])?;
        client.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")?;
    }
    Ok(())
}

/// Runs as one of the workers. A stdout that closes is an end like any other.
pub(crate) fn main(args: &[String], first_instruction: SystemTime) -> io::Result<()> {
    // Rust's `Stdout` flushes at every newline, whatever the program wants.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>().map_err(io::Error::other);
    match args[..] {
        ["clock", file] => fs::write(file, nanos(first_instruction).to_string()),
        ["lines", count, at_once, meeting] => {
            write_lines(&mut stdout, number(count)?, number(at_once)?)?;
            wait_for_all(meeting)
        }
        ["endless", bytes, meeting] => {
            io::copy(&mut io::repeat(FILLER).take(number(bytes)? as u64), &mut stdout)?;
            wait_for_all(meeting)
        }
        ["serve"] => serve(),
        ["flood"] => write_lines(&mut stdout, usize::MAX, BULK),
        ["ticks", count, micros] => {
            let pause = Duration::from_micros(number(micros)? as u64);
            tick(&mut stdout, number(count)?, pause)
        }
        _ => Err(io::Error::other(format!("no such worker: {args:?}"))),
    }
}

fn write_lines(to: &mut File, count: usize, at_once: usize) -> io::Result<()> {
    let lines_at_once = (at_once / LINE).max(1);
    let chunk = line().repeat(lines_at_once);
    for _ in 0..count / lines_at_once {
        to.write_all(&chunk)?;
    }
    to.write_all(&chunk[..count % lines_at_once * LINE])
}

fn tick(to: &mut File, count: usize, pause: Duration) -> io::Result<()> {
    for _ in 0..count {
        thread::sleep(pause);
        let now = nanos(SystemTime::now());
        let line = format!("{now:0TICK_DIGITS$}{}\n", char::from(TICK_END));
        to.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// The first process that exits makes a runner stop the others, so all must
/// have said everything before one does.
fn wait_for_all(meeting: &str) -> io::Result<()> {
    UnixStream::connect(meeting)?.read_to_end(&mut Vec::new()).map(drop)
}

/// Where workers wait for each other, without asking over and over.
pub(crate) struct Meeting {
    path: PathBuf,
    size: usize,
    host: Option<JoinHandle<()>>,
}

impl Meeting {
    pub(crate) fn new(path: &Path, size: usize) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let host = thread::spawn(move || {
            let guests: Vec<_> = listener.incoming().take(size).collect();
            drop(guests);
        });
        Ok(Self { path: path.to_owned(), size, host: Some(host) })
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        // The places of those who never came; refused if all were there.
        for _ in 0..self.size {
            let _ = UnixStream::connect(&self.path);
        }
        if let Some(host) = self.host.take() {
            let _ = host.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}
