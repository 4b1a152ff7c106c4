//! Programs that try to escape from their supervisor.
//!
//! Wrappers can be chained: `hostile daemonize stay cleared obedient TAG` is a
//! process with a daemon, which clears its environment and becomes `obedient`.
//! The tag stays the last argument of each process of the chain.

use std::ffi::CString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, getegid, geteuid, getpid, getppid, setpgid, setsid};

use crate::{again, forever, ignore, number, print_line, split};

/// Runs the rest of a chain in another environment, if `args` begin with a wrapper, or the last
/// program of a chain. Returns for all other programs.
pub fn run(args: &[&str]) {
    match args {
        ["obedient", _tag] => obedient(),
        ["calm", _tag] => calm(),
        ["suspended", _tag] => suspended(),
        ["leaderless", "obedient", _tag] => leaderless(true),
        ["leaderless", "stubborn", _tag] => leaderless(false),
        ["count-signals", steps, _tag] => {
            count_signals(number(steps));
            exit(0);
        }
        ["hold-exec", path] => {
            hold_exec(path);
            exit(0);
        }
        ["manage-session", program @ ..] => manage_session(program),
        ["daemonize", "stay", rest @ ..] => {
            daemonize(rest);
            forever();
        }
        ["daemonize", "leave", rest @ ..] => {
            daemonize(rest);
            exit(1);
        }
        ["cleared", rest @ ..] => become_next(again(rest).env_clear()),
        ["session", rest @ ..] => {
            in_child(rest, || {
                setsid().expect("a session");
            });
            forever();
        }
        ["regroup", rest @ ..] if rest.len() > 1 => {
            let zero = Pid::from_raw(0);
            in_child(rest, || setpgid(zero, zero).expect("a group"));
            forever();
        }
        ["subreaper", rest @ ..] => {
            nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
            in_child(rest, || {});
            forever();
        }
        ["sibling", rest @ ..] => {
            if let ForkResult::Child = fork_sibling() {
                become_next(&mut again(rest));
            }
            forever();
        }
        ["traced", rest @ ..] => trace_child(rest),
        ["traced-leader", rest @ ..] => {
            trace_parent(rest.last().expect("a tag"));
            become_next(&mut again(rest));
        }
        ["tracer", parent, _tag] => trace(Pid::from_raw(parent.parse().expect("a pid"))),
        ["threaded", rest @ ..] => {
            spawn_from_thread(rest);
            forever();
        }
        ["leaderless-parent", rest @ ..] => {
            // Without a main thread, /proc/self leads nowhere.
            let mut child = again(rest);
            end_main_thread(move || {
                child.spawn().expect("a child");
                forever()
            })
        }
        ["userns", rest @ ..] => {
            enter_user_namespace();
            become_next(&mut again(rest));
        }
        ["pidns", rest @ ..] => {
            unshare(CloneFlags::CLONE_NEWPID).expect("a pid namespace");
            in_child(rest, || {});
            forever();
        }
        _ => {}
    }
}

fn become_next(next: &mut Command) -> ! {
    let failed = next.exec();
    exit(failed.raw_os_error().unwrap_or(1));
}

/// Forks, and goes on with the rest of the chain in the child.
fn in_child(rest: &[&str], prepare: impl FnOnce()) {
    if let ForkResult::Child = split() {
        prepare();
        become_next(&mut again(rest));
    }
}

/// Runs the rest as a daemon: forks twice and leaves the session.
fn daemonize(rest: &[&str]) {
    if let ForkResult::Child = split() {
        setsid().expect("a session");
        if let ForkResult::Parent { .. } = split() {
            exit(0);
        }
        become_next(&mut again(rest));
    }
    let _ = nix::sys::wait::wait();
}

