//! When processes are ready, and who waits for whom.

use serde_json::Value;

use nix::sys::signal::Signal;

use crate::scenario::{Finished, Running, Scenario, free_port, tag, tagged};

fn start(procfile: &str, config: &str, args: &str) -> Running {
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    scenario.args("start").args(args).start()
}

fn end(running: Running) -> Finished {
    running.signal(Signal::SIGTERM);
    running.finish()
}

fn is_ready(running: &Running) -> bool {
    let processes: Value = serde_json::from_str(&running.tell("ps --json").0).unwrap();
    processes[0]["ready"].as_bool().unwrap()
}

#[test]
fn a_python_server_is_ready_when_its_port_is_bound() {
    let port = free_port();
    let procfile =
        "web: until test -e go; do sleep 0.01; done; exec python3 -m http.server $PORT\n";
    let mut running = start(procfile, "", &format!("-p {port}"));
    running.wait_for("web.1 started").wait_until("an answer", |it| it.tell("ps").1 == 0);
    assert!(!is_ready(&running) && running.tell("ps").0.contains("up, not ready"));
    let late = "ganger: it did not come to that in 0.1 s\n";
    assert_eq!(running.tell("wait web --ready --timeout 0.1").0, late);
    std::fs::write(running.folder().join("go"), "").unwrap();
    assert_eq!(running.tell("wait web --ready --timeout 60").0, "web.1 is ready\n");
    assert!(is_ready(&running));
    running.wait_for(&format!("web.1 is ready, http://localhost:{port}\n"));
    end(running).code(0);
}

#[test]
fn a_node_server_on_another_port_is_told_on() {
    let (given, found) = (free_port(), free_port());
    let procfile =
        format!("web: exec node -e \"require('http').createServer().listen({found})\"\n");
    let config = "[process.web]\nready_timeout = '4s'\n";
    let mut running = start(&procfile, config, &format!("-p {given}"));
    running.wait_for(&format!("web.1 was given port {given} but listens on {found}\n"));
    running.wait_for(&format!("web.1 has not bound port {given} after 4s\n"));
    // It runs on, and whoever waits is told at once.
    let late = "ganger: web.1 is not ready after 4s\n";
    assert_eq!(running.tell("wait web --ready"), crate::control::Told(late.into(), 4));
    end(running).code(0);
}

#[test]
fn one_that_is_to_answer_and_does_so_elsewhere_is_told_on() {
    let (given, found) = (free_port(), free_port());
    let procfile = format!("api: exec python3 -m http.server {found}\n");
    let config = "[process.api]\nready = { http = '/' }\n";
    let mut running = start(&procfile, config, &format!("-p {given}"));
    running.wait_for(&format!("api.1 was given port {given} but listens on {found}\n"));
    end(running).code(0);
}

#[test]
fn a_server_of_somebody_elses_does_not_count() {
    let port = free_port();
    // Not a descendant of web: it was there before.
    let procfile = format!("web: exec sleep 1000\nother: exec python3 -m http.server {port}\n");
    let config = "[process.web]\nready_timeout = '2s'\n";
    let mut running = start(&procfile, config, &format!("-p {port}"));
    running.wait_for(&format!("web.1 has not bound port {port} after 2s\n"));
    end(running).code(0);
}

#[test]
fn an_answer_says_it() {
    let port = free_port();
    let server = "import http.server, os\n\
                  class Handler(http.server.BaseHTTPRequestHandler):\n\
                  \x20   def do_GET(self):\n\
                  \x20       self.send_response(204 if os.path.exists('go') and self.path == '/healthz' else 503)\n\
                  \x20       self.end_headers()\n\
                  http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n";
    let scenario = Scenario::procfile("api: exec python3 server.py\n")
        .file("server.py", server)
        .file("ganger.toml", "[process.api]\nready = { http = '/healthz' }\n");
    let mut running = scenario.args(&format!("start -p {port}")).start();
    running.wait_for("\"GET /healthz HTTP/1.1\" 503");
    assert!(!is_ready(&running));
    std::fs::write(running.folder().join("go"), "").unwrap();
    running.wait_for(&format!("api.1 is ready, http://localhost:{port}\n"));
    end(running).code(0);
}

#[test]
fn a_line_says_it_in_however_many_pieces() {
    let procfile = "a: printf 'now liste'; until test -e go; do sleep 0.01; done; echo ning on 80; \
                    exec sleep 1000\n";
    let config = "[process.a]\nready = { log = 'listening on' }\n";
    let mut running = start(procfile, config, "");
    running.wait_for("a.1 started").wait_until("an answer", |it| it.tell("ps").1 == 0);
    assert!(!is_ready(&running));
    std::fs::write(running.folder().join("go"), "").unwrap();
    running.wait_for("a.1 is ready after ");
    end(running).code(0);
}

