//! Servers that misbehave when they are pushed to.

use crate::{
    common::{
        TestNode, event,
        faulty::{Faulty, PUSH, Reply, call, push_body},
        forwarder::Forwarder,
    },
    eventually,
};
use pillarbox::{
    federation::delivery::{Kind, State},
    types::Millis,
};
use std::time::Duration;
use tonic::Code;

async fn pair() -> (TestNode, Faulty) {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    (node, faulty)
}

#[tokio::test]
async fn a_peer_that_fails_three_times_gets_the_event_at_the_fourth_attempt_and_in_order() {
    let (node, faulty) = pair().await;
    faulty.on_push([Reply::Fail(Code::Unavailable), Reply::Fail(Code::Internal), Reply::Fail(Code::Unknown)]);
    node.send(&faulty.id, 0..5).await;
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), [0, 1, 2, 3, 4]);
    assert_eq!(faulty.pushes(), 8);
    assert_eq!(node.view(&faulty.id).await.kind, Kind::Stock);
}

#[tokio::test]
async fn a_peer_that_fails_all_attempts_is_queued_and_no_push_is_made_before_it_pulled_the_queue_empty() {
    let (node, faulty) = pair().await;
    faulty.always(Reply::Fail(Code::Unavailable));
    node.send(&faulty.id, 0..3).await;
    eventually!(node.is_queued(&faulty.id).await);
    assert_eq!(faulty.pushes(), 6, "one attempt and five retries of the first event");
    faulty.always(Reply::Well);

    let link = node.dial(false).await;
    node.send(&faulty.id, 3..5).await;
    assert_eq!(faulty.pull(&link).await.unwrap(), [0, 1, 2, 3, 4]);
    // The answer is not settled: what comes now still waits for a Pull.
    assert_eq!((faulty.pushes(), node.is_queued(&faulty.id).await), (6, true));
    assert!(faulty.pull(&link).await.unwrap().is_empty());
    eventually!(node.is_drained(&faulty.id).await);
    node.send(&faulty.id, 5..7).await;
    eventually!(faulty.applied() == [5, 6]);
}

#[tokio::test]
async fn a_refusal_that_no_retry_cures_queues_at_once() {
    for code in [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented] {
        let (node, faulty) = pair().await;
        faulty.always(Reply::Fail(code));
        node.send(&faulty.id, 0..3).await;
        eventually!(node.is_queued(&faulty.id).await);
        node.send(&faulty.id, 3..6).await;
        let pulls = faulty.pulls();
        eventually!(faulty.pulls() > pulls);
        assert_eq!(faulty.pushes(), 1, "{code:?}: one attempt, none while Queued");
        let link = node.dial(false).await;
        assert_eq!(faulty.pull(&link).await.unwrap(), [0, 1, 2, 3, 4, 5]);
        faulty.always(Reply::Well);
        // Its next request on this connection proves that the answer came.
        assert!(faulty.pull(&link).await.unwrap().is_empty());
        node.send(&faulty.id, 6..7).await;
        eventually!(faulty.applied() == [6]);
    }
}

#[tokio::test]
async fn a_queued_peer_is_pushed_to_again_by_the_operators_word() {
    let (node, faulty) = pair().await;
    faulty.on_push([Reply::Fail(Code::Unimplemented)]);
    node.send(&faulty.id, 0..3).await;
    eventually!(node.is_queued(&faulty.id).await);
    node.federation().retry(&node.peer(&faulty.id), true).await.unwrap();
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), [0, 1, 2]);
}

#[tokio::test]
async fn a_peer_that_hangs_until_the_connection_ends_gets_the_event_again() {
    let (node, faulty) = pair().await;
    faulty.on_push([Reply::Hang]);
    node.send(&faulty.id, 0..3).await;
    eventually!(faulty.pushes() == 1);
    faulty.hang_up();
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), [0, 1, 2]);
}

#[tokio::test]
async fn a_stock_peer_that_drops_the_reply_gets_the_event_again_before_the_next_one() {
    let (node, faulty) = pair().await;
    faulty.on_push([Reply::Well, Reply::HangUp]);
    node.send(&faulty.id, 0..4).await;
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), [0, 1, 1, 2, 3]);
}

#[tokio::test]
async fn answers_that_are_no_answer_are_tried_again() {
    let (node, faulty) = pair().await;
    faulty.on_push([Reply::Html, Reply::Garbage, Reply::Html]);
    node.send(&faulty.id, 0..3).await;
    eventually!(node.is_drained(&faulty.id).await);
    // It took the event it answered garbage to.
    assert_eq!(faulty.applied(), [0, 0, 1, 2]);
}

#[tokio::test]
async fn a_pull_that_is_answered_with_garbage_or_html_is_made_again() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    faulty.on_pull([Reply::Html, Reply::Garbage, Reply::Fail(Code::Internal)]);
    faulty.queue([event(1), event(2)]);
    node.add(&faulty.id, faulty.key).await;
    assert_eq!(node.log(2).await, [1, 2]);
    eventually!(node.is_drained(&faulty.id).await);
}

#[tokio::test]
async fn the_patience_a_peer_asks_for_is_given_but_never_more_than_a_minute() {
    for (asked, given) in [(20, 20), (7200, 60)] {
        let (node, faulty) = pair().await;
        faulty.on_push([Reply::Later(Duration::from_secs(asked))]);
        let before = Millis::now();
        node.send(&faulty.id, 0..1).await;
        eventually!(matches!(node.view(&faulty.id).await.state, State::Retrying { .. }));
        let at = node.view(&faulty.id).await.next_attempt.unwrap();
        // Its schedule alone would say 20 ms.
        assert!(at >= before.plus(Duration::from_secs(given)), "asked for {asked} s");
        assert!(at <= Millis::now().plus(Duration::from_secs(given + 1)), "asked for {asked} s");
        node.federation().retry(&node.peer(&faulty.id), false).await.unwrap();
        eventually!(node.is_drained(&faulty.id).await);
    }
}

