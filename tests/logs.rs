//! `ganger logs` for programs: JSON, cursors, patterns; and `wait --log`.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use crate::control::{ClientOutput, client_output, run_client, up};
use crate::scenario::{GANGER, Running, Scenario, use_runtime_dir};

/// Writes what stands in the files `1`, `2` and so on, once they are there.
const WRITER: &str = "i=1; while :; do until test -e $PS-$i; do sleep 0.01; done; cat $PS-$i; \
                      i=$((i + 1)); done";

fn start(args: &str) -> Running {
    let mut running = up(&format!("a: {WRITER}\nb: {WRITER}\n"), &format!("-N {args}"));
    running.wait_until("both", |running| running.count_in_output(" started, pid ") == 2);
    running
}

/// Has a process write this text, its `number`th, and waits until it has.
fn write(running: &mut Running, process: &str, number: usize, text: &str) {
    put(running.folder(), process, number, text);
    let last = text.lines().last().unwrap().to_owned();
    running.wait_for(&format!("| {last}\n"));
}

fn put(folder: &Path, process: &str, number: usize, text: &str) {
    std::fs::write(folder.join("new"), text).unwrap();
    std::fs::rename(folder.join("new"), folder.join(format!("{process}-{number}"))).unwrap();
}

/// The lines of an answer in JSON as `NAME LINE`, without ganger's own, the number of bytes that were
/// missed, and the cursor.
fn read(running: &Running, args: &str) -> (Vec<String>, Option<Value>, String) {
    let ClientOutput(text, 0) = running.run_client(&format!("logs --json {args}")) else {
        panic!("no answer to `{args}`")
    };
    let (mut lines, mut missed, mut cursor) = (Vec::new(), None, String::new());
    for record in text.lines() {
        assert_eq!(cursor, "", "a cursor ends the answer");
        let record: Value = serde_json::from_str(record).unwrap();
        let text = |key: &str| record[key].as_str().unwrap().to_owned();
        if record.get("line").is_some() {
            assert!(text("time").ends_with('Z'));
            if text("name") != "ganger" {
                lines.push(format!("{} {}", text("name"), text("line")));
            }
        } else if let Some(bytes) = record.get("missed_bytes") {
            missed = Some(bytes.clone());
        } else {
            assert_eq!(record["schema_version"], 1);
            cursor = text("cursor");
        }
    }
    (lines, missed, cursor)
}

#[test]
fn cursor_leads_to_what_is_new() {
    let mut running = start("");
    write(&mut running, "a.1", 1, "one\ntwo\n");
    let (lines, missed, cursor) = read(&running, "");
    assert_eq!((lines, missed), (vec!["a.1 one".to_owned(), "a.1 two".to_owned()], None));
    let (lines, _, again) = read(&running, &format!("--cursor {cursor}"));
    // Only ganger itself may have printed something.
    let of_processes = |cursor: &str| cursor.split(",ganger=").next().unwrap().to_owned();
    assert_eq!((lines, of_processes(&again)), (vec![], of_processes(&cursor)));
    write(&mut running, "b.1", 1, "\x1b[31mthree\x1b[0m\n");
    write(&mut running, "a.1", 2, "four\n");
    let (lines, _, next) = read(&running, &format!("--cursor {cursor}"));
    assert_eq!(lines, ["b.1 three", "a.1 four"]);
    // With everything else that chooses lines.
    let (lines, _, of_b) = read(&running, &format!("--cursor {cursor} b"));
    assert_eq!(lines, ["b.1 three"]);
    // What was read of the others before is not new.
    assert_eq!(read(&running, &format!("--cursor {of_b}")).0, ["a.1 four"]);
    assert_eq!(read(&running, &format!("--cursor {cursor} --grep ^f")).0, ["a.1 four"]);
    assert_eq!(read(&running, &format!("--cursor {cursor} -n 1")).0, ["a.1 four"]);
    assert_eq!(read(&running, &format!("--cursor {cursor} --since 60")).0.len(), 2);
    assert_eq!(read(&running, "--grep o -n 2").0, ["a.1 two", "a.1 four"]);
    // A line comes once it is complete.
    put(running.folder(), "b.1", 2, "fi");
    put(running.folder(), "b.1", 3, "ve\nsi");
    put(running.folder(), "b.1", 4, "x\nseven\n");
    running.wait_for("| seven\n");
    assert_eq!(read(&running, &format!("--cursor {next}")).0, ["b.1 five", "b.1 six", "b.1 seven"]);
    running.run_client("quit");
    running.finish().code(0);
}

