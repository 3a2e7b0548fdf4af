//! Bad input at every door, dead letters, and what the operator does to a queue.

use crate::{
    common::{
        TestNode, event,
        faulty::{Faulty, PUSH, Reply, call, push_body},
        federate, large_event,
    },
    eventually,
};
use bytes::Bytes;
use pillarbox::{
    federation::{EVENT_MAX, SEND_MAX},
    proto::protocol::sync::v1::{
        Event,
        event::{Kind, UserInvited, UserRejectedInvite},
    },
    store::{Change, DeadRow, Direction, Store},
    types::ServerId,
};
use prost::Message;
use tonic::Code;

async fn pair() -> (TestNode, Faulty) {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    (node, faulty)
}

async fn dead(node: &TestNode) -> Vec<DeadRow> {
    node.federation().dead_letters(None, None).await.unwrap()
}

/// An event of a kind that nobody knows yet.
fn unknown() -> Bytes {
    Bytes::from_static(&[0x4a, 0x03, b'n', b'e', b'w'])
}

#[tokio::test]
async fn an_event_that_is_empty_or_too_large_is_refused_and_the_text_names_the_limit() {
    let (node, faulty) = pair().await;
    let largest = Bytes::from(vec![0x4a; EVENT_MAX]);
    let cases = [
        (vec![], "1 to 1024"),
        (vec![event(1); SEND_MAX + 1], "1 to 1024"),
        (vec![event(1), Bytes::new()], "events[1]: it is empty"),
        (vec![Bytes::from(vec![0x4a; EVENT_MAX + 1])], "65536"),
    ];
    for (events, text) in cases {
        let error = node.federation().send(&faulty.id, events).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.to_string().contains(text), "{error}");
    }
    let link = node.dial(false).await;
    for (body, text) in [(Bytes::new(), "empty"), (Bytes::from(vec![0x4a; EVENT_MAX + 1]), "65536")] {
        let status = call(&link, PUSH, Some(&faulty.plain()), push_body(body)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(text), "{status:?}");
    }
    let status = call(&link, PUSH, Some(&faulty.plain()), Bytes::from_static(b"\xff\xff")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // Exactly the limit is taken; what it is worth is another matter.
    call(&link, PUSH, Some(&faulty.plain()), push_body(largest)).await.unwrap();
    assert_eq!(node.peer(&faulty.id).queued(), (0, 0));
}

#[tokio::test]
async fn an_event_for_a_server_that_is_no_peer_is_refused_and_the_text_names_the_way_to_add_it() {
    let node = TestNode::start().await;
    let stranger: ServerId = "stranger.example:7443".parse().unwrap();
    let error = node.federation().send(&stranger, vec![event(1)]).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.to_string().contains("peer add stranger.example:7443"), "{error}");
    let error = node.federation().send(&node.id, vec![event(1)]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(node.federation().peers().is_empty());
}

#[tokio::test]
async fn a_full_queue_refuses_new_events_and_keeps_those_it_has() {
    let node = TestNode::start_with(|config| {
        config.federation.queue_max_events = 5;
        config.federation.queue_max_bytes = bytesize::ByteSize::kib(64);
    })
    .await;
    let faulty = Faulty::start().await;
    faulty.on_push([Reply::Fail(Code::PermissionDenied)]);
    node.add(&faulty.id, faulty.key).await;
    node.send(&faulty.id, 0..4).await;
    eventually!(node.is_queued(&faulty.id).await);
    let refused = [
        (vec![event(4), event(5)], "federation.queue_max_events = 5"),
        (vec![large_event(4, 65_520)], "federation.queue_max_bytes = 65536"),
    ];
    for (events, key) in refused {
        let error = node.federation().send(&faulty.id, events).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.to_string().contains(key), "{error}");
    }
    // What was refused took no room.
    node.send(&faulty.id, 4..5).await;
    node.federation().send(&faulty.id, vec![event(5)]).await.unwrap_err();
    let link = node.dial(false).await;
    assert_eq!(faulty.pull(&link).await.unwrap(), [0, 1, 2, 3, 4]);
    assert!(faulty.pull(&link).await.unwrap().is_empty());
    // What left made room.
    eventually!(node.is_drained(&faulty.id).await);
    node.send(&faulty.id, 5..10).await;
}

