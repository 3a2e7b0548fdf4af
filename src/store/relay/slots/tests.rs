//! Tests of `store/relay/slots`.

use super::*;
use crate::{
    store::{
        Gone, ROWS_AN_OP,
        relay::{
            Change, NewMessage, NewSlot,
            chain::START,
            tests::{bob, new_message, remote, route},
        },
        tests::{OTHER, settings, store},
    },
    types::PartyRef,
};

const LATER: Millis = Millis(i64::MAX);

fn slot(entry: &str, digest: u8) -> NewSlot {
    NewSlot { entry: bytes::Bytes::copy_from_slice(entry.as_bytes()), digest: [digest; 32], claim: None, proof: None }
}

fn claiming(number: u64, entry: &str, digest: u8) -> NewMessage {
    NewMessage { slot: NewSlot { claim: Some([9; 16]), ..slot(entry, digest) }, ..new_message(number) }
}

fn said(number: u64, entry: &str) -> NewMessage {
    NewMessage { slot: slot(entry, 1), ..new_message(number) }
}

/// The links are those of the entries, one after the other.
async fn check(store: &Store, session: &str) -> Vec<SlotRow> {
    let slots = store.slots(session, 0, 9_999).await.unwrap();
    for pair in slots.windows(2) {
        assert_eq!((pair[1].position, pair[1].before), (pair[0].position + 1, pair[0].link()));
    }
    assert_eq!(store.last_slot(session).await.unwrap().as_ref(), slots.last());
    slots
}

fn entries(slots: &[SlotRow]) -> Vec<&str> {
    slots.iter().map(|slot| std::str::from_utf8(&slot.entry).unwrap()).collect()
}

#[tokio::test]
async fn a_chain_goes_on_over_batches_and_restarts_in_the_order_of_the_commits() {
    let (dir, store) = store().await;
    // The numbers of the messages say nothing about the order.
    let ops = [(9, "a"), (3, "b"), (5, "c")].map(|(number, entry)| route(said(number, entry), &[bob()]));
    for result in store.writer.submit_together(ops.into()).await {
        result.unwrap();
    }
    store.submit(route(NewMessage { session: "t".into(), ..said(6, "other") }, &[])).await.unwrap();
    store.submit(route(said(1, "d"), &[])).await.unwrap();
    let before = check(&store, "s").await;
    assert_eq!((entries(&before), before[0].before), (vec!["a", "b", "c", "d"], START));
    assert_eq!(before.iter().map(|slot| slot.message).collect::<Vec<_>>(), [Some(9), Some(3), Some(5), Some(1)]);
    store.close().await;
    let store = Store::open_with(dir.path(), settings()).await.unwrap();
    store.submit(route(said(10, "e"), &[])).await.unwrap();
    let after = check(&store, "s").await;
    assert_eq!((after.len(), &after[..4]), (5, &before[..]));
    assert_eq!(entries(&check(&store, "t").await), ["other"]);
    assert_eq!(store.slots("s", 2, 2).await.unwrap(), after[2..4]);
    assert_eq!(store.slots("none", 0, 9).await.unwrap(), []);
    assert_eq!(after[0].accepted_at, Some(Millis(100)));
}

