//! Readiness probes and dependencies.

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
    let processes: Value = serde_json::from_str(&running.run_client("ps --json").0).unwrap();
    processes["processes"][0]["ready"].as_bool().unwrap()
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn bound_port_marks_python_server_ready() {
    let port = free_port();
    let procfile =
        "web: until test -e go; do sleep 0.01; done; exec python3 -m http.server $PORT\n";
    let mut running = start(procfile, "", &format!("-p {port}"));
    running.wait_for("web.1 started").wait_until("an answer", |it| it.run_client("ps").1 == 0);
    assert!(!is_ready(&running) && running.run_client("ps").0.contains("up, not ready"));
    let late = "ganger: timed out after 0.1s\n";
    assert_eq!(running.run_client("wait web --ready --timeout 0.1").0, late);
    std::fs::write(running.folder().join("go"), "").unwrap();
    assert_eq!(running.run_client("wait web --ready --timeout 60").0, "web.1 is ready\n");
    assert!(is_ready(&running));
    running.wait_for(&format!("web.1 is ready, http://localhost:{port}\n"));
    end(running).code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs node")]
fn server_on_another_port_is_reported() {
    let (given, found) = (free_port(), free_port());
    let procfile =
        format!("web: exec node -e \"require('http').createServer().listen({found})\"\n");
    let config = "[process.web]\nready_timeout = '4s'\n";
    let mut running = start(&procfile, config, &format!("-p {given}"));
    running
        .wait_for(&format!("web.1 was given port {given}, but so far listens only on {found}\n"));
    running.wait_for(&format!("web.1 has not bound port {given} after 4s\n"));
    // It keeps running, and a waiting client is answered at once.
    let late = "ganger: web.1 is not ready after 4s\n";
    assert_eq!(
        running.run_client("wait web --ready"),
        crate::control::ClientOutput(late.into(), 4)
    );
    end(running).code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs node")]
fn port_of_a_debugger_is_not_reported_while_the_app_boots() {
    let (given, debugger) = (free_port(), free_port());
    let script = "setTimeout(() => require('http').createServer().listen(process.env.PORT), 5000)";
    let procfile = format!("web: exec node --inspect={debugger} -e \"{script}\"\n");
    let mut running = start(&procfile, "", &format!("-p {given}"));
    running.wait_for(&format!("web.1 is ready, http://localhost:{given}\n"));
    let stderr = end(running).code(0).stderr();
    assert!(!stderr.contains("was given port"), "{stderr}");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn http_probe_reports_a_server_on_another_port() {
    let (given, found) = (free_port(), free_port());
    let procfile = format!("api: exec python3 -m http.server {found}\n");
    let config = "[process.api]\nready = { http = '/' }\n";
    let mut running = start(&procfile, config, &format!("-p {given}"));
    running
        .wait_for(&format!("api.1 was given port {given}, but so far listens only on {found}\n"));
    end(running).code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3, node and gunicorn")]
fn port_bound_by_a_descendant_marks_process_ready() {
    let cluster = "const c = require('cluster'); if (c.isPrimary) { c.fork(); c.fork(); } else { \
                   require('http').createServer().listen(process.env.PORT) }";
    for command in [
        "python3 -m http.server -b ::1 $PORT".to_owned(),
        "python3 -m http.server -b 127.0.0.1 $PORT 2>&1 | cat".to_owned(),
        "(setsid python3 -m http.server $PORT &) ; exec sleep 1000".to_owned(),
        "exec node cluster.js".to_owned(),
        "exec gunicorn --bind 127.0.0.1:$PORT app:app".to_owned(),
    ] {
        let port = free_port();
        let scenario = Scenario::procfile(format!("web: {command}\n"))
            .file("cluster.js", cluster)
            .file("app.py", "def app(environ, start_response):\n    return []\n");
        let mut running = scenario.args(&format!("start -p {port}")).start();
        running.wait_for(&format!("web.1 is ready, http://localhost:{port}\n"));
        running.wait_until("bound", |it| !it.run_client("ps").0.contains("unbound"));
        end(running);
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root and setcap")]
fn server_with_file_capabilities_becomes_ready() {
    let port = free_port();
    let scenario = Scenario::as_nobody("web: exec ./python -m http.server $PORT\n");
    let python = scenario.folder().join("python");
    std::fs::copy(std::fs::canonicalize("/usr/bin/python3").unwrap(), &python).unwrap();
    let mut setcap = std::process::Command::new("setcap");
    setcap.env("PATH", "/usr/sbin:/sbin:/usr/bin").arg("cap_net_bind_service+ep").arg(&python);
    assert!(setcap.status().unwrap().success());
    // Only root may inspect such a process.
    let mut running = scenario.args(&format!("./ganger start -p {port}")).start();
    running.wait_for(&format!("web.1 is ready, http://localhost:{port}\n"));
    end(running).code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn process_that_takes_the_port_later_is_named() {
    let port = free_port();
    let procfile = format!(
        "web: until test -e go; do sleep 0.01; done; exec python3 -m http.server $PORT\n\
         thief: exec python3 -m http.server {port}\n"
    );
    let mut running = start(&procfile, "", &format!("-p {port} --any-can-die"));
    running.wait_for(&format!("web.1 needs port {port}, which python3 (pid "));
    std::fs::write(running.folder().join("go"), "").unwrap();
    running.wait_for("web.1 exited (1)");
    end(running).code(1);
}

#[test]
fn reload_changes_the_awaited_service() {
    let (down, up) = (free_port(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let needs = |port| format!("[process.a]\nneeds = ['tcp://127.0.0.1:{port}']\n");
    let procfile = "a: echo begun; exec sleep 1000\n";
    let mut running = start(procfile, &needs(down), "");
    let reload = |running: &mut Running, config: &str| {
        std::fs::write(running.folder().join("ganger.toml"), config).unwrap();
        assert_eq!(running.run_client("reload").0, "adjusting a.1\n");
    };
    running.wait_for(&format!("a.1 waits for 127.0.0.1:{down}\n"));
    assert!(running.run_client("ps").0.contains(&format!(" waiting for 127.0.0.1:{down} ")));
    reload(&mut running, &needs(up.local_addr().unwrap().port()));
    running.wait_for("| begun\n");
    // The process has printed this line already: only its next line counts.
    reload(&mut running, "[process.a]\nready = { log = 'begun' }\nready_timeout = '9m'\n");
    running.run_client("restart a");
    running.wait_for("a.1 is ready after ");
    running.run_client("stop a");
    reload(&mut running, "[process.a]\nready = { log = 'bgeun' }\n");
    running.run_client("restart a");
    running.wait_until("up", |it| it.run_client("ps").0.contains("up, not ready"));
    reload(&mut running, "[process.a]\nready = { command = 'true' }\n");
    assert_eq!(running.run_client("wait a --ready --timeout 60").1, 0);
    end(running).code(0);
}

#[test]
fn log_probe_ignores_colors() {
    let procfile = "a: printf 'Local: \\033[36mhttp://\\033[1mlocal'; sleep 0.1; \
                    printf '\\033[0mhost\\033[0m\\n'; exec sleep 1000\n";
    let config = "[process.a]\nready = { log = 'http://localhost' }\n";
    let mut running = start(procfile, config, "");
    running.wait_for("a.1 is ready after ");
    end(running).code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn ready_timeout_names_the_last_http_status() {
    let port = free_port();
    let config = "[process.api]\nready = { http = '/nowhere' }\nready_timeout = '2s'\n";
    let mut running =
        start("api: exec python3 -m http.server $PORT\n", config, &format!("-p {port}"));
    running.wait_for("api.1 is not ready after 2s: `GET /nowhere` is answered with 404\n");
    end(running).code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn port_bound_by_another_process_does_not_count() {
    let port = free_port();
    // It is not a descendant of web.
    let procfile = format!("web: exec sleep 1000\nother: exec python3 -m http.server {port}\n");
    let config = "[process.web]\nready_timeout = '2s'\n";
    let mut running = start(&procfile, config, &format!("-p {port}"));
    running.wait_for(&format!("web.1 has not bound port {port} after 2s\n"));
    end(running).code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3")]
fn http_probe_marks_process_ready() {
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
fn log_probe_matches_a_line_written_in_pieces() {
    let procfile = "a: printf 'now liste'; until test -e go; do sleep 0.01; done; echo ning on 80; \
                    exec sleep 1000\n";
    let config = "[process.a]\nready = { log = 'listening on' }\n";
    let mut running = start(procfile, config, "");
    running.wait_for("a.1 started").wait_until("an answer", |it| it.run_client("ps").1 == 0);
    assert!(!is_ready(&running));
    std::fs::write(running.folder().join("go"), "").unwrap();
    running.wait_for("a.1 is ready after ");
    end(running).code(0);
}

#[test]
fn command_probe_marks_process_ready_and_leaves_no_process() {
    let tag = tag();
    let config = format!(
        "[process.a]\nready = {{ command = \"($HOSTILE leaf {tag} &); echo no; echo > probed; test -e $PS\" }}\n"
    );
    let mut running = start("a: exec sleep 1000\n", &config, "");
    // The process that the probe command leaves is killed at once, so it is seldom found.
    running.wait_until("a first probe", |running| running.folder().join("probed").exists());
    assert!(!is_ready(&running));
    std::fs::write(running.folder().join("a.1"), "").unwrap();
    running.wait_for("a.1 is ready after ");
    running.wait_until("nothing is left", |_| tagged(&tag).is_empty());
    let finished = end(running).code(0);
    assert_eq!(finished.stdout(), "");
}

/// Five processes that depend on each other, in another order than in the Procfile.
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

/// The starts and stops of processes, in order, such as `a started`.
fn story(stderr: &str, word: &str) -> Vec<String> {
    let lines = stderr.lines().filter_map(|line| line.strip_prefix("ganger | "));
    let name = |line: &str| {
        line.contains(word).then(|| line.split('.').next().unwrap_or_default().to_owned())
    };
    lines.filter_map(name).collect()
}

#[test]
fn dependencies_start_in_order_and_stop_in_reverse() {
    let mut running = start(FIVE, &five(""), "-N");
    running.wait_for("e.1 is ready");
    let stderr = end(running).code(0).stderr();
    assert_eq!(story(&stderr, " started"), ["a", "b", "c", "d", "e"]);
    assert_eq!(story(&stderr, " stopped"), ["e", "d", "c", "b", "a"]);
    assert!(stderr.contains("ganger | d.1 waits for c.1\n"), "{stderr}");
}

#[test]
fn failed_dependency_is_named_with_all_its_dependents() {
    let late = five("ready = { command = 'false' }\nready_timeout = '0.5s'\n");
    let stderr = start(FIVE, &late, "-N").finish().code(1).stderr();
    let expected = "ganger | c.1 is not ready after 0.5s: `false` exited (1)\n\
                    ganger | e.1 waits for d.1, which waits for c.1, which is not ready after 0.5s\n\
                    ganger | d.1 was not started, stopping all\n";
    assert!(stderr.contains(expected), "{stderr}");
    assert_eq!(story(&stderr, " stopped"), ["c", "b", "a"]);
    assert!(stderr.contains("ganger | d.1 failed first: it was not started\n"), "{stderr}");
}

#[test]
fn dependency_cycle_is_refused() {
    let config =
        "[process.a]\nafter = ['b']\n[process.b]\nafter = ['c']\n[process.c]\nafter = ['a']\n";
    start("a: true\nb: true\nc: true\n", config, "").finish().refused(
        "`ganger.toml` line 2: `after` goes in a cycle: `a` comes after `b` comes after `c` \
         comes after `a`",
    );
}

#[test]
fn process_is_given_up_after_consecutive_crashes() {
    let config = "[process.job]\non_exit = 'restart-on-failure'\n\
                  backoff = { min = '1ms', max = '2ms', give_up_after = 10 }\n";
    let procfile = "job: echo failing; exit 3\nother: exec sleep 1000\n";
    let mut running = start(procfile, config, "");
    running.wait_for("job.1 exited (3), 10 crashes in a row: GIVING UP, it stays down\n");
    let table = running.run_client("ps job").0;
    assert!(table.contains("down   ") && table.contains("restart-on-failure, crashed 10/10"));
    assert_eq!(
        running.run_client("wait job --ready").0,
        "ganger: job.1 exited (3), and stays down\n"
    );
    let finished = end(running).code(3);
    assert_eq!(finished.lines_of("job.1").len(), 10);
}
