//! The library's own client against real nodes: each test is named as the rule
//! it shows.

use crate::{
    common::{LONG, TestNode, federate, forwarder::Forwarder},
    eventually,
    party::announcement,
};
use pillarbox::client::{Acknowledge, Client, Error, Events, Messages, Options, Outgoing, Received, SessionEvent};
use std::{net::SocketAddr, time::Duration};
use tokio::{runtime::Runtime, time::timeout};
use tokio_stream::StreamExt;
use tonic::Code;

/// Over the pinned key, at any address.
async fn options(node: &TestNode, principal: &str, party: &str) -> Options {
    let bearer = node.bearer(principal).await;
    let token = bearer.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    at(Options::new(node.id.as_str(), party, &token).unwrap().pinned(node.key), node.address)
}

fn at(options: Options, address: SocketAddr) -> Options {
    options.address(&address.ip().to_string(), address.port())
}

async fn party(node: &TestNode, name: &str) -> Client {
    Client::connect(options(node, &format!("party:{name}"), name).await).await.unwrap()
}

fn message(to: &str, n: u32) -> Outgoing {
    Outgoing::to("s", [to], n.to_be_bytes().to_vec()).round(1).kind("test")
}

async fn next(messages: &mut Messages) -> Received {
    timeout(LONG, messages.next()).await.expect("no message came").expect("the stream ended").unwrap()
}

async fn number(messages: &mut Messages) -> u32 {
    u32::from_be_bytes((*next(messages).await.payload).try_into().unwrap())
}

/// The error that ends it; nothing follows.
async fn end(messages: &mut Messages) -> Error {
    loop {
        match timeout(LONG, messages.next()).await.expect("it does not end") {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert!(messages.next().await.is_none());
                return error;
            }
            None => panic!("it ended without a word"),
        }
    }
}

