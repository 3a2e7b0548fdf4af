//! A server of the plain contract that pulls: its answers are kept until they
//! arrived, and fit a client of default limits.

use crate::{
    common::{
        TestNode, event,
        faulty::{Faulty, PULL, Reply, call, pull_body},
        forwarder::Forwarder,
        large_event,
    },
    eventually,
};
use bytes::Bytes;
use http_body_util::Full;
use pillarbox::proto::protocol::sync::v1::PullResponse;
use prost::Message;
use std::time::Duration;
use tonic::{Code, body::Body};

/// A node whose answers settle by what the peer does, not by time, and a peer
/// for which `0..count` wait.
async fn queued(count: u64) -> (TestNode, Faulty) {
    let node = TestNode::start_with(|config| config.federation.stock_settle = Duration::from_secs(60)).await;
    let faulty = Faulty::start().await;
    faulty.on_push([Reply::Fail(Code::PermissionDenied)]);
    node.add(&faulty.id, faulty.key).await;
    if count > 0 {
        node.send(&faulty.id, 0..count).await;
        eventually!(node.is_queued(&faulty.id).await);
    }
    (node, faulty)
}

#[tokio::test]
async fn an_answer_that_a_broken_link_swallowed_is_given_again() {
    let (node, faulty) = queued(20).await;
    let link = Forwarder::to(node.address).await;
    let through = node.dial_at(link.address, false).await;
    link.swallow(true);
    let lost = faulty.pull(&through);
    let cut = async {
        eventually!(link.swallowed() > 100);
        link.cut();
    };
    let (lost, ()) = tokio::join!(lost, cut);
    lost.unwrap_err();
    assert_eq!(node.peer(&faulty.id).queued().0, 20);
    assert_eq!(faulty.pull(&node.dial(false).await).await.unwrap(), Vec::from_iter(0..20));
}

#[tokio::test]
async fn while_an_answer_is_unsettled_a_pull_over_another_connection_gets_the_same_rows() {
    let (node, faulty) = queued(20).await;
    let (first, second) = (node.dial(false).await, node.dial(false).await);
    assert_eq!(faulty.pull(&first).await.unwrap(), Vec::from_iter(0..20));
    assert_eq!(faulty.pull(&second).await.unwrap(), Vec::from_iter(0..20));
    // A further request on a connection proves that its answer came.
    assert!(faulty.pull(&first).await.unwrap().is_empty());
    eventually!(node.is_drained(&faulty.id).await);
    node.send(&faulty.id, 20..22).await;
    eventually!(faulty.applied() == [20, 21]);
}

#[tokio::test]
async fn a_request_beside_an_answer_that_is_not_written_yet_settles_nothing() {
    let (node, faulty) = queued(1).await;
    for some in 0..10 {
        let events = (some * 1000..some * 1000 + 1000).map(|n| large_event(n, 200)).collect();
        node.federation().send(&faulty.id, events).await.unwrap();
    }
    let link = node.dial(false).await;
    let waiting = node.peer(&faulty.id).queued().0;
    // A page is more than the window of a stream: it is under way while nobody reads it.
    let pull = http::Request::post(PULL)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", faulty.plain())
        .body(Body::new(Full::new(Bytes::from_static(&[0; 5]))))
        .unwrap();
    let unread = link.send(pull).await.unwrap();
    let again = call(&link, PULL, Some(&faulty.plain()), pull_body()).await.unwrap();
    let again = PullResponse::decode(again).unwrap().event_queue;
    assert_eq!(again.first(), Some(&event(0)), "from the beginning");
    assert_eq!(node.peer(&faulty.id).queued().0, waiting);
    drop(unread);
}

#[tokio::test]
async fn an_answer_whose_connection_ends_in_good_order_is_settled() {
    for http1 in [false, true] {
        let (node, faulty) = queued(20).await;
        let link = node.dial(http1).await;
        if http1 {
            let request = super::hrpc::request(PULL, Some(&faulty.plain()), pull_body());
            let answer = super::hrpc::ask(&link, request).await;
            assert_eq!(PullResponse::decode(answer.into_body()).unwrap().event_queue.len(), 20);
        } else {
            assert_eq!(faulty.pull(&link).await.unwrap().len(), 20);
        }
        drop(link);
        eventually!(node.is_drained(&faulty.id).await);
        assert_eq!(faulty.pushes(), 1);
    }
}

#[tokio::test]
async fn an_answer_whose_connection_lives_on_is_settled_after_a_while() {
    let (mut node, faulty) = queued(3).await;
    node.stop().await;
    node.config.federation.stock_settle = Duration::from_millis(20);
    node.start_again().await;
    let link = node.dial(false).await;
    assert_eq!(faulty.pull(&link).await.unwrap(), [0, 1, 2]);
    eventually!(node.is_drained(&faulty.id).await);
    drop(link);
}

#[tokio::test]
async fn ten_mebibytes_come_in_pages_that_a_client_of_default_limits_takes() {
    let (node, faulty) = queued(0).await;
    let sizes = [64_000, 63_000, 200];
    let bodies: Vec<_> = (0..250).map(|n| large_event(n, sizes[n as usize % 3])).collect();
    assert!(bodies.iter().map(|body| body.len()).sum::<usize>() > 10 << 20);
    for some in bodies.chunks(100) {
        node.federation().send(&faulty.id, some.to_vec()).await.unwrap();
    }
    let small = 20_000;
    node.send(&faulty.id, 0..small).await;
    eventually!(node.is_queued(&faulty.id).await);

    let link = node.dial(false).await;
    let mut got = vec![];
    loop {
        let answer = call(&link, PULL, Some(&faulty.plain()), pull_body()).await.unwrap();
        assert!(answer.len() < 2 << 20, "{} bytes", answer.len());
        let page = PullResponse::decode(answer).unwrap().event_queue;
        assert!(page.iter().map(|body| body.len()).sum::<usize>() <= 1 << 20);
        if page.is_empty() {
            break;
        }
        got.extend(page);
    }
    let expected: Vec<_> = bodies.into_iter().chain((0..small).map(event)).collect();
    assert_eq!(got.len(), expected.len());
    assert!(got == expected, "in order and byte for byte");
    eventually!(node.is_drained(&faulty.id).await);
}
