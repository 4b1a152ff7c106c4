//! Draws the model.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};
use unicode_width::UnicodeWidthStr;

use super::keys::HELP;
use super::model::{Input, Mode, Model, Question};
use super::output::find_in;
use super::process_list::Selection;
use super::regions::Regions;
use super::spans;
use crate::control::api::{ProcessStatus, State};
use crate::notice::escape_controls;
use crate::panics;

/// The least width of a name.
const MIN_NAME_COLUMNS: usize = 8;
/// The width of a state: what it waits for may take more.
const MIN_STATE_COLUMNS: usize = 13;
const MAX_STATE_COLUMNS: usize = 40;
/// The width of the other columns of the list, and of the gaps.
const OTHER_COLUMNS: usize = 37;

/// The widths of the columns that depend on the processes.
#[derive(Clone, Copy, Debug)]
struct Widths {
    name: usize,
    state: usize,
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame, model: &Model) {
    let regions = Regions::new(frame.area(), model.list.shown().count());
    frame.render_widget(Paragraph::new(header(model, regions.header.width)), regions.header);
    frame.render_widget(Paragraph::new(list(model, regions.list)), regions.list);
    frame.render_widget(Paragraph::new(title(model, regions.title.width)), regions.title);
    draw_output(frame, model, regions.output);
    frame.render_widget(Paragraph::new(footer(model)), regions.footer);
    if model.mode == Mode::Help {
        draw_help(frame);
    }
}

/// Draws the output. A panic costs one blank region.
fn draw_output(frame: &mut Frame, model: &Model, area: Rect) {
    let lines = || -> Vec<Line> {
        let rows = model.output.visible(area.width.into());
        let find = |text: &str| find_in(text, &model.output.pattern);
        rows.iter().map(|row| spans::line(row, find)).collect()
    };
    let mut drawn = |lines: Vec<Line>| frame.render_widget(Paragraph::new(lines), area);
    if panics::catch(|| drawn(lines())).is_none() {
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new("this output can't be shown"), area);
    }
}

fn header(model: &Model, columns: u16) -> Line<'static> {
    let all = model.list.all();
    let up = all.iter().filter(|process| process.state == State::Up).count();
    let counts = format!("{up} of {} up ", all.len());
    let place = format!(" ganger  {}", escape_controls(&model.settings.root));
    let room = usize::from(columns).saturating_sub(counts.width());
    let text = format!("{:<room$}{counts}", cut(&place, room));
    Line::styled(text, Style::new().add_modifier(Modifier::REVERSED))
}

/// The list of processes, as far as there is room for it around the selected one.
fn list(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let names = model.list.shown().map(|process| process.name.width());
    let room = usize::from(area.width).saturating_sub(OTHER_COLUMNS);
    let most = room.saturating_sub(MIN_STATE_COLUMNS).max(MIN_NAME_COLUMNS);
    let name = names.max().unwrap_or_default().clamp(MIN_NAME_COLUMNS, most);
    let most = room.saturating_sub(name).clamp(MIN_STATE_COLUMNS, MAX_STATE_COLUMNS);
    let states = model.list.shown().map(|process| process.state_text().width());
    let state = states.max().unwrap_or_default().clamp(MIN_STATE_COLUMNS, most);
    let widths = Widths { name, state };
    let heading = format!(
        "  {:<name$}  {:<state$}  {:>5}  {:>5}  {:>7}  {:>8}",
        "NAME", "STATE", "PORT", "CPU", "MEMORY", "RESTARTS"
    );
    let mut lines = vec![Line::styled(heading, Style::new().add_modifier(Modifier::DIM))];
    let rows = usize::from(area.height).saturating_sub(1);
    let selected = model.list.row();
    let first = (selected + 1).saturating_sub(rows);
    let all = (first == 0).then(|| all_row(model));
    let skipped = first.saturating_sub(1);
    let processes = model.list.shown().skip(skipped).map(|process| row(model, process, widths));
    for (at, line) in all.into_iter().chain(processes).take(rows).enumerate() {
        let is_selected = first + at == selected;
        let mark = if is_selected { "> " } else { "  " };
        let mut line: Line = [vec![Span::raw(mark)], line.spans].concat().into();
        if is_selected {
            line = line.style(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED));
        }
        lines.push(line);
    }
    lines
}

