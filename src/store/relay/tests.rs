//! Tests of `store/relay`: the rules through the writer, and every query once.

use super::{deliveries, events, waiting, *};
use crate::{
    error::Error,
    store::{
        self, Done, Gone, Op, ROWS_AN_OP, Store, reading,
        tests::{OTHER, PEER, enqueue, settings, store},
    },
    types::{Millis, PartyRef, PeerId},
};
use bytes::Bytes;
use proptest::prelude::*;
use sqlx::{AssertSqlSafe, ConnectOptions};
use std::collections::HashMap;

const LATER: Millis = Millis(1_000_000);
/// Numbers of messages: far from those the writer gives.
const M: u64 = 1 << 60;
const N: u64 = M + 1;
const O: u64 = M + 2;

pub(super) fn new_message(number: u64) -> NewMessage {
    NewMessage {
        number,
        origin: PeerId::SELF,
        remote_id: None,
        tag: u64::MAX,
        session: "s".into(),
        sender: "alice".into(),
        broadcast: false,
        round: -3,
        kind: "k".into(),
        accepted_at: Millis(100),
        expires_at: LATER,
        body: Bytes::from_static(b"body"),
        slot: NewSlot::default(),
    }
}

pub(super) fn remote(number: u64, id: &str) -> NewMessage {
    NewMessage { origin: PEER, remote_id: Some(id.into()), ..new_message(number) }
}

fn party(peer: PeerId, name: &str) -> PartyRef {
    PartyRef { peer, name: name.into() }
}

pub(super) fn bob() -> PartyRef {
    party(PeerId::SELF, "bob")
}

fn afar() -> PartyRef {
    party(OTHER, "dave")
}

/// The message and its deliveries, as one op.
pub(super) fn route(new: NewMessage, to: &[PartyRef]) -> Op {
    let mut op = Op::from(Change::Message(new.into()));
    to.iter().for_each(|party| op.push(Change::Deliver { party: party.clone() }.into()));
    op
}

fn op(changes: impl IntoIterator<Item = Change>) -> Op {
    Op::from(changes.into_iter().map(store::Change::from).collect::<Vec<_>>())
}

fn finish(seq: u64, message: u64, failed: bool) -> Change {
    Change::Finish { seq, message, failed, at: Millis(300), error: if failed { "no".into() } else { String::new() } }
}

fn told(message: u64, state: DeliveryState) -> RemoteState {
    RemoteState {
        message,
        party: afar(),
        state,
        delivered_at: Some(Millis(201)),
        finished_at: state.is_final().then_some(Millis(202)),
        retries: 4,
        error: if state == DeliveryState::Failed { "far".into() } else { String::new() },
    }
}

fn event(id: &str, local_parties: Option<&[&str]>) -> NewEvent {
    NewEvent {
        event_id: id.into(),
        owner: PeerId::SELF,
        session: "s".into(),
        kind: "started".into(),
        local_parties: local_parties.map(|names| names.iter().map(ToString::to_string).collect()),
        created_at: Millis(1),
        expires_at: LATER,
        body: Bytes::copy_from_slice(id.as_bytes()),
    }
}

async fn open_of(store: &Store, message: u64) -> u64 {
    store.message(message).await.unwrap().unwrap().open
}

async fn seqs(store: &Store, session: Option<&str>, after: u64, rows: usize, bytes: usize) -> Vec<u64> {
    let page = store.delivery_page("bob", session, after, Millis(0), rows, bytes).await.unwrap().0;
    page.iter().map(|delivery| delivery.seq).collect()
}

/// Every row of every table, as text.
async fn everything(store: &Store) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%sql%' ORDER BY name",
    )
    .fetch_all(&store.readers)
    .await
    .unwrap();
    assert!(tables.iter().any(|table| table == "session_event") && tables.len() > 15);
    let mut text = String::new();
    for table in tables {
        let columns: Vec<String> = sqlx::query_scalar("SELECT 'quote(\"' || name || '\")' FROM pragma_table_info($1)")
            .bind(table.as_str())
            .fetch_all(&store.readers)
            .await
            .unwrap();
        let sql = format!("SELECT {} FROM \"{table}\" ORDER BY 1", columns.join(" || ' ' || "));
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&store.readers).await.unwrap();
        text += &format!("{table}: {rows:#?}\n");
    }
    text
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_accepted() {
    let (_dir, store) = store().await;
    store.submit(enqueue(PEER, 1, b"x")).await.unwrap();
    let done = store.submit(route(new_message(M), &[bob(), afar()])).await.unwrap();
    assert_eq!(done.numbers, 2..4, "a message takes none");
    let row = store.message(M).await.unwrap().unwrap();
    let expected = MessageRow {
        number: M,
        tag: u64::MAX,
        origin: PeerId::SELF,
        remote_id: None,
        session: "s".into(),
        sender: "alice".into(),
        broadcast: false,
        round: -3,
        kind: "k".into(),
        accepted_at: Millis(100),
        expires_at: LATER,
        size: 4,
        recipients: 2,
        open: 2,
        freed: false,
    };
    assert_eq!(row, expected);
    assert_eq!(store.message(2).await.unwrap(), None);
    let delivery = |seq, party| DeliveryRow {
        seq,
        message: M,
        party,
        created_at: Millis(100),
        state: DeliveryState::Pending,
        delivered_at: None,
        finished_at: None,
        retries: 0,
        error: String::new(),
    };
    assert_eq!(store.deliveries(M).await.unwrap(), [delivery(2, bob()), delivery(3, afar())]);
    assert_eq!(store.delivery(M, &bob()).await.unwrap(), Some(delivery(2, bob())));
    assert_eq!(store.delivery(M, &afar()).await.unwrap(), Some(delivery(3, afar())));
    for (message, nobody) in [(M, party(PEER, "dave")), (M, party(OTHER, "bob")), (2, bob()), (N, bob())] {
        assert_eq!(store.delivery(message, &nobody).await.unwrap(), None);
    }
    let open = OpenDelivery {
        seq: 2,
        party: bob(),
        created_at: Millis(100),
        state: DeliveryState::Pending,
        retries: 0,
        message: expected,
        body: Bytes::from_static(b"body"),
    };
    assert_eq!(store.delivery_page("bob", None, 0, Millis(0), 9, 999).await.unwrap().0, std::slice::from_ref(&open));
    assert_eq!(store.open_deliveries(&[9, 2], 999).await.unwrap(), [open]);
    assert_eq!(store.delivery_page("dave", None, 0, Millis(0), 9, 999).await.unwrap().0, [], "not of this node");
    assert_eq!(store.submit(enqueue(PEER, 1, b"x")).await.unwrap().numbers, 4..5);
}

#[tokio::test]
async fn the_newest_message_has_the_greatest_number() {
    let (_dir, store) = store().await;
    assert_eq!(store.newest_message().await.unwrap(), 0);
    store.submit(route(new_message(N), &[bob()])).await.unwrap();
    store.submit(route(remote(M, "id"), &[bob()])).await.unwrap();
    assert_eq!(store.newest_message().await.unwrap(), N, "whatever came last, and no matter what the writer gave");
    store.submit(route(remote(O, "id"), &[bob()])).await.unwrap();
    assert_eq!(store.newest_message().await.unwrap(), N, "a repeat leaves nothing");
}

