//! What the user types while a process has the terminal: most of it goes to the process.

use std::time::{Duration, Instant};

use super::detach::{DetachFilter, DetachKeys, Filtered};

/// Ctrl-C and Ctrl-Z, as a terminal in raw mode sends them.
const INTERRUPT: u8 = 0x03;
const SUSPEND: u8 = 0x1a;

/// Two interrupts within this time stop the app.
const DOUBLE_INTERRUPT: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyAction {
    /// This goes to the process.
    Input(Vec<u8>),
    /// The user leaves the process.
    Detach,
    /// The app stops.
    StopApp,
    /// Everything is suspended.
    SuspendApp,
}

/// Decides what each key does.
#[derive(Debug)]
pub struct KeyFilter {
    detach: DetachFilter,
    /// Whether the app belongs to this terminal, and ends and is suspended with it.
    owns_app: bool,
    interrupted: Option<Instant>,
}

impl KeyFilter {
    /// A filter with these keys to detach. If the terminal `owns_app`, Ctrl-Z suspends all of it,
    /// and a second Ctrl-C within a second stops it.
    #[must_use]
    pub fn new(keys: DetachKeys, owns_app: bool) -> Self {
        Self { detach: DetachFilter::new(keys), owns_app, interrupted: None }
    }

    /// Takes what was read at once.
    pub fn push(&mut self, typed: &[u8], now: Instant) -> Vec<KeyAction> {
        let Filtered { input, detaches } = self.detach.push(typed);
        let mut actions = Vec::new();
        let mut start = 0;
        let app_keys: &[u8] = if self.owns_app { &input } else { &[] };
        for (at, byte) in app_keys.iter().enumerate() {
            match *byte {
                INTERRUPT if self.is_second_interrupt(now) => {
                    push_input(&mut actions, &input[start..=at]);
                    actions.push(KeyAction::StopApp);
                }
                SUSPEND => {
                    push_input(&mut actions, &input[start..at]);
                    actions.push(KeyAction::SuspendApp);
                }
                _ => continue,
            }
            start = at + 1;
        }
        push_input(&mut actions, &input[start..]);
        if detaches {
            actions.push(KeyAction::Detach);
        }
        actions
    }

    /// An interrupt is typed now.
    fn is_second_interrupt(&mut self, now: Instant) -> bool {
        let before = self.interrupted.take();
        let is_second =
            before.is_some_and(|before| now.saturating_duration_since(before) <= DOUBLE_INTERRUPT);
        self.interrupted = (!is_second).then_some(now);
        is_second
    }
}

fn push_input(actions: &mut Vec<KeyAction>, input: &[u8]) {
    if !input.is_empty() {
        actions.push(KeyAction::Input(input.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> KeyAction {
        KeyAction::Input(text.as_bytes().to_vec())
    }

    fn filter(owns_app: bool) -> KeyFilter {
        KeyFilter::new("ctrl-]".parse().unwrap(), owns_app)
    }

    #[test]
    fn all_keys_but_one_go_to_a_process_of_another_terminal() {
        let now = Instant::now();
        let actions = filter(false).push(b"a\x03\x03\x1ab\x1dc", now);
        assert_eq!(actions, [input("a\x03\x03\x1ab"), KeyAction::Detach]);
    }

    #[test]
    fn second_interrupt_within_a_second_stops_the_app() {
        let (mut keys, now) = (filter(true), Instant::now());
        let after = |millis| now + Duration::from_millis(millis);
        assert_eq!(keys.push(b"\x03", now), [input("\x03")]);
        assert_eq!(keys.push(b"\x03", after(1001)), [input("\x03")]);
        assert_eq!(
            keys.push(b"x\x03y", after(2000)),
            [input("x\x03"), KeyAction::StopApp, input("y")]
        );
        // The next one is the first of two again.
        assert_eq!(keys.push(b"\x03", after(2100)), [input("\x03")]);
        assert_eq!(keys.push(b"\x03", after(2200)), [input("\x03"), KeyAction::StopApp]);
    }

    #[test]
    fn suspension_is_that_of_the_app() {
        let actions = filter(true).push(b"a\x1ab\x1d", Instant::now());
        assert_eq!(actions, [input("a"), KeyAction::SuspendApp, input("b"), KeyAction::Detach]);
    }
}
