//! Ports: conflicts are found before anything starts.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::control::{ClientOutput, run_client};
use crate::scenario::{Running, Scenario, wait_until};

/// nginx on a free port.
struct Nginx {
    child: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = crate::scenario::free_port();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
             events {{}}\nhttp {{ access_log off; server {{ listen 127.0.0.1:{port}; }} }}\n"
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder.path()).args(["-c", "nginx.conf"]);
        let child = nginx.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a listener", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, _folder: folder, port }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs nginx")]
fn port_in_use_is_an_error_for_a_type_that_is_ready_by_port() {
    let nginx = Nginx::start();
    let port = nginx.port;
    let start = |procfile: &str, args: &str| {
        Scenario::procfile(procfile).args(&format!("start -p {port}")).args(args).run()
    };
    start("web: touch started\n", "").refused(&format!(
        "web.1 needs port {port}, which nginx (pid N) is using (free it, choose others \
         with `--port`, or let ganger: `--port auto`)"
    ));
    // A worker may not use its port at all.
    let finished = start("worker: echo $PORT\n", "").code(0);
    assert_eq!(finished.lines_of("worker.1"), [port.to_string()]);
    let expected = format!("ganger   | worker.1 needs port {port}, which nginx (pid N) is using\n");
    assert!(finished.stderr().starts_with(&expected), "{}", finished.stderr());
    // A type without a port is not affected.
    start("web: true\n", "-N").code(0);
}

/// The ports of web and worker, which print them.
const PRINT_PORTS: &str =
    "web: echo $PORT; exec sleep 1000\nworker: echo $PORT $URL; exec sleep 1000\n";

/// The first port that `--port auto` chooses in this folder, while it is free.
fn auto_port(folder: &std::path::Path, args: &str) -> u16 {
    let scenario = Scenario::new().in_folder(folder).args("start --port auto").args(args);
    let mut running = scenario.start();
    running.wait_for("web.1    | ").wait_for("worker.1 | ").signal(Signal::SIGTERM);
    running.finish().code(0).lines_of("web.1")[0].parse().unwrap()
}

