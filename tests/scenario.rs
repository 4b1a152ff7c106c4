//! A test scenario: a folder with files, and the real ganger that runs in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

/// How long a test waits for an event that must happen: long enough for a busy machine.
pub const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// The binary under test.
pub const GANGER: &str = env!("CARGO_BIN_EXE_ganger");

/// A program that misbehaves on request.
pub fn hostile() -> PathBuf {
    examples().join("hostile")
}

/// The folder of the programs that the tests run, built if need be: cargo builds examples only
/// if all tests are run.
pub fn examples() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(GANGER).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--examples"]);
        build.args(folder.ends_with("release").then_some("--release"));
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        folder.join("examples")
    })
}

/// Resets the signals that the tests ignore because they run in the background or under
/// nohup(1). ganger would inherit that.
fn reset_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP] {
            #[expect(unsafe_code, reason = "dispositions belong to the whole process")]
            // SAFETY: the default disposition runs nothing of ours.
            unsafe { signal(number, SigHandler::SigDfl) }.unwrap();
        }
    });
}

/// Whether the second level of tests runs, as root: each test then has a runtime folder of its
/// own. On the first level, all tests share the real one of this user.
pub const SYSTEM_TESTS: bool = cfg!(feature = "system-tests");

/// The runtime folder of this user, as all programs see it.
fn shared_runtime_dir() -> PathBuf {
    format!("/tmp/ganger-{}", geteuid()).into()
}

/// The runtime folder that a ganger in a test's folder uses.
pub fn runtime_dir(folder: &Path) -> PathBuf {
    if SYSTEM_TESTS { folder.join("ganger") } else { shared_runtime_dir() }
}

/// The path of the control socket of a ganger whose root is a test's folder.
pub fn socket_path(folder: &Path) -> PathBuf {
    runtime_dir(folder).join(ganger::control::socket::name(&fs::canonicalize(folder).unwrap()))
}

/// The files in the runtime folder of a ganger that runs and whose root is a test's folder: without
/// what an earlier one has left.
pub fn running_files(folder: &Path) -> Vec<PathBuf> {
    let is_left = |path: &PathBuf| path.extension().is_some_and(|it| it == "last");
    runtime_files(folder).into_iter().filter(|path| !is_left(path)).collect()
}

/// The files in the runtime folder that belong to a ganger whose root is a test's folder.
pub fn runtime_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(runtime_dir(folder)).into_iter().flatten().flatten();
    let socket = socket_path(folder);
    let stem = socket.file_stem().unwrap().as_bytes();
    let is_own = |path: &PathBuf| {
        SYSTEM_TESTS || path.file_name().is_some_and(|it| it.as_bytes().starts_with(stem))
    };
    entries.map(|entry| entry.path()).filter(is_own).collect()
}

/// Runs `command` with the runtime folder that belongs to a test's folder. On the second level
/// that is `ganger` in it, which is mounted over the real one for this command alone.
pub fn use_runtime_dir(command: &mut Command, folder: &Path) {
    if !SYSTEM_TESTS {
        return;
    }
    assert!(geteuid().is_root(), "`--features system-tests` needs root");
    let (shared, own) = (shared_runtime_dir(), folder.join("ganger"));
    for folder in [&shared, &own] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).unwrap();
    }
    let enter = move || {
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        Ok(mount(Some(&own), &shared, none, MsFlags::MS_BIND, none)?)
    };
    #[expect(unsafe_code, reason = "it takes a step between fork and exec")]
    // SAFETY: system calls on paths that were made before, and that are short enough to be
    // copied without an allocation.
    unsafe {
        command.pre_exec(enter)
    };
}

/// The id of the Unix user `nobody`, which has the fewest rights.
pub const NOBODY: u32 = 65534;

/// A user for one test, with a home and without a runtime folder. Both are removed at the end.
pub struct User {
    pub id: u32,
    pub home: PathBuf,
}

impl User {
    pub fn new() -> Self {
        let new = |id: u32| {
            let home = PathBuf::from(format!("/tmp/ganger-home-{id}"));
            // Only one test can make it, of all that run on this machine.
            fs::create_dir(&home).ok()?;
            chown(&home, Some(id), Some(id)).unwrap();
            Some(Self { id, home })
        };
        (40_000..50_000).find_map(new).unwrap()
    }

