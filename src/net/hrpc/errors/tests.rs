//! Tests of `net/hrpc/errors`.

use super::*;
use proptest::prelude::*;

const ALL: [Code; 17] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

fn error(identifier: &str, text: &str, details: &[u8]) -> Vec<u8> {
    Body { identifier: identifier.into(), human_message: text.into(), more_details: details.to_vec().into() }
        .encode_to_vec()
}

fn identifier_of(status: &Status) -> Option<&str> {
    status.metadata().get(IDENTIFIER).and_then(|value| value.to_str().ok())
}

#[test]
fn reserved_identifiers_have_their_reserved_status() {
    for (refusal, identifier, http) in [
        (Refusal::from(&Status::internal("x")), "hrpc.internal-server-error", 500),
        (Refusal::from(&Status::resource_exhausted("x")), "hrpc.resource-exhausted", 429),
        (Refusal::from(&Status::unavailable("x")), "hrpc.unavailable", 503),
        (Refusal::from(&Status::unimplemented("x")), "hrpc.not-implemented", 501),
        (Refusal::not_implemented("x"), "hrpc.not-implemented", 501),
        (Refusal::not_found("x"), "hrpc.not-found", 404),
        (Refusal::bad_request("x"), "hrpc.http.bad-unary-request", 400),
        (Refusal::from(&Status::unauthenticated("x")), "h.bad-auth", 400),
        (Refusal::from(&Status::permission_denied("x")), "h.host-not-allowed", 403),
    ] {
        let body = Body::decode(&*refusal.body()).unwrap();
        assert_eq!((body.identifier.as_str(), refusal.http.as_u16()), (identifier, http));
        assert_eq!((body.human_message.as_str(), body.more_details.as_ref()), ("x", &b""[..]));
    }
}

#[test]
fn every_code_but_internal_ones_comes_back_as_it_was() {
    for code in ALL {
        let refusal = Refusal::from(&Status::new(code, "naïve \u{1f40c}\n"));
        assert!(refusal.http.is_client_error() || refusal.http.is_server_error(), "{code:?}");
        let status = received(refusal.http, true, &refusal.body());
        let expected = match code {
            Code::Ok | Code::Unknown | Code::Internal => Code::Unavailable,
            other => other,
        };
        assert_eq!((status.code(), status.message()), (expected, "naïve \u{1f40c}\n"), "{code:?}");
        assert_eq!(identifier_of(&status), Some(refusal.identifier), "{code:?}");
    }
}

#[test]
fn an_error_without_text_says_at_least_its_kind() {
    let body = Body::decode(&*Refusal::from(&Status::not_found("")).body()).unwrap();
    assert_eq!(body.human_message, Code::NotFound.description());
    assert_eq!(received(StatusCode::BAD_REQUEST, true, &error("h.odd", "", b"")).message(), "h.odd");
}

#[test]
fn a_delay_is_told_in_whole_seconds_rounded_up() {
    for (delay, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2), (60_000, 60)] {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(delay)));
        let refusal = Refusal::from(&Status::with_error_details(Code::Unavailable, "x", details));
        assert_eq!(refusal.retry_after, Some(seconds));
    }
    assert_eq!(whole_seconds(Duration::MAX), u32::MAX);
    assert_eq!(Refusal::from(&Status::unavailable("x")).retry_after, None);
}

#[test]
fn a_delay_of_a_busy_peer_becomes_retry_info() {
    let five = [0x08, 5];
    for (http, identifier, details, delay) in [
        (429, "hrpc.resource-exhausted", &five[..], Some(5)),
        (503, "hrpc.unavailable", &five[..], Some(5)),
        (503, "hrpc.unavailable", &[0x08, 0xff, 0xff, 0xff, 0xff, 0x0f][..], Some(u64::from(u32::MAX))),
        (503, "hrpc.unavailable", b"", None),
        (503, "hrpc.unavailable", b"\xff", None),
        (400, "h.bad-auth", &five[..], None),
    ] {
        let status = received(StatusCode::from_u16(http).unwrap(), true, &error(identifier, "x", details));
        let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(told, delay.map(Duration::from_secs), "{http} {identifier} {details:?}");
    }
}

