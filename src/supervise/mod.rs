//! **Keeping it running**: a pure state machine decides, the engine does.

mod backoff;
mod clock;
pub mod command;
pub mod engine;
pub mod exit;
mod launch;
pub mod listeners;
mod oom;
mod order;
mod process;
mod readiness;
pub mod share;
mod shutdown;
pub mod signals;
pub mod sockets;
mod state;
mod status;
pub mod supervisor;
pub mod taken;
mod watch;
