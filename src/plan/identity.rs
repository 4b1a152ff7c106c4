//! The identity of a ganger: what distinguishes it from others with the same root.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The Procfile that a ganger runs, and the name that the user gave it. Together with the root
/// it identifies a running ganger.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The Procfile as seen from the root; none for `Procfile`.
    pub procfile: Option<PathBuf>,
    /// `--name`.
    pub name: Option<String>,
}

impl Identity {
    /// A hash of the root and this identity, the same in every version.
    #[must_use]
    pub fn hash(&self, root: &Path) -> u64 {
        let root = root.as_os_str().as_bytes();
        if *self == Self::default() {
            return hash(root);
        }
        let procfile = self.procfile.as_deref().unwrap_or(Path::new("")).as_os_str().as_bytes();
        let name = self.name.as_deref().unwrap_or_default().as_bytes();
        // No path and no name contains a NUL.
        hash([root, procfile, name].join(&0).iter())
    }
}

/// A hash that is the same in every version (FNV-1a).
pub fn hash<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Parses `--name`: it is a part of file names.
pub fn parse_name(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_valid) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is not a name; expected at most {MAX_NAME_BYTES} letters, digits, `_`, `-` and `.`"
    ))
}

const MAX_NAME_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procfile_and_name_make_a_difference() {
        let root = Path::new("/app");
        let of = |procfile: &str, name: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Identity { procfile: some(procfile).map(Into::into), name: some(name) }.hash(root)
        };
        let all = [of("", ""), of("a", ""), of("", "a"), of("a", "a"), of("aa", "")];
        let different: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
        assert_ne!(all[0], Identity::default().hash(Path::new("/app2")));
    }

    #[test]
    fn name_is_a_part_of_file_names() {
        assert_eq!(parse_name("web-2.x_y"), Ok("web-2.x_y".into()));
        for wrong in ["", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(parse_name(wrong).is_err(), "{wrong}");
        }
    }
}
