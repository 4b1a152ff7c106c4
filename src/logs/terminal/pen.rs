//! The colours and the link with which text is written, so that they can end with a row and
//! resume on the next.

/// A longer parameter, which no terminal knows, does not resume.
const MAX_PARAM_BYTES: usize = 32;

/// What a parameter sets (ECMA-48, 8.3.117 SGR). The last value of each kind counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Bold,
    Dim,
    Italic,
    Underline,
    Blink,
    Inverse,
    Hidden,
    Strike,
    Font,
    Foreground,
    Background,
    UnderlineColor,
    Overline,
}

const KINDS: usize = Kind::Overline as usize + 1;

/// What a parameter does.
enum Effect {
    Set(Kind),
    Reset(&'static [Kind]),
    ResetAll,
    /// Nothing that is known.
    Unknown,
}

impl Effect {
    fn of(code: u32, has_more: bool) -> Self {
        match code {
            0 => Self::ResetAll,
            1 => Self::Set(Kind::Bold),
            2 => Self::Set(Kind::Dim),
            3 | 20 => Self::Set(Kind::Italic),
            4 | 21 => Self::Set(Kind::Underline),
            5 | 6 => Self::Set(Kind::Blink),
            7 => Self::Set(Kind::Inverse),
            8 => Self::Set(Kind::Hidden),
            9 => Self::Set(Kind::Strike),
            10 => Self::Reset(&[Kind::Font]),
            11..=19 => Self::Set(Kind::Font),
            22 => Self::Reset(&[Kind::Bold, Kind::Dim]),
            23 => Self::Reset(&[Kind::Italic]),
            24 => Self::Reset(&[Kind::Underline]),
            25 => Self::Reset(&[Kind::Blink]),
            27 => Self::Reset(&[Kind::Inverse]),
            28 => Self::Reset(&[Kind::Hidden]),
            29 => Self::Reset(&[Kind::Strike]),
            30..=37 | 90..=97 => Self::Set(Kind::Foreground),
            38 if has_more => Self::Set(Kind::Foreground),
            39 => Self::Reset(&[Kind::Foreground]),
            40..=47 | 100..=107 => Self::Set(Kind::Background),
            48 if has_more => Self::Set(Kind::Background),
            49 => Self::Reset(&[Kind::Background]),
            53 => Self::Set(Kind::Overline),
            55 => Self::Reset(&[Kind::Overline]),
            58 if has_more => Self::Set(Kind::UnderlineColor),
            59 => Self::Reset(&[Kind::UnderlineColor]),
            _ => Self::Unknown,
        }
    }
}

/// The colours and the link that are switched on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Pen {
    /// The parameters, by kind; empty if nothing is set.
    params: [Vec<u8>; KINDS],
    /// The sequence that begins the link, or nothing.
    link: Vec<u8>,
}

impl Pen {
    /// Applies a colour sequence or a link.
    pub(super) fn apply(&mut self, sequence: &[u8]) {
        if let Some(link) = sequence.strip_prefix(b"\x1b]8;") {
            // `ESC ] 8 ; params ; URI`: without a URI, the link ends.
            let uri = link.splitn(2, |byte| *byte == b';').nth(1).unwrap_or_default();
            self.link.clear();
            if uri != b"\x1b\\" && !uri.is_empty() {
                self.link.extend_from_slice(sequence);
            }
        } else if let Some(params) = sequence.strip_prefix(b"\x1b[")
            && let Some(params) = params.strip_suffix(b"m")
        {
            self.apply_params(params);
        }
    }

