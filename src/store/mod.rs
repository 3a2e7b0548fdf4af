//! The rows: one SQLite file, one writer, a pool of readers (floor 2).
//!
//! Owns `DATA_DIR/pillarbox.db` and every word of SQL. What is acknowledged is
//! on disk (WAL, `synchronous = FULL`). Readers fetch a page and let go, so
//! that the WAL never has to grow for them. Never sees a wire type: payloads
//! are bytes.

mod batch;
pub mod chat;
mod dead;
mod disk;
mod flush;
mod inbound;
mod lists;
mod node;
mod op;
mod outbox;
mod peers;
pub mod push;
mod rare;
pub mod relay;
mod rows;
mod tokens;
mod transaction;
mod users;
mod writer;
pub mod yardstick;

pub use dead::{DeadLetter, DeadRow, DeadTotal, Direction};
pub use disk::{DiskSpace, FreeSpace};
pub use inbound::InboundRow;
pub use lists::{InviteRow, ListTotal};
pub use node::{FormerId, NodeRow};
pub use op::{Change, Done, Gone, Op, ROWS_AN_OP, StreamOut};
pub use outbox::{OutRow, QueueTotal};
pub use peers::{KeyOrigin, PeerAddress, PeerKey, PeerKind, PeerOrigin, PeerRow, PeerTouch, PeerTransport};
pub use tokens::{BoundParty, SESSIONS_MAX, TokenHash, TokenRow, TokenUse};
pub use users::{UserRow, UserState};

