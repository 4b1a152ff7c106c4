//! One connection: a request, within its limits, and the answer to it.
//!
//! The limits are checked here and not in hyper, whose own answers have no body.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::error::Error;
use super::in_flight::{Ending, InFlight};

/// The limits of a request: its target, its head including the target, its headers and its body.
const MAX_TARGET_BYTES: usize = 16 << 10;
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
const MAX_BODY_BYTES: usize = 64 << 10;
/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may read nothing of its response, unless it follows output.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The buffer of hyper, which has to hold a head.
const BUFFER_BYTES: usize = MAX_HEAD_BYTES + (1 << 10);
/// How long, and how many bytes, are read of what a client sends beyond its request: unread bytes
/// would reset the connection before the client has its response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_LINGER_BYTES: usize = 1 << 20;

/// What a connection does once its response has been sent (101 SWITCHING PROTOCOLS). The bytes are
/// those that the client has sent after the request.
type ServeUpgraded =
    Box<dyn FnOnce(UnixStream, Bytes) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// With this, a request handler takes over its connection.
#[derive(Clone)]
pub(super) struct Upgrade(mpsc::UnboundedSender<ServeUpgraded>);

impl Upgrade {
    /// Has the connection served by `serve` after the response.
    pub(super) fn then<F>(&self, serve: impl FnOnce(UnixStream, Bytes) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _ = self.0.send(Box::new(|stream, rest| Box::pin(serve(stream, rest))));
    }
}

/// The state of a connection, which the table of connections reads.
#[derive(Debug)]
pub(super) struct Connection {
    opened: Instant,
    /// Whether the request was parsed.
    is_begun: AtomicBool,
    /// Whether it has arrived with its body.
    has_request: AtomicBool,
    /// The bytes of the body that have not arrived yet; the limit, if its size is not known.
    body_left: AtomicUsize,
    is_follower: AtomicBool,
    /// Since when the client has read nothing, in milliseconds after `opened`, plus 1; 0 if it
    /// reads.
    stalled: AtomicU64,
    closing: Notify,
    in_flight: InFlight,
    ending: Ending,
}

impl Connection {
    pub(super) fn new(in_flight: InFlight) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            is_begun: AtomicBool::new(false),
            has_request: AtomicBool::new(false),
            body_left: AtomicUsize::new(usize::MAX),
            is_follower: AtomicBool::new(false),
            stalled: AtomicU64::new(0),
            closing: Notify::new(),
            in_flight,
            ending: Ending::default(),
        })
    }

    pub(super) fn has_request(&self) -> bool {
        self.has_request.load(Ordering::Relaxed)
    }

    pub(super) fn is_follower(&self) -> bool {
        self.is_follower.load(Ordering::Relaxed)
    }

    /// From now on there is no time limit for the client to read.
    pub(super) fn follow(&self) {
        self.is_follower.store(true, Ordering::Relaxed);
    }

    /// How long its client has not read although there is something to read.
    pub(super) fn stalled(&self) -> Option<Duration> {
        let since = self.stalled.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.opened.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    fn set_stalled(&self, is_stalled: bool) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        let before = self.stalled.load(Ordering::Relaxed);
        match (before, is_stalled) {
            (0, true) => self.stalled.store(now + 1, Ordering::Relaxed),
            (_, false) => self.stalled.store(0, Ordering::Relaxed),
            (_, true) => {}
        }
    }

    /// The response ends when ganger exits.
    pub(super) fn wait_for_end(&self) {
        self.ending.wait_for_end(&self.in_flight);
    }

    /// Marks that ganger closes it.
    pub(super) fn close(&self) {
        self.closing.notify_one();
    }

    /// Marks that its head has arrived.
    fn begin(&self, request: &Request<Incoming>) {
        self.is_begun.store(true, Ordering::Relaxed);
        self.ending.begin(&self.in_flight);
        if let Some(length) = content_length(request.headers()) {
            self.body_left.store(length, Ordering::Relaxed);
        }
        if request.body().is_end_stream() {
            self.complete();
        }
    }

    fn complete(&self) {
        self.has_request.store(true, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ending.end(&self.in_flight);
    }
}

/// Handles one request.
pub(super) async fn serve(stream: UnixStream, router: Router, connection: Arc<Connection>) {
    tokio::select! {
        () = answer(stream, router, &connection) => {}
        () = connection.closing.notified() => {}
    }
}