#[test]
fn cursor_tells_what_was_missed() {
    let mut running = start("--recent 1K");
    write(&mut running, "a.1", 1, "one\n");
    let cursor = read(&running, "").2;
    let line = "x".repeat(99);
    write(&mut running, "a.1", 2, &format!("{}end\n", format!("{line}\n").repeat(20)));
    let (lines, missed, _) = read(&running, &format!("--cursor {cursor}"));
    assert_eq!((lines.len(), missed), (11, Some(1000.into())), "{lines:?}");
    // Of an earlier ganger, that is unknown.
    let (lines, missed, _) = read(&running, "--cursor 1:a.1=3");
    assert_eq!((lines.len(), missed), (11, Some(Value::Null)));
    let ClientOutput(error, 2) = running.run_client("logs --json --cursor x") else { panic!("no") };
    assert!(error.starts_with("ganger: `x` is not a cursor"), "{error}");
    assert_eq!(running.run_client("logs --cursor 1:").1, 2, "it needs --json");
    running.run_client("quit");
}

#[test]
fn grep_matches_lines_without_their_prefix() {
    let mut running = start("");
    write(&mut running, "a.1", 1, "GET /a 200\nGET /b 500\n");
    write(&mut running, "b.1", 1, "\x1b[31mE\x1b[0mrror: a.1 is \u{ff}\n");
    let logs = |args: &str| running.run_client(&format!("logs {args}"));
    assert_eq!(logs("--grep 5..$ a b").0, "a.1    | GET /b 500\n");
    assert_eq!(logs("--grep ^Error: --no-prefix").0, "\u{1b}[31mE\u{1b}[0mrror: a.1 is \u{ff}\n");
    assert_eq!(logs("-g a.1 a b").0.lines().count(), 1, "the names of processes are no output");
    assert_eq!(logs("-g nothing"), client_output("", 0));
    let ClientOutput(error, 2) = logs("--grep (") else { panic!("accepted") };
    assert!(error.contains("it is not a regular expression: unclosed group"), "{error}");
    running.run_client("quit");
}

#[test]
fn this_run_begins_when_the_process_was_last_started() {
    let mut running = up("a: echo run; cat; exec sleep 1000\nb: echo other; exec sleep 1000\n", "");
    running.wait_for("a.1    | run\n").wait_for("b.1    | other\n");
    assert_eq!(running.run_client("restart a --wait").1, 0);
    running.wait_until("two", |running| running.count_in_output("| run\n") == 2);
    let mut lines = read(&running, "--this-run").0;
    lines.sort();
    assert_eq!(lines, ["a.1 run", "b.1 other"]);
    assert_eq!(read(&running, "").0.len(), 3);
    assert_eq!(running.run_client("logs --this-run -n 1 a").0, "a.1    | run\n");
    running.run_client("quit");
}

