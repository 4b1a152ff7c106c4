//! The text of a `.env` file, read into assignments.
//!
//! dotenvy parses every assignment: keys, quotes, escapes, comments, values of several
//! lines. This module prepares its input, one assignment at a time:
//!
//! - A value that foreman accepts and dotenvy refuses or reads differently is quoted first, as in
//!   `A=it's` or `A=two words`.
//! - A reference (`$X`, `${X}`) is marked by a byte that no file may contain, and resolved in
//!   `env.rs`. dotenvy never sees a reference, because it would resolve it in ganger's own
//!   environment.

use std::borrow::Cow;

/// `KEY=value`, its references not yet resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    /// The variable's name.
    pub key: String,
    /// The line on which the assignment begins, counted from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// The value of an assignment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// `export NAME`: the variable keeps the value that it has.
    Inherited,
    /// The pieces of the value, in the order in which they are joined.
    Pieces(Vec<Piece>),
}

/// A part of a value.
#[derive(Clone, Eq, PartialEq)]
pub enum Piece {
    /// Stands for itself.
    Text(String),
    /// Stands for the value of another variable, if that is set.
    Reference {
        /// The variable's name.
        name: String,
        /// The text in the file, which stays if the variable is not set.
        spelling: String,
    },
}

/// A value may be a secret, and a `$` in it may not be a reference: only its length is shown.
impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Reference { spelling, .. } => write!(f, "Reference({} bytes)", spelling.len()),
        }
    }
}

/// Why a `.env` file can't be read. No error shows a value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The line has no `=`, and is neither a comment nor blank.
    #[error("line {line}: expected `KEY=value`, found no `=`")]
    NoEquals {
        /// The line.
        line: usize,
    },
    /// `KEY: value`.
    #[error("line {line}: expected `{key}=value`, found `{key}: …`")]
    Colon {
        /// The line.
        line: usize,
        /// The word before the colon.
        key: String,
    },
    /// The text before the `=` is not a valid key.
    #[error(
        "line {line}: {} is not a valid key (letters, digits, `_`, `.` and `-`)",
        .key.as_ref().map_or_else(|| "the text before `=`".to_owned(), |key| format!("`{key}`"))
    )]
    Key {
        /// The line.
        line: usize,
        /// The text, unless that may be the rest of a secret.
        key: Option<String>,
    },
    /// A quote opens and never closes.
    #[error("line {line}: the value of `{key}` opens a quote that never closes")]
    OpenQuote {
        /// The line on which the assignment begins.
        line: usize,
        /// The variable's name.
        key: String,
    },
    /// A quote closes on a later line, and something follows it.
    #[error("line {line}: something follows the closing quote of `{key}`")]
    AfterQuote {
        /// The line on which the quote closes.
        line: usize,
        /// The variable's name.
        key: String,
    },
    /// dotenvy refuses the value, though it was prepared.
    #[error("line {line}: the value of `{key}` can't be read")]
    Refused {
        /// The line on which the assignment begins.
        line: usize,
        /// The variable's name.
        key: String,
    },
    /// The line is not text.
    #[error("line {line}: is not UTF-8 text")]
    NotText {
        /// The line.
        line: usize,
    },
}

type Lines<'a> = std::iter::Zip<std::str::Split<'a, char>, std::ops::RangeFrom<usize>>;

/// Reads the text of a `.env` file; assignments come in the order of the file.
pub fn parse(text: &[u8]) -> Result<Vec<Assignment>, Error> {
    let text = decode(text)?;
    let mut lines = text.split('\n').zip(1..);
    let mut assignments = Vec::new();
    while let Some((text, line)) = lines.next() {
        let text = text.strip_suffix('\r').unwrap_or(text).trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (key, value) = match split(text, line)? {
            Head::Inherited(key) => (key, Value::Inherited),
            Head::Assigned { key, head, value } => {
                let body = take_body(key, value, line, &mut lines)?;
                let refused = || Error::Refused { line, key: key.to_owned() };
                let value = parse_value(key, head, &body).ok_or_else(refused)?;
                (key, Value::Pieces(value))
            }
        };
        assignments.push(Assignment { key: key.to_owned(), line, value });
    }
    Ok(assignments)
}

