//! Whether the ports of a plan are free, before anything starts.

use crate::notice::Notice;
use crate::plan::sources::Sources;
use crate::plan::{Options, Plan};
use crate::supervise::listeners::{Listening, listening};
use crate::supervise::taken::{Taken, taken};

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
    let all = taken(&plan.processes, &listening);
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
