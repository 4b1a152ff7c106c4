//! Text from outside, as it may be shown on a terminal: names of processes and files can be
//! chosen by anyone, and a terminal obeys what it is sent.

use std::borrow::Cow;

/// The text with its control characters as in Rust: `\u{1b}`, `\n`. Also those that only
/// turn the direction of text, or that a program may take for the end of a line.
#[must_use]
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    escape(text, is_control)
}

/// The same of several lines.
#[must_use]
pub fn escape_controls_in_lines(text: &str) -> Cow<'_, str> {
    escape(text, |char| char != '\n' && is_control(char))
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_escaped(char) {
            escaped.extend(char.escape_default());
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped)
}

fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_shown() {
        for (text, shown) in [
            ("nginx", "nginx"),
            ("\x1b]0;pwned\x07", r"\u{1b}]0;pwned\u{7}"),
            ("a\nganger | b\r\t", r"a\nganger | b\r\t"),
            ("\u{9b}2J\u{7f}", r"\u{9b}2J\u{7f}"),
            ("\u{202e}gpj.exe\u{2028}", r"\u{202e}gpj.exe\u{2028}"),
            ("größe 🦀 \\", "größe 🦀 \\"),
        ] {
            assert_eq!(escape_controls(text), shown);
        }
        assert_eq!(escape_controls_in_lines("a\n\x1bb\n"), "a\n\\u{1b}b\n");
    }

    proptest! {
        #[test]
        fn none_is_left(text in any::<String>()) {
            prop_assert!(!escape_controls(&text).contains(is_control));
            let lines = escape_controls_in_lines(&text).into_owned();
            prop_assert!(!lines.replace('\n', "").contains(is_control));
            prop_assert_eq!(lines.matches('\n').count(), text.matches('\n').count());
        }
    }
}
