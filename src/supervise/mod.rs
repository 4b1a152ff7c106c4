//! **Keeping it running**: a pure state machine decides, the engine does.

mod backoff;
pub mod command;
pub mod engine;
pub mod exit;
mod process;
mod shutdown;
pub mod signals;
pub mod sockets;
mod state;
pub mod supervisor;
