//! By what clients find a running ganger: the names of its socket, and its run file.

use super::app_root::AppRoot;
use super::run_file::RunFile;
use super::socket::Aliases;

/// The files by which clients find this ganger. They are removed when this is dropped.
#[derive(Debug, Default)]
pub struct Registration {
    /// The names of the socket, unless the user gave it one.
    pub aliases: Option<Aliases>,
    /// The run file, if the runtime folder can be used.
    pub run_file: Option<RunFile>,
}

impl Registration {
    /// Makes this ganger reachable by the paths of this root. If that fails, because another ganger
    /// may have one of them, it keeps its other paths.
    pub fn set_root(&mut self, root: &AppRoot) {
        if let Some(aliases) = &mut self.aliases {
            aliases.set(root).unwrap_or_else(|error| tracing::debug!(%error));
        }
        if let Some(run_file) = &mut self.run_file {
            run_file.set_root(root).unwrap_or_else(|error| tracing::debug!(%error));
        }
    }
    /// Tells clients the base port.
    pub fn set_base_port(&mut self, base: Option<u16>) {
        if let Some(run_file) = &mut self.run_file {
            run_file.set_base_port(base).unwrap_or_else(|error| tracing::debug!(%error));
        }
    }
}