    fn apply_params(&mut self, params: &[u8]) {
        for param in split_params(params) {
            let code_end = param.iter().position(|byte| !byte.is_ascii_digit());
            let (code, more) = param.split_at(code_end.unwrap_or(param.len()));
            match Effect::of(number(code), !more.is_empty()) {
                Effect::ResetAll => self.params.iter_mut().for_each(Vec::clear),
                Effect::Set(kind) if param == b"4:0" => self.params[kind as usize].clear(),
                Effect::Set(kind) => {
                    let is_known = param.len() <= MAX_PARAM_BYTES;
                    self.params[kind as usize] = if is_known { param.into() } else { Vec::new() };
                }
                Effect::Reset(kinds) => {
                    for kind in kinds {
                        self.params[*kind as usize].clear();
                    }
                }
                Effect::Unknown => {}
            }
        }
    }

    /// Applies all sequences in a line.
    pub(super) fn apply_all(&mut self, mut line: &[u8]) {
        while let Some(at) = memchr::memchr(0x1b, line) {
            let (sequence, rest) = split_sequence(&line[at..]);
            self.apply(sequence);
            line = rest;
        }
    }

    /// Switches everything on, at the beginning of a row.
    pub(super) fn open(&self, out: &mut Vec<u8>) {
        let mut params = self.params.iter().filter(|param| !param.is_empty());
        if let Some(first) = params.next() {
            out.extend_from_slice(b"\x1b[");
            out.extend_from_slice(first);
            for param in params {
                out.push(b';');
                out.extend_from_slice(param);
            }
            out.push(b'm');
        }
        out.extend_from_slice(&self.link);
    }

    /// Switches everything off, at the end of a row.
    pub(super) fn close(&self, out: &mut Vec<u8>) {
        if self.params.iter().any(|param| !param.is_empty()) {
            out.extend_from_slice(b"\x1b[0m");
        }
        if !self.link.is_empty() {
            out.extend_from_slice(b"\x1b]8;;\x1b\\");
        }
    }
}

/// The parameters of a colour sequence, one by one. A colour, which is `38:5:9`, `38;5;9` or
/// `38;2;9;9;9`, is one of them.
pub fn split_params(params: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(params);
    std::iter::from_fn(move || {
        let all = rest?;
        let fields: Vec<&[u8]> = all.splitn(6, |byte| *byte == b';').collect();
        let count = match fields.as_slice() {
            [b"38" | b"48" | b"58", b"5", _, ..] => 3,
            [b"38" | b"48" | b"58", b"2", _, _, _, ..] => 5,
            _ => 1,
        };
        let length = fields[..count].iter().map(|field| field.len()).sum::<usize>() + count - 1;
        rest = all.get(length + 1..);
        Some(&all[..length])
    })
}

/// A part of a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RowPart<'a> {
    /// Text.
    Text(&'a [u8]),
    /// The parameters of a colour sequence.
    Style(&'a [u8]),
    /// The beginning or end of a link.
    Link,
}

/// The parts of a row.
pub fn row_parts(row: &[u8]) -> impl Iterator<Item = RowPart<'_>> {
    let mut rest = row;
    std::iter::from_fn(move || {
        if rest.first()? == &0x1b {
            let (sequence, after) = split_sequence(rest);
            rest = after;
            let params = sequence.strip_prefix(b"\x1b[").and_then(|it| it.strip_suffix(b"m"));
            return Some(params.map_or(RowPart::Link, RowPart::Style));
        }
        let (text, after) = rest.split_at(memchr::memchr(0x1b, rest).unwrap_or(rest.len()));
        rest = after;
        Some(RowPart::Text(text))
    })
}

/// The sequence at the beginning of `line`, which is a colour sequence or a link, and the rest.
pub(super) fn split_sequence(line: &[u8]) -> (&[u8], &[u8]) {
    let end = if line.starts_with(b"\x1b]") {
        memchr::memmem::find(line, b"\x1b\\").map(|at| at + 2)
    } else {
        memchr::memchr(b'm', line).map(|at| at + 1)
    };
    line.split_at(end.unwrap_or(line.len()))
}

/// The value of decimal digits; none are 0.
fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |sum: u32, digit| {
        sum.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0')))
    })
}
