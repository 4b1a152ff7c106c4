//! Random histories of the supervisor with the real keeper: after each step, the supervisor's
//! state is compared with `/proc`.

use std::process::Command;

use crate::scenario::examples;

#[test]
fn supervisor_matches_proc_after_random_histories() {
    let mut histories = Command::new(examples().join("histories"));
    let output = histories.args(["1", "200", "12"]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    println!("{stdout}");
    assert!(stdout.starts_with("200 histories: "), "{stdout}");
}
