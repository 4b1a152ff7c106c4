//! The Procfile: `name: command`, one process type a line.

use std::collections::HashMap;

/// A process type: a line of the Procfile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What the type is called: `web`.
    pub name: String,
    /// What the shell is given, as it stands in the file.
    pub command: String,
    /// The line on which the entry begins, counted from 1.
    pub line: usize,
}

/// Why a Procfile can't be read. Lines count from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The line is neither an entry, a comment nor blank.
    #[error("line {line}: expected `name: command`")]
    NotAnEntry {
        /// Where it stands.
        line: usize,
    },
    /// The line is not text.
    #[error("line {line}: is not UTF-8 text")]
    NotText {
        /// Where it stands.
        line: usize,
    },
    /// Two entries have one name.
    #[error("line {line}: `{name}` is already defined on line {first}")]
    Duplicate {
        /// The name that stands twice.
        name: String,
        /// Where it stood first.
        first: usize,
        /// Where it stands again.
        line: usize,
    },
    /// The last line ends in a backslash.
    #[error("line {line}: ends in a `\\`, but no line follows")]
    OpenContinuation {
        /// Where it stands.
        line: usize,
    },
    /// No entry at all.
    #[error("defines no process type: a line is `name: command`")]
    Empty,
}

/// Reads the text of a Procfile; entries come in the order of the file.
///
/// Comments (`#`), blank lines, CRLF and a byte-order mark are accepted, and a
/// trailing backslash continues a command as it would in a shell. Everything
/// else that foreman would skip in silence is an error, so that neither a typo
/// nor a merge conflict makes a process disappear.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>, Error> {
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
    let mut entries: Vec<Entry> = Vec::new();
    let mut seen = HashMap::new();
    while let Some(next) = lines.next() {
        let (text, line) = next?;
        if text.trim().is_empty() || text.trim_start().starts_with('#') {
            continue;
        }
        let (name, rest) = split(text).ok_or(Error::NotAnEntry { line })?;
        let mut command = rest.to_owned();
        while is_continued(&command) {
            command.pop();
            match lines.next().transpose()? {
                Some((more, _)) => command.push_str(more),
                None => return Err(Error::OpenContinuation { line }),
            }
        }
        // A command may begin on the next line.
        let command = command.trim_start().to_owned();
        if command.is_empty() {
            return Err(Error::NotAnEntry { line });
        }
        if let Some(first) = seen.insert(name.to_owned(), line) {
            let name = name.to_owned();
            return Err(Error::Duplicate { name, first, line });
        }
        entries.push(Entry { name: name.to_owned(), command, line });
    }
    if entries.is_empty() { Err(Error::Empty) } else { Ok(entries) }
}

/// Whether `name` can name a process type.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !name.is_empty() && name.bytes().all(allowed)
}

fn split(line: &str) -> Option<(&str, &str)> {
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
        let entries = parse(text.as_bytes()).unwrap();
        entries.into_iter().map(|entry| (entry.name, entry.command)).collect()
    }

    fn one(name: &str, command: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), command.to_owned())]
    }

    #[test]
    fn reads_what_people_write() {
        assert_eq!(commands("web: run"), one("web", "run"));
        assert_eq!(commands("web:run\n"), one("web", "run"));
        assert_eq!(commands("\u{feff}web: run\r\n\r\n# c\r\n"), one("web", "run"));
        assert_eq!(commands("a_b-1:\t x: y | 'z'  "), one("a_b-1", "x: y | 'z'  "));
        assert_eq!(commands("web: a \\\n  b\\\nc\n"), one("web", "a   bc"));
        assert_eq!(commands("web: a\\\\\n"), one("web", "a\\\\"));
        assert_eq!(commands("web: \\\n  run"), one("web", "run"));
    }

    #[test]
    fn refuses_the_rest_by_line() {
        let error = |text: &[u8]| parse(text).unwrap_err().to_string();
        let expected = |line| format!("line {line}: expected `name: command`");
        assert_eq!(error(b"web: a\n<<<<<<< HEAD\n"), expected(2));
        assert_eq!(error(b"\nweb:\n"), expected(2));
        assert_eq!(error(b"web:   \n"), expected(1));
        assert_eq!(error(b" web: a\n"), expected(1));
        assert_eq!(error(b"my app: a\n"), expected(1));
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
            if let Ok(entries) = parse(&text) {
                for (index, entry) in entries.iter().enumerate() {
                    prop_assert!(is_name(&entry.name) && !entry.command.trim().is_empty());
                    prop_assert!(entries[..index].iter().all(|other| other.name != entry.name));
                }
            }
        }

        #[test]
        fn what_is_written_is_read(name in "[A-Za-z0-9_-]{1,9}", command in "[!-\\[\\]-~][ -\\[\\]-~]{0,30}") {
            prop_assert_eq!(commands(&format!("{name}: {command}\n")), one(&name, &command));
        }
    }
}
