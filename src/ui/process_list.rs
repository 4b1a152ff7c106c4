//! The processes, as they were described last, and which of them is selected.

use std::collections::HashMap;
use std::time::Instant;

use crate::control::api::ProcessStatus;

/// What is selected.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Selection {
    /// All processes.
    #[default]
    All,
    /// The process of this name.
    One(String),
}

/// The CPU time of a process when it was described last.
#[derive(Clone, Copy, Debug)]
struct Measured {
    pid: Option<i32>,
    cpu: f64,
    at: Instant,
    /// In percent of a core.
    load: Option<f64>,
}

/// The processes, and which of them is selected.
#[derive(Debug, Default)]
pub(super) struct ProcessList {
    all: Vec<ProcessStatus>,
    measured: HashMap<String, Measured>,
    /// Only processes whose name contains this are shown.
    pub(super) filter: String,
    pub(super) selected: Selection,
}

impl ProcessList {
    /// Takes a new description.
    pub(super) fn update(&mut self, now: Instant, all: Vec<ProcessStatus>) {
        let measure = |process: &ProcessStatus| {
            let before = self.measured.get(&process.name);
            let before = before.filter(|it| it.pid == process.pid && process.pid.is_some());
            let load = before.and_then(|before| {
                let seconds = now.saturating_duration_since(before.at).as_secs_f64();
                (seconds > 0.0).then(|| (process.cpu - before.cpu).max(0.0) / seconds * 100.0)
            });
            let measured = Measured { pid: process.pid, cpu: process.cpu, at: now, load };
            (process.name.clone(), measured)
        };
        self.measured = all.iter().map(measure).collect();
        self.all = all;
        self.keep_selection();
    }

    /// All processes, also those that the filter hides.
    pub(super) fn all(&self) -> &[ProcessStatus] {
        &self.all
    }

    /// The processes that the filter shows.
    pub(super) fn shown(&self) -> impl Iterator<Item = &ProcessStatus> {
        self.all.iter().filter(|process| process.name.contains(&self.filter))
    }

    /// The CPU load of a process in percent of a core, if it is known yet.
    pub(super) fn load(&self, name: &str) -> Option<f64> {
        self.measured.get(name)?.load
    }

    /// The process that is selected, if it is one and still there.
    pub(super) fn selected(&self) -> Option<&ProcessStatus> {
        match &self.selected {
            Selection::All => None,
            Selection::One(name) => self.all.iter().find(|process| process.name == *name),
        }
    }

    /// The place of the selection among the rows: that of all is the first.
    pub(super) fn row(&self) -> usize {
        match &self.selected {
            Selection::All => 0,
            Selection::One(name) => {
                self.shown().position(|process| process.name == *name).map_or(0, |at| at + 1)
            }
        }
    }

    /// Selects the row that is so many rows further down.
    pub(super) fn move_by(&mut self, rows: isize) {
        let row = self.row().saturating_add_signed(rows);
        self.select_row(row);
    }

    pub(super) fn select_row(&mut self, row: usize) {
        let last = self.shown().count();
        let at = row.min(last).checked_sub(1);
        self.selected = match at.and_then(|at| self.shown().nth(at)) {
            Some(process) => Selection::One(process.name.clone()),
            None => Selection::All,
        };
    }

    pub(super) fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.keep_selection();
    }

    /// If the selected process is gone, all are selected.
    fn keep_selection(&mut self) {
        if let Selection::One(name) = &self.selected
            && !self.shown().any(|process| process.name == *name)
        {
            self.selected = Selection::All;
        }
    }
}
