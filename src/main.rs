//! Parse, dispatch, exit code.

use std::process::ExitCode;

use ganger::cli::Cli;
use ganger::supervise::signals::reset_inherited;
use ganger::{command, keeper};

fn main() -> ExitCode {
    if keeper::is_keeper() {
        return match keeper::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if let Err(error) = reset_inherited() {
        eprintln!("ganger: failed to take over the signals: {error}");
        return ExitCode::FAILURE;
    }
    match command::dispatch(Cli::read()) {
        Ok(code) => code,
        Err(error) => {
            command::print_error(&command::with_hint(error));
            ExitCode::from(command::USAGE)
        }
    }
}
