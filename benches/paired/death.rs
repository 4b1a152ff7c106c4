//! How soon no process is left when ganger, or its keeper, is killed.

use std::fs;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::proc;
use crate::report::{Row, SECONDS};
use crate::runner::{Run, Runner, Stage, wait_a_little};
use crate::worker;

/// Each has two children of its own, and a daemon in a session of its own, with
/// neither descriptors nor an environment.
const TREES: &str = "all=50";
const EACH: usize = 4;
const PROCESSES: usize = 50 * EACH;
const GATE: f64 = 1.0;
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// Which process is killed.
#[derive(Clone, Copy)]
enum Victim {
    Ganger,
    Keeper,
}

pub(crate) fn death(runs: usize) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, victim) in [("ganger", Victim::Ganger), ("its keeper", Victim::Keeper)] {
        let times = (0..runs).map(|_| kill_one(victim)).collect::<io::Result<Vec<_>>>()?;
        let what = format!("{PROCESSES} processes gone after SIGKILL of {what}");
        rows.push(Row::new(what, SECONDS, times).gate_worst(GATE));
    }
    Ok(rows)
}

fn kill_one(victim: Victim) -> io::Result<f64> {
    // No other process sleeps for so long.
    let time = format!("1000.{}", worker::nanos(SystemTime::now()));
    let sleep = format!("sleep {time}");
    let daemon = format!("env -i /usr/bin/setsid -f /bin/sh -c \"exec {sleep} <&- >&- 2>&-\"");
    let stage = Stage::new([format!("{sleep} & {sleep} & {daemon}; exec {sleep}")])?;
    let run = Run::start(stage.command(&Runner::ganger()).args(["-m", TREES]))?;
    let since = Instant::now();
    while sleepers(&time).len() < PROCESSES {
        wait_a_little(since, LOOK)?;
    }
    let all = sleepers(&time);
    let keeper = proc::with_helpers(run.pid()).into_iter().find(|pid| *pid != run.pid());
    let keeper = keeper.ok_or_else(|| io::Error::other("there is no keeper"))?;
    let victim = match victim {
        Victim::Ganger => run.pid(),
        Victim::Keeper => keeper,
    };
    let since = Instant::now();
    kill(victim, Signal::SIGKILL)?;
    while all.iter().any(|pid| proc::lives(*pid)) {
        wait_a_little(since, LOOK)?;
    }
    let took = since.elapsed();
    run.finish()?;
    Ok(took.as_secs_f64())
}

/// Those that sleep for exactly so long.
pub(crate) fn sleepers(time: &str) -> Vec<Pid> {
    let line = format!("sleep\0{time}\0");
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw).filter(|pid| proc::command_line(*pid) == line).collect()
}
