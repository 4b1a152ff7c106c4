//! **Keeping it running**: a pure state machine decides, the engine does.

mod backoff;
mod clock;
mod dependencies;
pub mod engine;
mod gate;
pub mod handle;
pub mod listeners;
mod oom;
pub mod port_conflict;
pub mod port_scan;
mod process;
mod readiness;
pub mod share;
mod shutdown;
pub mod signals;
mod spawn_request;
mod state;
mod status;
pub mod supervisor;
mod watch;