#[test]
fn auto_port_stays_the_same_from_run_to_run() {
    let scenario = Scenario::procfile(PRINT_PORTS).file("Procfile.dev", PRINT_PORTS);
    let folder = scenario.folder();
    let port = auto_port(folder, "");
    assert!((10_000..32_000).contains(&port) && port.is_multiple_of(100), "{port}");
    assert_eq!(auto_port(folder, ""), port);
    assert_ne!(auto_port(folder, "-f Procfile.dev"), port);
    let config = "port = 'auto'\n";
    let env = "URL=http://localhost:$GANGER_PROCESS_web_PORT/$PORT\n";
    let mut running = scenario.file("ganger.toml", config).file(".env", env).args("start").start();
    running.wait_for("web.1    | ").wait_for("worker.1 | ");
    let worker = port + 100;
    running.wait_for(&format!("worker.1 | {worker} http://localhost:{port}/{worker}\n"));
    let run = running.run_client("run printenv GANGER_PROCESS_web_PORT");
    assert_eq!(run, ClientOutput(format!("{port}\n"), 0));
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn auto_port_in_use_is_replaced_by_the_next_free_one() {
    let scenario = Scenario::procfile(PRINT_PORTS).file("x", "");
    let folder = scenario.folder().to_owned();
    let port = auto_port(&folder, "");
    // The worker's.
    let owner = TcpListener::bind(("127.0.0.1", port + 100)).unwrap();
    let mut running = scenario.args("start -p auto").start();
    running.wait_for("web.1    | ").wait_for("worker.1 | ");
    running.wait_until("both", |running| running.count_in_output(", port ") == 2);
    let output = running.output();
    let moved = output.lines().find_map(|line| line.split_once(": ports begin at ")).unwrap();
    let expected = format!("ganger   | worker.1 needs port {}, which ", port + 100);
    assert!(moved.0.starts_with(&expected), "{output}");
    let base: u16 = moved.1.parse().unwrap();
    assert!(base != port && output.contains(&format!("web.1    | {base}\n")), "{output}");
    assert_eq!(running.processes()[0]["port"], base);
    drop(owner);
    // Another ganger with the same usual ports gets others, though no program listens there.
    let second = Scenario::new().in_folder(&folder).args("start -p auto -s second.sock");
    let mut second = second.start();
    second.wait_until("both", |second| second.count_in_output(", port ") == 2);
    let ports = |running: &Running| {
        let ports = running.output();
        let ports = ports.lines().filter_map(|line| line.split_once(", port "));
        ports.map(|(_, port)| port.to_owned()).collect::<Vec<_>>()
    };
    let (one, other) = (ports(&running), ports(&second));
    assert!(one.len() == 2 && other.len() == 2, "{one:?} {other:?}");
    assert!(one.iter().all(|port| !other.contains(port)), "{one:?} {other:?}");
    for running in [second, running] {
        running.signal(Signal::SIGTERM);
        running.finish().code(0);
    }
}

#[test]
fn auto_ports_of_a_listening_type_agree() {
    let procfile =
        "web: exec $HOSTILE serve\nworker: echo $GANGER_PROCESS_web_PORT; exec sleep 1000\n";
    let mut running = Scenario::procfile(procfile).args("start -p auto --listen web").start();
    running.wait_for("worker.1 | ");
    let port = running.processes()[0]["port"].as_u64().unwrap();
    running.wait_for(&format!("worker.1 | {port}\n"));
    running.wait_for(&format!("http://localhost:{port}\n"));
    let port = u16::try_from(port).unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    running.signal(Signal::SIGTERM);
    running.finish();
}

#[test]
fn two_clones_started_at_the_same_moment_run_side_by_side() {
    let web = "web: exec python3 -m http.server $PORT\nworker: exec sleep 1000\n";
    for round in 0..10 {
        let scenario = Scenario::new();
        let folder = scenario.folder().to_owned();
        for clone in ["one", "two"] {
            fs::create_dir(folder.join(clone)).unwrap();
            for procfile in ["Procfile", "Procfile.dev"] {
                fs::write(folder.join(clone).join(procfile), web).unwrap();
            }
        }
        // Two clones, one of which runs two Procfiles.
        let apps = [("one", "Procfile"), ("two", "Procfile"), ("two", "Procfile.dev")];
        let start = |(clone, procfile): (&str, &str)| {
            let scenario = Scenario::new().in_folder(&folder.join(clone)).beside(&folder);
            scenario.args(&format!("start -p auto -f {procfile}")).start()
        };
        let mut all = apps.map(start);
        let mut ports = Vec::new();
        for running in &mut all {
            running.wait_for("web.1 is ready, http://localhost:");
            let output = running.output();
            let found = output.lines().filter_map(|line| line.split_once(", port "));
            ports.extend(found.map(|(_, port)| port.to_owned()));
        }
        let different: std::collections::HashSet<&String> = ports.iter().collect();
        assert_eq!((ports.len(), different.len()), (6, 6), "{round}: {ports:?}");
        for running in all {
            running.signal(Signal::SIGTERM);
            running.finish();
        }
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs nginx")]
fn scale_to_a_port_in_use_names_its_owner() {
    let nginx = Nginx::start();
    let (port, in_use) = (nginx.port - 1, nginx.port);
    let procfile = "web: exec python3 -m http.server $PORT\n";
    let mut running = Scenario::procfile(procfile).args(&format!("start -p {port}")).start();
    running.wait_for("web.1 is ready");
    let owner = format!("nginx (pid {})", nginx.child.id());
    let refusal = format!(
        "ganger: web.2 needs port {in_use}, which {owner} is using (free it, and try again)\n"
    );
    assert_eq!(running.run_client("scale web=2"), ClientOutput(refusal, 2));
    running.run_client("quit");
    // A type that may not need its port gets it all the same, with a message.
    let both = format!("{procfile}worker: echo $PORT; exec sleep 1000\n");
    fs::write(running.folder().join("Procfile"), both).unwrap();
    let again = |args: &str| {
        Scenario::new().in_folder(running.folder()).args(&format!("start -p {port} {args}")).start()
    };
    let mut other = again("-P 1 web");
    other.wait_for("web.1 is ready");
    assert_eq!(run_client(running.folder(), "scale worker=1").1, 0);
    other.wait_for(&format!("worker.1 needs port {in_use}, which {owner} is using\n"));
    run_client(running.folder(), "quit");
    drop(nginx);
    // A port that a stopping process of ganger still has is not in use by another one.
    let slow = "web: trap '' TERM; exec $HOSTILE listen $PORT\n";
    fs::write(running.folder().join("Procfile"), slow).unwrap();
    let mut slow = again("-m web=2 -t 1");
    slow.wait_for("web.2 is ready");
    assert_eq!(run_client(running.folder(), "scale web=1").1, 0);
    let back = ClientOutput("starting web.2\n".into(), 0);
    assert_eq!(run_client(running.folder(), "scale web=2"), back);
    run_client(running.folder(), "quit");
}

#[test]
fn process_gets_the_ports_of_other_types() {
    let procfile =
        "web: echo $GANGER_PROCESS_web_PORT $GANGER_PROCESS_my_worker_PORT\nmy-worker: true\n";
    let finished = Scenario::procfile(procfile).args("start --any-can-die -p 41000").run();
    assert_eq!(finished.lines_of("web.1"), ["41000 41100"]);
}

#[test]
fn fixed_port_is_kept_whatever_else_changes() {
    let config = "[process.api]\nport = 3000\n";
    let scenario = || {
        let procfile = "web: echo $PORT $GANGER_PROCESS_api_PORT\napi: echo $PORT\n";
        Scenario::procfile(procfile).file("ganger.toml", config)
    };
    let finished = scenario().args("start --any-can-die -p 12990 -m api=2").run().code(0);
    assert_eq!(finished.lines_of("web.1"), ["12990 3000"]);
    assert_eq!(finished.lines_of("api.1"), ["3000"]);
    assert_eq!(finished.lines_of("api.2"), ["3001"]);
    let finished = scenario().args("start -N").run().code(0);
    assert!(!finished.stdout().contains("3000"), "{}", finished.stdout());
}

#[test]
fn same_port_for_two_processes_is_refused_before_anything_starts() {
    let config = "[process.api]\nport = 5000\n";
    for command in ["check", "start"] {
        let scenario = Scenario::procfile("web: true\napi: true\n").file("ganger.toml", config);
        scenario.args(command).run().refused(
            "`web.1` and `api.1` would both get port 5000 (change `port` of one of them in \
             `ganger.toml`)",
        );
    }
    let config = "[process.api]\nport = 3000\n[process.web]\nport = 3001\n";
    let scenario = Scenario::procfile("web: true\napi: true\n").file("ganger.toml", config);
    scenario.args("check -m api=2").run().refused(
        "`web.1` and `api.2` would both get port 3001 (change `port` of one of them in \
         `ganger.toml`)",
    );
}
