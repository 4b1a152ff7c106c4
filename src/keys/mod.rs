//! Keys: how a user writes them on a command line, and how a terminal sends them.

pub mod detach;
pub mod filter;
pub mod input;
