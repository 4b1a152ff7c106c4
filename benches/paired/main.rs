//! Measures the real `ganger`, side by side with references in the same run.
//!
//! ```text
//! cargo bench --bench paired -- [--runs N] [GROUP…]
//! ```
//!
//! Times of different machines, or of different hours of one machine, can't be
//! compared. So every figure that has a reference is taken in turns with it,
//! many times, and comes with its median, its best and its spread. Nothing
//! here fails on a slow machine: a gate that is missed is a word in a table.
//!
//! `GANGER_BIN` measures another binary than the one that cargo just built.

mod death;
mod footprint;
mod output;
mod proc;
mod report;
mod runner;
mod scale;
mod stop;
mod timing;
mod with;
mod worker;

use std::fs;
use std::io;
use std::process::ExitCode;
use std::time::SystemTime;

/// Measures a group, with this many runs of everything.
type Measure = fn(usize) -> io::Result<Vec<report::Row>>;

/// Name, title and function of each group; the last one runs only when asked for.
const GROUPS: [(&str, &str, Measure); 11] = [
    ("start", "Start: from the spawn to the first instruction", timing::start),
    ("output", "Output", output::output),
    ("memory", "Memory: peak of ganger and keeper", footprint::memory),
    ("latency", "Latency of a line", timing::latency),
    ("idle", "Idle", footprint::idle),
    ("many", "Many processes", timing::many),
    ("scale", "Scale: a running app", scale::scale),
    ("stop", "Stop: in proportion to the processes", stop::stop),
    ("with", "With: start, wait until ready, run, stop", with::with),
    ("death", "Death: 50 trees of four", death::death),
    ("peers", "Peers: 1M lines of 100 bytes into a file in memory, at most 5 runs", output::peers),
];
const ONLY_WHEN_ASKED_FOR: &str = "peers";

fn main() -> ExitCode {
    // A worker's first instruction: what `start` measures.
    let first_instruction = SystemTime::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((first, worker)) if first == "--worker" => worker::main(worker, first_instruction),
        _ => parse(&args).and_then(|(runs, groups)| measure(runs, &groups)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A worker whose reader left, as some are meant to.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paired: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The number of runs, and the names of the groups; none means the usual ones.
fn parse(args: &[String]) -> io::Result<(usize, Vec<&str>)> {
    let (mut runs, mut groups) = (15, Vec::new());
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            // Cargo's own.
            "--bench" => {}
            "--runs" => {
                let number = args.next().and_then(|text| text.parse().ok());
                runs = number.ok_or_else(|| io::Error::other("`--runs` takes a number"))?;
            }
            name if GROUPS.iter().any(|&(group, ..)| group == name) => groups.push(name),
            name => return Err(io::Error::other(format!("no such group: `{name}`"))),
        }
    }
    Ok((runs, groups))
}

fn measure(runs: usize, groups: &[&str]) -> io::Result<()> {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    println!("{runs} runs on {cores} cores, Linux {kernel}, load {load}");
    let mut failed = false;
    for (name, title, group) in GROUPS {
        let wanted =
            if groups.is_empty() { name != ONLY_WHEN_ASKED_FOR } else { groups.contains(&name) };
        if !wanted {
            continue;
        }
        println!("\n## {title}\n");
        match group(runs) {
            Ok(rows) => report::print(&rows),
            // Output that is lost, say: the other groups have figures nonetheless.
            Err(error) => {
                println!("**failed**: {error}");
                failed = true;
            }
        }
    }
    if failed { Err(io::Error::other("not every group has figures")) } else { Ok(()) }
}
