//! The text of a `.env` file, cut into assignments.
//!
//! foreman's pattern decides what an assignment is and what its value is, with
//! four differences: a blank and `#` begin a comment, `$X` and `${X}` refer to
//! other variables outside single quotes, blanks around a value go, and a quote
//! that is opened has to close, over several lines if need be.

/// `KEY=value`, its value not yet resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    /// The variable's name.
    pub key: String,
    /// The line on which the assignment begins, counted from 1.
    pub line: usize,
    /// The value, in the order in which its pieces are joined.
    pub value: Vec<Piece>,
}

/// A part of a value.
#[derive(Clone, Eq, PartialEq)]
pub enum Piece {
    /// Stands for itself.
    Text(String),
    /// Stands for the value of another variable, if there is such a one.
    Reference {
        /// The variable's name.
        name: String,
        /// What stands in the file, and stays if there is no such variable.
        spelling: String,
    },
}

/// A value may be a secret, and a `$` in it no reference after all: only its shape
/// is shown.
impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Reference { spelling, .. } => write!(f, "Reference({} bytes)", spelling.len()),
        }
    }
}

/// Why a `.env` file can't be read. None of these carries a value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The line is neither an assignment, a comment nor blank.
    #[error("line {line}: expected `KEY=value`")]
    NotAnAssignment {
        /// Where it stands.
        line: usize,
    },
    /// A quote opens and never closes.
    #[error("line {line}: the value of `{key}` opens a quote that never closes")]
    OpenQuote {
        /// Where the assignment begins.
        line: usize,
        /// The variable's name.
        key: String,
    },
    /// A quote closes on a later line, and something follows it.
    #[error("line {line}: something follows the closing quote of `{key}`")]
    AfterQuote {
        /// Where the quote closes.
        line: usize,
        /// The variable's name.
        key: String,
    },
    /// The line is not text.
    #[error("line {line}: is not UTF-8 text")]
    NotText {
        /// Where it stands.
        line: usize,
    },
}

type Lines<'a> = std::iter::Zip<std::str::Split<'a, char>, std::ops::RangeFrom<usize>>;

/// Reads the text of a `.env` file; assignments come in the order of the file.
pub fn parse(text: &[u8]) -> Result<Vec<Assignment>, Error> {
    let text = as_text(text)?;
    let mut lines = text.split('\n').zip(1..);
    let mut assignments = Vec::new();
    while let Some((text, line)) = lines.next() {
        let text = text.strip_suffix('\r').unwrap_or(text).trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let text = match text.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            Some(_) | None => text,
        };
        let (key, value) = text.split_once('=').ok_or(Error::NotAnAssignment { line })?;
        let key = key.trim_end();
        if !is_key(key) {
            return Err(Error::NotAnAssignment { line });
        }
        let value = value_of(key, value, line, &mut lines)?;
        assignments.push(Assignment { key: key.to_owned(), line, value });
    }
    Ok(assignments)
}

fn as_text(text: &[u8]) -> Result<&str, Error> {
    let line_of = |end: usize| 1 + text[..end].iter().filter(|&&byte| byte == b'\n').count();
    let found = match std::str::from_utf8(text) {
        Ok(found) => found,
        Err(error) => return Err(Error::NotText { line: line_of(error.valid_up_to()) }),
    };
    match found.find('\0') {
        Some(at) => Err(Error::NotText { line: line_of(at) }),
        None => Ok(found.strip_prefix('\u{feff}').unwrap_or(found)),
    }
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn value_of(key: &str, value: &str, line: usize, lines: &mut Lines) -> Result<Vec<Piece>, Error> {
    let body = value.trim_start();
    let Some(quote @ ('\'' | '"')) = body.chars().next() else {
        return Ok(pieces(before_comment(value), Quoting::Bare));
    };
    let quoting = if quote == '"' { Quoting::Double } else { Quoting::Single };
    if let Some(end) = closing(&body[1..], quote) {
        let (inner, after) = (&body[1..=end], &body[end + 2..]);
        if ends_here(after) {
            return Ok(pieces(inner, quoting));
        }
        // foreman takes the outermost quotes (`'it's'`), or none (`"a" b`).
        let whole = before_comment(body);
        return Ok(match whole[1..].strip_suffix(quote) {
            Some(inner) => pieces(inner, quoting),
            None => pieces(whole, Quoting::Bare),
        });
    }
    let mut inner = body[1..].to_owned();
    for (text, here) in lines {
        inner.push('\n');
        let text = text.strip_suffix('\r').unwrap_or(text);
        if let Some(end) = closing(text, quote) {
            if !ends_here(&text[end + 1..]) {
                return Err(Error::AfterQuote { line: here, key: key.to_owned() });
            }
            inner.push_str(&text[..end]);
            return Ok(pieces(&inner, quoting));
        }
        inner.push_str(text);
    }
    Err(Error::OpenQuote { line, key: key.to_owned() })
}

/// Where `quote` closes in `text`, which begins inside of it.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, char) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if char == '\\' && quote == '"' {
            escaped = true;
        } else if char == quote {
            return Some(at);
        }
    }
    None
}

fn ends_here(text: &str) -> bool {
    before_comment(text).is_empty()
}

