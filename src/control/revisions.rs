//! The revision of a running app: found on a thread, because git may take long.

use std::path::Path;

use tokio::sync::watch;

use super::api::Revision;
use crate::revision::{find_commit, has_changes};

/// The revision as of the start or the last reload.
#[derive(Clone, Debug, Default)]
pub struct Revisions(watch::Sender<Option<Revision>>);

impl Revisions {
    /// The revision, once it is read.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Revision>> {
        self.0.subscribe()
    }

    /// Begins to read the revision of this folder.
    pub fn refresh(&self, root: &Path) {
        let (sender, root) = (self.0.clone(), root.to_owned());
        let find = move || {
            let found = find_commit(&root).map(|commit| Revision { commit, dirty: None });
            let is_found = found.is_some();
            sender.send_replace(found);
            if is_found {
                let dirty = has_changes(&root);
                sender.send_modify(|found| {
                    if let Some(found) = found {
                        found.dirty = dirty;
                    }
                });
            }
        };
        // Without a thread there is no revision.
        let _ = std::thread::Builder::new().name("revision".into()).spawn(find);
    }
}