fn all_row(model: &Model) -> Line<'static> {
    let filter = &model.list.filter;
    let text = if filter.is_empty() {
        "all".to_owned()
    } else {
        format!("all   (the list shows names with `{filter}`)")
    };
    Line::raw(text)
}

fn row(model: &Model, process: &ProcessStatus, widths: Widths) -> Line<'static> {
    let color = match process.state {
        State::Up if process.ready => Color::Green,
        State::Up | State::Starting | State::Waiting | State::Stopping => Color::Yellow,
        State::Backoff | State::Killed | State::Stuck => Color::Red,
        State::Down => Color::Reset,
    };
    let style = if model.settings.color { Style::new().fg(color) } else { Style::new() };
    let is_running = process.pid.is_some();
    let load = model.list.load(&process.name).filter(|_| is_running);
    let port = process.port.map(|port| port.to_string()).unwrap_or_default();
    let load = load.map(|load| format!("{load:.0}%")).unwrap_or_default();
    let memory = if is_running { megabytes(process.memory) } else { String::new() };
    let Widths { name, state } = widths;
    let state_text = cut(&escape_controls(&process.state_text()), state);
    vec![
        Span::raw(format!("{:<name$}  ", cut(&process.name, name))),
        Span::styled(format!("{state_text:<state$}"), style),
        Span::raw(format!("  {port:>5}  {load:>5}  {memory:>7}  {:>8}", process.restarts)),
    ]
    .into()
}

#[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1}M", bytes as f64 / f64::from(1 << 20))
}

/// The line above the output: what it is of, and which part is shown.
fn title(model: &Model, columns: u16) -> Line<'static> {
    let what = match &model.list.selected {
        Selection::All => "all".to_owned(),
        Selection::One(name) => {
            let is_down = |it: &&ProcessStatus| it.pid.is_none();
            let exit = model.list.selected().filter(is_down).and_then(|it| it.last_exit.as_ref());
            exit.map_or(name.clone(), |exit| format!("{name} {}", escape_controls(exit)))
        }
    };
    let below = model.output.lines_below();
    let place = if model.output.is_following() {
        String::new()
    } else {
        format!(" {below} lines below (End follows)")
    };
    let dropped = match model.output.dropped() {
        0 => String::new(),
        dropped => format!(" {dropped} older lines dropped"),
    };
    let gap = if place.is_empty() && dropped.is_empty() { "" } else { " " };
    let text = format!("── {what} ──{place}{dropped}{gap}");
    let columns = usize::from(columns);
    let text = cut(&text, columns);
    let line = "─".repeat(columns.saturating_sub(text.width()));
    Line::styled(format!("{text}{line}"), Style::new().add_modifier(Modifier::DIM))
}

fn footer(model: &Model) -> Line<'static> {
    match &model.mode {
        Mode::Input(Input::Search, text) => {
            format!("/{text}\u{2588}  (Enter: search, Esc: back)").into()
        }
        Mode::Input(Input::Filter, text) => {
            format!("names with: {text}\u{2588}  (Enter, Esc: all)").into()
        }
        Mode::Confirm(question) => {
            let text = match question {
                Question::RestartAll => "restart all processes?",
                Question::StopAll => "stop all processes? (ganger stays up)",
                Question::Quit => "stop everything and end ganger?",
            };
            Line::styled(format!("{text} y, or any other key"), Modifier::BOLD)
        }
        Mode::Commands | Mode::Help => match model.note() {
            Some(note) => Line::raw(escape_controls(note).into_owned()),
            None => Line::styled(
                "? help  ↑↓ select  r restart  s stop/start  + - scale  / search  q leave",
                Modifier::DIM,
            ),
        },
    }
}

