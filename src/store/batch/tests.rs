//! Tests of `store/batch`.

use super::*;

const PEER: PeerId = PeerId(1);
const START: Counters =
    Counters { number: 10, cursor: 20, created: 30, push: push::Log { next: 2, total: 0, open: false } };

fn batch(streams: &[(PeerId, Mark)]) -> Batch<'static> {
    let arrivals = Box::leak(Box::new(Arrivals::new(START.created, relay::chain::Heads::default())));
    let said = Box::leak(Box::default());
    Batch::new(START, Box::leak(Box::new(streams.iter().copied().collect())), arrivals, said)
}

fn enqueue(id: u64) -> Change {
    Change::Enqueue { peer: PEER, id, stored_at: Millis(1), body: Bytes::from_static(b"body") }
}

fn settle(number: u64) -> Change {
    Change::Settle { peer: PEER, epoch: 7, number, id: number }
}

fn mark(was: (u64, u64), epoch: u64, mark: u64) -> Change {
    Change::Mark { peer: PEER, was, now: Mark { epoch, number: mark, id: mark } }
}

#[test]
fn numbers_follow_the_order_of_the_ops() {
    let mut batch = batch(&[]);
    assert_eq!(batch.admit(&[enqueue(1), enqueue(2)], 0).unwrap().numbers, 10..12);
    assert_eq!(batch.admit(&[], 1).unwrap().numbers, 12..12);
    assert_eq!(batch.admit(&[enqueue(3)], 2).unwrap().numbers, 12..13);
    assert_eq!(batch.outbox.iter().map(|row| (row.number, row.id)).collect::<Vec<_>>(), [(10, 1), (11, 2), (12, 3)]);
}

#[test]
fn guards_chain_within_an_op_and_within_a_batch() {
    let mut batch = batch(&[(PEER, Mark { epoch: 1, number: 5, id: 5 })]);
    batch.admit(&[mark((1, 5), 1, 6), mark((1, 6), 2, 0)], 0).unwrap();
    batch.admit(&[mark((2, 0), 2, 1)], 1).unwrap();
    assert!(matches!(batch.admit(&[mark((1, 5), 1, 6)], 2), Err(Error::Conflict(_))));
    assert_eq!(batch.stream_in(PEER), Mark { epoch: 2, number: 1, id: 1 });
}

#[test]
fn no_row_stands_at_epoch_0_mark_0() {
    let mut batch = batch(&[]);
    assert!(matches!(batch.admit(&[mark((1, 0), 1, 1)], 0), Err(Error::Conflict(_))));
    batch.admit(&[mark((0, 0), 1, 1)], 0).unwrap();
}

#[test]
fn an_op_whose_guard_fails_adds_nothing() {
    let mut batch = batch(&[]);
    let op = [enqueue(1), mark((0, 0), 1, 1), settle(10), mark((9, 9), 1, 2)];
    assert!(matches!(batch.admit(&op, 0), Err(Error::Conflict(_))));
    assert_eq!(batch.counters, START);
    assert_eq!(batch.stream_in(PEER), Mark::default());
    assert!(batch.outbox.is_empty() && batch.marked.is_empty() && batch.settled.is_empty() && batch.out.is_empty());
}

#[test]
fn a_number_that_was_never_given_cannot_be_settled() {
    let mut batch = batch(&[]);
    assert!(matches!(batch.admit(&[settle(10)], 0), Err(Error::Conflict(_))));
    batch.admit(&[settle(9)], 0).unwrap();
    batch.admit(&[enqueue(1), settle(10)], 1).unwrap();
    assert!(matches!(batch.admit(&[settle(11), enqueue(2)], 2), Err(Error::Conflict(_))));
}

#[test]
fn settles_of_a_peer_are_one_and_the_last_word_is_its_state() {
    let mut batch = batch(&[]);
    batch.admit(&[settle(9)], 0).unwrap();
    let stream = StreamOut { epoch: 8, settled: 2, settled_id: 3, queued: true };
    batch.admit(&[Change::PutOut { peer: PEER, stream }], 1).unwrap();
    batch.admit(&[settle(4)], 2).unwrap();
    let settled = &batch.settled[&PEER];
    assert_eq!((settled.through, settled.done, settled.gone), (9, 2, 0));
    let out = batch.out[&PEER];
    assert_eq!((out.epoch, out.settled, out.settled_id, out.queued), (7, 4, 4, Some(true)));
}

#[test]
fn the_last_word_on_a_membership_holds() {
    let mut batch = batch(&[]);
    let guild = |member| Change::Guild { user: 1, guild: 2, peer: PEER, member };
    batch.admit(&[guild(true), guild(false)], 0).unwrap();
    assert!(!batch.guilds[&(1, 2, PEER)]);
    batch.admit(&[guild(true)], 1).unwrap();
    assert!(batch.guilds[&(1, 2, PEER)]);
}

#[test]
fn touches_of_a_peer_are_merged() {
    let mut batch = batch(&[]);
    let touch = |out, inbound| PeerTouch { peer: PEER, outbound_ok_at: out, inbound_ok_at: inbound };
    batch.admit(&[Change::TouchPeers(vec![touch(Some(Millis(1)), None), touch(None, Some(Millis(2)))])], 0).unwrap();
    batch.admit(&[Change::TouchPeers(vec![touch(Some(Millis(3)), None)])], 1).unwrap();
    assert_eq!(batch.peers[&PEER], touch(Some(Millis(3)), Some(Millis(2))));
}

#[test]
fn a_rare_change_is_not_taken() {
    assert!(matches!(batch(&[]).admit(&[Change::DropDead { id: 1 }], 0), Err(Error::Internal(_))));
}
