//! Ports that processes are to have and somebody else has.

use std::fmt;
use std::sync::Arc;

use super::listeners::Listening;
use crate::plan::Process;
use crate::plan::ready::Ready;

/// A port that a process is to have and somebody else has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Taken {
    /// `web.1`.
    pub process: String,
    /// The port.
    pub port: u16,
    /// Who has it, if this user may know.
    pub holder: Option<String>,
    /// Whether the process is nothing without it.
    pub counts: bool,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, port, holder, .. } = self;
        write!(f, "port {port}, which {process} is to have, is taken")?;
        holder.as_ref().map_or(Ok(()), |holder| write!(f, " by {holder}"))
    }
}

/// Those of these processes' ports that somebody listens on.
pub fn taken<'a>(
    processes: impl IntoIterator<Item = &'a Arc<Process>>,
    listening: &Listening,
) -> Vec<Taken> {
    let mut census = None;
    let mut all = Vec::new();
    for process in processes {
        let Some(port) = process.port.filter(|port| listening.contains_key(port)) else { continue };
        let counts = process.listen || matches!(process.ready, Ready::Port | Ready::Http(_));
        let holder = holder(&mut census, port, listening);
        all.push(Taken { process: process.name.clone(), port, holder, counts });
    }
    all
}

#[cfg(target_os = "linux")]
type Census = Option<super::listeners::Census>;
#[cfg(not(target_os = "linux"))]
type Census = Option<()>;

/// To know who it is takes a look at every process, for all ports together.
#[cfg(target_os = "linux")]
fn holder(census: &mut Census, port: u16, listening: &Listening) -> Option<String> {
    let census = census.get_or_insert_with(super::listeners::Census::take);
    census.holder(port, listening).map(|holder| holder.to_string())
}

#[cfg(not(target_os = "linux"))]
fn holder(_: &mut Census, _: u16, _: &Listening) -> Option<String> {
    None
}
