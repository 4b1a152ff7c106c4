//! The real ganger, in a folder of its own, by feature.

mod exit_codes;
mod scenario;
mod stop;
mod survivors;
