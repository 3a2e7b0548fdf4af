//! How full the disk is, and how the file behaves on it.
//!
//! Owns the floor for new rows and the sizes of the WAL: what settling, dropping
//! and starting still have to write must fit below the floor. Gives pages that
//! became free back to the file system. Never decides when.

use super::transaction::run;
use crate::error::Error;
use sqlx::{AssertSqlSafe, SqliteConnection};
use std::{path::Path, sync::Arc};

/// New rows need so much free disk, or a tenth of the file system if that is less.
pub(super) const FREE_BYTES: u64 = 64 << 20;
const PAGE: u64 = 4096;
/// Bytes of the WAL that are copied into the file in one go: a page that many
/// commits change is copied once. A small disk has less.
const CHECKPOINT: u64 = 8 << 20;
const LEAST_CHECKPOINT: u64 = 256 << 10;
/// The share of the disk: thrice that is less than the tenth that is the floor.
const CHECKPOINTS_A_DISK: u64 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// How full the disk is; `None` when nobody can tell.
pub type FreeSpace = Arc<dyn Fn() -> Option<DiskSpace> + Send + Sync>;

pub(super) fn statvfs(data_dir: &Path) -> FreeSpace {
    let path = data_dir.to_owned();
    Arc::new(move || {
        let found = rustix::fs::statvfs(&path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(DiskSpace { free_bytes: bytes(found.f_bavail), total_bytes: bytes(found.f_blocks) })
    })
}

/// The sizes that follow from the disk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    checkpoint: u64,
}

impl Bounds {
    pub(super) fn of(space: Option<DiskSpace>) -> Self {
        let share = space.map_or(u64::MAX, |space| space.total_bytes / CHECKPOINTS_A_DISK);
        Self { checkpoint: share.clamp(LEAST_CHECKPOINT, CHECKPOINT) }
    }

    pub(super) fn checkpoint_pages(self) -> u64 {
        self.checkpoint / PAGE
    }

    /// Bound of the WAL between checkpoints, once nobody reads in it. Twice what
    /// a checkpoint moves, so that its file, which is cut to the bound and must
    /// not grow again each time, keeps its length.
    pub(super) fn wal(self) -> u64 {
        2 * self.checkpoint
    }

    /// What new rows leave free: the WAL up to its bound, and in the file the
    /// pages that the next checkpoint brings.
    fn reserve(self) -> u64 {
        3 * self.checkpoint
    }

    /// Bytes of ops that share a transaction.
    pub(super) fn batch(self, most: usize) -> usize {
        usize::try_from(self.checkpoint).map_or(most, |bytes| bytes.min(most))
    }

    /// Free pages kept in the file for the next rows, and given back in one go.
    fn kept_pages(self) -> u64 {
        self.checkpoint_pages() / 2
    }

    /// Why rows of so many bytes are refused, if the disk is nearly full. They
    /// are written twice: into the WAL, and into the file.
    pub(super) fn refusal(self, free_space: &FreeSpace, bytes: usize) -> Option<Error> {
        let space = free_space()?;
        let floor = FREE_BYTES.min(space.total_bytes / 10);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let needed = floor.max(self.reserve().saturating_add(bytes.saturating_mul(2)));
        (space.free_bytes < needed).then(|| {
            Error::exhausted(format!(
                "disk nearly full: {} MiB free, new rows need {} MiB; free some space",
                space.free_bytes >> 20,
                needed.div_ceil(1 << 20),
            ))
        })
    }

    /// So little is free that the WAL must not grow any further: who reads in it
    /// may keep it from starting over.
    pub(super) fn is_tight(self, free_space: &FreeSpace) -> bool {
        free_space().is_some_and(|space| space.free_bytes < self.wal())
    }

    /// For a call that may bring any number of rows.
    pub(super) fn refusal_of_many(self, free_space: &FreeSpace) -> Option<Error> {
        self.refusal(free_space, self.batch(usize::MAX))
    }

    /// Moves some free pages to the file's end and cuts them off, of those that
    /// are not kept. The file is shorter after the next checkpoint.
    pub(super) async fn give_back(self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let free: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&mut *connection).await?;
        let kept = self.kept_pages();
        if u64::try_from(free).is_ok_and(|free| free <= kept) {
            return Ok(false);
        }
        let vacuum = format!("PRAGMA incremental_vacuum({kept})");
        sqlx::query(AssertSqlSafe(vacuum)).execute(connection).await?;
        Ok(true)
    }
}

/// Moves the WAL into the file and cuts both. Who reads is waited for, 2 s at most:
/// then a part is done, and the rest at the next one.
pub(super) async fn checkpoint(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    run(connection, "PRAGMA busy_timeout = 2000").await?;
    let done = run(connection, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    run(connection, "PRAGMA busy_timeout = 5000").await?;
    done
}

/// What one transaction may move to the dead letters. It is written twice, and
/// what the rows took before is free only after it.
pub(super) async fn movable_bytes(connection: &mut SqliteConnection) -> Result<usize, sqlx::Error> {
    let pages: i64 = sqlx::query_scalar("PRAGMA wal_autocheckpoint").fetch_one(connection).await?;
    Ok(usize::try_from(pages.cast_unsigned() * PAGE / 2).unwrap_or(0))
}

#[cfg(test)]
mod tests;
