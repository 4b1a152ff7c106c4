//! The state of the screen: events go in, effects come out.

use std::collections::VecDeque;
use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use hyper::body::Bytes;
use ratatui::layout::Rect;

use super::keys::{KeyCommand, command_of};
use super::output::Output;
use super::process_list::{ProcessList, Selection};
use super::regions::Regions;
use crate::control::api::{ProcessStatus, State};
use crate::control::client::processes_uri;
use crate::logs::terminal::{LongLines, plain_text};
use crate::plan::formation::ALL;

/// How many of ganger's messages are kept.
const MAX_MESSAGES: usize = 200;
/// How many lines the mouse wheel scrolls.
const WHEEL_LINES: i64 = 3;

/// Something that has happened.
#[derive(Debug)]
pub(super) enum Event {
    Key(KeyEvent),
    /// The mouse wheel was turned, up or down.
    Wheel {
        is_up: bool,
    },
    Resize {
        columns: u16,
        rows: u16,
    },
    Processes(Vec<ProcessStatus>),
    /// Output of the selection.
    Output(Bytes),
    /// Messages of ganger.
    Messages(Bytes),
    /// The answer to a request, as a text for the user.
    Answer(String),
}

/// An action for [`super::run`] to carry out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    /// A request without a body.
    Post(String),
    /// One instance more of this process type, or one less.
    Scale {
        kind: String,
        is_up: bool,
    },
    /// The terminal is to become that of this process.
    Attach(String),
    /// The output of another selection is to be followed.
    Follow(Selection),
    Copy(String),
    SetMouse(bool),
    Suspend,
    /// Leaves the screen.
    Leave,
    /// Stops everything.
    Quit,
    /// Kills what does not stop.
    Kill,
}

/// What the keys mean.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Mode {
    #[default]
    Commands,
    Help,
    Input(Input, String),
    Confirm(Question),
}

/// The purpose of an input line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Input {
    Search,
    Filter,
}

/// A question that the user confirms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Question {
    RestartAll,
    StopAll,
    Quit,
}

/// The settings, which do not change.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The folder of the app.
    pub(super) root: String,
    pub(super) color: bool,
    /// Whether the app ends with the screen.
    pub(super) is_owner: bool,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) settings: Settings,
    pub(super) list: ProcessList,
    pub(super) output: Output,
    messages: VecDeque<String>,
    /// The beginning of a message that is not complete.
    partial_message: Vec<u8>,
    pub(super) mode: Mode,
    /// The answer to the last key.
    note: Option<String>,
    /// The message that came since the last key.
    latest_message: Option<String>,
    pub(super) has_mouse: bool,
    /// Whether everything is being stopped, because the user wanted it.
    is_quitting: bool,
    pub(super) size: Rect,
}

impl Model {
    pub(super) fn new(settings: Settings) -> Self {
        let mut output = Output::new(settings.color);
        output.clear(settings.color, true);
        Self {
            settings,
            list: ProcessList::default(),
            output,
            messages: VecDeque::new(),
            partial_message: Vec::new(),
            mode: Mode::default(),
            note: None,
            latest_message: None,
            has_mouse: false,
            is_quitting: false,
            size: Rect::default(),
        }
    }

    /// ganger's last messages.
    pub(super) fn messages(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.messages.iter().map(String::as_str)
    }

