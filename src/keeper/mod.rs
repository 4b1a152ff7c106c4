//! **Nothing survives**: a process of its own that is the parent of everything
//! that runs under supervision.
//!
//! It alone forks, signals and waits, so that a signal never hits a number that
//! has been given out again. ganger and its keeper clean up after each other:
//! when ganger goes, however it goes, the keeper kills what is left and follows;
//! when the keeper goes, its children die with it, what they leave falls to
//! ganger, and ganger kills that. When both are killed at one instant, the next
//! ganger finds what they left.

mod children;
pub mod client;
mod isolation;
mod kill;
mod process_table;
pub mod protocol;
mod queue;
mod server;
mod spawn;
pub mod stale_sessions;
pub mod start;
mod wait;

pub use server::run;

/// What the keeper is called in the process list: something else than ganger,
/// so that `pkill ganger` leaves somebody to clean up.
pub const NAME: &str = "procfile-keeper";

/// Its command name (comm), which every process of the system can see.
const COMM: &str = "keeper";

/// Its argument where children are to be isolated.
const ISOLATE: &str = "isolate";

/// Whether this process was started to be a keeper.
#[must_use]
pub fn is_keeper() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}
