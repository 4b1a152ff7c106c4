//! The Procfile: `name: command`, one process type a line.

use std::collections::HashMap;

/// A process type: a line of the Procfile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProcessType {
    /// The name of the type: `web`.
    pub name: String,
    /// The command, as it is in the file.
    pub command: String,
    /// The line on which it begins, counted from 1.
    pub line: usize,
}

/// Why a Procfile can't be read. Lines count from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The line is neither a process type, a comment nor blank.
    #[error("line {line}: {problem}")]
    InvalidLine {
        /// The line.
        line: usize,
        /// The rule that it breaks.
        problem: Problem,
    },
    /// The line looks like a process type, and the line before it ends in a backslash.
    #[error(
        "line {line}: `{name}` would be part of line {first}, which ends in a `\\` (remove that, \
         or indent line {line})"
    )]
    ContinuedByType {
        /// The line.
        line: usize,
        /// The name that it begins with.
        name: String,
        /// The line that ends in a backslash.
        first: usize,
    },
    /// The line is not text.
    #[error("line {line}: is not UTF-8 text")]
    NotText {
        /// The line.
        line: usize,
    },
    /// Two types have the same name.
    #[error("line {line}: `{name}` is already defined on line {first}")]
    Duplicate {
        /// The repeated name.
        name: String,
        /// The line of the first type.
        first: usize,
        /// The line of the second type.
        line: usize,
    },
    /// The last line ends in a backslash.
    #[error("line {line}: ends in a `\\`, but no line follows")]
    OpenContinuation {
        /// The line.
        line: usize,
    },
    /// The file defines no process type.
    #[error("defines no process type: a line is `name: command`")]
    Empty,
}

/// Why a line defines no process type. An assignment is not shown, because it may be a secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them")]
pub enum Problem {
    #[error("`{0}` has no command")]
    NoCommand(String),
    #[error("`{0}` is not a valid name (letters, digits, `_` and `-`)")]
    Name(String),
    #[error("expected `name: command` at the start of the line, found `{0}`")]
    Indented(String),
    #[error("expected `name: command`, found an assignment (variables belong in `.env`)")]
    Assignment,
    #[error("`{0}` is a merge conflict marker")]
    MergeConflict(&'static str),
    #[error("expected `name: command`, found `{0}` (comments begin with `#`)")]
    Other(String),
}

/// The markers that git writes around conflicting versions of a line.
const CONFLICT_MARKERS: [&str; 4] = ["<<<<<<<", "|||||||", "=======", ">>>>>>>"];

impl Problem {
    fn new(line: &str) -> Self {
        let text = line.trim();
        if let Some(marker) = CONFLICT_MARKERS.iter().find(|marker| text.starts_with(**marker)) {
            return Self::MergeConflict(marker);
        }
        let (key, is_assigned) = match text.strip_prefix("export ").unwrap_or(text).split_once('=')
        {
            Some((key, _)) => (key.trim_end(), true),
            None => ("", false),
        };
        let is_key_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if is_assigned && key.bytes().all(is_key_byte) {
            return Self::Assignment;
        }
        match text.split_once(':') {
            _ if text.starts_with(|first: char| !first.is_ascii_alphanumeric() && first != '_') => {
                Self::Other(excerpt(text))
            }
            Some((name, command)) if is_name(name) && command.trim().is_empty() => {
                Self::NoCommand(text.to_owned())
            }
            Some((name, _)) if is_name(name) => Self::Indented(excerpt(line)),
            Some((name, _)) => Self::Name(excerpt(name)),
            None => Self::Other(excerpt(text)),
        }
    }
}

/// How many characters of a line an error shows.
const MAX_EXCERPT: usize = 60;

/// The beginning of a line, without control characters and without the value of an
/// assignment in it.
fn excerpt(line: &str) -> String {
    let (shown, is_cut) = match line.split_once('=') {
        Some((before, after)) if !after.is_empty() => (format!("{before}="), true),
        Some(_) | None => (line.to_owned(), false),
    };
    let mut chars = shown.chars();
    let mut text = String::new();
    for char in chars.by_ref().take(MAX_EXCERPT) {
        if char.is_control() { text.extend(char.escape_default()) } else { text.push(char) }
    }
    if is_cut || chars.next().is_some() {
        text.push('…');
    }
    text
}

/// Reads the text of a Procfile; process types come in the order of the file.
///
/// Comments (`#`), blank lines, CRLF and a byte-order mark are accepted, and a
/// trailing backslash continues a command as it would in a shell. Everything
/// else that foreman would skip in silence is an error, so that neither a typo
/// nor a merge conflict makes a process disappear.
pub fn parse(text: &[u8]) -> Result<Vec<ProcessType>, Error> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut lines =
        text.split(|&byte| byte == b'\n').zip(1..).map(|(bytes, line)| match std::str::from_utf8(
            bytes,
        )
        .map(|text| text.trim_end_matches('\r'))
        {
            Ok(text) if !text.contains('\0') => Ok((text, line)),
            Ok(_) | Err(_) => Err(Error::NotText { line }),
        });
    let mut types: Vec<ProcessType> = Vec::new();
    let mut seen = HashMap::new();
    while let Some(next) = lines.next() {
        let (text, line) = next?;
        if text.trim().is_empty() || text.trim_start().starts_with('#') {
            continue;
        }
        let invalid_line = || Error::InvalidLine { line, problem: Problem::new(text) };
        let (name, rest) = split_line(text).ok_or_else(invalid_line)?;
        let mut command = rest.to_owned();
        while is_continued(&command) {
            command.pop();
            match lines.next().transpose()? {
                Some((more, here)) => {
                    if let Some(name) = type_name(more) {
                        let (line, name) = (here, name.to_owned());
                        return Err(Error::ContinuedByType { line, name, first: here - 1 });
                    }
                    command.push_str(more);
                }
                None => return Err(Error::OpenContinuation { line }),
            }
        }
        // A command may begin on the next line.
        let command = command.trim_start().to_owned();
        if command.is_empty() {
            return Err(invalid_line());
        }
        if let Some(first) = seen.insert(name.to_owned(), line) {
            let name = name.to_owned();
            return Err(Error::Duplicate { name, first, line });
        }
        types.push(ProcessType { name: name.to_owned(), command, line });
    }
    if types.is_empty() { Err(Error::Empty) } else { Ok(types) }
}