#[tokio::test]
async fn a_number_that_is_taken_is_refused_and_its_message_stays_as_it_was() {
    let (_dir, store) = store().await;
    store.submit(route(new_message(M), &[bob()])).await.unwrap();
    store.submit(finish(1, M, false)).await.unwrap();
    store.submit(Change::FreeBodies { limit: 1 }).await.unwrap();
    let before = (store.message(M).await.unwrap(), store.deliveries(M).await.unwrap());
    let ops = vec![route(new_message(M), &[bob()]), route(remote(M, "id"), &[bob()]), route(new_message(N), &[afar()])];
    let results = store.writer.submit_together(ops).await;
    assert!(matches!(results[..], [Err(Error::Conflict(_)), Err(Error::Conflict(_)), Ok(_)]), "{results:?}");
    assert_eq!((store.message(M).await.unwrap(), store.deliveries(M).await.unwrap()), before);
    assert_eq!((store.remote_messages("id").await.unwrap(), open_of(&store, N).await), (vec![], 1));
    assert_eq!(store.stored_bytes().await.unwrap()[0].bytes, 4 + MESSAGE_BYTES, "only the body of the good one");
}

#[tokio::test]
async fn a_repeat_of_a_remote_message_leaves_nothing() {
    let (_dir, store) = store().await;
    let first = store.submit(route(remote(M, "id"), &[bob()])).await.unwrap();
    assert_eq!(first.numbers, 1..2);
    let before = store.remote_messages("id").await.unwrap();
    assert_eq!((before.len(), before[0].number, before[0].origin), (1, M, PEER));
    let carol = party(PeerId::SELF, "carol");
    let twice = vec![
        route(remote(N, "id"), &[bob(), carol.clone()]),
        route(remote(O, "new"), &[bob()]),
        route(remote(O + 1, "new"), &[carol]),
    ];
    for result in store.writer.submit_together(twice).await {
        result.unwrap();
    }
    assert_eq!(store.remote_messages("id").await.unwrap(), before);
    let new = store.remote_messages("new").await.unwrap();
    assert_eq!((new.len(), new[0].number), (1, O));
    assert_eq!(seqs(&store, None, 0, 9, 999).await, [1, 4], "the numbers between are used up");
    assert_eq!(store.waiting("carol").await.unwrap(), 0);
    assert_eq!(store.stored_bytes().await.unwrap()[0].bytes, 8 + 2 * MESSAGE_BYTES, "two bodies");

    let other = NewMessage { origin: OTHER, ..remote(O + 2, "id") };
    store.submit(route(other, &[])).await.unwrap();
    let origins: Vec<_> = store.remote_messages("id").await.unwrap().iter().map(|row| row.origin).collect();
    assert_eq!(origins, [PEER, OTHER], "another server's id is another id");
    store.submit(route(new_message(O + 3), &[])).await.unwrap();
    store.submit(route(new_message(O + 4), &[])).await.unwrap();
}

#[tokio::test]
async fn an_op_that_is_refused_leaves_nothing() {
    let (_dir, store) = store().await;
    let before = everything(&store).await;
    let bad = NewMessage { remote_id: None, ..remote(M, "id") };
    let key = Change::Idempotent { caller: "c".into(), key: "k".into(), digest: [1; 32] };
    let refused = [
        route(bad, &[bob()]),
        Change::Deliver { party: bob() }.into(),
        key.clone().into(),
        op([Change::Message(new_message(M).into()), Change::FreeBodies { limit: 1 }, Change::Deliver { party: bob() }]),
        route(new_message(M), &[bob()]).with(store::Change::Settle { peer: PEER, epoch: 1, number: 9, id: 9 }),
    ];
    for op in refused {
        assert!(store.submit(op).await.is_err());
    }
    assert_eq!(everything(&store).await, before);
    assert_eq!(store.submit(route(new_message(M), &[bob()])).await.unwrap().numbers, 1..2);
}

#[tokio::test]
async fn a_key_stands_for_its_first_message() {
    let (_dir, store) = store().await;
    let keyed = |number, digest: u8| {
        let key = Change::Idempotent { caller: "c".into(), key: "k".into(), digest: [digest; 32] };
        route(new_message(number), &[bob()]).with(key.into())
    };
    for (number, digest) in [(M, 1), (N, 2)] {
        store.submit(keyed(number, digest)).await.unwrap();
    }
    assert_eq!(store.idempotent("c", "k").await.unwrap(), Some((M, u64::MAX, [1; 32])));
    assert_eq!(store.idempotent("d", "k").await.unwrap(), None);
    assert_eq!(store.waiting("bob").await.unwrap(), 2);
}

#[tokio::test]
async fn open_is_lowered_once_by_each_delivery_however_often_it_ends() {
    let (_dir, store) = store().await;
    let carol = party(PeerId::SELF, "carol");
    store.submit(route(new_message(M), &[bob(), carol, afar()])).await.unwrap();
    store.submit(route(new_message(N), &[bob()])).await.unwrap();
    let ops = vec![
        finish(1, M, false).into(),
        op([finish(1, M, true), finish(1, N, true), finish(4, N, true), finish(77, M, true)]),
        Change::RemoteState(told(M, DeliveryState::Acknowledged).into()).into(),
        op([finish(3, M, true), Change::RemoteState(told(M, DeliveryState::Failed).into())]),
    ];
    for result in store.writer.submit_together(ops).await {
        result.unwrap();
    }
    assert_eq!((open_of(&store, M).await, open_of(&store, N).await), (1, 0));
    store.submit(op([finish(1, M, true), finish(3, M, true)])).await.unwrap();
    store.submit(Change::RemoteState(told(M, DeliveryState::Failed).into())).await.unwrap();
    assert_eq!(open_of(&store, M).await, 1);

    let rows = store.deliveries(M).await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| (row.state, row.finished_at, row.error.as_str())).collect();
    let acknowledged = |at| (DeliveryState::Acknowledged, Some(Millis(at)), "");
    assert_eq!(states, [acknowledged(300), (DeliveryState::Pending, None, ""), acknowledged(202)]);
    let last = store.deliveries(N).await.unwrap().remove(0);
    assert_eq!((last.state, last.error.as_str()), (DeliveryState::Failed, "no"));
    assert_eq!(store.waiting("bob").await.unwrap(), 0);
    assert_eq!(seqs(&store, None, 0, 9, 999).await, [0; 0]);
    assert_eq!(store.open_deliveries(&[1, 2, 3], 999).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_thousand_recipients_are_each_counted_once() {
    let (_dir, store) = store().await;
    let far: Vec<PartyRef> = (0..500).map(|n| party(OTHER, &format!("p{n}"))).collect();
    let near = (0..501).map(|n| party(PeerId::SELF, &format!("p{n}")));
    let all: Vec<PartyRef> = far.iter().cloned().chain(near).collect();
    store.submit(route(new_message(M), &all)).await.unwrap();
    assert_eq!(open_of(&store, M).await, 1001);
    store.submit(op((501..1001).map(|seq| finish(seq, M, false)))).await.unwrap();
    assert_eq!(open_of(&store, M).await, 501);
    let tell = |party| RemoteState { party, ..told(M, DeliveryState::Failed) };
    store.submit(op(far.into_iter().map(|party| Change::RemoteState(tell(party).into())))).await.unwrap();
    assert_eq!(open_of(&store, M).await, 1);
}

#[tokio::test]
async fn sent_and_told_only_raise() {
    let (_dir, store) = store().await;
    store.submit(route(new_message(M), &[bob(), afar()])).await.unwrap();
    let sent = |seq, at, retries| Change::Sent { seq, at: Millis(at), retries };
    store.submit(op([sent(1, 110, 0), sent(1, 120, 2), sent(2, 1, 1)])).await.unwrap();
    store.submit(op([sent(1, 130, 1), finish(1, M, false)])).await.unwrap();
    store.submit(sent(1, 140, 3)).await.unwrap();
    store.submit(Change::RemoteState(told(M, DeliveryState::Delivered).into())).await.unwrap();
    let later = RemoteState { retries: 1, delivered_at: Some(Millis(999)), ..told(M, DeliveryState::Pending) };
    store.submit(Change::RemoteState(later.into())).await.unwrap();
    let here = RemoteState { party: bob(), ..told(M, DeliveryState::Failed) };
    store.submit(Change::RemoteState(here.into())).await.unwrap();
    let rows = store.deliveries(M).await.unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.state, row.delivered_at, row.retries)).collect();
    let expected =
        [(DeliveryState::Acknowledged, Some(Millis(110)), 3), (DeliveryState::Delivered, Some(Millis(201)), 4)];
    assert_eq!(seen, expected);
    assert_eq!(open_of(&store, M).await, 1);
}

