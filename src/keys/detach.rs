//! The keys with which a client detaches: `ctrl-]`, or a sequence such as `ctrl-p,ctrl-q`.
//!
//! A program may have switched on the kitty keyboard protocol or xterm's `modifyOtherKeys`, where
//! a key with Ctrl arrives as an escape sequence. Those are recognized as well.

use std::fmt;
use std::str::FromStr;

/// The keys that detach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DetachKeys {
    /// As the user writes them.
    text: String,
    /// What a terminal may send for the whole sequence.
    encodings: Vec<Vec<u8>>,
}

/// More keys than these are no sequence that a user remembers.
const MAX_KEYS: usize = 4;

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "`{text}` is not a sequence of keys: expected `ctrl-]`, or several such as \
                 `ctrl-p,ctrl-q`"
            )
        };
        let keys: Vec<&str> = text.split(',').collect();
        if keys.len() > MAX_KEYS {
            return Err(error());
        }
        let mut encodings = vec![Vec::new()];
        for key in keys {
            let alternatives = encode(key).ok_or_else(error)?;
            let join = |start: &Vec<u8>| {
                let join = |end: &Vec<u8>| [start.as_slice(), end].concat();
                alternatives.iter().map(join).collect::<Vec<_>>()
            };
            encodings = encodings.iter().flat_map(join).collect();
        }
        Ok(Self { text: text.to_owned(), encodings })
    }
}

impl fmt::Display for DetachKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a terminal may send for one key.
fn encode(key: &str) -> Option<Vec<Vec<u8>>> {
    if let [byte @ b'!'..=b'~'] = key.as_bytes() {
        return Some(vec![vec![*byte]]);
    }
    let [byte] = key.strip_prefix("ctrl-")?.as_bytes() else { return None };
    let byte = byte.to_ascii_lowercase();
    let control = match byte {
        b'a'..=b'z' | b'[' | b'\\' | b']' | b'^' | b'_' => byte & 0x1f,
        b'@' => 0,
        _ => return None,
    };
    let kitty = format!("\x1b[{byte};5u").into_bytes();
    let xterm = format!("\x1b[27;5;{byte}~").into_bytes();
    Some(vec![vec![control], kitty, xterm])
}

/// What is to be done with input.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filtered {
    /// The input that goes to the process.
    pub input: Vec<u8>,
    /// Whether the user detaches after it.
    pub detaches: bool,
}

/// Finds the keys in what the user types.
#[derive(Debug)]
pub struct DetachFilter {
    keys: DetachKeys,
    /// The beginning of the keys, which is held back until it is clear what follows.
    held: Vec<u8>,
}

impl DetachFilter {
    /// A filter for these keys.
    #[must_use]
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys, held: Vec::new() }
    }

    /// Takes what was read at once.
    pub fn push(&mut self, typed: &[u8]) -> Filtered {
        let mut input = Vec::new();
        for byte in typed {
            self.held.push(*byte);
            while !self.held.is_empty() && !self.is_beginning() {
                input.push(self.held.remove(0));
            }
            if self.keys.encodings.contains(&self.held) {
                self.held.clear();
                return Filtered { input, detaches: true };
            }
        }
        // The escape key alone: a sequence arrives at once.
        if self.held.first() == Some(&b'\x1b') {
            input.append(&mut self.held);
        }
        Filtered { input, detaches: false }
    }

    fn is_beginning(&self) -> bool {
        self.keys.encodings.iter().any(|keys| keys.starts_with(&self.held))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut filter = DetachFilter::new(keys.parse().unwrap());
        let mut all = Vec::new();
        for piece in pieces {
            let Filtered { input, detaches } = filter.push(piece);
            all.extend(input);
            if detaches {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn key_detaches_after_what_was_typed_before() {
        assert_eq!(filter("ctrl-]", &[b"ab\x1dc"]), (b"ab".to_vec(), true));
        assert_eq!(filter("ctrl-]", &[b"a\x1b[93;5u"]), (b"a".to_vec(), true));
        assert_eq!(filter("ctrl-]", &[b"\x1b[27;5;93~"]), (vec![], true));
    }

    #[test]
    fn beginning_of_a_sequence_is_held_back() {
        assert_eq!(filter("ctrl-p,ctrl-q", &[b"\x10", b"\x11"]), (vec![], true));
        assert_eq!(filter("ctrl-p,ctrl-q", &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(filter("ctrl-p,ctrl-q", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
    }

    #[test]
    fn escape_key_is_not_held_back() {
        assert_eq!(filter("ctrl-]", &[b"\x1b"]), (b"\x1b".to_vec(), false));
        assert_eq!(filter("ctrl-]", &[b"\x1b[A"]), (b"\x1b[A".to_vec(), false));
    }

    #[test]
    fn keys_are_parsed_as_docker_writes_them() {
        for keys in ["ctrl-]", "ctrl-\\", "ctrl-@", "ctrl-A,d", "q"] {
            assert_eq!(keys.parse::<DetachKeys>().unwrap().to_string(), keys);
        }
        for keys in ["", "ctrl-", "ctrl-é", "ctrl-1", "qq", "a,,b", "a,b,c,d,e"] {
            assert!(keys.parse::<DetachKeys>().is_err(), "{keys}");
        }
    }

    proptest! {
        #[test]
        fn input_without_the_keys_is_passed_on(
            typed in proptest::collection::vec(0u8..0x1b, 0..40),
        ) {
            let (mut passed, detaches) = filter("ctrl-]", &[&typed]);
            prop_assert!(!detaches);
            prop_assert_eq!(&std::mem::take(&mut passed), &typed);
        }
    }
}