fn decode(text: &[u8]) -> Result<&str, Error> {
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

/// The beginning of an assignment.
enum Head<'a> {
    /// `export KEY`.
    Inherited(&'a str),
    /// `KEY=value`, perhaps with `export` before it.
    Assigned {
        key: &'a str,
        /// The text before the value.
        head: &'a str,
        value: &'a str,
    },
}

fn split(text: &str, line: usize) -> Result<Head<'_>, Error> {
    let exported = text
        .strip_prefix("export")
        .filter(|rest| rest.starts_with([' ', '\t']))
        .map(str::trim)
        .filter(|rest| !rest.starts_with('='));
    let Some(equals) = text.find('=') else {
        return match (exported, text.split_once(':')) {
            (Some(key), _) if is_key(key) => Ok(Head::Inherited(key)),
            (_, Some((key, rest)))
                if is_key(key)
                    && key.len() <= MAX_SHOWN_CHARS
                    && !rest.starts_with(|char: char| !char.is_whitespace()) =>
            {
                Err(Error::Colon { line, key: key.to_owned() })
            }
            (_, _) => Err(Error::NoEquals { line }),
        };
    };
    let (head, value) = text.split_at(equals + 1);
    let key = match exported {
        Some(_) => head["export".len()..equals].trim(),
        None => head[..equals].trim_end(),
    };
    if is_key(key) {
        return Ok(Head::Assigned { key, head, value });
    }
    // Words are a mistyped key; anything else may be the rest of a secret.
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b" _.-".contains(&byte);
    let is_shown = !key.is_empty() && key.len() <= MAX_SHOWN_CHARS && key.bytes().all(is_word);
    Err(Error::Key { line, key: is_shown.then(|| key.to_owned()) })
}

/// The longest text before a `=` or `:` that an error shows.
const MAX_SHOWN_CHARS: usize = 40;

fn is_key(key: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !key.is_empty() && key.bytes().all(is_valid)
}

/// The text of a value: the rest of its line, and further lines up to the closing quote if it
/// begins with one.
fn take_body<'a>(
    key: &str,
    value: &'a str,
    line: usize,
    lines: &mut Lines<'a>,
) -> Result<Cow<'a, str>, Error> {
    let Some(quote @ ('\'' | '"')) = value.trim_start().chars().next() else {
        return Ok(value.into());
    };
    let value = value.trim_start();
    if find_closing_quote(&value[1..], quote).is_some() {
        return Ok(value.into());
    }
    let mut body = value.to_owned();
    for (text, here) in lines {
        let text = text.strip_suffix('\r').unwrap_or(text);
        body.push('\n');
        body.push_str(text);
        if let Some(end) = find_closing_quote(text, quote) {
            if !is_end_of_value(&text[end + 1..]) {
                return Err(Error::AfterQuote { line: here, key: key.to_owned() });
            }
            return Ok(body.into());
        }
    }
    Err(Error::OpenQuote { line, key: key.to_owned() })
}

/// The position of the `quote` that closes the quoted text at the start of `text`.
fn find_closing_quote(text: &str, quote: char) -> Option<usize> {
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

/// Whether the value ends before this text.
fn is_end_of_value(text: &str) -> bool {
    strip_comment(text).is_empty()
}

/// The value without a trailing comment and the blanks around it.
fn strip_comment(value: &str) -> &str {
    let blank = |byte: u8| byte == b' ' || byte == b'\t';
    let bytes = value.as_bytes();
    let comment = (1..bytes.len()).find(|&at| bytes[at] == b'#' && blank(bytes[at - 1]));
    value[..comment.unwrap_or(value.len())].trim()
}

/// The value as dotenvy parses it; `None` if it refuses it.
fn parse_value(key: &str, head: &str, body: &str) -> Option<Vec<Piece>> {
    let accepted = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    let is_accepted = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && key.bytes().all(accepted);
    // dotenvy refuses keys such as `1A` and `A-B`: their values are read under another key.
    let head = if is_accepted { head } else { "_=" };
    let text = format!("{head}{}\n", prepare_for_dotenvy(body));
    let (_, value) = dotenvy::from_read_iter(text.as_bytes()).next()?.ok()?;
    Some(split_pieces(&value))
}

/// The value as dotenvy reads it just as foreman does, references marked.
fn prepare_for_dotenvy(after_equals: &str) -> Cow<'_, str> {
    let body = after_equals.trim_start();
    let (value, quoting) = match body.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let end = find_closing_quote(&body[1..], quote).map_or(body.len(), |end| end + 2);
            let quoting = if quote == '"' { Quoting::Double } else { Quoting::Single };
            if is_end_of_value(&body[end..]) {
                (&body[..end], quoting)
            } else {
                // foreman takes the outermost quotes (`'it's'`), or none (`"a" b`).
                let whole = strip_comment(body);
                return match whole[1..].strip_suffix(quote) {
                    Some(inner) => quoted(inner, quoting).into(),
                    None => quoted(whole, Quoting::Bare).into(),
                };
            }
        }
        // A `#` right behind the `=` begins no comment.
        Some(_) | None => (strip_comment(after_equals), Quoting::Bare),
    };
    let inner = match quoting {
        Quoting::Bare => value,
        Quoting::Single | Quoting::Double => &value[1..value.len() - 1],
    };
    if !is_read_equally(inner, quoting) {
        return quoted(inner, quoting).into();
    }
    let comment = if value.is_empty() { after_equals } else { &body[value.len()..] };
    let is_comment = comment.trim_start_matches([' ', '\t']).starts_with('#');
    // After two blanks, dotenvy looks for quotes in a comment.
    let is_plain = is_comment && !comment.contains(['\'', '"', '\\']);
    if is_plain { after_equals.into() } else { value.into() }
}

