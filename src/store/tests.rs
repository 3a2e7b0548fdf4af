//! Every query of every file is run here at least once: SQLite takes a missing
//! argument for NULL and says nothing.

use super::*;
use crate::types::{Mark, Millis, PeerId, ServerId};
use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

pub(super) const PEER: PeerId = PeerId(1);
pub(super) const OTHER: PeerId = PeerId(2);

/// Never full.
pub(super) fn settings() -> Settings {
    Settings { free_space: Arc::new(|| None), idle: Duration::from_secs(3600) }
}

pub(super) async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path(), settings()).await.unwrap();
    (dir, store)
}

pub(super) fn enqueue(peer: PeerId, id: u64, body: &[u8]) -> Change {
    Change::Enqueue { peer, id, stored_at: Millis(100), body: Bytes::copy_from_slice(body) }
}

pub(super) fn settle(peer: PeerId, number: u64) -> Change {
    Change::Settle { peer, epoch: 1, number, id: number }
}

pub(super) fn mark(peer: PeerId, was: (u64, u64), mark: u64) -> Change {
    Change::Mark { peer, was, now: Mark { epoch: 1, number: mark, id: u64::MAX - mark } }
}

pub(super) fn inbound(peer: PeerId, at: i64, body: &[u8]) -> Change {
    Change::Inbound { peer, received_at: Millis(at), body: Bytes::copy_from_slice(body) }
}

fn letter(peer: PeerId, number: u64, size: usize) -> DeadLetter {
    DeadLetter {
        peer,
        direction: Direction::In,
        reason: "unknown kind".into(),
        died_at: Millis(5),
        number,
        last_number: number,
        row_id: u64::MAX,
        body: vec![7; size].into(),
    }
}

fn id(text: &str) -> ServerId {
    text.parse().unwrap()
}

fn peer_row(peer: PeerId, name: &str) -> PeerRow {
    PeerRow {
        id: peer,
        server_id: id(name),
        origin: PeerOrigin::Operator,
        address: Some(PeerAddress { host: "10.0.0.1".into(), port: 65535 }),
        plaintext: true,
        key: None,
        kind: PeerKind::Pillarbox,
        transport: PeerTransport::Hrpc,
        parcels: true,
        known_as: Some(id("we.example:1")),
        next_id: Some(id("next.example:1")),
        held: false,
        removed: true,
        created_at: Millis(42),
        outbound_ok_at: None,
        inbound_ok_at: Some(Millis(43)),
    }
}

fn key() -> crate::types::PublicKey {
    // The base point of the curve.
    let mut bytes = [0x66; 32];
    bytes[0] = 0x58;
    crate::types::PublicKey::from_bytes(&bytes).unwrap()
}

fn burial(from: u64, through: u64, limit: usize) -> Change {
    Change::BuryRows { peer: PEER, from, through, reason: "dropped".into(), died_at: Millis(9), limit }
}

#[tokio::test]
async fn the_node_keeps_its_id_and_its_former_ones() {
    let (_dir, store) = store().await;
    assert_eq!(store.node().await.unwrap(), NodeRow { server_id: None, port: None, next_number: 1, next_cursor: 1 });
    let op = Op::new()
        .with(Change::PutNode { server_id: id("a.example:1"), port: 7 })
        .with(Change::PutFormerId { server_id: id("a.example:1"), until: Millis(3) })
        .with(Change::PutFormerId { server_id: id("b.example:1"), until: Millis(4) })
        .with(Change::PutFormerId { server_id: id("b.example:1"), until: Millis(5) });
    store.submit(op).await.unwrap();
    assert_eq!(store.node().await.unwrap().server_id, Some(id("a.example:1")));
    assert_eq!(store.former_ids().await.unwrap().len(), 2);

    store.submit(Change::PutNode { server_id: id("b.example:1"), port: 8 }).await.unwrap();
    assert_eq!(store.node().await.unwrap().server_id, Some(id("b.example:1")));
    assert_eq!(store.node().await.unwrap().port, Some(8));
    let former = FormerId { server_id: id("a.example:1"), until: Millis(3) };
    assert_eq!(store.former_ids().await.unwrap(), [former]);
}

#[tokio::test]
async fn a_peer_comes_back_as_it_was_put() {
    let (_dir, store) = store().await;
    let first = peer_row(PEER, "p.example:1");
    let mut second = peer_row(OTHER, "q.example:1");
    second.address = None;
    second.key = Some(PeerKey { key: key(), origin: KeyOrigin::Learnt });
    second.outbound_ok_at = Some(Millis(1));
    for row in [&first, &second] {
        store.submit(Change::PutPeer(row.clone().into())).await.unwrap();
    }
    assert_eq!(store.peers().await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.peer(OTHER).await.unwrap(), Some(second));
    assert_eq!(store.peer(PeerId(3)).await.unwrap(), None);

    let changed = PeerRow {
        origin: PeerOrigin::Learnt,
        address: None,
        plaintext: false,
        key: Some(PeerKey { key: key(), origin: KeyOrigin::Operator }),
        kind: PeerKind::Stock,
        transport: PeerTransport::Grpc,
        parcels: false,
        known_as: None,
        next_id: None,
        held: true,
        removed: false,
        created_at: Millis(44),
        ..first.clone()
    };
    let put = PeerRow { server_id: id("x.example:1"), inbound_ok_at: None, ..changed.clone() };
    store.submit(Change::PutPeer(put.into())).await.unwrap();
    assert_eq!(store.peer(PEER).await.unwrap(), Some(changed), "all but the name and the moments is replaced");
}