fn draw_help(frame: &mut Frame) {
    let keys = HELP.iter().map(|(key, _)| key.width()).max().unwrap_or_default();
    let line = |(key, text): &(&'static str, &'static str)| {
        let key = Span::styled(format!(" {key:<keys$}  "), Modifier::BOLD);
        Line::from(vec![key, Span::raw(*text)])
    };
    let lines: Vec<Line> = HELP.iter().map(line).collect();
    let width = lines.iter().map(Line::width).max().unwrap_or_default() + 3;
    let size = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let area = frame.area();
    let (width, height) = (size(width).min(area.width), size(lines.len() + 2).min(area.height));
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" keys: any key closes this ");
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// The beginning of a text that fits.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut shown = String::new();
    for char in text.chars() {
        let mut longer = shown.clone();
        longer.push(char);
        if longer.width() >= columns {
            break;
        }
        shown = longer;
    }
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    use hyper::body::Bytes;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use crate::ui::model::Event;
    use crate::ui::model::tests::{model, press, status};

    fn screen(model: &mut Model, columns: u16, rows: u16) -> Terminal<TestBackend> {
        model.update(Instant::now(), Event::Resize { columns, rows });
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        terminal
    }

    /// A model with some output and different states.
    fn busy() -> Model {
        let mut model = model(false);
        let now = Instant::now();
        let mut all = vec![
            status("web.1", State::Up),
            status("web.2", State::Up),
            status("worker.1", State::Backoff),
            status("clock.1", State::Waiting),
            status("css.1", State::Down),
        ];
        all[1].ready = false;
        all[2].restarts = 3;
        all[2].starts_in = Some(1.5);
        all[3].waits_for = vec!["web.1".into()];
        all[4].last_exit = Some("exited (0)".into());
        model.update(now, Event::Processes(all.clone()));
        all[0].cpu += 0.125;
        model.update(now + Duration::from_secs(1), Event::Processes(all));
        for line in 1..=30 {
            let text = format!("\x1b[38;5;6mweb.1    | \x1b[0mGET /{line} \x1b[32m200\x1b[0m\n");
            model.update(now, Event::Output(Bytes::from(text)));
        }
        let long = format!("\x1b[38;5;3mworker.1 | \x1b[0m{}\n", "long ".repeat(30));
        model.update(now, Event::Output(Bytes::from(long)));
        model
    }

    #[test]
    fn small_screen_has_the_list_above_the_output() {
        insta::assert_snapshot!(screen(&mut busy(), 80, 24).backend());
    }

    #[test]
    fn large_screen_has_the_list_beside_the_output() {
        insta::assert_snapshot!(screen(&mut busy(), 200, 60).backend());
    }

    #[test]
    fn help_fits_a_small_screen() {
        let mut model = busy();
        press(&mut model, "?");
        insta::assert_snapshot!(screen(&mut model, 80, 24).backend());
    }

    #[test]
    fn search_is_shown() {
        let mut model = busy();
        press(&mut model, "/GET /12");
        let terminal = screen(&mut model, 80, 24);
        insta::assert_snapshot!(terminal.backend());
        press(&mut model, "\n");
        let terminal = screen(&mut model, 80, 24);
        let buffer = terminal.backend().buffer();
        let is_found = |cell: &&ratatui::buffer::Cell| cell.modifier.contains(Modifier::REVERSED);
        let last: String = (9..23)
            .flat_map(|row| (0..80).map(move |column| &buffer[(column, row)]))
            .filter(is_found)
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        assert_eq!(last, "GET /12");
    }

    #[test]
    fn without_colour_nothing_is_coloured() {
        let mut model = busy();
        model.settings.color = false;
        model.clear_output();
        model.update(Instant::now(), Event::Output(Bytes::from("\x1b[31mred\x1b[0m\n")));
        let terminal = screen(&mut model, 80, 24);
        let cells = terminal.backend().buffer().content();
        assert!(cells.iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    }

    #[test]
    fn any_size_is_drawn() {
        let mut model = busy();
        for (columns, rows) in [(1, 1), (2, 3), (10, 4), (130, 2), (30, 100), (500, 200)] {
            screen(&mut model, columns, rows);
            press(&mut model, "?");
            screen(&mut model, columns, rows);
            press(&mut model, "\x1b");
        }
    }
}
