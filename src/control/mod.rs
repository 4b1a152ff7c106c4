//! The control API of a running ganger: HTTP and JSON over a Unix socket, for the commands of
//! another terminal, scripts and curl.
//!
//! Requests are served on a thread of its own, which sends messages to the engine. A request
//! costs the engine little time: a snapshot now and then, which all clients share, or a change.
//! Slow work, such as reading files and `/proc`, is done on a few threads beside it, and one
//! limit bounds the memory of all responses.

pub mod api;
pub mod app;
pub mod app_root;
mod attached;
mod attachment;
mod body;
pub mod client;
mod connection;
mod error;
mod find;
mod in_flight;
pub mod json_lines;
pub mod last_run;
mod lines;
mod logs;
mod memory;
mod names;
pub mod paint;
mod peer;
pub mod planner;
pub mod registration;
pub mod revisions;
mod routes;
pub mod run_file;
pub mod server;
pub mod socket;
mod status;
mod table;
mod terminal;
pub mod thread;
mod usage;
mod waiting;