#[tokio::test]
async fn two_peers_cannot_have_one_name() {
    let (_dir, store) = store().await;
    store.submit(Change::PutPeer(peer_row(PEER, "p.example:1").into())).await.unwrap();
    let taken = store.submit(Change::PutPeer(peer_row(OTHER, "p.example:1").into())).await;
    assert!(matches!(taken, Err(Error::Conflict(_))), "{taken:?}");
    store.submit(Change::PutPeer(peer_row(OTHER, "q.example:1").into())).await.unwrap();
    let taken = store.submit(Change::RenamePeer { peer: OTHER, new_id: id("p.example:1") }).await;
    assert!(matches!(taken, Err(Error::Conflict(_))), "{taken:?}");
    assert_eq!(store.peer_former_ids().await.unwrap(), [], "nothing of a refused op stays");
}

#[tokio::test]
async fn a_renamed_peer_keeps_its_rows_and_its_former_names() {
    let (_dir, store) = store().await;
    store.submit(Change::PutPeer(peer_row(PEER, "p.example:1").into())).await.unwrap();
    store.submit(enqueue(PEER, 1, b"x")).await.unwrap();
    for name in ["q.example:1", "r.example:1", "p.example:1"] {
        store.submit(Change::RenamePeer { peer: PEER, new_id: id(name) }).await.unwrap();
    }
    assert_eq!(store.peer(PEER).await.unwrap().unwrap().server_id, id("p.example:1"));
    let former = [(PEER, id("q.example:1")), (PEER, id("r.example:1"))];
    assert_eq!(store.peer_former_ids().await.unwrap(), former);
    assert_eq!(store.outbox_page(PEER, 0, 10, 10).await.unwrap().len(), 1);
    let missing = store.submit(Change::RenamePeer { peer: OTHER, new_id: id("z.example:1") }).await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
}

#[tokio::test]
async fn a_touch_moves_only_the_moment_it_names() {
    let (_dir, store) = store().await;
    let peers: Vec<PeerId> = (1..=73).map(PeerId).collect();
    for peer in &peers {
        let name = format!("p{}.example:1", peer.0);
        store.submit(Change::PutPeer(peer_row(*peer, &name).into())).await.unwrap();
    }
    let touch = |peer: &PeerId| PeerTouch { peer: *peer, outbound_ok_at: Some(Millis(peer.0)), inbound_ok_at: None };
    store.submit(Change::TouchPeers(peers.iter().map(touch).collect())).await.unwrap();
    for row in store.peers().await.unwrap() {
        assert_eq!((row.outbound_ok_at, row.inbound_ok_at), (Some(Millis(row.id.0)), Some(Millis(43))));
    }
}

#[tokio::test]
async fn streams_are_kept_for_each_peer() {
    let (_dir, store) = store().await;
    let stream = StreamOut { epoch: u64::MAX, settled: 3, settled_id: u64::MAX - 1, queued: true };
    store.submit(Change::PutOut { peer: PEER, stream }).await.unwrap();
    store.submit(Op::from(vec![enqueue(OTHER, 1, b"x"), settle(OTHER, 1)])).await.unwrap();
    let other = StreamOut { epoch: 1, settled: 1, settled_id: 1, queued: false };
    assert_eq!(store.streams_out().await.unwrap(), [(PEER, stream), (OTHER, other)]);
    assert_eq!(store.stream_out(PEER).await.unwrap(), stream);
    assert_eq!(store.stream_out(PeerId(3)).await.unwrap(), StreamOut::default());

    store.submit(settle(PEER, 1)).await.unwrap();
    let settled = StreamOut { epoch: 1, settled: 1, settled_id: 1, queued: true };
    assert_eq!(store.stream_out(PEER).await.unwrap(), settled, "a settle leaves `queued` as it is");

    store.submit(mark(PEER, (0, 0), 5)).await.unwrap();
    store.submit(mark(PEER, (1, 5), 6)).await.unwrap();
    let stream = Mark { epoch: 1, number: 6, id: u64::MAX - 6 };
    assert_eq!(store.stream_in(PEER).await.unwrap(), stream);
    assert_eq!(store.stream_in(OTHER).await.unwrap(), Mark::default());
    assert_eq!(store.streams_in().await.unwrap(), [(PEER, stream)]);
}

