//! What else the one port serves: gRPC-Web, health, reflection.

use crate::{
    common::{LONG, TestNode, federate},
    eventually,
};
use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::{StreamExt, future::ready, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use pillarbox::proto::protocol::auth::v1::KeyResponse;
use prost::Message;
use tokio::{sync::oneshot, task::JoinSet, time::timeout};
use tonic::body::Body;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test]
async fn a_browser_asks_for_the_key_by_grpc_web() {
    let node = TestNode::start().await;
    for http1 in [true, false] {
        let link = node.dial(http1).await;
        let request = Request::post("/protocol.auth.v1.AuthService/Key")
            .header("content-type", "application/grpc-web+proto")
            .header("x-grpc-web", "1")
            .body(Body::new(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]))))
            .unwrap();
        let answer = timeout(LONG, link.send(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/grpc-web+proto");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        assert_eq!(body[0], 0);
        let key = KeyResponse::decode(&body[5..5 + length]).unwrap();
        assert_eq!(key.key[..], node.key.as_bytes()[..]);
        assert_eq!(key.server_id, node.id.to_string());
        assert_eq!(key.speaks, ["postbox/1", "parcels/1", "chat/1", "courier/1"]);
        // The trailers are a frame of their own.
        let trailers = &body[5 + length..];
        assert_eq!(trailers[0], 0x80);
        assert!(String::from_utf8_lossy(&trailers[5..]).contains("grpc-status:0"));
    }
}

/// Neither has said who it is, nor would it be let in.
#[tokio::test]
async fn strangers_cannot_fill_the_memory_with_halves_of_messages() {
    let node = TestNode::start_with(|config| config.limits.unanswered_bytes = ByteSize::mib(2)).await;
    let link = node.dial(false).await;
    let half_of_900_kib = |end: oneshot::Receiver<()>| {
        let mut said = vec![0];
        said.extend((900u32 << 10).to_be_bytes());
        said.resize(600 << 10, 0);
        let wait = stream::once(async move { end.await.ok().map(|()| Bytes::new()) }).filter_map(ready);
        let body =
            stream::iter([Bytes::from(said)]).chain(wait).map(|bytes| Ok::<_, tonic::Status>(Frame::data(bytes)));
        Request::post("/mpc.router.v1.MessageRouter/RouteMessage")
            .header("content-type", "application/grpc")
            .body(Body::new(StreamBody::new(body)))
            .unwrap()
    };
    let (held, ends): (Vec<_>, Vec<_>) = (0..2).map(|_| oneshot::channel()).unzip();
    let mut calls: JoinSet<_> = ends
        .into_iter()
        .map(|end| {
            let (link, request) = (link.clone(), half_of_900_kib(end));
            async move { link.send(request).await.unwrap() }
        })
        .collect();
    // Whichever comes second is refused at once; the first one waits for its rest.
    let refused = timeout(LONG, calls.join_next()).await.unwrap().unwrap().unwrap();
    let status = tonic::Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("limits.unanswered_bytes"), "{status}");
    drop(held);
    let broken_off = timeout(LONG, calls.join_next()).await.unwrap().unwrap().unwrap();
    let status = tonic::Status::from_header_map(broken_off.headers()).unwrap();
    assert!(!status.message().contains("limits"), "{status}");
}

#[tokio::test]
async fn health_says_serving_for_the_node_and_each_service_and_not_serving_at_the_end() {
    let mut node = TestNode::start().await;
    let link = node.dial(false).await;
    let origin = link.origin();
    let mut health = HealthClient::with_origin(link, origin);
    for service in
        ["", "protocol.sync.v1.PostboxService", "protocol.auth.v1.AuthService", "pillarbox.postbox.v1.Mailroom"]
    {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let service = "protocol.sync.v1.PostboxService".to_owned();
    let mut watch = health.watch(HealthCheckRequest { service }).await.unwrap().into_inner();
    assert_eq!(timeout(LONG, watch.message()).await.unwrap().unwrap().unwrap().status(), ServingStatus::Serving);
    let (told, ()) = tokio::join!(timeout(LONG, watch.message()), node.stop());
    assert_eq!(told.unwrap().unwrap().unwrap().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_lists_what_is_served_and_nothing_else() {
    let node = TestNode::start().await;
    let link = node.dial(false).await;
    let origin = link.origin();
    let mut client = ServerReflectionClient::with_origin(link, origin);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = timeout(LONG, answers.next()).await.unwrap().unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("another answer: {answer:?}")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.retain(|name| !name.starts_with("grpc.reflection."));
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "chat.Chat",
            "galaxy.backend.push.v1.Push",
            "grpc.health.v1.Health",
            "mpc.router.v1.MessageRouter",
            "pillarbox.federation.v1.Courier",
            "pillarbox.postbox.v1.Mailroom",
            "pillarbox.push.v1.Publisher",
            "pillarbox.push.v1.Sessions",
            "pillarbox.relay.v1.Sessions",
            "protocol.auth.v1.AuthService",
            "protocol.sync.v1.PostboxService",
        ]
    );
}

#[tokio::test]
async fn metrics_are_prometheus_text_on_a_listener_of_their_own() {
    let (a, b) = (
        TestNode::start_with(|config| config.metrics.listen = Some(([127, 0, 0, 1], 0).into())).await,
        TestNode::start().await,
    );
    federate(&a, &b).await;
    a.send(&b.id, 0..3).await;
    assert_eq!(b.log(2).await, [0, 1, 2]);
    eventually!(a.is_drained(&b.id).await);
    let text = a.ask_metrics("/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; version=0.0.4"), "{text}");
    for (name, value) in [
        ("pillarbox_events_stored_total", "3"),
        ("pillarbox_events_sent_total{lane=\"courier\"}", "3"),
        ("pillarbox_peers{state=\"well\"}", "1"),
        ("pillarbox_queued_events", "0"),
    ] {
        assert_eq!(a.metric(name).await, value, "{name}");
    }
    assert!(a.ask_metrics("/").await.starts_with("HTTP/1.1 404"));
}
