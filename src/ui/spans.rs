//! A row of output as the spans of a screen.

use std::iter::repeat_n;
use std::ops::Range;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use unicode_width::UnicodeWidthStr;

use crate::logs::terminal::{RowPart, TAB_COLUMNS, row_parts, split_params};

/// The row with its colours, and with these ranges of its text highlighted.
pub(super) fn line(row: &[u8], find: impl Fn(&str) -> Vec<Range<usize>>) -> Line<'static> {
    let mut style = Style::new();
    let mut spans: Vec<(String, Style)> = Vec::new();
    let mut text = String::new();
    for part in row_parts(row) {
        match part {
            RowPart::Text(bytes) => {
                let start = text.len();
                for char in String::from_utf8_lossy(bytes).chars() {
                    if char == '\t' {
                        let column = text.width();
                        text.extend(repeat_n(' ', TAB_COLUMNS - column % TAB_COLUMNS));
                    } else if !char.is_control() {
                        text.push(char);
                    }
                }
                spans.push((text[start..].to_owned(), style));
            }
            RowPart::Style(params) => apply(&mut style, params),
            RowPart::Link => {}
        }
    }
    let found = find(&text);
    if found.is_empty() {
        return spans.into_iter().map(|(text, style)| Span::styled(text, style)).collect();
    }
    let mut highlighted = Vec::new();
    let mut start = 0;
    for (part, style) in spans {
        let end = start + part.len();
        let mut at = start;
        for range in &found {
            let (from, to) = (range.start.clamp(at, end), range.end.clamp(at, end));
            if from < to {
                highlighted.push(Span::styled(part[at - start..from - start].to_owned(), style));
                let style = style.add_modifier(Modifier::REVERSED);
                highlighted.push(Span::styled(part[from - start..to - start].to_owned(), style));
                at = to;
            }
        }
        highlighted.push(Span::styled(part[at - start..].to_owned(), style));
        start = end;
    }
    highlighted.into()
}

/// Applies the parameters of a colour sequence (ECMA-48, SGR).
fn apply(style: &mut Style, params: &[u8]) {
    for param in split_params(params) {
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u8>().ok();
        let fields: Vec<Option<u8>> = match param {
            b"" => vec![Some(0)],
            _ => param.split(|byte| matches!(byte, b':' | b';')).map(number).collect(),
        };
        let [Some(code), more @ ..] = fields.as_slice() else { continue };
        *style = match code {
            0 => Style::new(),
            1 => style.add_modifier(Modifier::BOLD),
            2 => style.add_modifier(Modifier::DIM),
            3 => style.add_modifier(Modifier::ITALIC),
            4 if *more == [Some(0)] => style.remove_modifier(Modifier::UNDERLINED),
            4 => style.add_modifier(Modifier::UNDERLINED),
            7 => style.add_modifier(Modifier::REVERSED),
            9 => style.add_modifier(Modifier::CROSSED_OUT),
            22 => style.remove_modifier(Modifier::BOLD | Modifier::DIM),
            23 => style.remove_modifier(Modifier::ITALIC),
            24 => style.remove_modifier(Modifier::UNDERLINED),
            27 => style.remove_modifier(Modifier::REVERSED),
            29 => style.remove_modifier(Modifier::CROSSED_OUT),
            30..=37 => style.fg(Color::Indexed(code - 30)),
            38 => extended(more).map_or(*style, |color| style.fg(color)),
            39 => Style { fg: None, ..*style },
            40..=47 => style.bg(Color::Indexed(code - 40)),
            48 => extended(more).map_or(*style, |color| style.bg(color)),
            49 => Style { bg: None, ..*style },
            90..=97 => style.fg(Color::Indexed(code - 82)),
            100..=107 => style.bg(Color::Indexed(code - 92)),
            _ => *style,
        };
    }
}

/// The colour after 38 or 48: `5;N` or `2;R;G;B`, or the same with colons, where a colour space
/// may stand before the three (ISO 8613-6).
fn extended(fields: &[Option<u8>]) -> Option<Color> {
    match fields {
        [Some(5), index] => Some(Color::Indexed((*index)?)),
        [Some(2), red, green, blue] | [Some(2), _, red, green, blue, ..] => {
            Some(Color::Rgb((*red)?, (*green)?, (*blue)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_styles() {
        let row = b"plain \x1b[1;31mred\x1b[38;5;9;22mbright\x1b[0m end";
        let spans = line(row, |_| Vec::new()).spans;
        let red = Style::new().add_modifier(Modifier::BOLD).fg(Color::Indexed(1));
        let bright = red.remove_modifier(Modifier::BOLD | Modifier::DIM).fg(Color::Indexed(9));
        assert_eq!(
            spans,
            [
                Span::raw("plain "),
                Span::styled("red", red),
                Span::styled("bright", bright),
                Span::raw(" end"),
            ]
        );
    }

    #[test]
    fn colours_are_read_in_each_notation() {
        let color = |row: &[u8]| line(row, |_| Vec::new()).spans[0].style;
        let rgb = Style::new().fg(Color::Rgb(1, 2, 3));
        for row in ["\x1b[38;2;1;2;3mx", "\x1b[38:2:1:2:3mx", "\x1b[38:2::1:2:3mx"] {
            assert_eq!(color(row.as_bytes()), rgb, "{row:?}");
        }
        assert_eq!(color(b"\x1b[38:5:9mx"), Style::new().fg(Color::Indexed(9)));
        // What is not known, such as the colour of an underline, changes nothing.
        assert_eq!(color(b"\x1b[58;5;1;31mx"), Style::new().fg(Color::Indexed(1)));
        assert_eq!(color(b"\x1b[31m\x1b[mx"), Style::new());
    }

    #[test]
    fn tabs_reach_to_the_next_stop() {
        let text = |row: &[u8]| line(row, |_| Vec::new()).to_string();
        assert_eq!(text(b"ab\tc\x1b[31m\td"), "ab      c       d");
        assert_eq!(text("日\tc".as_bytes()), "日      c");
    }

    #[test]
    fn matches_are_highlighted_across_colours() {
        let row = b"say he\x1b[31mllo\x1b[0m";
        let line = line(row, |text| crate::ui::output::find_in(text, "hello"));
        let shown: Vec<(String, bool)> = line
            .spans
            .iter()
            .filter(|span| !span.content.is_empty())
            .map(|span| {
                let reversed = span.style.add_modifier.contains(Modifier::REVERSED);
                (span.content.to_string(), reversed)
            })
            .collect();
        assert_eq!(shown, [("say ".into(), false), ("he".into(), true), ("llo".into(), true)]);
    }
}