/// Whether `name` can name a process type.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !name.is_empty() && name.bytes().all(allowed)
}

/// The name of the process type, if a continued line looks like a process type. A URL does not.
fn type_name(line: &str) -> Option<&str> {
    let (name, command) = split_line(line)?;
    (!command.trim().is_empty() && !command.starts_with("//")).then_some(name)
}

fn split_line(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once(':')?;
    is_name(name).then_some((name, rest))
}

/// A backslash that is itself escaped continues nothing.
fn is_continued(command: &str) -> bool {
    command.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands(text: &str) -> Vec<(String, String)> {
        let types = parse(text.as_bytes()).unwrap();
        types.into_iter().map(|process_type| (process_type.name, process_type.command)).collect()
    }

    fn one(name: &str, command: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), command.to_owned())]
    }

    #[test]
    fn process_types_are_parsed() {
        assert_eq!(commands("web: run"), one("web", "run"));
        assert_eq!(commands("web:run\n"), one("web", "run"));
        assert_eq!(commands("\u{feff}web: run\r\n\r\n# c\r\n"), one("web", "run"));
        assert_eq!(commands("a_b-1:\t x: y | 'z'  "), one("a_b-1", "x: y | 'z'  "));
        assert_eq!(commands("web: a \\\n  b\\\nc\n"), one("web", "a   bc"));
        assert_eq!(commands("web: a\\\\\n"), one("web", "a\\\\"));
        assert_eq!(commands("web: \\\n  run"), one("web", "run"));
        assert_eq!(commands("web: a \\\n b: c"), one("web", "a  b: c"));
        assert_eq!(commands("web: curl \\\nhttp://x/y"), one("web", "curl http://x/y"));
    }

    #[test]
    fn invalid_procfile_line_is_refused_with_its_number() {
        let error = |text: &[u8]| parse(text).unwrap_err().to_string();
        for (text, expected) in [
            ("web: a\n<<<<<<< HEAD\n", "line 2: `<<<<<<<` is a merge conflict marker"),
            ("=======\n", "line 1: `=======` is a merge conflict marker"),
            ("\nweb:\n", "line 2: `web:` has no command"),
            ("web:   \n", "line 1: `web:` has no command"),
            (
                " web: a\n",
                "line 1: expected `name: command` at the start of the line, found ` web: a`",
            ),
            ("my app: a\n", "line 1: `my app` is not a valid name (letters, digits, `_` and `-`)"),
            ("web.1: a\n", "line 1: `web.1` is not a valid name (letters, digits, `_` and `-`)"),
            (
                "// web: a\n",
                "line 1: expected `name: command`, found `// web: a` (comments begin with `#`)",
            ),
            (
                "web: a\nworker\n",
                "line 2: expected `name: command`, found `worker` (comments begin with `#`)",
            ),
            (
                "worker \x1b]0;x\x07 TOKEN=hunter2\n",
                "line 1: expected `name: command`, found `worker \\u{1b}]0;x\\u{7} TOKEN=…` \
                 (comments begin with `#`)",
            ),
            (
                "export TOKEN=hunter2:x\n",
                "line 1: expected `name: command`, found an assignment (variables belong in `.env`)",
            ),
            (
                "TOKEN=hunter2\n",
                "line 1: expected `name: command`, found an assignment (variables belong in `.env`)",
            ),
            (
                "web: a \\\nworker: b\n",
                "line 2: `worker` would be part of line 1, which ends in a `\\` (remove that, or \
                 indent line 2)",
            ),
            (
                "web: a \\\n  b \\\nworker:b\n",
                "line 3: `worker` would be part of line 2, which ends in a `\\` (remove that, or \
                 indent line 3)",
            ),
        ] {
            assert_eq!(error(text.as_bytes()), expected, "{text}");
        }
        let long = format!("{}\n", "é".repeat(100));
        assert!(error(long.as_bytes()).contains(&format!("found `{}…`", "é".repeat(60))));
        assert_eq!(error(b"web: a\n\xff\xfe\n"), "line 2: is not UTF-8 text");
        assert_eq!(error(b"web: a\0\n"), "line 1: is not UTF-8 text");
        assert_eq!(error(b"a: 1\n\na: 2\n"), "line 3: `a` is already defined on line 1");
        assert_eq!(error(b"a: 1 \\"), "line 1: ends in a `\\`, but no line follows");
        assert_eq!(error(b"# nothing\n"), Error::Empty.to_string());
        assert_eq!(error(b""), Error::Empty.to_string());
    }

    proptest! {
        #[test]
        fn never_panics_and_names_are_unique(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(types) = parse(&text) {
                for (index, process_type) in types.iter().enumerate() {
                    prop_assert!(is_name(&process_type.name) && !process_type.command.trim().is_empty());
                    prop_assert!(types[..index].iter().all(|other| other.name != process_type.name));
                }
            }
        }

        #[test]
        fn any_valid_line_is_parsed(name in "[A-Za-z0-9_-]{1,9}", command in "[!-\\[\\]-~][ -\\[\\]-~]{0,30}") {
            prop_assert_eq!(commands(&format!("{name}: {command}\n")), one(&name, &command));
        }
    }
}
