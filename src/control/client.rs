//! Asks a running ganger.

use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::api::{ATTACH_PROTOCOL, ATTACHMENT_HEADER, ErrorBody};
use super::last_run::LastRun;
use super::{find, peer, socket};
use crate::notice::time;
use crate::plan::sources::FileLocations;
use crate::runtime_dir::{self, is_private};

/// The reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No ganger of this app listens: `in` its folder, or `at` a path.
    #[error("no ganger runs {0} (start one with `ganger start`, or name its socket: `-s`)")]
    NotRunning(String),
    /// No ganger runs in the nearest folder with a Procfile, but one runs in a folder above.
    #[error("no ganger runs {place} (one runs in `{above}`: `-d {above}`)")]
    RunsAbove {
        /// The folder.
        place: String,
        /// The folder above.
        above: String,
    },
    /// None runs there any more.
    #[error("no ganger runs {place}; {}", describe_last(.last))]
    HasEnded {
        /// The folder.
        place: String,
        /// The one that ran there.
        last: Box<LastRun>,
    },
    /// It is shutting down, or has just exited.
    #[error("ganger is shutting down")]
    ShuttingDown,
    /// It refused the request.
    #[error("{0}")]
    Refused(String),
    /// It answers too many others at the moment.
    #[error("{0}")]
    Busy(String),
    /// The operation timed out.
    #[error("{0}")]
    TimedOut(String),
    /// It does not respond at all. Holds which ganger it is, and how to continue it.
    #[error("{0} does not answer: it may be suspended{1}")]
    NoAnswer(String, String),
    /// It can't be reached.
    #[error("failed to ask ganger at `{}`: {reason}", path.display())]
    Failed {
        /// The path of its socket.
        path: PathBuf,
        /// The error.
        reason: String,
    },
}

/// The target of a request about these processes: names with commas between them, and what
/// follows them in the target.
#[must_use]
pub fn processes_uri(names: &str, verb: &str) -> String {
    format!("/processes/{}{verb}", percent_encode(names))
}

/// Percent-encodes a text for a URI (RFC 3986, section 2.1).
#[must_use]
pub fn percent_encode(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'*' | b',' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// How it ended.
fn describe_last(last: &LastRun) -> String {
    let Some(ending) = &last.ending else {
        return format!("the last one (pid {}) was killed", last.run.pid);
    };
    let ago = last.age(SystemTime::now()).unwrap_or_default();
    format!(
        "the last one ended {} ago with exit code {} (`ganger logs` shows its last lines)",
        time(Duration::from_secs(ago.as_secs())),
        ending.exit_code
    )
}

/// If there is no response after this time, the client checks whether ganger responds at all: an
/// operation such as `restart --wait` may take much longer.
const SLOW_ANSWER_AFTER: Duration = Duration::from_secs(2);
/// A ganger that is not suspended accepts a connection and responds to `GET /` within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before another attempt to connect to a socket whose queue is full.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// A client of one ganger.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
}

/// Bytes in both directions.
pub type UpgradedStream = TokioIo<hyper::upgrade::Upgraded>;

/// A connection to a process that a client is attached to.
#[derive(Debug)]
pub struct Upgraded {
    /// The output of the process, and its input.
    pub stream: UpgradedStream,
    /// The number of this client, for requests that concern it.
    pub number: String,
}

/// A response whose body is read piece by piece.
#[derive(Debug)]
pub struct Answer<'a> {
    client: &'a Client,
    response: Response<Incoming>,
    /// The process that responds.
    pid: Option<i32>,
}