    /// The runtime folder of this user.
    pub fn runtime_dir(&self) -> PathBuf {
        format!("/tmp/ganger-{}", self.id).into()
    }

    /// The runtime folder if the first one can't be used.
    pub fn state_dir(&self) -> PathBuf {
        self.home.join(".local/state/ganger")
    }

    /// ganger in a folder with this Procfile, as the command line that follows.
    pub fn scenario(&self, procfile: &str) -> Scenario {
        Scenario::as_user(self.id, self.home.to_str().unwrap(), procfile)
    }

    /// ganger in the folder of such a scenario.
    pub fn ganger(&self, folder: &Path, args: &str) -> Command {
        let id = self.id.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.arg(folder.join("ganger")).args(args.split_whitespace()).current_dir(folder);
        command.env_clear().env("HOME", &self.home).env("PATH", "/usr/bin:/bin");
        command
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let runtime_dir = self.runtime_dir();
        if fs::symlink_metadata(&runtime_dir).is_ok_and(|found| found.is_dir()) {
            let _ = fs::remove_dir_all(&runtime_dir);
        } else {
            let _ = fs::remove_file(&runtime_dir);
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Copies a program that is to be executed. Another process does it: a file that is open for
/// writing can't be executed, and a process that another test starts meanwhile could inherit
/// the descriptor.
pub fn install(program: &Path, to: &Path) {
    assert!(Command::new("cp").arg(program).arg(to).status().unwrap().success());
}

/// The command to run, and its folder.
pub struct Scenario {
    folder: TempDir,
    /// The folder of the scenario whose runtime folder it uses, usually its own. None: the user's
    /// real one.
    runtime_dir_of: Option<PathBuf>,
    command: Command,
}

impl Scenario {
    /// ganger in an empty folder, with a fixed environment.
    pub fn new() -> Self {
        Self::of(GANGER)
    }

    /// Another program, which runs ganger, in an empty folder.
    pub fn of(program: impl AsRef<OsStr>) -> Self {
        reset_signals();
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.current_dir(folder.path()).env_clear();
        for (key, value) in
            [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/root"), ("LANG", "C.UTF-8")]
        {
            command.env(key, value);
        }
        command.env("HOSTILE", hostile()).env("GANGER", GANGER);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let runtime_dir_of = Some(folder.path().to_owned());
        Self { folder, runtime_dir_of, command }
    }

    /// ganger in a folder with this Procfile.
    pub fn procfile(text: impl AsRef<[u8]>) -> Self {
        Self::new().file("Procfile", text)
    }

    /// setpriv(1) as the Unix user `nobody`, in a folder of another user. Its arguments begin with
    /// the program to run.
    pub fn as_nobody(procfile: &str) -> Self {
        Self::as_user(NOBODY, "/nonexistent", procfile)
    }

    /// setpriv(1) as this user.
    pub fn as_user(id: u32, home: &str, procfile: &str) -> Self {
        let mut scenario = Self::of("setpriv").file("Procfile", procfile);
        scenario.runtime_dir_of = None;
        let folder = scenario.folder().to_path_buf();
        install(Path::new(GANGER), &folder.join("ganger"));
        let hostile_here = folder.join("hostile");
        install(&hostile(), &hostile_here);
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let scenario = scenario.env("HOSTILE", hostile_here.to_str().unwrap());
        scenario.args(&format!("--reuid {id} --regid {id} --clear-groups")).env("HOME", home)
    }

    pub fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Runs in this folder instead of its own, with the runtime folder of that scenario.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self.beside(folder)
    }

    /// Uses the runtime folder of another scenario.
    pub fn beside(mut self, folder: &Path) -> Self {
        self.runtime_dir_of = Some(folder.to_owned());
        self
    }

    /// Arguments, separated by blanks.
    pub fn args(mut self, args: &str) -> Self {
        self.command.args(args.split_whitespace());
        self
    }

    /// One argument, unchanged.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn command(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }

    /// Runs it.
    pub fn start(mut self) -> Running {
        if let Some(folder) = &self.runtime_dir_of {
            use_runtime_dir(&mut self.command, folder);
        }
        let mut child = self.command.spawn().unwrap();
        let (send, pieces) = channel();
        if let Some(stdout) = child.stdout.take() {
            let send = send.clone();
            std::thread::spawn(move || read(stdout, |bytes| send.send(Piece::Out(bytes)).is_ok()));
        }
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || read(stderr, |bytes| send.send(Piece::Err(bytes)).is_ok()));
        }
        let started = Instant::now();
        Running { child, folder: self.folder, pieces, out: Vec::new(), err: Vec::new(), started }
    }
}

enum Piece {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

fn read(mut from: impl Read, send: impl Fn(Vec<u8>) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !send(buffer[..count].to_vec()) {
            return;
        }
    }
}

/// A running command.
pub struct Running {
    pub child: Child,
    folder: TempDir,
    pieces: Receiver<Piece>,
    out: Vec<u8>,
    err: Vec<u8>,
    pub started: Instant,
}

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until the output of ganger and its processes contains `text`.
    pub fn wait_for(&mut self, text: &str) -> &mut Self {
        self.wait_until(text, |running| running.output().contains(text))
    }

