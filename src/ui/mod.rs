//! The full-screen terminal interface: a client of the control API, and of nothing else.
//!
//! The [`model`] is a value: events go in, effects come out, and [`view`] draws it. The
//! [`screen`] owns the terminal, and [`run`] connects them.

pub mod attach;
mod keys;
mod model;
mod output;
mod process_list;
mod regions;
pub mod run;
mod screen;
mod spans;
pub mod user_terminal;
mod view;