#[test]
fn a_command_says_it_and_leaves_nothing() {
    let tag = tag();
    let config = format!(
        "[process.a]\nready = {{ command = \"($HOSTILE leaf {tag} &); echo no; test -e $PS\" }}\n"
    );
    let mut running = start("a: exec sleep 1000\n", &config, "");
    running.wait_until("it was asked", |_| !tagged(&tag).is_empty());
    assert!(!is_ready(&running));
    std::fs::write(running.folder().join("a.1"), "").unwrap();
    running.wait_for("a.1 is ready after ");
    running.wait_until("nothing is left", |_| tagged(&tag).is_empty());
    let finished = end(running).code(0);
    assert_eq!(finished.stdout(), "");
}

/// Five in a row, in an order that isn't the Procfile's.
const FIVE: &str = "e: exec sleep 1000\nc: exec sleep 1000\na: exec sleep 1000\n\
                    d: exec sleep 1000\nb: exec sleep 1000\n";

fn five(of_c: &str) -> String {
    let ready = "ready = { command = 'sleep 0.05' }\n";
    let link = |(name, after): (&str, &str)| {
        let special = if name == "c" { of_c } else { "" };
        format!("[process.{name}]\n{after}{}\n", if special.is_empty() { ready } else { special })
    };
    [
        ("a", ""),
        ("b", "after = ['a']\n"),
        ("c", "after = ['b']\n"),
        ("d", "after = ['c']\n"),
        ("e", "after = ['d']\n"),
    ]
    .map(link)
    .concat()
}

/// `a started` and the like, in order.
fn story(stderr: &str, word: &str) -> Vec<String> {
    let lines = stderr.lines().filter_map(|line| line.strip_prefix("ganger | "));
    let name = |line: &str| {
        line.contains(word).then(|| line.split('.').next().unwrap_or_default().to_owned())
    };
    lines.filter_map(name).collect()
}

#[test]
fn five_start_one_after_the_other_and_stop_the_other_way_round() {
    let mut running = start(FIVE, &five(""), "-N");
    running.wait_for("e.1 is ready");
    let stderr = end(running).code(0).stderr();
    assert_eq!(story(&stderr, " started"), ["a", "b", "c", "d", "e"]);
    assert_eq!(story(&stderr, " stopped"), ["e", "d", "c", "b", "a"]);
    assert!(stderr.contains("ganger | d.1 waits for c.1\n"), "{stderr}");
}

#[test]
fn one_of_five_that_fails_is_said_with_all_that_wait_for_it() {
    let late = five("ready = { command = 'false' }\nready_timeout = '0.5s'\n");
    let stderr = start(FIVE, &late, "-N").finish().code(1).stderr();
    let expected = "ganger | c.1 is not ready after 0.5s\n\
                    ganger | e.1 waits for d.1, which waits for c.1, which is not ready after 0.5s\n\
                    ganger | d.1 was not started, stopping all\n";
    assert!(stderr.contains(expected), "{stderr}");
    assert_eq!(story(&stderr, " stopped"), ["c", "b", "a"]);
    assert!(stderr.contains("ganger | d.1 failed first: it was not started\n"), "{stderr}");
}

#[test]
fn a_circle_is_refused() {
    let config =
        "[process.a]\nafter = ['b']\n[process.b]\nafter = ['c']\n[process.c]\nafter = ['a']\n";
    start("a: true\nb: true\nc: true\n", config, "").finish().refused(
        "`ganger.toml` line 2: `after` goes in a circle: `a` comes after `b` comes after `c` \
         comes after `a`",
    );
}

#[test]
fn crashes_in_a_row_end_in_giving_up() {
    let config = "[process.job]\non_exit = 'restart-on-failure'\n\
                  backoff = { min = '1ms', max = '2ms', give_up_after = 10 }\n";
    let procfile = "job: echo failing; exit 3\nother: exec sleep 1000\n";
    let mut running = start(procfile, config, "");
    running.wait_for("job.1 exited (3), 10 crashes in a row: GIVING UP, it stays down\n");
    let table = running.tell("ps job").0;
    assert!(table.contains("down   ") && table.contains("restart-on-failure, crashed 10/10"));
    assert_eq!(running.tell("wait job --ready").0, "ganger: job.1 exited (3), and stays down\n");
    let finished = end(running).code(3);
    assert_eq!(finished.lines_of("job.1").len(), 10);
}
