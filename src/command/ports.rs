//! Checks that the ports of a plan are free, before anything starts.

use std::path::Path;

use super::port_block::PortBlock;
use crate::notice::{Notice, PortsTaken};
use crate::plan::port::AutoBlock;
use crate::plan::sources::Sources;
use crate::plan::{Options, Plan};
use crate::supervise::port_conflict::port_conflicts;
use crate::supervise::port_scan::{Listening, listening};

/// A plan whose ports may be used.
pub(super) struct ResolvedPorts {
    pub(super) plan: Plan,
    /// Messages about ports.
    pub(super) notices: Vec<Notice>,
    /// The ports that are reserved as long as ganger runs.
    pub(super) block: Option<PortBlock>,
}

/// Checks the ports of the plan. If the base port is `auto`, it is moved to a block of free ports,
/// which is reserved in the runtime folder `folder`. Fails if a process needs a port in use.
pub(super) fn resolve_ports(
    plan: Plan,
    sources: &Sources,
    options: &mut Options,
    folder: Option<&Path>,
) -> anyhow::Result<ResolvedPorts> {
    if plan.processes.iter().all(|process| process.port.is_none()) {
        return Ok(ResolvedPorts { plan, notices: Vec::new(), block: None });
    }
    let listening = listening();
    if let Some(block) = plan.auto_block {
        return choose_block(block, sources, options, &listening, folder);
    }
    let all = port_conflicts(&plan.processes, &listening);
    if let Some(first) = all.iter().find(|conflict| conflict.required) {
        anyhow::bail!(
            "{first} (free it, choose others with `--port`, or let ganger: `--port auto`)"
        );
    }
    let notices = all.into_iter().map(|conflict| Notice::PortConflict { conflict }).collect();
    Ok(ResolvedPorts { plan, notices, block: None })
}

/// The first block, from this one on, that no program uses and no ganger of this user has.
fn choose_block(
    usual: AutoBlock,
    sources: &Sources,
    options: &mut Options,
    listening: &Listening,
    folder: Option<&Path>,
) -> anyhow::Result<ResolvedPorts> {
    let mut reason = None;
    for block in usual.and_others() {
        let base = block.base();
        options.auto_base = Some(base);
        let plan = Plan::new(sources, options)?;
        if let Some(conflict) = port_conflicts(&plan.processes, listening).into_iter().next() {
            reason.get_or_insert(PortsTaken::InUse(conflict));
            continue;
        }
        let reserved = folder.map(|folder| PortBlock::reserve(folder, block)).transpose();
        let Some(block) = reserved? else {
            return Ok(ResolvedPorts { plan, notices: moved(reason, base), block: None });
        };
        if block.is_some() {
            return Ok(ResolvedPorts { plan, notices: moved(reason, base), block });
        }
        reason.get_or_insert(PortsTaken::Reserved(usual.base()));
    }
    anyhow::bail!("there is no free block of ports (choose one with `--port`)")
}

fn moved(reason: Option<PortsTaken>, base: u16) -> Vec<Notice> {
    reason.map(|reason| Notice::PortsMoved { reason, base }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::port::Base;
    use crate::plan::sources::{EnvFiles, SourceFile};
    use crate::supervise::port_scan::Socket;

    #[test]
    fn block_in_use_or_reserved_is_skipped() {
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
        let folder = tempfile::tempdir().unwrap();
        let resolve = |taken: &[u16]| {
            let mut options = Options { port: Some(Base::Auto), ..Options::default() };
            let usual = Plan::new(&sources, &options).unwrap().auto_block.unwrap();
            let socket = vec![Socket { inode: 1, uid: 0 }];
            let listening = taken.iter().map(|port| (*port, socket.clone())).collect();
            choose_block(usual, &sources, &mut options, &listening, Some(folder.path()))
        };
        let first = resolve(&[]).unwrap();
        let usual = first.plan.base_port.unwrap();
        assert_eq!(first.notices, []);
        let next = |base: u16| if base + 300 < 32_000 { base + 100 } else { 10_000 };
        let second = resolve(&[]).unwrap();
        // The second hundred belongs to the first one, too.
        let base = next(next(usual));
        let reason = PortsTaken::Reserved(usual);
        assert_eq!(second.notices, [Notice::PortsMoved { reason, base }]);
        assert_eq!(second.plan.base_port, Some(base));
        drop((first, second));
        let third = resolve(&[usual + 100]).unwrap();
        let [Notice::PortsMoved { reason: PortsTaken::InUse(conflict), .. }] = &third.notices[..]
        else {
            panic!("{:?}", third.notices)
        };
        assert_eq!((&*conflict.process, conflict.port), ("worker.1", usual + 100));
        assert_eq!(third.plan.base_port, Some(next(next(usual))));
        drop(third);
        assert!(resolve(&(1024..=u16::MAX).collect::<Vec<_>>()).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
