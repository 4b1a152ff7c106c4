//! How the time to stop grows with the number of processes.

use std::io;
use std::time::Instant;

use crate::report::{Row, SECONDS, TIMES_LONGER};
use crate::runner::{Run, Runner, Stage};
use crate::timing::wait_for_sleepers;

const COUNTS: [usize; 4] = [500, 1000, 2000, 4000];

/// From SIGTERM to the end of ganger, and how much longer it takes for the most.
pub(crate) fn stop(runs: usize) -> io::Result<Vec<Row>> {
    let stage = Stage::new(["sleep 1000".to_owned()])?;
    let mut rows = Vec::new();
    let mut times = COUNTS.map(|_| Vec::new());
    let mut codes = COUNTS.map(|_| Vec::new());
    let mut starts = COUNTS.map(|_| Vec::new());
    for _ in 0..runs {
        for (index, count) in COUNTS.into_iter().enumerate() {
            let mut command = stage.command(&Runner::ganger());
            let run = Run::start(command.args(["--no-port", "-m", &format!("all={count}")]))?;
            wait_for_sleepers(run.pid(), count)?;
            starts[index].push(run.elapsed().as_secs_f64());
            let since = Instant::now();
            run.terminate()?;
            let status = run.finish()?.status;
            times[index].push(since.elapsed().as_secs_f64());
            codes[index].push(status.code());
        }
    }
    let ratios: Vec<f64> = times[0].iter().zip(&times[3]).map(|(few, most)| most / few).collect();
    for (index, count) in COUNTS.into_iter().enumerate() {
        let zeros = codes[index].iter().filter(|code| **code == Some(0)).count();
        let [time, start] = [&mut times[index], &mut starts[index]].map(std::mem::take);
        rows.push(Row::new(format!("{count} `sleep 1000` up"), SECONDS, start));
        let row = Row::new(format!("ganger gone after TERM to {count}"), SECONDS, time);
        rows.push(row.note(format!("exit code 0 in {zeros} of {runs} runs")));
    }
    let row = Row::new("4,000 against 500", TIMES_LONGER, ratios);
    rows.push(row.gate_median(12.0).note("8 is in proportion"));
    Ok(rows)
}