/// Forks a sibling: a child of the parent of this process. The first process of a
/// namespace can't have one.
fn fork_sibling() -> ForkResult {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    #[expect(unsafe_code, reason = "that is what is tried")]
    // SAFETY: without a new stack this is fork(2), and this program has one thread.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match Errno::result(child) {
        Ok(0) => ForkResult::Child,
        Ok(child) => ForkResult::Parent { child: Pid::from_raw(child.try_into().expect("a pid")) },
        Err(_) => split(),
    }
}

/// Traces a child, and never waits for it: the next signal to the child stops it.
fn trace_child(rest: &[&str]) -> ! {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    match split() {
        ForkResult::Child => {
            drop(writer);
            reader.read_to_end(&mut Vec::new()).expect("an end");
            become_next(&mut again(rest))
        }
        ForkResult::Parent { child } => {
            ptrace::seize(child, ptrace::Options::empty()).expect("that it may be traced");
            drop(writer);
            forever()
        }
    }
}

/// Has a daemon trace this process, from another session.
fn trace_parent(tag: &str) {
    let (go_reader, go) = std::io::pipe().expect("a pipe");
    let (mut answers, answer) = std::io::pipe().expect("a pipe");
    let parent = getpid().to_string();
    if let ForkResult::Child = split() {
        setsid().expect("a session");
        if let ForkResult::Parent { .. } = split() {
            exit(0);
        }
        become_next(again(&["tracer", &parent, tag]).stdin(go_reader).stdout(answer));
    }
    // Traced, this process would be stopped by the signal that its child has ended.
    let _ = nix::sys::wait::wait();
    drop((go, answer));
    answers.read_to_end(&mut Vec::new()).expect("a tracer");
}

fn trace(process: Pid) -> ! {
    std::io::stdin().read_to_end(&mut Vec::new()).expect("an end");
    ptrace::seize(process, ptrace::Options::empty()).expect("that it may be traced");
    #[expect(unsafe_code, reason = "std never closes it")]
    // SAFETY: nothing is printed any more.
    unsafe {
        libc::close(1)
    };
    forever()
}

/// Becomes root of a new user namespace.
fn enter_user_namespace() {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).expect("a user namespace");
    // Without a mapping, there is no further namespace in this one.
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {user} 1")),
        ("gid_map", format!("0 {group} 1")),
    ];
    for (file, text) in maps {
        std::fs::write(format!("/proc/self/{file}"), text).expect("a mapping");
    }
}

/// Starts a child from a thread that ends: another thread becomes its parent.
fn spawn_from_thread(rest: &[&str]) {
    let rest: Vec<String> = rest.iter().map(|&arg| arg.to_owned()).collect();
    let spawn = move || {
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        again(&rest).spawn().expect("a child");
    };
    std::thread::spawn(spawn).join().expect("a thread");
}

/// Ends the main thread, as `pthread_exit(3)` does; `go_on` runs in another one.
/// From then on, /proc shows the state Z for this process.
fn end_main_thread(go_on: impl FnOnce() + Send + 'static) -> ! {
    std::thread::spawn(move || {
        // In a namespace of its own, this process has another number in /proc.
        while !std::fs::read_to_string("/proc/self/stat").expect("a process").contains(") Z ") {
            std::thread::sleep(Duration::from_millis(1));
        }
        go_on();
    });
    #[expect(unsafe_code, reason = "that is what is tried")]
    // SAFETY: nothing of this thread's stack is used by the other one.
    unsafe {
        libc::syscall(libc::SYS_exit, 0)
    };
    unreachable!("the thread has ended");
}

/// Runs on without its main thread.
fn leaderless(obedient: bool) -> ! {
    if !obedient {
        ignore(Signal::SIGTERM);
        ignore(Signal::SIGINT);
    }
    end_main_thread(|| {
        print_line("up");
        forever()
    })
}

/// Is ended by SIGTERM.
fn obedient() -> ! {
    print_line("up");
    forever()
}

