//! Running ganger, its peers and the references, and watching them meanwhile.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::proc;
use crate::worker;

/// A run that takes longer hangs, and is killed.
const LIMIT: Duration = Duration::from_mins(2);
/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A folder in memory with a Procfile, removed at the end.
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
    commands: Vec<String>,
}

impl Stage {
    /// Processes are called a, b, c…, as long as each other, so that every
    /// line gets a prefix of the same length.
    pub(crate) fn new(commands: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let unique = worker::nanos(SystemTime::now());
        let dir = Path::new("/dev/shm").join(format!("ganger-bench-{unique}"));
        fs::create_dir(&dir)?;
        let stage = Self { dir, commands: commands.into_iter().collect() };
        let mut procfile = File::create(stage.dir.join("Procfile"))?;
        // The one peer that reads another file.
        let mut compose = File::create(stage.dir.join("process-compose.yaml"))?;
        writeln!(compose, "processes:")?;
        for (name, line) in ('a'..='z').zip(&stage.commands) {
            writeln!(procfile, "{name}: {line}")?;
            writeln!(compose, "  {name}: {{command: '{line}'}}")?;
        }
        Ok(stage)
    }

    /// `count` workers that write their lines and then wait for each other.
    pub(crate) fn of_writers(count: usize, lines: usize, at_once: usize) -> io::Result<Self> {
        let command = worker_command(&format!("lines {lines} {at_once} {MEETING}"));
        Self::new(vec![command; count])
    }

    pub(crate) fn meeting(&self) -> io::Result<worker::Meeting> {
        worker::Meeting::new(&self.dir.join(MEETING), self.commands.len())
    }

