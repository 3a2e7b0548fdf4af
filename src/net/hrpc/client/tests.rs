//! Tests of `net/hrpc/client`.

use super::super::{IDENTIFIER, tests::key};
use super::*;
use crate::proto::protocol::{auth::v1::KeyResponse, harmonytypes::v1::Error as HrpcError};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use prost::Message;
use std::convert::Infallible;
use tower::ServiceExt;

/// What a generated client makes of `answer`.
async fn result_of(answer: Response<Body>) -> Result<KeyResponse, Status> {
    let answer = std::sync::Arc::new(std::sync::Mutex::new(Some(answer)));
    let peer = tower::service_fn(move |_: Request<Body>| {
        let answer = answer.lock().unwrap().take().unwrap();
        async move { Ok::<_, Infallible>(answer) }
    });
    key(HrpcClient::new(peer, 100), &[]).await.map(tonic::Response::into_inner)
}

fn answer(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Response<Body> {
    let builder = headers.iter().fold(Response::builder().status(status), |b, (name, value)| b.header(*name, *value));
    builder.body(Body::new(Full::new(body.into()))).unwrap()
}

const TYPE: (&str, &str) = ("content-type", "application/hrpc");

#[tokio::test]
async fn the_peer_gets_a_bare_message_and_the_calls_headers() {
    let peer = tower::service_fn(|request: Request<Body>| async move {
        let (head, body) = request.into_parts();
        assert_eq!((head.method, head.version), (Method::POST, Version::HTTP_11));
        assert_eq!(head.uri, "http://node.test:7443/protocol.auth.v1.AuthService/Key");
        let mut headers: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        headers.retain(|(name, _)| *name != "user-agent");
        headers.sort_unstable();
        let expected: [(&str, &[u8]); 4] = [
            ("authorization", b"a token"),
            ("content-length", b"0"),
            ("content-type", b"application/hrpc"),
            ("hrpc-version", b"1"),
        ];
        assert_eq!(headers, expected);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "");
        Ok::<_, Infallible>(answer(200, &[TYPE], ""))
    });
    assert!(key(HrpcClient::new(peer, 100), &[("authorization", "a token")]).await.is_ok());
}

#[tokio::test]
async fn a_success_needs_the_content_type_and_no_other_version() {
    let message = KeyResponse { key: "k".into(), ..Default::default() };
    let given = |status, headers: &[_]| result_of(answer(status, headers, message.encode_to_vec()));
    let version = |value| ("hrpc-version", value);
    for headers in [
        vec![TYPE],
        vec![TYPE, version("1")],
        vec![("content-type", "Application/Hrpc; a=b"), version(" 1")],
        // Nothing a peer says of gRPC counts.
        vec![TYPE, ("grpc-status", "5"), ("grpc-status-details-bin", "%"), ("grpc-encoding", "gzip")],
    ] {
        assert_eq!(given(200, &headers).await.unwrap(), message, "{headers:?}");
    }
    for (headers, code) in [
        (vec![TYPE, version("2")], Code::Unimplemented),
        (vec![TYPE, version("")], Code::Unimplemented),
        (vec![TYPE, ("content-encoding", "gzip")], Code::Unavailable),
        (vec![("content-type", "text/plain")], Code::Unavailable),
        (vec![("content-type", "application/grpc")], Code::Unavailable),
        (vec![], Code::Unavailable),
    ] {
        assert_eq!(given(200, &headers).await.unwrap_err().code(), code, "{headers:?}");
    }
    assert_eq!(given(204, &[TYPE]).await.unwrap(), message);
    assert_eq!(given(302, &[TYPE]).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_proxys_page_passes() {
    for status in [200, 302, 400, 403, 404, 500, 502, 503] {
        let html = answer(status, &[("content-type", "text/html")], "<html><h1>Bad Gateway</h1></html>");
        assert_eq!(result_of(html).await.unwrap_err().code(), Code::Unavailable, "{status}");
    }
}

#[tokio::test]
async fn a_peers_refusal_keeps_its_identifier() {
    let error = HrpcError {
        identifier: "h.token-verify-failure".into(),
        human_message: "no".into(),
        more_details: Bytes::new(),
    };
    let status = result_of(answer(400, &[TYPE], error.encode_to_vec())).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "no"));
    assert_eq!(status.metadata().get(IDENTIFIER).unwrap(), "h.token-verify-failure");
}

