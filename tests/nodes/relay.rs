//! The router on one node: each test is named as the rule it shows.

use crate::{
    common::TestNode,
    eventually,
    party::{Party, announcement},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillarbox::{
    net::Mode,
    proto::mpc::router::v1::{
        GetRegisteredPartiesRequest, NotificationChannel, RegisterPartyRequest, SessionEvent, SubscribeMessagesRequest,
        SubscribeSessionEventsRequest,
    },
    relay::PAYLOAD_MAX,
};
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::{
    Code,
    metadata::{Ascii, MetadataValue},
};

fn acknowledged(party: &str) -> (String, String) {
    (party.into(), "acknowledged".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_its_recipient_and_its_sender_sees_it_acknowledged() {
    let node = TestNode::start().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let mut messages = bob.subscribe("s").await.unwrap();
    let id = alice.route("s", &["bob"], b"one").await.unwrap();
    let message = messages.next().await.unwrap();
    assert_eq!((&*message.message_id, &*message.session_id, &*message.from_party), (&*id, "s", "alice"));
    assert_eq!((&*message.payload, message.is_broadcast, message.round_number), (&b"one"[..], false, 1));
    assert_eq!(alice.states(&id).await, [("bob".into(), "delivered".into())]);
    bob.acknowledge(&id, true, "").await.unwrap();
    let status = alice.status(&id).await.unwrap();
    assert!(status.all_acknowledged && status.deliveries[0].acknowledged_at >= status.deliveries[0].delivered_at);
    assert!(bob.pending("", 0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_of_a_party_end_when_its_token_is_revoked() {
    let node = TestNode::start().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let (mut messages, mut events) = (bob.subscribe("").await.unwrap(), bob.events(&[]).await.unwrap());
    alice.route("s", &["bob"], b"one").await.unwrap();
    assert_eq!(messages.payload().await, b"one");
    node.revoke("party:bob").await;
    assert_eq!(messages.end().await.code(), Code::Unauthenticated);
    assert_eq!(events.0.message().await.unwrap_err().code(), Code::Unauthenticated);
    alice.route("s", &["bob"], b"two").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_the_subscription_comes_first_and_in_order() {
    let mut node = TestNode::start().await;
    let alice = Party::of(&node, "alice").await;
    for n in 0..100u8 {
        alice.route("s", &["bob"], &[n]).await.unwrap();
    }
    node.stop().await;
    node.start_again().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let mut messages = bob.subscribe("").await.unwrap();
    for n in 0..100u8 {
        assert_eq!(messages.payload().await, [n]);
    }
    alice.route("s", &["bob"], b"live").await.unwrap();
    assert_eq!(messages.payload().await, b"live");
    // Nothing was acknowledged: a new subscription gets all of it again.
    let mut again = bob.subscribe("").await.unwrap();
    assert_eq!(messages.end().await.code(), Code::Aborted);
    for n in 0..100u8 {
        assert_eq!(again.payload().await, [n]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_reaches_the_announced_parties_and_nobody_else_may_speak() {
    let node = TestNode::start().await;
    let service = Party::service(&node).await;
    service.publish(announcement("s", &["alice", "bob", "carol"])).await.unwrap();
    let alice = Party::of(&node, "alice").await;
    let (bob, carol, mallory) =
        (Party::of(&node, "bob").await, Party::of(&node, "carol").await, Party::of(&node, "mallory").await);
    let mut spying = mallory.subscribe("").await.unwrap();
    let id = alice.route("s", &[], b"to all").await.unwrap();
    for party in [&bob, &carol] {
        let message = party.subscribe("s").await.unwrap().next().await.unwrap();
        assert!(message.is_broadcast);
        party.acknowledge(&id, true, "").await.unwrap();
    }
    assert_eq!(alice.states(&id).await, [acknowledged("bob"), acknowledged("carol")]);
    assert_eq!(mallory.route("s", &["alice"], b"x").await.unwrap_err().code(), Code::PermissionDenied);
    let refused = alice.route("s", &["mallory"], b"x").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("to_parties"), "{}", refused.message());
    alice.route("other", &["mallory"], b"for mallory").await.unwrap();
    assert_eq!(spying.payload().await, b"for mallory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_without_an_announcement_reaches_whoever_subscribed_or_sent() {
    let mut node = TestNode::start().await;
    let (alice, bob, carol) =
        (Party::of(&node, "alice").await, Party::of(&node, "bob").await, Party::of(&node, "carol").await);
    drop(bob.subscribe("s").await.unwrap());
    let id = alice.route("s", &[], b"1").await.unwrap();
    assert_eq!(alice.states(&id).await.len(), 1);
    carol.route("s", &["alice"], b"2").await.unwrap();
    node.stop().await;
    node.start_again().await;
    let alice = Party::of(&node, "alice").await;
    let id = alice.route("s", &[], b"3").await.unwrap();
    let states = alice.states(&id).await;
    assert_eq!(states, [("bob".into(), "pending".into()), ("carol".into(), "pending".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_reads_or_acknowledges_for_another() {
    let node = TestNode::start().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let mallory = Party::acting_as(&node, "party:mallory", "alice").await;
    let id = alice.route("s", &["bob"], b"secret").await.unwrap();
    let denied = [
        mallory.route("s", &["bob"], b"forged").await.map(drop),
        mallory.subscribe("").await.map(drop),
        mallory.pending("", 0).await.map(drop),
        mallory.acknowledge(&id, true, "").await.map(drop),
        mallory.register("persistent").await.map(drop),
        mallory.heartbeat().await.map(drop),
        mallory.status(&id).await.map(drop),
        mallory.events(&[]).await.map(drop),
        mallory.publish(announcement("s", &["alice"])).await.map(drop),
    ];
    for refused in denied {
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    // Who is neither sender nor recipient does not acknowledge, as itself either.
    let mallory = Party::of(&node, "mallory").await;
    assert_eq!(mallory.acknowledge(&id, true, "").await.unwrap_err().code(), Code::PermissionDenied);
    let guess = "0".repeat(32);
    assert_eq!(bob.acknowledge(&guess, true, "").await.unwrap_err().code(), Code::NotFound);
    let user = Party::acting_as(&node, "user:alice", "alice").await;
    assert_eq!(user.route("s", &["bob"], b"x").await.unwrap_err().code(), Code::PermissionDenied);
    let service = Party::acting_as(&node, "service:x", "alice").await;
    service.route("s", &["bob"], b"for alice").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_under_an_idempotency_key_is_the_first_message() {
    let mut node = TestNode::start().await;
    let alice = Party::of(&node, "alice").await;
    let first = alice.route_once("k", "s", &["bob"], b"one").await.unwrap();
    assert_eq!(alice.route_once("k", "s", &["bob"], b"one").await.unwrap(), first);
    node.stop().await;
    node.start_again().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    assert_eq!(alice.route_once("k", "s", &["bob"], b"one").await.unwrap(), first);
    // The same recipients, written in another way, are the same message.
    let qualified = format!("bob@{}", node.id);
    assert_eq!(alice.route_once("k", "s", &["bob", &qualified, "bob"], b"one").await.unwrap(), first);
    for (session, to, payload) in [("s", "bob", "two"), ("t", "bob", "one"), ("s", "carol", "one")] {
        let other = alice.route_once("k", session, &[to], payload.as_bytes()).await.unwrap_err();
        assert_eq!(other.code(), Code::AlreadyExists);
    }
    // Another caller's key is another key.
    assert_ne!(bob.route_once("k", "s", &["alice"], b"one").await.unwrap(), first);
    let (a, b) = tokio::join!(
        alice.route_once("at once", "s", &["bob"], b"x"),
        alice.route_once("at once", "s", &["bob"], b"x")
    );
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(bob.pending("", 0).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_acknowledged_comes_again_and_fails_in_the_end() {
    let node = TestNode::start_with(|config| {
        config.relay.redeliver_after = Duration::from_millis(20);
        config.relay.redeliver_tries = 3;
    })
    .await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let id = alice.route("s", &["bob"], b"deaf").await.unwrap();
    // Nobody subscribes: no try is counted.
    assert_eq!(alice.states(&id).await, [("bob".into(), "pending".into())]);
    let mut messages = bob.subscribe("s").await.unwrap();
    for _ in 0..3 {
        assert_eq!(messages.payload().await, b"deaf");
    }
    eventually!(alice.states(&id).await == [("bob".into(), "failed".into())]);
    let status = alice.status(&id).await.unwrap();
    assert!(!status.all_acknowledged);
    assert_eq!(status.deliveries[0].retry_count, 2);
    let text = bob.acknowledge(&id, true, "").await.unwrap();
    assert!(text.contains("failed"), "the first final state stays: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_to_a_session_goes_before_one_to_all() {
    let node = TestNode::start().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let mut all = bob.subscribe("").await.unwrap();
    let mut one = bob.subscribe("x").await.unwrap();
    alice.route("x", &["bob"], b"x1").await.unwrap();
    alice.route("y", &["bob"], b"y1").await.unwrap();
    assert_eq!(one.payload().await, b"x1");
    assert_eq!(all.payload().await, b"y1");
    // When it ends, the one to all takes over what is not acknowledged.
    drop(one);
    assert_eq!(all.payload().await, b"x1");
    alice.route("x", &["bob"], b"x2").await.unwrap();
    assert_eq!(all.payload().await, b"x2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_the_recipient_tells_is_kept_and_the_first_word_stays() {
    let node = TestNode::start().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let id = alice.route("s", &["bob", "carol", "bob"], b"x").await.unwrap();
    bob.acknowledge(&id, false, "bad share").await.unwrap();
    bob.acknowledge(&id, true, "").await.unwrap();
    let states = alice.states(&id).await;
    assert_eq!(states, [("bob".into(), "failed".into()), ("carol".into(), "pending".into())]);
    let errors: Vec<String> = alice.status(&id).await.unwrap().deliveries.into_iter().map(|row| row.error).collect();
    assert_eq!(errors, ["bad share", ""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_fields_are_named() {
    let node = TestNode::start().await;
    let alice = Party::of(&node, "alice").await;
    let long = "x".repeat(257);
    let cases: [(&str, &[&str], &str); 7] = [
        ("", &["bob"], "session_id"),
        (&long, &["bob"], "session_id"),
        ("s", &[""], "to_parties[0]"),
        ("s", &["bob", &long], "to_parties[1]"),
        ("s", &["alice"], "to_parties"),
        ("s", &["a b"], "to_parties[0]"),
        ("s", &["bob@nowhere"], "to_parties[0]"),
    ];
    for (session, to, field) in cases {
        let refused = alice.route(session, to, b"x").await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{session:?} {to:?}");
        assert!(refused.message().contains(field), "{field}: {}", refused.message());
    }
    let refused = alice.route("s", &["bob"], &vec![0; PAYLOAD_MAX + 1]).await.unwrap_err();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("payload"));
    alice.route("s", &["bob"], &vec![0; PAYLOAD_MAX]).await.unwrap();
    let many: Vec<String> = (0..1025).map(|n| format!("p{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = alice.route("s", &many, b"x").await.unwrap_err();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("to_parties"));
    // A name that comes again counts once.
    let again: Vec<&str> = many[..1024].iter().chain(&many[..10]).copied().collect();
    let id = alice.route("s", &again, b"x").await.unwrap();
    assert_eq!(alice.status(&id).await.unwrap().deliveries.len(), 1024);
    assert_eq!(alice.register("boss").await.unwrap_err().code(), Code::InvalidArgument);
    let long = "x".repeat(20_000);
    let refused = [
        alice.register(&long).await.map(drop),
        alice.acknowledge(&long, true, "").await.map(drop),
        alice.status(&long).await.map(drop),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
    let service = Party::service(&node).await;
    for id in ["a b", "é", "a\nb"] {
        let event = SessionEvent { event_id: id.into(), ..announcement("s", &[]) };
        let refused = service.publish(event).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains("event.event_id"));
    }
    let stranger = service.publish(announcement("s", &["bob@nowhere.example:7443"])).await.unwrap_err();
    assert!(stranger.message().starts_with("event.selected_parties[0]: "), "{stranger:?}");
    let stranger = alice.route("s", &["bob@nowhere.example:7443"], b"x").await.unwrap_err();
    assert_eq!(stranger.code(), Code::FailedPrecondition);
    assert!(stranger.message().starts_with("to_parties[0]: "), "{stranger:?}");
    assert!(stranger.message().contains("peer add"), "{}", stranger.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_is_named_and_freed_by_acknowledgements() {
    let node = TestNode::start_with(|config| {
        config.relay.session_max_bytes = bytesize::ByteSize::b(1_400);
        config.relay.sender_max_bytes = bytesize::ByteSize::b(2_000);
    })
    .await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let id = alice.route("s", &["bob"], &[0; 900]).await.unwrap();
    let refused = alice.route("s", &["bob"], &[0; 200]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("session"), "{}", refused.message());
    let refused = alice.route("t", &["bob"], &[0; 700]).await.unwrap_err();
    assert!(refused.message().contains("sender"), "{}", refused.message());
    bob.acknowledge(&id, true, "").await.unwrap();
    eventually!(alice.route("t", &["bob"], &[0; 700]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_messages_are_paged_by_their_moment() {
    let node = TestNode::start().await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    for n in 0..10u8 {
        let session = if n % 2 == 0 { "even" } else { "odd" };
        alice.route(session, &["bob"], &vec![n; 300 << 10]).await.unwrap();
    }
    let (mut seen, mut after) = (vec![], 0);
    loop {
        let page = bob.pending("", after).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().map(|message| message.payload.len()).sum::<usize>() <= 1 << 20);
        assert!(page.windows(2).all(|pair| pair[0].created_at < pair[1].created_at), "strictly rising");
        after = last.created_at;
        seen.extend(page.iter().map(|message| message.payload[0]));
    }
    assert_eq!(seen, (0..10).collect::<Vec<u8>>());
    assert_eq!(bob.pending("odd", 0).await.unwrap()[0].payload[0], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parties_register_and_are_online_while_they_give_signs_of_life() {
    let mut node = TestNode::start_with(|config| config.relay.online_after = Duration::from_millis(300)).await;
    let alice = Party::of(&node, "alice").await;
    assert_eq!(alice.heartbeat().await.unwrap_err().code(), Code::NotFound);
    let at = alice.register("persistent").await.unwrap();
    let service = Party::service(&node).await;
    let register = RegisterPartyRequest {
        party_id: "bob".into(),
        party_role: "delegate".into(),
        version: String::new(),
        notification: Some(NotificationChannel { email: "bob@mail.example".into(), ..Default::default() }),
    };
    let answer = service.client.clone().register_party(service.request(register)).await.unwrap().into_inner();
    assert!(answer.message.contains("offline"), "{}", answer.message);
    alice.route("s", &["alice2"], b"x").await.unwrap();
    let beat = alice.heartbeat().await.unwrap();
    assert!(beat.success && beat.server_timestamp >= at && beat.pending_messages == 0);

    let list = |party: &Party, only_online: bool, role: &str| {
        let request = party.request(GetRegisteredPartiesRequest { role_filter: role.into(), only_online });
        let mut client = party.client.clone();
        async move { client.get_registered_parties(request).await.unwrap().into_inner() }
    };
    let seen = list(&alice, false, "").await;
    assert_eq!((seen.parties.len(), seen.total_count), (2, 2));
    assert!(seen.parties.iter().all(|party| party.notification.is_none() || party.party_id == "alice"));
    let seen = list(&service, false, "delegate").await;
    assert_eq!(seen.parties[0].notification.as_ref().unwrap().email, "bob@mail.example");
    // A subscription is a sign of life that lasts.
    let messages = alice.subscribe("").await.unwrap();
    eventually!(list(&service, true, "").await.parties.iter().map(|party| &*party.party_id).eq(["alice"]));
    drop(messages);
    eventually!(list(&service, true, "").await.total_count == 0);
    node.stop().await;
    node.start_again().await;
    let alice = Party::of(&node, "alice").await;
    assert_eq!(alice.register("temporary").await.unwrap(), at, "registering again keeps the first moment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_party_gets_its_session_events_with_its_own_join_token_only() {
    let mut node = TestNode::start().await;
    let service = Party::service(&node).await;
    assert_eq!(service.publish(announcement("s", &["alice", "bob"])).await.unwrap(), 0);
    let (alice, mallory) = (Party::of(&node, "alice").await, Party::of(&node, "mallory").await);
    let mut events = alice.events(&[]).await.unwrap();
    let event = events.next().await;
    assert_eq!(event.join_tokens.into_iter().collect::<Vec<_>>(), [("alice".to_owned(), "token of alice".to_owned())]);
    assert_eq!(event.selected_parties, ["alice", "bob"]);
    assert!(!event.event_id.is_empty() && event.created_at > 0 && event.expires_at > event.created_at);
    let mut spying = mallory.events(&[]).await.unwrap();
    let mut watching = service.events(&[]).await.unwrap();
    assert_eq!(watching.next().await.join_tokens.len(), 2);

    let mut started = announcement("s", &["alice", "bob"]);
    started.event_type = "session_started".into();
    assert_eq!(service.publish(started).await.unwrap(), 2);
    assert_eq!(events.next().await.event_type, "session_started");
    let for_all = announcement("t", &[]);
    assert_eq!(service.publish(for_all).await.unwrap(), 3);
    assert_eq!(spying.next().await.session_id, "t", "what names others was passed over");

    node.stop().await;
    node.start_again().await;
    let alice = Party::of(&node, "alice").await;
    let mut again = alice.events(&["session_started"]).await.unwrap();
    assert_eq!(again.next().await.event_type, "session_started");
    let mut after = alice.events_after(&[], Some(&event.event_id)).await.unwrap();
    assert_eq!(after.next().await.event_type, "session_started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_published_again_changes_nothing() {
    let mut node = TestNode::start().await;
    let service = Party::service(&node).await;
    let named = |id: &str, parties: &[&str]| SessionEvent { event_id: id.into(), ..announcement("s", parties) };
    service.publish(named("first", &["alice", "bob"])).await.unwrap();
    service.publish(named("second", &["alice", "carol"])).await.unwrap();
    // The answer got lost, and it is sent again: alone, twice at once, after a restart.
    service.publish(named("first", &["alice", "bob"])).await.unwrap();
    let (one, two) = tokio::join!(
        service.publish(named("third", &["alice", "carol"])),
        service.publish(named("third", &["alice", "carol"]))
    );
    assert_eq!((one.unwrap(), two.unwrap()), (0, 0));
    let other = service.publish(named("first", &["alice", "mallory"])).await.unwrap_err();
    assert_eq!((other.code(), other.message().contains("event_id")), (Code::AlreadyExists, true));
    node.stop().await;
    node.start_again().await;
    let service = Party::service(&node).await;
    let (alice, carol) = (Party::of(&node, "alice").await, Party::of(&node, "carol").await);
    let mut events = alice.events(&[]).await.unwrap();
    assert_eq!(service.publish(named("first", &["alice", "bob"])).await.unwrap(), 1, "a stream it concerns");
    service.publish(named("fourth", &[])).await.unwrap();
    for id in ["first", "second", "third", "fourth"] {
        assert_eq!(events.next().await.event_id, id);
    }
    // The parties are those of the latest event that named some.
    alice.route("s", &["carol"], b"x").await.unwrap();
    assert_eq!(alice.route("s", &["bob"], b"x").await.unwrap_err().code(), Code::InvalidArgument);
    carol.route("s", &[], b"y").await.unwrap();
    // In another session the same id is another event.
    let elsewhere = SessionEvent { session_id: "t".into(), ..named("first", &["alice"]) };
    service.publish(elsewhere).await.unwrap();
    assert_eq!(events.next().await.session_id, "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_is_bounded_and_takes_those_it_knows() {
    let node = TestNode::start_with(|config| config.relay.max_parties = 2).await;
    let of = async |name| Party::of(&node, name).await;
    let (alice, bob, carol) = (of("alice").await, of("bob").await, of("carol").await);
    let since = alice.register("persistent").await.unwrap();
    bob.register("temporary").await.unwrap();
    let refused = carol.register("persistent").await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains("relay.max_parties")), (Code::ResourceExhausted, true));
    assert_eq!(alice.register("delegate").await.unwrap(), since);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_holds_so_many_unacknowledged_messages() {
    let node = TestNode::start_with(|config| config.relay.max_unacknowledged = 2).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let mut messages = bob.subscribe("").await.unwrap();
    let mut ids = vec![];
    for payload in [b"0", b"1", b"2", b"3"] {
        ids.push(alice.route("s", &["bob"], payload).await.unwrap());
    }
    let (first, second) = (messages.next().await.unwrap(), messages.next().await.unwrap());
    assert_eq!((&first.payload[..], &second.payload[..]), (&b"0"[..], &b"1"[..]));
    eventually!(alice.states(&ids[1]).await == [("bob".into(), "delivered".into())]);
    assert_eq!(alice.states(&ids[2]).await, [("bob".into(), "pending".into())]);
    // An acknowledgement lets the third one out.
    bob.acknowledge(&second.message_id, true, "").await.unwrap();
    assert_eq!(messages.payload().await, b"2");
    bob.acknowledge(&first.message_id, true, "").await.unwrap();
    assert_eq!(messages.payload().await, b"3");
}

/// Streams of one connection that nobody reads, in windows that are soon full.
struct Unread {
    sender: http2::SendRequest<Full<Bytes>>,
    bearer: MetadataValue<Ascii>,
    answers: Vec<http::Response<Incoming>>,
}

impl Unread {
    async fn of(node: &TestNode, principal: &str) -> Self {
        let stream = TcpStream::connect(node.address).await.unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender, bearer: node.bearer(principal).await, answers: vec![] }
    }

    async fn open(&mut self, method: &str, request: impl prost::Message) {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], &message].concat();
        let request = http::Request::post(format!("http://node/mpc.router.v1.MessageRouter/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", self.bearer.to_str().unwrap())
            .body(Full::from(body))
            .unwrap();
        self.answers.push(self.sender.send_request(request).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_up_nobody() {
    let node = TestNode::start_with(|config| config.tls.mode = Mode::Off).await;
    let service = Party::service(&node).await;
    let mut unread = Unread::of(&node, "party:mal").await;
    for session in ["m0", "m1", "m2", "m3", "m4"] {
        let sender = Party::of(&node, "filler").await;
        let fill = (0..500).map(|_| sender.route(session, &["mal"], &[7; 200]));
        futures_util::future::try_join_all(fill).await.unwrap();
        unread
            .open("SubscribeMessages", SubscribeMessagesRequest { session_id: session.into(), party_id: "mal".into() })
            .await;
    }
    for n in 0..300 {
        let event = SessionEvent { event_type: format!("{n:0200}"), ..announcement("e", &["mal"]) };
        service.publish(event).await.unwrap();
    }
    for _ in 0..5 {
        unread
            .open(
                "SubscribeSessionEvents",
                SubscribeSessionEventsRequest { party_id: "mal".into(), event_types: vec![] },
            )
            .await;
    }
    // Everybody else goes on, and so does mal itself where it reads.
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let mut messages = bob.subscribe("").await.unwrap();
    for n in 0..50u32 {
        let id = alice.route_once(&n.to_string(), "s", &["bob"], &n.to_be_bytes()).await.unwrap();
        assert_eq!(messages.payload().await, n.to_be_bytes());
        bob.acknowledge(&id, true, "").await.unwrap();
        assert_eq!(alice.states(&id).await, [acknowledged("bob")]);
        assert!(bob.pending("", 0).await.unwrap().is_empty());
    }
    alice.route("own", &["mal"], b"for mal").await.unwrap();
    let mal = Party::of(&node, "mal").await;
    assert_eq!(mal.subscribe("own").await.unwrap().payload().await, b"for mal");
    assert_eq!(unread.answers.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_that_nobody_reads_share_a_bound() {
    let node = TestNode::start().await;
    let (alice, mal) = (Party::of(&node, "alice").await, Party::of(&node, "mal").await);
    alice.route("s", &["mal"], &vec![1; PAYLOAD_MAX]).await.unwrap();
    let mut unread = vec![];
    for _ in 0..20 {
        unread.push(mal.subscribe("s").await.unwrap());
    }
    // The newest one gets it once it is read, and the older ones are told.
    let mut newest = unread.pop().unwrap();
    let mut replaced = 0;
    for mut old in unread {
        replaced += u32::from(old.end().await.code() == Code::Aborted);
    }
    assert_eq!((replaced, newest.payload().await.len()), (19, PAYLOAD_MAX));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_fails_with_that_reason() {
    let node = TestNode::start_with(|config| config.relay.retention = Duration::from_secs(1)).await;
    let alice = Party::of(&node, "alice").await;
    let id = alice.route("s", &["bob"], b"too late").await.unwrap();
    eventually!(alice.states(&id).await == [("bob".into(), "failed".into())]);
    assert!(Party::of(&node, "bob").await.pending("", 0).await.unwrap().is_empty());
    // In the end it is forgotten.
    eventually!(alice.status(&id).await.is_err_and(|status| status.code() == Code::NotFound));
}
