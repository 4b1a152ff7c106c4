//! Limits for clients: they can't stall a running ganger, fill its memory, or lock each other out.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::control::{ClientOutput, SLEEPERS, client_output, run_client, up};
use crate::scenario::{
    GANGER, Running, Scenario, TEST_TIMEOUT, is_alive, own_memory, runtime_files, tag, tagged,
    use_runtime_dir, wait_until,
};

/// A response: its status, the value of Retry-After if it has one, and its body.
struct Response {
    status: u16,
    retry_after: Option<String>,
    content_type: String,
    body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let end = memchr::memmem::find(bytes, b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {text:?}"));
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let value = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned)
        };
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            retry_after: value("retry-after"),
            content_type: value("content-type").unwrap_or_default(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    /// The `error` of a JSON body.
    #[track_caller]
    fn error(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.content_type, "application/json", "{} {text:?}", self.status);
        let body: Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {text:?}", self.status));
        body["error"].as_str().unwrap().to_owned()
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream
}

/// Sends these bytes, and reads the response to its end.
#[track_caller]
fn send(socket: &Path, request: &[u8]) -> Response {
    let mut stream = connect(socket);
    // After an error, the server may not read the rest.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    Response::parse(&answer)
}

fn get(uri: &str) -> Vec<u8> {
    format!("GET {uri} HTTP/1.1\r\nhost: g\r\n\r\n").into_bytes()
}

/// A flag that ends the threads of a test, also if the test fails.
#[derive(Clone, Default)]
struct Over(Arc<AtomicBool>);

impl Over {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.set();
        }
    }
}