#[tokio::test]
async fn an_event_of_an_unknown_kind_is_taken_kept_with_its_bytes_and_blocks_nothing() {
    let (a, (b, faulty)) = (TestNode::start().await, pair().await);
    federate(&a, &b).await;
    a.federation().send(&b.id, vec![event(1), unknown(), event(2)]).await.unwrap();
    assert_eq!(b.log(2).await, [1, 2]);
    // One that is no event at all comes from other servers only.
    let malformed = Bytes::from_static(b"\x0a\xff");
    let refused = a.federation().send(&b.id, vec![event(3), malformed.clone()]).await.unwrap_err();
    assert!(refused.to_string().contains("events[1]: not an Event"), "{refused}");
    faulty.push(&b, malformed.clone()).await.unwrap();
    eventually!(a.is_drained(&b.id).await);
    let letters = dead(&b).await;
    let seen: Vec<_> = letters.iter().rev().map(|row| (row.letter.reason.as_str(), row.letter.body.clone())).collect();
    assert_eq!(seen, [("unknown_kind", unknown()), ("malformed", malformed)]);
    assert!(letters.iter().all(|row| row.letter.direction == Direction::In));
    // It still cannot be applied, and stays.
    let error = b.federation().resend_dead(letters[1].id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(dead(&b).await.len(), 2);
}

#[tokio::test]
async fn an_unknown_kind_is_forwarded_byte_for_byte() {
    let (node, faulty) = pair().await;
    node.federation().send(&faulty.id, vec![unknown()]).await.unwrap();
    eventually!(node.is_drained(&faulty.id).await);
    let body = faulty.attempts().remove(0).body;
    assert!(body.windows(unknown().len()).any(|window| window == &unknown()[..]));
}

#[tokio::test]
async fn a_held_queue_is_neither_pushed_nor_pulled_and_stays_held_over_a_restart() {
    let (mut node, faulty) = pair().await;
    eventually!(faulty.pulls() > 0);
    node.federation().hold(&node.peer(&faulty.id), true).await.unwrap();
    node.send(&faulty.id, 0..3).await;
    for restarted in [false, true] {
        if restarted {
            node.stop().await;
            node.start_again().await;
        }
        assert!(node.view(&faulty.id).await.held);
        let pulls = faulty.pulls();
        eventually!(faulty.pulls() > pulls);
        let link = node.dial(false).await;
        assert!(faulty.pull(&link).await.unwrap().is_empty());
        assert_eq!((faulty.pushes(), node.peer(&faulty.id).queued().0), (0, 3));
    }
    node.federation().hold(&node.peer(&faulty.id), false).await.unwrap();
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), [0, 1, 2]);
}

