//! Users are made once, act as themselves, and end when they are ended.

use super::*;
use crate::store::{self, Op, SESSIONS_MAX};
use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use std::collections::HashSet;
use tokio_util::sync::CancellationToken;
use tonic::{Status, metadata::MetadataMap};

async fn users() -> (tempfile::TempDir, Store, Users) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let users = Users::new(store.clone(), Tokens::new(store.clone()));
    (dir, store, users)
}

fn alice() -> Principal {
    Principal::User("alice".into())
}

fn header(token: &str, agent: Option<&str>) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
    if let Some(agent) = agent {
        metadata.insert("user-agent", agent.parse().unwrap());
    }
    metadata
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_make_one_user() {
    let (_dir, store, users) = users().await;
    let made = join_all((0..64).map(|n| {
        let users = users.clone();
        tokio::spawn(async move { users.ensure(["alice", "Alice"][n % 2]).await.unwrap().id })
    }))
    .await;
    let ids: HashSet<UserId> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(store.users("", true, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_user_has_so_many_sessions_and_expired_ones_make_room() {
    let (_dir, store, users) = users().await;
    let user = users.add("alice").await.unwrap();
    let session = |n: usize| TokenRow {
        hash: std::array::from_fn(|at| n.to_le_bytes().get(at).copied().unwrap_or(0)),
        id: format!("s{n}"),
        principal: "user:alice".into(),
        user: Some(user.id),
        created_at: Millis(1),
        expires_at: (n == 0).then_some(Millis(2)),
        last_used_at: None,
        user_agent: None,
    };
    let all: Vec<Change> = (0..SESSIONS_MAX).map(|n| Change::PutToken(session(n))).collect();
    store.submit(Op::from(all)).await.unwrap();
    let full = users.issue(&alice(), None).await.unwrap_err();
    assert!(matches!(&full, Error::Exhausted { message, .. } if message.contains("session revoke")), "{full}");
    users.issue(&Principal::User("bob".into()), None).await.unwrap();
    // Once its end was told, an expired one is in nobody's way.
    store.submit(store::push::Change::Expired { at: Millis(3) }).await.unwrap();
    users.issue(&alice(), None).await.unwrap();
    let ids: Vec<_> = users.sessions("alice").await.unwrap().into_iter().map(|row| row.id).collect();
    assert!(ids.len() == SESSIONS_MAX && !ids.contains(&"s0".to_owned()));
    assert!(users.issue(&alice(), None).await.is_err());
    // All of them end at once.
    store.submit(store::push::Change::Open { seen_at: Millis(4) }).await.unwrap();
    assert_eq!(users.revoke("alice", None).await.unwrap(), SESSIONS_MAX as u64);
    let told = store.push_page(0, 2 * SESSIONS_MAX, usize::MAX).await.unwrap();
    assert_eq!(told.len(), SESSIONS_MAX);
    users.issue(&alice(), None).await.unwrap();
}

#[tokio::test]
async fn a_user_is_added_once() {
    let (_dir, _store, users) = users().await;
    let added = users.add("alice").await.unwrap();
    assert_eq!(users.find("alice").await.unwrap().unwrap(), added);
    assert_eq!(users.by_id(added.id).await.unwrap().unwrap(), added);
    assert_eq!(users.find("Alice").await.unwrap(), None);
    assert_eq!(users.ensure("alice").await.unwrap(), added);
    let again = users.add("alice").await.unwrap_err();
    assert!(matches!(&again, Error::Conflict(text) if text.contains("user list")), "{again}");
    let bad = users.add("a b").await.unwrap_err();
    assert!(matches!(&bad, Error::Invalid(text) if text.starts_with("name: ")), "{bad}");
}

#[tokio::test]
async fn a_lookup_is_remembered_and_forgotten_with_a_change() {
    let (_dir, store, users) = users().await;
    let user = users.add("alice").await.unwrap();
    // Behind its back: what is remembered is not read again.
    store.submit(Change::SetUserState { user: user.id, state: UserState::Disabled }).await.unwrap();
    assert_eq!(users.find("alice").await.unwrap().unwrap().state, UserState::Active);
    for (state, changed) in [
        (UserState::Disabled, users.disable("alice").await),
        (UserState::Active, users.enable("alice").await),
        (UserState::Disabled, users.disable("alice").await),
    ] {
        assert_eq!(changed.unwrap().state, state);
    }
    for _ in 0..2 {
        assert_eq!(users.find("alice").await.unwrap().unwrap().state, UserState::Disabled);
        assert_eq!(users.by_id(user.id).await.unwrap().unwrap().state, UserState::Disabled);
    }
    users.delete("alice").await.unwrap();
    assert_eq!(users.by_id(user.id).await.unwrap().unwrap().state, UserState::Deleted);
    assert_eq!(users.find("alice").await.unwrap().unwrap().state, UserState::Deleted);
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_remembered_after_it() {
    let (_dir, _store, users) = users().await;
    let user = users.add("alice").await.unwrap();
    let before = users.lock().changes;
    users.disable("alice").await.unwrap();
    users.lock().remember(&user, before);
    assert_eq!(users.find("alice").await.unwrap().unwrap().state, UserState::Disabled);
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let (_dir, _store, users) = users().await;
    for n in 1..=REMEMBERED_MAX as u64 + 1 {
        let id = UserId::new(n).unwrap();
        let user = User { id, name: format!("u{n}"), state: UserState::Active, created_at: Millis(0) };
        users.lock().remember(&user, 0);
    }
    let known = users.lock();
    assert_eq!((known.by_name.len(), known.names.len()), (1, 1));
}

#[tokio::test]
async fn a_deleted_user_never_comes_back_under_its_name() {
    let (_dir, _store, users) = users().await;
    users.issue(&alice(), None).await.unwrap();
    users.issue(&alice(), None).await.unwrap();
    assert_eq!(users.delete("alice").await.unwrap(), 2);
    assert!(matches!(users.add("alice").await, Err(Error::Conflict(_))));
    assert!(matches!(users.ensure("alice").await, Err(Error::Precondition(_))));
    assert!(matches!(users.issue(&alice(), None).await, Err(Error::Precondition(_))));
    let service = Principal::Service("s".into());
    assert!(matches!(users.acting(&service, "user_id", "alice").await, Err(Error::Denied(_))));
    for gone in [
        users.delete("alice").await.map(drop),
        users.disable("alice").await.map(drop),
        users.enable("alice").await.map(drop),
        users.sessions("alice").await.map(drop),
        users.revoke("alice", None).await.map(drop),
        users.disable("nobody").await.map(drop),
    ] {
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    }
}

#[tokio::test]
async fn a_service_acts_for_any_user_and_a_user_for_itself() {
    let (_dir, _store, users) = users().await;
    let service = Principal::Service("s".into());
    let bob = users.acting(&service, "user_id", "bob").await.unwrap();
    assert_eq!(users.find("bob").await.unwrap(), Some(bob.clone()), "made on first use");
    users.ensure("alice").await.unwrap();
    assert_eq!(users.acting(&alice(), "user_id", "alice").await.unwrap().name, "alice");
    for (caller, text) in [
        (alice(), "bob"),
        (alice(), "Alice"),
        (Principal::Party("alice".into()), "alice"),
        (Principal::Gateway("alice".into()), "alice"),
        (Principal::Admin("alice".into()), "alice"),
        (Principal::Party("alice".into()), ""),
    ] {
        let refused = users.acting(&caller, "user_id", text).await.unwrap_err();
        assert!(matches!(&refused, Error::Denied(why) if why.starts_with("user_id: ")), "{caller} {text}: {refused}");
    }
    for caller in [&service, &alice()] {
        for text in ["", "a@b", &"x".repeat(65)] {
            let refused = users.acting(caller, "user_id", text).await.unwrap_err();
            assert!(
                matches!(&refused, Error::Invalid(why) if why.starts_with("user_id: ")),
                "{caller} {text}: {refused}"
            );
        }
    }
    users.disable("bob").await.unwrap();
    let refused = users.acting(&service, "user_id", "bob").await.unwrap_err();
    assert!(matches!(&refused, Error::Denied(why) if why.contains("disabled")), "{refused}");
    users.enable("bob").await.unwrap();
    assert_eq!(users.acting(&service, "user_id", "bob").await.unwrap(), bob);
}

#[tokio::test]
async fn the_tokens_of_a_disabled_user_count_again_when_it_is_enabled() {
    let (_dir, _store, users) = users().await;
    let tokens = users.0.tokens.clone();
    let (own, other) = (users.issue(&alice(), None).await.unwrap(), users.issue(&alice(), None).await.unwrap());
    let bob = users.issue(&Principal::User("bob".into()), None).await.unwrap();
    let open = |token: &str| {
        let items = stream::pending::<Result<(), Status>>();
        tokens.until_lapse(&header(token, None), items)
    };
    let (mut ended, mut stays) = (open(&own.token), open(&bob.token));
    assert!(ended.next().now_or_never().is_none());
    users.disable("alice").await.unwrap();
    let end = ended.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), tonic::Code::Unauthenticated);
    assert!(end.message().contains("user:alice is disabled"), "{}", end.message());
    assert!(stays.next().now_or_never().is_none());
    for issued in [&own, &other] {
        let refused = tokens.authenticate(&header(&issued.token, None)).await.unwrap_err();
        assert!(matches!(&refused, Error::Unauthenticated(why) if why.contains("disabled")), "{refused}");
    }
    let refused = users.issue(&alice(), None).await.map(drop).unwrap_err();
    assert!(matches!(&refused, Error::Precondition(why) if why.contains("user enable alice")), "{refused}");
    users.enable("alice").await.unwrap();
    assert_eq!(tokens.authenticate(&header(&own.token, None)).await.unwrap(), alice());
    let mut open = open(&own.token);
    assert!(open.next().now_or_never().is_none());
    users.delete("alice").await.unwrap();
    assert_eq!(open.next().await.unwrap().unwrap_err().code(), tonic::Code::Unauthenticated);
    assert!(tokens.authenticate(&header(&bob.token, None)).await.is_ok());
}

#[tokio::test]
async fn sessions_are_revoked_one_by_one_or_together() {
    let (_dir, _store, users) = users().await;
    let tokens = users.0.tokens.clone();
    let mut issued = vec![];
    for _ in 0..3 {
        issued.push(users.issue(&alice(), None).await.unwrap());
    }
    let bob = users.issue(&Principal::User("bob".into()), None).await.unwrap();
    for issued in issued.iter().chain([&bob]) {
        tokens.authenticate(&header(&issued.token, None)).await.unwrap();
    }
    let foreign = users.revoke("alice", Some(&bob.id)).await.unwrap_err();
    assert!(matches!(&foreign, Error::NotFound(why) if why.contains("session list alice")), "{foreign}");
    assert_eq!(users.revoke("alice", Some(&issued[1].id)).await.unwrap(), 1);
    assert!(tokens.authenticate(&header(&issued[1].token, None)).await.is_err());
    assert!(tokens.authenticate(&header(&issued[0].token, None)).await.is_ok());
    assert_eq!(users.sessions("alice").await.unwrap().len(), 2);
    assert_eq!(users.revoke("alice", None).await.unwrap(), 2);
    assert_eq!(users.revoke("alice", None).await.unwrap(), 0);
    assert!(tokens.authenticate(&header(&issued[0].token, None)).await.is_err());
    assert!(tokens.authenticate(&header(&bob.token, None)).await.is_ok());
}

#[tokio::test]
async fn a_session_says_when_it_was_used_last_and_by_what() {
    let (_dir, store, users) = users().await;
    let tokens = users.0.tokens.clone();
    let issued = users.issue(&alice(), Some(Duration::from_secs(99))).await.unwrap();
    let fresh = users.sessions("alice").await.unwrap().remove(0);
    assert_eq!((fresh.id, fresh.last_used_at, fresh.user_agent), (issued.id.clone(), None, None));
    assert!(fresh.expires_at.is_some());
    let long = "y".repeat(300);
    for (agent, shown) in
        [(Some("phone/1"), "phone/1"), (None, "phone/1"), (Some(""), "phone/1"), (Some(&long), &long[..256])]
    {
        tokens.authenticate(&header(&issued.token, agent)).await.unwrap();
        let session = users.sessions("alice").await.unwrap().remove(0);
        assert_eq!(session.user_agent.as_deref(), Some(shown));
        assert!(session.last_used_at.is_some());
    }
    // In passing: not before it is time.
    let user = users.find("alice").await.unwrap().unwrap();
    assert_eq!(store.tokens_of(user.id).await.unwrap()[0].user_agent, None);
    let stop = CancellationToken::new();
    stop.cancel();
    tokens.clone().run(stop).await;
    assert_eq!(store.tokens_of(user.id).await.unwrap()[0].user_agent.as_deref(), Some(&long[..256]));
}

#[tokio::test]
async fn a_revocation_is_seen_through_when_its_caller_goes_away() {
    let (_dir, _store, users) = users().await;
    let tokens = users.0.tokens.clone();
    let issued = users.issue(&alice(), None).await.unwrap();
    tokens.authenticate(&header(&issued.token, None)).await.unwrap();
    let mut open = tokens.until_lapse(&header(&issued.token, None), stream::pending::<Result<(), Status>>());
    assert!(open.next().now_or_never().is_none());
    assert!(users.disable("alice").now_or_never().is_none(), "it waits for its commit");
    assert_eq!(open.next().await.unwrap().unwrap_err().code(), tonic::Code::Unauthenticated);
}
