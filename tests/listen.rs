//! ganger listens, and hands the socket to all instances of a type.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scenario::{Running, Scenario, TEST_TIMEOUT, free_port, hostile};

/// One request; the body of the answer.
fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TEST_TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        Some(_) | None => Err(std::io::Error::other(answer)),
    }
}

/// Asks from four threads as fast as it goes while `meanwhile` lasts; how many
/// answers came, and everything that was no answer.
fn load(port: u16, meanwhile: impl FnOnce()) -> (usize, Vec<String>) {
    let over = AtomicBool::new(false);
    let client = || {
        let mut answers = 0;
        while !over.load(Ordering::Relaxed) {
            match get(port) {
                Ok(_) => answers += 1,
                Err(error) => return (answers, Some(error.to_string())),
            }
        }
        (answers, None)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        meanwhile();
        over.store(true, Ordering::Relaxed);
        let all: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        (
            all.iter().map(|(answers, _)| answers).sum(),
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
    running.wait_until("all", |running| running.count_in_output("serving\n") == 3);
    let mut names = BTreeSet::new();
    running.wait_until("every one answers", |_| {
        names.insert(get(port).unwrap());
        names.len() == 3
    });
    let (answers, failures) = load(port, || roll(&running));
    assert!(answers > 100 && failures.is_empty(), "{answers} {failures:?}");
    running.wait_until("each anew", |running| running.count_in_output("serving\n") == 12);
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
    let waiting = std::thread::spawn(move || get(port));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    running.run_client("restart web");
    assert_eq!(waiting.join().unwrap().unwrap(), "web.1");
    // Without a process that listens, the port is free again.
    running.run_client("scale web=0");
    running.wait_until("free", |_| TcpListener::bind(("127.0.0.1", port)).is_ok());
    running.run_client("quit");
    running.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs gunicorn")]
fn gunicorn_accepts_the_listening_socket() {
    let port = free_port();
    let app = "def app(environ, start_response):\n\
               \x20   start_response('200 OK', [('content-length', '5')])\n\
               \x20   return [b'hello']\n";
    let mut running = Scenario::procfile("web: gunicorn --workers 2 app:app\n")
        .file("app.py", app)
        .args(&format!("start --listen web -m web=2 -p {port}"))
        .start();
    running.wait_until("four workers", |running| running.count_in_output("Booting worker") == 4);
    let (answers, failures) = load(port, || {
        assert_eq!(running.run_client("restart --rolling --wait web").1, 0);
        running.wait_until("all again", |running| running.count_in_output("Booting worker") == 8);
    });
    assert!(answers > 20 && failures.is_empty(), "{answers} {failures:?}");
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
    let (told, own) = line.split_once(" = ").unwrap();
    assert_eq!(told, own);
}

#[test]
fn invalid_listen_setting_is_refused() {
    let between = "`web` can't be handed a socket: a shell would stay between ganger and its \
                   program (put `exec` before the program, or the rest into a script that \
                   ends with `exec`)";
    let listen = |procfile: &str, args: &str| {
        Scenario::procfile(procfile).args("start --listen web").args(args).run()
    };
    listen("web: cd api && bin/web\n", "").refused(between);
    listen("web: bin/web\n", "-N")
        .refused("`web` is configured to listen, but `--no-port` leaves it without a port");
    Scenario::procfile("web: bin/web\n")
        .args("start --listen weg")
        .run()
        .refused("`--listen` names `weg`, which is not in `Procfile` (did you mean `web`?)");
    let holder = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let finished = listen("web: bin/web\n", &format!("-p {port}")).code(2);
    let expected = format!("ganger: web.1 needs port {port}, which ");
    assert!(finished.stderr().starts_with(&expected), "{}", finished.stderr());
}
