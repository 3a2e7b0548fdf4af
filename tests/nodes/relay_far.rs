//! The router across nodes: parties that sign together from different servers.

use crate::{
    common::{TestNode, federate, quick, two},
    eventually,
    party::{Party, announcement, at},
};
use pillarbox::{
    config::Config,
    proto::{
        mpc::router::v1::SessionEvent,
        pillarbox::relay::v1::{Letter, Message, State, States, letter::Kind},
    },
    store::Op,
};
use tonic::Code;

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

/// A letter that no honest node writes, from `a` to `b`.
async fn post(a: &TestNode, b: &TestNode, kind: Kind) {
    let peer = a.federation().parcel_peer(&b.id).await.unwrap();
    a.federation().post(Op::new(), vec![(peer, 1, Letter { kind: Some(kind) })]).await.unwrap();
}

fn parcel(from: &str, to: &[&str], payload: &'static [u8]) -> Message {
    Message {
        message_id: "0123".into(),
        session_id: "s".into(),
        from_party: from.into(),
        to_parties: to.iter().map(|to| (*to).to_owned()).collect(),
        payload: payload.into(),
        expires_at: i64::MAX,
        ..Message::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_speaks_for_its_own_parties_only() {
    let (a, b) = two().await;
    let (bob, carol) = (Party::of(&b, "bob").await, Party::of(&b, "carol").await);
    let id = bob.route("local", &["carol"], b"at home").await.unwrap();
    // As a party of b, in letters of every kind.
    post(&a, &b, Kind::Message(parcel(&at("bob", &b), &["carol"], b"forged"))).await;
    post(&a, &b, Kind::Message(parcel("", &["carol"], b"nobody's"))).await;
    let state = State { message_id: id.clone(), party: "carol".into(), state: 2, ..State::default() };
    post(&a, &b, Kind::States(States { states: vec![state] })).await;
    let ended = Message { expires_at: 1, ..parcel("alice", &["carol"], b"too late") };
    post(&a, &b, Kind::Message(ended)).await;
    // What follows them arrives, so they have been seen.
    post(&a, &b, Kind::Message(parcel("bob", &["carol"], b"honest"))).await;
    let mut messages = carol.subscribe("").await.unwrap();
    assert_eq!(messages.payload().await, b"at home");
    let honest = messages.next().await.unwrap();
    assert_eq!((&*honest.payload, honest.from_party), (&b"honest"[..], at("bob", &a)));
    assert_eq!(bob.states(&id).await, [("carol".into(), "delivered".into())]);
    // One id of two servers is two messages.
    carol.acknowledge(&honest.message_id, true, "").await.unwrap();
    assert_eq!(bob.states(&id).await, [("carol".into(), "delivered".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_speaks_to_the_parties_it_names_only() {
    let measured = |config: &mut Config| config.metrics.listen = Some(([127, 0, 0, 1], 0).into());
    let (a, b) = (TestNode::start_with(quick).await, TestNode::start_with(measured).await);
    federate(&a, &b).await;
    let bob = Party::of(&b, "bob").await;
    let mut events = bob.events(&[]).await.unwrap();
    let event = |id: &str, parties: &[&str]| SessionEvent {
        event_id: id.into(),
        created_at: 1,
        expires_at: i64::MAX,
        ..announcement("theirs", parties)
    };
    post(&a, &b, Kind::Event(event("to-all", &[]))).await;
    post(&a, &b, Kind::Event(event("to-their-own", &[&at("alice", &a)]))).await;
    let state = State { message_id: "x".into(), party: "bob".into(), state: 2, ..State::default() };
    post(&a, &b, Kind::States(States { states: vec![state; 2_000] })).await;
    post(&a, &b, Kind::Event(event("to-bob", &[&at("bob", &b)]))).await;
    assert_eq!(events.next().await.event_id, "to-bob");
    assert_eq!(b.metric("pillarbox_parcels_refused_total").await, "3");
}

/// The name of a party is longer where it is written with its server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_names_and_events_cross_or_are_refused_at_home() {
    let (a, b) = two().await;
    let long = "l".repeat(256);
    let (author, bob) = (Party::of(&a, &long).await, Party::of(&b, "bob").await);
    author.route("s", &[&at("bob", &b)], b"from afar").await.unwrap();
    let message = bob.subscribe("").await.unwrap().next().await.unwrap();
    bob.route("s", &[&message.from_party], b"answer").await.unwrap();
    assert_eq!(author.subscribe("s").await.unwrap().payload().await, b"answer");
    let (service, mut events) = (Party::service(&a).await, bob.events(&[]).await.unwrap());
    service.publish(announcement("t", &[&long, &at("bob", &b)])).await.unwrap();
    assert_eq!(events.next().await.selected_parties, [at(&long, &a), "bob".into()]);
    // With their server the names of all take more than an event may.
    let names: Vec<String> = (0..1_000).map(|n| format!("p{n}")).chain([at("bob", &b)]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let large = SessionEvent {
        message_hash: vec![0; 1_030_000].into(),
        join_tokens: Default::default(),
        ..announcement("u", &names)
    };
    let refused = service.publish(large).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with("event: "), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_announces_no_session_of_ours() {
    let (a, b) = two().await;
    let bob = Party::of(&b, "bob").await;
    Party::service(&b).await.publish(announcement("s", &["bob", "carol"])).await.unwrap();
    let mut events = bob.events(&[]).await.unwrap();
    assert_eq!(events.next().await.selected_parties, ["bob", "carol"]);
    let (bob_there, mallory_there) = (at("bob", &b), at("mallory", &a));
    let stolen = SessionEvent {
        event_id: "stolen".into(),
        created_at: 1,
        expires_at: i64::MAX,
        ..announcement("s", &[&bob_there, &mallory_there])
    };
    post(&a, &b, Kind::Event(stolen.clone())).await;
    let honest = SessionEvent { session_id: "theirs".into(), event_id: "honest".into(), ..stolen };
    post(&a, &b, Kind::Event(honest)).await;
    let seen = events.next().await;
    assert_eq!((&*seen.session_id, &*seen.event_id), ("theirs", "honest"));
    let mallory = Party::of(&a, "mallory").await;
    let id = mallory.route("s", &[&bob_there], b"let me in").await.unwrap();
    eventually!(mallory.states(&id).await == [(bob_there.clone(), "failed".to_owned())]);
}
