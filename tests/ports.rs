//! Ports: conflicts are found before anything starts.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::control::{ClientOutput, run_client};
use crate::scenario::{Scenario, wait_until};

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

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs nginx")]
fn auto_ports_skip_ports_in_use() {
    let nginx = Nginx::start();
    let (port, next) = (nginx.port, nginx.port + 1000);
    // The port of the worker there is in use, too.
    let above = TcpListener::bind(("127.0.0.1", next + 100));
    let expected = if above.is_ok() { next + 1000 } else { next };
    let procfile = "web: echo $PORT; sleep 1000\nworker: echo $PORT; sleep 1000\n";
    let mut running = Scenario::procfile(procfile)
        .env("PORT", &port.to_string())
        .args("start --port auto")
        .start();
    let message = format!("nginx (pid {}) is using: ports begin at {expected}\n", nginx.child.id());
    running.wait_for(&message).wait_for(&format!("web.1    | {expected}\n"));
    running.wait_for(&format!("worker.1 | {}\n", expected + 100));
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    // Ports that are free are not changed.
    drop((nginx, above));
    let mut running =
        Scenario::procfile(procfile).env("GANGER_PORT", "auto").env("PORT", &port.to_string());
    running = running.args("start");
    let mut running = running.start();
    running.wait_for(&format!("web.1    | {port}\n"));
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
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
