//! **Asked and told**: HTTP and JSON over a Unix socket, so that a running ganger
//! can be looked at and changed from another terminal, a script or curl.
//!
//! The server runs on the engine's own runtime and talks to it by messages. What
//! takes time, as reading files and `/proc` does, happens on threads beside it,
//! and what others could drag out is bounded: nobody who asks delays the engine.

pub mod api;
pub mod client;
mod describe;
mod lines;
mod logs;
mod names;
pub mod planner;
mod routes;
pub mod server;
pub mod socket;
mod usage;
mod waiting;