    /// Waits until `is` returns true. It is called after each output, and at intervals.
    pub fn wait_until(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) -> &mut Self {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !is(self) {
            assert!(
                Instant::now() < deadline,
                "timed out waiting for `{what}`; so far:\n{}",
                tail(&self.output())
            );
            match self.pieces.recv_timeout(Duration::from_millis(20)) {
                Ok(piece) => {
                    self.take(piece);
                    while let Ok(piece) = self.pieces.try_recv() {
                        self.take(piece);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        self
    }

    /// The length of the standard output so far, in bytes.
    pub fn length(&self) -> usize {
        self.out.len()
    }

    /// How often the output contains `text`.
    pub fn count_in_output(&self, text: &str) -> usize {
        let times = |bytes: &[u8]| memchr::memmem::find_iter(bytes, text).count();
        times(&self.out) + times(&self.err)
    }

    /// The output of ganger and its processes so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&[self.out.as_slice(), &self.err].concat()).into_owned()
    }

    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Out(bytes) => self.out.extend(bytes),
            Piece::Err(bytes) => self.err.extend(bytes),
        }
    }

    /// The keeper: ganger's only child.
    pub fn keeper(&self) -> Pid {
        self.keeper_if_any().unwrap()
    }

    /// The keeper, unless ganger has none yet or has exited.
    pub fn keeper_if_any(&self) -> Option<Pid> {
        children(self.pid()).first().copied()
    }

    /// Waits until it has exited.
    pub fn finish(self) -> Finished {
        self.finish_within(TEST_TIMEOUT)
    }

    /// Waits until it has exited, which must happen within `limit`.
    #[track_caller]
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        let deadline = Instant::now() + limit;
        loop {
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.take(piece),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("does not exit within {limit:?}; so far:\n{}", tail(&self.output()));
                }
            }
        }
        let status = self.wait();
        let took = self.started.elapsed();
        let (out, err) = (std::mem::take(&mut self.out), std::mem::take(&mut self.err));
        Finished { status, out, err, took }
    }

    /// Waits until it has exited, and keeps its folder.
    pub fn finish_but_keep(mut self) -> Self {
        self.wait();
        self
    }

    /// Waits until ganger itself has exited. Other processes may still hold its output open.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "does not exit; so far:\n{}", tail(&self.output()));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The memory of a process, in bytes: its own, and its share of shared memory.