#[tokio::test]
async fn created_at_rises_over_batches_ops_rows_that_are_gone_and_a_new_start() {
    let (dir, store) = store().await;
    let at = |number, accepted_at| NewMessage { accepted_at: Millis(accepted_at), ..new_message(number) };
    let together = (0..3).map(|n| route(at(M + n, 100), &[bob()])).collect();
    for result in store.writer.submit_together(together).await {
        result.unwrap();
    }
    store.submit(route(at(M + 3, 50), &[bob(), party(PeerId::SELF, "carol")])).await.unwrap();
    // Between rare changes of one op too.
    let mixed = [
        Change::Message(at(M + 4, 100).into()),
        Change::Deliver { party: bob() },
        Change::FreeBodies { limit: 0 },
        Change::Message(at(M + 5, 100).into()),
        Change::Deliver { party: bob() },
    ];
    store.submit(op(mixed)).await.unwrap();
    let created = async |store: &Store| -> Vec<i64> {
        let page = store.delivery_page("bob", None, 0, Millis(0), 99, usize::MAX).await.unwrap().0;
        page.iter().map(|delivery| delivery.created_at.0).collect()
    };
    assert_eq!(created(&store).await, [100, 101, 102, 103, 104, 105]);
    store.submit(Change::FailExpired { now: LATER, limit: 99 }).await.unwrap();
    store.submit(Change::TrimMessages { expired_before: Millis(LATER.0 + 1), limit: 99 }).await.unwrap();
    assert_eq!(store.message(M).await.unwrap(), None);
    store.close().await;

    let store = Store::open_with(dir.path(), settings()).await.unwrap();
    store.submit(route(at(M + 6, 10), &[bob()])).await.unwrap();
    store.submit(route(at(M + 7, 500), &[bob()])).await.unwrap();
    assert_eq!(created(&store).await, [106, 500]);
}

#[tokio::test]
async fn a_page_has_one_session_or_all_and_is_bounded() {
    let (_dir, store) = store().await;
    let new = |number, session: &str| NewMessage {
        session: session.into(),
        body: vec![1; 1000].into(),
        ..new_message(number)
    };
    for (number, session) in [(M, "s"), (N, "t"), (O, "s"), (O + 1, "t")] {
        store.submit(route(new(number, session), &[bob()])).await.unwrap();
    }
    assert_eq!(seqs(&store, None, 0, 9, usize::MAX).await, [1, 2, 3, 4]);
    assert_eq!(seqs(&store, Some("t"), 0, 9, usize::MAX).await, [2, 4]);
    assert_eq!(seqs(&store, Some("t"), 2, 9, usize::MAX).await, [4]);
    assert_eq!(seqs(&store, None, 1, 2, usize::MAX).await, [2, 3]);
    assert_eq!(seqs(&store, None, 1, 9, 1).await, [2], "one at least");
    assert_eq!(seqs(&store, None, 0, 9, 2500).await, [1, 2]);
    assert_eq!(seqs(&store, None, u64::MAX, 9, 9).await, [0; 0]);
    let some = store.open_deliveries(&[4, 1, 2], 2500).await.unwrap();
    assert_eq!(some.iter().map(|delivery| delivery.seq).collect::<Vec<_>>(), [4, 1], "in the order asked for");

    let pending = async |session, after, now, bytes| -> Vec<u64> {
        let page = store.pending_page("bob", session, after, now, bytes).await.unwrap();
        page.iter().map(|delivery| delivery.seq).collect()
    };
    assert_eq!(pending(None, 0, Millis(0), usize::MAX).await, [1, 2, 3, 4]);
    assert_eq!(pending(None, 101, Millis(0), usize::MAX).await, [3, 4]);
    assert_eq!(pending(Some("s"), 100, Millis(0), usize::MAX).await, [3]);
    assert_eq!(pending(None, 0, Millis(0), 2500).await, [1, 2]);
    assert_eq!(pending(None, 0, LATER, usize::MAX).await, [0; 0], "an expired one is not shown");
    let expired = store.delivery_page("bob", None, 0, LATER, 9, 999).await.unwrap().0;
    assert_eq!((expired.len(), store.waiting("bob").await.unwrap()), (0, 4));
}