#[tokio::test]
async fn dropped_events_become_dead_letters_and_an_empty_queue_is_live() {
    let (node, faulty) = pair().await;
    faulty.on_push([Reply::Fail(Code::PermissionDenied)]);
    let first = node.federation().send(&faulty.id, (0..5).map(event).collect()).await.unwrap();
    eventually!(node.is_queued(&faulty.id).await);
    let peer = node.peer(&faulty.id);
    assert_eq!(node.federation().drop_queued(&peer, Some(first + 1)).await.unwrap(), 1);
    let error = node.federation().drop_queued(&peer, Some(first + 1)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let link = node.dial(false).await;
    assert_eq!(faulty.pull(&link).await.unwrap(), [0, 2, 3, 4]);
    assert_eq!(node.federation().drop_queued(&peer, None).await.unwrap(), 4);
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(dead(&node).await.len(), 5);
    assert!(dead(&node).await.iter().all(|row| row.letter.reason == "dropped"));
    node.send(&faulty.id, 5..6).await;
    eventually!(faulty.applied() == [5]);
}

#[tokio::test]
async fn a_dead_letter_of_ours_goes_out_again_as_a_new_row_at_the_end() {
    let (a, mut b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    b.stop().await;
    let first = a.federation().send(&b.id, (0..3).map(event).collect()).await.unwrap();
    eventually!(a.is_queued(&b.id).await);
    a.federation().drop_queued(&a.peer(&b.id), Some(first)).await.unwrap();
    let letter = dead(&a).await.remove(0);
    assert!(a.federation().resend_dead(letter.id).await.unwrap() > first + 2);
    assert!(dead(&a).await.is_empty());
    assert_eq!(a.federation().resend_dead(letter.id).await.unwrap_err().code(), Code::NotFound);
    b.start_again().await;
    assert_eq!(b.log(0).await, [1, 2, 0]);
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn a_removed_peer_leaves_dead_letters_and_one_added_again_is_delivered_to() {
    let (a, mut b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    a.send(&b.id, 0..3).await;
    assert_eq!(b.log(2).await, [0, 1, 2]);
    b.stop().await;
    a.send(&b.id, 3..6).await;
    eventually!(a.is_queued(&b.id).await);

    assert_eq!(a.federation().remove_peer(&a.peer(&b.id)).await.unwrap(), 3);
    let letters = dead(&a).await;
    assert!(letters.iter().all(|row| row.letter.reason == "peer_removed"));
    let error = a.federation().send(&b.id, vec![event(6)]).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let error = a.federation().resend_dead(letters[0].id).await.unwrap_err();
    assert!(error.to_string().contains("peer add"), "{error}");

    b.start_again().await;
    a.add(&b.id, b.key).await;
    for row in letters.iter().rev() {
        a.federation().resend_dead(row.id).await.unwrap();
    }
    a.send(&b.id, 6..8).await;
    assert_eq!(b.log(7).await, Vec::from_iter(0..8));
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn a_receiver_that_was_removed_and_added_again_gets_nothing_twice() {
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    a.send(&b.id, 0..3).await;
    assert_eq!(b.log(2).await, [0, 1, 2]);
    // The receiver's side this time: its mark must outlive the removal.
    b.federation().remove_peer(&b.peer(&a.id)).await.unwrap();
    a.send(&b.id, 3..5).await;
    eventually!(a.is_queued(&b.id).await);
    b.add(&a.id, a.key).await;
    assert_eq!(b.log(4).await, [0, 1, 2, 3, 4]);
    eventually!(a.is_drained(&b.id).await);
}

/// What a peer may have in the list of invites.
const INVITES_MAX: u64 = 100_000;

fn invite(user_id: u64) -> Bytes {
    let invited = UserInvited { user_id, inviter_id: 1, invite_id: "i".into() };
    Event { kind: Some(Kind::UserInvited(invited)) }.encode_to_vec().into()
}

/// The user wants no such invite.
fn rejected(user_id: u64) -> Bytes {
    let rejected = UserRejectedInvite { guild_id: 7, user_id, invite_id: "i".into() };
    Event { kind: Some(Kind::UserRejectedInvite(rejected)) }.encode_to_vec().into()
}

#[tokio::test]
async fn a_peer_that_has_filled_the_list_of_invites_adds_no_more_to_it() {
    let (mut node, faulty) = pair().await;
    let peer = node.peer(&faulty.id).row_id();
    node.stop().await;
    let store = Store::open(&node.config.data_dir).await.unwrap();
    for from in (2..INVITES_MAX).step_by(10_000) {
        let users = from..(from + 10_000).min(INVITES_MAX);
        let put = |user| Change::Invite { user, invite: "i".into(), peer, inviter: Some(1) };
        store.submit(users.map(put).collect::<Vec<_>>()).await.unwrap();
    }
    store.close().await;
    node.start_again().await;
    // An invite that came twice is one row: before a list counts as full its rows are counted.
    for user in [0, 0, 1] {
        faulty.push(&node, invite(user)).await.unwrap();
    }
    assert_eq!(dead(&node).await, []);
    faulty.push(&node, invite(INVITES_MAX)).await.unwrap();
    let letters = dead(&node).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0].letter;
    assert_eq!(
        (letter.reason.as_str(), letter.direction, &letter.body),
        ("list_full", Direction::In, &invite(INVITES_MAX))
    );
    faulty.push(&node, invite(INVITES_MAX + 1)).await.unwrap();
    let refused = node.federation().resend_dead(letters[0].id).await.unwrap_err().to_string();
    assert!(refused.contains("list_full"), "{refused}");
    // It blocks nothing, and what the node sends goes on as before.
    faulty.push(&node, event(5)).await.unwrap();
    node.federation().send(&faulty.id, vec![rejected(3)]).await.unwrap();
    eventually!(faulty.pushes() == 1);

    // One was taken off the list.
    node.stop().await;
    node.start_again().await;
    node.federation().resend_dead(letters[0].id).await.unwrap();
    // So was another one since: the rows are counted before the list counts as full.
    node.federation().send(&faulty.id, vec![rejected(4)]).await.unwrap();
    let second = dead(&node).await[0].id;
    node.federation().resend_dead(second).await.unwrap();
    assert_eq!(dead(&node).await, []);
    // A peer that is removed and comes back has no new list.
    node.federation().remove_peer(&node.peer(&faulty.id)).await.unwrap();
    node.add(&faulty.id, faulty.key).await;
    faulty.push(&node, invite(INVITES_MAX + 2)).await.unwrap();
    assert_eq!(dead(&node).await.len(), 1);
}
