//! How much, and that all of it arrives.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::report::{CPU_SECONDS_PER_GB, GB_PER_SECOND, Row, SECONDS, TIMES};
use crate::runner::{Arrived, Outcome, Run, Runner, Stage, count, number, time_shell};
use crate::worker::{BULK, LINE, line};

/// 500 MB.
const BULK_LINES: usize = 5_000_000;
/// 100 MB: a terminal is slow.
const TERMINAL_LINES: usize = 1_000_000;

/// Ganger's figures for one workload, over all runs.
#[derive(Default)]
struct Moved {
    gb_per_second: Vec<f64>,
    cpu_per_gb: Vec<f64>,
}

impl Moved {
    /// Takes note of a run, whose figures mean nothing unless all lines arrived.
    fn note(&mut self, lines: usize, outcome: &Outcome, arrived: Arrived) -> io::Result<()> {
        // All prefixes are of one length, so the bytes come out even.
        let Arrived { lines: got, bytes, .. } = arrived;
        if got != lines || bytes % lines != 0 || bytes / lines <= LINE || !outcome.status.success()
        {
            let Outcome { status, .. } = outcome;
            let lost = format!("{status}, {got} of {lines} lines arrived, {bytes} bytes");
            return Err(io::Error::other(lost));
        }
        let gb = gigabytes(lines);
        self.gb_per_second.push(gb / outcome.wall.as_secs_f64());
        self.cpu_per_gb.push(outcome.cpu.as_secs_f64() / gb);
        Ok(())
    }

    fn speed(&self, what: &str) -> Row {
        Row::new(what, GB_PER_SECOND, self.gb_per_second.iter().copied())
            .note("every line arrived, in every run")
    }

    fn cpu(&self, what: &str) -> Row {
        Row::new(what, CPU_SECONDS_PER_GB, self.cpu_per_gb.iter().copied())
    }
}

fn gigabytes(lines: usize) -> f64 {
    number((lines * LINE) as u64) / 1e9
}

pub(crate) fn output(runs: usize) -> io::Result<Vec<Row>> {
    let mut rows = bulk(runs)?;
    rows.extend(on_terminal(runs)?);
    for (what, processes, lines, at_once) in [
        ("1M lines from one", 1, 1_000_000, BULK),
        ("1M lines from ten", 10, 100_000, BULK),
        ("2M lines from one, a write() each", 1, 2_000_000, LINE),
        ("2M lines from ten, a write() each", 10, 200_000, LINE),
    ] {
        let stage = Stage::of_writers(processes, lines, at_once)?;
        let mut moved = Moved::default();
        for _ in 0..runs {
            let meeting = stage.meeting()?;
            let (outcome, arrived) = Run::read(&mut stage.command(&Runner::ganger()), count)?;
            drop(meeting);
            moved.note(processes * lines, &outcome, arrived)?;
        }
        rows.extend([moved.speed(what), moved.cpu(what)]);
    }
    Ok(rows)
}

/// `cat` of a file in memory: ganger stands where the second `cat` or `sed` does.
///
/// The reader behind ganger does what the last `cat` does, and counts besides.
fn bulk(runs: usize) -> io::Result<Vec<Row>> {
    let stage = Stage::new(["cat lines".to_owned()])?;
    write_lines(&stage.dir.join("lines"), BULK_LINES)?;
    let copy = stage.dir.join("copy");
    let (mut piped, mut filed) = (Moved::default(), Moved::default());
    let references = [
        "cat lines | cat | cat",
        "cat lines | sed 's/^/a | /' | cat",
        "cat lines | sed 's/^/a | /' > copy",
    ];
    let mut reference_speeds = references.map(|_| Vec::new());
    for _ in 0..runs {
        for (script, speeds) in references.iter().zip(&mut reference_speeds) {
            let wall = time_shell(&stage.dir, script)?;
            speeds.push(gigabytes(BULK_LINES) / wall.as_secs_f64());
        }
        let mut command = stage.command(&Runner::ganger());
        let (outcome, arrived) = Run::read(&mut command, count)?;
        piped.note(BULK_LINES, &outcome, arrived)?;
        let (outcome, arrived) = into_file(&mut command, &copy, count)?;
        filed.note(BULK_LINES, &outcome, arrived)?;
    }

    let [cats, ..] = &reference_speeds;
    let ratios = piped.gb_per_second.iter().zip(cats).map(|(ganger, cats)| ganger / cats);
    let ratio = Row::new(
        "500 MB to a pipe, against `cat \\| cat \\| cat`",
        TIMES,
        ratios.collect::<Vec<_>>(),
    );
    let (to_pipe, to_file) = ("500 MB to a pipe", "500 MB to a file in memory");
    let rows = references.iter().zip(reference_speeds).map(|(script, speeds)| {
        let script = script.replace('|', "\\|");
        Row::new(format!("*reference* `{script}`"), GB_PER_SECOND, speeds)
    });
    Ok(rows
        .chain([
            piped.speed(to_pipe),
            ratio.gate_best(0.5).note("of paired runs"),
            piped.cpu(to_pipe).gate_best(1.0),
            filed.speed(to_file),
            filed.cpu(to_file),
        ])
        .collect())
}

