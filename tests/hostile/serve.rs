//! A web server that inherits its listening socket (systemd socket activation).

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, FromRawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

use crate::print_line;

extern "C" fn wake(_: i32) {}

/// Responds with its name until SIGTERM, and then exits between two requests.
pub fn serve() {
    let is = |key: &str, value: String| {
        assert_eq!(std::env::var(key).as_ref(), Ok(&value), "{key}");
    };
    is("LISTEN_FDS", "1".into());
    is("LISTEN_PID", std::process::id().to_string());
    is("LISTEN_FDNAMES", "web".into());
    #[expect(unsafe_code, reason = "this is how a socket is inherited")]
    // SAFETY: the process that set these variables has opened a socket there.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    let port = listener.local_addr().expect("an address").port();
    is("PORT", port.to_string());
    // All processes that share the socket wait, and one of them gets the connection.
    listener.set_nonblocking(true).expect("a socket");
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked.thread_set_mask().expect("a mask");
    #[expect(unsafe_code, reason = "a handler is how a signal interrupts a wait")]
    // SAFETY: the handler does nothing.
    unsafe { signal(Signal::SIGTERM, SigHandler::Handler(wake)) }.expect("a handler");
    print_line("serving");
    let name = std::env::var("PS").expect("a name");
    loop {
        let mut wait = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if ppoll(&mut wait, None, Some(SigSet::empty())).is_err() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => answer(stream, &name),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let length = name.len();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let _ = stream.write_all(format!("{head}{name}").as_bytes());
}