#[tokio::test]
async fn an_error_longer_than_its_limit_is_judged_by_its_status() {
    let error =
        HrpcError { human_message: "a".repeat(MAX_ERROR), identifier: "h.bad-auth".into(), ..Default::default() };
    let status = result_of(answer(403, &[TYPE], error.encode_to_vec())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_answer_that_breaks_off_passes() {
    let frames = [Ok(Frame::data(Bytes::from_static(b"\x0a"))), Err(Status::unknown("reset"))];
    let broken = answer(200, &[TYPE], "").map(|_| Body::new(StreamBody::new(tokio_stream::iter(frames))));
    assert_eq!(result_of(broken).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_request_that_hrpc_cannot_carry_is_not_sent() {
    let peer = tower::service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>("it was sent") });
    for (body, code) in [
        (&b"\0\0\0\0\0\0"[..], Code::Unimplemented),
        (b"\x01\0\0\0\0", Code::Unimplemented),
        (b"", Code::Internal),
        (b"\0\0", Code::Internal),
    ] {
        let request = Request::post("/x.Y/Z").body(Body::new(Full::new(Bytes::from_static(body)))).unwrap();
        let answer = HrpcClient::new(peer, 100).oneshot(request).await.unwrap();
        assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), code, "{body:?}");
    }
    let request = Request::post("/x.Y/Z").body(Body::new(Full::new(Bytes::from_static(&[0; 5])))).unwrap();
    assert_eq!(HrpcClient::new(peer, 100).oneshot(request).await.unwrap_err(), "it was sent");
}

fn header() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let name = prop_oneof![
        Just("content-type"),
        Just("hrpc-version"),
        Just("content-encoding"),
        Just("content-length"),
        Just("grpc-status"),
        Just("grpc-message"),
        Just("grpc-status-details-bin"),
        Just("grpc-encoding"),
        Just("x-odd-bin"),
        Just("trailer"),
    ];
    let value = prop_oneof![
        Just(b"application/hrpc".to_vec()),
        Just(b"1".to_vec()),
        Just(b"0".to_vec()),
        Just(b"identity".to_vec()),
        any::<Vec<u8>>(),
    ];
    (name, value)
}

proptest! {
    #[test]
    fn whatever_a_peer_answers_the_caller_gets_a_message_or_a_status(
        status in 100_u16..1000,
        typed: bool,
        headers in proptest::collection::vec(header(), 0..6),
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
        breaks: bool,
        trailers: bool,
    ) {
        let mut mangled = Response::new(());
        *mangled.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                mangled.headers_mut().append(name, value);
            }
        }
        if typed {
            mangled.headers_mut().insert("content-type", wire::HRPC);
        }
        let mut frames: Vec<_> = chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk.clone())))).collect();
        if breaks {
            frames.push(Err(Status::unknown("reset")));
        }
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("grpc-status-details-bin", HeaderValue::from_static("%"));
            map.insert("grpc-status", HeaderValue::from_static("0"));
            frames.push(Ok(Frame::trailers(map)));
        }
        let success = mangled.status().is_success();
        let mangled = mangled.map(|()| Body::new(StreamBody::new(tokio_stream::iter(frames))));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        match runtime.block_on(result_of(mangled)) {
            Ok(message) => {
                prop_assert!(success && !breaks);
                prop_assert_eq!(message, KeyResponse::decode(&*chunks.concat()).unwrap());
            }
            Err(status) => prop_assert_ne!(status.code(), Code::Ok),
        }
    }
}