/// How a value is quoted in the file.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Quoting {
    Bare,
    Single,
    Double,
}

/// Whether dotenvy reads the value just as foreman does, and finds no reference in it.
fn is_read_equally(inner: &str, quoting: Quoting) -> bool {
    match quoting {
        Quoting::Bare => {
            let is_special = |char: char| char.is_whitespace() || "'\"\\$".contains(char);
            !inner.contains(is_special) && !inner.starts_with('#')
        }
        // Where it looks for the end of the line, dotenvy takes `\'` for an escape.
        Quoting::Single => !inner.contains('\\'),
        Quoting::Double => !inner.contains('$') && has_known_escapes(inner),
    }
}

/// The escapes in double quotes that dotenvy reads as foreman does.
const ESCAPES: &str = "\\'\" n";

fn has_known_escapes(inner: &str) -> bool {
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        if char == '\\' && !chars.next().is_some_and(|escaped| ESCAPES.contains(escaped)) {
            return false;
        }
    }
    true
}

/// Before and after a reference: the name, in braces if the file has them.
const REFERENCE_MARK: char = '\0';

/// The value in double quotes, as dotenvy reads it.
fn quoted(inner: &str, quoting: Quoting) -> String {
    let mut text = String::from('"');
    let mut rest = inner;
    while let Some(char) = rest.chars().next() {
        let mut used = char.len_utf8();
        let next = rest[used..].chars().next();
        match (char, next) {
            ('\\', Some(escaped)) if quoting == Quoting::Double => {
                used += escaped.len_utf8();
                match escaped {
                    'n' => text.push_str("\\n"),
                    '\n' => text.push_str("\\\\\n"),
                    other => push(other, &mut text),
                }
            }
            // The only escape in bare text: `\$` is not a reference.
            ('\\', Some('$')) if quoting == Quoting::Bare => {
                used += 1;
                text.push_str("\\\\\\$");
            }
            ('$', Some(_))
                if quoting != Quoting::Single
                    && let Some(length) = reference_length(rest) =>
            {
                used = length;
                text.push(REFERENCE_MARK);
                text.push_str(&rest[1..length]);
                text.push(REFERENCE_MARK);
            }
            (other, _) => push(other, &mut text),
        }
        rest = &rest[used..];
    }
    text.push('"');
    text
}

/// Adds a character that stands for itself.
fn push(char: char, text: &mut String) {
    if matches!(char, '\\' | '"' | '$') {
        text.push('\\');
    }
    text.push(char);
}

/// The length of the reference, `$X` or `${X}`, that the text begins with.
fn reference_length(text: &str) -> Option<usize> {
    let text = text.strip_prefix('$')?;
    let braced = text.strip_prefix('{');
    let name = braced.unwrap_or(text);
    let end = name.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    if end == 0 || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    match braced {
        Some(_) => name[end..].starts_with('}').then_some(end + 3),
        None => Some(end + 1),
    }
}

