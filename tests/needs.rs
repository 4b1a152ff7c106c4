//! Backing services, real ones, down and up.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::scenario::{PATIENCE, Running, Scenario, free_port};

/// A server that a test has started, and ends.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn stop(mut self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGQUIT);
            let _ = self.0.wait();
        }
    }
}

/// `PostgreSQL`, which refuses to run as root: as the user that Debian gives it.
struct Postgres {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    fn new() -> Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap().flatten();
        let programs = versions.map(|it| it.path().join("bin")).max().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let owner = User::from_name("postgres").unwrap().unwrap();
        chown(folder.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).unwrap();
        let postgres = Self { programs, folder, port: free_port() };
        let mut initdb = postgres.program("initdb");
        let args = ["-U", "app", "-A", "trust", "--no-sync", "--no-instructions", "-D"];
        let made = initdb.args(args).arg(postgres.data()).stdout(Stdio::null()).status().unwrap();
        assert!(made.success());
        postgres
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// In this process's place, as the other user.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
        command.arg(self.programs.join(name)).current_dir(self.folder.path());
        command
    }

    fn start(&self) -> Server {
        let mut postgres = self.program("postgres");
        postgres.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        Server::start(postgres.args(["-p", &self.port.to_string(), "-c", "fsync=off"]))
    }

    fn url(&self) -> String {
        format!("postgres://app:s3cret@localhost:{}/postgres", self.port)
    }
}

fn redis(port: u16, folder: &Path) -> Server {
    let mut redis = Command::new("redis-server");
    redis.args(["--port", &port.to_string(), "--save", ""]).current_dir(folder);
    Server::start(&mut redis)
}

fn end(running: Running) -> String {
    running.signal(Signal::SIGTERM);
    running.finish().stderr()
}

#[test]
fn an_application_waits_for_its_database_and_comes_back_with_it() {
    let postgres = Postgres::new();
    // As an application does that has lost its connection.
    let app = "app: echo running; while psql -qAtc 'select 1' \"$DATABASE_URL\" > /dev/null 2>&1; \
               do sleep 0.05; done; exit 1\n";
    let config = "[process.app]\nneeds = ['DATABASE_URL']\non_exit = 'restart'\n";
    let mut running = Scenario::procfile(app)
        .file("ganger.toml", config)
        .file(".env", format!("DATABASE_URL={}\n", postgres.url()))
        .args("start")
        .start();
    let waits = format!("app.1 waits for `DATABASE_URL` (localhost:{})\n", postgres.port);
    running.wait_for(&waits);
    assert_eq!(running.said_times("running\n"), 0);
    assert!(running.tell("ps").0.contains(" waiting "));
    let server = postgres.start();
    running.wait_for("| running\n");
    // It takes connections before it takes questions: by then the app is up for good.
    let since = std::time::Instant::now();
    let ask = || {
        let mut psql = Command::new("psql");
        psql.args(["-qAtc", "select 1"]).arg(postgres.url()).stderr(Stdio::null());
        psql.output().unwrap().status.success()
    };
    while !ask() {
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(running.tell("wait app --ready --timeout 60").1, 0);
    server.stop(Signal::SIGINT);
    let before = running.said_times(&waits);
    running.wait_until("it waits again", |running| running.said_times(&waits) > before);
    let before = running.said_times("| running\n");
    let _server = postgres.start();
    running.wait_until("it is back", |running| running.said_times("| running\n") > before);
    let stderr = end(running);
    assert!(!stderr.contains("s3cret"), "{stderr}");
}

#[test]
fn redis_is_waited_for_by_its_address() {
    let port = free_port();
    let app = format!("app: redis-cli -p {port} set key value; exec sleep 1000\n");
    let config = format!("[process.app]\nneeds = ['redis://localhost:{port}']\n");
    let scenario = Scenario::procfile(app).file("ganger.toml", config);
    let mut running = scenario.args("start").start();
    running.wait_for(&format!("app.1 waits for localhost:{port}\n"));
    let folder = tempfile::tempdir().unwrap();
    let _server = redis(port, folder.path());
    running.wait_for("app.1  | OK\n");
    end(running);
}

#[test]
fn a_socket_is_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let config = format!("[process.app]\nneeds = ['unix://{}']\n", path.display());
    let scenario = Scenario::procfile("app: echo hello\n").file("ganger.toml", config);
    let mut running = scenario.args("start").start();
    running.wait_for(&format!("app.1 waits for {}\n", path.display()));
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(running.finish().code(0).lines_of("app.1"), ["hello"]);
}

#[test]
fn what_does_not_come_is_named_without_its_password() {
    let port = free_port();
    let config = "[process.app]\nneeds = ['CACHE_URL']\nready_timeout = '0.5s'\n";
    let scenario = Scenario::procfile("app: true\nother: exec sleep 1000\n")
        .file("ganger.toml", config)
        .file(".env", format!("CACHE_URL=redis://:s3cret@localhost:{port}/0\n"));
    let stderr = scenario.args("start").run().code(1).stderr();
    let expected = format!(
        "app.1: `CACHE_URL` (localhost:{port}) is not there after 0.5s\n\
         ganger  | app.1 was not started, stopping all\n"
    );
    assert!(stderr.contains(&expected) && !stderr.contains("s3cret"), "{stderr}");
}

#[test]
fn what_names_no_service_is_refused() {
    let start = |needs: &str, env: &str| {
        let config = format!("[process.app]\nneeds = ['{needs}']\n");
        let scenario = Scenario::procfile("app: true\n").file("ganger.toml", config);
        scenario.file(".env", env).args("start").run()
    };
    start("DATABASE_URL", "").refused(
        "`ganger.toml`: `app` needs `DATABASE_URL`, which is not set (set it in `.env` or in the \
         environment)",
    );
    start("DATABASE_URL", "DATABASE_URL=s3cret\n").refused(
        "`ganger.toml`: `app` needs `DATABASE_URL`, whose value names no address; expected \
         `scheme://host:port`",
    );
}