#[tokio::test]
async fn a_conflicting_mark_leaves_nothing_of_its_op() {
    let (_dir, store) = store().await;
    store.submit(mark(PEER, (0, 0), 5)).await.unwrap();
    let op = vec![inbound(PEER, 1, b"x"), enqueue(OTHER, 1, b"x"), mark(PEER, (1, 4), 6)];
    let refused = store.submit(op).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    assert_eq!(store.inbound_range().await.unwrap(), None);
    assert_eq!(store.outbox_totals().await.unwrap(), []);
    assert_eq!(store.node().await.unwrap().next_number, 1);
}

#[tokio::test]
async fn a_page_is_bounded_by_rows_and_by_bytes_and_has_one_row_at_least() {
    let (_dir, store) = store().await;
    for size in [30, 1, 1, 0, 5, 1] {
        store
            .submit(Op::from(vec![enqueue(PEER, size, &vec![1; size as usize]), enqueue(OTHER, 9, b"other")]))
            .await
            .unwrap();
    }
    let page = async |after, rows, bytes| -> Vec<u64> {
        store.outbox_page(PEER, after, rows, bytes).await.unwrap().iter().map(|row| row.id).collect()
    };
    assert_eq!(page(0, 10, 100).await, [30, 1, 1, 0, 5, 1]);
    assert_eq!(page(0, 10, 10).await, [30], "the first row comes whatever its size");
    assert_eq!(page(0, 10, 31).await, [30, 1]);
    assert_eq!(page(1, 10, 2).await, [1, 1, 0]);
    assert_eq!(page(1, 2, 100).await, [1, 1]);
    assert_eq!(page(11, 10, 100).await, [0u64; 0]);
    assert_eq!(page(u64::MAX, 10, 100).await, [0u64; 0]);
    assert_eq!(page(0, 0, 100).await, [0u64; 0]);
    let row = &store.outbox_page(PEER, 0, 1, 1).await.unwrap()[0];
    assert_eq!((row.number, row.peer, row.stored_at, row.body.as_ref()), (1, PEER, Millis(100), [1; 30].as_slice()));
    assert_eq!(store.outbox_row(1).await.unwrap().as_ref(), Some(row));
    assert_eq!(store.outbox_row(99).await.unwrap(), None);
}

#[tokio::test]
async fn totals_count_what_waits_for_each_peer() {
    let (_dir, store) = store().await;
    store.submit(vec![enqueue(PEER, 1, b"12"), enqueue(OTHER, 2, b"1"), enqueue(PEER, 3, b"345")]).await.unwrap();
    let peer = QueueTotal { peer: PEER, rows: 2, bytes: 5, oldest: 1, newest: 3 };
    let other = QueueTotal { peer: OTHER, rows: 1, bytes: 1, oldest: 2, newest: 2 };
    assert_eq!(store.outbox_totals().await.unwrap(), [peer, other]);
    assert_eq!(store.outbox_total(OTHER).await.unwrap(), Some(other));
    assert_eq!(store.outbox_total(PeerId(77)).await.unwrap(), None);
}

#[tokio::test]
async fn a_settle_deletes_the_rows_of_its_peer_and_counts_them() {
    let (_dir, store) = store().await;
    store.submit(vec![enqueue(PEER, 1, b"12"), enqueue(OTHER, 2, b"1"), enqueue(PEER, 3, b"345")]).await.unwrap();
    let done = store.submit(settle(PEER, 2)).await.unwrap();
    assert_eq!(done.gone, [Gone { rows: 1, bytes: 2 }]);
    assert_eq!(store.outbox_row(1).await.unwrap(), None);
    assert!(store.outbox_row(2).await.unwrap().is_some() && store.outbox_row(3).await.unwrap().is_some());
    assert_eq!(store.submit(settle(PEER, 2)).await.unwrap().gone, [Gone::default()]);
}

#[tokio::test]
async fn the_id_under_which_a_row_was_sent_is_known_until_the_row_is_forgotten() {
    let (_dir, store) = store().await;
    store.submit(vec![enqueue(PEER, u64::MAX, b"x"), enqueue(PEER, 8, b"x"), enqueue(OTHER, 9, b"x")]).await.unwrap();
    store.submit(burial(2, 2, 10)).await.unwrap();
    store.submit(Change::Bury(letter(PEER, 77, 1))).await.unwrap();
    assert_eq!(store.sent_id(PEER, 1).await.unwrap(), Some(u64::MAX));
    assert_eq!(store.sent_id(PEER, 2).await.unwrap(), Some(8), "a dead letter counts");
    assert_eq!(store.sent_id(PEER, 3).await.unwrap(), None, "another peer's row");
    assert_eq!(store.sent_id(PEER, 77).await.unwrap(), None, "an inbound letter was not sent");
    store.submit(settle(PEER, 1)).await.unwrap();
    assert_eq!(store.sent_id(PEER, 1).await.unwrap(), None);
}

