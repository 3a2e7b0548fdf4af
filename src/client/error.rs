//! What can go wrong for a caller, by what it can do about it.
//!
//! Tells an outage, which is waited out, from a refusal, which is told at once.
//! Never carries the token.

use crate::net::dial::DialError;
use std::{error::Error as _, time::Duration};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a call or a stream of the client ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// What the client was given makes no sense; the text names it.
    #[error("{0}")]
    Invalid(String),
    /// The other end is not the node that was meant: its certificate speaks
    /// neither for the pinned key nor, by an authority, for the name.
    #[error("the node is not trusted: {0}")]
    Untrusted(String),
    /// The node said no, and would say so again. `Unauthenticated`: the token;
    /// `Aborted` on a stream: the same party subscribed elsewhere.
    #[error("the node refused: {:?}: {}", .0.code(), .0.message())]
    Refused(Status),
    /// The node was not reached, or did not answer, for as long as
    /// [`Options::patience`](super::Options::patience) says. Whether a call
    /// of the last attempts was carried out is not known.
    #[error("the node was not reached for {} s: {why}", .tried.as_secs_f64())]
    Unreachable { tried: Duration, why: String },
}

impl Error {
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// The node's status, if it was the node that said no.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(status) => Some(status.code()),
            _ => None,
        }
    }
}

/// How one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No further attempt would do.
    Final(Error),
    /// Trying again may do, not before `after`.
    Outage { why: String, after: Duration },
}

impl Failure {
    pub(super) fn outage(why: impl Into<String>) -> Self {
        Self::Outage { why: why.into(), after: Duration::ZERO }
    }

    /// As of [`Error::code`].
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Self::Final(error) => error.code(),
            Self::Outage { .. } => None,
        }
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Untrusted { .. } => Self::Final(Error::Untrusted(error.to_string())),
            DialError::Refused { .. } => Self::Final(Error::Invalid(error.to_string())),
            other => Self::outage(other.to_string()),
        }
    }
}

impl From<Status> for Failure {
    /// What has a source was made here, of a connection that broke; the rest is
    /// the node's own word. Of that only UNAVAILABLE, and a full queue that
    /// says for how long, pass by themselves.
    fn from(status: Status) -> Self {
        let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let broken = status.source().is_some();
        let passes = match status.code() {
            Code::Unavailable => true,
            Code::ResourceExhausted => after.is_some(),
            _ => broken,
        };
        if !passes {
            return Self::Final(Error::Refused(status));
        }
        let mut why = format!("{:?}: {}", status.code(), status.message());
        if let Some(cause) = status.source() {
            why = format!("{why} ({cause})");
        }
        Self::Outage { why, after: after.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error as Domain;
    use std::sync::Arc;

    fn passes(status: Status) -> bool {
        matches!(Failure::from(status), Failure::Outage { .. })
    }

    #[test]
    fn an_outage_is_waited_out_and_a_refusal_is_told() {
        assert!(passes(Status::unavailable("the node stops")));
        let mut broken = Status::unknown("transport");
        broken.set_source(Arc::new(std::io::Error::other("reset")));
        assert!(passes(broken));
        for code in [Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied, Code::Aborted, Code::Unknown]
        {
            assert!(!passes(Status::new(code, "no")), "{code:?}");
        }
    }

    #[test]
    fn a_full_queue_passes_only_if_it_says_when() {
        assert!(!passes(Domain::exhausted("full").into()));
        let later = Domain::Exhausted { message: "full".into(), retry_after: Some(Duration::from_secs(3)) };
        let Failure::Outage { after, .. } = Failure::from(Status::from(later)) else { panic!("it is final") };
        assert_eq!(after, Duration::from_secs(3));
    }
}
