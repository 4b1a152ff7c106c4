//! Every byte arrives, in whole lines, in order, and memory stays bounded.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::signal::Signal;

use crate::scenario::{Scenario, children, peak_memory};

/// How many lines of each process arrived whole, and in order.
fn whole_lines(out: &[u8], length: usize) -> HashMap<String, usize> {
    let mut next: HashMap<String, usize> = HashMap::new();
    for line in out.split_inclusive(|&byte| byte == b'\n') {
        let line = std::str::from_utf8(line).unwrap();
        let (name, text) = line.split_once("| ").unwrap();
        let count = next.entry(name.trim_end().to_owned()).or_default();
        assert_eq!(text.len(), length, "a line of another length: {line:?}");
        let expected = format!("{count:08} {}\n", "x".repeat(length - 10));
        assert!(text == expected, "expected line {count}, found {line:?}");
        *count += 1;
    }
    next
}

#[test]
fn million_lines_from_one_process_are_complete() {
    let finished =
        Scenario::procfile("a: exec $HOSTILE lines 1000000 100\n").args("start").run().code(0);
    assert_eq!(whole_lines(&finished.out, 100), HashMap::from([("a.1".into(), 1_000_000)]));
}

#[test]
fn million_lines_from_ten_processes_are_complete() {
    let procfile = "a: exec $HOSTILE lines 100000 100\n";
    let finished = Scenario::procfile(procfile).args("start -m a=10 --any-can-die").run().code(0);
    let all = (1..=10).map(|instance| (format!("a.{instance}"), 100_000)).collect();
    assert_eq!(whole_lines(&finished.out, 100), all);
}

#[test]
fn lines_of_8_kilobytes_never_mix() {
    let procfile = "a: exec $HOSTILE lines 2000 8192\n";
    let finished = Scenario::procfile(procfile).args("start -m a=2 --any-can-die").run().code(0);
    let all = (1..=2).map(|instance| (format!("a.{instance}"), 2000)).collect();
    assert_eq!(whole_lines(&finished.out, 8192), all);
}

#[test]
fn unterminated_last_line_is_written() {
    for _ in 0..20 {
        let finished = Scenario::procfile("a: printf 'one\\ntwo'\n").args("start").run().code(0);
        assert_eq!(finished.stdout(), "a.1    | one\na.1    | two\n");
    }
}

#[test]
fn started_message_comes_before_the_output() {
    for _ in 0..20 {
        let finished = Scenario::of("sh")
            .file("Procfile", "a: exec $HOSTILE lines 1 20\nb: exec $HOSTILE lines 1 20\n")
            .args("-c")
            .arg("exec $GANGER start --any-can-die 2>&1")
            .run()
            .code(0);
        let out = finished.stdout();
        for name in ["a.1", "b.1"] {
            let at = |text: String| out.find(&text).unwrap();
            let order = [
                at(format!("{name} started")),
                at(format!("{name}    | 00000000")),
                at(format!("{name} exited (0)")),
            ];
            assert!(order.is_sorted(), "{out}");
        }
    }
}

#[test]
fn stdout_and_stderr_keep_their_order() {
    let procfile = "a: exec $HOSTILE alternate 10000\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(0);
    let expected: Vec<String> = (0..10_000).map(|line| line.to_string()).collect();
    assert!(finished.lines_of("a.1") == expected);
}

#[test]
fn long_line_keeps_memory_bounded() {
    const SIZE: usize = 200 << 20;
    let procfile = format!("a: $HOSTILE bytes {SIZE}; echo; sleep 1000\n");
    let mut running = Scenario::procfile(procfile).args("start").start();
    running.wait_until("all bytes", |running| running.length() >= SIZE);
    let (ganger, keeper) = (peak_memory(running.pid()), peak_memory(running.keeper()));
    assert!(ganger + keeper < 4 << 20, "{ganger} and {keeper} bytes at the peak");
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    let mut bytes = 0;
    for (index, piece) in finished.out.split(|&byte| byte == b'\n').enumerate() {
        let prefix: &[u8] = if index == 0 { b"a.1    | " } else { b"a.1    |+" };
        let Some(text) = piece.strip_prefix(prefix) else {
            assert!(piece.is_empty(), "{:?}", String::from_utf8_lossy(piece));
            continue;
        };
        assert!(text.len() <= 64 << 10 && text.iter().all(|&byte| byte == b'x'));
        bytes += text.len();
    }
    assert_eq!(bytes, SIZE);
}

#[test]
fn invalid_utf8_passes_through() {
    let procfile = "a: printf '\\377\\000\\302\\r\\n\\033[1mbold\\n'\n";
    let finished = Scenario::procfile(procfile).args("start").run().code(0);
    assert_eq!(finished.out, b"a.1    | \xff\0\xc2\r\na.1    | \x1b[1mbold\n");
}

