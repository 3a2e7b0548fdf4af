//! Rows of chats: what is appended is read back in order, what waits keeps its
//! places, and a log that is cut back loses nothing.

use super::*;
use crate::{
    error::Error,
    store::{self, Op, Store},
    types::{Millis, PeerId, uuid::Uuid},
};
use bytes::Bytes;
use tempfile::TempDir;

const B: PeerId = PeerId(2);
const NOW: Millis = Millis(5_000);

async fn store() -> (Store, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Store::open(dir.path()).await.unwrap(), dir)
}

fn id(n: u8) -> Uuid {
    Uuid::of_hash([n; 32])
}

fn message(n: u8) -> Message {
    Message {
        id: Some(id(n)),
        author: u32::from(n),
        sent_at: Millis(i64::from(n)),
        client_id: format!("c{n}"),
        head: Bytes::from(vec![n]),
        content: Bytes::from(vec![n; 100]),
        signature: n.is_multiple_of(2).then(|| Bytes::from(vec![n; 64])),
        since: None,
    }
}

fn entry(n: u8) -> Entry {
    let at = u64::from(n);
    let message = Message { since: n.is_multiple_of(3).then_some(at / 3), ..message(n) };
    Entry { revision: at, seq: at, chain: u64::MAX - at, told: Told::at(at), message }
}

fn topic(number: u64, home: Option<PeerId>) -> NewTopic {
    let member = |peer, name: &str| Member { peer, name: name.into(), qualified: format!("{name}@x:1") };
    NewTopic {
        number,
        chat: id(200 + u8::try_from(number).unwrap()),
        members_key: [u8::try_from(number).unwrap(); 32],
        home,
        maker: Some("user:alice".into()),
        maker_peer: PeerId::SELF,
        created_at: NOW,
        members: vec![member(PeerId::SELF, "alice"), member(B, "bob")],
        links: vec![(B, false)],
    }
}

async fn make(store: &Store, new: NewTopic) {
    store.submit(Change::Topic(Box::new(new))).await.unwrap();
}

async fn append(store: &Store, topic: u64, entries: impl Iterator<Item = u8>, cleared: Vec<i64>) {
    store.submit(Change::Append { topic, entries: entries.map(entry).collect(), cleared }).await.unwrap();
}

#[tokio::test]
async fn a_chat_is_read_back_as_it_was_made_and_made_once() {
    let (store, _dir) = store().await;
    make(&store, topic(1, None)).await;
    make(&store, topic(2, Some(B))).await;
    let row = store.chat(id(202)).await.unwrap().unwrap();
    assert_eq!((row.number, row.home, row.lost, row.head, row.waiting), (2, Some(B), false, (0, 0, 0), (0, 0, 0)));
    assert_eq!(
        (&row.members, &row.links),
        (&topic(2, None).members, &vec![LinkRow { peer: B, introduced: false, behind: None }])
    );
    assert_eq!(store.chat_of(&[1; 32]).await.unwrap().unwrap().number, 1);
    assert_eq!(store.chat_of(&[9; 32]).await.unwrap(), None);
    let again = NewTopic { number: 3, ..topic(1, None) };
    let refused = store.submit(Change::Topic(Box::new(again))).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)), "{refused}");
    assert_eq!(store.newest_chat().await.unwrap(), 2);
    assert_eq!(store.chat_makers().await.unwrap(), [(PeerId::SELF, Some("user:alice".into()), 2)]);
    assert_eq!(store.chat_peers().await.unwrap(), [B]);
}

