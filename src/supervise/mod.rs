//! Keeps processes running: the supervisor, a pure state machine, decides, and the engine
//! carries its decisions out.

mod action;
mod backoff;
mod clock;
mod context;
mod dependencies;
pub mod display;
pub mod engine;
mod failure_report;
mod gate;
pub mod handle;
pub mod listeners;
mod oom;
pub mod port_conflict;
pub mod port_scan;
mod probes;
mod process;
mod readiness;
mod rolling;
pub mod share;
mod shutdown;
pub mod signals;
mod spawn_request;
mod state;
mod status;
pub mod supervisor;
mod trace;
mod watch;
