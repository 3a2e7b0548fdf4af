//! Pretended disks, as full as the database's files on them are long.

use super::*;
use crate::{
    store::{
        Change, Settings, Store,
        tests::{PEER, enqueue, settle},
    },
    types::Millis,
};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

const MIB: u64 = 1 << 20;
/// Of disks on which a node is to work.
const SIZES: [u64; 4] = [12 * MIB, 24 * MIB, 48 * MIB, 100 * MIB];
/// Settled in so many steps.
const STEPS: usize = 300;

/// A disk of `total` bytes, all of them the store's. `overrun` is set should
/// the files have become longer than it.
#[derive(Clone)]
struct Disk {
    dir: PathBuf,
    total: u64,
    overrun: Arc<AtomicBool>,
}

impl Disk {
    fn free(&self) -> u64 {
        let length = |name: &str| std::fs::metadata(self.dir.join(name)).map_or(0, |found| found.len());
        let used = length("pillarbox.db") + length("pillarbox.db-wal") + length("pillarbox.db-shm");
        self.overrun.fetch_or(used > self.total, Relaxed);
        self.total.saturating_sub(used)
    }

    async fn open(&self) -> Store {
        let disk = self.clone();
        let free_space: FreeSpace =
            Arc::new(move || Some(DiskSpace { free_bytes: disk.free(), total_bytes: disk.total }));
        // A free page goes back when the writer has nothing to do for a moment.
        let settings = Settings { free_space, idle: Duration::from_millis(1) };
        Store::open_with(&self.dir, settings).await.unwrap()
    }

    fn assert_held(&self) {
        self.free();
        assert!(!self.overrun.load(Relaxed), "a disk of {} MiB was overrun", self.total / MIB);
    }
}

/// Sends until it is refused; the number of the last row.
async fn fill(disk: &Disk, store: &Store) -> u64 {
    let mut last = 0;
    for at in 0.. {
        // Calls of few and of many events, small and large.
        let (rows, bytes) = [(1, 100), (40, 1_000), (5, 64 << 10), (200, 200)][at % 4];
        let changes: Vec<Change> = (0..rows).map(|row| enqueue(PEER, row, &vec![7; bytes])).collect();
        match store.submit(changes).await {
            Ok(done) => last = done.numbers.end - 1,
            Err(Error::Exhausted { message, .. }) => {
                assert!(message.contains("disk nearly full"), "{message}");
                break;
            }
            Err(other) => panic!("{other}"),
        }
        disk.assert_held();
    }
    last
}

async fn taken_again(store: &Store) {
    let taken = async || loop {
        match store.submit(enqueue(PEER, 1, &[7; 1000])).await {
            Ok(_) => return,
            Err(refused) => assert!(matches!(refused, Error::Exhausted { .. }), "{refused}"),
        }
        tokio::task::yield_now().await;
    };
    tokio::time::timeout(Duration::from_secs(30), taken()).await.expect("it takes rows again");
}

async fn in_a_disk<F: AsyncFn(&Disk)>(test: F) {
    for total in SIZES {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk { dir: dir.path().to_owned(), total, overrun: Arc::default() };
        test(&disk).await;
        disk.assert_held();
    }
}

#[tokio::test]
async fn a_disk_that_was_nearly_full_takes_rows_again_once_the_queue_is_settled() {
    in_a_disk(async |disk| {
        let store = disk.open().await;
        for _ in 0..2 {
            let last = fill(disk, &store).await;
            assert!(last > STEPS as u64, "most of the disk is there for rows");
            for number in (1..last).step_by(last as usize / STEPS).chain([last]) {
                store.submit(settle(PEER, number)).await.unwrap();
                disk.assert_held();
            }
            assert_eq!(store.outbox_totals().await.unwrap(), []);
            taken_again(&store).await;
        }
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn on_a_nearly_full_disk_rows_can_be_dropped_and_the_store_opened_again() {
    in_a_disk(async |disk| {
        let store = disk.open().await;
        fill(disk, &store).await;
        store.close().await;
        let store = disk.open().await;
        store.submit(Change::PutNode { server_id: "a.example:1".parse().unwrap(), port: 1 }).await.unwrap();
        loop {
            let bury = Change::BuryRows {
                peer: PEER,
                from: 0,
                through: u64::MAX >> 1,
                reason: "dropped".into(),
                died_at: Millis(1),
                limit: 1000,
            };
            let gone = store.submit(bury).await.unwrap().gone[0].rows;
            disk.assert_held();
            if gone == 0 {
                break;
            }
        }
        loop {
            let page = store.dead_page(None, None, 100).await.unwrap();
            let drops: Vec<Change> = page.iter().map(|row| Change::DropDead { id: row.id }).collect();
            store.submit(drops).await.unwrap();
            disk.assert_held();
            if page.is_empty() {
                break;
            }
        }
        taken_again(&store).await;
        store.close().await;
    })
    .await;
}

#[test]
fn what_is_reserved_lies_below_the_floor_on_every_disk() {
    for mebibytes in [12, 24, 48, 100, 255, 256, 300, 640, 1_000, 1 << 20] {
        let total_bytes = mebibytes * MIB;
        let bounds = Bounds::of(Some(DiskSpace { free_bytes: 0, total_bytes }));
        assert!(bounds.reserve() <= FREE_BYTES.min(total_bytes / 10), "{mebibytes} MiB");
    }
    assert_eq!(Bounds::of(None).checkpoint, CHECKPOINT);
}
