//! Tests of `store/writer`.

use super::*;
use crate::{
    store::{
        Change, DiskSpace, Store,
        disk::{FREE_BYTES, statvfs},
        tests::{PEER, enqueue, inbound, mark, settings, settle, store},
    },
    types::{Mark, Millis},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

impl Handle {
    /// Has the writer wait until all these ops are in its queue, in this order.
    pub(in crate::store) async fn submit_together(self: &Arc<Self>, ops: Vec<Op>) -> Vec<Result<Done, Error>> {
        let (release, held) = oneshot::channel();
        assert!(self.requests.send(Request::Hold(held)).await.is_ok());
        while self.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        let mut tasks = Vec::new();
        for (at, op) in ops.into_iter().enumerate() {
            let handle = self.clone();
            tasks.push(tokio::spawn(async move { handle.submit(op).await }));
            while self.waiting() <= at {
                tokio::task::yield_now().await;
            }
        }
        drop(release);
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    }

    fn waiting(&self) -> usize {
        self.requests.max_capacity() - self.requests.capacity()
    }

    pub(in crate::store) async fn execute(&self, statement: &'static str) {
        let (done, waited) = oneshot::channel();
        assert!(self.requests.send(Request::Execute(statement, done)).await.is_ok());
        waited.await.unwrap();
    }

    async fn veto_next_commit(&self) {
        let (done, waited) = oneshot::channel();
        assert!(self.requests.send(Request::VetoCommit(done)).await.is_ok());
        waited.await.unwrap();
    }
}

fn rows_of(store: &Store) -> impl Future<Output = Vec<u64>> {
    let store = store.clone();
    async move { store.outbox_page(PEER, 0, 5000, usize::MAX).await.unwrap().iter().map(|row| row.number).collect() }
}

#[tokio::test]
async fn a_batch_is_answered_in_the_order_of_its_ops() {
    let (_dir, store) = store().await;
    let ops = (0..300).map(|n| Op::from(vec![enqueue(PEER, n, b"x"), inbound(PEER, 1, b"y")])).collect();
    let results = store.writer.submit_together(ops).await;
    for (at, result) in (1..).zip(results) {
        let done = result.unwrap();
        assert_eq!((done.numbers, done.cursors), (at..at + 1, at..at + 1));
    }
    assert_eq!(rows_of(&store).await, (1..=300).collect::<Vec<u64>>());
    assert_eq!(*store.inbound_head().borrow(), 300);
}

#[tokio::test]
async fn more_than_one_batch_keeps_the_order_too() {
    let (_dir, store) = store().await;
    let ops: Vec<Op> = (0..2 * BATCH_OPS as u64 + 5).map(|n| enqueue(PEER, n, b"x").into()).collect();
    for (at, result) in (1..).zip(store.writer.submit_together(ops).await) {
        assert_eq!(result.unwrap().numbers.start, at);
    }
}

#[tokio::test]
async fn guards_of_one_batch_chain_and_the_loser_alone_is_told() {
    let (_dir, store) = store().await;
    let op = |was, to| Op::from(vec![mark(PEER, was, to), inbound(PEER, 1, b"x")]);
    let ops = vec![op((0, 0), 1), op((1, 1), 2), op((1, 1), 2), op((1, 2), 3)];
    let results = store.writer.submit_together(ops).await;
    let told: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(told, [true, true, false, true]);
    assert!(matches!(results[2], Err(Error::Conflict(_))));
    assert_eq!(results[3].as_ref().unwrap().cursors, 3..4);
    assert_eq!(store.stream_in(PEER).await.unwrap().number, 3);
    assert_eq!(store.inbound_range().await.unwrap(), Some(1..=3));
}

#[tokio::test]
async fn a_rare_op_keeps_its_place_among_the_others() {
    let (_dir, store) = store().await;
    let bury = Change::BuryRows {
        peer: PEER,
        from: 0,
        through: u64::MAX,
        reason: "dropped".into(),
        died_at: Millis(1),
        limit: 10,
    };
    let ops = vec![enqueue(PEER, 1, b"x").into(), Op::from(bury), enqueue(PEER, 2, b"x").into()];
    let results = store.writer.submit_together(ops).await;
    assert_eq!(results[1].as_ref().unwrap().gone[0].rows, 1);
    assert_eq!(rows_of(&store).await, [2]);
}

#[tokio::test]
async fn a_bad_op_fails_alone_and_its_batch_mates_commit() {
    let (_dir, store) = store().await;
    store.submit(enqueue(PEER, 0, b"x")).await.unwrap();
    // Room for small rows, not for a large one: SQLITE_FULL as a full disk gives it.
    store.writer.execute("PRAGMA max_page_count = 64").await;
    let large = vec![0; 1 << 20];
    let ops = vec![enqueue(PEER, 1, b"x").into(), enqueue(PEER, 2, &large).into(), enqueue(PEER, 3, b"x").into()];
    let results = store.writer.submit_together(ops).await;
    assert!(matches!(results[1], Err(Error::Exhausted { .. })), "{:?}", results[1]);
    assert_eq!(results[0].as_ref().unwrap().numbers, 2..3);
    assert_eq!(results[2].as_ref().unwrap().numbers, 3..4, "a failed op gives no number away");
    assert_eq!(rows_of(&store).await, [1, 2, 3]);
    store.submit(settle(PEER, 3)).await.unwrap();
    assert_eq!(rows_of(&store).await, [0u64; 0]);
}

#[tokio::test]
async fn a_read_only_database_is_unavailable_and_recovers() {
    let (_dir, store) = store().await;
    store.submit(enqueue(PEER, 1, b"x")).await.unwrap();
    store.writer.execute("PRAGMA query_only = ON").await;
    let refused = store.submit(enqueue(PEER, 2, b"x")).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    // The connection was opened anew, without the pragma.
    assert_eq!(store.submit(enqueue(PEER, 3, b"x")).await.unwrap().numbers, 2..3);
}

#[tokio::test]
async fn a_failed_commit_acknowledges_nothing_and_the_database_is_opened_anew() {
    let (_dir, store) = store().await;
    store.submit(enqueue(PEER, 1, b"x")).await.unwrap();
    store.writer.veto_next_commit().await;
    let ops = (0..3).map(|n| vec![enqueue(PEER, n, b"x"), inbound(PEER, 1, b"x")].into()).collect();
    for result in store.writer.submit_together(ops).await {
        assert!(matches!(result, Err(Error::Unavailable { .. })), "{result:?}");
    }
    assert_eq!(*store.inbound_head().borrow(), 0);
    let done = store.submit(vec![enqueue(PEER, 2, b"x"), inbound(PEER, 1, b"x")]).await.unwrap();
    assert_eq!((done.numbers, done.cursors), (2..3, 1..2));
    assert_eq!(rows_of(&store).await, [1, 2]);
}

#[tokio::test]
async fn a_database_that_is_gone_fails_every_op_and_stops_nobody() {
    let (dir, store) = store().await;
    store.writer.execute("PRAGMA query_only = ON").await;
    for name in ["pillarbox.db", "pillarbox.db-wal", "pillarbox.db-shm"] {
        std::fs::rename(dir.path().join(name), dir.path().join(format!("away-{name}"))).unwrap();
    }
    for _ in 0..2 {
        let refused = store.submit(enqueue(PEER, 1, b"x")).await;
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    }
    for name in ["pillarbox.db", "pillarbox.db-wal", "pillarbox.db-shm"] {
        let _ = std::fs::rename(dir.path().join(format!("away-{name}")), dir.path().join(name));
    }
    assert_eq!(store.submit(enqueue(PEER, 1, b"x")).await.unwrap().numbers, 1..2);
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_new_rows_and_lets_queues_drain() {
    let dir = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let probe: FreeSpace = {
        let free = free.clone();
        Arc::new(move || Some(DiskSpace { free_bytes: free.load(Ordering::Relaxed), total_bytes: 1 << 40 }))
    };
    let store = Store::open_with(dir.path(), Settings { free_space: probe, ..settings() }).await.unwrap();
    store.submit(vec![enqueue(PEER, 1, b"x"), enqueue(PEER, 2, b"x")]).await.unwrap();

    free.store(FREE_BYTES - 1, Ordering::Relaxed);
    let ops = vec![
        enqueue(PEER, 3, b"x").into(),
        Op::from(vec![mark(PEER, (0, 0), 1), inbound(PEER, 1, b"x")]),
        settle(PEER, 1).into(),
        mark(PEER, (0, 0), 1).into(),
    ];
    let results = store.writer.submit_together(ops).await;
    for refused in &results[..2] {
        let Err(Error::Exhausted { message, .. }) = refused else { panic!("{refused:?}") };
        assert!(message.contains("64 MiB"), "{message}");
    }
    assert_eq!(results[2].as_ref().unwrap().gone[0].rows, 1);
    assert!(results[3].is_ok());
    let mixed = Op::from(vec![Change::DropDead { id: 1 }, enqueue(PEER, 3, b"x")]);
    let refused = store.submit(mixed).await;
    assert!(matches!(refused, Err(Error::Exhausted { .. })), "{refused:?}");

    free.store(FREE_BYTES, Ordering::Relaxed);
    store.submit(enqueue(PEER, 3, b"x")).await.unwrap();
}

#[tokio::test]
async fn on_a_small_disk_a_tenth_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let space = |free_bytes| DiskSpace { free_bytes, total_bytes: 400 << 20 };
    for (free_bytes, taken) in [(40 << 20, true), ((40 << 20) - 1, false)] {
        let settings = Settings { free_space: Arc::new(move || Some(space(free_bytes))), ..settings() };
        let store = Store::open_with(dir.path(), settings).await.unwrap();
        assert_eq!(store.submit(enqueue(PEER, 1, b"x")).await.is_ok(), taken);
        store.close().await;
    }
}

#[tokio::test]
async fn the_real_disk_can_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let space = statvfs(dir.path())().unwrap();
    assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    assert_eq!(statvfs(&dir.path().join("nowhere"))(), None);
}

