//! The keys and their commands.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A command that a key gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyCommand {
    SelectNext,
    SelectPrevious,
    SelectAll,
    ScrollUp,
    ScrollDown,
    PageUp,
    PageDown,
    Top,
    Follow,
    Search,
    NextMatch,
    PreviousMatch,
    Filter,
    Attach,
    Restart,
    StopOrStart,
    ScaleUp,
    ScaleDown,
    Wrap,
    Copy,
    Mouse,
    Help,
    Back,
    Leave,
    Quit,
    Interrupt,
    Suspend,
}

/// The help: keys, and what they do.
pub(super) const HELP: [(&str, &str); 18] = [
    ("up down, k j", "select a process"),
    ("a", "select all: their output merged"),
    ("PgUp PgDn, shift up down", "scroll through the output"),
    ("Home", "go to the oldest output that is kept"),
    ("End, G", "go to the end, and follow"),
    ("/", "search in the output"),
    ("n N", "go to the next older, newer match"),
    ("f", "show only processes whose name contains a text"),
    ("Enter", "attach to the process: your keys go to it"),
    ("r", "restart the process"),
    ("s", "stop the process, or start it if it is down"),
    ("+ -", "one instance more, or less"),
    ("w", "wrap long lines, or cut them"),
    ("y", "copy the output on the screen (OSC 52)"),
    ("m", "scroll with the mouse; shift then selects text"),
    ("Ctrl-Z", "suspend this screen; the processes go on"),
    ("q", "leave this screen"),
    ("Q", "stop everything, and leave"),
];

/// The command of this key, outside of an input line.
pub(super) fn command_of(key: KeyEvent) -> Option<KeyCommand> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(KeyCommand::Interrupt),
            KeyCode::Char('z') => Some(KeyCommand::Suspend),
            KeyCode::Char('b' | 'u') => Some(KeyCommand::PageUp),
            KeyCode::Char('f' | 'd') => Some(KeyCommand::PageDown),
            KeyCode::Char('n') => Some(KeyCommand::SelectNext),
            KeyCode::Char('p') => Some(KeyCommand::SelectPrevious),
            _ => None,
        };
    }
    let is_shifted = key.modifiers.contains(KeyModifiers::SHIFT);
    match key.code {
        KeyCode::Up if is_shifted => Some(KeyCommand::ScrollUp),
        KeyCode::Down if is_shifted => Some(KeyCommand::ScrollDown),
        KeyCode::Down | KeyCode::Char('j') => Some(KeyCommand::SelectNext),
        KeyCode::Up | KeyCode::Char('k') => Some(KeyCommand::SelectPrevious),
        KeyCode::Char('a') => Some(KeyCommand::SelectAll),
        KeyCode::Char('K') => Some(KeyCommand::ScrollUp),
        KeyCode::Char('J') => Some(KeyCommand::ScrollDown),
        KeyCode::PageUp => Some(KeyCommand::PageUp),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(KeyCommand::PageDown),
        KeyCode::Home | KeyCode::Char('g') => Some(KeyCommand::Top),
        KeyCode::End | KeyCode::Char('G') => Some(KeyCommand::Follow),
        KeyCode::Char('/') => Some(KeyCommand::Search),
        KeyCode::Char('n') => Some(KeyCommand::NextMatch),
        KeyCode::Char('N') => Some(KeyCommand::PreviousMatch),
        KeyCode::Char('f') => Some(KeyCommand::Filter),
        KeyCode::Enter => Some(KeyCommand::Attach),
        KeyCode::Char('r') => Some(KeyCommand::Restart),
        KeyCode::Char('s') => Some(KeyCommand::StopOrStart),
        KeyCode::Char('+' | '=') => Some(KeyCommand::ScaleUp),
        KeyCode::Char('-') => Some(KeyCommand::ScaleDown),
        KeyCode::Char('w') => Some(KeyCommand::Wrap),
        KeyCode::Char('y') => Some(KeyCommand::Copy),
        KeyCode::Char('m') => Some(KeyCommand::Mouse),
        KeyCode::Char('?') | KeyCode::F(1) => Some(KeyCommand::Help),
        KeyCode::Esc => Some(KeyCommand::Back),
        KeyCode::Char('q') => Some(KeyCommand::Leave),
        KeyCode::Char('Q') => Some(KeyCommand::Quit),
        _ => None,
    }
}