/// Clients that send these requests, one after the other, until this is dropped.
struct Flood {
    over: Over,
    answered: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn start(socket: &Path, clients: usize, requests: Vec<Vec<u8>>) -> Self {
        let over = Over::default();
        let answered = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(requests);
        let client = |start: usize| {
            let (socket, over, answered) = (socket.to_owned(), over.clone(), Arc::clone(&answered));
            let requests = Arc::clone(&requests);
            std::thread::spawn(move || {
                for request in requests.iter().cycle().skip(start) {
                    if over.is_set() {
                        return;
                    }
                    let Ok(mut stream) = UnixStream::connect(&socket) else { return };
                    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let _ = stream.write_all(request);
                    let mut piece = vec![0; 64 << 10];
                    while !over.is_set() {
                        match stream.read(&mut piece) {
                            Ok(0) => break,
                            Ok(_) => {}
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            Err(_) => break,
                        }
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { over, answered, clients }
    }

    /// Waits until this many requests were answered.
    fn wait_for_responses(&self, count: usize) {
        wait_until("responses", || self.answered.load(Ordering::Relaxed) >= count);
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.set();
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

/// Sends INT, and returns how long ganger takes to exit.
fn interrupt(running: Running) -> Duration {
    let since = Instant::now();
    running.signal(Signal::SIGINT);
    running.finish().code(0);
    since.elapsed()
}

/// An app whose recent output has 262,144 lines of `a.1`.
fn many_short_lines() -> Running {
    let procfile = "a: yes '' | head -c 262144; echo end >&2; exec sleep 1000\n\
                    b: exec sleep 1000\n";
    let mut running = up(procfile, "-q a --recent 300K");
    running.wait_until("all lines", |running| {
        running.run_client("logs -n 1 --no-prefix a").0 == "end\n"
    });
    running
}

#[test]
fn interrupt_is_prompt_during_requests_with_many_patterns() {
    let running = many_short_lines();
    let quiet = {
        let other = many_short_lines();
        interrupt(other)
    };
    let socket = running.socket();
    let repeated =
        |name: &str, count: usize| get(&format!("/logs?names={}", vec![name; count].join(",")));
    let distinct: Vec<String> = (0..500).map(|at| format!("*{at}*,a*")).collect();
    let requests = vec![
        repeated("b", 500),
        repeated("b?1", 16_000),
        repeated("a", 32_000),
        get(&format!("/logs?names={}", distinct.join(","))),
        get(&format!("/processes/{}", vec!["b?1"; 16_000].join(","))),
        get(&format!("/processes/{}/wait?for=ready", vec!["b"; 30_000].join(","))),
    ];
    let flood = Flood::start(&socket, 12, requests);
    flood.wait_for_responses(1);
    let took = interrupt(running);
    eprintln!("INT: {took:?} during the requests, {quiet:?} without");
    drop(flood);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn repeated_names_count_once_and_too_many_names_are_refused() {
    let running = up(SLEEPERS, "-N");
    let socket = running.socket();
    let names =
        |count: usize| (0..count).map(|at| format!("web.{at}")).collect::<Vec<_>>().join(",");
    let globs = |count: usize| (0..count).map(|at| format!("w{at}*")).collect::<Vec<_>>().join(",");
    let repeated = vec!["web"; 2000].join(",");
    let (long, longer) = ("w".repeat(255), "w".repeat(256));
    for page in ["/processes/{}", "/logs?names={}", "/processes/{}/wait?for=ready"] {
        let ask = |names: &str| send(&socket, &get(&page.replace("{}", names)));
        assert_eq!(ask(&repeated).status, 200, "{page}");
        assert_eq!(ask(&names(256)).status, 404, "{page}");
        let refused = ask(&names(257));
        assert_eq!(refused.status, 400, "{page}");
        assert_eq!(refused.error(), "more than 256 different names in one request");
        assert_eq!(ask(&globs(32)).status, 404, "{page}");
        let refused = ask(&globs(33));
        assert_eq!(refused.status, 400, "{page}");
        assert_eq!(refused.error(), "more than 32 different patterns in one request");
        assert_eq!(ask(&long).status, 404, "{page}");
        let refused = ask(&longer);
        assert_eq!(refused.status, 400, "{page}");
        assert_eq!(refused.error(), "a name of more than 255 bytes");
    }
    running.quit();
}

/// Waits until the last line of each is `end`.
fn wait_for_ends(running: &mut Running, count: usize) {
    for at in 1..=count {
        let last = format!("logs -n 1 --no-prefix a.{at}");
        running.wait_until("all lines", |running| running.run_client(&last).0 == "end\n");
    }
}

/// 16 processes, each with 4 MiB of lines.
fn large_answers() -> Running {
    let procfile = "a: $HOSTILE lines 64000 64; echo end; exec sleep 1000\n";
    let mut running = up(procfile, "-q a -m a=16 --recent 4M -N");
    wait_for_ends(&mut running, 16);
    running
}

#[test]
fn memory_of_large_answers_is_bounded() {
    let running = large_answers();
    let socket = running.socket();
    let before = own_memory(running.pid());
    let ask = |_| {
        let mut stream = connect(&socket);
        stream.write_all(&get("/logs?timestamp=true&color=true")).unwrap();
        stream
    };
    let readers: Vec<UnixStream> = (0..60).map(ask).collect();
    let watched = Instant::now();
    let mut most = 0;
    while watched.elapsed() < Duration::from_secs(4) {
        most = most.max(own_memory(running.pid()).saturating_sub(before));
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("60 readers: {} MiB more", most >> 20);
    assert!(most < 160 << 20, "{most}");
    // The requests for which there was no room were refused.
    let mut refused = 0;
    for mut reader in &readers {
        let mut head = [0; 4096];
        let count = reader.read(&mut head).unwrap();
        if !head[..count].starts_with(b"HTTP/1.1 200") {
            let response = Response::parse(&head[..count]);
            assert_eq!((response.status, response.retry_after.is_some()), (503, true));
            assert!(response.error().contains("160 MiB"), "{}", response.error());
            refused += 1;
        }
    }
    assert!(refused > 0);
    drop(readers);
    // There is room again at once.
    let all = running.run_client("logs --no-prefix");
    assert!(all.1 == 0 && all.0.len() > 60 << 20, "{} {}", all.1, all.0.len());
    running.quit();
}

#[test]
fn memory_of_slow_followers_is_bounded() {
    let mut running = up("a: exec $HOSTILE flood\n", "-q a -m a=4 --recent 4M");
    running.wait_until("four processes", |running| running.count_in_output(" started, pid ") == 4);
    let before = own_memory(running.pid());
    let socket = running.socket();
    let ask = |at: usize| {
        let mut stream = connect(&socket);
        let uri = if at.is_multiple_of(2) { "/logs?follow=true" } else { "/logs" };
        stream.write_all(&get(uri)).unwrap();
        stream
    };
    let held: Vec<UnixStream> = (0..96).map(ask).collect();
    let watched = Instant::now();
    let mut most = 0;
    while watched.elapsed() < Duration::from_secs(3) {
        most = most.max(own_memory(running.pid()).saturating_sub(before));
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("96 clients that don't keep up: {} MiB more", most >> 20);
    assert!(most < 160 << 20, "{most}");
    let took = interrupt(running);
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(held);
}

#[test]
fn follower_that_does_not_read_is_disconnected_for_another() {
    let running = up("a: exec $HOSTILE flood\n", "-q a");
    let socket = running.socket();
    let follow = || {
        let mut stream = connect(&socket);
        stream.write_all(&get("/logs?follow=true&n=0")).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        (stream, head)
    };
    let followers: Vec<_> = (0..96).map(|_| follow()).collect();
    assert!(followers.iter().all(|(_, head)| head == b"HTTP/1.1 200"));
    assert_eq!(follow().1, *b"HTTP/1.1 503");
    let since = Instant::now();
    while follow().1 != *b"HTTP/1.1 200" {
        assert!(since.elapsed() < TEST_TIMEOUT, "no room");
        std::thread::sleep(Duration::from_millis(100));
    }
    // A follower that reads, if slowly, is not disconnected before that.
    assert!(since.elapsed() > Duration::from_secs(5), "{:?}", since.elapsed());
    drop(followers);
    running.quit();
}

#[test]
fn clients_that_read_wait_for_their_turn() {
    let running = large_answers();
    let socket = running.socket();
    let read = |_| {
        let socket = socket.clone();
        std::thread::spawn(move || {
            let response = send(&socket, &get("/logs?names=a.1&no_prefix=true"));
            (response.status, response.body.len())
        })
    };
    let readers: Vec<_> = (0..24).map(read).collect();
    for reader in readers {
        let (status, length) = reader.join().unwrap();
        assert!(status == 200 && length > 3 << 20, "{status} {length}");
    }
    running.quit();
}

#[test]
fn closed_followers_are_removed_while_there_is_no_output() {
    let mut running = up(SLEEPERS, "");
    running.wait_for_states(&["web.1 up", "worker.1 up"]);
    let socket = running.socket();
    let visit = |count: usize| {
        for _ in 0..count {
            let mut stream = connect(&socket);
            // More bytes than the request do not hide that it disconnects.
            stream.write_all(&get("/logs?follow=true&names=w*,web.1,worker.1")).unwrap();
            stream.write_all(b"more").unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
        }
    };
    // Memory that is kept for the next clients is allocated by then.
    visit(500);
    let before = own_memory(running.pid());
    visit(3000);
    let descriptors = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", running.pid())).unwrap();
        open.count()
    };
    wait_until("at most 40 descriptors", || descriptors() <= 40);
    let more = own_memory(running.pid()).saturating_sub(before);
    eprintln!("3000 followers that left: {} KiB more", more >> 10);
    assert!(more < 1 << 20, "{more}");
    running.quit();
}

/// How long `ps` and `quit` take while other clients keep their connections open.
fn time_ps_and_quit(running: Running) -> Duration {
    let since = Instant::now();
    assert_eq!(running.run_client("ps").1, 0);
    assert_eq!(running.run_client("quit"), client_output("", 0));
    running.finish().code(0);
    since.elapsed()
}

#[test]
fn clients_that_do_not_read_do_not_lock_out_ps_and_quit() {
    for uri in ["/logs", "/processes", "/logs?follow=true"] {
        let procfile = "a: $HOSTILE lines 10000 100; echo end; exec sleep 1000\n";
        let mut running = up(procfile, "-q a --recent 4M -N -m a=50");
        wait_for_ends(&mut running, 50);
        let socket = running.socket();
        let ask = |_| {
            let mut stream = connect(&socket);
            stream.write_all(&get(uri)).unwrap();
            stream
        };
        let held: Vec<UnixStream> = (0..140).map(ask).collect();
        let took = time_ps_and_quit(running);
        eprintln!("ps and quit: {took:?} with 140 clients that don't read {uri}");
        assert!(took < Duration::from_secs(5), "{uri}: {took:?}");
        drop(held);
    }
}

#[test]
fn unread_long_lists_do_not_lock_out_ps() {
    let mut running = up("a: exec sleep 1000\n", "-N -m a=600");
    running.wait_until("all processes", |running| running.count_in_output(" started, pid ") == 600);
    let socket = running.socket();
    let ask = |_| {
        let mut stream = connect(&socket);
        stream.write_all(&get("/processes")).unwrap();
        stream
    };
    // More than the limit of connections, and each response is larger than the buffer of a socket.
    let held: Vec<UnixStream> = (0..300).map(ask).collect();
    let since = Instant::now();
    for names in ["a.1", "a*"] {
        assert_eq!(running.run_client(&format!("ps {names}")).1, 0, "{names}");
    }
    let took = since.elapsed();
    eprintln!("ps: {took:?} with 300 clients that don't read long lists");
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(held);
    running.signal(Signal::SIGINT);
    running.finish().code(0);
}

#[test]
fn idle_connections_do_not_lock_out_ps_and_quit() {
    for half in
        ["", "GET /proc", "PATCH /formation HTTP/1.1\r\nhost: g\r\ncontent-length: 9\r\n\r\n{"]
    {
        let running = up(SLEEPERS, "");
        let socket = running.socket();
        // They connect again as soon as they are disconnected.
        let over = Over::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let connect_again = |_| {
            let (socket, over) = (socket.clone(), over.clone());
            let connections = Arc::clone(&connections);
            std::thread::spawn(move || {
                while !over.is_set() {
                    let Ok(mut stream) = UnixStream::connect(&socket) else { return };
                    connections.fetch_add(1, Ordering::Relaxed);
                    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let _ = stream.write_all(half.as_bytes());
                    let mut byte = [0];
                    while !over.is_set()
                        && stream
                            .read(&mut byte)
                            .is_err_and(|it| it.kind() == ErrorKind::WouldBlock)
                    {
                    }
                }
            })
        };
        let clients: Vec<_> = (0..400).map(connect_again).collect();
        // More than ganger accepts at a time.
        wait_until("400 connections", || connections.load(Ordering::Relaxed) >= 400);
        let took = time_ps_and_quit(running);
        over.set();
        for client in clients {
            client.join().unwrap();
        }
        eprintln!("ps and quit: {took:?} with 400 idle connections ({half:?})");
        assert!(took < Duration::from_secs(5), "{half:?}: {took:?}");
    }
}

#[test]
fn every_refusal_has_a_json_body() {
    let running = up(SLEEPERS, "");
    let socket = running.socket();
    let huge = "x".repeat(70_000);
    for (status, request) in [
        (400, "\0nonsense\r\n\r\n".to_owned()),
        (400, "GET\r\n\r\n".to_owned()),
        (400, "GET / HTTP/9.9\r\nhost: g\r\n\r\n".to_owned()),
        (400, "GET /\u{7f} HTTP/1.1\r\nhost: g\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned()),
        (400, "POST /reload HTTP/1.1\r\ncontent-length: many\r\n\r\n".to_owned()),
        (400, "POST /reload HTTP/1.1\r\ntransfer-encoding: rot13\r\n\r\n".to_owned()),
        (400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (400, "GET /logs?n=many HTTP/1.1\r\nhost: g\r\n\r\n".to_owned()),
        (400, "GET /processes/%ff HTTP/1.1\r\nhost: g\r\n\r\n".to_owned()),
        (404, "GET /nowhere HTTP/1.1\r\nhost: g\r\n\r\n".to_owned()),
        (404, "DELETE /processes HTTP/1.1\r\nhost: g\r\n\r\n".to_owned()),
        (413, format!("PATCH /formation HTTP/1.1\r\ncontent-length: 70000\r\n\r\n{huge}")),
        (413, format!("POST /reload HTTP/1.1\r\ncontent-length: 70000\r\n\r\n{huge}")),
        (
            413,
            format!(
                "PATCH /formation HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n11170\r\n{huge}\r\n0\r\n\r\n"
            ),
        ),
        (414, format!("GET /{huge} HTTP/1.1\r\nhost: g\r\n\r\n")),
        (414, format!("GET /{huge}")),
        (431, format!("GET / HTTP/1.1\r\nhost: g\r\nlong: {huge}\r\n\r\n")),
        (431, format!("GET / HTTP/1.1\r\nhost: g\r\nlong: {huge}")),
        (431, format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101))),
    ] {
        let response = send(&socket, request.as_bytes());
        let start: String = request.chars().take(60).collect();
        assert_eq!(response.status, status, "{start:?}");
        assert!(!response.error().is_empty(), "{start:?}");
    }
    running.quit();
}

#[test]
fn documented_limits_hold() {
    let running = up(SLEEPERS, "");
    let socket = running.socket();
    let status = |request: &str| send(&socket, request.as_bytes()).status;
    // The size of the target.
    let target = |length: usize| {
        let names = vec!["web"; 2000].join(",");
        let uri = format!("/logs?names={names}");
        format!("{uri}{}", "&".repeat(length - uri.len()))
    };
    assert_eq!(send(&socket, &get(&target(16 << 10))).status, 200);
    assert_eq!(send(&socket, &get(&target((16 << 10) + 1))).status, 414);
    // The size of the head.
    let head = |length: usize| {
        let start = "GET / HTTP/1.1\r\nhost: g\r\nlong: ";
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
    };
    assert_eq!(status(&head(64 << 10)), 200);
    assert_eq!(status(&head((64 << 10) + 1)), 431);
    // The same in small pieces.
    for (length, expected) in [(64 << 10, 200), ((64 << 10) + 1, 431)] {
        let mut stream = connect(&socket);
        for piece in head(length).as_bytes().chunks(999) {
            let _ = stream.write_all(piece);
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(Response::parse(&answer).status, expected);
    }
    // The number of headers.
    let headers = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(status(&headers(100)), 200);
    assert_eq!(status(&headers(101)), 431);
    // The size of the body.
    let body = |length: usize| {
        let body = format!("{{\"web\": {}1}}", " ".repeat(length - 10));
        assert_eq!(body.len(), length);
        format!("PATCH /formation HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    assert_eq!(status(&body(64 << 10)), 200);
    assert_eq!(status(&body((64 << 10) + 1)), 413);
    // The time until it has arrived.
    let since = Instant::now();
    let response = send(&socket, b"GET / HTTP/1.1\r\nhost");
    assert_eq!(
        (response.status, response.error().as_str()),
        (408, "the request took longer than 10 seconds to arrive")
    );
    assert!(since.elapsed() >= Duration::from_secs(9));
    running.quit();
}

#[test]
fn unread_answer_is_aborted() {
    let mut running =
        up("a: $HOSTILE lines 30000 100; echo end; exec sleep 1000\n", "-q a --recent 4M");
    running.wait_until("all lines", |running| {
        running.run_client("logs -n 1 --no-prefix").0 == "end\n"
    });
    let mut stream = connect(&running.socket());
    stream.write_all(&get("/logs")).unwrap();
    let since = Instant::now();
    // A hangup can be polled for without reading.
    let mut polled =
        [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&stream), nix::poll::PollFlags::empty())];
    assert_eq!(nix::poll::poll(&mut polled, 60_000u16).unwrap(), 1);
    let took = since.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&took), "{took:?}");
    // The client reads even if its own output is not read, for longer than ganger waits for it.
    let mut logs = Command::new(GANGER);
    logs.arg("logs").current_dir(running.folder());
    use_runtime_dir(&mut logs, running.folder());
    let mut logs = logs.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(12));
    let mut text = Vec::new();
    logs.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    assert!(logs.wait().unwrap().success());
    assert!(text.ends_with(b"end\n") && text.len() > 3_000_000, "{}", text.len());
    running.quit();
}

#[test]
fn quit_returns_while_a_follower_is_behind() {
    for follow in [false, true] {
        let procfile = "a: exec $HOSTILE flood\n";
        let running = up(procfile, "-q a");
        let files = runtime_files(running.folder());
        assert!(files.len() >= 2, "{files:?}");
        let mut stream = connect(&running.socket());
        if follow {
            stream.write_all(&get("/logs?follow=true")).unwrap();
            wait_until("unread output", || {
                rustix::io::ioctl_fionread(&stream).unwrap() >= 64 << 10
            });
        }
        let (pid, keeper) = (running.pid(), running.keeper());
        let since = Instant::now();
        assert_eq!(running.run_client("quit"), client_output("", 0));
        let took = since.elapsed();
        let left: Vec<&PathBuf> = files.iter().filter(|path| path.exists()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!is_alive(pid) && !is_alive(keeper), "ganger or its keeper still runs");
        assert!(took < Duration::from_secs(4), "{took:?}");
        running.finish().code(0);
    }
}

/// An app that is started in the background and stopped by `quit`, repeatedly.
struct Daemon {
    scenario: Scenario,
}

impl Daemon {
    fn new(procfile: &str) -> Self {
        // With a probe, it is up as soon as its output has this text.
        let config = "[process.a]\nready = { log = 'up' }\n";
        Self { scenario: Scenario::procfile(procfile).file("ganger.toml", config) }
    }

    fn folder(&self) -> &Path {
        self.scenario.folder()
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(GANGER);
        command.args(args.split(' ')).current_dir(self.folder());
        use_runtime_dir(&mut command, self.folder());
        command
    }

    /// Starts it, and returns the exit code.
    fn start(&self) -> i32 {
        let mut start = self.command("start -D -N -q a");
        start.env("HOSTILE", crate::scenario::hostile());
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        start.status().unwrap().code().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.command("quit").stderr(Stdio::null()).status();
    }
}

#[test]
fn quit_and_start_alternate_a_hundred_times() {
    let daemon = Daemon::new("a: echo up; exec $HOSTILE flood\n");
    let since = Instant::now();
    let mut codes = Vec::new();
    for round in 0..100 {
        assert_eq!(daemon.start(), 0, "round {round}");
        // In some rounds there is a follower that reads, or one that does not.
        let mut follow = daemon.command("logs -f");
        follow.stderr(Stdio::null());
        let follower = match round % 20 {
            0 => Some(follow.stdout(Stdio::null()).spawn().unwrap()),
            10 => Some(follow.stdout(Stdio::piped()).spawn().unwrap()),
            _ => None,
        };
        assert_eq!(run_client(daemon.folder(), "quit"), client_output("", 0), "round {round}");
        codes.extend(follower.map(|it| it.wait_with_output().unwrap().status.code().unwrap()));
    }
    eprintln!("a hundred times quit && start: {:?}", since.elapsed());
    assert!(codes.iter().all(|code| matches!(code, 0 | 3)), "{codes:?}");
}

#[test]
fn client_of_an_exiting_ganger_reports_it() {
    let daemon = Daemon::new("a: echo up; exec sleep 1000\n");
    let over = Over::default();
    let ask = |args: &'static str| {
        let (folder, over) = (daemon.folder().to_owned(), over.clone());
        std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !over.is_set() {
                seen.push((args, run_client(&folder, args)));
            }
            seen
        })
    };
    let commands = ["ps", "scale a=1", "logs", "wait a --ready", "restart a", "reload"];
    let clients: Vec<_> = commands.map(ask).into();
    for _ in 0..15 {
        assert_eq!(daemon.start(), 0);
        assert_eq!(run_client(daemon.folder(), "quit"), client_output("", 0));
    }
    over.set();
    let mut ending = 0;
    for (command, ClientOutput(text, code)) in
        clients.into_iter().flat_map(|client| client.join().unwrap())
    {
        match code {
            // If ganger is stopped before it is ready, the client waits until its timeout.
            0 | 4 => {}
            3 if text == "ganger: ganger is shutting down\n" => ending += 1,
            // With the last lines of the run that has ended.
            3 if command == "logs" => {
                assert!(text.contains("ganger: no ganger runs "), "{command}: {text}");
            }
            3 => assert!(text.starts_with("ganger: no ganger runs "), "{command}: {text}"),
            other => panic!("{command}: {other}: {text}"),
        }
    }
    eprintln!("{ending} clients met an ending ganger");
}

#[test]
fn storm_of_changes_ends_with_the_right_exit_code() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE leaf {tag}\nb: while :; do sleep 0.2; done\n");
    let mut running = up(&procfile, "-N -m a=30,b=10 --any-can-die");
    running.wait_until("all processes", |running| running.count_in_output(" started, pid ") >= 40);
    let socket = running.socket();
    let post = |uri: &str| format!("POST {uri} HTTP/1.1\r\nhost: g\r\n\r\n").into_bytes();
    let patch = |body: &str| {
        let length = body.len();
        format!("PATCH /formation HTTP/1.1\r\nhost: g\r\ncontent-length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let requests = vec![
        patch(r#"{"a": 25}"#),
        post("/processes/a/restart"),
        // Ignored by default: a shell that was just forked has set no trap yet.
        post("/processes/b/signal?signal=WINCH"),
        patch(r#"{"a": 30, "b": "+1"}"#),
        post("/reload"),
        post("/processes/b/restart"),
        post("/processes/*/signal?signal=CONT"),
        patch(r#"{"b": 10}"#),
        get("/processes"),
    ];
    let flood = Flood::start(&socket, 24, requests);
    std::thread::sleep(Duration::from_secs(4));
    let answered = flood.answered.load(Ordering::Relaxed);
    let since = Instant::now();
    running.signal(Signal::SIGINT);
    running.finish().code(0);
    let took = since.elapsed();
    drop(flood);
    eprintln!("a storm of {answered} requests in 4 s; INT: {took:?}");
    assert!(answered > 100, "{answered}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(tagged(&tag), []);
}
