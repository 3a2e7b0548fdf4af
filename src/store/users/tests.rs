//! Users, the sessions of theirs, and those who were only names in tokens.

use super::*;
use crate::store::{
    Change, MIGRATIONS, Op, TokenRow,
    tests::{settings, store},
};
use sqlx::{ConnectOptions, Connection, migrate::Migrator};

fn user(id: u64, name: &str) -> UserRow {
    UserRow { id: UserId::new(id).unwrap(), name: name.into(), state: UserState::Active, created_at: Millis(7) }
}

fn session(n: u8, user: &UserRow) -> TokenRow {
    TokenRow {
        hash: [n; 32],
        id: format!("s{n}"),
        principal: format!("user:{}", user.name),
        user: Some(user.id),
        created_at: Millis(i64::from(n)),
        expires_at: None,
        last_used_at: None,
        user_agent: None,
    }
}

fn set(user: &UserRow, state: UserState) -> Change {
    Change::SetUserState { user: user.id, state }
}

#[tokio::test]
async fn a_name_and_an_id_are_one_persons_also_when_it_is_deleted() {
    let (_dir, store) = store().await;
    let (alice, upper) = (user(1, "alice"), user(i64::MAX.unsigned_abs(), "Alice"));
    for row in [&alice, &upper] {
        store.submit(Change::PutUser(row.clone())).await.unwrap();
    }
    assert_eq!(store.user_by_name("alice").await.unwrap(), Some(alice.clone()));
    assert_eq!(store.user_by_id(upper.id).await.unwrap(), Some(upper.clone()));
    assert_eq!(store.user_by_name("ALICE").await.unwrap(), None);
    store.submit(set(&alice, UserState::Deleted)).await.unwrap();
    for taken in [user(3, "alice"), user(1, "new")] {
        let refused = store.submit(Change::PutUser(taken)).await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    }
    for state in [UserState::Active, UserState::Disabled, UserState::Deleted] {
        let refused = store.submit(set(&alice, state)).await;
        assert!(matches!(refused, Err(Error::NotFound(_))), "deleted is for good: {refused:?}");
    }
    let deleted = UserRow { state: UserState::Deleted, ..alice };
    assert_eq!(store.users("", true, 9).await.unwrap(), [upper.clone(), deleted.clone()]);
    assert_eq!(store.users("", false, 9).await.unwrap(), std::slice::from_ref(&upper));
    assert_eq!(store.users("Alice", true, 9).await.unwrap(), [deleted]);
    assert_eq!(store.users("", true, 1).await.unwrap(), std::slice::from_ref(&upper));
    let ids: Vec<UserId> = [1, 2, i64::MAX.unsigned_abs()].into_iter().filter_map(UserId::new).collect();
    assert_eq!(store.user_names(&ids).await.unwrap(), [(upper.id, "Alice".to_owned())].into());
}

#[tokio::test]
async fn a_session_is_made_for_an_active_user_only() {
    let (_dir, store) = store().await;
    let (alice, bob) = (user(1, "alice"), user(2, "bob"));
    let early = store.submit(Change::PutToken(session(1, &alice))).await;
    assert!(matches!(early, Err(Error::Precondition(_))), "{early:?}");
    for row in [&alice, &bob] {
        store.submit(Change::PutUser(row.clone())).await.unwrap();
    }
    store.submit(set(&bob, UserState::Disabled)).await.unwrap();
    let refused = store.submit(Change::PutToken(session(1, &bob))).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    store.submit(set(&bob, UserState::Active)).await.unwrap();
    for row in [session(1, &alice), session(2, &bob), session(3, &alice)] {
        store.submit(Change::PutToken(row)).await.unwrap();
    }
    assert_eq!(store.tokens_of(alice.id).await.unwrap(), [session(1, &alice), session(3, &alice)]);
    let foreign = Change::RevokeToken { id: "s2".into(), user: Some(alice.id) };
    assert!(matches!(store.submit(foreign).await, Err(Error::NotFound(_))));
    let one = Change::RevokeToken { id: "s1".into(), user: Some(alice.id) };
    assert_eq!(store.submit(one).await.unwrap().gone[0].rows, 1);
    store.submit(set(&alice, UserState::Disabled)).await.unwrap();
    let found = store.token_by_hash(&[3; 32]).await.unwrap();
    assert_eq!(found, Some((session(3, &alice), Some(UserState::Disabled))));
    let delete = Op::from(set(&alice, UserState::Deleted)).with(Change::EndSessions { user: alice.id });
    assert_eq!(store.submit(delete).await.unwrap().gone[0].rows, 1);
    assert_eq!(store.tokens().await.unwrap(), [session(2, &bob)]);
}

#[tokio::test]
async fn users_that_were_names_in_tokens_become_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pillarbox.db");
    let before = MIGRATIONS.iter().filter(|migration| migration.version < 4).cloned().collect();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    Migrator::with_migrations(before).run_direct(None, &mut connection, false).await.unwrap();
    let principals = ["user:bob", "user:Bob", "user:bob", "user:zoë", "party:bob", "service:x", "user:a*b"];
    for (n, principal) in principals.into_iter().enumerate() {
        let n = i64::try_from(n).unwrap();
        sqlx::query("INSERT INTO token (hash, id, principal, created_at) VALUES ($1, $2, $3, $4)")
            .bind(vec![u8::try_from(n).unwrap(); 32])
            .bind(format!("t{n}"))
            .bind(principal)
            .bind(10 - n)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
    let store = Store::open_with(dir.path(), settings()).await.unwrap();
    let users = store.users("", true, 9).await.unwrap();
    let shown: Vec<_> = users.iter().map(|user| (user.name.as_str(), user.state, user.created_at)).collect();
    assert_eq!(shown, [("Bob", UserState::Active, Millis(9)), ("bob", UserState::Active, Millis(8))]);
    assert_ne!(users[0].id, users[1].id);
    let ids = |rows: Vec<TokenRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(store.tokens_of(users[1].id).await.unwrap()), ["t2", "t0"]);
    assert_eq!(ids(store.tokens_of(users[0].id).await.unwrap()), ["t1"]);
    assert_eq!(ids(store.tokens().await.unwrap()), ["t5", "t4", "t2", "t1", "t0"]);
    store.close().await;
}
