//! Many processes, and low limits of the system.

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;

use crate::scenario::{Scenario, hostile, memory, tag, tagged, wait_until_gone};

fn crowd(tag: &str) -> Scenario {
    let procfile = format!("leaf: {} leaf {tag}\n", hostile().display());
    Scenario::procfile(procfile).args("start -N -m leaf=500")
}

#[test]
fn five_hundred_processes_start_run_and_stop() {
    let tag = tag();
    let mut running = crowd(&tag).start();
    running.wait_until("five hundred", |running| running.count_in_output(" started, pid ") == 500);
    assert_eq!(tagged(&tag).len(), 500);
    let memory = memory(running.pid()) + memory(running.keeper());
    assert!(memory < 20 << 20, "{memory} bytes");
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert_eq!(finished.stderr().matches(" stopped\n").count(), 500);
    assert_eq!(tagged(&tag), []);
}

#[test]
fn low_limit_of_open_files_fails_clearly() {
    for limit in [16, 20, 24, 32, 48, 64] {
        let tag = tag();
        let limited = crowd(&tag).command(|command| {
            #[expect(unsafe_code, reason = "there is no other way to lower a limit")]
            // SAFETY: setrlimit(2) may be called between fork and exec.
            unsafe {
                command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?));
            }
        });
        let finished = limited.run();
        let stderr = finished.stderr();
        assert!(stderr.contains("ulimit -n"), "under {limit}: {stderr}");
        assert!(matches!(finished.status.code(), Some(2 | 126)), "{:?}: {stderr}", finished.status);
        wait_until_gone(&tag);
    }
}

#[test]
fn soft_limit_is_raised_for_ganger_but_not_for_children() {
    let finished = Scenario::procfile("a: ulimit -Sn; ulimit -Hn\n")
        .args("start")
        .command(|command| {
            #[expect(unsafe_code, reason = "there is no other way to lower a limit")]
            // SAFETY: setrlimit(2) may be called between fork and exec.
            unsafe {
                command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_NOFILE, 100, 1000)?));
            }
        })
        .run()
        .code(0);
    assert_eq!(finished.lines_of("a.1"), ["100", "1000"]);
}
