//! The real ganger, in a folder of its own, by feature.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod attacks;
mod bytes;
mod chance;
mod check;
mod config;
mod control;
mod control_limits;
mod daemon;
mod env;
mod escapes;
mod escaping;
mod example;
mod exit_codes;
mod faults;
mod formation;
mod histories;
mod isolation;
mod kills;
mod limits;
mod listen;
mod needs;
mod output;
mod places;
mod ports;
mod procfile;
mod ready;
mod report;
mod run;
mod runtime_dir;
mod scenario;
mod stdin;
mod stop;
mod style;
mod survivors;
mod watch;
