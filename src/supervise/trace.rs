//! What `--verbose` shows of the engine: events and actions, by the names of processes.
//!
//! Nothing of a plan is shown but names, ports and commands: values of variables may be secret.

use nix::sys::signal::Signal;
use tracing::{Level, debug, enabled};

use super::supervisor::{Action, Event, ProcessId, Supervisor};
use crate::changes::Changes;

/// Shows an event before the supervisor handles it.
pub(super) fn event(event: &Event, supervisor: &Supervisor) {
    if !enabled!(Level::DEBUG) {
        return;
    }
    let name = |id: &ProcessId| supervisor.name_of(*id).unwrap_or("(unknown)");
    match event {
        Event::Tick => debug!("deadline"),
        Event::Spawned(id, pid) => debug!(process = name(id), life = id.life, pid, "spawned"),
        Event::NeedsProbed(id, missing) => debug!(process = name(id), ?missing, "needs probed"),
        Event::FailureLogged(id, _) => debug!(process = name(id), "failure in the output"),
        Event::Ready(id) => debug!(process = name(id), "probe succeeded"),
        Event::ProbeFailed(id, failure) => debug!(process = name(id), %failure, "probe failed"),
        Event::Exited(id, exit, left) => {
            debug!(process = name(id), life = id.life, %exit, left = left.len(), "ended");
        }
        Event::GroupEmpty(id) => debug!(process = name(id), "group empty"),
        Event::Orphans(left) => debug!(count = left.len(), "orphans"),
        Event::Swept(left) => debug!(left = left.len(), "swept"),
        Event::StopSignal(signal) => debug!(%signal, "ganger got a signal"),
        Event::StdoutClosed => debug!("stdout closed"),
        Event::Quit => debug!("request: quit"),
    }
}

/// Shows an action before the engine carries it out. A message shows itself.
pub(super) fn action(action: &Action, supervisor: &Supervisor) {
    if !enabled!(Level::DEBUG) {
        return;
    }
    let name = |id: &ProcessId| supervisor.name_of(*id).unwrap_or("(unknown)");
    match action {
        Action::ProbeNeeds(id, _) => debug!(process = name(id), "probing needs"),
        Action::Spawn(id, plan) => {
            let (command, port) = (plan.command.as_str(), plan.port);
            debug!(process = plan.name.as_str(), life = id.life, command, port, "spawning");
        }
        Action::Probe(id, plan) => debug!(process = name(id), ready = ?plan.ready, "probing"),
        Action::CancelProbe(id) => debug!(process = name(id), "probes cancelled"),
        Action::Stop(id, signal) => debug!(process = name(id), %signal, "signalling its group"),
        Action::StopDescendants(id, signal) => {
            debug!(process = name(id), %signal, "signalling its descendants");
        }
        Action::StopOrphans => debug!("stopping orphans"),
        Action::Sweep => debug!("killing what is left"),
        Action::Notify(_) => {}
    }
}

/// Shows a signal that is passed on to a process.
pub(super) fn signal(id: ProcessId, signal: Signal, supervisor: &Supervisor) {
    debug!(process = supervisor.name_of(id).unwrap_or("(unknown)"), %signal, "passing a signal on");
}

/// Shows what a request has changed.
pub(super) fn request(name: &str, changes: &Changes) {
    let Changes { started, stopped, restarted, adjusted, signalled } = changes;
    debug!(?started, ?stopped, ?restarted, ?adjusted, ?signalled, "request: {name}");
}
