//! How soon a running app has changed its formation.

use std::io;
use std::time::{Instant, SystemTime};

use crate::death::{LOOK, sleepers};
use crate::report::{Row, SECONDS};
use crate::runner::{Run, Runner, Stage, wait_a_little};
use crate::worker;

const MANY: usize = 50;

/// From the start of `ganger scale` until so many live.
pub(crate) fn scale(runs: usize) -> io::Result<Vec<Row>> {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        // No other process sleeps for so long.
        let time = format!("1000.{}", worker::nanos(SystemTime::now()));
        let stage = Stage::new([format!("sleep {time}")])?;
        let run = Run::start(stage.command(&Runner::ganger()).args(["-s", SOCKET]))?;
        wait_for(1, &time)?;
        up.push(to(MANY, &stage, &time)?);
        down.push(to(1, &stage, &time)?);
        run.terminate()?;
        run.finish()?;
    }
    Ok(vec![
        Row::new(format!("`ganger scale` from 1 process to {MANY}"), SECONDS, up),
        Row::new(format!("and from {MANY} back to 1"), SECONDS, down),
    ])
}

/// In the folder of the stage.
const SOCKET: &str = "socket";

fn to(count: usize, stage: &Stage, time: &str) -> io::Result<f64> {
    let runner = Runner { args: &["scale"], ..Runner::ganger() };
    let since = Instant::now();
    let mut scale = stage.command(&runner);
    let status = scale.args(["-s", SOCKET, &format!("all={count}")]).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("`ganger scale` failed: {status}")));
    }
    wait_for(count, time)?;
    Ok(since.elapsed().as_secs_f64())
}

fn wait_for(count: usize, time: &str) -> io::Result<()> {
    let since = Instant::now();
    while sleepers(time).len() != count {
        wait_a_little(since, LOOK)?;
    }
    Ok(())
}
