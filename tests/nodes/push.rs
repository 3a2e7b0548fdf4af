//! The push channel on real nodes, as gateways and backends see it.

use crate::{
    common::{LONG, TestNode, federate},
    eventually,
    gateway::{Caller, Feed, number, numbered},
    party::{Party, announcement, at},
    talker::Talker,
};
use futures_util::future::join_all;
use pillarbox::{
    proto::{
        galaxy::backend::push::v1::push_event::Kind,
        pillarbox::{
            admin::v1::{
                AddUserRequest, DeleteUserRequest, DisableUserRequest, EnableUserRequest, ListSessionsRequest,
                NewTokenRequest, RevokeSessionsRequest, RevokeTokenRequest,
            },
            push::v1::PublishRequest,
        },
        protocol::sync::v1::{
            Event,
            event::{Kind as Harmony, UserInvited},
        },
    },
    types::UserId,
};
use prost::Message;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;
use tonic::Code;

/// Whatever is random in a test comes from here.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

async fn pair(node: &TestNode) -> (Caller, Caller) {
    (Caller::of(node, "gateway:web").await, Caller::of(node, "service:shop").await)
}

/// Token and id of a session.
async fn sign_in(node: &TestNode, user: &str, ttl: u64) -> (String, String) {
    let request = NewTokenRequest { principal: format!("user:{user}"), ttl, user: String::new() };
    let issued = node.operator().await.new_token(request).await.unwrap().into_inner();
    (issued.token, issued.id)
}