#[tokio::test]
async fn the_local_log_is_read_by_pages_and_wakes_after_the_commit() {
    let (_dir, store) = store().await;
    let mut head = store.inbound_head();
    assert_eq!((*head.borrow_and_update(), store.inbound_range().await.unwrap()), (0, None));
    let done = store.submit(vec![inbound(PEER, 1, b"12"), inbound(OTHER, 2, b"345")]).await.unwrap();
    assert_eq!(done.cursors, 1..3);
    assert!(head.has_changed().unwrap());
    assert_eq!(*head.borrow_and_update(), 2);
    store.submit(enqueue(PEER, 1, b"x")).await.unwrap();
    assert!(!head.has_changed().unwrap(), "nobody is woken for nothing");
    assert_eq!(store.inbound_range().await.unwrap(), Some(1..=2));
    let page = store.inbound_page(0, 10, 100).await.unwrap();
    let second = InboundRow { cursor: 2, peer: OTHER, received_at: Millis(2), body: Bytes::from_static(b"345") };
    assert_eq!((page.len(), &page[1]), (2, &second));
    assert_eq!(store.inbound_page(0, 10, 4).await.unwrap().len(), 1);
    assert_eq!(store.inbound_page(0, 1, 100).await.unwrap().len(), 1);
    assert_eq!(store.inbound_page(1, 10, 0).await.unwrap(), [second]);
}

#[tokio::test]
async fn the_log_is_trimmed_from_its_old_end_a_thousand_rows_at_a_time() {
    let (_dir, store) = store().await;
    let rows = ROWS_AN_OP as i64 + 10;
    store.submit((0..rows).map(|at| inbound(PEER, at, b"12")).collect::<Vec<_>>()).await.unwrap();
    let trim = |before| Change::TrimInbound { received_before: Millis(before) };
    assert_eq!(store.submit(trim(0)).await.unwrap().gone, [Gone::default()]);
    let whole = Gone { rows: ROWS_AN_OP as u64, bytes: 2 * ROWS_AN_OP as u64 };
    assert_eq!(store.submit(trim(rows - 2)).await.unwrap().gone, [whole]);
    assert_eq!(store.submit(trim(rows - 2)).await.unwrap().gone, [Gone { rows: 8, bytes: 16 }]);
    let newest = rows as u64;
    assert_eq!(store.inbound_range().await.unwrap(), Some(newest - 1..=newest));
}

#[tokio::test]
async fn buried_rows_keep_number_id_and_bytes() {
    let (_dir, store) = store().await;
    store.submit((1..=5).map(|n| enqueue(PEER, n, b"ab")).collect::<Vec<_>>()).await.unwrap();
    store.submit(enqueue(OTHER, 6, b"ab")).await.unwrap();
    assert_eq!(store.submit(burial(2, 6, 2)).await.unwrap().gone, [Gone { rows: 2, bytes: 4 }]);
    let page = store.dead_page(None, None, 10).await.unwrap();
    let expected = DeadLetter {
        peer: PEER,
        direction: Direction::Out,
        reason: "dropped".into(),
        died_at: Millis(9),
        number: 3,
        last_number: 3,
        row_id: 3,
        body: Bytes::from_static(b"ab"),
    };
    assert_eq!((page.len(), &page[0].letter), (2, &expected), "the newest first");
    assert_eq!(store.submit(burial(0, u64::MAX, 10)).await.unwrap().gone, [Gone { rows: 3, bytes: 6 }]);
    assert_eq!(store.submit(burial(0, u64::MAX, 10)).await.unwrap().gone, [Gone::default()]);
    assert!(store.outbox_row(6).await.unwrap().is_some(), "another peer's row stays");
    assert_eq!(store.submit(burial(0, u64::MAX, 0)).await.unwrap().gone, [Gone::default()]);
}

#[tokio::test]
async fn only_the_old_head_of_a_queue_expires() {
    let (_dir, store) = store().await;
    let row = |at| Change::Enqueue { peer: PEER, id: 1, stored_at: Millis(at), body: Bytes::from_static(b"x") };
    store.submit(vec![row(1), row(2), row(9), row(3)]).await.unwrap();
    let expire = |before, limit| Change::BuryOlder {
        peer: PEER,
        stored_before: Millis(before),
        reason: "expired".into(),
        died_at: Millis(10),
        limit,
    };
    assert_eq!(store.submit(expire(1, 10)).await.unwrap().gone, [Gone::default()]);
    assert_eq!(store.submit(expire(5, 1)).await.unwrap().gone, [Gone { rows: 1, bytes: 1 }]);
    assert_eq!(store.submit(expire(5, 10)).await.unwrap().gone, [Gone { rows: 1, bytes: 1 }]);
    assert_eq!(store.outbox_totals().await.unwrap()[0].oldest, 3);
}