use crate::error::Error;
use sqlx::{
    ConnectOptions, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations");

/// What one transaction changes stays in memory until its commit; beyond this
/// SQLite writes pages out, maybe more than once. Taken only when needed.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// How long one statement waits for another process that holds the file.
const BUSY: Duration = Duration::from_secs(5);
/// How long a read waits for a free reader.
const READER_WAIT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;
const STATEMENTS: usize = 256;

/// The handle; clones are the same store.
#[derive(Clone)]
pub struct Store {
    readers: SqlitePool,
    writer: Arc<writer::Handle>,
}

/// What a test or an operator may set; the default is right for a node.
#[derive(Clone)]
pub struct Settings {
    /// Asked once a batch how full the disk is.
    pub free_space: FreeSpace,
    /// How long the writer must have had nothing to do before it gives free
    /// pages back to the file system.
    pub idle: Duration,
}

impl Settings {
    pub fn new(data_dir: &Path) -> Self {
        Self { free_space: disk::statvfs(data_dir), idle: Duration::from_secs(1) }
    }
}

impl Store {
    /// Opens or makes `data_dir/pillarbox.db` (mode 0600). The caller holds the
    /// lock of the directory: one process at a time.
    pub async fn open(data_dir: &Path) -> Result<Self, Error> {
        Self::open_with(data_dir, Settings::new(data_dir)).await
    }

    pub async fn open_with(data_dir: &Path, settings: Settings) -> Result<Self, Error> {
        let path = file(data_dir)?;
        let bounds = disk::Bounds::of((settings.free_space)());
        let options = writing(&path, bounds);
        let mut connection = options.connect().await.map_err(error)?;
        MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(migrate_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(READER_WAIT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(reading(&path));
        let writer = writer::start(options, connection, settings, bounds).await.map_err(error)?;
        Ok(Self { readers, writer: Arc::new(writer) })
    }

    /// Commits the op. When this returns `Ok` it is on disk; a refusal leaves
    /// nothing of it. A caller that stops waiting does not take the op back.
    ///
    /// `Conflict` and `NotFound`: a guard failed. `Exhausted`: the disk is too
    /// full for new rows. `Unavailable`: the file cannot be written now (after
    /// a failed commit the op may or may not be there; the guards tell).
    pub async fn submit(&self, op: impl Into<Op>) -> Result<Done, Error> {
        self.writer.submit(op.into()).await
    }

    /// Whether new rows would be taken now: enough free disk, and the last
    /// commit went well or an empty one does. Asked before a call whose answer
    /// its sender forgets.
    pub async fn check_growth(&self) -> Result<(), Error> {
        self.writer.check_growth().await
    }

    /// The cursor of the newest event of the local log; 0 before the first.
    /// Wakes after the commit: then read the rows after your own cursor.
    pub fn inbound_head(&self) -> watch::Receiver<u64> {
        self.writer.inbound_head()
    }

    /// Commits what was submitted before, moves the WAL into the file and
    /// closes it. Whoever submits later, through any clone, is refused.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Made by hand, for its mode: SQLite gives that of the database to the WAL.
fn file(data_dir: &Path) -> Result<PathBuf, Error> {
    let path = data_dir.join("pillarbox.db");
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|cause| Error::unavailable(format!("database {}: {cause}", path.display())))?;
    Ok(path)
}

fn common(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        .foreign_keys(false)
        .statement_cache_capacity(STATEMENTS)
        .disable_statement_logging()
}

fn writing(path: &Path, bounds: disk::Bounds) -> SqliteConnectOptions {
    common(path)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", bounds.wal().to_string())
        .pragma("wal_autocheckpoint", bounds.checkpoint_pages().to_string())
        // Negative: KiB rather than pages.
        .pragma("cache_size", (-WRITER_CACHE_KIB).to_string())
        .thread_name(|_| "store-writer".into())
}

fn reading(path: &Path) -> SqliteConnectOptions {
    common(path).read_only(true).thread_name(|number| format!("store-reader-{number}"))
}

/// SQLite's result code without its extension, if that is what went wrong.
/// <https://www.sqlite.org/rescode.html>
fn sqlite_code(cause: &sqlx::Error) -> Option<i32> {
    extended_code(cause).map(|extended| extended & 0xff)
}

fn extended_code(cause: &sqlx::Error) -> Option<i32> {
    cause.as_database_error()?.code()?.parse().ok()
}

const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_TOOBIG: i32 = 18;
const SQLITE_CONSTRAINT: i32 = 19;
/// The index of the WAL cannot grow.
const SQLITE_IOERR_SHMSIZE: i32 = SQLITE_IOERR | 19 << 8;

/// The only place that makes a domain error of one of sqlx's.
fn error(cause: sqlx::Error) -> Error {
    if cause.as_database_error().is_some_and(|e| e.is_unique_violation()) {
        return Error::Conflict("another row has this name or id already".into());
    }
    let full = || Error::exhausted("disk full: the database cannot grow; free some space");
    if extended_code(&cause) == Some(SQLITE_IOERR_SHMSIZE) {
        return full();
    }
    match (sqlite_code(&cause), &cause) {
        (Some(SQLITE_FULL), _) => full(),
        (Some(SQLITE_BUSY | SQLITE_LOCKED), _) => Error::unavailable("another process holds the database; try again"),
        (Some(SQLITE_READONLY), _) => Error::unavailable("the database is read-only; check its mode and mount"),
        (Some(SQLITE_IOERR | SQLITE_CANTOPEN), _) => {
            tracing::error!(error = %cause, "the database file cannot be used");
            Error::unavailable("the database file cannot be read or written; see the log of the node")
        }
        (None, sqlx::Error::PoolTimedOut) => Error::unavailable("all readers of the database are busy; try again"),
        (None, sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => closed(),
        (None, sqlx::Error::Io(_)) => Error::unavailable("the database file cannot be opened; see the log of the node"),
        _ => Error::internal(format!("database: {cause}")),
    }
}

fn closed() -> Error {
    Error::unavailable("the store is closed: the node is stopping or must be started again")
}

fn migrate_error(cause: MigrateError) -> Error {
    match cause {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => error(cause),
        MigrateError::VersionMissing(version) => Error::Precondition(format!(
            "the database was made by a newer pillarbox (schema {version}); start that one, or restore a backup"
        )),
        other => Error::internal(format!("database schema: {other}")),
    }
}

/// A row says what no version of this program ever wrote.
fn broken(what: &str) -> Error {
    Error::internal(format!("database: {what} cannot be read back"))
}

/// Enums that are text in their column.
trait Named: Copy + PartialEq + Sized + 'static {
    const NAMES: &'static [(Self, &'static str)];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(value, _)| *value == self).expect("NAMES holds every variant").1
    }

    fn named(text: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(value, _)| *value).ok_or_else(|| broken(text))
    }
}

#[cfg(test)]
mod tests;