#[tokio::test]
async fn a_log_is_read_in_order_from_both_ends_and_by_ids() {
    let (store, _dir) = store().await;
    make(&store, topic(1, None)).await;
    make(&store, topic(2, None)).await;
    append(&store, 1, 1..=100, vec![]).await;
    append(&store, 2, 101..=102, vec![]).await;
    let all = store.chat_entries(1, 0, 1_000, usize::MAX).await.unwrap();
    assert_eq!(all, (1..=100).map(entry).collect::<Vec<_>>(), "and nothing of the other chat");
    let some = store.chat_entries(1, 10, 5, usize::MAX).await.unwrap();
    assert_eq!(some, (11..=15).map(entry).collect::<Vec<_>>());
    assert_eq!(store.chat_entries(1, 10, 5, 1).await.unwrap().len(), 1, "one at least");
    let (before, cut) = store.chat_entries_before(1, 4, 1_000, usize::MAX).await.unwrap();
    assert_eq!((before, cut), ([3, 2, 1].map(entry).to_vec(), false));
    assert!(store.chat_entries_before(1, u64::MAX, 1_000, 1_000).await.unwrap().1, "cut for its bytes");
    assert_eq!(store.chat(id(201)).await.unwrap().unwrap().head, (100, 100, u64::MAX - 100));
    let chains = store.chat_chains(1, &[0, 7, 100, 101]).await.unwrap();
    assert_eq!(chains, [(7, u64::MAX - 7), (100, u64::MAX - 100)].into());
    let places = store.chat_places(&[id(5), id(101), id(150)]).await.unwrap();
    assert_eq!(places, [(id(5), Place::Logged(1, 5)), (id(101), Place::Logged(2, 101))].into());
    assert!(store.chat_places(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_page_of_more_ids_than_a_statement_has_values_is_looked_up() {
    let (store, _dir) = store().await;
    make(&store, topic(1, None)).await;
    append(&store, 1, 1..=200, vec![]).await;
    let asked: Vec<_> = (0..40_000u32).map(|n| id(u8::try_from(n % 250).unwrap())).collect();
    let found = store.chat_places(&asked[..2_000]).await.unwrap();
    assert_eq!(found.len(), 200);
}

#[tokio::test]
async fn posts_wait_in_their_places_until_they_are_cleared_or_given_up() {
    let (store, _dir) = store().await;
    make(&store, topic(1, Some(B))).await;
    let posts = |range: std::ops::Range<u8>| {
        range.map(|n| Post { place: i64::from(n) - 2, message: message(n) }).collect::<Vec<_>>()
    };
    store.submit(Change::Wait { topic: 1, stored_at: NOW, posts: posts(0..5) }).await.unwrap();
    assert_eq!(store.chat_posts(1, 10, usize::MAX).await.unwrap(), posts(0..5));
    append(&store, 1, 1..=1, vec![-1]).await;
    assert_eq!(store.chat_places(&[id(2)]).await.unwrap()[&id(2)], Place::Waiting(1, 0, None));
    assert_eq!(store.overdue_posts(Millis(5_001), 2).await.unwrap().len(), 2);
    assert!(store.overdue_posts(NOW, 2).await.unwrap().is_empty());
    store.submit(Change::GiveUp { topic: 1, places: vec![0, 2] }).await.unwrap();
    let row = store.chat(id(201)).await.unwrap().unwrap();
    assert_eq!((row.lost, row.waiting), (true, (2, -2, 3)), "given up places stay taken");
    let left: Vec<_> = store.chat_posts(1, 10, usize::MAX).await.unwrap().iter().map(|post| post.place).collect();
    assert_eq!(left, [-2, 1]);
    assert_eq!(store.chat_places(&[id(2)]).await.unwrap()[&id(2)], Place::GivenUp(1, 0, None));
    store.submit(Change::Found { topic: 1 }).await.unwrap();
    assert!(!store.chat(id(201)).await.unwrap().unwrap().lost);
}

#[tokio::test]
async fn what_must_not_be_here_keeps_its_op_from_being_made() {
    let (store, _dir) = store().await;
    make(&store, topic(1, None)).await;
    make(&store, topic(2, Some(B))).await;
    append(&store, 1, 1..=2, vec![]).await;
    let post = Post { place: 0, message: message(9) };
    store.submit(Change::Wait { topic: 2, stored_at: NOW, posts: vec![post] }).await.unwrap();
    let unless = |ids: &[u8]| {
        let entries = vec![Entry { revision: 3, ..entry(3) }];
        let mut op = Op::from(Change::Append { topic: 1, entries, cleared: vec![] });
        op.push(store::Change::from(Change::Unsaid(ids.iter().map(|n| id(*n)).collect())));
        op
    };
    let found = |store: Store| async move {
        store.chat_entries(1, 0, 10, usize::MAX).await.unwrap().iter().map(|entry| entry.revision).collect::<Vec<_>>()
    };
    // One that is in the log, and one that waits.
    for known in [&[3, 2][..], &[9]] {
        assert!(matches!(store.submit(unless(known)).await, Err(Error::Conflict(_))));
        assert_eq!(found(store.clone()).await, [1, 2]);
    }
    // Others in the same transaction do not notice, nor does one with rare changes.
    let (refused, rare) = (unless(&[2]), Change::Found { topic: 2 });
    let mut alone = unless(&[1]);
    alone.changes.insert(0, store::Change::from(rare));
    let used = Op::from(Change::Used { peer: B, bytes: 5 });
    let (refused, used, alone) = tokio::join!(store.submit(refused), store.submit(used), store.submit(alone));
    assert!(matches!((refused, used, alone), (Err(Error::Conflict(_)), Ok(_), Err(Error::Conflict(_)))));
    assert_eq!(store.chat_usage().await.unwrap(), [(B, 5)].into());
    store.submit(unless(&[3, 4])).await.unwrap();
    assert_eq!(found(store.clone()).await, [1, 2, 3]);
}

#[tokio::test]
async fn what_a_log_is_cut_back_by_waits_in_its_order_before_the_rest() {
    let (store, _dir) = store().await;
    make(&store, topic(1, Some(B))).await;
    append(&store, 1, 1..=3, vec![]).await;
    let refused = Entry { message: Message::refused(), ..entry(4) };
    let entries = vec![refused, entry(5)];
    store.submit(Change::Append { topic: 1, entries, cleared: vec![] }).await.unwrap();
    let post = Post { place: 0, message: message(9) };
    store.submit(Change::Wait { topic: 1, stored_at: NOW, posts: vec![post] }).await.unwrap();
    assert_eq!(store.chat_behind(1, 1).await.unwrap(), (3, Some(2), 1, u64::MAX - 1));
    store.submit(Change::CutBack { topic: 1, revision: 1, first_place: -3, stored_at: NOW }).await.unwrap();
    let waiting: Vec<_> = store.chat_posts(1, 10, usize::MAX).await.unwrap();
    let kept: Vec<_> = waiting.iter().map(|post| (post.place, post.message.clone())).collect();
    // Whoever saw any of them has seen what is left.
    let seen = |n| Message { since: Some(1), ..message(n) };
    assert_eq!(kept, [(-3, seen(2)), (-2, seen(3)), (-1, seen(5)), (0, seen(9))]);
    assert_eq!(store.chat(id(201)).await.unwrap().unwrap().head, (1, 1, u64::MAX - 1));
    append(&store, 1, 2..=2, vec![-3]).await;
}

#[tokio::test]
async fn readers_are_told_in_an_order_that_stays_when_the_log_does_not() {
    let (store, _dir) = store().await;
    make(&store, topic(1, Some(B))).await;
    make(&store, topic(2, Some(B))).await;
    append(&store, 1, 1..=3, vec![]).await;
    append(&store, 2, 101..=102, vec![]).await;
    let refused = Entry { message: Message::refused(), ..entry(4) };
    store.submit(Change::Append { topic: 1, entries: vec![refused], cleared: vec![] }).await.unwrap();
    let ids = |from, told: &[(u64, u8)]| {
        let (store, told) = (store.clone(), told.iter().map(|(at, n)| (*at, Some(id(*n)))).collect::<Vec<_>>());
        async move {
            let found = store.chat_tellings(1, from, 10, usize::MAX).await.unwrap();
            assert_eq!(found.into_iter().map(|(at, message)| (at, message.id)).collect::<Vec<_>>(), told);
        }
    };
    let told = async || store.chat(id(201)).await.unwrap().unwrap().told;
    assert_eq!(told().await, (3, None));
    store.submit(Change::CutBack { topic: 1, revision: 1, first_place: -2, stored_at: NOW }).await.unwrap();
    assert_eq!(told().await, (3, Some(2)));
    ids(0, &[(1, 1), (2, 2), (3, 3)]).await;
    assert_eq!(store.chat_places(&[id(3)]).await.unwrap()[&id(3)], Place::Waiting(1, -1, Some(Told::at(3))));
    assert_eq!(store.chat_told_behind(1, 1).await.unwrap(), Some(2));
    let elsewhere = |revision, n, at, resume| Entry { revision, told: Told { at, resume }, ..entry(n) };
    let entries = vec![elsewhere(2, 9, 4, 1), elsewhere(3, 3, 3, 3), elsewhere(4, 2, 2, 2), elsewhere(5, 8, 5, 5)];
    store.submit(Change::Append { topic: 1, entries, cleared: vec![-1, -2] }).await.unwrap();
    assert_eq!(told().await, (5, None));
    ids(0, &[(1, 1), (2, 2), (3, 3), (4, 9), (5, 8)]).await;
    ids(3, &[(4, 9), (5, 8)]).await;
    for (n, behind, at) in [(9, Some(2), Told { at: 4, resume: 1 }), (3, Some(2), Told::at(3)), (8, None, Told::at(5))]
    {
        assert_eq!(store.chat_told_of(1, id(n)).await.unwrap(), Some((Some(at), behind)));
        assert_eq!(store.chat_told_of(2, id(n)).await.unwrap(), None, "it is of another chat");
    }
    assert_eq!(store.chat_told_of(1, id(77)).await.unwrap(), None);
    let first_behind = [(1, Some(2)), (3, Some(2)), (4, Some(5)), (5, None)];
    for (revision, first) in first_behind {
        assert_eq!(store.chat_told_behind(1, revision).await.unwrap(), first, "{revision}");
    }
    // 9, 3, 2 and 8 were told as 4, 3, 2 and 5.
    let resumed_from = async |found: &[(u8, u64)]| {
        for (n, resume) in found {
            let (told, _) = store.chat_told_of(1, id(*n)).await.unwrap().unwrap();
            assert_eq!(told.unwrap().resume, *resume, "{n}");
        }
    };
    store.submit(Change::CutBack { topic: 1, revision: 3, first_place: -5, stored_at: NOW }).await.unwrap();
    resumed_from(&[(9, 1), (3, 3), (2, 2), (8, 5)]).await;
    store.submit(Change::CutBack { topic: 1, revision: 1, first_place: -7, stored_at: NOW }).await.unwrap();
    // Who found 3 in the history did not find 2 there.
    resumed_from(&[(9, 1), (3, 1), (2, 2), (8, 5)]).await;
    let post = Post { place: 3, message: message(7) };
    store.submit(Change::Wait { topic: 1, stored_at: NOW, posts: vec![post] }).await.unwrap();
    assert_eq!(store.chat_told_of(1, id(7)).await.unwrap(), Some((None, None)), "it was never told");
    ids(5, &[]).await;
}

#[tokio::test]
async fn it_is_kept_where_words_of_others_stand_before_those_of_a_peer() {
    let (store, _dir) = store().await;
    make(&store, topic(1, None)).await;
    for behind in [Some(7), None] {
        store.submit(Change::Behind { topic: 1, peer: B, behind }).await.unwrap();
        let links = store.chat(id(201)).await.unwrap().unwrap().links;
        assert_eq!(links, [LinkRow { peer: B, introduced: false, behind }]);
    }
}

#[tokio::test]
async fn heads_and_what_is_due_are_found_for_each_peer() {
    let (store, _dir) = store().await;
    make(&store, topic(1, None)).await;
    make(&store, topic(2, Some(B))).await;
    append(&store, 1, 1..=2, vec![]).await;
    assert_eq!(store.chats_due(0, 10).await.unwrap(), [(1, id(201)), (2, id(202))]);
    let introduced = |topic| store::Change::from(Change::Introduced { topic, peer: B, introduced: true });
    store.submit(Op::from(vec![introduced(1), introduced(2)])).await.unwrap();
    assert_eq!(store.chats_due(0, 10).await.unwrap(), []);
    let heads = store.chat_heads(B, 0, 10).await.unwrap();
    let head = HeadRow { topic: 1, chat: id(201), revision: 2, chain: u64::MAX - 2, waits: false };
    assert_eq!(heads, [head, HeadRow { topic: 2, chat: id(202), revision: 0, chain: 0, waits: false }]);
    assert_eq!(store.chat_heads(B, 1, 10).await.unwrap().len(), 1);
    for bytes in [5, 7] {
        store.submit(Change::Used { peer: B, bytes }).await.unwrap();
    }
    assert_eq!(store.chat_usage().await.unwrap(), [(B, 12)].into());
}