#[tokio::test]
async fn a_peer_that_only_pulls_drains_the_queue_of_one_that_cannot_reach_it() {
    let (node, faulty) = pair().await;
    faulty.always(Reply::Fail(Code::Unavailable));
    let link = node.dial(false).await;
    for round in 0..3 {
        node.send(&faulty.id, round * 10..round * 10 + 10).await;
        eventually!(node.is_queued(&faulty.id).await);
        assert_eq!(faulty.pull(&link).await.unwrap(), Vec::from_iter(round * 10..round * 10 + 10));
        assert!(faulty.pull(&link).await.unwrap().is_empty());
    }
    assert!(faulty.applied().is_empty());
}

#[tokio::test]
async fn while_a_peer_is_pulled_one_push_of_it_waits_and_the_next_is_told_to_come_again() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    faulty.on_pull([Reply::Wait]);
    faulty.queue([event(1)]);
    node.add(&faulty.id, faulty.key).await;
    eventually!(faulty.pulls() == 1);
    let (second, third) = (faulty.push(&node, event(2)), faulty.push(&node, event(3)));
    tokio::pin!(second, third);
    // Whichever comes first waits, the other is refused.
    let refused = tokio::select! {
        outcome = &mut second => (2, outcome),
        outcome = &mut third => (3, outcome),
    };
    assert_eq!(refused.1.unwrap_err().code(), Code::Unavailable);
    faulty.release();
    let waiting = match refused.0 {
        2 => third.await.map(|()| 3),
        _ => second.await.map(|()| 2),
    };
    let waiting = waiting.unwrap();
    assert_eq!(node.log(waiting).await, [1, waiting]);
}

#[tokio::test]
async fn pushes_made_at_once_are_each_applied_or_told_to_come_again() {
    let (node, faulty) = pair().await;
    eventually!(faulty.pulls() >= 1 && node.view(&faulty.id).await.next_pull.is_some());
    let link = node.dial(false).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..300 {
        let (link, token) = (link.clone(), faulty.plain());
        calls.spawn(async move { (n, call(&link, PUSH, Some(&token), push_body(event(n))).await) });
    }
    let mut taken = vec![];
    while let Some(done) = calls.join_next().await {
        match done.unwrap() {
            (n, Ok(_)) => taken.push(n),
            (_, Err(status)) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
    faulty.push(&node, event(1000)).await.unwrap();
    let mut log = node.log(1000).await;
    log.pop();
    log.sort_unstable();
    taken.sort_unstable();
    assert!(!taken.is_empty());
    assert_eq!(log, taken);
}

#[tokio::test]
async fn queued_outlives_a_restart_no_push_before_the_queue_was_pulled_empty() {
    let (mut node, faulty) = pair().await;
    faulty.on_push([Reply::Fail(Code::PermissionDenied)]);
    node.send(&faulty.id, 0..3).await;
    eventually!(node.is_queued(&faulty.id).await);
    node.stop().await;
    node.start_again().await;
    node.send(&faulty.id, 3..5).await;
    let pulls = faulty.pulls();
    eventually!(faulty.pulls() > pulls + 1);
    assert_eq!((faulty.pushes(), node.is_queued(&faulty.id).await), (1, true));
    let link = node.dial(false).await;
    assert_eq!(faulty.pull(&link).await.unwrap(), [0, 1, 2, 3, 4]);
    drop(link);
    eventually!(node.is_drained(&faulty.id).await);
    node.send(&faulty.id, 5..6).await;
    eventually!(faulty.applied() == [5]);
}

/// A thousand peers that are asked once a minute are not a thousand connections.
#[tokio::test]
async fn a_connection_that_a_pull_alone_has_used_is_let_go_of() {
    let node = TestNode::start_with(|config| config.federation.pull_interval = Duration::from_secs(60)).await;
    let faulty = Faulty::start().await;
    let link = Forwarder::to(([127, 0, 0, 1], faulty.id.port()).into()).await;
    node.add_at(&faulty.id, faulty.key, Some(link.address)).await;
    eventually!(faulty.pulls() == 1 && link.live() == 1);
    eventually!(link.live() == 0);
    assert_eq!((faulty.pulls(), link.connections()), (1, 1), "it was let go of, not broken off and made anew");
    // And made anew when there is something to say.
    node.send(&faulty.id, 0..1).await;
    eventually!(faulty.applied() == [0]);
}

#[tokio::test]
async fn a_peer_given_another_address_is_reached_there_from_the_next_call_on() {
    let (node, faulty) = pair().await;
    node.send(&faulty.id, 0..1).await;
    eventually!(node.is_drained(&faulty.id).await);
    let link = Forwarder::to(([127, 0, 0, 1], faulty.id.port()).into()).await;
    node.add_at(&faulty.id, faulty.key, Some(link.address)).await;
    node.send(&faulty.id, 1..2).await;
    eventually!(faulty.applied() == [0, 1]);
    assert!(link.connections() > 0);
    // Nothing goes the old way any more.
    link.close();
    node.send(&faulty.id, 2..3).await;
    eventually!(node.is_queued(&faulty.id).await);
    assert_eq!(faulty.applied(), [0, 1]);
}