/// The value without the comment behind it and the blanks around it.
fn before_comment(value: &str) -> &str {
    let blank = |byte: u8| byte == b' ' || byte == b'\t';
    let bytes = value.as_bytes();
    let comment = (1..bytes.len()).find(|&at| bytes[at] == b'#' && blank(bytes[at - 1]));
    value[..comment.unwrap_or(value.len())].trim()
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Quoting {
    Bare,
    Single,
    Double,
}

fn pieces(text: &str, quoting: Quoting) -> Vec<Piece> {
    if quoting == Quoting::Single {
        return vec![Piece::Text(text.to_owned())];
    }
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let mut used = char.len_utf8();
        let next = rest[used..].chars().next();
        match (char, next) {
            ('\\', Some(escaped)) if quoting == Quoting::Double => {
                used += escaped.len_utf8();
                match escaped {
                    'n' => plain.push('\n'),
                    '\n' => plain.push_str("\\\n"),
                    other => plain.push(other),
                }
            }
            // Bare text has no escapes, but this one asks not to be replaced.
            ('\\', Some('$')) => {
                used += 1;
                plain.push_str("\\$");
            }
            ('$', Some(_)) if let Some((name, length)) = reference(rest) => {
                used = length;
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                let spelling = rest[..length].to_owned();
                pieces.push(Piece::Reference { name: name.to_owned(), spelling });
            }
            (other, _) => plain.push(other),
        }
        rest = &rest[used..];
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    pieces
}

/// The variable that `$X…` or `${X}…` refers to, and the length of the reference.
fn reference(text: &str) -> Option<(&str, usize)> {
    let text = text.strip_prefix('$')?;
    let braced = text.strip_prefix('{');
    let name = braced.unwrap_or(text);
    let end = name.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    let (name, after) = name.split_at(end);
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    match braced {
        Some(_) => after.starts_with('}').then_some((name, name.len() + 3)),
        None => Some((name, name.len() + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The assignments as `KEY=value`, references in angle brackets.
    fn read(text: &str) -> Vec<String> {
        let show = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Reference { name, .. } => format!("<{name}>"),
        };
        let assignments = parse(text.as_bytes()).unwrap();
        let value = |found: &Assignment| found.value.iter().map(show).collect::<String>();
        assignments.iter().map(|found| format!("{}={}", found.key, value(found))).collect()
    }

    #[test]
    fn a_value_is_foremans() {
        for (text, expected) in [
            ("A=foo bar", "A=foo bar"),
            ("A=it's", "A=it's"),
            ("A='it's'", "A=it's"),
            ("A=abc\\def", "A=abc\\def"),
            ("A=\"a\\tb\"", "A=atb"),
            ("A=\"a\\nb\"", "A=a\nb"),
            ("A='a\\nb'", "A=a\\nb"),
            ("A=\"{\"x\": 1}\"", "A={\"x\": 1}"),
            ("A=\"x\" y", "A=\"x\" y"),
            ("1A=x", "1A=x"),
            ("A=b=c", "A=b=c"),
            ("A=", "A="),
            ("A=''", "A="),
            ("A=#b", "A=#b"),
            ("A=a#b", "A=a#b"),
            ("A=pa$$word", "A=pa$<word>"),
            ("A=\\$B", "A=\\$B"),
        ] {
            assert_eq!(read(text), [expected], "{text}");
        }
    }

    #[test]
    fn the_differences_are_the_documented_ones() {
        for (text, expected) in [
            ("A=b # comment", "A=b"),
            ("A='b' # it's", "A=b"),
            ("A= # comment", "A="),
            ("export A=b", "A=b"),
            ("  A =  b  ", "A=b"),
            ("\u{feff}A=b\r\n", "A=b"),
            ("A=x${B}y$C", "A=x<B>y<C>"),
            ("A=\"$B\\$C\"", "A=<B>$C"),
            ("A='$B'", "A=$B"),
            ("A=${B:-c}", "A=${B:-c}"),
            ("A=\"one\n two \\\"x\\\"\n\" # c", "A=one\n two \"x\"\n"),
            ("A='one\r\ntwo'\r\n", "A=one\ntwo"),
        ] {
            assert_eq!(read(text), [expected], "{text}");
        }
        assert_eq!(read("# c\n\nA=1\nexport=2\n"), ["A=1", "export=2"]);
    }

    #[test]
    fn an_error_names_the_line_and_not_the_value() {
        let error = |text: &[u8]| parse(text).unwrap_err().to_string();
        assert_eq!(error(b"A=1\nhunter2\n"), "line 2: expected `KEY=value`");
        assert_eq!(error(b"A B=hunter2\n"), "line 1: expected `KEY=value`");
        let open = "line 1: the value of `A` opens a quote that never closes";
        assert_eq!(error(b"A=\"hunter2\nB=1\n"), open);
        let after = "line 2: something follows the closing quote of `A`";
        assert_eq!(error(b"A='hunter2\nB='1'\n"), after);
        assert_eq!(error(b"A=1\nB=\xff\n"), "line 2: is not UTF-8 text");
        assert_eq!(error(b"A=1\n\nB=\0\n"), "line 3: is not UTF-8 text");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[A-Z=\"'\\\\$\\{\\}# \n\ta-cé]{0,60}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn single_quotes_keep_everything(value in "[^'\0]{0,40}") {
            prop_assume!(!value.contains('\r'));
            prop_assert_eq!(read(&format!("A='{value}'")), [format!("A={value}")]);
        }
    }
}