async fn event(events: &mut Events) -> SessionEvent {
    timeout(LONG, events.next()).await.expect("no event came").expect("the stream ended").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_taken_once_and_then_forgotten_by_the_node() {
    let node = TestNode::start().await;
    let (alice, bob) = (party(&node, "alice").await, party(&node, "bob").await);
    bob.register("persistent").await.unwrap();
    let id = alice.route(message("bob", 7)).await.unwrap();
    assert_eq!(bob.heartbeat().await.unwrap().pending_messages, 1);
    assert_eq!(bob.pending("s", 0).await.unwrap()[0].message_id, id);
    let mut messages = bob.messages("s", Acknowledge::WhenTaken);
    let first = next(&mut messages).await;
    let expected = (id.as_str(), "alice", 1, "test");
    assert_eq!((&*first.message_id, &*first.from_party, first.round_number, &*first.message_type), expected);
    // No further poll is needed for the last message.
    bob.flush().await.unwrap();
    assert!(alice.status(&id).await.unwrap().all_acknowledged);
    assert!(bob.pending("", 0).await.unwrap().is_empty());
    assert_eq!(bob.parties("", true).await.unwrap()[0].party_id, "bob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_under_its_own_key_is_routed_once() {
    let node = TestNode::start().await;
    let (alice, again) = (party(&node, "alice").await, party(&node, "alice").await);
    let keyed = || message("bob", 1).idempotency_key("round 1");
    let id = alice.route(keyed()).await.unwrap();
    assert_eq!(again.route(keyed()).await.unwrap(), id);
    assert_ne!(alice.route(message("bob", 1)).await.unwrap(), id);
    let other = alice.route(message("bob", 2).idempotency_key("round 1")).await.unwrap_err();
    assert_eq!(other.code(), Some(Code::AlreadyExists), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_acknowledged_comes_again_on_another_stream_and_never_on_the_same() {
    let node = TestNode::start_with(|config| config.relay.redeliver_after = Duration::from_millis(20)).await;
    let (alice, bob) = (party(&node, "alice").await, party(&node, "bob").await);
    let id = alice.route(message("bob", 1)).await.unwrap();
    let mut messages = bob.messages("s", Acknowledge::ByHand);
    assert_eq!(number(&mut messages).await, 1);
    // The node repeats it; the stream reads the repeats and keeps them to itself.
    let quiet = async {
        let shown = tokio::select! {
            message = messages.next() => Some(message),
            () = async { eventually!(alice.status(&id).await.unwrap().deliveries[0].retry_count >= 2) } => None,
        };
        assert!(shown.is_none(), "{shown:?}");
    };
    quiet.await;
    alice.route(message("bob", 2)).await.unwrap();
    assert_eq!(number(&mut messages).await, 2);

    let mut again = bob.messages("s", Acknowledge::ByHand);
    let one = next(&mut again).await;
    assert_eq!(one.message_id, id);
    // The older stream was replaced, and does not fight for its place.
    assert_eq!(end(&mut messages).await.code(), Some(Code::Aborted));
    one.acknowledge().await.unwrap();
    one.acknowledge().await.unwrap();
    let two = next(&mut again).await;
    two.refuse("no such round").await.unwrap();
    assert!(alice.status(&id).await.unwrap().all_acknowledged);
    assert_eq!(alice.status(&two.message_id).await.unwrap().deliveries[0].status, "failed");
    assert!(bob.pending("s", 0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sender_and_recipient_go_on_through_restarts_of_both_nodes_without_gap_or_repeat() {
    const COUNT: u32 = 400;
    for acknowledge in [Acknowledge::WhenTaken, Acknowledge::ByHand] {
        let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
        federate(&a, &b).await;
        let (alice, bob) = (party(&a, "alice").await, party(&b, "bob").await);
        let to = format!("bob@{}", b.id);
        let sending = tokio::spawn(async move {
            let mut outbox = alice.outbox();
            for n in 0..COUNT {
                futures_util::SinkExt::send(&mut outbox, message(&to, n)).await.unwrap();
            }
            alice
        });
        let mut messages = bob.messages("s", acknowledge);
        for n in 0..COUNT {
            // Every third message stays unacknowledged: the node sends it again after each restart.
            let received = next(&mut messages).await;
            assert_eq!(u32::from_be_bytes((*received.payload).try_into().unwrap()), n);
            if acknowledge == Acknowledge::ByHand && n % 3 > 0 {
                received.acknowledge().await.unwrap();
            }
            match n {
                100 | 250 => {
                    b.stop().await;
                    b.start_again().await;
                }
                170 | 320 => {
                    a.stop().await;
                    a.start_again().await;
                }
                _ => {}
            }
        }
        timeout(LONG, sending).await.unwrap().unwrap();
        bob.flush().await.unwrap();
        let left = bob.pending("s", 0).await.unwrap().len();
        assert_eq!(left, if acknowledge == Acknowledge::ByHand { 134 } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_a_node_that_is_away_and_stays_one_message() {
    let mut node = TestNode::start().await;
    let (alice, bob) = (party(&node, "alice").await, party(&node, "bob").await);
    node.stop().await;
    let routing = tokio::spawn(async move { alice.route(message("bob", 1)).await.unwrap() });
    node.start_again().await;
    let id = timeout(LONG, routing).await.unwrap().unwrap();
    let pending: Vec<_> = bob.pending("s", 0).await.unwrap().into_iter().map(|message| message.message_id).collect();
    assert_eq!(pending, [id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_died_without_a_word_is_noticed_and_replaced() {
    let node = TestNode::start().await;
    let link = Forwarder::to(node.address).await;
    let quick = at(options(&node, "party:bob", "bob").await, link.address).attempt(Duration::from_millis(200));
    let (alice, bob) = (party(&node, "alice").await, Client::connect(quick).await.unwrap());
    let mut messages = bob.messages("s", Acknowledge::WhenTaken);
    alice.route(message("bob", 1)).await.unwrap();
    assert_eq!(number(&mut messages).await, 1);
    link.swallow(true);
    alice.route(message("bob", 2)).await.unwrap();
    let opened = link.connections();
    let reading = tokio::spawn(async move { number(&mut messages).await });
    eventually!(link.connections() > opened);
    link.swallow(false);
    assert_eq!(timeout(LONG, reading).await.unwrap().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_longer_than_the_patience_is_an_error() {
    let mut node = TestNode::start().await;
    let short = options(&node, "party:bob", "bob").await.patience(Duration::from_millis(300));
    let bob = Client::connect(short.clone()).await.unwrap();
    let mut messages = bob.messages("s", Acknowledge::WhenTaken);
    party(&node, "alice").await.route(message("bob", 1)).await.unwrap();
    assert_eq!(number(&mut messages).await, 1);
    node.stop().await;
    assert!(matches!(end(&mut messages).await, Error::Unreachable { .. }));
    assert!(matches!(bob.pending("s", 0).await, Err(Error::Unreachable { .. })));
    assert!(matches!(Client::connect(short).await, Err(Error::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_is_told_at_once() {
    let node = TestNode::start().await;
    let patient = |token: &str| {
        let options = Options::new(node.id.as_str(), "bob", token).unwrap().pinned(node.key);
        at(options, node.address).patience(Duration::MAX)
    };
    for token in ["", "pbt_nobody"] {
        let refused = timeout(LONG, Client::connect(patient(token))).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Some(Code::Unauthenticated), "{refused}");
    }
    // Somebody else's: known, and not for this party.
    let other = Client::connect(options(&node, "party:alice", "bob").await.patience(Duration::MAX)).await.unwrap();
    let mut messages = other.messages("s", Acknowledge::WhenTaken);
    assert_eq!(end(&mut messages).await.code(), Some(Code::PermissionDenied));
    // One that is revoked later ends what runs.
    let bob = Client::connect(options(&node, "party:bob", "bob").await.patience(Duration::MAX)).await.unwrap();
    let mut messages = bob.messages("s", Acknowledge::WhenTaken);
    party(&node, "alice").await.route(message("bob", 1)).await.unwrap();
    assert_eq!(number(&mut messages).await, 1);
    node.revoke("party:bob").await;
    assert_eq!(end(&mut messages).await.code(), Some(Code::Unauthenticated));
    assert_eq!(bob.route(message("alice", 1)).await.unwrap_err().code(), Some(Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_node_that_was_meant_is_spoken_to() {
    let (node, other) = (TestNode::start().await, TestNode::start().await);
    let named = |node: &TestNode| at(Options::new(node.id.as_str(), "bob", "pbt_x").unwrap(), node.address);
    let wrong = [
        named(&node).pinned(other.key),
        named(&node), // nobody vouches for its certificate
        at(named(&node).pinned(node.key), other.address),
    ];
    for options in wrong {
        let refused = timeout(LONG, Client::connect(options.patience(Duration::MAX))).await.unwrap();
        assert!(matches!(refused, Err(Error::Untrusted(_))), "{refused:?}");
    }
    // As a root of its own, by name.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, node.certificate()).unwrap();
    let bearer = node.bearer("party:bob").await;
    let token = bearer.to_str().unwrap().strip_prefix("Bearer ").unwrap();
    let by_file = at(Options::new(node.id.as_str(), "bob", token).unwrap(), node.address).ca_file(file);
    Client::connect(by_file).await.unwrap().pending("", 0).await.unwrap();
    let none = named(&node).ca_file(dir.path().join("none.pem"));
    assert!(matches!(Client::connect(none).await, Err(Error::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_events_come_once_over_a_restart() {
    let mut node = TestNode::start().await;
    let service = Client::connect(options(&node, "service:coordinator", "").await).await.unwrap();
    let bob = party(&node, "bob").await;
    let mut events = bob.events(["session_created"]);
    service.publish(announcement("s1", &["alice", "bob"])).await.unwrap();
    let first = event(&mut events).await;
    assert_eq!((&*first.session_id, first.join_tokens.len()), ("s1", 1));
    service.publish(SessionEvent { event_type: "other".into(), ..announcement("s2", &["bob"]) }).await.unwrap();
    node.stop().await;
    node.start_again().await;
    service.publish(announcement("s3", &["alice", "bob"])).await.unwrap();
    assert_eq!(event(&mut events).await.session_id, "s3");
    let refused = bob.publish(announcement("s4", &["bob"])).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::PermissionDenied));
}

#[test]
fn nothing_is_left_of_a_client_that_was_dropped() {
    let nodes = Runtime::new().unwrap();
    let (node, options, alice) = nodes.block_on(async {
        let node = TestNode::start().await;
        let options = options(&node, "party:bob", "bob").await;
        let alice = party(&node, "alice").await;
        alice.route(message("bob", 1)).await.unwrap();
        (node, options, alice)
    });
    let own = Runtime::new().unwrap();
    own.block_on(async {
        let bob = Client::connect(options).await.unwrap();
        let mut messages = bob.messages("s", Acknowledge::WhenTaken);
        assert_eq!(number(&mut messages).await, 1);
        assert!(own.metrics().num_alive_tasks() > 0);
        drop((bob, messages));
        eventually!(own.metrics().num_alive_tasks() == 0);
    });
    // What was taken before is acknowledged nonetheless.
    nodes.block_on(async {
        let status = alice.status(&alice.route(message("bob", 2)).await.unwrap()).await.unwrap();
        assert_eq!(status.deliveries[0].status, "pending");
        assert_eq!(party(&node, "bob").await.pending("s", 0).await.unwrap().len(), 1);
    });
    nodes.block_on(async { drop(node) });
}
