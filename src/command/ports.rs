//! Checks that the ports of a plan are free, before anything starts.

use crate::notice::Notice;
use crate::plan::sources::Sources;
use crate::plan::{Options, Plan};
use crate::supervise::port_conflict::port_conflicts;
use crate::supervise::port_scan::{Listening, listening};

/// Checks the ports of the plan, and with `anywhere` moves them to a base where all are free.
/// Returns the plan and the messages about conflicts. Fails if a process needs a port in use.
pub(super) fn resolve_ports(
    plan: Plan,
    sources: &Sources,
    options: &mut Options,
    anywhere: bool,
) -> anyhow::Result<(Plan, Vec<Notice>)> {
    if plan.processes.iter().all(|process| process.port.is_none()) {
        return Ok((plan, Vec::new()));
    }
    let listening = listening();
    let all = port_conflicts(&plan.processes, &listening);
    let Some(first) = all.iter().find(|conflict| conflict.required).or(all.first()) else {
        return Ok((plan, Vec::new()));
    };
    if anywhere {
        let conflict = first.clone();
        let (plan, base) = find_free_base(&plan, sources, options, &listening)?;
        return Ok((plan, vec![Notice::PortsMoved { conflict, base }]));
    }
    if first.required {
        anyhow::bail!(
            "{first} (free it, choose others with `--port`, or let ganger: `--port auto`)"
        );
    }
    let notices = all.into_iter().map(|conflict| Notice::PortConflict { conflict }).collect();
    Ok((plan, notices))
}

/// How far the base moves at a time, and the lowest base: ports below need a privilege.
const BLOCK_SIZE: u32 = 1000;
const MIN_PORT: u32 = 1024;

/// The first higher base at which all ports are free, or else the first lower one.
fn find_free_base(
    plan: &Plan,
    sources: &Sources,
    options: &mut Options,
    listening: &Listening,
) -> anyhow::Result<(Plan, u16)> {
    let first = u32::from(plan.base_port.unwrap_or_default());
    let above = (first + BLOCK_SIZE..=u32::from(u16::MAX)).step_by(BLOCK_SIZE as usize);
    let lowest = MIN_PORT + (first + BLOCK_SIZE - MIN_PORT % BLOCK_SIZE) % BLOCK_SIZE;
    let below = (lowest..first).step_by(BLOCK_SIZE as usize);
    for base in above.chain(below).filter_map(|base| u16::try_from(base).ok()) {
        options.port = Some(base);
        // Near 65535 there may not be enough ports for all.
        let Ok(moved) = Plan::new(sources, options) else { continue };
        let mut ports = moved.processes.iter().filter_map(|process| process.port);
        if ports.all(|port| !listening.contains_key(&port)) {
            return Ok((moved, base));
        }
    }
    anyhow::bail!("there is no free block of ports (choose one with `--port`)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sources::{EnvFiles, SourceFile};
    use crate::supervise::port_scan::Socket;

    #[test]
    fn ports_move_up_and_then_begin_again_below() {
        let text = |name: &str, text: &str| SourceFile { name: name.into(), bytes: text.into() };
        let sources = Sources {
            root: "/app".into(),
            procfile: text("Procfile", "web: serve\nworker: work\n"),
            config: None,
            env: EnvFiles::Named(Vec::new()),
            procfile_is_default: true,
            unread_env: None,
            other_runner_files: Vec::new(),
            environment: Vec::new(),
        };
        let moved = |base: u16, in_use: &[u16]| {
            let mut options = Options { port: Some(base), ..Options::default() };
            let plan = Plan::new(&sources, &options).unwrap();
            let socket = vec![Socket { inode: 1, uid: 0 }];
            let listening = in_use.iter().map(|port| (*port, socket.clone())).collect();
            find_free_base(&plan, &sources, &mut options, &listening).ok().map(|(_, base)| base)
        };
        assert_eq!(moved(5000, &[5000]), Some(6000));
        assert_eq!(moved(5000, &[5000, 6100]), Some(7000));
        assert_eq!(moved(64_900, &[64_900]), Some(1900), "the worker's would be past the end");
        assert_eq!(moved(64_000, &[64_000, 65_000]), Some(2000));
        assert_eq!(moved(5000, &(1024..=u16::MAX).collect::<Vec<_>>()), None);
    }
}