/// Ignores the signals that ganger forwards, and is ended by SIGTERM.
fn calm() -> ! {
    ignore(Signal::SIGUSR1);
    ignore(Signal::SIGUSR2);
    obedient()
}

/// Suspends itself, in a session of its own.
fn suspended() -> ! {
    let _ = setsid();
    print_line("up");
    raise(Signal::SIGSTOP).expect("to be stopped");
    forever()
}

/// Takes a number of steps of 50 ms to stop, and counts the stop signals meanwhile. Prints the
/// sender of the first signal.
fn count_signals(steps: usize) {
    const STEP: Duration = Duration::from_millis(50);
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).expect("a mask");
    print_line("up");
    let (signal, sender) = loop {
        if let Some(first) = wait_for_signal(&signals, Duration::from_secs(1000)) {
            break first;
        }
    };
    let sender = if sender == getppid() { "parent".to_owned() } else { format!("pid {sender}") };
    print_line(&format!("{signal} from {sender}"));
    let mut count = 1;
    for _ in 0..steps {
        // The steps are short, so that a pause of this process ends one of them only.
        let until = Instant::now() + STEP;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            count += usize::from(wait_for_signal(&signals, left).is_some());
        }
    }
    print_line(&format!("signals: {count}"));
}

fn wait_for_signal(signals: &SigSet, limit: Duration) -> Option<(Signal, Pid)> {
    let limit = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).expect("a short time"),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    #[expect(unsafe_code, reason = "nix does not return the sender")]
    // SAFETY: all pointers are to values that live during the call, and zero is a
    // valid siginfo.
    let (number, info) = unsafe {
        let number = libc::sigtimedwait(signals.as_ref(), info.as_mut_ptr(), &raw const limit);
        (number, info.assume_init())
    };
    let number = Errno::result(number).ok()?;
    #[expect(unsafe_code, reason = "siginfo is a union")]
    // SAFETY: for a signal that kill(2) or the like has sent, this field is set.
    let sender = unsafe { info.si_pid() };
    Some((number.try_into().expect("one of those two"), Pid::from_raw(sender)))
}

/// Holds every exec of a file, as a scanner that hangs does (fanotify(7)), until
/// its standard input ends.
fn hold_exec(path: &str) {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let path = CString::new(path).expect("no NUL");
    #[expect(unsafe_code, reason = "that is what is tried")]
    // SAFETY: fanotify_init(2) takes two numbers, and returns a descriptor or -1.
    let group = unsafe {
        let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC;
        OwnedFd::from_raw_fd(Errno::result(libc::fanotify_init(flags, 0)).expect("to be root"))
    };
    #[expect(unsafe_code, reason = "that is what is tried")]
    // SAFETY: the descriptor is open, and the path ends with a NUL.
    let marked = unsafe {
        use std::os::fd::AsRawFd;
        let (group, mask) = (group.as_raw_fd(), libc::FAN_OPEN_EXEC_PERM);
        libc::fanotify_mark(group, libc::FAN_MARK_ADD, mask, libc::AT_FDCWD, path.as_ptr())
    };
    Errno::result(marked).expect("a file");
    print_line("holding");
    let mut events = 0;
    loop {
        let stdin = std::io::stdin();
        let mut wait = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(group.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut wait, PollTimeout::NONE).expect("an event");
        if wait[0].any() == Some(true) {
            return;
        }
        // An event that is read and not answered keeps the exec waiting.
        let mut event = [0; 4096];
        let size = size_of::<libc::fanotify_event_metadata>();
        let count = nix::unistd::read(&group, &mut event).expect("an event");
        events += count / size;
        print_line(&format!("held {events}"));
    }
}

/// Runs a program below a subreaper that reaps all orphans, as the session manager of a desktop
/// does.
fn manage_session(program: &[&str]) -> ! {
    nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
    Command::new(program[0]).args(&program[1..]).spawn().expect("a program");
    loop {
        if waitpid(None, Some(WaitPidFlag::empty())).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
