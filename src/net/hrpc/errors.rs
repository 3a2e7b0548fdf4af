//! hRPC's errors and gRPC's: the table from one to the other.
//!
//! Outwards, an identifier the hRPC specification reserves or Harmony servers
//! use where one fits, else one of our own (`pillarbox.*`), so that every code
//! but "internal" comes back as it was. HTTP statuses are the reserved ones;
//! where hRPC is silent, those that `google/rpc/code.proto` names.
//! Pure: no I/O, never panics, whatever a peer sends.

use crate::proto::protocol::harmonytypes::v1::Error as Body;
use http::StatusCode;
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

/// Key of the metadata in which a status of [`super::HrpcClient`] carries the
/// identifier the peer gave (`h.token-verify-failure`, …), if it gave one.
pub const IDENTIFIER: &str = "hrpc-identifier";

const NOT_FOUND: &str = "hrpc.not-found";
const NOT_IMPLEMENTED: &str = "hrpc.not-implemented";
const EXHAUSTED: &str = "hrpc.resource-exhausted";
const UNAVAILABLE: &str = "hrpc.unavailable";
const BAD_UNARY: &str = "hrpc.http.bad-unary-request";

/// Longest text of a peer, in characters, that goes into a status.
const MAX_MESSAGE: usize = 1024;

/// `hrpc.v1.RetryInfo`, the details of "resource exhausted" and "unavailable".
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct RetryInfo {
    /// Seconds.
    #[prost(uint32, tag = "1")]
    retry_after: u32,
}

/// An hRPC error about to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub http: StatusCode,
    identifier: &'static str,
    message: String,
    /// Seconds.
    retry_after: Option<u32>,
}

impl Refusal {
    /// The request is not a well-formed unary call: 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, BAD_UNARY, message)
    }

    /// The path is known, hRPC cannot serve it here: 501.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, NOT_IMPLEMENTED, message)
    }

    /// No contract names the path: 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, NOT_FOUND, message)
    }

    fn new(http: StatusCode, identifier: &'static str, message: impl Into<String>) -> Self {
        Self { http, identifier, message: message.into(), retry_after: None }
    }

    /// The body: `harmonytypes.v1.Error`.
    pub fn body(&self) -> Vec<u8> {
        let details = self.retry_after.map(|retry_after| RetryInfo { retry_after }.encode_to_vec());
        Body {
            identifier: self.identifier.into(),
            human_message: self.message.clone(),
            more_details: details.unwrap_or_default().into(),
        }
        .encode_to_vec()
    }
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let (identifier, http) = outward(status.code());
        let message = if status.message().is_empty() { status.code().description() } else { status.message() };
        let mut refusal = Self::new(http, identifier, message);
        if matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) {
            let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
            refusal.retry_after = delay.map(whole_seconds);
        }
        refusal
    }
}

/// Rounded up: a caller that comes early is refused again.
fn whole_seconds(delay: Duration) -> u32 {
    let up = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
    u32::try_from(up).unwrap_or(u32::MAX)
}

