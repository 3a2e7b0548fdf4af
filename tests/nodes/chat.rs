//! `chat.Chat` on one node, as its callers see it.

use crate::{
    common::TestNode,
    eventually,
    talker::{Talker, text},
};
use pillarbox::proto::{chat::Message, pillarbox::admin::v1::DisableUserRequest};
use std::{collections::BTreeSet, time::Duration};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_users_get_the_same_chat_at_once_and_after_a_restart() {
    let mut node = TestNode::start().await;
    let alice = Talker::of(&node, "alice").await;
    let qualified = format!("bob@{}", node.id);
    let many = (0..16).map(|n| {
        let (alice, qualified) = (alice.clone(), qualified.clone());
        tokio::spawn(async move {
            let users: &[&str] = match n % 3 {
                0 => &["alice", "bob"],
                1 => &["bob", "alice", "bob"],
                _ => &[&qualified, "alice"],
            };
            alice.new_chat(users).await.unwrap()
        })
    });
    let mut ids = BTreeSet::new();
    for chat in many.collect::<Vec<_>>() {
        ids.insert(chat.await.unwrap());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let chat = ids.pop_first().unwrap();
    assert_eq!((chat.len(), chat.matches('-').count()), (36, 4), "{chat}");
    assert_ne!(alice.new_chat(&["alice"]).await.unwrap(), chat);
    alice.send(&chat, "before").await.unwrap();
    node.stop().await;
    node.start_again().await;
    let alice = Talker::of(&node, "alice").await;
    assert_eq!(alice.new_chat(&["bob", "alice"]).await.unwrap(), chat);
    assert_eq!(alice.texts(&chat).await, ["before"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_is_in_the_history_in_order_with_all_its_parts() {
    let node = TestNode::start().await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let mut words = alice.words(&chat, "c-1", "line \"one\"\n\u{1f3db}");
    words.subject = "greetings".into();
    alice.send_as(words).await.unwrap();
    bob.send(&chat, "two").await.unwrap();
    let history = bob.history(&chat).await.unwrap();
    let first = &history[0];
    assert_eq!((&*first.client_id, &*first.chat_id, &*first.user_id), ("c-1", &*chat, "alice"));
    assert_eq!((&*first.subject, &*first.text), ("greetings", "line \"one\"\n\u{1f3db}"));
    let now = i64::try_from(pillarbox::types::unix_seconds()).unwrap();
    assert!((now - 60..=now).contains(&first.sent_at), "{} is in seconds", first.sent_at);
    assert_eq!((&*history[1].text, &*history[1].user_id), ("two", "bob"));
    assert_ne!(history[0].id, history[1].id);
    assert!(!history[1].client_id.is_empty(), "one is made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_under_one_client_id_stores_nothing_new_not_even_at_once_or_later() {
    let mut node = TestNode::start().await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let retries: Vec<_> = (0..16)
        .map(|_| {
            let (alice, chat) = (alice.clone(), chat.clone());
            tokio::spawn(async move { alice.send_once(&chat, "k", "once").await })
        })
        .collect();
    for retry in retries {
        retry.await.unwrap().unwrap();
    }
    // The client id is one user's, in one chat.
    bob.send_once(&chat, "k", "bob's").await.unwrap();
    let other = alice.new_chat(&["alice"]).await.unwrap();
    alice.send_once(&other, "k", "elsewhere").await.unwrap();
    node.stop().await;
    node.start_again().await;
    let alice = Talker::of(&node, "alice").await;
    alice.send_once(&chat, "k", "again").await.unwrap();
    assert_eq!(alice.texts(&chat).await, ["once", "bob's"]);
    assert_eq!(alice.texts(&other).await, ["elsewhere"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named() {
    let node = TestNode::start().await;
    let (alice, service) = (Talker::of(&node, "alice").await, Talker::service(&node).await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let refused = |result: Result<String, tonic::Status>| result.unwrap_err();
    assert_eq!(refused(alice.new_chat(&[]).await).code(), Code::InvalidArgument);
    assert_eq!(refused(alice.new_chat(&["bob", "carol"]).await).code(), Code::PermissionDenied);
    for bad in ["", "a b", "x@", "x@nowhere", "a@b@c:1", &"n".repeat(65)] {
        let status = refused(service.new_chat(&["alice", bad]).await);
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}: {status}");
        assert!(status.message().contains("user_ids[1]"), "{status}");
    }
    let elsewhere = refused(service.new_chat(&["x@other.example:1"]).await);
    assert_eq!(elsewhere.code(), Code::InvalidArgument, "{elsewhere}");
    let stranger = refused(alice.new_chat(&["alice", "x@other.example:1"]).await);
    assert_eq!(stranger.code(), Code::FailedPrecondition, "{stranger}");
    let crowd: Vec<String> = (0..=1_024).map(|n| format!("u{n}")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).chain(["alice"]).collect();
    assert_eq!(refused(alice.new_chat(&crowd).await).code(), Code::InvalidArgument);
    assert_eq!(alice.new_chat(&crowd[2..]).await.unwrap().len(), 36, "1,024 are as many as may be");
    let edit = |field: &str, value: String| {
        let mut words = alice.words(&chat, "", "x");
        match field {
            "chat_id" => words.chat_id = value,
            "user_id" => words.user_id = value,
            "subject" => words.subject = value,
            "client_id" => words.client_id = value,
            _ => words.text = value,
        }
        words
    };
    let table = [
        ("chat_id", String::new(), Code::InvalidArgument),
        ("user_id", String::new(), Code::InvalidArgument),
        ("text", String::new(), Code::InvalidArgument),
        ("text", "x".repeat((64 << 10) + 1), Code::InvalidArgument),
        ("subject", "x".repeat(2_000), Code::InvalidArgument),
        ("client_id", "x".repeat(257), Code::InvalidArgument),
        ("chat_id", "never one".into(), Code::NotFound),
        ("chat_id", chat.replace('8', "9"), Code::NotFound),
        ("user_id", "bob".into(), Code::PermissionDenied),
        ("user_id", "alice@other.example:1".into(), Code::PermissionDenied),
    ];
    for (field, value, code) in table {
        let status = alice.send_as(edit(field, value)).await.unwrap_err();
        assert_eq!(status.code(), code, "{field}: {status}");
        assert!(status.message().contains(field), "{field}: {status}");
    }
    alice.send_as(edit("text", "x".repeat(64 << 10))).await.unwrap();
    alice.send_as(edit("user_id", format!("alice@{}", node.id))).await.unwrap();
    for (key, value) in [("x-limit", "0"), ("x-limit", "many")] {
        let status = alice.page(&chat, None, Some(value)).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(key), "{status}");
    }
    let status = alice.page(&chat, Some("what"), None).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_member_reads_and_says_nothing_but_a_service_reads() {
    let node = TestNode::start().await;
    let (alice, mallory) = (Talker::of(&node, "alice").await, Talker::of(&node, "mallory").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    alice.send(&chat, "secret").await.unwrap();
    assert_eq!(mallory.history(&chat).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(mallory.send(&chat, "x").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(mallory.connect(&chat).await.err().unwrap().code(), Code::PermissionDenied);
    let mut words = mallory.words(&chat, "", "as alice");
    words.user_id = "alice".into();
    assert_eq!(mallory.send_as(words).await.unwrap_err().code(), Code::PermissionDenied);
    let party = Talker::acting_as(&node, "party:alice", "alice").await;
    assert_eq!(party.history(&chat).await.unwrap_err().code(), Code::PermissionDenied);
    let mut service = Talker::service(&node).await;
    assert_eq!(service.texts(&chat).await, ["secret"]);
    // As a member it speaks, as somebody else it listens.
    service.name = "bob".into();
    service.send(&chat, "for bob").await.unwrap();
    service.name = "watcher".into();
    assert_eq!(service.send(&chat, "x").await.unwrap_err().code(), Code::PermissionDenied);
    let mut line = service.connect(&chat).await.unwrap();
    alice.send(&chat, "heard").await.unwrap();
    assert_eq!(line.text().await, "heard");
    line.say(text("not a member")).await;
    assert_eq!(line.end().await.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_brings_what_others_say_and_takes_what_is_said_on_it() {
    let node = TestNode::start().await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    alice.send(&chat, "before").await.unwrap();
    let (mut to_alice, mut to_bob) = (alice.connect(&chat).await.unwrap(), bob.connect(&chat).await.unwrap());
    to_alice.say(text("one")).await;
    let one = to_bob.next().await.unwrap();
    assert_eq!((&*one.text, &*one.user_id, &*one.chat_id), ("one", "alice", &*chat));
    let named = Message { chat_id: chat.clone(), user_id: "bob".into(), ..text("two") };
    to_bob.say(named).await;
    assert_eq!(to_alice.text().await, "two", "one's own does not come");
    alice.send(&chat, "three").await.unwrap();
    assert_eq!(to_bob.text().await, "three");
    assert_eq!(alice.texts(&chat).await, ["before", "one", "two", "three"]);
    to_bob.say(Message { chat_id: "another".into(), ..text("x") }).await;
    let status = to_bob.end().await;
    assert!(status.code() == Code::InvalidArgument && status.message().contains("chat_id"), "{status}");
    to_alice.say(Message { user_id: "bob".into(), ..text("x") }).await;
    assert_eq!(to_alice.end().await.code(), Code::InvalidArgument);
    // A stream ends with the reason for which nothing is stored.
    let mut line = alice.connect(&chat).await.unwrap();
    line.say(text("")).await;
    let status = line.end().await;
    assert!(status.code() == Code::InvalidArgument && status.message().contains("text"), "{status}");
    for missing in ["chat-id", "user-id"] {
        let all = [("chat-id", &*chat), ("user-id", "alice")];
        let some: Vec<_> = all.into_iter().filter(|(key, _)| *key != missing).collect();
        let status = alice.connect_with(&some).await.err().unwrap();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(missing), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_resumes_misses_nothing_and_repeats_nothing() {
    let mut node = TestNode::start().await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let mut line = bob.connect(&chat).await.unwrap();
    for n in 0..700 {
        alice.send_once(&chat, &n.to_string(), &n.to_string()).await.unwrap();
    }
    let mut last = line.next().await.unwrap();
    while last.text != "99" {
        last = line.next().await.unwrap();
    }
    drop(line);
    node.stop().await;
    node.start_again().await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let mut line = bob.resume(&chat, &last.id).await.unwrap();
    alice.send(&chat, "last").await.unwrap();
    for n in 100..700 {
        assert_eq!(line.text().await, n.to_string());
    }
    assert_eq!(line.text().await, "last");
    assert_eq!(bob.resume(&chat, "never").await.err().unwrap().code(), Code::NotFound);
}

/// Rows can be read a moment before readers are told of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_follow_hear_everything_once_while_it_is_said() {
    let node = TestNode::start().await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let mut lines = vec![];
    for _ in 0..8 {
        lines.push(bob.connect(&chat).await.unwrap());
    }
    let say = async {
        for n in 0..400 {
            alice.send(&chat, &n.to_string()).await.unwrap();
        }
    };
    let hear = futures_util::future::join_all(lines.iter_mut().map(async |line| {
        for n in 0..400 {
            assert_eq!(line.text().await, n.to_string());
        }
    }));
    tokio::join!(say, hear);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_ended_and_nobody_else_notices() {
    let node = TestNode::start_with(|config| config.chat.slow_after = Duration::from_millis(20)).await;
    let (alice, bob, carol) =
        (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await, Talker::of(&node, "carol").await);
    let chat = alice.new_chat(&["alice", "bob", "carol"]).await.unwrap();
    let (mut slow, mut quick) = (bob.connect(&chat).await.unwrap(), carol.connect(&chat).await.unwrap());
    let long = "x".repeat(8 << 10);
    alice.send(&chat, "first").await.unwrap();
    assert_eq!(slow.text().await, "first");
    assert_eq!(quick.text().await, "first");
    for n in 0..1_500 {
        alice.send_once(&chat, &n.to_string(), &long).await.unwrap();
        assert_eq!(quick.text().await.len(), long.len());
    }
    let mut last = String::new();
    let status = loop {
        match slow.next().await {
            Ok(message) => last = message.id,
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("x-after-id"), "{status}");
    let history = bob.page(&chat, None, Some("1")).await.unwrap().0;
    let mut resumed = bob.resume(&chat, &last).await.unwrap();
    loop {
        if resumed.next().await.unwrap().id == history[0].id {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_are_ended_and_their_user_goes_on() {
    let node = TestNode::start_with(|config| config.chat.slow_after = Duration::from_millis(100)).await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..40 {
        let there = Talker::of(&node, "bob").await;
        unread.push((there.connect(&chat).await.unwrap(), there));
    }
    // More than waits for a client anywhere on the way.
    let long = "x".repeat(60 << 10);
    for n in 0..100 {
        alice.send_once(&chat, &n.to_string(), &long).await.unwrap();
    }
    for (stream, _) in &mut unread {
        let status = loop {
            match stream.next().await {
                Ok(message) => assert_eq!(message.text.len(), long.len()),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("x-after-id"), "{status}");
    }
    assert_eq!(bob.page(&chat, None, Some("1")).await.unwrap().0[0].text, long);
    let mut again = bob.connect(&chat).await.unwrap();
    alice.send(&chat, "still there").await.unwrap();
    assert_eq!(again.text().await, "still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_are_read_back_in_pages_and_in_one_answer() {
    let node = TestNode::start().await;
    let alice = Talker::of(&node, "alice").await;
    let chat = alice.new_chat(&["alice"]).await.unwrap();
    let senders: Vec<_> = (0..100)
        .map(|sender| {
            let (alice, chat) = (alice.clone(), chat.clone());
            tokio::spawn(async move {
                for n in 0..100 {
                    alice.send(&chat, &format!("{sender} {n}")).await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let (all, more) = alice.page(&chat, None, None).await.unwrap();
    assert_eq!((all.len(), more), (10_000, false));
    let mut next = [0; 100];
    for message in &all {
        let (sender, n) = message.text.split_once(' ').unwrap();
        let sender = &mut next[sender.parse::<usize>().unwrap()];
        assert_eq!(n.parse::<u32>().unwrap(), *sender, "everybody's words are in their order");
        *sender += 1;
    }
    let (mut pages, mut before) = (Vec::new(), None);
    loop {
        let (mut page, more) = alice.page(&chat, before.as_deref(), Some("999")).await.unwrap();
        before = page.first().map(|message| message.id.clone());
        assert_eq!(page.len(), if more { 999 } else { 10 });
        page.append(&mut pages);
        pages = page;
        if !more {
            break;
        }
    }
    assert_eq!(pages, all);
    // What does not fit one answer is left out from the front.
    let long = "x".repeat(60 << 10);
    for _ in 0..100 {
        alice.send(&chat, &long).await.unwrap();
    }
    let (page, more) = alice.page(&chat, None, None).await.unwrap();
    assert!(more && (45..=52).contains(&page.len()), "{} of 60 KiB are 3 MiB", page.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold_and_say_which_key_they_are() {
    let node = TestNode::start_with(|config| {
        config.chat.user_max_chats = 2;
        config.chat.max_chats = 4;
    })
    .await;
    let (alice, service) = (Talker::of(&node, "alice").await, Talker::service(&node).await);
    for other in ["b", "c"] {
        alice.new_chat(&["alice", other]).await.unwrap();
    }
    let status = alice.new_chat(&["alice", "d"]).await.unwrap_err();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("user_max_chats"), "{status}");
    alice.new_chat(&["alice", "b"]).await.unwrap();
    service.new_chat(&["alice", "d"]).await.unwrap();
    service.new_chat(&["alice", "e"]).await.unwrap();
    let status = service.new_chat(&["alice", "f"]).await.unwrap_err();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("chat.max_chats"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_on_a_stream_for_a_user_that_was_disabled() {
    let node = TestNode::start().await;
    let bob = Talker::of(&node, "bob").await;
    let service = Talker::acting_as(&node, "service:backend", "alice").await;
    let chat = service.new_chat(&["alice", "bob"]).await.unwrap();
    let mut line = service.connect(&chat).await.unwrap();
    line.say(text("before")).await;
    eventually!(bob.texts(&chat).await == ["before"]);
    let disable = DisableUserRequest { name: "alice".into() };
    node.operator().await.disable_user(disable).await.unwrap();
    line.say(text("after")).await;
    assert_eq!(line.end().await.code(), Code::PermissionDenied);
    assert_eq!(bob.texts(&chat).await, ["before"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_token_and_with_the_node() {
    let mut node = TestNode::start().await;
    let (alice, bob) = (Talker::of(&node, "alice").await, Talker::of(&node, "bob").await);
    let chat = alice.new_chat(&["alice", "bob"]).await.unwrap();
    let (mut revoked, mut stopped) = (alice.connect(&chat).await.unwrap(), bob.connect(&chat).await.unwrap());
    node.revoke("user:alice").await;
    assert_eq!(revoked.end().await.code(), Code::Unauthenticated);
    eventually!(alice.send(&chat, "x").await.is_err());
    let (_, end) = tokio::join!(node.stop(), stopped.end());
    assert_eq!(end.code(), Code::Unavailable, "{end}");
}
