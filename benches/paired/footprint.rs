//! How little: memory under load, and what ganger does when nothing happens.

use std::io::{self, Read};
use std::process::ChildStdout;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::proc;
use crate::report::{CPU_MILLISECONDS, MIB, Row, SWITCHES};
use crate::runner::{self, MEETING, Run, Runner, Stage, number, worker_command};
use crate::worker::BULK;

const BYTES_PER_MIB: f64 = 1_048_576.0;
const GATE: f64 = 12.0;

/// Peak memory of ganger and its keeper together.
pub(crate) fn memory(runs: usize) -> io::Result<Vec<Row>> {
    Ok(vec![
        writers("1M lines from one", runs, 1, 1_000_000)?,
        writers("1M lines from ten", runs, 10, 100_000)?,
        endless_line(runs)?,
        slow_reader(runs)?,
        three_idle(runs)?,
    ])
}

fn writers(what: &str, runs: usize, processes: usize, lines: usize) -> io::Result<Row> {
    let stage = Stage::of_writers(processes, lines, BULK)?;
    let mut peaks = Vec::new();
    for _ in 0..runs {
        let meeting = stage.meeting()?;
        let (outcome, _) = Run::read(&mut stage.command(&Runner::ganger()), runner::count)?;
        drop(meeting);
        peaks.push(outcome.peak / BYTES_PER_MIB);
    }
    Ok(Row::new(what, MIB, peaks).gate_median(GATE))
}

fn endless_line(runs: usize) -> io::Result<Row> {
    const BYTES: usize = 200_000_000;
    let stage = Stage::new([worker_command(&format!("endless {BYTES} {MEETING}"))])?;
    let mut peaks = Vec::new();
    for _ in 0..runs {
        let meeting = stage.meeting()?;
        let mut command = stage.command(&Runner::ganger());
        let (outcome, arrived) = Run::read(&mut command, runner::count_filler)?;
        drop(meeting);
        if arrived.filler != BYTES {
            let lost = format!("{} of {BYTES} bytes arrived", arrived.filler);
            return Err(io::Error::other(lost));
        }
        peaks.push(outcome.peak / BYTES_PER_MIB);
    }
    let row = Row::new("200 MB without a newline", MIB, peaks).gate_median(GATE);
    Ok(row.note("every byte arrived, in every run"))
}

/// A flooding process, and a reader that takes 5 MB a second for 3 seconds.
fn slow_reader(runs: usize) -> io::Result<Row> {
    let stage = Stage::new([worker_command("flood")])?;
    let mut peaks = Vec::new();
    for _ in 0..runs {
        // Then the reader is gone, which ends ganger and so the run.
        let (outcome, ()) = Run::read(&mut stage.command(&Runner::ganger()), read_slowly)?;
        peaks.push(outcome.peak / BYTES_PER_MIB);
    }
    Ok(Row::new("a reader of 5 MB/s", MIB, peaks).gate_median(GATE))
}

fn read_slowly(mut from: ChildStdout) -> io::Result<()> {
    let mut buffer = vec![0; 50_000];
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        from.read_exact(&mut buffer)?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn three_idle(runs: usize) -> io::Result<Row> {
    let stage = Stage::new(vec!["sleep 1000".to_owned(); 3])?;
    let mut peaks = Vec::new();
    for _ in 0..runs {
        let run = settled(&stage)?;
        run.terminate()?;
        peaks.push(run.finish()?.peak / BYTES_PER_MIB);
    }
    Ok(Row::new("three idle processes", MIB, peaks))
}

/// Ganger on this stage, a second after its start.
fn settled(stage: &Stage) -> io::Result<Run> {
    let run = Run::start(&mut stage.command(&Runner::ganger()))?;
    thread::sleep(Duration::from_secs(1));
    Ok(run)
}

/// What ganger and its keeper do in 10 seconds with ten silent processes.
pub(crate) fn idle(_: usize) -> io::Result<Vec<Row>> {
    let stage = Stage::new(vec!["sleep 1000".to_owned(); 10])?;
    let run = settled(&stage)?;
    let pids = proc::with_helpers(run.pid());
    let before = activity(&pids);
    thread::sleep(Duration::from_secs(10));
    let after = activity(&pids);
    run.terminate()?;
    run.finish()?;
    let cpu = after.0.saturating_sub(before.0).as_secs_f64() * 1e3;
    let switches = number(after.1 - before.1);
    Ok(vec![
        Row::new("CPU in 10 s, ten silent processes", CPU_MILLISECONDS, [cpu]).gate_median(0.0),
        Row::new("voluntary context switches meanwhile", SWITCHES, [switches])
            .gate_median(0.0)
            .note(format!("{} processes looked at", pids.len())),
    ])
}

fn activity(pids: &[Pid]) -> (Duration, u64) {
    let cpu = pids.iter().map(|&pid| proc::cpu_of_threads(pid)).sum();
    (cpu, pids.iter().map(|&pid| proc::voluntary_switches(pid)).sum())
}