/// `cat` of a file in memory, which writes to a terminal. `script` reads its terminal as ganger
/// does, and leaves in what the terminal adds.
fn on_terminal(runs: usize) -> io::Result<Vec<Row>> {
    let stage = Stage::new(["cat lines".to_owned()])?;
    write_lines(&stage.dir.join("lines"), TERMINAL_LINES)?;
    let script = "script -qec 'cat lines' /dev/null | cat";
    let (mut moved, mut reference) = (Moved::default(), Vec::new());
    for _ in 0..runs {
        let wall = time_shell(&stage.dir, script)?;
        reference.push(gigabytes(TERMINAL_LINES) / wall.as_secs_f64());
        let mut command = stage.command(&Runner::ganger());
        command.env("GANGER_PTY", "always");
        let (outcome, arrived) = Run::read(&mut command, count)?;
        moved.note(TERMINAL_LINES, &outcome, arrived)?;
    }
    let what = "100 MB from a terminal to a pipe";
    Ok(vec![
        Row::new(format!("*reference* `{}`", script.replace('|', "\\|")), GB_PER_SECOND, reference),
        moved.speed(what),
        moved.cpu(what),
    ])
}

fn write_lines(to: &Path, lines: usize) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(to)?);
    for _ in 0..lines {
        file.write_all(&line())?;
    }
    file.flush()
}

/// Runs `command` with its stdout in a new file at `path`, which is looked at
/// when the time is taken and then removed.
fn into_file<T>(
    command: &mut Command,
    path: &Path,
    look: impl FnOnce(File) -> io::Result<T>,
) -> io::Result<(Outcome, T)> {
    let outcome = Run::start(command.stdout(File::create(path)?))?.finish()?;
    let value = look(File::open(path)?)?;
    fs::remove_file(path)?;
    Ok((outcome, value))
}

/// Every peer that can run a Procfile, or the same commands, without a terminal.
const PEERS: [(&str, &[&str]); 10] = [
    ("foreman", &["start"]),
    ("honcho", &["start"]),
    ("nf", &["start"]),
    ("goreman", &["start"]),
    ("hivemind", &["Procfile"]),
    ("overmind", &["start"]),
    ("ultraman", &["start"]),
    ("process-compose", &["up", "--tui=false", "--no-server"]),
    ("proctide", &[]),
    ("concurrently", &[]),
];
/// A peer takes up to half a minute for what ganger does in less than one second.
const PEER_RUNS: usize = 5;

/// The two workloads of 1M lines with ganger and every peer on the PATH, into a
/// file in memory.
pub(crate) fn peers(runs: usize) -> io::Result<Vec<Row>> {
    let mut runners = vec![("ganger", Runner::ganger())];
    for (name, args) in PEERS {
        match on_path(name) {
            Some(program) => {
                let takes_commands = name == "concurrently";
                runners.push((name, Runner { program, args, takes_commands }));
            }
            None => eprintln!("{name}: not on the PATH, left out"),
        }
    }
    let mut rows = Vec::new();
    for (what, processes, lines) in [("one", 1, 1_000_000), ("ten", 10, 100_000)] {
        let stage = Stage::of_writers(processes, lines, BULK)?;
        let copy = stage.dir.join("copy");
        let mut walls = runners.iter().map(|_| Vec::new()).collect::<Vec<_>>();
        let mut worst = runners.iter().map(|_| Worst::default()).collect::<Vec<_>>();
        for _ in 0..runs.min(PEER_RUNS) {
            for (index, (name, runner)) in runners.iter().enumerate() {
                let meeting = stage.meeting()?;
                let mut command = stage.command(runner);
                let (outcome, whole) = into_file(&mut command, &copy, count_whole)?;
                drop(meeting);
                let wall = outcome.wall.as_secs_f64();
                // Minutes pass here.
                eprintln!("{name}, 1M lines from {what}: {wall:.2} s");
                if outcome.status.signal() == Some(Signal::SIGKILL as i32) {
                    worst[index].hung += 1;
                } else {
                    walls[index].push(wall);
                    worst[index].note(&outcome, (processes * lines).saturating_sub(whole));
                }
            }
        }
        // ganger's worst run is to be ahead of the best of every peer's.
        let fastest = walls[1..].iter().flatten().copied().min_by(f64::total_cmp);
        for ((name, _), (walls, worst)) in runners.iter().zip(walls.into_iter().zip(worst)) {
            let row = Row::new(format!("{name}: 1M lines from {what}"), SECONDS, walls);
            let row = row.note(worst.to_string());
            rows.push(match fastest {
                Some(fastest) if *name == "ganger" => row.gate_worst(fastest),
                Some(_) | None => row,
            });
        }
    }
    Ok(rows)
}

/// The worst of a peer's runs.
#[derive(Default)]
struct Worst {
    cpu: f64,
    peak: f64,
    lost: usize,
    hung: usize,
}

impl Worst {
    fn note(&mut self, outcome: &Outcome, lost: usize) {
        self.cpu = self.cpu.max(outcome.cpu.as_secs_f64());
        self.peak = self.peak.max(outcome.peak / 1e6);
        self.lost = self.lost.max(lost);
    }
}

impl std::fmt::Display for Worst {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { cpu, peak, lost, hung } = self;
        write!(
            f,
            "at most {cpu:.2} CPU-s, {peak:.0} MB, {lost} lines lost or torn, {hung} runs hung"
        )
    }
}

/// How many lines arrived whole, on a line of their own, behind whatever prefix.
fn count_whole(file: File) -> io::Result<usize> {
    /// Room for a prefix, a time and colours, but not for another line.
    const AROUND: usize = 80;
    let whole = line();
    let whole = &whole[..LINE - 1];
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut count, mut got) = (0, Vec::new());
    while reader.read_until(b'\n', &mut got)? > 0 {
        let payload = memchr::memchr(whole[0], &got).map_or(&[][..], |at| &got[at..]);
        count += usize::from(payload.starts_with(whole) && got.len() <= LINE + AROUND);
        got.clear();
    }
    Ok(count)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}