pub fn memory(pid: Pid) -> usize {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The memory of a process that it does not share, in bytes.
pub fn own_memory(pid: Pid) -> usize {
    field(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// The peak of the memory of a process, in bytes, without the pages of its program.
pub fn peak_memory(pid: Pid) -> usize {
    let status = format!("/proc/{pid}/status");
    field(&status, "VmHWM:") - field(&status, "RssFile:")
}

fn field(path: &str, name: &str) -> usize {
    let text = fs::read_to_string(path).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A ganger that was killed leaves its socket.
        if !SYSTEM_TESTS && self.folder.path().exists() {
            for file in runtime_files(self.folder.path()) {
                let _ = fs::remove_file(file);
            }
        }
    }
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(4000);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// A command that has exited.
pub struct Finished {
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub took: Duration,
}

impl Finished {
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(expected),
            "{:?}\n{}{}",
            self.status,
            self.stdout(),
            self.stderr()
        );
        self
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// The standard error, with `N` for each process id.
    pub fn stderr(&self) -> String {
        let text = String::from_utf8_lossy(&self.err).into_owned();
        let mut parts = text.split("pid ");
        let mut shown = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            shown.push_str("pid N");
            shown.push_str(part.trim_start_matches(|char: char| char.is_ascii_digit()));
        }
        shown
    }

    /// The lines of one process, without their prefix.
    pub fn lines_of(&self, name: &str) -> Vec<String> {
        let of = |line: &str| {
            let (before, after) = line.split_once(" | ")?;
            (before.trim_end() == name).then(|| after.to_owned())
        };
        self.stdout().lines().filter_map(of).collect()
    }

    /// Asserts that ganger refused to start, with this message.
    #[track_caller]
    pub fn refused(self, expected: &str) {
        assert_eq!(self.stderr(), format!("ganger: {expected}\n"));
        assert_eq!(self.stdout(), "");
        self.code(2);
    }
}

/// A word that no other process has on its command line.
pub fn tag() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("tag-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Processes, zombies aside, that have this tag on their command line.
pub fn tagged(tag: &str) -> Vec<Pid> {
    tagged_if(tag, |_| true)
}

/// Processes with this tag that run the test program in this mode.
pub fn tagged_as(way: &str, tag: &str) -> Vec<Pid> {
    tagged_if(tag, |args| args.get(1) == Some(&way.as_bytes()))
}

fn tagged_if(tag: &str, is: impl Fn(&[&[u8]]) -> bool) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = command_line(Pid::from_raw(pid));
        let args: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        if args.contains(&tag.as_bytes()) && is(&args) && is_alive(Pid::from_raw(pid)) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

/// The arguments of a process, each with a NUL behind it.
pub fn command_line(pid: Pid) -> Vec<u8> {
    let of = |folder: &str| fs::read(format!("{folder}/cmdline")).unwrap_or_default();
    let line = of(&format!("/proc/{pid}"));
    if !line.is_empty() {
        return line;
    }
    // A main thread that has ended has no memory to read it from; the others do.
    let mut lines = other_threads(pid).map(|thread| of(&format!("/proc/{pid}/task/{thread}")));
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}

/// Whether this process exists and is not a zombie. A process whose main thread has ended is
/// alive as long as another thread runs.
pub fn is_alive(pid: Pid) -> bool {
    let runs = |folder: &str| {
        let stat = fs::read_to_string(format!("{folder}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    };
    runs(&format!("/proc/{pid}"))
        || other_threads(pid).any(|thread| runs(&format!("/proc/{pid}/task/{thread}")))
}

/// Whether a process is stopped by a signal.
pub fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// The threads of a process, without its main thread.
fn other_threads(pid: Pid) -> impl Iterator<Item = Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    ids.map(Pid::from_raw).filter(move |thread| *thread != pid)
}

/// The children of a process.
pub fn children(pid: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Waits until `is` returns true. It is called at intervals.
#[track_caller]
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is() {
        assert!(Instant::now() < deadline, "timed out waiting for `{what}`");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until no process with this tag is left, and returns how long that took.
#[track_caller]
pub fn wait_until_gone(tag: &str) -> Duration {
    let since = Instant::now();
    loop {
        let left = tagged(tag);
        if left.is_empty() {
            return since.elapsed();
        }
        assert!(since.elapsed() < TEST_TIMEOUT, "still there: {left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that no process listens on, reserved for this process: no other test gets it, nor
/// the four ports after it.
///
/// It lies below the ports that the system gives to outgoing connections. A reservation is an
/// abstract socket (unix(7)), whose name only one process on this machine can have at a time.
/// Only the first hundred of each thousand ports are given, so that the ports of further
/// process types, which are 100 apart, belong to no other test.
pub fn free_port() -> u16 {
    const PORTS: u32 = 400;
    let reserve = |number: u32| {
        let port = u16::try_from(12_000 + number / 20 * 1000 + number % 20 * 5).unwrap();
        let name = format!("ganger-test-port-{port}");
        let reservation =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).ok()?;
        TcpListener::bind(("127.0.0.1", port)).ok()?;
        // It is held until this process exits.
        std::mem::forget(reservation);
        Some(port)
    };
    let first = std::process::id();
    (0..PORTS).find_map(|step| reserve((first + step) % PORTS)).unwrap()
}
