//! Programs that misbehave on request. The tests run them under ganger.
#![expect(clippy::zombie_processes, reason = "leaving some behind is the point")]

#[cfg(target_os = "linux")]
mod escapes;
mod faults;
mod serve;

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio, exit};
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, raise, signal};
use nix::unistd::{ForkResult, fork, setsid};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    #[cfg(target_os = "linux")]
    escapes::run(&args);
    match args.as_slice() {
        ["leaf", ..] => forever(),
        ["tick"] => loop {
            print_line("tick");
            std::thread::sleep(Duration::from_millis(50));
        },
        ["stubborn", ..] => stubborn(),
        ["tree", tag] => tree(tag, true),
        ["marked", tag] => tree(tag, false),
        ["lines", count, length] => lines(number(count), number(length)),
        ["bytes", count] => bytes(number(count)),
        ["leave", code, tag] => leave(number(code), tag),
        ["detach", port, tag] => detach(port, tag),
        ["listen", port, ..] => listen(port),
        ["serve"] => serve::serve(),
        ["daemon", tag] => daemon(tag, true),
        ["orphan", tag] => orphan(tag),
        ["zombie", tag] => zombie(tag),
        ["killed", name] => killed(name),
        ["alternate", count] => alternate(number(count)),
        ["descriptors"] => descriptors(),
        ["signals"] => signals(),
        ["bomb", generations, _tag] => faults::bomb(number(generations)),
        ["runner", _tag] => faults::runner(),
        ["deaf", _tag] => faults::deaf(),
        ["stopped", _tag] => faults::stopped(),
        ["hold", tag] => faults::hold(tag),
        ["bytewise", lines] => faults::bytewise(number(lines)),
        ["flood", ..] => faults::flood(),
        ["escape"] => faults::escape(),
        ["mute", _tag] => faults::mute(),
        ["regroup", tag] => faults::regroup(tag),
        ["eat"] => faults::eat(),
        ["become-root", _tag] => faults::become_root(),
        _ => {
            eprintln!("hostile: {args:?}?");
            exit(64);
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn print_line(text: &str) {
    println!("{text}");
    std::io::stdout().flush().expect("stdout is open");
}

/// Unlike the standard output of Rust, it does not buffer a line.
fn raw_stdout() -> File {
    use std::os::fd::AsFd;
    File::from(std::io::stdout().as_fd().try_clone_to_owned().expect("stdout is open"))
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// This program with other arguments, which end with the tag.
fn again(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(args).stdin(Stdio::null());
    command
}

#[expect(unsafe_code, reason = "that is what is tried")]
fn ignore(which: Signal) {
    // SAFETY: no handler is installed.
    unsafe { signal(which, SigHandler::SigIgn) }.expect("a signal that can be ignored");
}

#[expect(unsafe_code, reason = "that is what is tried")]
fn split() -> ForkResult {
    // SAFETY: this program has one thread.
    unsafe { fork() }.expect("a process more")
}

/// Ignores SIGTERM and SIGINT, so that only SIGKILL ends it.
fn stubborn() -> ! {
    ignore(Signal::SIGTERM);
    ignore(Signal::SIGINT);
    print_line("stubborn");
    forever()
}

/// Two grandchildren, and a daemon. Only its environment, if any, shows which process started it.
fn tree(tag: &str, clear: bool) -> ! {
    for _ in 0..2 {
        again(&["leaf", tag]).spawn().expect("a grandchild");
    }
    daemon(tag, clear);
    print_line("grown");
    forever()
}

/// A classic daemon: forks twice, leaves the session, closes everything.
fn daemon(tag: &str, clear: bool) {
    if let ForkResult::Child = split() {
        setsid().expect("a session");
        if let ForkResult::Parent { .. } = split() {
            exit(0);
        }
        std::env::set_current_dir("/").expect("a root");
        for descriptor in 0..256 {
            #[expect(unsafe_code, reason = "that is what is tried")]
            // SAFETY: nothing here uses them any more.
            unsafe {
                libc::close(descriptor)
            };
        }
        let mut leaf = again(&["leaf", tag]);
        if clear {
            leaf.env_clear();
        }
        let failed = leaf.stdout(Stdio::null()).stderr(Stdio::null()).exec();
        exit(failed.raw_os_error().unwrap_or(1));
    }
    let _ = nix::sys::wait::wait();
}

/// Starts a daemon, and prints a line.
fn orphan(tag: &str) -> ! {
    daemon(tag, true);
    print_line("orphan started");
    forever()
}

/// Exits while a child that ignores TERM lives on in its group.
fn leave(code: usize, tag: &str) {
    let mut child = again(&["stubborn", tag]).stdout(Stdio::piped()).spawn().expect("a child");
    let mut ready = [0; 8];
    child.stdout.take().expect("a pipe").read_exact(&mut ready).expect("that it gets ready");
    print_line("leaving");
    exit(i32::try_from(code).expect("a small number"));
}

/// Exits with 1 while a child in a session of its own keeps a port.
fn detach(port: &str, tag: &str) {
    let mut child = again(&["listen", port, tag]);
    #[expect(unsafe_code, reason = "that is what is tried")]
    // SAFETY: setsid(2) may be called between fork and exec.
    unsafe {
        child.pre_exec(|| setsid().map(drop).map_err(Into::into))
    };
    let mut child = child.stdout(Stdio::piped()).spawn().expect("a child");
    let mut answer = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut answer).expect("an answer");
    print_line(&format!("detached, {}", answer.trim()));
    exit(1);
}

fn listen(port: &str) {
    match TcpListener::bind(format!("127.0.0.1:{port}")) {
        Ok(_listener) => {
            println!("port bound");
            // A reader of the output gets its end.
            #[expect(unsafe_code, reason = "std never closes it")]
            // SAFETY: nothing is printed after this.
            unsafe {
                libc::close(1)
            };
            forever()
        }
        Err(error) => println!("port in use: {error}"),
    }
}

/// Exits and leaves a zombie in its group: the parent of the zombie, which is in another session,
/// never waits for it.
fn zombie(tag: &str) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    if let ForkResult::Child = split() {
        if let ForkResult::Child = split() {
            exit(0);
        }
        setsid().expect("a session");
        let arguments = ["hostile", "leaf", tag].map(|text| CString::new(text).expect("no NUL"));
        let program = std::env::current_exe().expect("a path");
        let program = CString::new(program.into_os_string().into_encoded_bytes()).expect("no NUL");
        // The zombie stays a child of this process, which has no environment from here on. The pipe
        // is closed.
        let _ = nix::unistd::execve(&program, &arguments, &[] as &[CString]);
        exit(1);
    }
    drop(writer);
    (&reader).read_to_end(&mut Vec::new()).expect("the end");
    print_line("leaving a zombie");
}

fn killed(name: &str) -> ! {
    let which = name.parse().expect("a signal");
    if which != Signal::SIGKILL {
        // Rust has its own handlers for some signals.
        #[expect(unsafe_code, reason = "that is what is tried")]
        // SAFETY: no handler is installed.
        unsafe { signal(which, SigHandler::SigDfl) }.expect("a signal with a default");
    }
    raise(which).expect("to be killed");
    forever()
}

fn lines(count: usize, length: usize) {
    let mut out = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    let fill = "x".repeat(length.saturating_sub(10));
    for line in 0..count {
        writeln!(out, "{line:08} {fill}").expect("a reader");
    }
    out.flush().expect("a reader");
}

fn bytes(count: usize) {
    let mut out = std::io::stdout().lock();
    let block = vec![b'x'; 64 << 10];
    let mut left = count;
    while left > 0 {
        let now = left.min(block.len());
        out.write_all(&block[..now]).expect("a reader");
        left -= now;
    }
}

/// A line to stdout, a line to stderr, and so on.
fn alternate(count: usize) {
    for line in 0..count {
        let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
        if line % 2 == 0 { writeln!(out, "{line}") } else { writeln!(err, "{line}") }
            .expect("a reader");
    }
}

fn descriptors() {
    let mut open: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .expect("a list")
        .flatten()
        .filter(|entry| entry.path().exists() || std::fs::read_link(entry.path()).is_ok())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    open.sort();
    // The list itself was open while it was read.
    println!("open: {}", open.join(" "));
}

/// Prints what the process has inherited: ignored and blocked signals, session, group.
fn signals() {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    for line in
        status.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"))
    {
        println!("{line}");
    }
    let me = nix::unistd::getpid();
    println!("session: {}", nix::unistd::getsid(None).expect("a session") == me);
    println!("group: {}", nix::unistd::getpgrp() == me);
}
