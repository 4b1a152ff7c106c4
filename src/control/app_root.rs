//! The root of an app, by the paths that it is found by.
//!
//! One is its real path. The other is the path that the user knows it by, which differs
//! where that is a link: a deployment has `current -> releases/1`, and later changes that to
//! `releases/2` while the app runs. Then `current` still means the app that was started in
//! `current`; only if there is none does it mean the one in the folder that it leads to. A
//! reload follows the link.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::plan::sources::FileLocations;

/// A folder, by its paths.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppRoot {
    /// The path without symbolic links.
    pub real: PathBuf,
    /// The path that the user knows, if it differs.
    pub logical: Option<PathBuf>,
}

impl AppRoot {
    /// The root of the app whose files are there.
    pub fn find(locations: &FileLocations) -> io::Result<Self> {
        Ok(Self::new(&locations.root(), locations.find_root()?))
    }

    /// The folder with the path `real`, which the user knows as `known`.
    #[must_use]
    pub fn new(known: &Path, real: PathBuf) -> Self {
        Self { logical: without_dots(known).filter(|known| *known != real), real }
    }

    /// Its paths, in the order in which clients try them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.logical.iter().chain([&self.real]).map(PathBuf::as_path)
    }
}

/// An absolute path without `.` and trailing slashes. What `..` means depends on the links
/// before it.
fn without_dots(path: &Path) -> Option<PathBuf> {
    let has_parent = path.components().any(|part| part == Component::ParentDir);
    (path.is_absolute() && !has_parent).then(|| path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_path_is_the_one_that_differs() {
        let logical =
            |known: &str| AppRoot::new(Path::new(known), "/srv/releases/1".into()).logical;
        for known in ["/srv/current", "/srv/current/", "/srv/./current/."] {
            assert_eq!(logical(known), Some("/srv/current".into()), "{known}");
        }
        for known in ["/srv/releases/1", "/srv/releases//1/", "current", "/srv/x/../current", ""] {
            assert_eq!(logical(known), None, "{known}");
        }
    }
}
