//! Requests that keep the keeper busy: stopping and killing processes overtakes them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Cleanup, MARGIN};
use crate::scenario::{Running, Scenario, TEST_TIMEOUT, tag, tagged};

/// A hundred processes with a daemon each. Both ignore the signals that are forwarded to them.
fn start_hundred(tag: &str) -> Running {
    let command = "trap '' USR1 USR2; exec $HOSTILE daemonize stay calm";
    let procfile = format!("a: {command} {tag}\n");
    let scenario = Scenario::procfile(procfile).args("start -N -m a=100 -s socket");
    let mut running = scenario.start();
    running.wait_until("a hundred", |running| running.count_in_output("| up\n") == 100);
    running.wait_until("a socket", |running| running.folder().join("socket").exists());
    running
}

/// Posts without a body, and returns the status of the response.
fn post(socket: &Path, path: &str) -> u16 {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let head = "host: ganger\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    write!(stream, "POST {path} HTTP/1.1\r\n{head}").unwrap();
    let mut response = String::new();
    let _ = stream.read_to_string(&mut response);
    response.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
}

fn assert_stops_in_time(running: Running, tag: &str) {
    let since = Instant::now();
    running.signal(Signal::SIGINT);
    let finished = running.finish_within(TEST_TIMEOUT);
    let took = since.elapsed();
    println!("stopped in {took:?}");
    assert_eq!(tagged(tag), []);
    assert!(!finished.stderr().contains("the keeper"), "{}", finished.stderr());
    finished.code(0);
    assert!(took < MARGIN, "{took:?}");
}

#[test]
fn stop_overtakes_a_hundred_and_twenty_requests_to_signal_a_hundred_processes() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = start_hundred(&tag);
    let socket = running.folder().join("socket");
    let (send, responses) = channel();
    let requests: Vec<_> = (0..120)
        .map(|_| {
            let (socket, send) = (socket.clone(), send.clone());
            std::thread::spawn(move || {
                let status = post(&socket, "/processes/a/signal?signal=USR1");
                let _ = send.send(status);
            })
        })
        .collect();
    // After the first response, most requests still wait.
    responses.recv_timeout(TEST_TIMEOUT).unwrap();
    assert_stops_in_time(running, &tag);
    for request in requests {
        request.join().unwrap();
    }
}

#[test]
fn requests_to_signal_a_hundred_processes_are_all_answered() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = start_hundred(&tag);
    let socket = running.folder().join("socket");
    let since = Instant::now();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let post = || post(&socket, "/processes/a/signal?signal=USR1");
        let requests: Vec<_> = (0..120).map(|_| scope.spawn(post)).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    let took = since.elapsed();
    println!(
        "answered in {took:?}: {} of {}",
        statuses.iter().filter(|it| **it == 200).count(),
        120
    );
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429 | 503)), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(took < MARGIN, "{took:?}");
    assert_stops_in_time(running, &tag);
}

#[test]
fn resizing_the_window_does_not_delay_a_stop() {
    let tag = tag();
    let _cleanup = Cleanup(&tag);
    let running = start_hundred(&tag);
    let since = Instant::now();
    // 60 times a second.
    while since.elapsed() < Duration::from_secs(5) {
        running.signal(Signal::SIGWINCH);
        std::thread::sleep(Duration::from_micros(16_667));
    }
    assert_stops_in_time(running, &tag);
}