/// Identifier and HTTP status of a gRPC code that is not OK. (OK without a
/// message is a fault of the service, hence "internal".)
fn outward(code: Code) -> (&'static str, StatusCode) {
    match code {
        Code::Unauthenticated => ("h.bad-auth", StatusCode::BAD_REQUEST),
        Code::PermissionDenied => ("h.host-not-allowed", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => (EXHAUSTED, StatusCode::TOO_MANY_REQUESTS),
        Code::Unavailable => (UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE),
        Code::Unimplemented => (NOT_IMPLEMENTED, StatusCode::NOT_IMPLEMENTED),
        Code::InvalidArgument => ("pillarbox.invalid-argument", StatusCode::BAD_REQUEST),
        Code::FailedPrecondition => ("pillarbox.failed-precondition", StatusCode::BAD_REQUEST),
        Code::OutOfRange => ("pillarbox.out-of-range", StatusCode::BAD_REQUEST),
        Code::NotFound => ("pillarbox.not-found", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("pillarbox.already-exists", StatusCode::CONFLICT),
        Code::Aborted => ("pillarbox.aborted", StatusCode::CONFLICT),
        // code.proto says 499, which no registry knows.
        Code::Cancelled => ("pillarbox.cancelled", StatusCode::BAD_REQUEST),
        Code::DeadlineExceeded => ("pillarbox.deadline-exceeded", StatusCode::GATEWAY_TIMEOUT),
        Code::DataLoss => ("pillarbox.data-loss", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Ok | Code::Unknown | Code::Internal => ("hrpc.internal-server-error", StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The gRPC code of an hRPC error. An identifier we do not know is judged by
/// its HTTP status. Never OK.
fn inward(identifier: &str, http: StatusCode) -> Code {
    match identifier {
        "h.bad-auth" | "h.blank-session" | "h.token-verify-failure" => Code::Unauthenticated,
        "h.host-not-allowed" | "h.federation-disabled" => Code::PermissionDenied,
        NOT_FOUND | NOT_IMPLEMENTED => Code::Unimplemented,
        EXHAUSTED => Code::ResourceExhausted,
        UNAVAILABLE => Code::Unavailable,
        "pillarbox.invalid-argument" => Code::InvalidArgument,
        "pillarbox.failed-precondition" => Code::FailedPrecondition,
        "pillarbox.out-of-range" => Code::OutOfRange,
        "pillarbox.not-found" => Code::NotFound,
        "pillarbox.already-exists" => Code::AlreadyExists,
        "pillarbox.aborted" => Code::Aborted,
        "pillarbox.cancelled" => Code::Cancelled,
        "pillarbox.deadline-exceeded" => Code::DeadlineExceeded,
        "pillarbox.data-loss" => Code::DataLoss,
        token if token == "h.bad-token" || token.starts_with("h.bad-token-") => Code::Unauthenticated,
        _ => by_http(http),
    }
}

/// The gRPC code of a status without an error we know. Never OK.
pub fn by_http(http: StatusCode) -> Code {
    match http.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 405 | 501 => Code::Unimplemented,
        408 => Code::DeadlineExceeded,
        429 => Code::ResourceExhausted,
        400..=499 => Code::InvalidArgument,
        // 5xx passes; a redirect is not followed and may pass too.
        _ => Code::Unavailable,
    }
}

/// The gRPC status of a peer's answer that is not a success. `typed`: its
/// content type was hRPC's. `body`: as much as was read.
///
/// An answer that neither says it is hRPC nor holds an hRPC error comes from
/// something between us and the peer, and passes: UNAVAILABLE.
pub fn received(http: StatusCode, typed: bool, body: &[u8]) -> Status {
    let error = Body::decode(body).ok().filter(|error| looks_like_an_identifier(&error.identifier));
    let Some(error) = error else {
        let code = if typed { by_http(http) } else { Code::Unavailable };
        let what = if typed { "an hRPC error without a readable body" } else { "something that is not hRPC" };
        return Status::new(code, format!("the peer answered HTTP {} with {what}", http.as_u16()));
    };
    let code = inward(&error.identifier, http);
    let mut details = ErrorDetails::new();
    let may_retry = matches!(error.identifier.as_str(), EXHAUSTED | UNAVAILABLE) || matches!(http.as_u16(), 429 | 503);
    if may_retry
        && !error.more_details.is_empty()
        && let Ok(info) = RetryInfo::decode(error.more_details)
    {
        details.set_retry_info(Some(Duration::from_secs(info.retry_after.into())));
    }
    let text = if error.human_message.is_empty() { &error.identifier } else { &error.human_message };
    let message: String = text.chars().take(MAX_MESSAGE).collect();
    let mut metadata = MetadataMap::new();
    if let Ok(identifier) = error.identifier.parse() {
        metadata.insert(IDENTIFIER, identifier);
    }
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

/// Almost any short text decodes as some protobuf message; an identifier is
/// dotted words in ASCII.
fn looks_like_an_identifier(text: &str) -> bool {
    text.len() <= 128
        && text.contains('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests;
