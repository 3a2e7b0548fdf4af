//! The router across nodes: parties that sign together from different servers.

use crate::{
    common::{TestNode, federate},
    eventually,
    party::{Party, announcement},
};
use std::time::Duration;
use tonic::Code;

fn quick(config: &mut pillarbox::config::Config) {
    config.federation.pull_interval = Duration::from_millis(200);
}

async fn two() -> (TestNode, TestNode) {
    let (a, b) = (TestNode::start_with(quick).await, TestNode::start_with(quick).await);
    federate(&a, &b).await;
    (a, b)
}

fn at(name: &str, node: &TestNode) -> String {
    format!("{name}@{}", node.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_crosses_and_what_becomes_of_it_comes_back() {
    let (a, b) = two().await;
    let (alice, bob) = (Party::of(&a, "alice").await, Party::of(&b, "bob").await);
    let mut messages = bob.subscribe("").await.unwrap();
    let id = alice.route("s", &[&at("bob", &b), &at("carol", &b), "dave"], b"over there").await.unwrap();
    let message = messages.next().await.unwrap();
    assert_eq!(message.from_party, at("alice", &a));
    assert_eq!((&*message.message_id, &*message.payload), (&*id, &b"over there"[..]));
    bob.acknowledge(&id, true, "").await.unwrap();
    let carol = Party::of(&b, "carol").await;
    carol.acknowledge(&id, false, "bad share").await.unwrap();
    let mut states = [(at("bob", &b), "acknowledged"), (at("carol", &b), "failed"), ("dave".into(), "pending")]
        .map(|(p, s)| (p, s.to_owned()));
    states.sort();
    eventually!(alice.states(&id).await == states);
    // The recipient's node tells its own parties the same.
    assert!(bob.status(&id).await.unwrap().deliveries.iter().any(|delivery| delivery.status == "acknowledged"));
    // And the answer finds its way back.
    bob.route("s", &[&at("alice", &a)], b"answer").await.unwrap();
    assert_eq!(alice.subscribe("s").await.unwrap().payload().await, b"answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_gets_everything_in_order_and_once() {
    let (a, mut b) = two().await;
    let alice = Party::of(&a, "alice").await;
    let to = at("bob", &b);
    alice.route("s", &[&to], &0u32.to_be_bytes()).await.unwrap();
    let bob = Party::of(&b, "bob").await;
    eventually!(!bob.pending("", 0).await.unwrap().is_empty());
    drop(bob);
    b.stop().await;
    for n in 1..200u32 {
        alice.route("s", &[&to], &n.to_be_bytes()).await.unwrap();
    }
    b.start_again().await;
    let bob = Party::of(&b, "bob").await;
    let mut messages = bob.subscribe("s").await.unwrap();
    for n in 0..200u32 {
        let message = messages.next().await.unwrap();
        assert_eq!(message.payload[..], n.to_be_bytes());
        bob.acknowledge(&message.message_id, true, "").await.unwrap();
    }
    eventually!(bob.pending("", 0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_events_reach_the_nodes_of_their_parties_with_their_tokens_only() {
    let (a, b) = two().await;
    let service = Party::service(&a).await;
    let (bob_there, carol_there) = (at("bob", &b), at("carol", &b));
    let event = announcement("s", &["alice", &bob_there, &carol_there]);
    service.publish(event).await.unwrap();
    let bob = Party::of(&b, "bob").await;
    let seen = bob.events(&[]).await.unwrap().next().await;
    assert_eq!(seen.join_tokens.into_iter().collect::<Vec<_>>(), [("bob".to_owned(), format!("token of {bob_there}"))]);
    assert_eq!(seen.selected_parties, [at("alice", &a), "bob".into(), "carol".into()]);
    let everything = Party::service(&b).await.events(&[]).await.unwrap().next().await;
    let mut tokens: Vec<_> = everything.join_tokens.into_keys().collect();
    tokens.sort();
    assert_eq!(tokens, ["bob", "carol"], "alice's token stays at home");
    // Broadcasts reach all of them, from either side.
    let id = bob.route("s", &[], b"from bob").await.unwrap();
    let alice = Party::of(&a, "alice").await;
    assert_eq!(alice.subscribe("s").await.unwrap().payload().await, b"from bob");
    assert_eq!(Party::of(&b, "carol").await.subscribe("s").await.unwrap().payload().await, b"from bob");
    alice.acknowledge(&id, true, "").await.unwrap();
    eventually!(bob.states(&id).await.contains(&(at("alice", &a), "acknowledged".into())));
    // The session is a's: b's service may not settle who its parties are.
    let refused = Party::service(&b).await.publish(announcement("s", &["mallory"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_at_the_far_node_ends_the_delivery_with_its_reason() {
    let (a, b) = two().await;
    // b's own session: a's alice is not of it.
    Party::service(&b).await.publish(announcement("s", &["bob", "carol"])).await.unwrap();
    let alice = Party::of(&a, "alice").await;
    let to = at("bob", &b);
    let id = alice.route("s", &[&to], b"x").await.unwrap();
    eventually!(alice.states(&id).await == [(to.clone(), "failed".to_owned())]);
    assert!(Party::of(&b, "bob").await.pending("", 0).await.unwrap().is_empty());
    // What is behind it is not held up.
    let id = alice.route("other", &[&to], b"y").await.unwrap();
    let bob = Party::of(&b, "bob").await;
    assert_eq!(bob.subscribe("").await.unwrap().payload().await, b"y");
    bob.acknowledge(&id, true, "").await.unwrap();
    eventually!(alice.states(&id).await == [(to.clone(), "acknowledged".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_queue_fails_its_deliveries() {
    let (a, mut b) = two().await;
    let alice = Party::of(&a, "alice").await;
    let to = at("bob", &b);
    alice.route("s", &[&to], b"first").await.unwrap();
    let bob = Party::of(&b, "bob").await;
    eventually!(!bob.pending("", 0).await.unwrap().is_empty());
    drop(bob);
    b.stop().await;
    let id = alice.route("s", &[&to], b"x").await.unwrap();
    a.federation().remove_peer(&a.peer(&b.id)).await.unwrap();
    eventually!(alice.states(&id).await == [(to.clone(), "failed".to_owned())]);
}
