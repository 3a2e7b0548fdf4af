//! Tests of `net/hrpc/server`.

use super::super::tests::{methods, node};
use super::*;
use crate::proto::protocol::harmonytypes::v1::Error as HrpcError;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use prost::Message;
use std::convert::Infallible;
use tower::ServiceExt;

const KEY: &str = "/protocol.auth.v1.AuthService/Key";

fn hrpc(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = Body::new(Full::new(body.into()));
    Request::post(path).header("content-type", "application/hrpc").body(body).unwrap()
}

/// HTTP status, identifier and text of an hRPC error.
async fn error_of(answer: Response<Body>) -> (u16, String, String) {
    assert_marked(&answer);
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let error = HrpcError::decode(body).unwrap();
    (status, error.identifier, error.human_message)
}

fn assert_marked(answer: &Response<Body>) {
    assert_eq!(answer.headers()["content-type"], "application/hrpc");
    assert_eq!(answer.headers()["hrpc-version"], "1");
    assert!(!answer.headers().contains_key("grpc-status"));
}

/// The layer, with deadlines that pass at once, before a service that gives
/// `answer` whatever it is asked.
async fn over<F, R>(path: &str, answer: F) -> Response<Body>
where
    F: Fn() -> Response<R> + Clone + Send + 'static,
    R: http_body::Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let inner = tower::service_fn(move |_: Request<Body>| {
        let answer = answer();
        async move { Ok::<_, Infallible>(answer) }
    });
    let layer = HrpcLayer::with_deadlines(methods(), 100, Duration::from_millis(1), Duration::from_millis(1));
    layer.layer(inner).oneshot(hrpc(path, "")).await.unwrap()
}

/// A gRPC answer of these frames, that then hangs if it does not end.
fn grpc(frames: Vec<Frame<Bytes>>, ends: bool) -> Response<Body> {
    let frames = tokio_stream::iter(frames.into_iter().map(Ok::<_, Status>).collect::<Vec<_>>());
    let body = if ends {
        Body::new(StreamBody::new(frames))
    } else {
        Body::new(StreamBody::new(tokio_stream::StreamExt::chain(frames, tokio_stream::pending())))
    };
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> Frame<Bytes> {
    let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
    Frame::trailers(pairs.collect())
}

fn data(bytes: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(bytes))
}

#[test]
fn the_head_decides_whose_a_request_is() {
    let refused = |kind: &Kind| match kind {
        Kind::Refused(refusal) => refusal.http.as_u16(),
        Kind::Unary => 200,
        Kind::Foreign => 0,
    };
    let upgrade = ("upgrade", "WebSocket");
    let hrpc = ("content-type", "application/hrpc; x=y");
    for (method, headers, expected) in [
        (Method::POST, vec![hrpc], 200),
        (Method::POST, vec![("content-type", "APPLICATION/HRPC")], 200),
        (Method::POST, vec![hrpc, ("content-encoding", "identity")], 200),
        (Method::POST, vec![hrpc, ("content-encoding", "gzip")], 400),
        (Method::POST, vec![hrpc, ("hrpc-version", "99")], 200),
        (Method::POST, vec![], 400),
        (Method::POST, vec![("content-type", "application/hrpc-json")], 400),
        (Method::POST, vec![("content-type", "application/grpc")], 0),
        (Method::POST, vec![("content-type", "application/grpc+proto"), ("content-encoding", "gzip")], 0),
        (Method::POST, vec![("content-type", "application/grpc-web-text")], 0),
        (Method::PUT, vec![hrpc], 400),
        (Method::PUT, vec![], 0),
        (Method::OPTIONS, vec![], 0),
        (Method::OPTIONS, vec![hrpc], 0),
        (Method::GET, vec![], 0),
        (Method::GET, vec![upgrade, ("sec-websocket-protocol", "hrpc1, a-token")], 501),
        (Method::GET, vec![upgrade, ("sec-websocket-protocol", "a, Hrpc1")], 501),
        (Method::GET, vec![upgrade, ("sec-websocket-protocol", "hrpc10")], 0),
        (Method::GET, vec![("sec-websocket-protocol", "hrpc1")], 0),
        (Method::GET, vec![upgrade], 0),
    ] {
        let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        assert_eq!(refused(&kind(&method, &map.collect())), expected, "{method} {headers:?}");
    }
}

