//! Where a reader of recent output stopped, so that a later one reads only what is new.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How much of the output of each process has been read, up to the end of a line.
///
/// As text: `5f3a91c2:web.1=10412,worker.1=99`, the number of this run of ganger, and the number
/// of bytes of each process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogCursor {
    /// The number of the run of ganger, which another run does not have.
    pub run: u32,
    offsets: BTreeMap<Arc<str>, u64>,
}

impl LogCursor {
    /// A cursor with these offsets.
    pub fn new(run: u32, offsets: impl IntoIterator<Item = (Arc<str>, u64)>) -> Self {
        Self { run, offsets: offsets.into_iter().collect() }
    }

    /// How much of the output of a process has been read, in bytes.
    #[must_use]
    pub fn offset(&self, name: &str) -> u64 {
        self.offsets.get(name).copied().unwrap_or_default()
    }

    /// The output of a process has been read up to this offset.
    pub fn advance(&mut self, name: &Arc<str>, offset: u64) {
        self.offsets.insert(Arc::clone(name), offset);
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:", self.run)?;
        for (index, (name, offset)) in self.offsets.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{name}={offset}")?;
        }
        Ok(())
    }
}

impl FromStr for LogCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (run, rest) = text.split_once(':')?;
            let run = u32::from_str_radix(run, 16).ok()?;
            let mut offsets = BTreeMap::new();
            for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
                let (name, offset) = pair.split_once('=')?;
                offsets.insert(name.into(), offset.parse().ok()?);
            }
            Some(Self { run, offsets })
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not a cursor; expected one that `ganger logs --json` has printed")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cursor_is_read_as_it_is_written() {
        let mut cursor = LogCursor::new(0x5f3a, [("worker.1".into(), 99)]);
        cursor.advance(&"web.1".into(), 10);
        cursor.advance(&"web.1".into(), 12);
        assert_eq!(cursor.to_string(), "5f3a:web.1=12,worker.1=99");
        assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
        assert_eq!((cursor.offset("web.1"), cursor.offset("clock.1")), (12, 0));
        assert_eq!("1:".parse(), Ok(LogCursor::new(1, [])));
        for text in ["", "x", "web.1=3", "1:web.1", "1:web.1=-1", "g:web.1=1"] {
            assert!(text.parse::<LogCursor>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9a-z:=,.]{0,40}") {
            let _ = text.parse::<LogCursor>();
        }
    }
}
