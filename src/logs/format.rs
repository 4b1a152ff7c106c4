//! The format of a line: the padded, coloured name of its process, and the time if requested.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::SystemTime;

use super::lines::Prefix;

fn format_time(at: &jiff::Zoned) -> Vec<u8> {
    at.strftime("%H:%M:%S ").to_string().into_bytes()
}

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Style {
    /// Whether names are coloured.
    pub color: bool,
    /// Whether a line begins with the time.
    pub timestamp: bool,
    /// Whether a line begins with the name of its process.
    pub prefix: bool,
    /// The length of the longest name.
    pub width: usize,
}

/// An xterm colour: 0 to 255 (ISO 8613-6, `38;5;N`).
pub type Color = u8;

/// Colours that are easy to distinguish, on light and dark backgrounds.
const COLORS: [Color; 10] = [6, 3, 2, 5, 4, 14, 11, 10, 13, 12];

/// The name before ganger's own messages, and by which `logs` knows them.
pub const OWN_NAME: &str = "ganger";

/// The prefix of the lines of one source, without the time.
#[derive(Clone, Debug, Default)]
pub struct Label {
    line: Vec<u8>,
    continuation: Vec<u8>,
    wrapped: Vec<u8>,
    /// How many columns each of them takes on a terminal.
    width: usize,
}

impl Style {
    /// The style whose width fits these names and ganger's own.
    #[must_use]
    pub fn fit_names<'a>(self, names: impl Iterator<Item = &'a str>) -> Self {
        let width = names.map(str::len).chain([OWN_NAME.len()]).max().unwrap_or_default();
        Self { width, ..self }
    }

    /// How many columns the prefix of a line takes, with the time.
    #[must_use]
    pub fn prefix_width(&self) -> usize {
        let name = if self.prefix { self.width + "  |".len() } else { 0 };
        let time = if self.timestamp { "00:00:00 ".len() } else { 0 };
        name + time
    }

    /// The label of a process, or of ganger itself.
    #[must_use]
    pub fn label(&self, name: &str, color: Color) -> Label {
        if !self.prefix {
            return Label::default();
        }
        let label = |name: &str, bar: &str| {
            let text = format!("{name:<width$} {bar}", width = self.width);
            if self.color && name == OWN_NAME {
                format!("\x1b[1m{text}\x1b[0m").into_bytes()
            } else if self.color {
                format!("\x1b[38;5;{color}m{text}\x1b[0m").into_bytes()
            } else {
                text.into_bytes()
            }
        };
        Label {
            line: label(name, "| "),
            continuation: label(name, "|+"),
            wrapped: label("", "| "),
            width: name.len().max(self.width) + " | ".len(),
        }
    }

    /// The label of ganger's own messages.
    #[must_use]
    pub fn own_label(&self) -> Label {
        let plain = Self { color: false, ..*self }.label(OWN_NAME, 0);
        let bold = |text: &[u8]| [b"\x1b[1m", text, b"\x1b[0m"].concat();
        let Label { line, continuation, wrapped, width } = plain;
        if !self.color || line.is_empty() {
            return Label { line, continuation, wrapped, width };
        }
        let [line, continuation, wrapped] = [line, continuation, wrapped].map(|text| bold(&text));
        Label { line, continuation, wrapped, width }
    }

    /// The lines of one of ganger's own messages.
    #[must_use]
    pub fn format_message(&self, message: &str) -> Vec<u8> {
        let width = if self.prefix { self.width } else { 0 };
        let (bold, plain) = if self.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let stamp = String::from_utf8_lossy(&self.timestamp_now()).into_owned();
        let line = |line| format!("{stamp}{bold}{OWN_NAME:<width$} | {line}{plain}\n");
        message.lines().map(line).collect::<String>().into_bytes()
    }

    /// The current time, if lines begin with the time.
    #[must_use]
    pub fn timestamp_now(&self) -> Vec<u8> {
        if self.timestamp { format_time(&jiff::Zoned::now()) } else { Vec::new() }
    }

    /// The time `at`, if lines begin with the time.
    #[must_use]
    pub fn timestamp_at(&self, at: SystemTime) -> Vec<u8> {
        let zoned = || jiff::Zoned::try_from(at).map(|at| format_time(&at)).unwrap_or_default();
        if self.timestamp { zoned() } else { Vec::new() }
    }
}

impl Label {
    /// The label with a NUL behind it: a program that reads the lines can separate it.
    #[must_use]
    pub fn with_mark(mut self) -> Self {
        self.line.push(0);
        self.continuation.push(0);
        self
    }

    /// The whole prefix, with the time in `stamp`.
    #[must_use]
    pub fn prefix<'a>(&'a self, stamp: &'a [u8]) -> Prefix<'a> {
        Prefix {
            stamp,
            line: &self.line,
            continuation: &self.continuation,
            wrapped: &self.wrapped,
            width: self.width,
        }
    }
}

/// Assigns a colour to each of `types`. If the user chose colours, they are used in turn.
/// Otherwise the colour depends on the name, so that it is the same in every run, and no two
/// types have the same colour as long as there are enough.
#[must_use]
pub fn assign_colors(types: &[&str], chosen: &[Color]) -> Vec<Color> {
    if !chosen.is_empty() {
        return chosen.iter().copied().cycle().take(types.len()).collect();
    }
    let mut in_use = [false; COLORS.len()];
    let mut choose = |name: &str| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let first = usize::try_from(hasher.finish() % COLORS.len() as u64).unwrap_or_default();
        let by_turns = (first..COLORS.len()).chain(0..first);
        let at = by_turns.into_iter().find(|&at| !in_use[at]).unwrap_or(first);
        in_use[at] = true;
        COLORS[at]
    };
    types.iter().map(|name| choose(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_to_the_longest_one() {
        let style = Style { prefix: true, ..Style::default() };
        let line = |style: Style, name| String::from_utf8(style.label(name, 3).line).unwrap();
        let names = ["web.1", "worker.1"];
        let style = style.fit_names(names.into_iter());
        assert_eq!(names.map(|name| line(style, name)), ["web.1    | ", "worker.1 | "]);
        assert_eq!(style.format_message("a\nb"), b"ganger   | a\nganger   | b\n");
        let colored = Style { color: true, ..style };
        assert_eq!(line(colored, "web.1"), "\x1b[38;5;3mweb.1    | \x1b[0m");
        assert_eq!(line(Style::default(), "web.1"), "");
        assert_eq!([style, Style::default()].map(|style| style.prefix_width()), [11, 0]);
    }

    #[test]
    fn colors_are_stable_and_distinct() {
        let names = ["web", "worker", "clock", "css", "js", "db", "mail", "cache"];
        let mut all = assign_colors(&names, &[]);
        assert_eq!(all, assign_colors(&names, &[]));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), names.len());
        assert_eq!(assign_colors(&names, &[7, 8])[..3], [7, 8, 7]);
    }
}