#[tokio::test]
async fn one_burial_is_bounded_in_rows_and_bytes() {
    let (_dir, store) = store().await;
    store.submit((0..ROWS_AN_OP + 1).map(|_| enqueue(PEER, 1, b"")).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(store.submit(burial(0, u64::MAX, usize::MAX)).await.unwrap().gone[0].rows, ROWS_AN_OP as u64);
    store.submit(burial(0, u64::MAX, usize::MAX)).await.unwrap();
    let large = vec![0; 3 << 19];
    store.submit((0..3).map(|_| enqueue(PEER, 1, &large)).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(store.submit(burial(0, u64::MAX, 10)).await.unwrap().gone[0].rows, 2);
}

#[tokio::test]
async fn dead_letters_are_read_back_and_dropped_once() {
    let (_dir, store) = store().await;
    let letters = [letter(PEER, 1, 3), letter(OTHER, u64::MAX, 0), letter(PEER, 3, 5)];
    store.submit(letters.iter().cloned().map(Change::Bury).collect::<Vec<_>>()).await.unwrap();
    let ids = async |peer, before, limit| -> Vec<i64> {
        store.dead_page(peer, before, limit).await.unwrap().iter().map(|row| row.id).collect()
    };
    assert_eq!(ids(None, None, 10).await, [3, 2, 1]);
    assert_eq!(ids(None, Some(3), 1).await, [2]);
    assert_eq!(ids(Some(PEER), None, 10).await, [3, 1]);
    assert_eq!(ids(Some(PEER), Some(3), 10).await, [1]);
    assert_eq!(store.dead(2).await.unwrap().unwrap().letter, letters[1]);
    assert_eq!(store.dead(9).await.unwrap(), None);
    let totals = [DeadTotal { peer: PEER, rows: 2, bytes: 8 }, DeadTotal { peer: OTHER, rows: 1, bytes: 0 }];
    assert_eq!(store.dead_totals().await.unwrap(), totals);

    let resend = || Op::from(vec![Change::DropDead { id: 1 }, enqueue(PEER, 1, b"abc")]);
    let done = store.submit(resend()).await.unwrap();
    assert_eq!((done.numbers, done.gone), (1..2, vec![Gone { rows: 1, bytes: 3 }]));
    let twice = store.submit(resend()).await;
    assert!(matches!(twice, Err(Error::NotFound(_))), "{twice:?}");
    assert_eq!(store.outbox_totals().await.unwrap()[0].rows, 1, "sent again once only");
}

#[tokio::test]
async fn trimming_takes_the_oldest_of_the_peer_that_holds_most() {
    let (_dir, store) = store().await;
    let letters = [(OTHER, 1, 50), (PEER, 1, 1), (PEER, 2, 1), (PEER, 3, 1), (OTHER, 2, 50)];
    store.submit(letters.map(|(peer, n, size)| Change::Bury(letter(peer, n, size))).to_vec()).await.unwrap();
    let left = async || -> Vec<(PeerId, u64)> {
        let page = store.dead_page(None, None, 10).await.unwrap();
        page.iter().rev().map(|row| (row.letter.peer, row.letter.number)).collect()
    };
    let trim = |max_rows, max_bytes| Change::TrimDead { max_rows, max_bytes };
    assert_eq!(store.submit(trim(5, 103)).await.unwrap().gone, [Gone::default()]);
    assert_eq!(store.submit(trim(4, 1000)).await.unwrap().gone, [Gone { rows: 1, bytes: 1 }]);
    assert_eq!(left().await, [(OTHER, 1), (PEER, 2), (PEER, 3), (OTHER, 2)]);
    assert_eq!(store.submit(trim(4, 60)).await.unwrap().gone, [Gone { rows: 1, bytes: 50 }]);
    assert_eq!(left().await, [(PEER, 2), (PEER, 3), (OTHER, 2)]);
    assert_eq!(store.submit(trim(0, 0)).await.unwrap().gone, [Gone { rows: 3, bytes: 52 }]);
    store.submit((0..1010).map(|n| Change::Bury(letter(PEER, n, 0))).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(store.submit(trim(5, 0)).await.unwrap().gone[0].rows, ROWS_AN_OP as u64);
    assert_eq!(store.submit(trim(5, 0)).await.unwrap().gone[0].rows, 5);
    assert_eq!(left().await.first(), Some(&(PEER, 1005)));
}

#[tokio::test]
async fn guilds_and_invites_follow_the_last_word() {
    let (_dir, store) = store().await;
    let guild = |guild, peer, member| Change::Guild { user: u64::MAX, guild, peer, member };
    let invite = |invite: &str, inviter| Change::Invite { user: 1, invite: invite.into(), peer: PEER, inviter };
    store.submit((0..80).map(|at| guild(at, PEER, true)).collect::<Vec<_>>()).await.unwrap();
    store.submit(vec![guild(u64::MAX, OTHER, true), guild(5, OTHER, true), guild(5, OTHER, false)]).await.unwrap();
    store.submit(vec![guild(0, PEER, true), guild(1, PEER, false), guild(1, OTHER, false)]).await.unwrap();
    let guilds = store.guilds(u64::MAX).await.unwrap();
    assert_eq!(guilds.len(), 80);
    assert!(guilds.contains(&(u64::MAX, OTHER)) && guilds.contains(&(0, PEER)) && !guilds.contains(&(1, PEER)));
    assert_eq!(store.guilds(0).await.unwrap(), []);

    store.submit(vec![invite("a", Some(1)), invite("b", Some(2)), invite("a", Some(u64::MAX))]).await.unwrap();
    store.submit(vec![invite("b", None), invite("c", None)]).await.unwrap();
    let left = InviteRow { invite: "a".into(), peer: PEER, inviter: u64::MAX };
    assert_eq!(store.invites(1).await.unwrap(), [left]);
    store.submit(invite("ä✉", Some(1))).await.unwrap();
    let totals = store.list_totals().await.unwrap();
    assert_eq!(totals[&PEER], ListTotal { guilds: 79, invites: 2, invite_bytes: 6 });
    assert_eq!(totals[&OTHER], ListTotal { guilds: 1, invites: 0, invite_bytes: 0 });
    assert_eq!(totals.len(), 2);
    store.submit((0..80).map(|at| guild(at, PEER, false)).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(store.guilds(u64::MAX).await.unwrap(), [(u64::MAX, OTHER)]);
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_until_it_is_revoked() {
    let (_dir, store) = store().await;
    let token = |n: u8| TokenRow {
        hash: [n; 32],
        id: format!("t{n}"),
        principal: "service:home".into(),
        user: None,
        created_at: Millis(i64::from(n)),
        expires_at: (n == 2).then_some(Millis(99)),
        last_used_at: None,
        user_agent: None,
    };
    for n in [2, 1] {
        store.submit(Change::PutToken(token(n))).await.unwrap();
    }
    for taken in [TokenRow { id: "new".into(), ..token(1) }, TokenRow { hash: [9; 32], ..token(1) }] {
        let refused = store.submit(Change::PutToken(taken)).await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    }
    assert_eq!(store.tokens().await.unwrap(), [token(1), token(2)]);
    let used =
        |n, at, agent: Option<&str>| TokenUse { hash: [n; 32], at: Millis(at), user_agent: agent.map(str::to_owned) };
    let uses = vec![used(1, 50, Some("phone")), used(7, 51, None), used(1, 52, None)];
    store.submit(Change::TouchTokens(uses)).await.unwrap();
    let touched = TokenRow { last_used_at: Some(Millis(52)), user_agent: Some("phone".into()), ..token(1) };
    assert_eq!(store.token_by_hash(&[1; 32]).await.unwrap(), Some((touched, None)));
    let revoke = || Change::RevokeToken { id: "t1".into(), user: None };
    store.submit(revoke()).await.unwrap();
    assert_eq!(store.token_by_hash(&[1; 32]).await.unwrap(), None);
    let twice = store.submit(revoke()).await;
    assert!(matches!(twice, Err(Error::NotFound(_))), "{twice:?}");
}

#[tokio::test]
async fn the_file_is_made_as_the_design_says() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = store().await;
    store.submit(enqueue(PEER, 1, b"x")).await.unwrap();
    for name in ["pillarbox.db", "pillarbox.db-wal"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let mut writer = writing(&dir.path().join("pillarbox.db"), disk::Bounds::of(None)).connect().await.unwrap();
    for (pragma, expected) in [("auto_vacuum", "2"), ("journal_mode", "wal"), ("synchronous", "2")] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}"));
        let found: String = sqlx::query_scalar(sql).fetch_one(&mut writer).await.unwrap();
        assert_eq!(found, expected, "{pragma}");
    }
}

#[tokio::test]
async fn pages_and_totals_are_found_by_index() {
    let (dir, store) = store().await;
    let mut reader = reading(&dir.path().join("pillarbox.db")).connect().await.unwrap();
    let searches = [
        "SELECT peer, count(*), sum(size), min(number), max(number) FROM outbox GROUP BY peer ORDER BY peer",
        "SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE peer = $1 AND number BETWEEN $2 AND $3",
        "SELECT peer, count(*), sum(size) FROM dead GROUP BY peer ORDER BY peer",
        "SELECT id, size FROM dead WHERE peer = $1 AND id > $2 ORDER BY id LIMIT $3",
    ];
    let plan = async |reader: &mut sqlx::SqliteConnection, sql: &str| -> String {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(reader).await.unwrap();
        steps.into_iter().map(|(.., step)| step).collect::<Vec<_>>().join("; ")
    };
    for sql in searches {
        let found = plan(&mut reader, sql).await;
        assert!(found.contains("COVERING INDEX") && !found.contains("TEMP B-TREE"), "{sql}: {found}");
    }
    let page = "SELECT number, body FROM outbox WHERE peer = $1 AND number > $2 ORDER BY number LIMIT $3";
    let found = plan(&mut reader, page).await;
    assert_eq!(found, "SEARCH outbox USING INDEX outbox_queue (peer=? AND number>?)");
    let remove = "DELETE FROM guild WHERE (user_id, guild_id, peer) IN (VALUES ($1, $2, $3), ($4, $5, $6))";
    let found = plan(&mut reader, remove).await;
    assert!(found.contains("SEARCH guild USING"), "{found}");
    drop(store);
}

#[tokio::test]
async fn numbers_never_repeat_even_when_every_row_is_gone() {
    let (dir, store) = store().await;
    let done =
        store.submit(vec![enqueue(PEER, 1, b"x"), enqueue(PEER, 2, b"x"), inbound(PEER, 1, b"x")]).await.unwrap();
    assert_eq!((done.numbers, done.cursors), (1..3, 1..2));
    store.submit(settle(PEER, 2)).await.unwrap();
    store.submit(Change::TrimInbound { received_before: Millis(9) }).await.unwrap();
    store.close().await;
    let store = Store::open_with(dir.path(), settings()).await.unwrap();
    assert_eq!(*store.inbound_head().borrow(), 1);
    let done = store.submit(vec![enqueue(PEER, 1, b"x"), inbound(PEER, 1, b"x")]).await.unwrap();
    assert_eq!((done.numbers, done.cursors), (3..4, 2..3));
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_files_without_a_close() {
    let (dir, store) = store().await;
    store.submit((0..100).map(|n| enqueue(PEER, n, b"x")).collect::<Vec<_>>()).await.unwrap();
    // The files as a crash would leave them at this moment.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["pillarbox.db", "pillarbox.db-wal"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    let after = Store::open_with(crashed.path(), settings()).await.unwrap();
    assert_eq!(after.outbox_totals().await.unwrap()[0].rows, 100);
    assert_eq!(after.submit(enqueue(PEER, 1, b"x")).await.unwrap().numbers, 101..102);
}

#[tokio::test]
async fn closing_commits_what_waits_and_empties_the_wal() {
    let (dir, store) = store().await;
    let last = tokio::spawn({
        let store = store.clone();
        async move { store.submit(enqueue(PEER, 1, b"x")).await }
    });
    tokio::task::yield_now().await;
    tokio::join!(store.close(), store.close());
    assert_eq!(last.await.unwrap().unwrap().numbers, 1..2);
    assert!(!dir.path().join("pillarbox.db-wal").exists());
    let refused = store.submit(enqueue(PEER, 1, b"x")).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let refused = store.outbox_totals().await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
}

#[tokio::test]
async fn dead_letters_are_read_in_bounded_pages_and_those_sent_also_oldest_first() {
    let (_dir, store) = store().await;
    let letter = |direction, size: usize| {
        Change::Bury(DeadLetter {
            peer: PEER,
            direction,
            reason: "dropped".into(),
            died_at: Millis(1),
            number: 1,
            last_number: 1,
            row_id: 1,
            body: vec![7; size].into(),
        })
    };
    assert_eq!(store.newest_dead(PEER).await.unwrap(), 0);
    let sizes = [(Direction::Out, 700_000), (Direction::In, 9), (Direction::Out, 0), (Direction::Out, 700_000)];
    store.submit(sizes.map(|(direction, size)| letter(direction, size)).to_vec()).await.unwrap();
    assert_eq!((store.newest_dead(PEER).await.unwrap(), store.newest_dead(OTHER).await.unwrap()), (4, 0));
    let ids = |page: Vec<DeadRow>| page.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(store.dead_page(None, None, 10).await.unwrap()), [4, 3, 2]);
    assert_eq!(ids(store.dead_page(Some(PEER), Some(2), 10).await.unwrap()), [1]);
    assert_eq!(ids(store.dead_sent(PEER, 0, 10, 1 << 20).await.unwrap()), [1]);
    assert_eq!(ids(store.dead_sent(PEER, 0, 10, 2 << 20).await.unwrap()), [1, 4]);
    assert_eq!(ids(store.dead_sent(PEER, 1, 10, 1).await.unwrap()), [4]);
    assert!(store.dead_sent(OTHER, 0, 10, 1 << 20).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let (dir, store) = store().await;
    store.close().await;
    let mut writer = writing(&dir.path().join("pillarbox.db"), disk::Bounds::of(None)).connect().await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations SELECT 9999, 'later', installed_on, 1, checksum, 0 FROM _sqlx_migrations LIMIT 1",
    )
    .execute(&mut writer)
    .await
    .unwrap();
    let refused = Store::open_with(dir.path(), settings()).await.err();
    assert!(matches!(&refused, Some(Error::Precondition(text)) if text.contains("9999")), "{refused:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pillarbox.db");
    let text = b"this is not a database, whatever its name says".repeat(100);
    std::fs::write(&path, &text).unwrap();
    assert!(matches!(Store::open_with(dir.path(), settings()).await.err(), Some(Error::Internal(_))));
    assert_eq!(std::fs::read(&path).unwrap(), text);
    assert!(matches!(Store::open(&dir.path().join("nowhere")).await.err(), Some(Error::Unavailable { .. })));
}

/// Small ranges, so that the changes meet.
fn change() -> impl Strategy<Value = Change> {
    let peer = || (1..3i64).prop_map(PeerId);
    let stream = (0..3u64, 0..8u64, 0..3u64, any::<bool>());
    let put_out = (peer(), stream).prop_map(|(peer, (epoch, settled, settled_id, queued))| Change::PutOut {
        peer,
        stream: StreamOut { epoch, settled, settled_id, queued },
    });
    let marks = (peer(), (0..2u64, 0..3u64), (0..2u64, 0..3u64)).prop_map(|(peer, was, (epoch, mark))| Change::Mark {
        peer,
        was,
        now: Mark { epoch, number: mark, id: mark },
    });
    let guild = (0..2u64, 0..3u64, peer(), any::<bool>()).prop_map(|(user, guild, peer, member)| Change::Guild {
        user,
        guild,
        peer,
        member,
    });
    let invite = (0..2u64, "[ab]", peer(), proptest::option::of(0..3u64))
        .prop_map(|(user, invite, peer, inviter)| Change::Invite { user, invite, peer, inviter });
    let touch =
        (peer(), proptest::option::of(0..9i64), proptest::option::of(0..9i64)).prop_map(|(peer, out, inbound)| {
            Change::TouchPeers(vec![PeerTouch {
                peer,
                outbound_ok_at: out.map(Millis),
                inbound_ok_at: inbound.map(Millis),
            }])
        });
    let bury = (peer(), 0..9u64, 0..4usize).prop_map(|(peer, number, size)| Change::Bury(letter(peer, number, size)));
    let bury_rows = (0..9u64, 0..9u64, 0..4usize).prop_map(|(from, through, limit)| burial(from, through, limit));
    prop_oneof![
        6 => (peer(), any::<u64>(), 0..4usize).prop_map(|(peer, id, size)| enqueue(peer, id, &vec![1; size])),
        3 => (peer(), 0..12u64).prop_map(|(peer, number)| settle(peer, number)),
        2 => put_out,
        3 => marks,
        2 => (peer(), 0..9i64).prop_map(|(peer, at)| inbound(peer, at, b"event")),
        2 => guild,
        2 => invite,
        1 => touch,
        1 => (0..2u8, 0..9i64, proptest::option::of("[ab]")).prop_map(|(n, at, user_agent)| {
            Change::TouchTokens(vec![TokenUse { hash: [n; 32], at: Millis(at), user_agent }])
        }),
        1 => bury,
        1 => bury_rows,
        1 => (1..4i64).prop_map(|id| Change::DropDead { id }),
    ]
}

/// All that can be read.
async fn everything(store: &Store) -> String {
    let mut text = format!("{:?}\n{:?}\n", store.node().await.unwrap(), store.peers().await.unwrap());
    for peer in [PEER, OTHER] {
        text += &format!("{:?}\n", store.outbox_page(peer, 0, 1000, usize::MAX).await.unwrap());
    }
    text += &format!("{:?}\n{:?}\n", store.streams_out().await.unwrap(), store.streams_in().await.unwrap());
    text += &format!("{:?}\n", store.inbound_page(0, 1000, usize::MAX).await.unwrap());
    text += &format!("{:?}\n{:?}\n", store.dead_page(None, None, 1000).await.unwrap(), store.tokens().await.unwrap());
    for user in 0..2 {
        text += &format!("{:?}\n{:?}\n", store.guilds(user).await.unwrap(), store.invites(user).await.unwrap());
    }
    text
}

async fn seeded() -> (TempDir, Store) {
    let (dir, store) = store().await;
    let token = TokenRow {
        hash: [1; 32],
        id: "t".into(),
        principal: "service:s".into(),
        user: None,
        created_at: Millis(0),
        expires_at: None,
        last_used_at: None,
        user_agent: None,
    };
    store.submit(Change::PutToken(token)).await.unwrap();
    store.submit(Change::PutPeer(peer_row(PEER, "p.example:1").into())).await.unwrap();
    (dir, store)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_does_what_its_ops_do_one_after_the_other(
        lists in proptest::collection::vec(proptest::collection::vec(change(), 0..4), 1..24)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ops: Vec<Op> = lists.into_iter().map(Op::from).collect();
            let (_dir, singly) = seeded().await;
            let mut expected = Vec::new();
            for op in &ops {
                expected.push(singly.submit(op.clone()).await);
            }
            let (_dir, together) = seeded().await;
            let results = together.writer.submit_together(ops).await;
            for (result, expected) in results.iter().zip(&expected) {
                match (result, expected) {
                    (Ok(result), Ok(expected)) => {
                        assert_eq!((&result.numbers, &result.cursors), (&expected.numbers, &expected.cursors));
                        assert_eq!(result.gone.len(), expected.gone.len());
                    }
                    (result, expected) => assert_eq!(result, expected),
                }
            }
            let gone = |results: &[Result<Done, Error>]| -> (u64, u64) {
                let all = results.iter().flatten().flat_map(|done| &done.gone);
                all.fold((0, 0), |sum, gone| (sum.0 + gone.rows, sum.1 + gone.bytes))
            };
            assert_eq!(gone(&results), gone(&expected), "what left is told once, whoever is told");
            assert_eq!(everything(&together).await, everything(&singly).await);
            singly.close().await;
            together.close().await;
        });
    }
}