#[test]
fn what_harmony_servers_say_has_a_code() {
    for (identifier, http, code) in [
        ("h.bad-auth", 400, Code::Unauthenticated),
        ("h.blank-session", 400, Code::Unauthenticated),
        ("h.bad-token", 400, Code::Unauthenticated),
        ("h.bad-token-data", 400, Code::Unauthenticated),
        ("h.bad-token-signature", 400, Code::Unauthenticated),
        ("h.token-verify-failure", 400, Code::Unauthenticated),
        ("h.host-not-allowed", 403, Code::PermissionDenied),
        ("h.federation-disabled", 403, Code::PermissionDenied),
        ("hrpc.internal-server-error", 500, Code::Unavailable),
        ("hrpc.not-implemented", 501, Code::Unimplemented),
        ("hrpc.not-found", 404, Code::Unimplemented),
        ("hrpc.http.bad-unary-request", 400, Code::InvalidArgument),
        ("hrpc.http.bad-streaming-request", 400, Code::InvalidArgument),
        ("h.something-new", 400, Code::InvalidArgument),
        ("h.something-new", 403, Code::PermissionDenied),
        ("h.something-new", 302, Code::Unavailable),
        ("x.gone", 599, Code::Unavailable),
    ] {
        // Some servers send errors under a wrong content type.
        for typed in [true, false] {
            let status = received(StatusCode::from_u16(http).unwrap(), typed, &error(identifier, "text", b""));
            assert_eq!((status.code(), status.message()), (code, "text"), "{identifier} {http}");
            assert_eq!(identifier_of(&status), Some(identifier));
        }
    }
}

#[test]
fn an_answer_that_is_no_hrpc_error_passes() {
    for body in ["", "<html>502</html>", "404 page not found", "{\"error\":1}", "\u{0}\u{1}", "\n\u{3}a b"] {
        for http in [302, 400, 401, 404, 405, 500, 501, 502] {
            let status = received(StatusCode::from_u16(http).unwrap(), false, body.as_bytes());
            assert_eq!((status.code(), identifier_of(&status)), (Code::Unavailable, None), "{http} {body}");
        }
    }
}

#[test]
fn an_hrpc_error_without_a_readable_body_is_judged_by_its_status() {
    for (http, code) in [
        (400, Code::InvalidArgument),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (429, Code::ResourceExhausted),
        (501, Code::Unimplemented),
        (500, Code::Unavailable),
        (503, Code::Unavailable),
    ] {
        for body in [&b""[..], b"\xff\xff"] {
            assert_eq!(received(StatusCode::from_u16(http).unwrap(), true, body).code(), code, "{http}");
        }
    }
}

#[test]
fn a_long_text_of_a_peer_is_cut() {
    let status = received(StatusCode::BAD_REQUEST, true, &error("h.long", &"é".repeat(60_000), b""));
    assert_eq!(status.message().chars().count(), MAX_MESSAGE);
}

proptest! {
    #[test]
    fn whatever_a_peer_says_becomes_an_error(http in 300_u16..1000, typed: bool, body in any::<Vec<u8>>()) {
        let status = received(StatusCode::from_u16(http).unwrap(), typed, &body);
        prop_assert_ne!(status.code(), Code::Ok);
        prop_assert!(!status.message().is_empty());
    }

    #[test]
    fn whatever_an_error_holds_becomes_an_error(
        http in 300_u16..1000, identifier in ".{0,20}|h\\.[a-z]{1,9}|hrpc\\.unavailable", text: String, details: Vec<u8>,
    ) {
        let status = received(StatusCode::from_u16(http).unwrap(), true, &error(&identifier, &text, &details));
        prop_assert_ne!(status.code(), Code::Ok);
        // Must fit into headers, which panics otherwise.
        let _ = status.into_http::<()>();
    }
}
