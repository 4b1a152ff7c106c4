//! Where the parts of the screen are.

use ratatui::layout::{Constraint, Layout, Rect};

/// From this width on, the list stands beside the output, else above it.
const MIN_COLUMNS_BESIDE: u16 = 130;
/// The width of the list beside the output.
const LIST_COLUMNS: u16 = 62;
/// How much of the height the list takes above the output, at most.
const MAX_LIST_SHARE: (u16, u16) = (2, 5);
/// Where the parts of the screen are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Regions {
    pub(super) header: Rect,
    pub(super) list: Rect,
    /// The line above the output.
    pub(super) title: Rect,
    pub(super) output: Rect,
    pub(super) footer: Rect,
}

impl Regions {
    /// The regions of a screen of this size that lists so many processes.
    pub(super) fn new(area: Rect, processes: usize) -> Self {
        let [header, body, footer] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
                .areas(area);
        let (list, right) = if area.width >= MIN_COLUMNS_BESIDE {
            let [list, _gap, right] = Layout::horizontal([
                Constraint::Length(LIST_COLUMNS),
                Constraint::Length(1),
                Constraint::Min(0),
            ])
            .areas(body);
            (list, right)
        } else {
            // A heading, all of them, and each process.
            let rows = u16::try_from(processes).unwrap_or(u16::MAX).saturating_add(2);
            let most = body.height * MAX_LIST_SHARE.0 / MAX_LIST_SHARE.1;
            let [list, right] =
                Layout::vertical([Constraint::Length(rows.min(most)), Constraint::Min(0)])
                    .areas(body);
            (list, right)
        };
        let [title, output] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(right);
        Self { header, list, title, output, footer }
    }
}