#[test]
fn closed_stdout_stops_everything() {
    let finished = Scenario::of("sh")
        .file("Procfile", "a: while :; do echo line; sleep 0.01; done\nb: echo up; sleep 1000\n")
        .args("-c")
        .arg("{ $GANGER start; echo $? >code; } | head -1; cat code")
        .run();
    let code = finished.stdout().lines().skip(1).collect::<String>();
    assert_eq!(code, "0", "{}", finished.stderr());
    let expected = "ganger | nothing reads the output any more: stopping all\n";
    assert!(finished.stderr().contains(expected), "{}", finished.stderr());
}

#[test]
fn closed_stdout_is_noticed_without_output() {
    let finished = Scenario::of("sh")
        .file("Procfile", "a: echo line; sleep 1000\n")
        .args("-c")
        .arg("{ $GANGER start; echo $? >code; } | head -1; cat code")
        .run();
    assert_eq!(finished.stdout(), "a.1    | line\n0\n");
}

#[test]
fn blocked_reader_does_not_delay_the_stop() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut running = Scenario::procfile("a: exec $HOSTILE lines 1000000 100\n")
        .args("start")
        .command(|command| {
            command.stdout(writer);
        })
        .start();
    running.wait_for("a.1 started");
    // No process reads: soon the queue is full, and the writer has to wait.
    let pid = running.pid();
    running.wait_until("a full pipe", |_| {
        let stacks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let mut waits =
            stacks.filter_map(|task| std::fs::read_to_string(task.path().join("wchan")).ok());
        waits.any(|wait| wait.contains("pipe_write"))
    });
    running.signal(Signal::SIGINT);
    let finished = running.finish().code(0);
    assert!(
        finished.stderr().contains("bytes of output discarded: nothing read them\n"),
        "{}",
        finished.stderr()
    );
    drop(reader);
}

#[test]
fn full_disk_drops_output_but_stops_nothing() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut running = Scenario::procfile("a: echo one; sleep 0.2; echo two; sleep 1000\n")
        .args("start")
        .command(|command| {
            command.stdout(Stdio::from(full));
        })
        .start();
    running
        .wait_for("bytes of output discarded: No space left on device\n")
        .signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    assert!(finished.stderr().contains("a.1 stopped\n"), "{}", finished.stderr());
}

#[test]
fn full_disk_for_all_output_does_not_block_exit() {
    for procfile in ["a: echo one\n", "a: echo one; sleep 0.1; echo two; exit 3\n"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let too = full.try_clone().unwrap();
        let scenario = Scenario::procfile(procfile).args("start").command(|command| {
            command.stdout(Stdio::from(full)).stderr(Stdio::from(too));
        });
        scenario.run().code(if procfile.contains("exit 3") { 3 } else { 0 });
    }
}

#[test]
fn second_interrupt_does_not_wait_for_a_slow_reader() {
    const LINES: usize = 3000;
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut running = Scenario::procfile(format!("a: exec $HOSTILE lines {LINES} 100\n"))
        .args("start")
        .command(|command| {
            command.stdout(writer);
        })
        .start();
    let slowly = std::thread::spawn(move || {
        let (mut total, mut piece) = (0, [0; 4000]);
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            total += count;
            std::thread::sleep(Duration::from_millis(100));
        }
        total
    });
    // Messages don't wait for the reader: by now only the output is left to write.
    running.wait_for("a.1 exited (0), stopping all\n").wait_until("no process", |running| {
        running.keeper_if_any().is_some_and(|keeper| children(keeper).is_empty())
    });
    // The first may still be a request to stop, if the exit of the last process isn't known yet.
    while running.child.try_wait().unwrap().is_none() {
        running.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(slowly.join().unwrap() < LINES * 100);
}

#[test]
fn slow_reader_blocks_the_processes_and_loses_nothing() {
    let finished = Scenario::of("sh")
        .file("Procfile", "a: exec $HOSTILE lines 100000 100\n")
        .args("-c")
        .arg("$GANGER start | (sleep 1; cat)")
        .run()
        .code(0);
    assert_eq!(whole_lines(&finished.out, 100), HashMap::from([("a.1".into(), 100_000)]));
}

#[test]
fn names_are_padded_and_colored_on_request() {
    let procfile = "web: echo hello\nlong_name: sleep 1000\n";
    let finished = Scenario::procfile(procfile).args("start --color always -b 9,10").run().code(0);
    let line = finished.stdout();
    assert!(
        line == "\x1b[38;5;9mweb.1       | \x1b[0mhello\n"
            || line == "\x1b[38;5;10mweb.1       | \x1b[0mhello\n"
    );
    let forced = Scenario::procfile(procfile).args("start").env("CLICOLOR_FORCE", "1").run();
    assert!(forced.stdout().starts_with("\x1b[38;5;"));
    let forbidden = Scenario::procfile(procfile)
        .args("start")
        .env("CLICOLOR_FORCE", "1")
        .env("NO_COLOR", "1")
        .run();
    assert_eq!(forbidden.stdout(), "web.1       | hello\n");
}

