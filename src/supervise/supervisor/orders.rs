//! What somebody asks of a running app.

use std::sync::Arc;
use std::time::Instant;

use super::Supervisor;
use crate::plan;
use crate::supervise::state::Pace;

impl Supervisor {
    pub(super) fn on_plan(&mut self, plan: Vec<Arc<plan::Process>>, pace: Pace, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        let mut before = std::mem::take(&mut self.processes);
        for process in plan {
            match before.iter().position(|known| known.name() == process.name) {
                Some(at) => {
                    let mut known = before.remove(at);
                    if known.adopt(process, now, &mut self.actions) {
                        known.restart(pace, now, &mut self.actions);
                    }
                    self.processes.push(known);
                }
                None => self.add(process),
            }
        }
        for mut gone in before {
            gone.retire();
            self.processes.push(gone);
        }
        self.told_down = self.is_unwanted();
    }

    pub(super) fn on_restart(&mut self, names: &[String], pace: Pace, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        for process in self
            .processes
            .iter_mut()
            .filter(|process| names.iter().any(|name| name == process.name()))
        {
            process.restart(pace, now, &mut self.actions);
        }
    }

    pub(super) fn on_stop(&mut self, names: &[String]) {
        for process in self
            .processes
            .iter_mut()
            .filter(|process| names.iter().any(|name| name == process.name()))
        {
            process.stop();
        }
        self.told_down = self.is_unwanted();
    }
}