#[tokio::test]
async fn what_is_not_a_unary_call_is_refused_in_hrpcs_form() {
    let json = Request::post(KEY).header("content-type", "application/hrpc-json").body(Body::empty()).unwrap();
    let (status, identifier, text) = error_of(node().oneshot(json).await.unwrap()).await;
    assert_eq!((status, identifier.as_str()), (400, "hrpc.http.bad-unary-request"));
    assert!(text.contains("application/hrpc"), "{text}");

    let socket = Request::get(KEY)
        .header("upgrade", "websocket")
        .header("sec-websocket-protocol", "hrpc1")
        .body(Body::empty())
        .unwrap();
    let (status, identifier, _) = error_of(node().oneshot(socket).await.unwrap()).await;
    assert_eq!((status, identifier.as_str()), (501, "hrpc.not-implemented"));
}

#[tokio::test]
async fn a_path_of_no_contract_is_not_found_and_one_not_served_is_not_implemented() {
    for (path, status, identifier) in [
        ("/no.such.Service/Method", 404, "hrpc.not-found"),
        ("/protocol.auth.v1.AuthService/NoSuchMethod", 404, "hrpc.not-found"),
        ("/", 404, "hrpc.not-found"),
        ("/chat.Chat/New", 501, "hrpc.not-implemented"),
        ("/chat.Chat/Connect", 501, "hrpc.not-implemented"),
        ("/grpc.health.v1.Health/Watch", 501, "hrpc.not-implemented"),
    ] {
        let (found_status, found, text) = error_of(node().oneshot(hrpc(path, "")).await.unwrap()).await;
        assert_eq!((found_status, found.as_str()), (status, identifier), "{path}");
        assert!(!text.is_empty());
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_the_limit_named() {
    let layer = HrpcLayer::new(methods(), 4);
    let routes = || layer.layer(node());
    let (status, identifier, text) = error_of(routes().oneshot(hrpc(KEY, vec![0x7f; 5])).await.unwrap()).await;
    assert_eq!((status, identifier.as_str()), (400, "hrpc.http.bad-unary-request"));
    assert!(text.contains("4 bytes"), "{text}");
    // One unknown field of four bytes, which is as much as may be.
    let answer = routes().oneshot(hrpc(KEY, &b"\x7a\x02ab"[..])).await.unwrap();
    assert_marked(&answer);
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_or_breaks_is_refused() {
    for body in [
        Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>())),
        Body::new(StreamBody::new(tokio_stream::once(Err::<Frame<Bytes>, _>(Status::cancelled("gone"))))),
    ] {
        let layer = HrpcLayer::with_deadlines(methods(), 100, Duration::from_millis(1), END);
        let request = hrpc(KEY, "").map(|_| body);
        let (status, identifier, _) = error_of(layer.layer(node()).oneshot(request).await.unwrap()).await;
        assert_eq!((status, identifier.as_str()), (400, "hrpc.http.bad-unary-request"));
    }
}

#[tokio::test]
async fn the_service_gets_a_grpc_call_with_the_callers_headers_and_extensions() {
    let inner = tower::service_fn(|request: Request<Body>| async move {
        let (head, body) = request.into_parts();
        assert_eq!((head.uri.path(), head.version), ("/a.B/C", Version::HTTP_2));
        assert_eq!(head.extensions.get(), Some(&7_u8));
        let mut names: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        names.sort_unstable();
        let expected: [(&str, &[u8]); 4] = [
            ("authorization", b"a token"),
            ("content-type", b"application/grpc"),
            ("te", b"trailers"),
            ("x-mine", b"1"),
        ];
        assert_eq!(names, expected);
        assert_eq!(body.collect().await.unwrap().to_bytes(), &b"\0\0\0\0\x02hi"[..]);
        Ok::<_, Infallible>(grpc(
            vec![data(b"\0\0\0\0\x01x"), trailers(&[("grpc-status", "0"), ("x-late", "l")])],
            true,
        ))
    });
    let mut request = hrpc("/a.B/C", "hi");
    request.extensions_mut().insert(7_u8);
    for (name, value) in [
        ("authorization", "a token"),
        ("x-mine", "1"),
        ("hrpc-version", "1"),
        ("content-length", "2"),
        ("connection", "keep-alive"),
        ("grpc-accept-encoding", "gzip"),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    *request.version_mut() = Version::HTTP_11;
    let answer = HrpcLayer::new(Methods::default(), 100).layer(inner).oneshot(request).await.unwrap();
    assert_marked(&answer);
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_11));
    assert_eq!(answer.headers()["x-late"], "l");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "x");
}