#[tokio::test]
async fn what_did_not_commit_leaves_no_link() {
    let (_dir, store) = store().await;
    store.submit(route(said(1, "a"), &[])).await.unwrap();
    // A number that is taken: all of the batch is rolled back, the others go one by one.
    let ops = [route(said(2, "b"), &[]), route(said(1, "taken"), &[]), route(said(3, "c"), &[])];
    let results = store.writer.submit_together(ops.into()).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(entries(&check(&store, "s").await), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_repeat_is_in_the_chain_without_a_message() {
    let (_dir, store) = store().await;
    let from_afar = |number, entry| NewMessage { slot: slot(entry, 1), ..remote(number, "id") };
    for (number, entry) in [(1, "first"), (2, "again")] {
        store.submit(route(from_afar(number, entry), &[bob()])).await.unwrap();
    }
    store.submit(route(said(3, "next"), &[])).await.unwrap();
    let slots = check(&store, "s").await;
    assert_eq!(entries(&slots), ["first", "again", "next"]);
    assert_eq!(slots.iter().map(|slot| slot.message).collect::<Vec<_>>(), [Some(1), None, Some(3)]);
}

#[tokio::test]
async fn a_claim_with_two_digests_is_an_equivocation_and_said_once() {
    let (_dir, store) = store().await;
    store.submit(route(claiming(1, "a", 5), &[])).await.unwrap();
    store.submit(route(claiming(2, "b", 5), &[])).await.unwrap();
    let elsewhere = NewMessage { session: "t".into(), ..claiming(3, "c", 6) };
    store.submit(route(elsewhere, &[])).await.unwrap();
    assert_eq!(store.equivocations(None, 0, 9).await.unwrap(), []);
    assert_eq!(store.newest_equivocation().await.unwrap(), 0);
    for (number, digest) in [(4, 4), (5, 6), (6, 5)] {
        store.submit(route(claiming(number, "d", digest), &[])).await.unwrap();
    }
    let found = store.equivocations(None, 0, 9).await.unwrap();
    let expected = EquivocationRow { number: 1, session: "s".into(), entry: b"d".to_vec() };
    assert_eq!(found, [expected]);
    assert_eq!(store.equivocations(Some("s"), 0, 9).await.unwrap(), found);
    assert_eq!(store.equivocations(Some("t"), 0, 9).await.unwrap(), []);
    assert_eq!(store.equivocations(None, 1, 9).await.unwrap(), []);
    assert_eq!(store.newest_equivocation().await.unwrap(), 1);
    let claimed = async |digests, each| {
        let found = store.claimed("s", &[9; 16], digests, each).await.unwrap();
        found.iter().map(|slot| (slot.digest[0], slot.position)).collect::<Vec<_>>()
    };
    assert_eq!(claimed(9, 9).await, [(4, 3), (5, 1), (5, 2), (5, 5), (6, 4)]);
    // However often one payload is repeated, the others are found.
    assert_eq!(claimed(9, 1).await, [(4, 3), (5, 1), (6, 4)]);
    assert_eq!(claimed(2, 2).await, [(4, 3), (5, 1), (5, 2)]);
    // Two in one commit.
    let ops =
        [7, 8].map(|n| route(NewMessage { session: "u".into(), ..claiming(n, "e", u8::try_from(n).unwrap()) }, &[]));
    store.writer.submit_together(ops.into()).await.into_iter().for_each(|result| drop(result.unwrap()));
    assert_eq!(store.equivocations(Some("u"), 0, 9).await.unwrap().len(), 1);
    assert_eq!(store.equivocation_count("u").await.unwrap(), 1);
    assert_eq!(store.equivocation_count("t").await.unwrap(), 0);
    for (session, claims, twice) in
        [("u", vec![[9; 16], [8; 16]], vec![[9; 16]]), ("t", vec![[9; 16]], vec![]), ("u", vec![], vec![])]
    {
        let found = store.claimed_twice(session, claims).await.unwrap();
        assert_eq!(found, twice.into_iter().collect(), "{session}");
    }
}

#[tokio::test]
async fn proofs_are_kept_as_they_were_given() {
    let (_dir, store) = store().await;
    let proof = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let new = NewMessage { slot: NewSlot { proof: Some(proof), ..slot("a", 1) }, ..new_message(1) };
    store.submit(route(new, &[])).await.unwrap();
    store.submit(route(said(2, "b"), &[])).await.unwrap();
    let proofs: Vec<_> = check(&store, "s").await.into_iter().map(|slot| slot.proof).collect();
    assert_eq!(proofs, [Some(proof), None]);
    // What is proven is found first.
    store.submit(route(claiming(3, "c", 1), &[])).await.unwrap();
    let mut proven = claiming(4, "d", 1);
    proven.slot.proof = Some(proof);
    store.submit(route(proven, &[])).await.unwrap();
    let found = store.claimed("s", &[9; 16], 9, 1).await.unwrap();
    assert_eq!(found.iter().map(|slot| slot.position).collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn a_chain_goes_from_its_front_with_its_messages_and_never_wholly() {
    let (dir, store) = store().await;
    for (number, expires_at) in [(1, 10), (2, 50), (3, 10), (4, 10)] {
        let new = NewMessage { expires_at: Millis(expires_at), ..said(number, &number.to_string()) };
        store.submit(route(new, &[])).await.unwrap();
    }
    let whole = check(&store, "s").await;
    let trim = |before| store.submit(Change::TrimMessages { expired_before: Millis(before), limit: 99 });
    assert_eq!(trim(20).await.unwrap().gone, [Gone { rows: 3, bytes: 12 }]);
    // The second message is kept, and so is what stands behind it.
    let kept = check(&store, "s").await;
    assert_eq!(entries(&kept), ["2", "3", "4"]);
    assert_eq!((kept[0].before, kept[1].accepted_at), (whole[0].link(), None), "it can be verified from its start");
    trim(60).await.unwrap();
    assert_eq!(entries(&check(&store, "s").await), ["4"], "the last link stays while the session does");
    store.close().await;
    let store = Store::open_with(dir.path(), settings()).await.unwrap();
    store.submit(route(said(9, "9"), &[])).await.unwrap();
    let slots = check(&store, "s").await;
    assert_eq!(slots.iter().map(|slot| slot.position).collect::<Vec<_>>(), [4, 5]);
}

#[tokio::test]
async fn a_session_takes_its_chain_along_and_begins_anew() {
    let (_dir, store) = store().await;
    let joined = |until| Change::Joined { session: "s".into(), party: bob(), until: Millis(until) };
    store.submit(joined(5)).await.unwrap();
    store.submit(route(claiming(1, "a", 1), &[])).await.unwrap();
    store.submit(route(claiming(2, "b", 2), &[])).await.unwrap();
    let end = |until| Change::DropSessions { sessions: vec!["s".into()], until };
    let early = store.submit(end(Millis(4))).await.unwrap();
    assert_eq!((early.gone, early.dropped), (vec![Gone::default()], vec![]));
    assert_eq!(check(&store, "s").await.len(), 2);
    let done = store.submit(end(LATER)).await.unwrap();
    assert_eq!((done.gone, done.dropped), (vec![Gone { rows: 3, bytes: 0 }], vec!["s".to_owned()]));
    assert_eq!(check(&store, "s").await, []);
    assert_eq!(store.equivocations(Some("s"), 0, 9).await.unwrap(), []);
    store.submit(joined(5)).await.unwrap();
    store.submit(route(claiming(3, "c", 3), &[])).await.unwrap();
    let anew = check(&store, "s").await;
    assert_eq!((anew.len(), anew[0].position, anew[0].before), (1, 1, START));
    // A number is not given twice: who reads after the first one finds the next.
    store.submit(route(claiming(4, "d", 4), &[])).await.unwrap();
    assert_eq!(store.equivocations(None, 1, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_contradiction_is_found_by_the_index_of_claims() {
    let (_dir, store) = store().await;
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {TWICE_HEAD} {TWICE_ROW}{TWICE_TAIL}"));
    let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&store.readers).await.unwrap();
    let steps: Vec<_> = steps.into_iter().map(|(.., step)| step).filter(|step| step.contains(" t ")).collect();
    let looked_for =
        |sign| format!("SEARCH t USING COVERING INDEX slot_claim (session=? AND claim=? AND digest{sign}?)");
    assert_eq!(steps, [looked_for('<'), looked_for('>')]);
}

#[tokio::test]
async fn the_heads_are_found_without_reading_the_chains() {
    let (_dir, store) = store().await;
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {HEADS}"));
    let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&store.readers).await.unwrap();
    let steps: Vec<_> = steps.into_iter().map(|(.., step)| step).collect();
    assert!(steps.contains(&"SEARCH t USING INDEX slot_chain (session=? AND position=?)".to_owned()), "{steps:#?}");
    assert!(!steps.iter().any(|step| step.starts_with("SCAN t") || step.starts_with("SCAN slot")), "{steps:#?}");
}

#[tokio::test]
async fn a_long_chain_goes_in_parts() {
    let (_dir, store) = store().await;
    store.submit(Change::Joined { session: "s".into(), party: bob(), until: Millis(5) }).await.unwrap();
    let count = 4 * ROWS_AN_OP + 10;
    let op = |n: usize| route(said(n as u64 + 1, "a"), &[]);
    for chunk in (0..count).collect::<Vec<_>>().chunks(1_000) {
        let results = store.writer.submit_together(chunk.iter().map(|n| op(*n)).collect()).await;
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }
    let end = || store.submit(Change::DropSessions { sessions: vec!["s".into()], until: LATER });
    let first = end().await.unwrap();
    assert_eq!((first.gone[0].rows, first.dropped), (4 * ROWS_AN_OP as u64, vec![]));
    assert_eq!(store.slots("s", 0, 9_999).await.unwrap().len(), 10);
    assert_eq!(end().await.unwrap().dropped, ["s"]);
    assert_eq!(end().await.unwrap().gone, [Gone::default()]);
    assert_eq!(store.slots("s", 0, 9_999).await.unwrap(), []);
}

#[tokio::test]
async fn what_a_watcher_sees_is_bounded_and_the_newest() {
    let (_dir, store) = store().await;
    for number in 1..=4 {
        store.submit(route(said(number, "a"), &[bob(), bob_elsewhere()])).await.unwrap();
    }
    let numbers = async |messages, deliveries| {
        let (found, cut) = store.session_messages("s", messages, deliveries).await.unwrap();
        assert!(found.iter().all(|message| message.deliveries.len() == 2));
        (found.iter().map(|message| message.number).collect::<Vec<_>>(), cut)
    };
    assert_eq!(numbers(9, 99).await, (vec![4, 3, 2, 1], false));
    assert_eq!(numbers(2, 99).await, (vec![4, 3], true));
    assert_eq!(numbers(9, 6).await, (vec![4, 3, 2], true));
    assert_eq!(numbers(9, 1).await, (vec![4], true));
}

fn bob_elsewhere() -> PartyRef {
    PartyRef { peer: OTHER, name: "bob".into() }
}
