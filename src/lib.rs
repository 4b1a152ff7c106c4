//! ganger runs the processes of a Procfile.
//!
//! ```text
//! Procfile, .env, ganger.toml, flags ──► plan ──► Plan
//!                                                  │
//!   control ── Command, and a reply ─► supervise/engine ◄─ Event / Action ─► supervise/supervisor
//!                                      │        ▲                            (pure)
//!                        spawn, signal ▼        │ spawned, exited, group empty
//!                                 keeper (a separate process: parent of every child)
//!                                      │ output of each child, a terminal or a pipe
//!                                      ▼
//!                                 logs: mux thread ─► writer thread ─► stdout
//! ```
//!
//! The modules, from the top down. Imports point down this list and never in a circle; a test
//! reads the list below and every import.
//!
//! - [`command`] has a thin file per command: gather, call, print.
//! - [`cli`] has every command and flag as clap types. Nothing is resolved there.
//! - [`ui`] is the full-screen terminal interface, a client of the API.
//! - [`control`] is the API of a running ganger, HTTP over a Unix socket: server and client.
//! - [`supervise`] keeps the processes running. The supervisor is a value: events and the time
//!   go in, actions come out. The engine is the loop that carries the actions out.
//! - [`logs`] reads what processes write, splits it into lines and writes them, on two threads
//!   of its own, so that neither a flood of output nor a blocked terminal delays a signal.
//! - [`notice`] has every message that ganger itself prints at run time, and their wording.
//! - [`plan`] decides what to run. Text goes in, values come out; it only reads files.
//! - [`changes`] is what a request has changed, as the supervisor returns it and clients get it.
//! - [`exit`] describes how processes end, and what ganger's exit code is.
//! - [`keys`] reads keys as a user writes them, and finds them in what a terminal sends.
//! - [`pty`] opens the pseudo-terminals that processes run on, and sets their size and modes.
//! - [`keeper`] makes sure that no process survives ganger. It alone forks, signals and waits,
//!   in a process of its own.
//! - [`runtime_dir`] finds the folder for control sockets and session markers.
//! - [`panics`] catches panics of code that shows output.
//! - [`revision`] reads the git revision of a folder.
//!
//! No state is shared under a lock: every value has one owner, which receives messages.

pub mod command;

pub mod cli;

pub mod ui;

pub mod control;

pub mod supervise;

pub mod logs;

pub mod notice;

pub mod plan;

pub mod changes;

pub mod exit;

pub mod keys;

pub mod pty;

pub mod keeper;

pub mod runtime_dir;

pub mod panics;

pub mod revision;
