//! Checks that the ports of a plan are free, before anything starts.

use std::path::Path;

use super::port_block::PortBlock;
use crate::notice::{Notice, PortConflict, PortsTaken};
use crate::plan::port::AutoBlock;
use crate::plan::sources::Sources;
use crate::plan::{self, Options, Plan};
use crate::supervise::port_conflict::port_conflicts;
use crate::supervise::port_scan::{Listening, listening};

/// A plan whose ports may be used.
#[derive(Debug)]
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
    let notices = report_conflicts(
        all,
        "free it, choose others with `--port`, or let ganger: `--port auto`",
    )?;
    Ok(ResolvedPorts { plan, notices, block: None })
}

/// Messages about ports in use. Fails if a process needs one, with this way out.
fn report_conflicts(all: Vec<PortConflict>, way_out: &str) -> anyhow::Result<Vec<Notice>> {
    if let Some(first) = all.iter().find(|conflict| conflict.required) {
        anyhow::bail!("{first} ({way_out})");
    }
    Ok(all.into_iter().map(|conflict| Notice::PortConflict { conflict }).collect())
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
        let plan = match Plan::new(sources, options) {
            // A type has a fixed port in it.
            Err(plan::Error::SamePort { .. }) => continue,
            plan => plan?,
        };
        let conflicts = port_conflicts(&plan.processes, listening);
        let (inside, fixed): (Vec<_>, Vec<_>) =
            conflicts.into_iter().partition(|conflict| block.contains(conflict.port));
        let mut notices =
            report_conflicts(fixed, "free it, or change `port` of this type in `ganger.toml`")?;
        if let Some(conflict) = inside.into_iter().next() {
            reason.get_or_insert(PortsTaken::InUse(conflict));
            continue;
        }
        let reserved = folder.map(|folder| PortBlock::reserve(folder, block)).transpose()?;
        if let Some(None) = reserved {
            reason.get_or_insert(PortsTaken::Reserved(usual.base()));
            continue;
        }
        notices.extend(reason.map(|reason| Notice::PortsMoved { reason, base }));
        return Ok(ResolvedPorts { plan, notices, block: reserved.flatten() });
    }
    anyhow::bail!("there is no free block of ports (choose one with `--port`)")
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
        let resolve_with = |config: &str, taken: &[u16]| {
            let config = Some(text("ganger.toml", config));
            let sources = Sources { config, ..sources.clone() };
            let mut options = Options { port: Some(Base::Auto), ..Options::default() };
            let usual = Plan::new(&sources, &options).unwrap().auto_block.unwrap();
            let socket = vec![Socket { inode: 1, uid: 0 }];
            let listening = taken.iter().map(|port| (*port, socket.clone())).collect();
            choose_block(usual, &sources, &mut options, &listening, Some(folder.path()))
        };
        let resolve = |taken: &[u16]| resolve_with("", taken);
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
        // Fixed ports are not those of a block: what uses one is named.
        let fixed = u32::from(usual) + 50;
        let config = format!("[process.worker]\nport = {fixed}\n[process.web]\nport = 9000\n");
        let message = resolve_with(&config, &[9000]).unwrap_err().to_string();
        let way_out = "free it, or change `port` of this type in `ganger.toml`";
        assert!(message.contains("port 9000") && message.contains(way_out), "{message}");
        let moved = resolve_with(&config, &[]).unwrap();
        assert_eq!((moved.plan.base_port, &moved.notices[..]), (Some(next(usual)), &[][..]));
        drop(moved);
        assert!(resolve(&(1024..=u16::MAX).collect::<Vec<_>>()).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
