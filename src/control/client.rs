//! Asks a running ganger.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::Refusal;
use super::socket;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens where this app's ganger would: `in` its folder, or `at` a path.
    #[error("no ganger runs {0} (start one with `ganger start`, or name its socket: `-s`)")]
    Nobody(String),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("{0}")]
    TimedOut(String),
    /// It can't be asked.
    #[error("failed to ask ganger at `{}`: {reason}", path.display())]
    Failed {
        /// Where it listens.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Where a ganger can be asked.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Whoever listens at `path`.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The one that runs the app in the folder `root`.
    pub fn of(root: &Path) -> Result<Self, Error> {
        let candidates = socket::candidates(root);
        let is_there = |path: &&PathBuf| std::os::unix::net::UnixStream::connect(path).is_ok();
        match candidates.iter().find(is_there) {
            Some(path) => Ok(Self { path: path.clone() }),
            None => Err(Error::Nobody(format!("in `{}`", root.display()))),
        }
    }

    /// Sends a request, and reads the answer as it comes.
    pub async fn send(
        &self,
        method: Method,
        uri: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.absent(&error))?;
        let failed = |error: hyper::Error| self.failed(&error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(uri).header("host", "ganger");
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| self.failed(&error))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.read(response).await?;
        let refusal: Result<Refusal, _> = serde_json::from_slice(&bytes);
        let text = refusal.map_or_else(|_| status.to_string(), |refusal| refusal.error);
        if status == StatusCode::REQUEST_TIMEOUT {
            Err(Error::TimedOut(text))
        } else {
            Err(Error::Refused(text))
        }
    }

    /// Sends a request, and reads what it answers.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: Vec<u8>,
    ) -> Result<T, Error> {
        let response = self.send(method, uri, body).await?;
        let bytes = self.read(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.failed(&error))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, Error> {
        let collected = response.into_body().collect().await;
        collected.map(http_body_util::Collected::to_bytes).map_err(|error| self.failed(&error))
    }

    fn absent(&self, error: &io::Error) -> Error {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Error::Nobody(format!("at `{}`", self.path.display()))
            }
            _ => self.failed(error),
        }
    }

    /// It can't be asked, or its answer broke off.
    pub(crate) fn failed(&self, error: &dyn std::error::Error) -> Error {
        Error::Failed { path: self.path.clone(), reason: error.to_string() }
    }
}
