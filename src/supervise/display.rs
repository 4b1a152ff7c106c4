//! How the output of processes is shown: names, their width and their colours.

use std::collections::HashMap;

use crate::logs::format::{Color, Label, Style, assign_colors};
use crate::plan::{self, Plan};
use crate::pty::WindowSize;

/// How the user wants output to be shown.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// The format of lines.
    pub style: Style,
    /// The colours of the types, in the order of the Procfile; if empty, ganger chooses.
    pub palette: Vec<Color>,
}

/// How the output of processes is shown under the present plan.
pub(super) struct Display {
    show: Show,
    /// The colour of each type.
    colors: HashMap<String, Color>,
}

impl Display {
    pub(super) fn new(show: Show, plan: &Plan) -> Self {
        let colors = colors_by_type(&show, plan);
        Self { show, colors }
    }

    /// Follows a new plan. Running processes keep their width, so none gets narrower.
    pub(super) fn apply_plan(&mut self, plan: &Plan) {
        self.colors = colors_by_type(&self.show, plan);
        let names = plan.processes.iter().map(|process| process.name.as_str());
        let width = self.show.style.fit_names(names).width.max(self.show.style.width);
        self.show.style.width = width;
    }

    /// What stands before the lines of a process; none, if its output is not shown.
    pub(super) fn label(&self, process: &plan::ProcessPlan) -> Option<Label> {
        let color = self.colors.get(&process.process_type).copied().unwrap_or_default();
        process.shown.then(|| self.show.style.label(&process.name, color))
    }

    /// The size of a process's terminal beside the prefix of its lines. If the output of ganger is
    /// not a terminal, it is the usual size.
    pub(super) fn window_size(&self) -> WindowSize {
        let whole = WindowSize::of(std::io::stdout()).unwrap_or_default();
        whole.beside(self.show.style.prefix_width())
    }

    /// The colour of each type.
    pub(super) fn colors(&self) -> HashMap<String, Color> {
        self.colors.clone()
    }
}

fn colors_by_type(show: &Show, plan: &Plan) -> HashMap<String, Color> {
    let types = plan.types();
    let colors = assign_colors(&types, &show.palette);
    types.into_iter().map(str::to_owned).zip(colors).collect()
}
