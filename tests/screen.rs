//! A terminal for a test: the other end of a real one, and an emulator of its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use rustix::termios::{Termios, tcgetattr, tcsetwinsize};

use crate::scenario::{Running, Scenario, TEST_TIMEOUT};

/// The prompt of a shell on a terminal.
pub const PROMPT: &str = "prompt> ";

/// What a program writes to learn where the cursor is (`DSR`), which every terminal answers.
const ASK_FOR_CURSOR: &[u8] = b"\x1b[6n";

/// A terminal, as its user sees it.
pub struct Screen {
    master: File,
    /// Keeps the terminal from hanging up between two programs.
    slave: OwnedFd,
    output: Receiver<Vec<u8>>,
    emulator: vt100::Parser,
    /// Everything that was written to it.
    raw: Vec<u8>,
}

impl Screen {
    /// A terminal of this size.
    pub fn new(rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(&size, None).unwrap();
        for file in [&terminal.master, &terminal.slave] {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        let master = File::from(terminal.master);
        let mut reader = master.try_clone().unwrap();
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let emulator = vt100::Parser::new(size_of(rows), size_of(columns), 0);
        Self { master, slave: terminal.slave, output, emulator, raw: Vec::new() }
    }

    /// Runs a scenario in a session of its own, whose terminal this is.
    pub fn show(&self, scenario: Scenario) -> Scenario {
        let stream = || Stdio::from(self.slave.try_clone().unwrap());
        let (stdin, stdout, stderr) = (stream(), stream(), stream());
        scenario.env("TERM", "xterm-256color").command(move |command| {
            command.stdin(stdin).stdout(stdout).stderr(stderr);
            #[expect(unsafe_code, reason = "it takes a step between fork and exec")]
            // SAFETY: two system calls, and no allocation.
            unsafe {
                command.pre_exec(|| {
                    nix::unistd::setsid()?;
                    Ok(rustix::process::ioctl_tiocsctty(std::io::stdin())?)
                })
            };
        })
    }

    /// An interactive bash in a session of its own, whose terminal this is. It makes jobs of what it
    /// runs, as a user's shell does.
    pub fn start_shell(&mut self, scenario: Scenario) -> Running {
        let scenario = scenario.args("--norc --noediting -i").env("PS1", PROMPT);
        let running = self.show(scenario).env("TERM", "dumb").start();
        self.wait_for_times(PROMPT, 1);
        running
    }

    /// Types something.
    pub fn type_text(&mut self, text: &str) -> &mut Self {
        self.master.write_all(text.as_bytes()).unwrap();
        self
    }

    /// Changes the size of the window.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
        self.emulator.screen_mut().set_size(size_of(rows), size_of(columns));
    }

    /// The modes of the terminal line.
    pub fn modes(&self) -> Termios {
        tcgetattr(self.slave.as_fd()).unwrap()
    }

    /// The modes of the terminal line that a client changes.
    pub fn line_modes(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let Termios { input_modes, output_modes, local_modes, .. } = self.modes();
        (input_modes, output_modes, local_modes)
    }

    /// Whether all modes of the emulated terminal are those of a new one.
    pub fn is_reset(&self) -> bool {
        let emulated = self.emulated();
        !emulated.alternate_screen()
            && !emulated.hide_cursor()
            && !emulated.bracketed_paste()
            && !emulated.application_cursor()
            && !emulated.application_keypad()
            && emulated.mouse_protocol_mode() == vt100::MouseProtocolMode::None
            && emulated.fgcolor() == vt100::Color::Default
    }

    /// The screen as an emulator shows it now.
    pub fn emulated(&self) -> &vt100::Screen {
        self.emulator.screen()
    }

    /// The text on the screen.
    pub fn text(&self) -> String {
        self.emulator.screen().contents()
    }

    /// Everything that was written to the terminal so far.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// Waits until the screen contains `text`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> &mut Self {
        self.wait_until(text, |screen| screen.text().contains(text))
    }

    /// Waits until `text` was written to the terminal this many times.
    #[track_caller]
    pub fn wait_for_times(&mut self, text: &str, times: usize) -> &mut Self {
        self.wait_until(text, |screen| screen.raw().matches(text).count() >= times)
    }

    /// Waits until `is` returns true. It is called after each output, and at intervals.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) -> &mut Self {
        let deadline = Instant::now() + TEST_TIMEOUT;
        self.read_available();
        while !is(self) {
            assert!(
                Instant::now() < deadline,
                "timed out waiting for `{what}`; on the screen:\n{}\nwritten last: {:?}",
                self.text(),
                String::from_utf8_lossy(&self.raw[self.raw.len().saturating_sub(2000)..])
            );
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(20)) {
                self.take(&bytes);
                self.read_available();
            }
        }
        self
    }

    fn read_available(&mut self) {
        while let Ok(bytes) = self.output.try_recv() {
            self.take(&bytes);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        self.emulator.process(bytes);
        if bytes.ends_with(ASK_FOR_CURSOR) {
            let (row, column) = self.emulator.screen().cursor_position();
            self.type_text(&format!("\x1b[{};{}R", row + 1, column + 1));
        }
    }
}

fn size_of(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}
