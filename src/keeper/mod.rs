//! **Nothing survives**: the keeper is a separate process and the parent of every supervised
//! process.
//!
//! Only the keeper forks, signals and reaps them, so that a signal never reaches a process id
//! that was given out again. ganger and its keeper clean up after each other. When ganger
//! dies, the keeper kills all that is left and exits. When the keeper dies, its children die
//! with it, their descendants become children of ganger, and ganger kills them. When both are
//! killed at one instant, the next ganger finds what they left (`stale_sessions`).

mod children;
pub mod client;
pub mod command;
mod exec;
mod isolation;
mod kill;
mod process_table;
pub mod protocol;
mod queue;
mod server;
mod snapshot;
mod spawn;
pub mod stale_sessions;
pub mod start;
mod stop;
mod wait;

pub use server::run;

/// The keeper's name in the process list. It does not contain `ganger`, so that
/// `pkill ganger` leaves the keeper alive to clean up.
pub const NAME: &str = "procfile-keeper";

/// The keeper's command name (comm), which every process of the system can read.
const COMM: &str = "keeper";

/// The keeper's argument if it is to isolate its children.
const ISOLATE: &str = "isolate";

/// Whether this process was started as a keeper.
#[must_use]
pub fn is_keeper() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}
