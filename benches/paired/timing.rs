//! How soon: the first instruction, a line, five hundred processes.

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::Pid;

use crate::proc;
use crate::report::{MB, MICROSECONDS, MILLISECONDS, Row, SECONDS, Samples};
use crate::runner::{self, Run, Runner, Stage, number, wait_a_little, worker_command};
use crate::worker::{self, TICK_DIGITS, TICK_END};

/// From just before the spawn to the first instruction of the process.
pub(crate) fn start(runs: usize) -> io::Result<Vec<Row>> {
    let worker = worker_command("clock first");
    let stage = Stage::new([worker.clone()])?;
    let ganger = Runner::ganger();
    let (program, args) = worker.split_once(' ').expect("a worker has arguments");
    let mut direct = Command::new(program);
    direct.args(args.split(' ')).current_dir(&stage.dir);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec {worker}")]).current_dir(&stage.dir);

    let delay = |command: &mut Command| -> io::Result<f64> {
        let before = worker::nanos(SystemTime::now());
        Run::start(command)?.finish()?;
        let first = fs::read_to_string(stage.dir.join("first"))?;
        fs::remove_file(stage.dir.join("first"))?;
        let first: u128 = first.parse().map_err(io::Error::other)?;
        let nanos = first.saturating_sub(before).try_into().map_err(io::Error::other)?;
        Ok(number(nanos) / 1e6)
    };
    let mut rounds = Vec::new();
    for _ in 0..runs {
        rounds.push([delay(&mut direct)?, delay(&mut shell)?, delay(&mut stage.command(&ganger))?]);
    }
    let row = |what, of: fn(&[f64; 3]) -> f64| Row::new(what, MILLISECONDS, rounds.iter().map(of));
    Ok(vec![
        row("*reference* spawned without a shell", |&[direct, _, _]| direct),
        row("*reference* spawned as `sh -c 'exec …'`", |&[_, shell, _]| shell),
        row("ganger", |&[_, _, ganger]| ganger),
        row("ganger, later than without a shell", |&[direct, _, ganger]| ganger - direct)
            .gate_median(2.5)
            .note("of paired runs"),
        row("ganger, later than `sh -c`", |&[_, shell, ganger]| ganger - shell)
            .gate_median(2.5)
            .note("of paired runs"),
    ])
}

/// How many lines are timed in a run, and how far apart they are.
const TICKS: &str = "ticks 200 3000";

/// From before a line is written to after it was read from ganger's stdout.
pub(crate) fn latency(runs: usize) -> io::Result<Vec<Row>> {
    let ticks = worker_command(TICKS);
    let quiet = Stage::new([ticks.clone()])?;
    let noisy = Stage::new([ticks.clone(), worker_command("flood")])?;
    let ganger = Runner::ganger();
    let mut bare = Command::new("/bin/sh");
    bare.args(["-c", &format!("exec {ticks}")]);

    let ways = ["*reference* a bare pipe", "ganger", "ganger, beside a flooding process"];
    let mut percentiles = ways.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..runs {
        let commands = [&mut bare, &mut quiet.command(&ganger), &mut noisy.command(&ganger)];
        for (command, (p50, p99)) in commands.into_iter().zip(&mut percentiles) {
            let (_, delays) = Run::read(command, read_ticks)?;
            p50.push(delays.percentile(50));
            p99.push(delays.percentile(99));
        }
    }
    let rows = ways.into_iter().zip(percentiles).flat_map(|(way, (p50, p99))| {
        [
            Row::new(format!("{way}: p50"), MICROSECONDS, p50),
            Row::new(format!("{way}: p99"), MICROSECONDS, p99).note("of 200 lines in each run"),
        ]
    });
    Ok(rows.collect())
}

