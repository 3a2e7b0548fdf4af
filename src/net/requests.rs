//! What the gRPC library says of requests it cannot read, in our words.
//!
//! It answers INTERNAL to a message that does not decode and OUT_OF_RANGE to
//! one that is too long; both are the caller's fault, and no retry cures them:
//! INVALID_ARGUMENT. Never touches any other answer.

use http::Response;
use tonic::{Code, Status, body::Body};

/// How those statuses begin.
const UNREADABLE: &str = "failed to decode Protobuf message: ";
const TOO_LONG: &str = "Error, decoded message length too large: ";

/// The answer as it is, or a refusal in place of one the library gave.
pub fn reworded(answer: Response<Body>) -> Response<Body> {
    // A refusal before the method was called is in the head.
    let suspect =
        |code: Code| answer.headers().get(Status::GRPC_STATUS).is_some_and(|value| is(value.as_bytes(), code));
    if !suspect(Code::Internal) && !suspect(Code::OutOfRange) {
        return answer;
    }
    let Some(status) = Status::from_header_map(answer.headers()) else { return answer };
    let text = match status.code() {
        Code::Internal => status.message().strip_prefix(UNREADABLE).map(|why| format!("request: not readable: {why}")),
        Code::OutOfRange => status.message().strip_prefix(TOO_LONG).map(|why| format!("request: too long: {why}")),
        _ => None,
    };
    text.map_or(answer, |text| Status::invalid_argument(text).into_http())
}

fn is(value: &[u8], code: Code) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse() == Ok(code as i32))
}

#[cfg(test)]
mod tests;
