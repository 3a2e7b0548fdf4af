//! What the push log keeps, in which order, and what it forgets.

use super::*;
use crate::{
    error::Error,
    store::{
        self, Op, Store, TokenRow, UserRow, UserState,
        tests::{settings, store},
    },
    types::{Millis, UserId},
};
use bytes::Bytes;

const AT: Millis = Millis(1_000);

fn event(id: &str, users: &[&str]) -> NewEvent {
    NewEvent {
        users: users.iter().map(|user| (*user).to_owned()).collect(),
        session: String::new(),
        kind: "test.kind".into(),
        payload: Bytes::from(format!("{{\"id\":\"{id}\"}}")),
        event_id: id.into(),
        request_id: "request".into(),
        trace_id: "trace".into(),
        stored_at: AT,
    }
}

fn op(event: NewEvent) -> Op {
    store::Change::from(event).into()
}

async fn open(store: &Store) {
    store.submit(Change::Open { seen_at: AT }).await.unwrap();
}

/// Cursor, user and event id (or `-reason`) of all that is after `after`.
async fn read(store: &Store, after: u64) -> Vec<(u64, String, String)> {
    let rows = store.push_page(after, 10_000, usize::MAX).await.unwrap();
    let told = |row: &Row| match &row.what {
        What::Event { event_id, .. } => event_id.clone(),
        What::Ended(reason) => format!("-{reason} {}", row.session),
    };
    rows.iter().flat_map(|row| row.recipients().map(|(cursor, user)| (cursor, user.to_owned(), told(row)))).collect()
}

fn user(id: u64, name: &str) -> UserRow {
    UserRow { id: UserId::new(id).unwrap(), name: name.into(), state: UserState::Active, created_at: AT }
}

