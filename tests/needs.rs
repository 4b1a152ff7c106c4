//! Backing services, real ones, down and up.

use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::scenario::{Running, Scenario, free_port};

/// A server that a test has started. It is killed when this is dropped.
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

/// `PostgreSQL`. It refuses to run as root, so it runs as its user of Debian.
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
    let args = ["--port", &port.to_string(), "--save", "", "--requirepass", "s3cret"];
    redis.args(args).current_dir(folder);
    Server::start(&mut redis)
}

fn end(running: Running) -> String {
    running.signal(Signal::SIGTERM);
    running.finish().stderr()
}

/// A web application that counts its visitors in Redis, and stores the times in `PostgreSQL`.
/// It connects once, and exits when it loses one of the two.
const VISITORS: &str = r#"
import http.server, os, psycopg2, redis

cache = redis.from_url(os.environ["REDIS_URL"])
cache.ping()
database = psycopg2.connect(os.environ["DATABASE_URL"])
database.autocommit = True
query = database.cursor()
query.execute("create table if not exists visits (at timestamptz default now())")


class Visit(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            query.execute("insert into visits default values")
            query.execute("select count(*) from visits")
            text = "%d %d" % (query.fetchone()[0], cache.incr("visits"))
        except (psycopg2.Error, redis.RedisError) as lost:
            print("lost", type(lost).__name__, flush=True)
            os._exit(1)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


print("connected", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Visit).serve_forever()
"#;

fn visit(port: u16) -> Option<String> {
    let mut curl = Command::new("curl");
    let output = curl.args(["-fsS", &format!("http://127.0.0.1:{port}/")]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs postgresql, redis and python3")]
fn app_waits_for_its_services_and_recovers_with_them() {
    let (postgres, redis_port, port) = (Postgres::new(), free_port(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let env = format!(
        "DATABASE_URL={}\nREDIS_URL=redis://:s3cret@localhost:{redis_port}/0\n",
        postgres.url()
    );
    let config = "[process.web]\nneeds = ['DATABASE_URL', 'REDIS_URL']\non_exit = 'restart'\n";
    let mut running = Scenario::procfile("web: exec /usr/bin/python3 visitors.py\n")
        .file("visitors.py", VISITORS)
        .file("ganger.toml", config)
        .file(".env", env)
        .args(&format!("start -p {port}"))
        .start();
    let database = format!("`DATABASE_URL` (localhost:{})", postgres.port);
    let cache = format!("`REDIS_URL` (localhost:{redis_port})");
    running.wait_for(&format!("web.1 waits for {database}, {cache}\n"));
    assert!(running.run_client("ps").0.contains(" waiting "));
    // One of the two services is not enough.
    let redis_server = redis(redis_port, folder.path());
    running.wait_until("Redis is up", |_| TcpStream::connect(("::1", redis_port)).is_ok());
    assert_eq!(running.count_in_output("connected\n"), 0);
    let server = postgres.start();
    running.wait_for(&format!("web.1 is ready, http://localhost:{port}\n"));
    assert_eq!(visit(port), Some("1 1".into()));
    // Either is restarted while the application runs.
    server.stop(Signal::SIGINT);
    assert_eq!(visit(port), None);
    running.wait_for(&format!("web.1 waits for {database}\n"));
    let server = postgres.start();
    running.wait_until("it is back", |_| visit(port) == Some("2 2".into()));
    redis_server.stop(Signal::SIGTERM);
    assert_eq!(visit(port), None);
    running.wait_for(&format!("web.1 waits for {cache}\n"));
    let _redis_server = redis(redis_port, folder.path());
    running.wait_until("it is back", |_| visit(port).is_some_and(|text| text.starts_with("4 ")));
    let stderr = end(running);
    assert!(!stderr.contains("s3cret"), "{stderr}");
    drop(server);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs redis")]
fn app_waits_for_redis_by_its_address() {
    let port = free_port();
    let app = format!(
        "app: redis-cli --no-auth-warning -a s3cret -p {port} set key value; exec sleep 1000\n"
    );
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
fn unix_socket_is_accepted_as_a_service_address() {
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
fn missing_service_is_named_without_its_password() {
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
fn password_in_a_needs_address_is_never_printed() {
    let port = free_port();
    for address in [
        format!("redis://hunter2@localhost:{port}"),
        format!("unknown://hunter2@localhost:{port}"),
        format!("redis://app:hunter2@localhost:{port}"),
        "unknown://hunter2@localhost".into(),
        "unknown://hunter2".into(),
        "redis://hunter2@localhost:x".into(),
        "redis:hunter2".into(),
        "redis+unix:///hunter2@/run/redis.sock".into(),
        "hunter2@localhost".into(),
    ] {
        let run = |args: &str, config: &str, env: &str| {
            let procfile = "app: true\nother: exec sleep 1000\n";
            let config = format!("[process.app]\n{config}\nready_timeout = '0.2s'\n");
            let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
            let finished = scenario.file(".env", env).args(args).run();
            let shown = finished.stdout() + &finished.stderr();
            assert!(!shown.contains("hunter2"), "{args}: {shown}");
        };
        for args in ["check", "check --explain", "start", "start --verbose"] {
            run(args, &format!("needs = ['{address}']"), "");
            run(args, "needs = ['SERVICE_URL']", &format!("SERVICE_URL={address}\n"));
        }
    }
    let config = format!("[process.app]\nneeds = ['redis://hunter2@localhost:{port}']\n");
    let scenario = Scenario::procfile("app: true\n").file("ganger.toml", config).args("start");
    let mut running = scenario.start();
    running.wait_for(&format!("app.1 waits for localhost:{port}\n"));
    for args in ["ps --json", "ps"] {
        let shown = running.run_client(args).0;
        assert!(shown.contains("app.1") && !shown.contains("hunter2"), "{shown}");
    }
    end(running);
}

#[test]
fn invalid_service_address_is_refused() {
    let start = |needs: &str, env: &str| {
        let config = format!("[process.app]\nneeds = ['{needs}']\n");
        let scenario = Scenario::procfile("app: true\n").file("ganger.toml", config);
        scenario.file(".env", env).args("start").run()
    };
    start("DATABASE_URL", "").refused(
        "`ganger.toml` line 2: `app` needs `DATABASE_URL`, which is not set (set it in `.env` or in the \
         environment)",
    );
    start("DATABASE_URL", "DATABASE_URL=s3cret\n").refused(
        "`ganger.toml` line 2: `app` needs `DATABASE_URL`, whose value names no address; expected \
         `scheme://host:port`",
    );
}