fn payload(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_arrives_whole_and_in_order_live_and_after_a_cursor() {
    let node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    assert_eq!((feed.reset.take(), feed.oldest.len()), (None, 20));
    let (_, phone) = sign_in(&node, "alice", 0).await;
    let request = PublishRequest {
        user_id: "alice".into(),
        device_session_id: phone,
        kind: "orders.shipped".into(),
        payload: r#"{"order": 17, "text": "é\n"}"#.into(),
        event_id: "order-17".into(),
        request_id: "r-1".into(),
        trace_id: "t-1".into(),
    };
    let answer = service.publish(request.clone()).await.unwrap();
    let first = feed.next().await.unwrap();
    let Some(Kind::ClientEvent(event)) = first.kind else { panic!("{first:?}") };
    assert_eq!((&first.cursor, answer.event_id.as_str()), (&answer.cursor, "order-17"));
    assert_eq!(
        (event.user_id, event.device_session_id, event.kind),
        (request.user_id, request.device_session_id, request.kind)
    );
    assert_eq!((event.payload, event.event_id), (request.payload, request.event_id));
    assert_eq!((event.request_id, event.trace_id), (request.request_id, request.trace_id));
    for n in 0..5 {
        service.tell("alice", n).await;
    }
    for n in 0..5 {
        assert_eq!(feed.number().await, n);
    }
    let mut resumed = gateway.subscribe("web", &first.cursor).await.unwrap();
    assert_eq!(resumed.reset, None);
    for n in 0..5 {
        assert_eq!(resumed.number().await, n);
    }
    let mut whole = gateway.subscribe("web", &resumed.oldest).await.unwrap();
    assert_eq!((whole.event().await.event_id, whole.number().await), ("order-17".into(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_at_random_misses_nothing_and_gets_nothing_twice() {
    const EVENTS: usize = 600;
    let mut node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let mut cursor = feed.oldest.clone();
    let (mut seen, mut dice) = (vec![], Dice(7));
    for part in 0..3 {
        let service = service.again(&node).await;
        let publishing = tokio::spawn(async move {
            for some in (part * EVENTS / 3..(part + 1) * EVENTS / 3).collect::<Vec<_>>().chunks(8) {
                join_all(some.iter().map(|n| service.tell("alice", *n))).await;
            }
        });
        while seen.len() < (part + 1) * EVENTS / 3 {
            for _ in 0..dice.below(40) {
                if seen.len() == (part + 1) * EVENTS / 3 {
                    break;
                }
                let event = feed.next().await.unwrap();
                assert!(event.cursor > cursor, "{} after {cursor}", event.cursor);
                cursor = event.cursor;
                match event.kind.unwrap() {
                    Kind::ClientEvent(event) => seen.push(number(&event)),
                    other => panic!("{other:?}"),
                }
            }
            // It dies with what it has not handled yet.
            let link = gateway.again(&node).await;
            feed = link.subscribe("web", &cursor).await.unwrap();
            assert_eq!(feed.reset, None);
        }
        publishing.await.unwrap();
        if part < 2 {
            node.stop().await;
            node.start_again().await;
            feed = gateway.again(&node).await.subscribe("web", &cursor).await.unwrap();
            assert_eq!(feed.reset, None, "cursors outlive a restart");
        }
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), EVENTS);
    assert_eq!(seen.len(), EVENTS, "something came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_stream_of_a_gateway_replaces_the_older_and_other_gateways_are_let_be() {
    let node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let other = Caller::of(&node, "gateway:app").await;
    let mut older = gateway.subscribe("web", "").await.unwrap();
    let mut beside = other.subscribe("app", "").await.unwrap();
    let mut newer = gateway.again(&node).await.subscribe("web", "").await.unwrap();
    let end = older.end().await;
    assert!(end.code() == Code::Aborted && end.message().contains("newer"), "{end}");
    service.tell("alice", 1).await;
    assert_eq!((newer.number().await, beside.number().await), (1, 1));
    drop(older);
    service.tell("alice", 2).await;
    assert_eq!((newer.number().await, beside.number().await), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_outside_the_window_begins_afresh_and_says_why() {
    let mut node = TestNode::start_with(|config| {
        config.push.window_events = 10;
        config.metrics.listen = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let (gateway, service) = pair(&node).await;
    let early = gateway.subscribe("web", "").await.unwrap().oldest;
    let first = service.tell("alice", 0).await;
    for n in 1..40 {
        service.tell("alice", n).await;
    }
    // What is kept can be had by the oldest cursor; rows leave in more than one go.
    eventually!({
        let oldest = gateway.subscribe("web", "").await.unwrap().oldest;
        let mut kept = gateway.subscribe("web", &oldest).await.unwrap();
        kept.reset.is_none() && kept.number().await == 30
    });
    let feed = gateway.subscribe("web", &first).await.unwrap();
    assert_eq!(feed.reset.as_deref(), Some("expired"));
    assert!(feed.oldest > first, "{} {first}", feed.oldest);
    let future = format!("{:020}", u64::MAX);
    let between = format!("{:020}", first.parse::<u64>().unwrap() + 1_000);
    for (cursor, reset) in [
        ("", None),
        (early.as_str(), Some("expired")),
        ("00000000000000000000", Some("expired")),
        (&future, Some("unknown")),
        (&between, Some("unknown")),
        ("40", Some("unknown")),
        ("no cursor", Some("unknown")),
        (&"9".repeat(1_000), Some("unknown")),
    ] {
        let mut feed = gateway.subscribe("web", cursor).await.unwrap();
        assert_eq!(feed.reset.as_deref(), reset, "{cursor}");
        let n = 100 + cursor.len();
        service.publish(PublishRequest { event_id: String::new(), ..numbered("alice", n) }).await.unwrap();
        assert_eq!(feed.number().await, n, "only what is published from now on: {cursor}");
    }
    assert_ne!(node.metric("pillarbox_push_resets_total{reason=\"unknown\"}").await, "0");
    node.stop().await;
    node.start_again().await;
    let feed = gateway.again(&node).await.subscribe("web", &first).await.unwrap();
    assert_eq!(feed.reset.as_deref(), Some("expired"), "also after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_cursor_that_is_told_is_the_edge_of_the_window() {
    let node = TestNode::start_with(|config| config.push.window_events = 10).await;
    let (gateway, service) = pair(&node).await;
    drop(gateway.subscribe("web", "").await.unwrap());
    let first = service.tell("alice", 0).await;
    for n in 1..40 {
        service.tell("alice", n).await;
    }
    let mut resets = vec![];
    for cursor in ["", "no cursor", &first] {
        let feed = gateway.subscribe("web", cursor).await.unwrap();
        let mut kept = gateway.subscribe("web", &feed.oldest).await.unwrap();
        assert_eq!((kept.reset.take(), kept.number().await), (None, 30), "{cursor:?}");
        resets.push(feed.reset);
    }
    // Once it was told, what it tells of is all that is kept.
    assert_eq!(resets, [None, Some("unknown".into()), Some("expired".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_does_not_read_falls_out_of_the_window_and_is_told() {
    let node = TestNode::start_with(|config| config.push.window_events = 20).await;
    let (gateway, service) = pair(&node).await;
    let (mut slow, other) = (gateway.subscribe("web", "").await.unwrap(), Caller::of(&node, "gateway:app").await);
    let mut quick = other.subscribe("app", "").await.unwrap();
    let large = format!("\"{}\"", "x".repeat(60_000));
    for n in 0..400 {
        let request = PublishRequest { payload: large.clone().into(), ..numbered("alice", n) };
        service.publish(request).await.unwrap();
        assert_eq!(quick.event().await.event_id, format!("n{n}"));
    }
    let mut seen = 0;
    let end = loop {
        match slow.next().await {
            Ok(_) => seen += 1,
            Err(end) => break end,
        }
    };
    assert_eq!(end.code(), Code::OutOfRange, "{end}");
    assert!(end.message().contains("push.window_events"), "{end}");
    assert!(seen < 400, "nothing waits in memory for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_while_no_gateway_was_there_lately() {
    let node = TestNode::start_with(|config| config.push.window_age = Duration::from_secs(1)).await;
    let (gateway, service) = pair(&node).await;
    assert_eq!(service.tell("alice", 0).await, "", "nobody ever subscribed");
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let cursor = service.tell("alice", 1).await;
    assert_eq!(feed.number().await, 1);
    drop(feed);
    let mut n = 1;
    eventually!({
        n += 1;
        service.tell("alice", n).await.is_empty()
    });
    // Whoever was up to date when nothing was written any more missed something.
    let mut feed = gateway.subscribe("web", &cursor).await.unwrap();
    assert_eq!(feed.reset.as_deref(), Some("expired"));
    service.tell("alice", n + 1).await;
    assert_eq!(feed.number().await, n + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_event_id_is_published_once_however_often_and_from_wherever() {
    let mut node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let many = join_all((0..16).map(|_| service.tell("alice", 1))).await;
    assert_eq!(many.iter().collect::<BTreeSet<_>>().len(), 1, "{many:?}");
    node.stop().await;
    let end = feed.end().await;
    node.start_again().await;
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    let service = service.again(&node).await;
    assert_eq!(service.tell("alice", 1).await, many[0]);
    let newer = service.tell("alice", 2).await;
    assert!(newer > many[0], "cursors go on after a restart: {newer} {}", many[0]);
    let mut feed = gateway.again(&node).await.subscribe("web", &feed.oldest).await.unwrap();
    assert_eq!((feed.number().await, feed.number().await), (1, 2));
    // Another user is told of the same cause; another event is refused.
    let to_bob = service.tell("bob", 1).await;
    assert!(to_bob > newer && service.tell("bob", 1).await == to_bob);
    let other = PublishRequest { kind: "other.kind".into(), ..numbered("alice", 1) };
    assert_eq!(service.publish(other).await.unwrap_err().code(), Code::AlreadyExists);
    let unnamed = PublishRequest { event_id: String::new(), ..numbered("alice", 3) };
    let (one, two) = (service.publish(unnamed.clone()).await.unwrap(), service.publish(unnamed).await.unwrap());
    assert_ne!((one.event_id, one.cursor), (two.event_id, two.cursor));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_one_session_is_taken_while_it_is_one_of_the_users() {
    let node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let (_, phone) = sign_in(&node, "alice", 0).await;
    let (_, gone) = sign_in(&node, "alice", 3_600).await;
    let to = |session: &str, n| PublishRequest { device_session_id: session.into(), ..numbered("alice", n) };
    let first = service.publish(to(&phone, 1)).await.unwrap();
    service.publish(to(&gone, 2)).await.unwrap();
    service.publish(to("", 3)).await.unwrap();
    assert_eq!((feed.number().await, feed.number().await, feed.number().await), (1, 2, 3));
    let bobs = PublishRequest { device_session_id: phone.clone(), ..numbered("bob", 4) };
    let unnamed = PublishRequest { event_id: String::new(), ..to("5f3a9c01", 4) };
    for wrong in [bobs, unnamed, to("5f3a9c01", 4), to(" ", 4)] {
        let status = service.publish(wrong).await.unwrap_err();
        assert!(status.code() == Code::NotFound && status.message().starts_with("device_session_id: "), "{status}");
    }
    for id in [&phone, &gone] {
        node.operator().await.revoke_token(RevokeTokenRequest { id: id.clone() }).await.unwrap();
        assert_eq!(feed.ended().await.1, *id);
    }
    // A retry of what was taken: the backend need not know what happened since.
    assert_eq!(service.publish(to(&phone, 1)).await.unwrap(), first);
    assert_eq!(service.publish(to(&phone, 5)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(service.publish(to(&phone, 3)).await.unwrap_err().code(), Code::AlreadyExists, "that was for all");
    service.publish(to("", 6)).await.unwrap();
    assert_eq!(feed.number().await, 6, "and nothing between");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_refused_and_what_is_wrong_is_named() {
    let node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let code = |result: Result<Feed, tonic::Status>| result.err().map(|status| status.code());
    assert_eq!(code(gateway.subscribe("app", "").await), Some(Code::PermissionDenied));
    assert_eq!(code(gateway.subscribe("", "").await), Some(Code::InvalidArgument));
    for principal in ["user:alice", "party:web", "admin:web"] {
        let caller = Caller::of(&node, principal).await;
        assert_eq!(code(caller.subscribe("web", "").await), Some(Code::PermissionDenied), "{principal}");
        let status = caller.publish(numbered("alice", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{principal}");
        assert_eq!(caller.check("x", "").await.unwrap_err().code(), Code::PermissionDenied, "{principal}");
    }
    assert_eq!(code(service.subscribe("shop", "").await), Some(Code::PermissionDenied));
    assert_eq!(gateway.publish(numbered("alice", 1)).await.unwrap_err().code(), Code::PermissionDenied);
    for (user, expected) in
        [("", Code::InvalidArgument), ("a b", Code::InvalidArgument), ("alice@b:1", Code::InvalidArgument)]
    {
        let status = service.publish(numbered(user, 1)).await.unwrap_err();
        assert!(status.code() == expected && status.message().starts_with("user_id: "), "{user}: {status}");
    }
    let status = service.publish(PublishRequest { payload: "{".into(), ..numbered("alice", 1) }).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().starts_with("payload: "), "{status}");
    node.operator().await.disable_user(DisableUserRequest { name: "alice".into() }).await.unwrap();
    let status = service.publish(numbered("alice", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_token_is_revoked_is_cut_off() {
    let node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    node.revoke("gateway:web").await;
    assert_eq!(feed.end().await.code(), Code::Unauthenticated);
    service.tell("alice", 1).await;
    assert_eq!(gateway.subscribe("web", "").await.err().unwrap().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_checked_by_a_gateway() {
    let node = TestNode::start().await;
    let (gateway, _) = pair(&node).await;
    let (token, id) = sign_in(&node, "alice", 3_600).await;
    let checked = gateway.check(&token, "browser/1").await.unwrap();
    assert_eq!((checked.user_id.as_str(), &checked.device_session_id), ("alice", &id));
    assert!(checked.expires_at > i64::try_from(pillarbox::types::unix_seconds()).unwrap() * 1_000);
    let (lasting, _) = sign_in(&node, "alice", 0).await;
    assert_eq!(gateway.check(&lasting, "").await.unwrap().expires_at, 0);
    let list = ListSessionsRequest { user: "alice".into() };
    let sessions = node.operator().await.list_sessions(list).await.unwrap().into_inner().sessions;
    assert_eq!(sessions[0].user_agent, "browser/1");
    let service = node.bearer("service:shop").await.to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    for bad in ["", "x", "pbt_AAAA", &format!("Bearer {token}"), &service] {
        let status = gateway.check(bad, "").await.unwrap_err();
        assert!(status.code() == Code::Unauthenticated && status.message().starts_with("token: "), "{status}");
        assert!(bad.is_empty() || bad == "x" || !status.message().contains(bad), "a token is never repeated");
    }
    node.revoke("user:alice").await;
    let status = gateway.check(&token, "").await.unwrap_err();
    assert!(status.code() == Code::Unauthenticated && status.message().starts_with("token: "), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_of_a_session_is_in_the_log_with_its_reason_and_ends_its_streams() {
    let node = TestNode::start().await;
    let (gateway, _) = pair(&node).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let mut operator = node.operator().await;
    let alice = Talker::of(&node, "alice").await;
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let list = ListSessionsRequest { user: "alice".into() };
    let first = operator.list_sessions(list).await.unwrap().into_inner().sessions[0].id.clone();
    let mut line = alice.connect(&chat).await.unwrap();
    operator.revoke_sessions(RevokeSessionsRequest { user: "alice".into(), id: first.clone() }).await.unwrap();
    assert_eq!(line.end().await.code(), Code::Unauthenticated);
    assert_eq!(feed.ended().await, ("alice".into(), first, "revoked".into()));

    let (one, two) = (sign_in(&node, "alice", 0).await.1, sign_in(&node, "alice", 0).await.1);
    operator.revoke_sessions(RevokeSessionsRequest { user: "alice".into(), id: String::new() }).await.unwrap();
    for session in [one, two] {
        assert_eq!(feed.ended().await, ("alice".into(), session, "signed_out".into()));
    }

    let alice = Talker::of(&node, "alice").await;
    let mut line = alice.connect(&chat).await.unwrap();
    operator.disable_user(DisableUserRequest { name: "alice".into() }).await.unwrap();
    assert_eq!(line.end().await.code(), Code::Unauthenticated);
    let (user, disabled, reason) = feed.ended().await;
    assert_eq!((user.as_str(), reason.as_str()), ("alice", "disabled"));
    operator.enable_user(EnableUserRequest { name: "alice".into() }).await.unwrap();
    operator.delete_user(DeleteUserRequest { name: "alice".into() }).await.unwrap();
    assert_eq!(feed.ended().await, ("alice".into(), disabled, "deleted".into()));

    // Nobody has to look for it to be noticed.
    let (_, short) = sign_in(&node, "bob", 1).await;
    assert_eq!(feed.ended().await, ("bob".into(), short, "expired".into()));
    // A token of a service is no session.
    node.revoke("service:shop").await;
    let service = Caller::of(&node, "service:other").await.again(&node).await;
    service.tell("bob", 5).await;
    assert_eq!(feed.number().await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_during_an_outage_of_the_gateway_is_the_first_it_hears() {
    let mut node = TestNode::start().await;
    let (gateway, service) = pair(&node).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let (_, session) = sign_in(&node, "alice", 0).await;
    let cursor = service.tell("alice", 1).await;
    assert_eq!(feed.number().await, 1);
    drop(feed);
    let request = RevokeSessionsRequest { user: "alice".into(), id: session.clone() };
    node.operator().await.revoke_sessions(request).await.unwrap();
    node.stop().await;
    node.start_again().await;
    let mut feed = gateway.again(&node).await.subscribe("web", &cursor).await.unwrap();
    assert_eq!(feed.ended().await, ("alice".into(), session, "revoked".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_told_to_every_local_member_but_its_author_wherever_it_was_said() {
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    let mut feeds = vec![];
    for node in [&a, &b] {
        feeds.push(Caller::of(node, "gateway:web").await.subscribe("web", "").await.unwrap());
    }
    let (alice, far) = (Talker::of(&a, "alice").await, Talker::of(&b, "far").await);
    let (bob, carol) = (format!("bob@{}", b.id), format!("far@{}", b.id));
    let chat = alice.new_chat(&["alice", "al", &bob, &carol]).await.unwrap();
    alice.send_once(&chat, "c-1", "hello \"all\"").await.unwrap();
    alice.send_once(&chat, "c-1", "hello \"all\"").await.unwrap();
    let qualified = format!("alice@{}", a.id);
    for (feed, users, author) in [(0, &["al"][..], "alice"), (1, &["bob", "far"][..], qualified.as_str())] {
        let mut ids = BTreeSet::new();
        for user in users {
            let event = feeds[feed].event().await;
            assert_eq!((event.user_id.as_str(), event.kind.as_str()), (*user, "chat.message"));
            assert_eq!(event.device_session_id, "");
            let told = payload(&event.payload);
            assert_eq!((&told["chat_id"], &told["user_id"]), (&json!(chat), &json!(author)));
            assert_eq!((&told["text"], &told["client_id"]), (&json!("hello \"all\""), &json!("c-1")));
            assert_eq!(event.event_id, format!("chat:{}", told["id"].as_str().unwrap()));
            ids.insert(event.event_id);
        }
        assert_eq!(ids.len(), 1);
    }
    eventually!(far.texts(&chat).await.len() == 1);
    far.send(&chat, "from afar").await.unwrap();
    for (feed, users) in [(0, ["al", "alice"].as_slice()), (1, &["bob"])] {
        let mut told = vec![];
        for _ in users {
            let event = feeds[feed].event().await;
            assert_eq!(payload(&event.payload)["text"], "from afar");
            told.push(event.user_id);
        }
        told.sort();
        assert_eq!(told, *users);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_harmony_event_about_a_local_user_is_told_to_that_user() {
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    let (gateway, service) = pair(&b).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let added = b.operator().await.add_user(AddUserRequest { name: "alice".into() }).await.unwrap().into_inner();
    let id = added.id.parse::<UserId>().unwrap().get();
    let invited = |user_id, invite: &str| {
        let kind = Harmony::UserInvited(UserInvited { user_id, inviter_id: 3, invite_id: invite.into() });
        bytes::Bytes::from(Event { kind: Some(kind) }.encode_to_vec())
    };
    let events = vec![invited(17, "not for us"), invited(id, "one"), invited(0, "nobody"), invited(id, "two")];
    a.federation().send(&b.id, events).await.unwrap();
    let mut ids = BTreeSet::new();
    for invite in ["one", "two"] {
        let event = feed.event().await;
        assert_eq!((event.user_id.as_str(), event.kind.as_str()), ("alice", "harmony.user_invited"));
        let expected = json!({
            "server_id": a.id.to_string(), "user_id": id.to_string(), "inviter_id": "3", "invite_id": invite,
        });
        assert_eq!(payload(&event.payload), expected);
        ids.insert(event.event_id);
    }
    assert_eq!(ids.len(), 2, "{ids:?}");
    service.tell("alice", 9).await;
    assert_eq!(feed.number().await, 9, "and nothing else");
}

/// The next event: its user and kind, and its payload.
async fn told(feed: &mut Feed) -> (String, String, Value) {
    let event = feed.event().await;
    (event.user_id, event.kind, payload(&event.payload))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_told_what_waits_for_its_parties_here_and_from_afar_until_the_token_goes() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    let (gateway, service) = pair(&a).await;
    let mut feed = gateway.subscribe("web", "").await.unwrap();
    let bind = |principal: &str, user: &str| NewTokenRequest { principal: principal.into(), ttl: 0, user: user.into() };
    let mut operator = a.operator().await;
    let bound = operator.new_token(bind("party:phone", "alice")).await.unwrap().into_inner();
    for principal in ["party:phone@elsewhere:1", "user:alice", "service:x"] {
        let status = operator.new_token(bind(principal, "alice")).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().starts_with("user: "), "{status}");
    }
    let (here, far) = (Party::of(&a, "bob").await, Party::of(&b, "carol").await);
    here.route("s1", &["phone", "laptop"], b"secret").await.unwrap();
    let (user, kind, message) = told(&mut feed).await;
    assert_eq!((user.as_str(), kind.as_str()), ("alice", "mpc.message_waiting"));
    assert_eq!((&message["party_id"], &message["from_party"]), (&json!("phone"), &json!("bob")));
    assert_eq!((&message["session_id"], &message["message_type"]), (&json!("s1"), &json!("test")));
    far.route("s2", &[&at("phone", &a)], b"secret").await.unwrap();
    let (_, _, message) = told(&mut feed).await;
    assert_eq!((&message["from_party"], &message["session_id"]), (&json!(at("carol", &b)), &json!("s2")));
    let coordinator = Party::service(&a).await;
    coordinator.publish(announcement("s3", &["phone", "bob"])).await.unwrap();
    let (user, kind, event) = told(&mut feed).await;
    assert_eq!((user.as_str(), kind.as_str()), ("alice", "mpc.session_event"));
    assert_eq!((&event["party_id"], &event["session_id"]), (&json!("phone"), &json!("s3")));
    assert_eq!(event.get("join_tokens"), None);

    // It is so after a restart, too, and as long as the token counts.
    let cursor = service.tell("alice", 1).await;
    assert_eq!(feed.number().await, 1);
    a.stop().await;
    a.start_again().await;
    let (gateway, service) = (gateway.again(&a).await, service.again(&a).await);
    let mut feed = gateway.subscribe("web", &cursor).await.unwrap();
    let here = Party::of(&a, "bob").await;
    here.route("s4", &["phone"], b"secret").await.unwrap();
    assert_eq!(told(&mut feed).await.2["session_id"], "s4");
    a.operator().await.revoke_token(RevokeTokenRequest { id: bound.id }).await.unwrap();
    here.route("s5", &["phone"], b"secret").await.unwrap();
    service.tell("alice", 2).await;
    assert_eq!(feed.number().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_gateways_hear_everything() {
    const GATEWAYS: usize = 200;
    let node = TestNode::start().await;
    let service = Caller::of(&node, "service:shop").await;
    let opened = join_all((0..GATEWAYS).map(|n| {
        let node = &node;
        async move {
            let id = format!("g{n}");
            Caller::of(node, &format!("gateway:{id}")).await.subscribe(&id, "").await.unwrap()
        }
    }));
    let feeds = opened.await;
    let reading = feeds.into_iter().map(|mut feed| {
        tokio::spawn(async move {
            for n in 0..50 {
                assert_eq!(feed.number().await, n);
            }
        })
    });
    let reading: Vec<_> = reading.collect();
    for n in 0..50 {
        service.tell("alice", n).await;
    }
    for done in timeout(LONG, join_all(reading)).await.unwrap() {
        done.unwrap();
    }
}