async fn sign_in(store: &Store, n: u8, user: Option<&UserRow>, expires_at: Option<i64>) {
    let row = TokenRow {
        hash: [n; 32],
        id: format!("s{n}"),
        principal: user.map_or("service:x".into(), |user| format!("user:{}", user.name)),
        user: user.map(|user| user.id),
        created_at: Millis(i64::from(n)),
        expires_at: expires_at.map(Millis),
        last_used_at: None,
        user_agent: None,
    };
    store.submit(store::Change::PutToken(row)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_kept_until_a_gateway_was_there_and_after_it_was_given_up() {
    let (_dir, store) = store().await;
    assert!(!store.push_wanted());
    assert_eq!(store.submit(op(event("a", &["alice"]))).await.unwrap().pushed, 2..2);
    open(&store).await;
    assert!(store.push_wanted());
    assert_eq!(store.submit(op(event("b", &["alice"]))).await.unwrap().pushed, 2..3);
    assert_eq!(store.push_head().borrow().newest, 2);
    assert_eq!(store.push_bounds().await.unwrap(), Bounds { floor: 1, open: true, seen_at: AT });
    store.submit(Change::Close).await.unwrap();
    store.submit(op(event("c", &["alice"]))).await.unwrap();
    // Whoever has the newest cursor missed something: it is below the floor.
    let bounds = store.push_bounds().await.unwrap();
    assert_eq!((bounds.floor, bounds.open, store.push_head().borrow().newest), (3, false, 3));
    store.submit(Change::Close).await.unwrap();
    assert_eq!(store.push_bounds().await.unwrap().floor, 3, "closing twice changes nothing");
    open(&store).await;
    assert_eq!(store.submit(op(event("d", &["alice"]))).await.unwrap().pushed, 4..5);
    assert_eq!(store.push_excess(Millis(0), 100).await.unwrap(), Some(2), "what is below the floor goes");
}

#[tokio::test]
async fn an_event_for_many_is_one_row_with_a_cursor_for_each() {
    let (_dir, store) = store().await;
    open(&store).await;
    store.submit(op(event("a", &["alice", "bob", "carol"]))).await.unwrap();
    store.submit(op(event("b", &["bob"]))).await.unwrap();
    let all = read(&store, 1).await;
    let shown: Vec<_> = all.iter().map(|(cursor, user, id)| (*cursor, user.as_str(), id.as_str())).collect();
    assert_eq!(shown, [(2, "alice", "a"), (3, "bob", "a"), (4, "carol", "a"), (5, "bob", "b")]);
    // A cursor in the middle of it.
    let rest: Vec<_> = read(&store, 3).await.into_iter().filter(|(cursor, ..)| *cursor > 3).collect();
    assert_eq!(rest, all[2..]);
    for (cursor, there) in [(1, false), (2, true), (3, true), (4, true), (5, true), (6, false), (u64::MAX, false)] {
        assert_eq!(store.has_push(cursor).await.unwrap(), there, "{cursor}");
    }
    assert_eq!(store.push_event("b", "bob").await.unwrap().map(|row| row.cursor), Some(5));
    assert_eq!(store.push_event("b", "alice").await.unwrap(), None);
    let row = store.push_page(4, 1, usize::MAX).await.unwrap().remove(0);
    let what = What::Event {
        kind: "test.kind".into(),
        payload: Bytes::from_static(b"{\"id\":\"b\"}"),
        event_id: "b".into(),
        request_id: "request".into(),
        trace_id: "trace".into(),
    };
    assert_eq!(row, Row { cursor: 5, users: "bob".into(), session: String::new(), what });
}

/// So that a publisher need not look.
#[tokio::test]
async fn who_published_something_new_is_told_so_however_many_there_are() {
    let (_dir, store) = store().await;
    open(&store).await;
    let many = |range: std::ops::Range<usize>| {
        range.fold(Op::new(), |op, n| op.with(event(&n.to_string(), &["alice"]).into()))
    };
    // By statements of 64, 16, 4 and one rows, and behind others.
    for (range, repeats) in
        [(0..1, false), (0..1, true), (1..200, false), (199..300, true), (300..385, false), (385..386, false)]
    {
        assert_eq!(store.submit(many(range.clone())).await.unwrap().push_repeats, repeats, "{range:?}");
    }
    let last = store.submit(op(event("385", &["bob"]))).await.unwrap();
    assert!(!last.push_repeats, "another user's is another event");
}

#[tokio::test]
async fn the_same_event_id_is_kept_once_within_an_op_a_batch_and_later() {
    let (_dir, store) = store().await;
    open(&store).await;
    let twice = op(event("a", &["alice"])).with(event("a", &["alice"]).into());
    let (one, two, three) = tokio::join!(
        store.submit(twice),
        store.submit(op(event("b", &["bob"]))),
        store.submit(op(event("b", &["bob"])))
    );
    for done in [one, two, three] {
        done.unwrap();
    }
    store.submit(op(event("a", &["alice"]))).await.unwrap();
    // To somebody else it is another one.
    store.submit(op(event("a", &["bob"]))).await.unwrap();
    let mut told: Vec<_> = read(&store, 0).await.into_iter().map(|(_, user, id)| format!("{id} {user}")).collect();
    told.sort();
    assert_eq!(told, ["a alice", "a bob", "b bob"]);
}

#[tokio::test]
async fn cursors_are_never_given_twice_over_restarts_and_when_all_rows_are_gone() {
    let (dir, first) = store().await;
    open(&first).await;
    for n in 0..3 {
        first.submit(op(event(&n.to_string(), &["alice", "bob"]))).await.unwrap();
    }
    first.submit(Change::Trim { through: u64::MAX >> 1 }).await.unwrap();
    first.close().await;
    let store = Store::open_with(dir.path(), settings()).await.unwrap();
    assert!(store.push_wanted(), "that a gateway was there is kept");
    assert_eq!(store.push_bounds().await.unwrap().floor, 7);
    assert_eq!(store.submit(op(event("x", &["alice"]))).await.unwrap().pushed, 8..9);
    store.submit(Change::StartAt { least: 1_000 }).await.unwrap();
    store.submit(Change::StartAt { least: 10 }).await.unwrap();
    assert_eq!(store.submit(op(event("y", &["alice"]))).await.unwrap().pushed, 1_000..1_001);
    let cursors: Vec<_> = read(&store, 0).await.into_iter().map(|(cursor, ..)| cursor).collect();
    assert_eq!(cursors, [8, 1_000]);
}

#[tokio::test]
async fn what_failed_gave_no_cursor() {
    let (_dir, store) = store().await;
    open(&store).await;
    let refused = op(event("a", &["alice"])).with(store::Change::DropDead { id: 99 });
    assert!(matches!(store.submit(refused).await, Err(Error::NotFound(_))));
    assert_eq!(store.submit(op(event("b", &["alice"]))).await.unwrap().pushed, 2..3);
    assert_eq!(read(&store, 0).await.len(), 1);
}

#[tokio::test]
async fn what_is_old_or_too_much_goes_in_small_ops_and_raises_the_floor() {
    let (_dir, store) = store().await;
    open(&store).await;
    let many: Vec<store::Change> = (0..1_500)
        .map(|n| NewEvent { stored_at: Millis(n), ..event(&n.to_string(), &["alice", "bob"]) }.into())
        .collect();
    store.submit(Op::from(many)).await.unwrap();
    assert_eq!(store.push_excess(Millis(0), 3_000).await.unwrap(), None);
    assert_eq!(store.push_excess(Millis(3), 3_000).await.unwrap(), Some(7), "three rows of two users from 2 on");
    assert_eq!(store.push_excess(Millis(0), 2_990).await.unwrap(), Some(11));
    let through = store.push_excess(Millis(0), 10).await.unwrap().unwrap();
    assert_eq!(through, 2_001, "1,000 rows at most");
    let gone = store.submit(Change::Trim { through }).await.unwrap().gone;
    assert_eq!(gone[0].rows, 1_000);
    assert_eq!(store.push_bounds().await.unwrap().floor, 2_001);
    let through = store.push_excess(Millis(0), 10).await.unwrap().unwrap();
    store.submit(Change::Trim { through }).await.unwrap();
    assert_eq!(store.push_excess(Millis(0), 10).await.unwrap(), None);
    assert_eq!(read(&store, 0).await.len(), 10);
    assert_eq!(store.submit(Change::Trim { through: 5 }).await.unwrap().gone[0].rows, 0);
}

#[tokio::test]
async fn sessions_that_count_are_told_of_in_the_op_that_ends_them() {
    let (_dir, store) = store().await;
    let (alice, bob) = (user(1, "alice"), user(2, "bob"));
    for row in [&alice, &bob] {
        store.submit(store::Change::PutUser(row.clone())).await.unwrap();
    }
    for (n, user, expires_at) in
        [(1, Some(&alice), None), (2, Some(&alice), Some(5_000)), (3, Some(&alice), Some(900)), (4, Some(&bob), None)]
    {
        sign_in(&store, n, user, expires_at).await;
    }
    sign_in(&store, 5, None, None).await;
    open(&store).await;
    let ending = |whose| store::Change::from(Change::Ending { whose, reason: "revoked", at: AT });
    let revoke = |id: &str| {
        Op::from(ending(Whose::Session(id.into()))).with(store::Change::RevokeToken { id: id.into(), user: None })
    };
    assert_eq!(store.submit(revoke("s1")).await.unwrap().pushed, 2..3);
    assert_eq!(store.submit(revoke("s5")).await.unwrap().pushed, 3..3, "nobody's session");
    assert!(store.submit(revoke("s9")).await.is_err());
    let disable = Op::from(ending(Whose::User(alice.id)))
        .with(store::Change::SetUserState { user: alice.id, state: UserState::Disabled });
    store.submit(disable.clone()).await.unwrap();
    store.submit(disable).await.unwrap();
    store.submit(op(event("a", &["bob"]))).await.unwrap();
    let told: Vec<_> = read(&store, 0).await.into_iter().map(|(_, user, what)| format!("{user} {what}")).collect();
    assert_eq!(told, ["alice -revoked s1", "alice -revoked s2", "bob a"], "each once, and not what had expired");
}

#[tokio::test]
async fn that_a_session_expired_is_told_once() {
    let (_dir, store) = store().await;
    let (alice, bob) = (user(1, "alice"), user(2, "bob"));
    for row in [&alice, &bob] {
        store.submit(store::Change::PutUser(row.clone())).await.unwrap();
    }
    assert_eq!(store.next_lapse().await.unwrap(), None);
    for (n, user, expires_at) in
        [(1, Some(&alice), Some(30)), (2, Some(&bob), Some(20)), (3, Some(&bob), Some(40)), (4, None, Some(10))]
    {
        sign_in(&store, n, user, expires_at).await;
    }
    open(&store).await;
    assert_eq!(store.next_lapse().await.unwrap(), Some(Millis(20)));
    for rows in [2, 0] {
        assert_eq!(store.submit(Change::Expired { at: Millis(30) }).await.unwrap().gone[0].rows, rows);
    }
    assert_eq!(store.next_lapse().await.unwrap(), Some(Millis(40)));
    let disable = store::Change::SetUserState { user: bob.id, state: UserState::Disabled };
    store.submit(disable).await.unwrap();
    assert_eq!(store.submit(Change::Expired { at: Millis(40) }).await.unwrap().gone[0].rows, 1);
    let told: Vec<_> = read(&store, 0).await.into_iter().map(|(_, user, what)| format!("{user} {what}")).collect();
    assert_eq!(told, ["bob -expired s2", "alice -expired s1"], "a disabled user's had ended before");
}
