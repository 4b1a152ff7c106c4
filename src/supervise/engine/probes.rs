//! What the engine looks out for, beside what the keeper reports: whether processes
//! are ready, whether what they need is there, and whether files change.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::exit::Exit;
use crate::keeper::protocol::{ChildId, Request, Scope};
use crate::notice::Notice;
use crate::plan;
use crate::plan::ready::Ready;
use crate::supervise::port_conflict::PortConflict;
use crate::supervise::readiness::ProbeResult;
use crate::supervise::spawn_request;
use crate::supervise::supervisor::{Event, ProcessId, RestartMode, Status};
use crate::supervise::watch::{FileChange, Watch};

/// The pause before a command is asked again whether a process is ready.
const CHECK_AGAIN_IN: Duration = Duration::from_millis(500);

impl Engine {
    /// Watches the files that the plan names.
    pub(super) fn watch(&mut self) {
        let (root, processes) = (&self.plan.root, &self.plan.processes);
        if self.watch.as_ref().is_none_or(|watch| !watch.is_for(root, processes)) {
            self.watch = Watch::start(root, processes, self.seen.0.clone());
        }
    }

    pub(super) fn on_file_change(&mut self, seen: FileChange) {
        match seen {
            FileChange::WatchFailed(reason) => {
                self.logs.print_message(Notice::WatchFailed { reason });
            }
            FileChange::Changed(kinds, file) => {
                let file =
                    file.strip_prefix(&self.plan.root).unwrap_or(&file).display().to_string();
                // What was stopped by hand stays so; what has failed or is done begins anew.
                let status = self.supervisor.status().filter(Status::restarts_on_file_change);
                let status = status.filter(|status| kinds.contains(&status.plan.kind));
                let names: Vec<String> = status.map(|status| status.plan.name.clone()).collect();
                if !names.is_empty() {
                    self.logs.print_message(Notice::FileChanged { file, names: names.clone() });
                    self.handle_event(Event::Restart(names, RestartMode::AtOnce));
                }
            }
        }
    }

    pub(super) fn probe(&mut self, id: ProcessId, process: Arc<plan::Process>) {
        if let Some(pid) = self.supervisor.find(id).and_then(|status| status.pid) {
            self.probes.probe(id, &process, pid);
        }
        match &process.ready {
            Ready::Log(text) => self.logs.watch_for_text(ChildId::from(id).0, text),
            Ready::Command(_) => drop(self.checks.insert(id, process)),
            Ready::Started | Ready::Port | Ready::Http(_) => {}
        }
    }

    /// It has said what was awaited of it, if that is still what makes it ready.
    pub(super) fn on_matched(&mut self, id: ProcessId) {
        let status = self.supervisor.find(id);
        if status.is_some_and(|status| matches!(status.plan.ready, Ready::Log(_))) {
            self.on_ready(id);
        }
    }

    pub(super) fn on_probe_result(&mut self, found: ProbeResult) {
        match found {
            ProbeResult::NeedsChecked(id, unmet) => {
                self.handle_event(Event::NeedsChecked(id, unmet));
            }
            ProbeResult::Ready(id) => self.on_ready(id),
            ProbeResult::WrongPort(id, found) => {
                if let Some(status) = self.supervisor.find(id) {
                    let (name, given) = (status.plan.name.clone(), status.plan.port);
                    let given = given.unwrap_or_default();
                    self.logs.print_message(Notice::WrongPort { name, given, found });
                }
            }
            ProbeResult::PortConflict(id, owner) => {
                if let Some(status) = self.supervisor.find(id) {
                    let (process, port) = (status.plan.name.clone(), status.plan.port);
                    let (port, owner) = (port.unwrap_or_default(), Some(owner));
                    let conflict = PortConflict { process, port, owner, required: true };
                    self.logs.print_message(Notice::PortConflict { reason: conflict.to_string() });
                }
            }
            ProbeResult::Failed(id, outcome) => self.handle_event(Event::ProbeFailed(id, outcome)),
            ProbeResult::CommandDue(id) => {
                if self.check(id).is_err() {
                    self.check_again(id);
                }
            }
            ProbeResult::CommandTimedOut(id) => self.end_check(id),
        }
    }

    pub(super) fn on_ready(&mut self, id: ProcessId) {
        self.cancel_probe(id);
        self.handle_event(Event::Ready(id));
    }

    /// Finds out no more for a process.
    pub(super) fn cancel_probe(&mut self, id: ProcessId) {
        self.probes.cancel(id);
        if self.checks.remove(&id).is_some() {
            self.end_check(id);
        }
    }

    /// Runs the command that says whether a process is ready; what it writes is nobody's
    /// business.
    pub(super) fn check(&mut self, id: ProcessId) -> io::Result<()> {
        let Some(process) = self.checks.get(&id) else { return Ok(()) };
        let Ready::Command(command) = &process.ready else { return Ok(()) };
        let null = File::options().write(true).open("/dev/null")?;
        let spawn = spawn_request::new(id.check(), process, command, &self.plan.shell, false)?;
        self.keeper.send_request(Request::Spawn(spawn), vec![null.into()]);
        Ok(())
    }

    pub(super) fn end_check(&mut self, id: ProcessId) {
        let (id, signal, scope) = (id.check(), libc::SIGKILL, Scope::All);
        self.keeper.send_request(Request::Stop { id, signal, scope }, Vec::new());
    }

    /// The command that says whether a process is ready has ended, or never began.
    pub(super) fn on_checked(&mut self, id: ProcessId, exit: Exit) {
        // What it has left behind has nothing left to say.
        self.end_check(id);
        let Some(process) = self.checks.get(&id) else { return };
        if exit.failed() {
            if let Ready::Command(command) = &process.ready {
                let outcome = format!("`{command}` {exit}");
                self.handle_event(Event::ProbeFailed(id, outcome));
            }
            self.check_again(id);
        } else {
            self.on_ready(id);
        }
    }

    pub(super) fn check_again(&mut self, id: ProcessId) {
        if let Some(process) = self.checks.get(&id) {
            self.probes.check_in(CHECK_AGAIN_IN, id, process);
        }
    }
}