/// The delays of all ticks in the stream, in microseconds.
fn read_ticks(mut from: impl Read) -> io::Result<Samples> {
    // The digits may have come in the previous chunk: its end is kept in front.
    let mut buffer = vec![0; TICK_DIGITS + 128 * 1024];
    let mut delays = Vec::new();
    loop {
        let length = from.read(&mut buffer[TICK_DIGITS..])?;
        let now = worker::nanos(SystemTime::now());
        if length == 0 {
            return Ok(delays.into_iter().collect());
        }
        for end in memchr::memchr_iter(TICK_END, &buffer[TICK_DIGITS..TICK_DIGITS + length]) {
            let digits = str::from_utf8(&buffer[end..end + TICK_DIGITS]).unwrap_or_default();
            let written: u128 = digits.parse().map_err(io::Error::other)?;
            let nanos = now.saturating_sub(written).try_into().map_err(io::Error::other)?;
            delays.push(number(nanos) / 1e3);
        }
        buffer.copy_within(length..length + TICK_DIGITS, 0);
    }
}

const MANY: usize = 500;
const SLEEP: &str = "sleep 1000";
/// How often is looked whether all are there, or gone.
const LOOK: Duration = Duration::from_millis(5);

/// Five hundred processes: up, and gone after SIGTERM.
pub(crate) fn many(runs: usize) -> io::Result<Vec<Row>> {
    // No more of a type than there are ports between one type and the next.
    let stage = Stage::new(vec![SLEEP.to_owned(); 5])?;
    let ganger = Runner::ganger();
    let (mut bare_up, mut up, mut gone, mut left, mut memory) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        bare_up.push(spawn_many()?);
        let run = Run::start(stage.command(&ganger).args(["-m", "all=100"]))?;
        let sleepers = wait_for_sleepers(run.pid(), MANY)?;
        up.push(run.elapsed().as_secs_f64());

        let asked = Instant::now();
        run.terminate()?;
        while sleepers.iter().any(|&pid| proc::lives(pid)) {
            wait_a_little(asked, LOOK)?;
        }
        gone.push(asked.elapsed().as_secs_f64());
        let outcome = run.finish()?;
        left.push(asked.elapsed().as_secs_f64());
        memory.push(outcome.peak / 1e6);
    }
    Ok(vec![
        Row::new("*reference* spawning 500 `sh -c 'exec sleep 1000'`", SECONDS, bare_up),
        Row::new("500 `sleep 1000` up", SECONDS, up).gate_median(0.5),
        Row::new("the 500 gone after TERM", SECONDS, gone),
        Row::new("ganger gone after TERM", SECONDS, left),
        Row::new("peak memory of ganger and keeper", MB, memory).gate_median(20.0),
    ])
}

/// The pids of `count` sleepers, once they are all there and have become `sleep`.
pub(crate) fn wait_for_sleepers(runner: Pid, count: usize) -> io::Result<Vec<Pid>> {
    let started = Instant::now();
    loop {
        // To look at every process each time would slow down their start.
        let helpers = proc::with_helpers(runner);
        let mut found: Vec<Pid> = helpers.into_iter().flat_map(proc::children).collect();
        if found.len() >= count {
            found.retain(|&pid| proc::name(pid) == "sleep");
            if found.len() >= count {
                return Ok(found);
            }
        }
        wait_a_little(started, LOOK)?;
    }
}

/// What this machine takes to spawn as many from one plain loop.
fn spawn_many() -> io::Result<f64> {
    let started = Instant::now();
    let spawn = || {
        Command::new("/bin/sh").args(["-c", &format!("exec {SLEEP}")]).stdin(Stdio::null()).spawn()
    };
    let mut sleepers: Vec<Child> = (0..MANY).map(|_| spawn()).collect::<io::Result<_>>()?;
    let pids = sleepers.iter().map(runner::pid);
    for pid in pids {
        while proc::name(pid) != "sleep" {
            wait_a_little(started, LOOK)?;
        }
    }
    let up = started.elapsed();
    for sleeper in &mut sleepers {
        sleeper.kill()?;
    }
    for sleeper in &mut sleepers {
        sleeper.wait()?;
    }
    Ok(up.as_secs_f64())
}