/// A value as dotenvy has read it, cut at the marks.
fn split_pieces(value: &str) -> Vec<Piece> {
    let piece = |(index, part): (usize, &str)| match index % 2 {
        0 => (!part.is_empty()).then(|| Piece::Text(part.to_owned())),
        _ => {
            let name = part.trim_start_matches('{').trim_end_matches('}').to_owned();
            Some(Piece::Reference { name, spelling: format!("${part}") })
        }
    };
    value.split(REFERENCE_MARK).enumerate().filter_map(piece).collect()
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
        let value = |found: &Assignment| match &found.value {
            Value::Inherited => "(inherited)".to_owned(),
            Value::Pieces(pieces) => pieces.iter().map(show).collect(),
        };
        assignments.iter().map(|found| format!("{}={}", found.key, value(found))).collect()
    }

    #[test]
    fn env_values_are_parsed_as_foreman_does() {
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
            ("A=C:\\new\\", "A=C:\\new\\"),
            ("A=\"x\"y", "A=\"x\"y"),
            ("A='a\\'", "A=a\\"),
            ("A='it\\'s'", "A=it\\'s"),
            ("A=a\u{a0}#b", "A=a\u{a0}#b"),
            ("A=a\u{3000}b", "A=a\u{3000}b"),
            ("A=\"é\\\"\\\\ \\' \\é\"", "A=é\"\\ ' é"),
            ("A=`x`", "A=`x`"),
            ("A=\"a\"#b", "A=\"a\"#b"),
        ] {
            assert_eq!(read(text), [expected], "{text}");
        }
    }

    #[test]
    fn env_differences_from_foreman_are_documented() {
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
            ("A='one\n$B \\\n# two'", "A=one\n$B \\\n# two"),
            ("A=\"one\n$B \\\n# two\"", "A=one\n<B> \\\n# two"),
            ("export\tA = 'b' # it's", "A=b"),
            ("A=b  # it's", "A=b"),
            ("A=   # it's\\", "A="),
            ("A='b'\t \t# \"", "A=b"),
            ("A=b # \u{2026}", "A=b"),
            ("A.b-c=d", "A.b-c=d"),
            ("-=d", "-=d"),
            ("export A", "A=(inherited)"),
            ("export =2", "export=2"),
            ("A=x$1$B_1y${C", "A=x$1<B_1y>${C"),
            ("A=$", "A=$"),
        ] {
            assert_eq!(read(text), [expected], "{text}");
        }
        assert_eq!(read("# c\n\nA=1\nexport=2\n"), ["A=1", "export=2"]);
    }

    #[test]
    fn error_names_the_line_and_not_the_value() {
        let error = |text: &[u8]| parse(text).unwrap_err().to_string();
        let key = |line, key| {
            format!("line {line}: {key} is not a valid key (letters, digits, `_`, `.` and `-`)")
        };
        assert_eq!(error(b"A=1\nhunter2\n"), "line 2: expected `KEY=value`, found no `=`");
        assert_eq!(error(b"https://x\n"), "line 1: expected `KEY=value`, found no `=`");
        assert_eq!(error(b"A: hunter2\n"), "line 1: expected `A=value`, found `A: \u{2026}`");
        assert_eq!(error(b"MY KEY=hunter2\n"), key(1, "`MY KEY`"));
        assert_eq!(error(b"A=b\nhunter/2+x==\n"), key(2, "the text before `=`"));
        assert_eq!(error(b"=hunter2\n"), key(1, "the text before `=`"));
        assert_eq!(error(b"export A B=hunter2\n"), key(1, "`A B`"));
        assert_eq!(error(b"export A hunter2\n"), "line 1: expected `KEY=value`, found no `=`");
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
            let refused = matches!(parse(text.as_bytes()), Err(Error::Refused { .. }));
            prop_assert!(!refused);
        }

        #[test]
        fn single_quotes_keep_everything(value in "[^'\0]{0,40}") {
            prop_assume!(!value.contains('\r'));
            prop_assert_eq!(read(&format!("A='{value}'")), [format!("A={value}")]);
        }

        #[test]
        fn bare_text_without_references_stays(value in "[^\0\r\n$]{0,40}") {
            let value = value.trim();
            prop_assume!(!value.starts_with(['\'', '"']) && !value.contains([' ', '\t']));
            prop_assert_eq!(read(&format!("A={value}")), [format!("A={value}")]);
        }
    }
}
