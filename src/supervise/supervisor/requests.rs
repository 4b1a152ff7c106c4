//! What somebody asks of a running app.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::Supervisor;
use crate::plan;
use crate::supervise::process::Process;
use crate::supervise::state::RestartMode;

impl Supervisor {
    pub(super) fn on_plan(
        &mut self,
        plan: Vec<Arc<plan::Process>>,
        pace: RestartMode,
        now: Instant,
    ) {
        if self.shutdown.is_some() {
            return;
        }
        let before = std::mem::take(&mut self.processes);
        let mut before: Vec<Option<Process>> = before.into_iter().map(Some).collect();
        let by_name: HashMap<String, usize> = before
            .iter()
            .enumerate()
            .filter_map(|(at, known)| Some((known.as_ref()?.name().to_owned(), at)))
            // The first of a name: behind the plan's own come those that it has no more.
            .rev()
            .collect();
        for process in plan {
            let known = by_name.get(&process.name).and_then(|at| before[*at].take());
            match known {
                Some(mut known) => {
                    if known.adopt(process, now, &mut self.actions) {
                        known.restart(pace, now, &mut self.actions);
                    }
                    self.processes.push(known);
                }
                None => self.add(process),
            }
        }
        for mut gone in before.into_iter().flatten() {
            gone.retire();
            self.processes.push(gone);
        }
        self.note_positions();
        self.stopped_by_user = self.is_unwanted();
    }

    pub(super) fn on_restart(&mut self, names: &[String], pace: RestartMode, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        let names = by_name(names);
        for process in self.processes.iter_mut().filter(|it| names.contains(it.name())) {
            process.restart(pace, now, &mut self.actions);
        }
    }

    pub(super) fn on_stop(&mut self, names: &[String]) {
        let names = by_name(names);
        for process in self.processes.iter_mut().filter(|it| names.contains(it.name())) {
            process.stop();
        }
        self.stopped_by_user = self.is_unwanted();
    }
}

fn by_name(names: &[String]) -> HashSet<&str> {
    names.iter().map(String::as_str).collect()
}