#[test]
fn follower_gets_matching_lines_and_cursors_as_json() {
    let mut running = start("");
    write(&mut running, "a.1", 1, "an old error\nanother error\n");
    let follow = |args: &str| {
        let mut command = Command::new(GANGER);
        command.args(args.split(' ')).current_dir(running.folder()).stdout(Stdio::piped());
        use_runtime_dir(&mut command, running.folder());
        command.spawn().unwrap()
    };
    let mut json = follow("logs -f --json --grep error -n 1");
    let mut text = follow("logs -f --grep error -n 1");
    let (_, _, cursor) = read(&running, "");
    let from_cursor = follow(&format!("logs -f --json a b --cursor {cursor} --this-run"));
    // Both follow once they have printed what was there before.
    let first_line = |child: &mut std::process::Child| {
        let (mut line, mut byte) = (Vec::new(), [0]);
        let stdout = child.stdout.as_mut().unwrap();
        while line.last() != Some(&b'\n') {
            stdout.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    };
    let (first_record, first_text) = (first_line(&mut json), first_line(&mut text));
    put(running.folder(), "b.1", 1, "ok\nerror 2\n");
    running.wait_for("error 2\n");
    running.run_client("quit");
    let output = |child: std::process::Child| {
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(first_text + &output(text), "a.1    | another error\nb.1    | error 2\n");
    let after = output(from_cursor);
    let lines = after.lines().filter_map(|record| {
        let record: Value = serde_json::from_str(record).unwrap();
        Some(record["line"].as_str()?.to_owned())
    });
    assert_eq!(lines.collect::<Vec<_>>(), ["ok", "error 2"]);
    let records = first_record + &output(json);
    let kinds = records.lines().map(|record| {
        let record: Value = serde_json::from_str(record).unwrap();
        record.get("line").map_or("cursor".to_owned(), |line| line.as_str().unwrap().to_owned())
    });
    // Each burst of output ends with a cursor, whether or not a line in it matches.
    let mut kinds: Vec<String> = kinds.collect();
    kinds.dedup();
    assert_eq!(kinds, ["another error", "cursor", "error 2", "cursor"]);
}

#[test]
fn wait_ends_with_a_matching_line() {
    let mut running = start("");
    write(&mut running, "a.1", 1, "listening on 80\n");
    let wait = |args: &str| running.run_client(&format!("wait {args}"));
    let late = client_output("ganger: timed out after 0.2s\n", 4);
    assert_eq!(wait("a --log listening --timeout 0.2"), late, "from now on");
    let found = client_output("a.1: listening on 80\n", 0);
    assert_eq!(wait("a --log listening.*\\d$ --this-run"), found);
    let ClientOutput(text, 0) = wait("a --json --log listening --this-run") else { panic!("no") };
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["lines"][0]["line"], "listening on 80");
    // All of these processes, each in its own time.
    let folder = running.folder().to_owned();
    let (found_both, ended) = channel::<()>();
    let writer = std::thread::spawn(move || {
        // Again and again: the client may not be connected yet.
        for number in 1.. {
            for (process, number) in [("a.1", number + 1), ("b.1", number)] {
                if ended.recv_timeout(Duration::from_millis(100)) != Err(RecvTimeoutError::Timeout)
                {
                    return;
                }
                put(&folder, process, number, "done\n");
            }
        }
    });
    let found = client_output("a.1: done\nb.1: done\n", 0);
    assert_eq!(wait("a b --log ^done$ --timeout 60"), found);
    drop(found_both);
    writer.join().unwrap();
    running.run_client("quit");
}

#[test]
fn wait_for_a_line_fails_when_the_process_is_down() {
    let procfile = "a: until test -e go; do sleep 0.01; done; echo last words; exit 3\n\
                    b: exec sleep 1000\n";
    let running = up(procfile, "--any-can-die");
    let folder = running.folder().to_owned();
    let go = std::thread::spawn(move || {
        // The client is connected long before.
        std::thread::sleep(Duration::from_secs(3));
        std::fs::write(folder.join("go"), "").unwrap();
    });
    // The line that it writes at its end counts.
    let found = client_output("a.1: last words\n", 0);
    assert_eq!(running.run_client("wait a --log words --timeout 60"), found);
    go.join().unwrap();
    assert_eq!(running.run_client("wait a --exit").1, 0);
    let down = client_output("ganger: a.1 exited (3), and stays down\n", 4);
    assert_eq!(running.run_client("wait a --log nothing --this-run"), down);
    assert_eq!(running.run_client("wait a --log words --this-run"), found);
    assert_eq!(run_client(running.folder(), "wait --log x").1, 2, "it needs a name");
    running.run_client("quit");
}

#[test]
fn output_is_matched_in_the_client_so_that_no_pattern_slows_down_ganger() {
    let procfile = "a: yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | head -c 100000; exec sleep 1000\n";
    let scenario = Scenario::procfile(procfile).args("start -N");
    let mut running = scenario.start();
    running.wait_until("all of it", |running| running.length() > 100_000);
    let pattern = "(a?){99}(a*)*(\\pL{1,99}){9}\\d";
    let ClientOutput(text, 0 | 2) = running.run_client(&format!("logs --grep {pattern}")) else {
        panic!("no answer")
    };
    assert!(text.is_empty() || text.starts_with("error: "), "{text}");
    running.quit();
}
