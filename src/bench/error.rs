//! Why there is nothing measured.

use crate::net::dial::DialError;
use std::fmt;
use tonic::Status;

#[derive(Debug)]
pub enum Error {
    Failed(String),
    /// Cut short from outside, by the signal of this number.
    Stopped(u8),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => f.write_str(text),
            Self::Stopped(signal) => write!(f, "stopped by signal {signal}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Self::Failed(text.to_owned())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Failed(format!("{} ({:?})", status.message(), status.code()))
    }
}

macro_rules! failed {
    ($($cause:ty),*) => {
        $(impl From<$cause> for Error {
            fn from(cause: $cause) -> Self {
                Self::Failed(cause.to_string())
            }
        })*
    };
}

failed!(std::io::Error, DialError, crate::error::Error, tokio::task::JoinError);
