//! What the keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What the user wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
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
pub(super) const HELP: [(&str, &str); 17] = [
    ("up down, k j", "select a process"),
    ("a", "select all: their output merged"),
    ("PgUp PgDn, shift up down", "scroll through the output"),
    ("Home", "go to the oldest output that is kept"),
    ("End, G", "go to the end, and follow"),
    ("/", "search in the output"),
    ("n N", "go to the next older, newer match"),
    ("f", "show only processes whose name contains a text"),
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

/// What this key means, outside of an input line.
pub(super) fn wish(key: KeyEvent) -> Option<Wish> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Wish::Interrupt),
            KeyCode::Char('z') => Some(Wish::Suspend),
            KeyCode::Char('b' | 'u') => Some(Wish::PageUp),
            KeyCode::Char('f' | 'd') => Some(Wish::PageDown),
            KeyCode::Char('n') => Some(Wish::SelectNext),
            KeyCode::Char('p') => Some(Wish::SelectPrevious),
            _ => None,
        };
    }
    let is_shifted = key.modifiers.contains(KeyModifiers::SHIFT);
    match key.code {
        KeyCode::Up if is_shifted => Some(Wish::ScrollUp),
        KeyCode::Down if is_shifted => Some(Wish::ScrollDown),
        KeyCode::Down | KeyCode::Char('j') => Some(Wish::SelectNext),
        KeyCode::Up | KeyCode::Char('k') => Some(Wish::SelectPrevious),
        KeyCode::Char('a') => Some(Wish::SelectAll),
        KeyCode::Char('K') => Some(Wish::ScrollUp),
        KeyCode::Char('J') => Some(Wish::ScrollDown),
        KeyCode::PageUp => Some(Wish::PageUp),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(Wish::PageDown),
        KeyCode::Home | KeyCode::Char('g') => Some(Wish::Top),
        KeyCode::End | KeyCode::Char('G') => Some(Wish::Follow),
        KeyCode::Char('/') => Some(Wish::Search),
        KeyCode::Char('n') => Some(Wish::NextMatch),
        KeyCode::Char('N') => Some(Wish::PreviousMatch),
        KeyCode::Char('f') => Some(Wish::Filter),
        KeyCode::Char('r') => Some(Wish::Restart),
        KeyCode::Char('s') => Some(Wish::StopOrStart),
        KeyCode::Char('+' | '=') => Some(Wish::ScaleUp),
        KeyCode::Char('-') => Some(Wish::ScaleDown),
        KeyCode::Char('w') => Some(Wish::Wrap),
        KeyCode::Char('y') => Some(Wish::Copy),
        KeyCode::Char('m') => Some(Wish::Mouse),
        KeyCode::Char('?') | KeyCode::F(1) => Some(Wish::Help),
        KeyCode::Esc => Some(Wish::Back),
        KeyCode::Char('q') => Some(Wish::Leave),
        KeyCode::Char('Q') => Some(Wish::Quit),
        _ => None,
    }
}