impl Client {
    /// The ganger that listens at `path`.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The path of its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ganger that runs the app at these locations, and a message for the user, if any.
    pub fn find(
        locations: &FileLocations,
        name: Option<&str>,
    ) -> Result<(Self, Option<String>), Error> {
        let (root, above, last) = match find::find(locations, name) {
            Ok(found) => return Ok((Self { path: found.socket }, found.notice)),
            Err(find::Error::NotRunning { root, above, last }) => (root, above, last),
            Err(other) => return Err(Error::Refused(other.to_string())),
        };
        let mut place = format!("in `{}`", root.display());
        if let Some(folder) = runtime_dir::search_path().find(|it| !is_private(it)) {
            let folder = folder.display();
            let _ =
                write!(place, ", as far as it can be known: other users can write to `{folder}`");
        }
        Err(match (last, above) {
            (Some(last), _) => Error::HasEnded { place, last },
            (None, Some(above)) => Error::RunsAbove { place, above },
            (None, None) => Error::NotRunning(place),
        })
    }

    /// Sends a request, and returns the response when its head has arrived.
    pub async fn send(
        &self,
        method: Method,
        uri: &str,
        body: Vec<u8>,
    ) -> Result<Answer<'_>, Error> {
        self.send_over(self.connect().await?, method, uri, body).await
    }

    async fn connect(&self) -> Result<UnixStream, Error> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let error = match UnixStream::connect(&self.path).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    return Err(Error::NotRunning(format!("at `{}`", self.path.display())));
                }
                // The socket was closed before this connection was accepted.
                ErrorKind::ConnectionReset => return Err(Error::ShuttingDown),
                // Connections are not accepted, and the queue of the socket is full.
                ErrorKind::WouldBlock if Instant::now() < deadline => {
                    sleep(RECONNECT_PAUSE).await;
                }
                ErrorKind::WouldBlock => return Err(self.no_answer(None)),
                _ => return Err(self.failed(&error)),
            }
        }
    }

    /// Returns an error if ganger does not respond even to the simplest request. Otherwise it
    /// returns after a while. Other errors are found by the request that waits for its response.
    async fn check_alive(&self, pid: Option<i32>) -> Result<(), Error> {
        sleep(SLOW_ANSWER_AFTER).await;
        let answer = async {
            let stream = self.connect().await?;
            let mut sender = self.open(stream, pid).await?;
            let request = self.request(Method::GET, "/", Vec::new())?;
            sender.send_request(request).await.map_err(|error| self.failed(&error))
        };
        match timeout(ANSWER_TIMEOUT, answer).await {
            Err(_) => Err(self.no_answer(pid)),
            Ok(Err(error @ Error::NoAnswer(..))) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    fn no_answer(&self, pid: Option<i32>) -> Error {
        match pid {
            Some(pid) => Error::NoAnswer(
                format!("ganger (pid {pid})"),
                format!(" (`kill -CONT {pid}` continues it)"),
            ),
            None => Error::NoAnswer(format!("ganger at `{}`", self.path.display()), String::new()),
        }
    }

    /// Starts HTTP on a connection.
    async fn open(
        &self,
        stream: UnixStream,
        pid: Option<i32>,
    ) -> Result<SendRequest<Full<Bytes>>, Error> {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| self.broken(pid, &error))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    fn request(
        &self,
        method: Method,
        uri: &str,
        body: Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let request = Request::builder().method(method).uri(uri).header("host", "ganger");
        request.body(Full::new(Bytes::from(body))).map_err(|error| self.failed(&error))
    }

    async fn send_over(
        &self,
        stream: UnixStream,
        method: Method,
        uri: &str,
        body: Vec<u8>,
    ) -> Result<Answer<'_>, Error> {
        self.exchange(stream, self.request(method, uri, body)?).await
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer<'_>, Error> {
        let pid = peer::pid(&stream);
        let mut sender = self.open(stream, pid).await?;
        let response = sender.send_request(request);
        tokio::pin!(response);
        let response = tokio::select! {
            response = &mut response => response,
            alive = self.check_alive(pid) => {
                alive?;
                response.await
            }
        };
        let response = response.map_err(|error| self.broken(pid, &error))?;
        let status = response.status();
        let answer = Answer { client: self, response, pid };
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let may_succeed = answer.response.headers().contains_key(RETRY_AFTER);
        let bytes = answer.read().await?;
        let refusal: Result<ErrorBody, _> = serde_json::from_slice(&bytes);
        let text = refusal.map_or_else(|_| status.to_string(), |refusal| refusal.error);
        Err(match status {
            StatusCode::REQUEST_TIMEOUT => Error::TimedOut(text),
            StatusCode::SERVICE_UNAVAILABLE if !may_succeed => Error::ShuttingDown,
            _ if may_succeed => Error::Busy(text),
            _ => Error::Refused(text),
        })
    }

    /// Sends a request, and reads the response.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: Vec<u8>,
    ) -> Result<T, Error> {
        let bytes = self.send(method, uri, body).await?.read().await?;
        serde_json::from_slice(&bytes).map_err(|error| self.failed(&error))
    }

    /// Attaches to a process.
    pub async fn attach(&self, uri: &str) -> Result<Upgraded, Error> {
        let mut request = self.request(Method::GET, uri, Vec::new())?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static(ATTACH_PROTOCOL));
        let Answer { response, pid, .. } = self.exchange(self.connect().await?, request).await?;
        let number = response.headers().get(ATTACHMENT_HEADER).map(HeaderValue::to_str);
        let number = number.and_then(Result::ok).unwrap_or_default().to_owned();
        let stream = hyper::upgrade::on(response).await.map_err(|it| self.broken(pid, &it))?;
        Ok(Upgraded { stream: TokioIo::new(stream), number })
    }

    /// Stops everything, and returns when ganger has exited and its files are removed. Other
    /// clients may have requested the same before.
    pub async fn quit(&self) -> Result<(), Error> {
        let stream = self.connect().await?;
        // As long as it is connected, no other process gets its pid.
        let end = peer::End::of(&stream);
        match self.send_over(stream, Method::POST, "/quit", Vec::new()).await {
            // The response ends when ganger exits, with an error or without.
            Ok(mut answer) => while let Ok(Some(_)) = answer.next().await {},
            Err(Error::ShuttingDown) => {}
            Err(error) => return Err(error),
        }
        end.wait();
        Ok(())
    }

    /// The error of a connection that broke off: the process at its other end has exited, or
    /// another one listens now, or there is another reason.
    fn broken(&self, pid: Option<i32>, error: &dyn std::error::Error) -> Error {
        match socket::connect(&self.path) {
            Ok(now) if peer::pid(&now) == pid => self.failed(error),
            Ok(_) | Err(_) => Error::ShuttingDown,
        }
    }

    /// The error of a connection to this ganger.
    #[must_use]
    pub fn failed(&self, error: &dyn std::error::Error) -> Error {
        Error::Failed { path: self.path.clone(), reason: error.to_string() }
    }
}

impl Answer<'_> {
    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.response.body_mut().frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Err(self.client.broken(self.pid, &error)),
                None => return Ok(None),
            }
        }
    }

    /// Reads the rest, which is JSON.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let client = self.client;
        // A ganger that is killed breaks off.
        serde_json::from_slice(&self.read().await?).map_err(|error| client.failed(&error))
    }

    async fn read(self) -> Result<Bytes, Error> {
        let Self { client, response, pid } = self;
        let collected = response.into_body().collect().await;
        let bytes = collected.map(http_body_util::Collected::to_bytes);
        bytes.map_err(|error| client.broken(pid, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn socket_that_is_closed_during_the_connect_is_that_of_an_ending_ganger() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let (client, is_over) = (Client::at(path.clone()), AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(UnixListener::bind(&path).unwrap());
                    std::fs::remove_file(&path).unwrap();
                }
            });
            for _ in 0..5000 {
                match runtime.block_on(client.connect()) {
                    Ok(_) | Err(Error::NotRunning(_) | Error::ShuttingDown) => {}
                    Err(other) => {
                        is_over.store(true, Ordering::Relaxed);
                        panic!("{other}");
                    }
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