#[tokio::test]
async fn free_pages_go_back_to_the_file_system_when_nothing_is_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let quick = Settings { idle: Duration::ZERO, ..settings() };
    let store = Store::open_with(dir.path(), quick).await.unwrap();
    let body = vec![0; 1 << 20];
    for n in 1..=20 {
        store.submit(enqueue(PEER, n, &body)).await.unwrap();
    }
    store.submit(settle(PEER, 20)).await.unwrap();
    let pages = async || -> i64 { sqlx::query_scalar("PRAGMA page_count").fetch_one(&store.readers).await.unwrap() };
    while pages().await > 2048 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_stops_waiting_does_not_take_the_op_back() {
    let (_dir, store) = store().await;
    let (release, held) = oneshot::channel();
    assert!(store.writer.requests.send(Request::Hold(held)).await.is_ok());
    let task = tokio::spawn({
        let store = store.clone();
        async move { store.submit(enqueue(PEER, 1, b"x")).await }
    });
    while store.writer.waiting() == 0 || store.writer.room.available_permits() == WAITING_BYTES {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    drop(release);
    assert_eq!(store.submit(enqueue(PEER, 2, b"x")).await.unwrap().numbers, 2..3);
    assert_eq!(store.writer.room.available_permits(), WAITING_BYTES);
}

#[tokio::test]
async fn waiting_bytes_are_bounded() {
    let (_dir, store) = store().await;
    let (release, held) = oneshot::channel();
    assert!(store.writer.requests.send(Request::Hold(held)).await.is_ok());
    let body = vec![0; WAITING_BYTES / 2];
    let tasks: Vec<_> = (0..3)
        .map(|n| {
            let (store, op) = (store.clone(), enqueue(PEER, n, &body));
            tokio::spawn(async move { store.submit(op).await })
        })
        .collect();
    while store.writer.room.available_permits() > WAITING_BYTES / 2 {
        tokio::task::yield_now().await;
    }
    assert!(store.writer.waiting() <= 2, "the second op waits outside");
    drop(release);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(rows_of(&store).await.len(), 3);
}

#[tokio::test]
async fn a_stream_survives_every_u64() {
    let (_dir, store) = store().await;
    let now = Mark { epoch: u64::MAX, number: u64::MAX - 1, id: u64::MAX - 2 };
    store.submit(Change::Mark { peer: PEER, was: (0, 0), now }).await.unwrap();
    let refused = store.submit(Change::Mark { peer: PEER, was: (u64::MAX, 0), now }).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    store.submit(Change::Mark { peer: PEER, was: (u64::MAX, u64::MAX - 1), now }).await.unwrap();
}