async fn answer(stream: UnixStream, router: Router, connection: &Arc<Connection>) {
    let (head, rest) = match timeout(REQUEST_TIMEOUT, read_head(&stream)).await {
        Ok(Ok(Some(read))) => read,
        // It has disconnected before it sent a request.
        Ok(Ok(None) | Err(Broken::Io)) => return,
        Ok(Err(Broken::Refused(error))) => return refuse(&stream, &error).await,
        Err(_) => return refuse(&stream, &too_late()).await,
    };
    let connection_of_io = Arc::clone(connection);
    let io = Io { stream, head, rest, connection: connection_of_io, deadline: None };
    let router = TowerToHyperService::new(router);
    let (upgrade, mut upgraded) = mpsc::unbounded_channel();
    let service = service_fn(|request: Request<Incoming>| {
        connection.begin(&request);
        let (router, connection) = (router.clone(), Arc::clone(connection));
        let upgrade = upgrade.clone();
        Box::pin(async move {
            match arrive(request).await {
                Ok(mut request) => {
                    connection.complete();
                    request.extensions_mut().insert(connection);
                    request.extensions_mut().insert(Upgrade(upgrade));
                    router.call(request).await
                }
                Err(error) => Ok::<Response, std::convert::Infallible>(error.into_response()),
            }
        })
    });
    let mut serving = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    // A client that disconnects early is not worth a message.
    let served = std::future::poll_fn(|context| serving.poll_without_shutdown(context)).await;
    let parts = serving.into_parts();
    let Io { stream, .. } = parts.io.into_inner();
    if let Ok(serve_upgraded) = upgraded.try_recv() {
        return serve_upgraded(stream, parts.read_buf).await;
    }
    match served {
        Err(error) if error.is_parse() && !connection.is_begun.load(Ordering::Relaxed) => {
            refuse(&stream, &unreadable(&error)).await;
        }
        Ok(()) | Err(_) if !connection.has_request() => linger(&stream).await,
        Ok(()) | Err(_) => {}
    }
}

fn too_late() -> Error {
    let seconds = REQUEST_TIMEOUT.as_secs();
    Error::timed_out(format!("the request took longer than {seconds} seconds to arrive"))
}

fn unreadable(error: &hyper::Error) -> Error {
    if error.is_parse_too_large() {
        let message = format!("the request has more than {MAX_HEADERS} headers");
        return Error::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message);
    }
    Error::new(StatusCode::BAD_REQUEST, format!("the request is not valid HTTP/1.1: {error}"))
}

/// The reason why the head of a request is missing.
enum Broken {
    Refused(Error),
    Io,
}

/// Reads the head, and perhaps some bytes of the body. Returns `None` if the client disconnects
/// first.
async fn read_head(stream: &UnixStream) -> Result<Option<(Bytes, Bytes)>, Broken> {
    let mut head = Vec::new();
    let mut buffer = vec![0; 8 << 10];
    loop {
        stream.readable().await.map_err(|_| Broken::Io)?;
        // One byte more than the limit shows that it is exceeded.
        let room = buffer.len().min(MAX_HEAD_BYTES + 1 - head.len());
        match stream.try_read(&mut buffer[..room]) {
            Ok(0) => return Ok(None),
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Broken::Io),
        }
        let end = end_of_head(&head);
        if end.is_none() && head.len() <= MAX_HEAD_BYTES {
            continue;
        }
        if target_length(&head) > MAX_TARGET_BYTES {
            let message =
                format!("the target of the request is longer than {MAX_TARGET_BYTES} bytes");
            return Err(Broken::Refused(Error::new(StatusCode::URI_TOO_LONG, message)));
        }
        return match end.filter(|end| *end <= MAX_HEAD_BYTES) {
            Some(end) => {
                let mut head = Bytes::from(head);
                let rest = head.split_off(end);
                Ok(Some((head, rest)))
            }
            None => {
                let message =
                    format!("the head of the request is longer than {MAX_HEAD_BYTES} bytes");
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                Err(Broken::Refused(Error::new(status, message)))
            }
        };
    }
}

/// The end of the empty line that ends a head. Empty lines before the head are skipped.
fn end_of_head(head: &[u8]) -> Option<usize> {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let mut lines = memchr::memchr_iter(b'\n', &head[start..]).map(|at| start + at + 1);
    lines.find_map(|at| match &head[at..] {
        [b'\n', ..] => Some(at + 1),
        [b'\r', b'\n', ..] => Some(at + 2),
        _ => None,
    })
}

