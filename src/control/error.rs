//! Error responses.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};

use super::api::ErrorBody;
use super::names;
use super::planner;
use crate::logs::subscribers::LogsEnded;
use crate::supervise::handle::Stopping;

/// In seconds.
const RETRY_IN: &str = "1";

/// An error response.
#[derive(Debug)]
pub(super) struct Error {
    status: StatusCode,
    message: String,
    /// Whether the same request may succeed soon.
    is_passing: bool,
}

impl Error {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), is_passing: false }
    }

    pub(super) fn bad_request(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }

    pub(super) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, message)
    }

    /// The request does not fit the state of a process.
    pub(super) fn conflict(message: String) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Other clients use the memory or slot that this one needs.
    pub(super) fn busy(message: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message, is_passing: true }
    }

    /// The bytes of the response, for a client whose request reaches no route.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let body = serde_json::to_string(&ErrorBody { error: self.message.clone() });
        let body = body.unwrap_or_default();
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: \
             close\r\n\r\n{body}",
            self.status,
            body.len()
        )
        .into_bytes()
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = Json(ErrorBody { error: self.message });
        if self.is_passing {
            (self.status, [(RETRY_AFTER, RETRY_IN)], body).into_response()
        } else {
            (self.status, body).into_response()
        }
    }
}

/// The same request would fail again later, so there is no Retry-After header.
impl From<Stopping> for Error {
    fn from(stopping: Stopping) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, stopping.to_string())
    }
}

impl From<LogsEnded> for Error {
    fn from(_: LogsEnded) -> Self {
        Stopping.into()
    }
}

impl From<planner::Error> for Error {
    fn from(refused: planner::Error) -> Self {
        match refused {
            planner::Error::Stopping(stopping) => stopping.into(),
            planner::Error::Busy => Self::busy(refused.to_string()),
            planner::Error::Invalid(reason) => Self::bad_request(reason),
        }
    }
}

impl From<names::Error> for Error {
    fn from(error: names::Error) -> Self {
        let status = match error {
            names::Error::Unknown { .. } => StatusCode::NOT_FOUND,
            names::Error::Pattern(_)
            | names::Error::TooLong
            | names::Error::TooManyNames
            | names::Error::TooManyPatterns => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}
