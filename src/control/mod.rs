//! **Asked and told**: HTTP and JSON over a Unix socket, so that a running ganger
//! can be looked at and changed from another terminal, a script or curl.
//!
//! Clients are answered on a thread of their own, which talks to the engine by messages: what
//! they ask takes no time from it but for a snapshot now and then, one for all of them. What
//! takes long, as reading files and `/proc` does, happens on some threads beside it, and the
//! memory of all answers has one bound.

pub mod api;
mod app;
pub mod app_root;
mod body;
pub mod client;
mod connection;

mod error;
mod in_flight;
mod lines;
mod logs;
mod memory;
mod names;
mod peer;
pub mod planner;
mod routes;
pub mod server;
pub mod socket;
mod status;
mod table;
pub mod thread;
mod usage;
mod waiting;
