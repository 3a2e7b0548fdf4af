//! The error of the domain, named by what the caller can do about it, and the
//! only place that makes a gRPC status of it.
//!
//! Never carries a secret: every text may reach a peer, except the cause of
//! [`Error::Internal`], which is logged once under an id and kept here.

use std::{fmt, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Bytes of a text that a caller gets.
const TEXT_MAX: usize = 1024;

/// Each variant's text says what is wrong, naming the field and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong; the same request will never do.
    #[error("{0}")]
    Invalid(String),
    /// Nobody known calls: no token, or one that does not verify.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller is known and may not do this.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    NotFound(String),
    /// Something else holds this name or key already.
    #[error("{0}")]
    Conflict(String),
    /// Possible only after something else was done first; the text says what.
    #[error("{0}")]
    Precondition(String),
    /// A cursor outside of what is kept.
    #[error("{0}")]
    OutOfRange(String),
    /// A bound is reached; later, or smaller.
    #[error("{message}")]
    Exhausted { message: String, retry_after: Option<Duration> },
    /// Not now; the same request later may do.
    #[error("{message}")]
    Unavailable { message: String, retry_after: Option<Duration> },
    /// The caller was replaced, or gave up.
    #[error("{0}")]
    Aborted(String),
    #[error("{0}")]
    Unimplemented(String),
    /// Ours to mend. The text is for the log and stays inside.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub fn exhausted(message: impl Into<String>) -> Self {
        Self::Exhausted { message: message.into(), retry_after: None }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), retry_after: None }
    }

    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::Internal(cause.to_string())
    }

    /// The same, said of a field, where a caller can act on it.
    pub fn of_field(mut self, field: &str) -> Self {
        match &mut self {
            Self::Invalid(text)
            | Self::Denied(text)
            | Self::NotFound(text)
            | Self::Precondition(text)
            | Self::Exhausted { message: text, .. }
            | Self::Unavailable { message: text, .. } => text.insert_str(0, &format!("{field}: ")),
            _ => {}
        }
        self
    }

    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Denied(_) => Code::PermissionDenied,
            Self::NotFound(_) => Code::NotFound,
            Self::Conflict(_) => Code::AlreadyExists,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::OutOfRange(_) => Code::OutOfRange,
            Self::Exhausted { .. } => Code::ResourceExhausted,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Aborted(_) => Code::Aborted,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Internal(cause) => {
                let id = getrandom::u64().unwrap_or_default();
                tracing::error!(id = format!("{id:016x}"), cause, "internal error");
                Status::internal(format!("internal error {id:016x}; the node's log says more"))
            }
            Error::Exhausted { message, retry_after: Some(after) }
            | Error::Unavailable { message, retry_after: Some(after) } => {
                let details = ErrorDetails::with_retry_info(Some(*after));
                Status::with_error_details(error.code(), shortened(message.clone()), details)
            }
            other => Status::new(other.code(), shortened(other.to_string())),
        }
    }
}

/// It travels in a header, which no client takes at any length, and may repeat
/// what the caller wrote.
fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push('…');
    }
    text
}