    /// A command for this Procfile, deaf and mute until told otherwise.
    pub(crate) fn command(&self, runner: &Runner) -> Command {
        let mut command = Command::new(&runner.program);
        command.args(runner.args).current_dir(&self.dir);
        if runner.takes_commands {
            command.args(&self.commands);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Relative to the stage, where every process runs.
pub(crate) const MEETING: &str = "meeting";

/// The command line of a worker.
pub(crate) fn worker_command(args: &str) -> String {
    let program = std::env::current_exe().expect("a bench knows its own program");
    format!("{} --worker {args}", program.display())
}

/// How a process manager is told to run what is in the current folder.
pub(crate) struct Runner {
    pub(crate) program: PathBuf,
    pub(crate) args: &'static [&'static str],
    /// Takes the commands as arguments, instead of reading a file.
    pub(crate) takes_commands: bool,
}

impl Runner {
    /// The ganger that cargo built for this bench, or the one in `GANGER_BIN`.
    pub(crate) fn ganger() -> Self {
        let built = option_env!("CARGO_BIN_EXE_ganger").unwrap_or("ganger");
        let program = std::env::var_os("GANGER_BIN").map_or_else(|| built.into(), PathBuf::from);
        Self { program, args: &["start"], takes_commands: false }
    }
}

/// A runner while it runs. Dropped before its end, it is killed with all that
/// it started.
pub(crate) struct Run {
    child: Child,
    started: Instant,
    watch: Option<Watch>,
}

/// Drop the sender, and the thread returns.
type Watch = (Sender<()>, JoinHandle<HashMap<Pid, Seen>>);

/// What a run took, helpers included and managed processes not.
pub(crate) struct Outcome {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// In bytes, each process at its own peak.
    pub(crate) peak: f64,
    pub(crate) status: ExitStatus,
}

/// What was last seen of a process.
struct Seen {
    program: Option<PathBuf>,
    cpu: Duration,
    peak: u64,
}

impl Run {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let started = Instant::now();
        let child = command
            .spawn()
            .map_err(|error| io::Error::other(format!("failed to run {command:?}: {error}")))?;
        let (ended, end) = mpsc::channel();
        let pid = pid(&child);
        let watch = thread::spawn(move || watch(pid, &end));
        Ok(Self { child, started, watch: Some((ended, watch)) })
    }

    /// Starts `command` and passes what it writes to `read`, until that returns.
    pub(crate) fn read<T>(
        command: &mut Command,
        read: impl FnOnce(ChildStdout) -> io::Result<T>,
    ) -> io::Result<(Outcome, T)> {
        let mut run = Self::start(command.stdout(Stdio::piped()))?;
        let stdout = run.child.stdout.take().expect("stdout is piped");
        let value = read(stdout)?;
        Ok((run.finish()?, value))
    }

    pub(crate) fn pid(&self) -> Pid {
        pid(&self.child)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn terminate(&self) -> io::Result<()> {
        Ok(kill(self.pid(), Signal::SIGTERM)?)
    }

    /// Waits for the end.
    ///
    /// The runner's own CPU time is read from its zombie: `wait4` would add
    /// everything that it waited for, and the keeper waits for the producers.
    /// The zombie counts in ticks of 10 ms, hence the large inputs. A helper's
    /// is what was seen of it last, 10 ms before its end at most.
    pub(crate) fn finish(mut self) -> io::Result<Outcome> {
        let pid = self.pid();
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        let wall = self.elapsed();
        let (ended, watch) = self.watch.take().expect("only the end takes it");
        drop(ended);
        let seen = watch.join().expect("the watch doesn't panic");
        let helpers = seen.iter().filter(|&(&seen, _)| seen != pid);
        let cpu = proc::cpu(pid) + helpers.map(|(_, seen)| seen.cpu).sum::<Duration>();
        let peak = number(seen.values().map(|seen| seen.peak).sum());
        Ok(Outcome { wall, cpu, peak, status: self.child.wait()? })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A finished run took the watch, and is gone: its pid may be another's.
        if self.watch.take().is_some() {
            proc::kill_tree(self.pid());
            let _ = self.child.wait();
        }
    }
}

/// Looks at a runner and its helpers until the other end of `end` is dropped,
/// or kills what doesn't end in time.
fn watch(runner: Pid, end: &Receiver<()>) -> HashMap<Pid, Seen> {
    let started = Instant::now();
    let mut seen: HashMap<Pid, Seen> = HashMap::new();
    while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        for pid in proc::with_helpers(runner) {
            let (program, cpu) = (proc::program(pid), proc::cpu_of_threads(pid));
            if let Some(peak) = proc::peak_memory(pid) {
                seen.insert(pid, Seen { program, cpu, peak });
            }
        }
        // A child between fork and exec looks like a helper, but only once.
        seen.retain(|&pid, seen| !proc::lives(pid) || proc::program(pid) == seen.program);
        if started.elapsed() > LIMIT {
            proc::kill_tree(runner);
        }
    }
    seen
}

pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Waits for `look`, until it is worth looking again, but not for ever.
pub(crate) fn wait_a_little(since: Instant, look: Duration) -> io::Result<()> {
    if since.elapsed() > Duration::from_mins(1) {
        return Err(io::Error::other("not all are up, or not all gone, after a minute"));
    }
    thread::sleep(look);
    Ok(())
}

/// How long a shell takes for `script`, its output going nowhere.
pub(crate) fn time_shell(dir: &Path, script: &str) -> io::Result<Duration> {
    let mut command = Command::new("/bin/sh");
    let started = Instant::now();
    let status = command.args(["-c", script]).current_dir(dir).stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("`{script}`: {status}")));
    }
    Ok(started.elapsed())
}

/// What arrived at the end of a pipe or in a file.
#[derive(Clone, Copy, Default)]
pub(crate) struct Arrived {
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
    /// How many bytes are the filler; left at 0 where lines can be counted.
    pub(crate) filler: usize,
}

/// Counts lines and bytes as fast as it can.
pub(crate) fn count(from: impl Read) -> io::Result<Arrived> {
    each_chunk(from, |arrived, chunk| {
        arrived.lines += memchr::memchr_iter(b'\n', chunk).count();
    })
}

/// Counts the bytes that are filler, for output without lines.
pub(crate) fn count_filler(from: impl Read) -> io::Result<Arrived> {
    each_chunk(from, |arrived, chunk| {
        arrived.filler += memchr::memchr_iter(worker::FILLER, chunk).count();
    })
}

fn each_chunk(
    mut from: impl Read,
    mut note: impl FnMut(&mut Arrived, &[u8]),
) -> io::Result<Arrived> {
    // As much as `cat` reads at once.
    let mut buffer = vec![0; 128 * 1024];
    let mut arrived = Arrived::default();
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(arrived),
            length => {
                arrived.bytes += length;
                note(&mut arrived, &buffer[..length]);
            }
        }
    }
}

/// A count as a figure to compute with.
#[expect(clippy::cast_precision_loss, reason = "nothing here counts beyond 2^53")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}
