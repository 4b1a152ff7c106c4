//! `Procfile.example` runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::scenario::{Scenario, free_port};

#[test]
fn procfile_example_runs_with_only_rust_installed() {
    let procfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Procfile.example");
    let port = free_port();
    let scenario = Scenario::new().args("start -f").arg(procfile).args(&format!("-p {port}"));
    let mut running = scenario
        .command(|command| {
            // Where rustc is.
            for key in ["PATH", "HOME", "RUSTUP_HOME", "CARGO_HOME"] {
                if let Some(value) = std::env::var_os(key) {
                    command.env(key, value);
                }
            }
        })
        .start();
    running.wait_for("worker.1 | job 2 is done").wait_for("clock.1  | ");
    running.wait_for(&format!("web.1    | listening on http://localhost:{port}\n"));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nhello from web.1\n"), "{answer}");
    running.wait_for("web.1    | GET / HTTP/1.1\n").signal(Signal::SIGINT);
    running.finish().code(0);
}
