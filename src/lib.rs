//! ganger runs the processes of a Procfile.
//!
//! ```text
//! Procfile, .env, ganger.toml, flags ──► plan ──► Plan
//!                                                  │
//!                     supervise/engine ◄─ Event / Action ─► supervise/supervisor (pure)
//!                            │      ▲
//!              spawn, signal ▼      │ spawned, exited, nobody left
//!                        keeper (a process of its own: parent of every child)
//!                            │ stdout and stderr of each child, one pipe
//!                            ▼
//!                        logs: mux thread ─► writer thread ─► stdout
//! ```
//!
//! - [`cli`] has every verb and flag, and [`command`] a thin file for each verb.
//! - [`control`] is how a running ganger is **asked and told**, over a socket.
//! - [`plan`] says **what** to run. Text goes in, values come out.
//! - [`supervise`] **keeps it running**. The supervisor is a value: an event and
//!   the time go in, actions come out, and nothing happens meanwhile. The engine
//!   is the loop around it.
//! - [`keeper`] sees to it that **nothing survives**. It alone forks, signals and
//!   waits, and has a process of its own for that.
//! - [`logs`] is **what they say**: bytes, read, cut into lines and written on two
//!   threads of their own, so that neither a flood nor a blocked terminal delays
//!   a signal.
//! - [`notice`] is what ganger itself says.
//! - [`runtime_dir`] is the folder for sockets and session markers.
//!
//! Arrows point down that list. Nothing is shared under a lock: every value has
//! one owner, who is sent messages.

pub mod cli;
pub mod command;
pub mod control;
pub mod keeper;
pub mod logs;
pub mod notice;
pub mod plan;
pub mod runtime_dir;
pub mod supervise;
