//! Whether the ports of a plan are free, before anything starts.

use std::fmt;

use crate::notice::Notice;
use crate::plan::ready::Ready;
use crate::plan::sources::Sources;
use crate::plan::{Options, Plan};
use crate::supervise::listeners::{Listening, listening};

/// A port that a process is to have and somebody else has.
struct Taken {
    process: String,
    port: u16,
    /// Who has it, if this user may know.
    holder: Option<String>,
    /// Whether the process is nothing without it.
    counts: bool,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, port, holder, .. } = self;
        write!(f, "port {port}, which {process} is to have, is taken")?;
        holder.as_ref().map_or(Ok(()), |holder| write!(f, " by {holder}"))
    }
}

/// The plan, with its ports where they are free if they may be anywhere, and what is
/// to be said of that. Fails where a process would be nothing without its port.
pub(super) fn settle(
    plan: Plan,
    sources: &Sources,
    options: &mut Options,
    anywhere: bool,
) -> anyhow::Result<(Plan, Vec<Notice>)> {
    if plan.processes.iter().all(|process| process.port.is_none()) {
        return Ok((plan, Vec::new()));
    }
    let listening = listening();
    let all = taken(&plan, &listening);
    let Some(first) = all.iter().find(|taken| taken.counts).or(all.first()) else {
        return Ok((plan, Vec::new()));
    };
    if anywhere {
        let reason = first.to_string();
        let (plan, base) = move_away(&plan, sources, options, &listening)?;
        return Ok((plan, vec![Notice::PortsMoved { reason, base }]));
    }
    if first.counts {
        anyhow::bail!(
            "{first} (free it, choose others with `--port`, or let ganger: `--port auto`)"
        );
    }
    let notice = |taken: &Taken| Notice::PortTaken { reason: taken.to_string() };
    let notices = all.iter().map(notice).collect();
    Ok((plan, notices))
}

fn taken(plan: &Plan, listening: &Listening) -> Vec<Taken> {
    let mut census = None;
    let mut all = Vec::new();
    for process in &plan.processes {
        let Some(port) = process.port.filter(|port| listening.contains_key(port)) else { continue };
        let counts = process.listen || matches!(process.ready, Ready::Port | Ready::Http(_));
        let holder = holder(&mut census, port, listening);
        all.push(Taken { process: process.name.clone(), port, holder, counts });
    }
    all
}

#[cfg(target_os = "linux")]
type Census = Option<crate::supervise::listeners::Census>;
#[cfg(not(target_os = "linux"))]
type Census = Option<()>;

#[cfg(target_os = "linux")]
fn holder(census: &mut Census, port: u16, listening: &Listening) -> Option<String> {
    let census = census.get_or_insert_with(crate::supervise::listeners::Census::take);
    census.holder(port, listening).map(|holder| holder.to_string())
}

#[cfg(not(target_os = "linux"))]
fn holder(_: &mut Census, _: u16, _: &Listening) -> Option<String> {
    None
}

/// How far the ports move at a time.
const BLOCK: u16 = 1000;

/// The first base above at which all ports are free.
fn move_away(
    plan: &Plan,
    sources: &Sources,
    options: &mut Options,
    listening: &Listening,
) -> anyhow::Result<(Plan, u16)> {
    let mut base = plan.base_port;
    while let Some(next) = base.and_then(|base| base.checked_add(BLOCK)) {
        options.port = Some(next);
        let moved = Plan::new(sources, options)?;
        if moved
            .processes
            .iter()
            .all(|it| it.port.is_none_or(|port| !listening.contains_key(&port)))
        {
            return Ok((moved, next));
        }
        base = Some(next);
    }
    anyhow::bail!("there is no free block of ports above the first")
}
