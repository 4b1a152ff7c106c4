//! ganger opens the listening socket, and passes it to all instances of a type.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::scenario::{Running, Scenario, TEST_TIMEOUT, free_port, hostile};

/// Sends a request, and returns the body of the response.
fn get(port: u16) -> std::io::Result<String> {
    read_response(send_request(port)?)
}

fn send_request(port: u16) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TEST_TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Reads a response to its end, and returns its body.
fn read_response(mut stream: TcpStream) -> std::io::Result<String> {
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        Some(_) | None => Err(std::io::Error::other(response)),
    }
}

/// Sends requests from four threads, one after the other, while `meanwhile` runs. Returns the
/// number of responses, and all errors.
fn load(port: u16, meanwhile: impl FnOnce()) -> (usize, Vec<String>) {
    let over = AtomicBool::new(false);
    let client = || {
        let mut responses = 0;
        while !over.load(Ordering::Relaxed) {
            match get(port) {
                Ok(_) => responses += 1,
                Err(error) => return (responses, Some(error.to_string())),
            }
        }
        (responses, None)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        meanwhile();
        over.store(true, Ordering::Relaxed);
        let all: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        (
            all.iter().map(|(responses, _)| responses).sum(),
            all.into_iter().filter_map(|it| it.1).collect(),
        )
    })
}

fn roll(running: &Running) {
    for _ in 0..3 {
        assert_eq!(running.run_client("restart --rolling --wait web").1, 0);
    }
}

#[test]
fn rolling_restart_under_load_refuses_no_connection() {
    let port = free_port();
    let mut running = Scenario::procfile(format!("web: {} serve\n", hostile().display()))
        .args(&format!("start --listen web -m web=3 -p {port}"))
        .start();
    running.wait_until("all processes", |running| running.count_in_output("serving\n") == 3);
    let mut names = BTreeSet::new();
    running.wait_until("a response of each process", |_| {
        names.insert(get(port).unwrap());
        names.len() == 3
    });
    let (responses, errors) = load(port, || roll(&running));
    assert!(responses > 100 && errors.is_empty(), "{responses} {errors:?}");
    running.wait_until("three more starts of each process", |running| {
        running.count_in_output("serving\n") == 12
    });
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    assert!(get(port).is_err());
}

#[test]
fn connections_wait_while_the_only_instance_restarts() {
    let port = free_port();
    let config = "[process.web]\nlisten = true\n";
    let mut running = Scenario::procfile("web: exec $HOSTILE serve\n")
        .file("ganger.toml", config)
        .args(&format!("start -p {port}"))
        .start();
    running.wait_for("serving\n");
    assert_eq!(running.run_client("stop web").1, 0);
    running.wait_for("web.1 exited (0)\n");
    // The system accepts the connection, and no process reads the request.
    let waiting = send_request(port).unwrap();
    waiting.set_nonblocking(true).unwrap();
    let early = (&waiting).read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock));
    waiting.set_nonblocking(false).unwrap();
    running.run_client("restart web");
    assert_eq!(read_response(waiting).unwrap(), "web.1");
    // Without a process that listens, the port is free again.
    running.run_client("scale web=0");
    running.wait_until("free", |_| TcpListener::bind(("127.0.0.1", port)).is_ok());
    running.run_client("quit");
    running.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs gunicorn")]
fn gunicorn_accepts_the_listening_socket() {
    gunicorn_accepts_the_socket("never");
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs gunicorn")]
fn gunicorn_accepts_the_listening_socket_on_a_terminal() {
    gunicorn_accepts_the_socket("always");
}

fn gunicorn_accepts_the_socket(pty: &str) {
    let port = free_port();
    let app = "def app(environ, start_response):\n\
               \x20   start_response('200 OK', [('content-length', '5')])\n\
               \x20   return [b'hello']\n";
    let mut running = Scenario::procfile("web: gunicorn --workers 2 app:app\n")
        .file("app.py", app)
        .args(&format!("start --listen web -m web=2 -p {port} --pty {pty}"))
        .start();
    running.wait_until("four workers", |running| running.count_in_output("Booting worker") == 4);
    let (responses, errors) = load(port, || {
        assert_eq!(running.run_client("restart --rolling --wait web").1, 0);
        running.wait_until("four more workers", |running| {
            running.count_in_output("Booting worker") == 8
        });
    });
    assert!(responses > 20 && errors.is_empty(), "{responses} {errors:?}");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn only_the_listening_process_gets_the_socket() {
    let port = free_port();
    let procfile = "web: ls -1 /proc/self/fd > fds; exec sh -c 'echo $LISTEN_PID = $$'\n\
                    worker: echo ${LISTEN_PID-none} ${LISTEN_FDS-none} ${LISTEN_FDNAMES-none}\n";
    let scenario = Scenario::procfile(procfile)
        .args(&format!("start --listen web --any-can-die -p {port}"))
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "7")
        .env("LISTEN_FDNAMES", "x");
    let mut running = scenario.start();
    running.wait_for(" = ");
    // The fourth is the socket, and the fifth is the folder that `ls` reads.
    let descriptors = std::fs::read_to_string(running.folder().join("fds")).unwrap();
    assert_eq!(descriptors.lines().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    let finished = running.finish().code(0);
    assert_eq!(finished.lines_of("worker.1"), ["none none none"]);
    let line = finished.lines_of("web.1").concat();
    let (listen_pid, own_pid) = line.split_once(" = ").unwrap();
    assert_eq!(listen_pid, own_pid);
}

#[test]
fn invalid_listen_setting_is_refused() {
    let through_shell = "`web` can't be handed a socket: a shell would stay between ganger and its \
                   program (put `exec` before the program, or the rest into a script that \
                   ends with `exec`)";
    let listen = |procfile: &str, args: &str| {
        Scenario::procfile(procfile).args("start --listen web").args(args).run()
    };
    listen("web: cd api && bin/web\n", "").refused(through_shell);
    listen("web: bin/web\n", "-N")
        .refused("`web` is configured to listen, but `--no-port` leaves it without a port");
    Scenario::procfile("web: bin/web\n")
        .args("start --listen weg")
        .run()
        .refused("`--listen` names `weg`, which is not in `Procfile` (did you mean `web`?)");
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let finished = listen("web: bin/web\n", &format!("-p {port}")).code(2);
    let expected = format!("ganger: web.1 needs port {port}, which ");
    assert!(finished.stderr().starts_with(&expected), "{}", finished.stderr());
}