#[tokio::test]
async fn a_status_is_read_from_trailers_and_from_headers() {
    let in_trailers =
        || grpc(vec![trailers(&[("grpc-status", "3"), ("grpc-message", "50%25 wrong"), ("x-why", "because")])], true);
    let after_a_message = || {
        grpc(
            vec![
                data(b"\0\0\0\0\0"),
                trailers(&[("grpc-status", "3"), ("grpc-message", "50% wrong"), ("x-why", "because")]),
            ],
            true,
        )
    };
    let in_headers = || {
        let mut answer = grpc(vec![], true);
        let frame = trailers(&[("grpc-status", "3"), ("grpc-message", "50%25 wrong"), ("x-why", "because")]);
        answer.headers_mut().extend(frame.into_trailers().unwrap());
        answer
    };
    for answer in [over(KEY, in_trailers).await, over(KEY, after_a_message).await, over(KEY, in_headers).await] {
        assert_eq!(answer.headers()["x-why"], "because");
        let error = error_of(answer).await;
        assert_eq!(error, (400, "pillarbox.invalid-argument".into(), "50% wrong".into()));
    }
}

#[tokio::test]
async fn a_stream_that_no_contract_names_is_not_implemented() {
    let two = || grpc(vec![data(b"\0\0\0\0\0"), data(b"\0\0\0\0\0")], false);
    let endless = || grpc(vec![data(b"\0\0\0\0\0")], false);
    let silent = || grpc(vec![], false);
    for answer in [over("/x.Y/Z", two).await, over("/x.Y/Z", endless).await, over("/x.Y/Z", silent).await] {
        let (status, identifier, _) = error_of(answer).await;
        assert_eq!((status, identifier.as_str()), (501, "hrpc.not-implemented"));
    }
}

#[tokio::test]
async fn a_service_that_breaks_the_rules_is_an_internal_error() {
    let no_message = || grpc(vec![trailers(&[("grpc-status", "0")])], true);
    let no_status = || grpc(vec![data(b"\0\0\0\0\0")], true);
    let cut = || grpc(vec![data(b"\0\0\0\0\x09half"), trailers(&[("grpc-status", "0")])], true);
    let compressed = || grpc(vec![data(b"\x01\0\0\0\0"), trailers(&[("grpc-status", "0")])], true);
    for answer in
        [over(KEY, no_message).await, over(KEY, no_status).await, over(KEY, cut).await, over(KEY, compressed).await]
    {
        let (status, identifier, _) = error_of(answer).await;
        assert_eq!((status, identifier.as_str()), (500, "hrpc.internal-server-error"));
    }
}

#[tokio::test]
async fn plain_http_from_behind_the_layer_is_put_into_hrpcs_form() {
    for (http, status, identifier) in [
        (404, 501, "hrpc.not-implemented"),
        (429, 429, "hrpc.resource-exhausted"),
        (503, 503, "hrpc.unavailable"),
        (413, 400, "pillarbox.invalid-argument"),
    ] {
        let plain = move || Response::builder().status(http).body(Body::empty()).unwrap();
        let (found_status, found, _) = error_of(over(KEY, plain).await).await;
        assert_eq!((found_status, found.as_str()), (status, identifier), "{http}");
    }
    let plain = || Response::builder().status(404).body(Body::empty()).unwrap();
    assert_eq!(error_of(over("/x.Y/Z", plain).await).await.1, "hrpc.not-found");
}

proptest! {
    #[test]
    fn whatever_the_service_answers_the_caller_gets_an_hrpc_answer(
        http in 200_u16..600,
        status in "[0-9]{0,2}|.{0,3}",
        message in any::<Vec<u8>>(),
        details in any::<Vec<u8>>(),
        chunks in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..9), 0..4),
        at_end: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut said = HeaderMap::new();
        for (name, value) in [
            (Status::GRPC_STATUS, status.as_bytes()),
            (Status::GRPC_MESSAGE, &message[..]),
            (Status::GRPC_STATUS_DETAILS, &details[..]),
        ] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                said.insert(name, value);
            }
        }
        let answer = runtime.block_on(over(KEY, move || {
            let data = chunks.iter().map(|chunk| Frame::data(chunk.clone().into()));
            let mut answer = grpc(data.chain(at_end.then(|| Frame::trailers(said.clone()))).collect(), true);
            if !at_end {
                answer.headers_mut().extend(said.clone());
            }
            *answer.status_mut() = StatusCode::from_u16(http).unwrap();
            answer
        }));
        assert_marked(&answer);
        if answer.status() != 200 {
            let (_, identifier, text) = runtime.block_on(error_of(answer));
            prop_assert!(!identifier.is_empty() && !text.is_empty());
        }
    }
}
