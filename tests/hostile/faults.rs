//! Programs that break the assumptions of a supervisor.

use std::io::Write;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::unistd::{ForkResult, Pid, setpgid, setsid};

use crate::{again, forever, ignore, print_line, split};

/// Doubles until there are 2^`generations` of it, each with this tag.
pub fn bomb(generations: usize) -> ! {
    for _ in 0..generations {
        let _ = split();
    }
    print_line("boom");
    forever()
}

/// Changes its pid all the time: forks, exits, and goes on as the child.
pub fn runner() -> ! {
    print_line("running");
    loop {
        if let ForkResult::Parent { .. } = split() {
            std::process::exit(0);
        }
        let _ = setsid();
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Ignores and blocks all signals that can be ignored or blocked.
pub fn deaf() -> ! {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            ignore(signal);
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).expect("a mask");
    print_line("deaf");
    forever()
}

/// Suspends itself, so that it handles no signal until it is continued.
pub fn stopped() -> ! {
    print_line("stopping");
    raise(Signal::SIGSTOP).expect("to be stopped");
    forever()
}

/// Exits while a grandchild in a session of its own has the output open.
pub fn hold(tag: &str) {
    if let ForkResult::Child = split() {
        setsid().expect("a session");
        let failed = std::os::unix::process::CommandExt::exec(&mut again(&["leaf", tag]));
        std::process::exit(failed.raw_os_error().unwrap_or(1));
    }
    print_line("last words");
}

/// Writes lines, one byte at a time.
pub fn bytewise(lines: usize) {
    let mut out = crate::raw_stdout();
    for line in 0..lines {
        for byte in format!("line {line}\n").bytes() {
            out.write_all(&[byte]).expect("a reader");
        }
    }
}

/// Writes lines without an end.
pub fn flood() -> ! {
    let mut out = crate::raw_stdout();
    let lines = "a line of a flood without an end\n".repeat(200);
    loop {
        if out.write_all(lines.as_bytes()).is_err() {
            std::process::exit(1);
        }
    }
}

/// Progress bars, and sequences for a terminal that end half way.
pub fn escape() {
    let mut out = crate::raw_stdout();
    out.write_all(b"10 %\r20 %\r\x1b[2K30 %\r\n\x1b[31mred\x1b[0m \x1b[3").expect("a reader");
}

/// Closes its output, and goes on.
pub fn mute() -> ! {
    print_line("bye");
    for descriptor in [1, 2] {
        #[expect(unsafe_code, reason = "that is what is tried")]
        // SAFETY: nothing is written any more.
        unsafe {
            libc::close(descriptor)
        };
    }
    forever()
}

/// Leaves its group, but not its session, as jobs of a shell do.
pub fn regroup(tag: &str) -> ! {
    if let ForkResult::Child = split() {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("a group");
        let failed = std::os::unix::process::CommandExt::exec(&mut again(&["stubborn", tag]));
        std::process::exit(failed.raw_os_error().unwrap_or(1));
    }
    forever()
}

/// Allocates memory until it reaches its limit.
pub fn eat() -> ! {
    setrlimit(Resource::RLIMIT_AS, 64 << 20, 64 << 20).expect("a limit");
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("a limit");
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        eaten.push(vec![1; 1 << 20]);
    }
}

/// Becomes root for good, where its file lets it (chmod(1), `u+s`).
pub fn become_root() -> ! {
    let root = nix::unistd::Uid::from_raw(0);
    nix::unistd::setresuid(root, root, root).expect("a file that belongs to root");
    print_line("root");
    forever()
}