    /// A text for the user, until the next key.
    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref().or(self.latest_message.as_deref())
    }

    /// Handles an event, and returns its effects.
    pub(super) fn update(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let before = self.list.selected.clone();
        let mut effects = match event {
            Event::Key(key) if key.kind == KeyEventKind::Release => Vec::new(),
            Event::Key(key) => self.on_key(key),
            Event::Wheel { is_up } => {
                self.output.scroll(if is_up { -WHEEL_LINES } else { WHEEL_LINES });
                Vec::new()
            }
            Event::Resize { columns, rows } => {
                self.size = Rect::new(0, 0, columns, rows);
                Vec::new()
            }
            Event::Processes(all) => {
                self.list.update(now, all);
                Vec::new()
            }
            Event::Output(bytes) => {
                self.output.push(&bytes);
                Vec::new()
            }
            Event::Messages(bytes) => {
                self.add_messages(&bytes);
                Vec::new()
            }
            Event::Answer(text) => {
                self.note = Some(text);
                Vec::new()
            }
        };
        if self.list.selected != before {
            self.clear_output();
            effects.push(Effect::Follow(self.list.selected.clone()));
        }
        self.output
            .set_rows(Regions::new(self.size, self.list.shown().count()).output.height.into());
        effects
    }

    /// Forgets the output, which is about to be read from another stream.
    pub(super) fn clear_output(&mut self) {
        let has_names = self.list.selected == Selection::All;
        self.output.clear(self.settings.color, has_names);
    }

    fn add_messages(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial_message.extend_from_slice(part);
            if let Some(line) = self.partial_message.strip_suffix(b"\n") {
                let text = plain_text(line);
                self.latest_message = Some(text.clone());
                self.messages.push_back(text);
                self.partial_message.clear();
            }
        }
        while self.messages.len() > MAX_MESSAGES {
            self.messages.pop_front();
        }
    }

    fn on_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        (self.note, self.latest_message) = (None, None);
        match std::mem::take(&mut self.mode) {
            Mode::Commands => {
                command_of(key).map(|command| self.run_command(command)).unwrap_or_default()
            }
            Mode::Help => match command_of(key) {
                Some(command @ (KeyCommand::Interrupt | KeyCommand::Suspend)) => {
                    self.run_command(command)
                }
                Some(_) | None => Vec::new(),
            },
            Mode::Input(input, text) => self.on_input(key, input, text),
            Mode::Confirm(question) => match key.code {
                KeyCode::Char('y' | 'Y') => self.confirm(question),
                _ => Vec::new(),
            },
        }
    }

    fn on_input(&mut self, key: KeyEvent, input: Input, mut text: String) -> Vec<Effect> {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => text.clear(),
            KeyCode::Char('c') if is_control => text.clear(),
            KeyCode::Char('u') if is_control => {
                text.clear();
                self.mode = Mode::Input(input, text.clone());
            }
            KeyCode::Enter => {}
            KeyCode::Backspace => {
                text.pop();
                self.mode = Mode::Input(input, text.clone());
            }
            KeyCode::Char(char) if !is_control => {
                text.push(char);
                self.mode = Mode::Input(input, text.clone());
            }
            _ => self.mode = Mode::Input(input, text.clone()),
        }
        match input {
            Input::Filter => self.list.set_filter(text),
            Input::Search => {
                self.output.pattern = text;
                if key.code == KeyCode::Enter {
                    self.find(true);
                }
            }
        }
        Vec::new()
    }

    fn run_command(&mut self, command: KeyCommand) -> Vec<Effect> {
        let page = i64::try_from(self.output.rows()).unwrap_or(i64::MAX);
        match command {
            KeyCommand::SelectNext => self.list.move_by(1),
            KeyCommand::SelectPrevious => self.list.move_by(-1),
            KeyCommand::SelectAll => self.list.select_row(0),
            KeyCommand::ScrollUp => self.output.scroll(-1),
            KeyCommand::ScrollDown => self.output.scroll(1),
            KeyCommand::PageUp => self.output.scroll(1 - page),
            KeyCommand::PageDown => self.output.scroll(page - 1),
            KeyCommand::Top => self.output.go_to_top(),
            KeyCommand::Follow => self.output.follow(),
            KeyCommand::Search => {
                self.mode = Mode::Input(Input::Search, self.output.pattern.clone());
            }
            KeyCommand::NextMatch => self.find(true),
            KeyCommand::PreviousMatch => self.find(false),
            KeyCommand::Filter => self.mode = Mode::Input(Input::Filter, self.list.filter.clone()),
            KeyCommand::Attach => return self.attach(),
            KeyCommand::Restart => return self.restart(),
            KeyCommand::StopOrStart => return self.stop_or_start(),
            KeyCommand::ScaleUp => return self.scale(true),
            KeyCommand::ScaleDown => return self.scale(false),
            KeyCommand::Wrap => {
                self.output.long_lines = match self.output.long_lines {
                    LongLines::Wrap => LongLines::Trim,
                    LongLines::Trim => LongLines::Wrap,
                };
            }
            KeyCommand::Copy => return self.copy(),
            KeyCommand::Mouse => {
                self.has_mouse = !self.has_mouse;
                let state = if self.has_mouse { "on" } else { "off" };
                self.note = Some(format!("the mouse is {state}"));
                return vec![Effect::SetMouse(self.has_mouse)];
            }
            KeyCommand::Help => self.mode = Mode::Help,
            KeyCommand::Back => {
                self.output.pattern.clear();
                self.list.set_filter(String::new());
                self.output.follow();
            }
            KeyCommand::Leave if self.settings.is_owner => {
                self.mode = Mode::Confirm(Question::Quit);
            }
            KeyCommand::Leave => return vec![Effect::Leave],
            KeyCommand::Quit => self.mode = Mode::Confirm(Question::Quit),
            KeyCommand::Interrupt if !self.settings.is_owner => return vec![Effect::Leave],
            KeyCommand::Interrupt if self.is_quitting => return vec![Effect::Kill],
            KeyCommand::Interrupt => return self.quit(),
            KeyCommand::Suspend => return vec![Effect::Suspend],
        }
        Vec::new()
    }

    fn find(&mut self, is_up: bool) {
        if !self.output.find(is_up) && !self.output.pattern.is_empty() {
            let place = if is_up { "above" } else { "below" };
            self.note = Some(format!("`{}` is not found {place}", self.output.pattern));
        }
    }

    fn restart(&mut self) -> Vec<Effect> {
        match self.list.selected() {
            Some(process) => vec![Effect::Post(processes_uri(&process.name, "/restart"))],
            None => {
                self.mode = Mode::Confirm(Question::RestartAll);
                Vec::new()
            }
        }
    }

    fn stop_or_start(&mut self) -> Vec<Effect> {
        match self.list.selected() {
            Some(process) => {
                let verb = match process.state {
                    State::Down => "/restart",
                    State::Backoff
                    | State::Waiting
                    | State::Starting
                    | State::Up
                    | State::Stopping
                    | State::Killed
                    | State::Stuck => "/stop",
                };
                vec![Effect::Post(processes_uri(&process.name, verb))]
            }
            None => {
                self.mode = Mode::Confirm(Question::StopAll);
                Vec::new()
            }
        }
    }

    fn attach(&mut self) -> Vec<Effect> {
        self.with_selected(|process| Effect::Attach(process.name.clone()))
    }

    fn scale(&mut self, is_up: bool) -> Vec<Effect> {
        self.with_selected(|process| Effect::Scale { kind: process.r#type.clone(), is_up })
    }

    /// The effect on the selected process.
    fn with_selected(&mut self, effect: impl FnOnce(&ProcessStatus) -> Effect) -> Vec<Effect> {
        let effect = self.list.selected().map(effect);
        if effect.is_none() {
            self.note = Some("select a process first".to_owned());
        }
        effect.into_iter().collect()
    }

    fn copy(&mut self) -> Vec<Effect> {
        let regions = Regions::new(self.size, self.list.shown().count());
        let rows = self.output.visible(regions.output.width.into());
        let text: Vec<String> = rows.iter().map(|row| plain_text(row)).collect();
        self.note = Some(format!("{} rows copied, if the terminal allows it", text.len()));
        vec![Effect::Copy(text.join("\n"))]
    }

    fn confirm(&mut self, question: Question) -> Vec<Effect> {
        match question {
            Question::RestartAll => vec![Effect::Post(processes_uri(ALL, "/restart"))],
            Question::StopAll => vec![Effect::Post(processes_uri(ALL, "/stop"))],
            Question::Quit => self.quit(),
        }
    }

    fn quit(&mut self) -> Vec<Effect> {
        self.is_quitting = true;
        self.note = Some("stopping all".to_owned());
        vec![Effect::Quit]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::plan::OnExit;

    pub(crate) fn status(name: &str, state: State) -> ProcessStatus {
        let is_up = state == State::Up;
        ProcessStatus {
            name: name.to_owned(),
            r#type: name.split('.').next().unwrap().to_owned(),
            state,
            ready: is_up,
            waits_for: Vec::new(),
            on_exit: OnExit::StopAll,
            crashes: 0,
            give_up_after: None,
            starts_in: None,
            pid: is_up.then_some(7),
            port: Some(5000),
            bound: is_up,
            uptime: is_up.then_some(3.0),
            restarts: 0,
            last_exit: None,
            cpu: 1.0,
            memory: 30 << 20,
        }
    }

    pub(crate) fn model(is_owner: bool) -> Model {
        let settings = Settings { root: "/srv/app".into(), color: true, is_owner };
        let mut model = Model::new(settings);
        let now = Instant::now();
        model.update(now, Event::Resize { columns: 80, rows: 24 });
        let all = vec![
            status("web.1", State::Up),
            status("web.2", State::Up),
            status("worker.1", State::Down),
        ];
        model.update(now, Event::Processes(all));
        model
    }

    pub(crate) fn press(model: &mut Model, keys: &str) -> Vec<Effect> {
        let code = |char| match char {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            char => KeyCode::Char(char),
        };
        let press = |char| {
            let key = KeyEvent::new(code(char), KeyModifiers::NONE);
            model.update(Instant::now(), Event::Key(key))
        };
        keys.chars().flat_map(press).collect()
    }

    fn post(uri: &str) -> Vec<Effect> {
        vec![Effect::Post(uri.to_owned())]
    }

    #[test]
    fn selection_is_followed() {
        let mut model = model(false);
        let one = |name: &str| vec![Effect::Follow(Selection::One(name.to_owned()))];
        assert_eq!(press(&mut model, "j"), one("web.1"));
        assert_eq!(press(&mut model, "j"), one("web.2"));
        assert_eq!(press(&mut model, "jjjj"), one("worker.1"));
        assert_eq!(press(&mut model, "a"), [Effect::Follow(Selection::All)]);
        assert_eq!(press(&mut model, "k"), []);
    }

    #[test]
    fn all_are_selected_when_the_selected_process_is_gone() {
        let mut model = model(false);
        press(&mut model, "jj");
        let all = vec![status("web.1", State::Up)];
        let effects = model.update(Instant::now(), Event::Processes(all));
        assert_eq!(effects, [Effect::Follow(Selection::All)]);
    }

    #[test]
    fn keys_control_the_selected_process() {
        let mut model = model(false);
        press(&mut model, "j");
        assert_eq!(press(&mut model, "r"), post("/processes/web.1/restart"));
        assert_eq!(press(&mut model, "s"), post("/processes/web.1/stop"));
        assert_eq!(press(&mut model, "+"), [Effect::Scale { kind: "web".into(), is_up: true }]);
        assert_eq!(press(&mut model, "-"), [Effect::Scale { kind: "web".into(), is_up: false }]);
        press(&mut model, "jj");
        assert_eq!(press(&mut model, "s"), post("/processes/worker.1/restart"));
    }

    #[test]
    fn actions_on_all_processes_are_confirmed_first() {
        let mut model = model(false);
        assert_eq!(press(&mut model, "rn"), []);
        assert_eq!(press(&mut model, "ry"), post("/processes/all/restart"));
        assert_eq!(press(&mut model, "sy"), post("/processes/all/stop"));
        assert_eq!(press(&mut model, "Qy"), [Effect::Quit]);
        assert_eq!(press(&mut model, "q"), [Effect::Leave]);
    }

    #[test]
    fn owner_stops_everything_when_it_leaves() {
        let mut model = model(true);
        assert_eq!(press(&mut model, "q"), []);
        assert_eq!(press(&mut model, "n"), []);
        assert_eq!(press(&mut model, "qy"), [Effect::Quit]);
        let interrupt = || Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(model.update(Instant::now(), interrupt()), [Effect::Kill]);
    }

    #[test]
    fn filter_hides_processes() {
        let mut model = model(false);
        press(&mut model, "fwork");
        let shown: Vec<&str> = model.list.shown().map(|it| it.name.as_str()).collect();
        assert_eq!(shown, ["worker.1"]);
        press(&mut model, "\x1b");
        assert_eq!(model.list.shown().count(), 3);
    }

    #[test]
    fn search_reports_what_it_does_not_find() {
        let mut model = model(false);
        model.update(Instant::now(), Event::Output(Bytes::from("one\ntwo\n")));
        press(&mut model, "/thr\n");
        assert_eq!(model.note(), Some("`thr` is not found above"));
        press(&mut model, "\x1b/two\n");
        assert_eq!(model.note(), None);
    }

    #[test]
    fn messages_are_kept_and_shown_until_the_next_key() {
        let mut model = model(false);
        model.update(Instant::now(), Event::Messages(Bytes::from("web.1 sta")));
        model.update(Instant::now(), Event::Messages(Bytes::from("rted\n\nend")));
        assert_eq!(model.messages().collect::<Vec<_>>(), ["web.1 started", ""]);
        assert_eq!(model.note(), Some(""));
        press(&mut model, "j");
        assert_eq!(model.note(), None);
        for _ in 0..1000 {
            model.update(Instant::now(), Event::Messages(Bytes::from("more\n")));
        }
        assert_eq!(model.messages().len(), MAX_MESSAGES);
    }
}