#[tokio::test]
async fn what_expires_fails_once_and_is_told() {
    let (_dir, store) = store().await;
    let at = |expires_at, new: NewMessage| NewMessage { expires_at: Millis(expires_at), ..new };
    store.submit(route(at(30, new_message(M)), &[bob(), afar()])).await.unwrap();
    store.submit(route(at(20, remote(N, "id")), &[bob()])).await.unwrap();
    store.submit(route(at(31, new_message(O)), &[bob()])).await.unwrap();
    store.submit(finish(1, M, false)).await.unwrap();
    let fail = |limit| store.submit(Change::FailExpired { now: Millis(30), limit });
    let expired = |seq, message, origin, party| Expired { seq, message, origin, session: "s".into(), party };
    assert_eq!(fail(1).await.unwrap().expired, [expired(3, N, PEER, bob())], "the first to expire first");
    let done = fail(99).await.unwrap();
    assert_eq!((done.expired, done.gone), (vec![expired(2, M, PeerId::SELF, afar())], vec![]));
    assert_eq!(fail(99).await.unwrap(), Done { numbers: 5..5, cursors: 1..1, pushed: 2..2, ..Done::default() });
    assert_eq!((open_of(&store, M).await, open_of(&store, N).await, open_of(&store, O).await), (0, 0, 1));
    let rows = store.deliveries(M).await.unwrap();
    assert_eq!((rows[0].state, rows[0].error.as_str()), (DeliveryState::Acknowledged, ""));
    let failed = &rows[1];
    assert_eq!((failed.state, failed.finished_at), (DeliveryState::Failed, Some(Millis(30))));
    assert_eq!(failed.error, Change::EXPIRED);
    assert_eq!(store.unreported(0, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_expiry_takes_whole_messages_within_its_limit() {
    let (_dir, store) = store().await;
    let all: Vec<PartyRef> = (0..5).map(|n| party(OTHER, &format!("p{n}"))).collect();
    for n in 0..3 {
        store.submit(route(new_message(M + n), &all)).await.unwrap();
    }
    let fail = async |limit| store.submit(Change::FailExpired { now: LATER, limit }).await.unwrap().expired.len();
    assert_eq!([fail(12).await, fail(1).await, fail(1).await], [10, 5, 0]);
}

#[tokio::test]
async fn bodies_without_open_deliveries_are_freed_and_whose_they_were_is_told() {
    let (_dir, store) = store().await;
    store.submit(route(new_message(M), &[bob()])).await.unwrap();
    store.submit(route(new_message(N), &[])).await.unwrap();
    store.submit(route(remote(O, "id"), &[])).await.unwrap();
    store.submit(route(NewMessage { session: "t".into(), ..new_message(O + 1) }, &[])).await.unwrap();
    let share = |session: &str, origin, bodies| {
        let bytes = bodies * (4 + MESSAGE_BYTES);
        BodyBytes { session: session.into(), origin, sender: "alice".into(), bytes }
    };
    let stored = store.stored_bytes().await.unwrap();
    assert_eq!(stored, [share("s", PeerId::SELF, 2), share("s", PEER, 1), share("t", PeerId::SELF, 1)]);

    let free = |limit| store.submit(Change::FreeBodies { limit });
    let done = free(2).await.unwrap();
    assert_eq!(done.freed, [share("s", PeerId::SELF, 1), share("s", PEER, 1)]);
    assert_eq!(done.gone, [Gone { rows: 2, bytes: 8 }]);
    store.submit(finish(1, M, false)).await.unwrap();
    assert_eq!(free(99).await.unwrap().freed, [share("s", PeerId::SELF, 1), share("t", PeerId::SELF, 1)]);
    let done = free(99).await.unwrap();
    assert_eq!((done.freed, done.gone), (vec![], vec![Gone::default()]));
    assert_eq!(store.stored_bytes().await.unwrap(), []);
    let row = store.message(M).await.unwrap().unwrap();
    assert_eq!((row.freed, row.size), (true, 4));
}

#[tokio::test]
async fn a_freed_body_reads_as_empty() {
    let (_dir, store) = store().await;
    store.submit(route(new_message(M), &[bob()])).await.unwrap();
    // Nothing frees a body while a delivery is open; a row may be missing all the same.
    store.writer.execute("DELETE FROM message_body").await;
    assert_eq!(store.delivery_page("bob", None, 0, Millis(0), 9, 999).await.unwrap().0[0].body, Bytes::new());
}

#[tokio::test]
async fn one_freeing_is_bounded_in_rows_and_bytes() {
    let (_dir, store) = store().await;
    store.submit(op((M..=M + 1000).map(|number| Change::Message(new_message(number).into())))).await.unwrap();
    let rows = async || store.submit(Change::FreeBodies { limit: usize::MAX }).await.unwrap().gone[0].rows;
    assert_eq!((rows().await, rows().await), (1000, 1));
    for n in 0..3 {
        let large = NewMessage { body: vec![0; 33 << 20].into(), ..new_message(M + 2000 + n) };
        store.submit(route(large, &[])).await.unwrap();
    }
    assert_eq!([rows().await, rows().await, rows().await, rows().await], [1, 1, 1, 0]);
}

#[tokio::test]
async fn a_message_is_removed_with_all_that_is_its_own_once_nothing_is_open() {
    let (_dir, store) = store().await;
    let key = Change::Idempotent { caller: "c".into(), key: "k".into(), digest: [1; 32] };
    store.submit(route(new_message(M), &[bob(), afar()]).with(key.into())).await.unwrap();
    let trim = |before| store.submit(Change::TrimMessages { expired_before: Millis(before), limit: 99 });
    assert_eq!(trim(i64::MAX).await.unwrap().gone, [Gone::default()], "deliveries are open");
    store.submit(op([finish(1, M, false), finish(2, M, true)])).await.unwrap();
    assert_eq!(trim(LATER.0).await.unwrap().gone, [Gone::default()], "not before its time");
    let done = trim(LATER.0 + 1).await.unwrap();
    assert_eq!(done.gone, [Gone { rows: 1, bytes: 4 }]);
    assert_eq!(done.freed.len(), 1, "its body was still kept");
    assert_eq!(store.message(M).await.unwrap(), None);
    assert_eq!(store.deliveries(M).await.unwrap(), []);
    assert_eq!(store.idempotent("c", "k").await.unwrap(), None);
    for table in ["message_body", "idempotency", "delivery"] {
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&store.readers)
            .await
            .unwrap();
        assert_eq!(rows, 0, "{table}");
    }

    store.submit(route(new_message(N), &[])).await.unwrap();
    store.submit(Change::FreeBodies { limit: 9 }).await.unwrap();
    let done = trim(i64::MAX).await.unwrap();
    assert_eq!((done.gone, done.freed), (vec![Gone { rows: 1, bytes: 0 }], vec![]), "no body is told twice");
}

#[tokio::test]
async fn one_trim_is_bounded_by_the_deliveries_too() {
    let (_dir, store) = store().await;
    let all: Vec<PartyRef> = (0..1500).map(|n| party(OTHER, &format!("p{n}"))).collect();
    for n in 0..3 {
        store.submit(route(new_message(M + n), &all)).await.unwrap();
        store.submit(Change::FailExpired { now: LATER, limit: 1 }).await.unwrap();
    }
    let trim = || store.submit(Change::TrimMessages { expired_before: Millis(i64::MAX), limit: 99 });
    assert_eq!(trim().await.unwrap().gone[0].rows, 2);
    assert_eq!(trim().await.unwrap().gone[0].rows, 1);
}

#[tokio::test]
async fn what_the_origin_was_not_told_is_listed_until_it_was() {
    let (_dir, store) = store().await;
    store.submit(route(remote(M, "id"), &[bob()])).await.unwrap();
    store.submit(route(new_message(N), &[bob(), afar()])).await.unwrap();
    store.submit(op([finish(2, N, true), finish(3, N, true)])).await.unwrap();
    let nothing = "nothing happened to the remote one, the others have no origin";
    assert_eq!(store.unreported(0, 9).await.unwrap(), [], "{nothing}");
    store.submit(Change::Sent { seq: 1, at: Millis(110), retries: 1 }).await.unwrap();
    let expected = Unreported {
        seq: 1,
        origin: PEER,
        remote_id: "id".into(),
        party: "bob".into(),
        state: DeliveryState::Delivered,
        delivered_at: Some(Millis(110)),
        finished_at: None,
        retries: 1,
        error: String::new(),
    };
    assert_eq!(store.unreported(0, 9).await.unwrap(), [expected]);
    let reported = |state| Change::Reported { seq: 1, state };
    store.submit(reported(DeliveryState::Delivered)).await.unwrap();
    assert_eq!(store.unreported(0, 9).await.unwrap(), []);
    store.submit(finish(1, M, true)).await.unwrap();
    let found = store.unreported(0, 9).await.unwrap().remove(0);
    assert_eq!((found.state, found.error.as_str()), (DeliveryState::Failed, "no"));
    assert_eq!(store.unreported(0, 0).await.unwrap(), []);
    store.submit(op([reported(DeliveryState::Failed), reported(DeliveryState::Pending)])).await.unwrap();
    assert_eq!(store.unreported(0, 9).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_not_told_is_read_on_behind_a_seq() {
    let (_dir, store) = store().await;
    for n in 0..4 {
        store.submit(route(remote(M + n, &format!("id{n}")), &[bob()])).await.unwrap();
    }
    store.submit(op((0..4).map(|n| finish(n + 1, M + n, false)))).await.unwrap();
    store.submit(Change::Reported { seq: 2, state: DeliveryState::Acknowledged }).await.unwrap();
    let told = async |after, limit| -> Vec<u64> {
        store.unreported(after, limit).await.unwrap().iter().map(|row| row.seq).collect()
    };
    assert_eq!(told(0, 2).await, [1, 3]);
    assert_eq!(told(1, 9).await, [3, 4]);
    assert_eq!(told(3, 9).await, [4]);
    assert_eq!(told(4, 9).await, [0; 0]);
    assert_eq!(told(u64::MAX, 9).await, [0; 0], "it does not wrap");
}

#[tokio::test]
async fn a_parcel_that_came_back_fails_what_is_open_at_that_server_and_nothing_else() {
    let (_dir, store) = store().await;
    let carol = party(PEER, "carol");
    let erin = party(OTHER, "erin");
    store.submit(route(new_message(M), &[bob(), afar(), erin.clone(), carol, party(OTHER, "frank")])).await.unwrap();
    store.submit(route(new_message(N), &[bob(), afar()])).await.unwrap();
    store.submit(Change::RemoteState(told(M, DeliveryState::Acknowledged).into())).await.unwrap();
    let erins = RemoteState { party: erin, ..told(M, DeliveryState::Delivered) };
    store.submit(Change::RemoteState(erins.into())).await.unwrap();
    assert_eq!(open_of(&store, M).await, 4);

    let fail =
        |message, peer, at, error: &str| Change::FailRemote { message, peer, at: Millis(at), error: error.into() };
    let done = store.submit(fail(M, OTHER, 400, "expired there")).await.unwrap();
    assert_eq!(done, Done { numbers: 8..8, cursors: 1..1, pushed: 2..2, ..Done::default() }, "it takes no rows away");
    let pending = (DeliveryState::Pending, None, "");
    let failed = (DeliveryState::Failed, Some(Millis(400)), "expired there");
    let acknowledged = (DeliveryState::Acknowledged, Some(Millis(202)), "");
    let expected = [pending, acknowledged, failed, pending, failed];
    let rows = store.deliveries(M).await.unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.state, row.finished_at, row.error.as_str())).collect();
    assert_eq!(seen, expected, "bob, afar, erin, carol, frank");
    assert_eq!((rows[2].delivered_at, rows[2].retries), (Some(Millis(201)), 4), "it had been delivered");
    assert_eq!((open_of(&store, M).await, open_of(&store, N).await), (2, 2));

    let before = everything(&store).await;
    let nothing = [fail(M, OTHER, 500, "again"), fail(M, PeerId::SELF, 500, "here"), fail(O, OTHER, 500, "none")];
    for change in nothing.clone() {
        store.submit(change).await.unwrap();
    }
    store.submit(op(nothing)).await.unwrap();
    assert_eq!(everything(&store).await, before, "twice, of this node, of no message");
    store
        .submit(Change::RemoteState(
            RemoteState { party: party(OTHER, "frank"), ..told(M, DeliveryState::Acknowledged) }.into(),
        ))
        .await
        .unwrap();
    assert_eq!((store.deliveries(M).await.unwrap()[4].state, open_of(&store, M).await), (DeliveryState::Failed, 2));
    assert_eq!(store.unreported(0, 9).await.unwrap(), [], "its origin is this node");
}

#[tokio::test]
async fn a_message_may_fail_in_the_op_that_makes_it() {
    let (_dir, store) = store().await;
    let fail = Change::FailRemote { message: M, peer: OTHER, at: Millis(1), error: "no".into() };
    let early = op([fail.clone()]);
    let ops = vec![early, route(new_message(M), &[bob(), afar()]).with(fail.into())];
    for result in store.writer.submit_together(ops).await {
        result.unwrap();
    }
    let states: Vec<_> = store.deliveries(M).await.unwrap().iter().map(|row| row.state).collect();
    assert_eq!(states, [DeliveryState::Pending, DeliveryState::Failed]);
    assert_eq!(open_of(&store, M).await, 1);
}

#[test]
fn a_state_of_a_delivery_is_read_back_and_has_its_name() {
    let named = [
        (DeliveryState::Pending, "pending"),
        (DeliveryState::Delivered, "delivered"),
        (DeliveryState::Acknowledged, "acknowledged"),
        (DeliveryState::Failed, "failed"),
    ];
    for (state, name) in named {
        assert_eq!((state.name(), DeliveryState::of_code(state.code())), (name, Some(state)));
    }
    assert_eq!(DeliveryState::of_code(4), None);
}

#[tokio::test]
async fn a_session_is_made_joined_announced_and_dropped() {
    let (_dir, store) = store().await;
    let joined = |session: &str, party, until| Change::Joined { session: session.into(), party, until: Millis(until) };
    let touch = |until| Change::TouchSessions(vec![("s".into(), Millis(until)), ("none".into(), Millis(1))]);
    store.submit(op([touch(99), joined("s", bob(), 5), joined("s", afar(), 4)])).await.unwrap();
    store.submit(op([touch(3), joined("t", bob(), 1)])).await.unwrap();
    let row = |session: &str, owner: Option<PeerId>, until, parties: &[PartyRef]| SessionRow {
        session: session.into(),
        owner,
        settled: owner.is_some(),
        until: Millis(until),
        parties: parties.to_vec(),
    };
    let t = row("t", None, 1, &[bob()]);
    assert_eq!(store.sessions().await.unwrap(), [row("s", None, 5, &[bob(), afar()]), t.clone()]);

    let announced = |owner, parties: &[PartyRef], until| Change::Announced {
        session: "s".into(),
        owner,
        parties: Some(parties.to_vec()),
        until: Millis(until),
    };
    let carol = party(PeerId::SELF, "carol");
    store.submit(announced(PEER, &[carol.clone(), afar()], 2)).await.unwrap();
    store.submit(op([joined("s", bob(), 1), touch(6)])).await.unwrap();
    assert_eq!(store.sessions().await.unwrap(), [row("s", Some(PEER), 6, &[carol, afar()]), t.clone()]);
    store.submit(op([announced(PeerId::SELF, &[], 9), announced(OTHER, &[bob()], 8)])).await.unwrap();
    assert_eq!(store.sessions().await.unwrap(), [row("s", Some(OTHER), 9, &[bob()]), t.clone()]);

    let drop_at = |until| Change::DropSessions { sessions: vec!["s".into(), "none".into()], until: Millis(until) };
    assert_eq!(store.submit(drop_at(8)).await.unwrap().gone, [Gone::default()], "it began a new time");
    assert_eq!(store.sessions().await.unwrap().len(), 2);
    let done = store.submit(drop_at(9)).await.unwrap();
    assert_eq!(done.gone, [Gone { rows: 1, bytes: 0 }]);
    assert_eq!(store.sessions().await.unwrap(), [t]);
    store.submit(joined("s", afar(), 1)).await.unwrap();
    assert_eq!(store.sessions().await.unwrap()[0], row("s", None, 1, &[afar()]), "nothing of the dropped one stays");
    let many = Change::DropSessions { sessions: vec![String::new(); ROWS_AN_OP + 1], until: LATER };
    assert!(matches!(store.submit(many).await, Err(Error::Internal(_))));
}

#[tokio::test]
async fn who_is_announced_without_parties_owns_the_session_as_it_is() {
    let (_dir, store) = store().await;
    let announced = |session: &str, owner, parties, until| Change::Announced {
        session: session.into(),
        owner,
        parties,
        until: Millis(until),
    };
    let joined = |session: &str, party| Change::Joined { session: session.into(), party, until: Millis(1) };
    let row = |session: &str, owner, settled, until, parties: &[PartyRef]| SessionRow {
        session: session.into(),
        owner: Some(owner),
        settled,
        until: Millis(until),
        parties: parties.to_vec(),
    };
    store.submit(joined("s", bob())).await.unwrap();
    store.submit(announced("s", PEER, None, 5)).await.unwrap();
    store.submit(announced("new", OTHER, None, 2)).await.unwrap();
    let new = row("new", OTHER, false, 2, &[]);
    assert_eq!(store.sessions().await.unwrap(), [new.clone(), row("s", PEER, false, 5, &[bob()])]);
    store.submit(op([announced("s", OTHER, None, 4), joined("s", afar())])).await.unwrap();
    assert_eq!(store.sessions().await.unwrap()[1], row("s", OTHER, false, 5, &[bob(), afar()]));

    store.submit(announced("s", PEER, Some(vec![afar()]), 6)).await.unwrap();
    assert_eq!(store.sessions().await.unwrap()[1], row("s", PEER, true, 6, &[afar()]));
    store.submit(announced("s", OTHER, None, 7)).await.unwrap();
    assert_eq!(store.sessions().await.unwrap()[1], row("s", OTHER, true, 7, &[afar()]), "once settled it stays so");
    // The same within one op.
    store.submit(op([announced("s", PEER, Some(vec![bob()]), 8), announced("s", PEER, None, 8)])).await.unwrap();
    store.submit(op([announced("new", PEER, None, 8), announced("new", PEER, Some(vec![]), 1)])).await.unwrap();
    assert_eq!(store.sessions().await.unwrap(), [row("new", PEER, true, 8, &[]), row("s", PEER, true, 8, &[bob()])]);
}

#[tokio::test]
async fn a_party_keeps_when_it_registered_first() {
    let (_dir, store) = store().await;
    let first = PartyRow {
        name: "bob".into(),
        role: PartyRole::Persistent,
        version: "1".into(),
        email: Some("bob@b.example".into()),
        phone: None,
        push_token: Some("token".into()),
        registered_at: Millis(10),
        last_seen_at: Millis(20),
    };
    store.submit(Change::PutParty(first.clone())).await.unwrap();
    assert_eq!(store.parties().await.unwrap(), std::slice::from_ref(&first));
    let second = PartyRow {
        role: PartyRole::Delegate,
        version: "2".into(),
        email: None,
        phone: Some("1".into()),
        push_token: None,
        registered_at: Millis(30),
        last_seen_at: Millis(30),
        ..first
    };
    store.submit(Change::PutParty(second.clone())).await.unwrap();
    let temporary = PartyRow { name: "a".into(), role: PartyRole::Temporary, ..second.clone() };
    store.submit(Change::PutParty(temporary.clone())).await.unwrap();
    assert_eq!(store.parties().await.unwrap(), [temporary.clone(), PartyRow { registered_at: Millis(10), ..second }]);
    let touch = |at| ("bob".to_owned(), Millis(at));
    store.submit(Change::TouchParties(vec![touch(50), touch(40), ("none".into(), Millis(1))])).await.unwrap();
    store.submit(Change::TouchParties(vec![touch(45)])).await.unwrap();
    store.submit(Change::PutParty(PartyRow { name: "bob".into(), ..temporary })).await.unwrap();
    let rows = store.parties().await.unwrap();
    assert_eq!((rows.len(), rows[1].last_seen_at, rows[0].last_seen_at), (2, Millis(50), Millis(30)));
}

#[test]
fn a_role_is_read_back_as_it_is_written() {
    for role in [PartyRole::Persistent, PartyRole::Delegate, PartyRole::Temporary] {
        assert_eq!(PartyRole::parse(role.as_str()), Some(role));
    }
    assert_eq!(PartyRole::parse("Delegate"), None);
}

#[tokio::test]
async fn events_are_read_by_those_they_are_for() {
    let (_dir, store) = store().await;
    let soon = NewEvent { expires_at: Millis(10), ..event("soon", None) };
    let list = [event("all", None), event("bob", Some(&["bob", "bob"])), event("none", Some(&[])), soon];
    let done = store.submit(op(list.map(|new| Change::Event(new.into())))).await.unwrap();
    assert_eq!(done.numbers, 1..5);

    let ids = async |party, after, now, rows, bytes| -> Vec<String> {
        let page = store.event_page(party, after, Millis(now), rows, bytes).await.unwrap();
        page.into_iter().map(|event| event.event_id).collect()
    };
    assert_eq!(ids(None, 0, 0, 9, 999).await, ["all", "bob", "none", "soon"]);
    assert_eq!(ids(None, 2, 10, 9, 999).await, ["none"]);
    assert_eq!(ids(Some("bob"), 0, 0, 9, 999).await, ["all", "bob", "soon"]);
    assert_eq!(ids(Some("bob"), 1, 10, 9, 999).await, ["bob"]);
    assert_eq!(ids(Some("carol"), 0, 10, 9, 999).await, ["all"]);
    assert_eq!(ids(Some("bob"), 0, 0, 2, 999).await, ["all", "bob"]);
    assert_eq!(ids(Some("bob"), 0, 0, 9, 1).await, ["all"]);
    let row = store.event_page(None, 0, Millis(0), 1, 999).await.unwrap().remove(0);
    let expected = EventRow {
        number: 1,
        event_id: "all".into(),
        owner: PeerId::SELF,
        session: "s".into(),
        kind: "started".into(),
        created_at: Millis(1),
        expires_at: LATER,
        body: Bytes::from_static(b"all"),
    };
    assert_eq!(row, expected);
    assert_eq!(store.event_number("none").await.unwrap(), Some(3));
    assert_eq!(store.event_number("other").await.unwrap(), None);
    assert_eq!(store.event(PeerId::SELF, "s", "all").await.unwrap(), Some(expected));
    for (owner, session, id) in [(PeerId(1), "s", "all"), (PeerId::SELF, "t", "all"), (PeerId::SELF, "s", "other")] {
        assert_eq!(store.event(owner, session, id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_repeat_of_an_event_replaces_nothing() {
    let (_dir, store) = store().await;
    store.submit(Change::Event(event("e", Some(&["bob"])).into())).await.unwrap();
    let repeat = NewEvent { body: Bytes::from_static(b"other"), ..event("e", Some(&["carol"])) };
    let elsewhere = NewEvent { owner: PEER, ..event("e", None) };
    let ops = op([Change::Event(repeat.into()), Change::Event(elsewhere.into())]);
    assert_eq!(store.submit(ops).await.unwrap().numbers, 2..4);
    let all = store.event_page(None, 0, Millis(0), 9, 999).await.unwrap();
    assert_eq!(all.iter().map(|event| (event.number, event.owner)).collect::<Vec<_>>(), [(1, PeerId::SELF), (3, PEER)]);
    assert_eq!(all[0].body, Bytes::from_static(b"e"));
    assert_eq!(store.event_page(Some("carol"), 0, Millis(0), 9, 999).await.unwrap().len(), 1);
    assert_eq!(store.event_number("e").await.unwrap(), Some(1), "the lowest");
}

#[tokio::test]
async fn what_waits_is_neither_final_nor_heard_nor_anothers() {
    let (_dir, store) = store().await;
    assert_eq!(store.newest_event().await.unwrap(), 0);
    let message = |number, session: &str| NewMessage { session: session.into(), ..new_message(number) };
    let named = |id: &str, session: &str, expires_at, to: Option<&[&str]>| {
        Change::Event(Box::new(NewEvent { session: session.into(), expires_at: Millis(expires_at), ..event(id, to) }))
    };
    // Deliveries 1 to 4, events 5 to 8.
    store.submit(route(message(M, "s"), &[bob(), party(PEER, "carol")])).await.unwrap();
    store.submit(route(message(N, "s"), &[bob()])).await.unwrap();
    store.submit(route(message(O, "t"), &[bob()])).await.unwrap();
    for change in [
        named("a", "t", 90, Some(&["bob"])),
        named("b", "u", 90, Some(&["bob", "carol"])),
        named("c", "u", 50, Some(&["bob"])),
        named("d", "v", 90, None),
    ] {
        store.submit(change).await.unwrap();
    }
    assert_eq!(store.newest_event().await.unwrap(), 8);
    let nothing = Waits::default();
    let (message, event) = (Waits { message: true, event: false }, Waits { message: false, event: true });
    let both = Waits { message: true, event: true };
    for (name, session, after, now, expected) in [
        ("bob", "s", 0, 0, message),
        ("bob", "t", 0, 0, both),
        ("bob", "t", 5, 0, message),
        ("bob", "t", 0, 90, message),
        ("bob", "u", 0, 0, event),
        ("bob", "u", 6, 0, event),
        ("bob", "u", 6, 50, nothing),
        ("bob", "u", 7, 0, nothing),
        ("bob", "v", 0, 0, nothing),
        ("carol", "s", 0, 0, nothing),
        ("carol", "u", 0, 0, event),
        ("dave", "s", 0, 0, nothing),
    ] {
        let waits = store.waits(name, session, after, Millis(now)).await.unwrap();
        assert_eq!(waits, expected, "{name} {session} {after} {now}");
    }
    let messages = |limit| store.sessions_with_messages("bob", limit);
    let events = async |after, now, limit| {
        let mut found = store.sessions_with_events("bob", after, Millis(now), limit).await.unwrap();
        found.sort();
        found
    };
    assert_eq!(
        (messages(9).await.unwrap(), messages(1).await.unwrap()),
        (vec!["s".into(), "t".into()], vec!["s".into()])
    );
    assert_eq!((events(0, 0, 9).await, events(0, 0, 1).await.len()), (vec!["t".to_owned(), "u".to_owned()], 1));
    assert_eq!((events(6, 49, 9).await, events(6, 50, 9).await), (vec!["u".to_owned()], vec![]));
    for name in ["carol", "dave"] {
        assert_eq!(store.sessions_with_messages(name, 9).await.unwrap(), [""; 0], "{name}");
    }
    store.submit(op([finish(1, M, false), finish(4, O, true)])).await.unwrap();
    assert_eq!(messages(9).await.unwrap(), ["s"], "one of two is acknowledged there");
    store.submit(finish(3, N, false)).await.unwrap();
    assert_eq!(messages(9).await.unwrap(), [""; 0]);
    assert_eq!(store.waits("bob", "s", 0, Millis(0)).await.unwrap(), nothing);
}

#[tokio::test]
async fn events_are_removed_after_their_time_with_their_parties() {
    let (_dir, store) = store().await;
    let names: Vec<String> = (0..1500).map(|n| format!("p{n}")).collect();
    let list = (0..4).map(|n| NewEvent {
        expires_at: Millis(10 + n / 3),
        local_parties: Some(names.clone()),
        ..event(&format!("e{n}"), None)
    });
    store.submit(op(list.map(|new| Change::Event(new.into())))).await.unwrap();
    let trim = |before| store.submit(Change::TrimEvents { expired_before: Millis(before), limit: 99 });
    assert_eq!(trim(10).await.unwrap().gone, [Gone::default()]);
    assert_eq!(trim(11).await.unwrap().gone, [Gone { rows: 2, bytes: 4 }], "bounded by the parties too");
    assert_eq!(trim(11).await.unwrap().gone, [Gone { rows: 1, bytes: 2 }]);
    assert_eq!(store.event_page(Some("p1"), 0, Millis(0), 9, 999).await.unwrap().len(), 1);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM event_party").fetch_one(&store.readers).await.unwrap();
    assert_eq!(rows, 1500);
}

#[tokio::test]
async fn pages_are_found_by_index_and_sorted_by_none() {
    let (dir, _store) = store().await;
    let mut reader = reading(&dir.path().join("pillarbox.db")).connect().await.unwrap();
    let plans = [
        (deliveries::PAGE, "SEARCH d USING INDEX delivery_open (party=? AND seq>?)"),
        (deliveries::SESSION_PAGE, "SEARCH d USING INDEX delivery_open_session (party=? AND session=? AND seq>?)"),
        (deliveries::PENDING, "SEARCH d USING INDEX delivery_open (party=?)"),
        (deliveries::SESSION_PENDING, "SEARCH d USING INDEX delivery_open_session (party=? AND session=?)"),
        (deliveries::WAITING, "SEARCH delivery USING COVERING INDEX delivery_open (party=?)"),
        (deliveries::UNREPORTED, "SEARCH d USING INDEX delivery_unreported (seq>?)"),
        (events::PARTY_PAGE, "MERGE (UNION ALL)"),
        (waiting::EVENT_WAITS, "CO-ROUTINE p; SEARCH event_party USING PRIMARY KEY (party=? AND event>?)"),
        (
            waiting::MESSAGE_SESSIONS,
            "CO-ROUTINE found; SETUP; SEARCH delivery USING INDEX delivery_open_session (party=?)",
        ),
        (waiting::MESSAGE_WAITS, "SEARCH delivery USING INDEX delivery_open_session (party=? AND session=?)"),
        (retention::DUE, "SEARCH message USING INDEX message_due (expires_at<?)"),
        (retention::OVER, "SEARCH message USING INDEX message_over (expires_at<?)"),
        (slots::PAGE, "SEARCH t USING INDEX slot_chain (session=? AND position>?)"),
        (slots::LAST, "SEARCH t USING INDEX slot_chain (session=?)"),
        (slots::CLAIMED, "SEARCH t USING INDEX slot_claim (session=? AND claim=? AND digest=?)"),
        (slots::TWICE, "SCAN j VIRTUAL TABLE INDEX 1:; SEARCH e USING COVERING INDEX"),
        (progress::MESSAGES, "SEARCH t USING INDEX slot_chain (session=?)"),
        (retention::FREEABLE, "SCAN message USING INDEX message_freeable"),
    ];
    for (sql, expected) in plans {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&mut reader).await.unwrap();
        let plan = steps.into_iter().map(|(.., step)| step).collect::<Vec<_>>().join("; ");
        assert!(plan.starts_with(expected) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

/// A message's number until [`numbered`] gives it.
const UNNUMBERED: u64 = u64::MAX;
/// The message a delivery is of, until [`numbered`] says which.
const ITS_OWN: u64 = u64::MAX;

/// The messages are numbered in their order, and each `Finish` of [`ITS_OWN`]
/// names the message of its delivery, also one that comes later.
fn numbered(mut ops: Vec<Op>) -> Vec<Op> {
    let (mut number, mut seq, mut messages) = (0, 1, HashMap::new());
    for change in ops.iter_mut().flat_map(|op| &mut op.changes) {
        match change {
            store::Change::Relay(Change::Message(new)) => {
                number += 1;
                new.number = number;
            }
            store::Change::Relay(Change::Deliver { .. }) => drop(messages.insert(seq, number)),
            _ => {}
        }
        seq += change.numbers();
    }
    for change in ops.iter_mut().flat_map(|op| &mut op.changes) {
        if let store::Change::Relay(Change::Finish { seq, message, .. }) = change
            && *message == ITS_OWN
        {
            *message = messages.get(seq).copied().unwrap_or_default();
        }
    }
    ops
}

/// Small ranges, so that the changes meet.
fn change() -> impl Strategy<Value = Change> {
    let moment = || (0..9i64).prop_map(Millis);
    let state = || {
        prop_oneof![
            Just(DeliveryState::Pending),
            Just(DeliveryState::Delivered),
            Just(DeliveryState::Acknowledged),
            Just(DeliveryState::Failed)
        ]
    };
    let who = || (0..2i64, "[ab]").prop_map(|(peer, name)| party(PeerId(peer), &name));
    let number = || 0..14u64;
    let message = || 0..8u64;
    let told = (message(), who(), state(), proptest::option::of(moment()), moment(), 0..3u32, "[xy]?").prop_map(
        |(message, party, state, delivered_at, at, retries, error)| {
            let finished_at = state.is_final().then_some(at);
            RemoteState { message, party, state, delivered_at, finished_at, retries, error }
        },
    );
    let finish = (number(), message(), any::<bool>(), moment(), "[xy]?")
        .prop_map(|(seq, message, failed, at, error)| Change::Finish { seq, message, failed, at, error });
    let ends = (number(), any::<bool>(), moment()).prop_map(|(seq, failed, at)| Change::Finish {
        seq,
        message: ITS_OWN,
        failed,
        at,
        error: "z".into(),
    });
    let back = (message(), 0..2i64, moment(), "[xy]?").prop_map(|(message, peer, at, error)| Change::FailRemote {
        message,
        peer: PeerId(peer),
        at,
        error,
    });
    let announced = ("[st]", 0..2i64, proptest::option::of(proptest::collection::vec(who(), 0..3)), moment()).prop_map(
        |(session, owner, parties, until)| Change::Announced { session, owner: PeerId(owner), parties, until },
    );
    let touches = || proptest::collection::vec(("[abst]", moment()), 0..3);
    let put = ("[ab]", moment()).prop_map(|(name, at)| PartyRow {
        name,
        role: PartyRole::Delegate,
        version: String::new(),
        email: None,
        phone: None,
        push_token: None,
        registered_at: at,
        last_seen_at: at,
    });
    let happening = ("[ef]", 0..2i64, proptest::option::of(proptest::collection::vec("[ab]", 0..3)), moment())
        .prop_map(|(id, owner, local_parties, expires_at)| NewEvent {
            owner: PeerId(owner),
            local_parties,
            expires_at,
            ..event(&id, None)
        });
    prop_oneof![
        3 => (number(), moment(), 0..3u32).prop_map(|(seq, at, retries)| Change::Sent { seq, at, retries }),
        3 => finish,
        4 => ends,
        5 => told.prop_map(|told| Change::RemoteState(told.into())),
        2 => (number(), state()).prop_map(|(seq, state)| Change::Reported { seq, state }),
        2 => ("[st]", who(), moment()).prop_map(|(session, party, until)| Change::Joined { session, party, until }),
        2 => announced,
        2 => touches().prop_map(Change::TouchSessions),
        2 => touches().prop_map(Change::TouchParties),
        2 => happening.prop_map(|new| Change::Event(new.into())),
        1 => put.prop_map(Change::PutParty),
        1 => back,
        1 => (moment(), 0..3usize).prop_map(|(now, limit)| Change::FailExpired { now, limit }),
        1 => (0..3usize).prop_map(|limit| Change::FreeBodies { limit }),
        1 => (moment(), 0..3usize).prop_map(|(expired_before, limit)| Change::TrimMessages { expired_before, limit }),
        1 => (moment(), 0..3usize).prop_map(|(expired_before, limit)| Change::TrimEvents { expired_before, limit }),
        1 => Just(Change::DropSessions { sessions: vec!["s".into()], until: Millis(5) }),
    ]
}

fn routing() -> impl Strategy<Value = Op> {
    let who = (0..2i64, "[ab]").prop_map(|(peer, name)| party(PeerId(peer), &name));
    (
        proptest::option::of("[ij]"),
        "[st]",
        (0..9i64, 0..9i64),
        proptest::collection::vec(who, 0..3),
        any::<(bool, bool)>(),
    )
        .prop_map(|(remote_id, session, (accepted_at, expires_at), to, (keyed, other))| {
            let keyed = keyed && remote_id.is_none();
            let new = NewMessage {
                origin: if remote_id.is_some() { PEER } else { PeerId::SELF },
                remote_id,
                session,
                accepted_at: Millis(accepted_at),
                expires_at: Millis(expires_at),
                slot: NewSlot {
                    digest: [u8::from(other); 32],
                    claim: (!to.is_empty()).then_some([7; 16]),
                    ..NewSlot::default()
                },
                ..new_message(UNNUMBERED)
            };
            let mut op = route(new, &to);
            if keyed {
                op.push(Change::Idempotent { caller: "c".into(), key: "k".into(), digest: [1; 32] }.into());
            }
            op
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_does_what_its_ops_do_one_after_the_other(
        ops in proptest::collection::vec(
            prop_oneof![2 => routing(), 5 => proptest::collection::vec(change(), 0..4).prop_map(op)],
            1..24,
        ).prop_map(numbered)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, singly) = store().await;
            let mut expected = Vec::new();
            for op in &ops {
                expected.push(singly.submit(op.clone()).await);
            }
            let (_dir, together) = store().await;
            let results = together.writer.submit_together(ops).await;
            assert_eq!(results, expected);
            assert_eq!(everything(&together).await, everything(&singly).await);
            let wrong: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM message m WHERE open <>
                 (SELECT count(*) FROM delivery d WHERE d.message = m.number AND d.state < 2)",
            )
            .fetch_one(&together.readers)
            .await
            .unwrap();
            assert_eq!(wrong, 0, "open counts what is open");
            singly.close().await;
            together.close().await;
        });
    }
}
