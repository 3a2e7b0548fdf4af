//! hRPC on the same port, and a server that speaks nothing else.

use crate::{
    common::{
        LONG, TestNode, event,
        faulty::{Faulty, PULL, PUSH, Reply, pull_body, push_body},
    },
    eventually,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use pillarbox::{
    net::{codec::RawCodec, link::Link},
    proto::protocol::{
        auth::v1::KeyResponse,
        harmonytypes::v1,
        sync::v1::{PullResponse, PushResponse},
    },
    store::PeerTransport,
};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, body::Body};

const KEY: &str = "/protocol.auth.v1.AuthService/Key";

pub fn request(path: &str, authorization: Option<&str>, body: Bytes) -> Request<Body> {
    let builder = Request::post(path).header("content-type", "application/hrpc").header("hrpc-version", "1");
    let builder = match authorization {
        Some(value) => builder.header("authorization", value),
        None => builder,
    };
    builder.body(Body::new(Full::new(body))).unwrap()
}

pub async fn ask(link: &Link, request: Request<Body>) -> Response<Bytes> {
    let (head, body) = timeout(LONG, link.send(request)).await.unwrap().unwrap().into_parts();
    let body = timeout(LONG, body.collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(head.headers["content-type"], "application/hrpc");
    assert_eq!(head.headers["hrpc-version"], "1");
    Response::from_parts(head, body)
}

#[tokio::test]
async fn key_push_and_pull_are_served_by_hrpc_over_both_versions_of_http() {
    for http1 in [true, false] {
        let (node, faulty) = (TestNode::start().await, Faulty::start().await);
        faulty.always(Reply::Fail(Code::Unimplemented));
        node.add(&faulty.id, faulty.key).await;
        node.send(&faulty.id, 7..8).await;
        eventually!(node.is_queued(&faulty.id).await);
        let link = node.dial(http1).await;
        assert_eq!(link.is_h2(), !http1);

        let answer = ask(&link, request(KEY, None, Bytes::new())).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(KeyResponse::decode(answer.into_body()).unwrap().key[..], node.key.as_bytes()[..]);

        let answer = ask(&link, request(PUSH, Some(&faulty.plain()), push_body(event(1)))).await;
        assert_eq!(answer.status(), 200);
        PushResponse::decode(answer.into_body()).unwrap();
        // An upper-case scheme word, and a parameter to the type.
        let mut with_scheme = request(PUSH, Some(&format!("Harmony {}", faulty.plain())), push_body(event(2)));
        with_scheme.headers_mut().insert("content-type", "Application/HRPC; charset=utf-8".parse().unwrap());
        assert_eq!(ask(&link, with_scheme).await.status(), 200);
        assert_eq!(node.log(2).await, [1, 2]);

        let answer = ask(&link, request(PULL, Some(&faulty.plain()), pull_body())).await;
        assert_eq!(PullResponse::decode(answer.into_body()).unwrap().event_queue, [event(7)]);
    }
}

#[tokio::test]
async fn a_refusal_by_hrpc_has_its_identifier_and_status() {
    let (node, known, stranger) = (TestNode::start().await, Faulty::start().await, Faulty::start().await);
    node.add(&known.id, known.key).await;
    let link = node.dial(true).await;
    let cases = [
        (PUSH, None, event(1), 400, "h.bad-auth"),
        (PUSH, Some("no token".to_owned()), event(1), 400, "h.bad-auth"),
        (PUSH, Some(stranger.plain()), event(1), 403, "h.host-not-allowed"),
        (PUSH, Some(known.plain()), Bytes::new(), 400, "pillarbox.invalid-argument"),
        ("/protocol.sync.v1.PostboxService/Nothing", None, event(1), 404, "hrpc.not-found"),
    ];
    for (path, authorization, event, status, identifier) in cases {
        let answer = ask(&link, request(path, authorization.as_deref(), push_body(event))).await;
        assert_eq!(answer.status(), status, "{identifier}");
        let error = v1::Error::decode(answer.into_body()).unwrap();
        assert_eq!(error.identifier, identifier);
        assert!(!error.human_message.is_empty());
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_the_callers_fault_by_grpc_and_by_hrpc() {
    let node = TestNode::start().await;
    let link = node.dial(false).await;
    let long = Bytes::from(vec![0; (4 << 20) + 1]);
    for (body, text) in [(Bytes::from_static(b"\xff\xff"), "request: not readable"), (long, "limit is: 4194304 bytes")]
    {
        let mut grpc = tonic::client::Grpc::with_origin(link.clone(), link.origin());
        grpc.ready().await.unwrap();
        let path = KEY.parse().unwrap();
        let status = grpc.unary(tonic::Request::new(body.clone()), path, RawCodec).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
        let answer = ask(&link, request(KEY, None, body)).await;
        assert_eq!(answer.status(), 400);
        let error = v1::Error::decode(answer.into_body()).unwrap();
        assert_eq!(error.identifier, "pillarbox.invalid-argument");
        assert!(error.human_message.contains(text), "{error:?}");
    }
}

#[tokio::test]
async fn a_peer_that_speaks_hrpc_only_is_found_out_by_key_and_not_by_a_push() {
    let (mut node, faulty) = (TestNode::start().await, Faulty::start_hrpc().await);
    faulty.queue([event(1)]);
    node.add(&faulty.id, faulty.key).await;
    assert_eq!(node.log(1).await, [1]);
    node.send(&faulty.id, 0..5).await;
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!((faulty.applied(), faulty.pushes()), (vec![0, 1, 2, 3, 4], 5));
    assert_eq!(node.peer(&faulty.id).transport(), PeerTransport::Hrpc);

    // It is remembered.
    let keys = faulty.keys();
    assert!(keys > 0);
    node.stop().await;
    node.start_again().await;
    node.send(&faulty.id, 5..7).await;
    eventually!(faulty.applied() == [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(faulty.keys(), keys);
}

#[tokio::test]
async fn a_peer_that_fails_by_hrpc_is_retried_and_queued_like_any_other() {
    let (node, faulty) = (TestNode::start().await, Faulty::start_hrpc().await);
    node.add(&faulty.id, faulty.key).await;
    faulty.on_push([Reply::Html, Reply::HangUp]);
    node.send(&faulty.id, 0..3).await;
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), [0, 0, 1, 2]);
}