#[test]
fn prefix_and_time_are_configurable_and_quiet_processes_are_hidden() {
    let procfile = "web: echo hello\nnoise: echo noise; sleep 1000\n";
    let finished = Scenario::procfile(procfile).args("start --no-prefix -q noise").run().code(0);
    assert_eq!(finished.stdout(), "hello\n");
    let finished =
        Scenario::procfile("web: echo hello\n").args("start -T").env("TZ", "UTC").run().code(0);
    let out = finished.stdout();
    let (time, line) = out.split_once(' ').unwrap();
    assert_eq!(line, "web.1  | hello\n");
    let digits: Vec<&str> = time.split(':').collect();
    assert!(
        digits.len() == 3
            && digits.iter().all(|part| part.len() == 2 && part.parse::<u8>().is_ok()),
        "{time}"
    );
}

/// Runs ganger with a terminal as its output, and returns what was written to it.
fn on_a_terminal(procfile: &str, until: &str) -> String {
    let pty = openpty(None, None).unwrap();
    let output = pty.slave.try_clone().unwrap();
    let errors = pty.slave;
    let running = Scenario::procfile(procfile)
        .args("start --color never")
        .command(|command| {
            command.stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        })
        .start();
    let mut screen = Vec::new();
    let mut master = File::from(pty.master);
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&screen).contains(until) {
        let count = master.read(&mut buffer).unwrap();
        screen.extend_from_slice(&buffer[..count]);
    }
    running.signal(Signal::SIGTERM);
    // At its end, reading from a terminal returns an error.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        screen.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&screen).into_owned()
}

#[test]
fn prompt_is_shown_on_a_terminal() {
    let procfile = "a: printf 'name? '; sleep 1000\n";
    let screen = on_a_terminal(procfile, "name? ");
    assert!(screen.contains("\na.1    | name? "), "{screen}");
    // The next message of ganger is on a line of its own.
    assert!(screen.contains("name? \r\nganger | "), "{screen}");
}

#[test]
fn continued_prompt_leaves_no_empty_row() {
    let procfile = "a: printf 'name? '; until test -e go; do sleep 0.01; done; \
                    printf 'x\\nsecond'; sleep 0.3; echo; echo third; sleep 1000\n\
                    b: until test -e go; do sleep 0.01; done; sleep 0.3; echo other; sleep 1000\n\
                    c: sleep 0.3; echo between; touch go; sleep 1000\n";
    let screen = on_a_terminal(procfile, "third");
    assert!(screen.contains("a.1    | name? \r\nc.1    | between\r\na.1    |+x\r\n"), "{screen}");
    assert!(!screen.contains("\n\r\n"), "{screen}");
}

#[test]
fn exit_message_comes_after_the_last_line() {
    let procfile = "a: printf 'x%.0s\\n' $(seq 2000); printf last; exit 3\n";
    let screen = on_a_terminal(procfile, "stopping all");
    assert!(
        screen.contains("a.1    | last\r\nganger | a.1 exited (3), stopping all\r\n"),
        "{screen}"
    );
}

#[test]
fn idle_ganger_uses_no_cpu() {
    let mut running = Scenario::procfile("a: echo up; sleep 1000\n").args("start -m a=3").start();
    running.wait_until("three", |running| running.count_in_output("| up\n") == 3);
    let keeper = running.keeper();
    let pid = running.pid();
    let switches = || -> u64 {
        let tasks = [pid, keeper]
            .into_iter()
            .flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten());
        let of = |status: String| -> u64 {
            let lines = status.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
            lines.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        tasks.map(|task| of(std::fs::read_to_string(task.path().join("status")).unwrap())).sum()
    };
    // First wait until the start is done.
    let mut before = switches();
    running.wait_until("rest", |_| {
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, switches()) == before
    });
    // The time over which wake-ups are counted.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(switches(), before, "a thread woke up");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn python_writes_each_line_at_once_unless_the_user_decides_otherwise() {
    let script = "import os, time; print('line', os.environ['PYTHONUNBUFFERED']); time.sleep(1000)";
    let procfile = format!("a: exec python3 -c \"{script}\"\n");
    let mut running = Scenario::procfile(&procfile).args("start").start();
    running.wait_for("a.1    | line 1\n").signal(Signal::SIGTERM);
    running.finish().code(0);
    let procfile = "a: echo \"<$PYTHONUNBUFFERED>\"\n";
    let output = |scenario: Scenario| scenario.args("start --no-prefix").run().code(0).stdout();
    assert_eq!(output(Scenario::procfile(procfile).file(".env", "PYTHONUNBUFFERED=\n")), "<>\n");
    assert_eq!(output(Scenario::procfile(procfile).env("PYTHONUNBUFFERED", "x")), "<x>\n");
    let config = "[process.a]\nenv = { PYTHONUNBUFFERED = 'y' }\n";
    assert_eq!(output(Scenario::procfile(procfile).file("ganger.toml", config)), "<y>\n");
}
