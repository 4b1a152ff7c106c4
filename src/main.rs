//! Parse, dispatch, exit code.

use std::process::ExitCode;

use ganger::cli::Cli;
use ganger::{command, keeper};

fn main() -> ExitCode {
    if keeper::is_keeper() {
        return match keeper::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    match command::dispatch(Cli::read()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ganger: {error:#}");
            ExitCode::from(command::USAGE)
        }
    }
}