/// The target: the text between the method and the version.
fn target_length(head: &[u8]) -> usize {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or_default();
    let line = head[start..].split(|byte| matches!(byte, b'\r' | b'\n')).next();
    line.unwrap_or_default().split(|byte| *byte == b' ').nth(1).map_or(0, <[u8]>::len)
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Waits for the body of a request.
async fn arrive(request: Request<Incoming>) -> Result<Request<Body>, Error> {
    let (parts, body) = request.into_parts();
    let too_large = || {
        let message = format!("the body of the request is longer than {MAX_BODY_BYTES} bytes");
        Error::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if content_length(&parts.headers).is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let body = timeout(REQUEST_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    match body.map_err(|_| too_late())? {
        Ok(body) => Ok(Request::from_parts(parts, Body::from(body.to_bytes()))),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Error::bad_request(error)),
    }
}

/// Responds to a request that does not reach a route.
async fn refuse(stream: &UnixStream, error: &Error) {
    let bytes = error.to_bytes();
    let mut rest = bytes.as_slice();
    let write = async {
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    if let Ok(Ok(())) = timeout(WRITE_TIMEOUT, write).await {
        linger(stream).await;
    }
}

/// Reads what the client still sends: unread bytes would reset the connection while it reads.
async fn linger(stream: &UnixStream) {
    let _ = nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(stream),
        nix::sys::socket::Shutdown::Write,
    );
    let read = async {
        let mut buffer = vec![0; 8 << 10];
        let mut count = 0;
        while count < MAX_LINGER_BYTES && stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER_TIMEOUT, read).await;
}

/// The stream that hyper reads. It gets the request and no further bytes: it would buffer them, and
/// not notice that the client disconnects.
struct Io {
    stream: UnixStream,
    /// The bytes of the request that have been read.
    head: Bytes,
    /// The bytes after the head that have been read.
    rest: Bytes,
    connection: Arc<Connection>,
    /// When a client that reads nothing is disconnected.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// The size of the buffer into which further bytes are discarded.
const DISCARD_ROUNDS: usize = 16;

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.head.is_empty() {
            put(&mut this.head, buffer, usize::MAX);
            return Poll::Ready(Ok(()));
        }
        let left = this.connection.body_left.load(Ordering::Relaxed);
        if left == 0 || this.connection.has_request() {
            return this.discard(context);
        }
        let before = buffer.filled().len();
        if this.rest.is_empty() {
            let room = buffer.remaining().min(left);
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
            let count = part.filled().len();
            buffer.advance(count);
        } else {
            put(&mut this.rest, buffer, left);
        }
        let count = buffer.filled().len() - before;
        this.connection.body_left.store(left - count, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

/// Moves at most `most` bytes from one to the other.
fn put(from: &mut Bytes, to: &mut ReadBuf<'_>, most: usize) {
    let count = from.len().min(to.remaining()).min(most);
    to.put_slice(&from.split_to(count));
}

impl Io {
    fn discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..DISCARD_ROUNDS {
            let mut bytes = [0; 4 << 10];
            let mut discarded = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut discarded))?;
            if discarded.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Records whether the client reads.
    fn watch(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.connection.set_stalled(false);
            self.deadline = None;
            return written;
        }
        self.connection.set_stalled(true);
        if self.connection.is_follower() {
            return Poll::Pending;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_TIMEOUT)));
        deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.connection.is_begun.load(Ordering::Relaxed) {
            // The error response of hyper, which is replaced by one with a JSON body.
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.connection.is_begun.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_an_empty_line() {
        for (head, end) in [
            ("GET / HTTP/1.1\r\n\r\nrest", Some(18)),
            ("GET / HTTP/1.1\n\nrest", Some(16)),
            ("GET / HTTP/1.1\r\nhost: g\n\r\n", Some(26)),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Some(22)),
            ("GET / HTTP/1.1\r\nhost: g\r\n", None),
            ("\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(end_of_head(head.as_bytes()), end, "{head:?}");
        }
    }

    #[test]
    fn a_target_is_measured_also_if_it_has_no_end() {
        for (head, length) in
            [("GET /ab HTTP/1.1\r\n", 3), ("\r\nGET /ab", 3), ("GET\r\n/ab", 0), ("", 0)]
        {
            assert_eq!(target_length(head.as_bytes()), length, "{head:?}");
        }
    }
}
