//! The one writer: a task with one connection, and group commit.
//!
//! It takes what waits (bounded), writes it in one transaction, and answers in
//! the order of the commits; while nobody waits nothing is delayed. A batch
//! that fails is tried again op by op, so that a bad one fails alone. Counters
//! advance in memory only after a commit. No SAVEPOINT: a full disk under one
//! ends the whole transaction.

use super::{
    SQLITE_BUSY, SQLITE_CANTOPEN, SQLITE_CONSTRAINT, SQLITE_FULL, SQLITE_IOERR, SQLITE_LOCKED, SQLITE_READONLY,
    SQLITE_TOOBIG, Settings, closed,
    disk::{self, Bounds, FreeSpace},
    error,
    op::{Change, Done, Op},
    push, sqlite_code,
    transaction::{Failure, Known, Written, alone, grouped, run},
};
use crate::error::Error;
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Ops and bytes of one transaction; one op alone may have more bytes.
const BATCH_OPS: usize = 1_024;
const BATCH_BYTES: usize = 4 << 20;
/// Ops and bytes that may wait; further callers wait to be let in.
const WAITING_OPS: usize = 4 * BATCH_OPS;
const WAITING_BYTES: usize = 32 << 20;

/// The door to the writer's task, which ends when all handles are gone.
pub(super) struct Handle {
    requests: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    head: watch::Receiver<u64>,
    push_head: watch::Receiver<push::Head>,
    ended: CancellationToken,
    free_space: FreeSpace,
    bounds: Bounds,
    /// The last transaction failed.
    troubled: Arc<AtomicBool>,
}

enum Request {
    Op(Waiting),
    Close,
    #[cfg(test)]
    Hold(oneshot::Receiver<()>),
    #[cfg(test)]
    Execute(&'static str, oneshot::Sender<()>),
    #[cfg(test)]
    VetoCommit(oneshot::Sender<()>),
}

struct Waiting {
    op: Op,
    answer: oneshot::Sender<Result<Done, Error>>,
    /// Its share of the bytes that may wait, given back with the answer.
    _room: OwnedSemaphorePermit,
}

/// Why a transaction did not come about.
enum Abort {
    /// The file cannot be written now; that is no op's fault.
    File(sqlx::Error),
    /// One of its ops, or the space they took together.
    Rows(sqlx::Error),
    /// Whether it is on disk is unknown.
    Commit(sqlx::Error),
}

impl From<Abort> for Error {
    fn from(abort: Abort) -> Self {
        match abort {
            Abort::File(cause) | Abort::Rows(cause) => error(cause),
            Abort::Commit(cause) => {
                tracing::error!(error = %cause, "a commit failed; the database is opened anew");
                Self::unavailable("the database could not commit; see the log of the node")
            }
        }
    }
}

pub(super) async fn start(
    options: SqliteConnectOptions,
    mut connection: SqliteConnection,
    settings: Settings,
    bounds: Bounds,
) -> Result<Handle, sqlx::Error> {
    let known = Known::read(&mut connection).await?;
    let (requests, queue) = mpsc::channel(WAITING_OPS);
    let (head, watched) = watch::channel(known.counters.cursor - 1);
    let (push_head, push_watched) = watch::channel(known.counters.push.head());
    let ended = CancellationToken::new();
    let troubled = Arc::new(AtomicBool::new(false));
    let free_space = settings.free_space.clone();
    let writer = Writer {
        queue,
        carried: None,
        options,
        connection: Some(connection),
        known,
        head,
        push_head,
        settings,
        bounds,
        troubled: troubled.clone(),
        freed: true,
        given_back: false,
        refused: false,
        shrunk_at: Instant::now(),
    };
    let guard = ended.clone().drop_guard();
    tokio::spawn(async move {
        writer.run().await;
        drop(guard);
    });
    let room = Arc::new(Semaphore::new(WAITING_BYTES));
    Ok(Handle { requests, room, head: watched, push_head: push_watched, ended, free_space, bounds, troubled })
}

impl Handle {
    pub(super) async fn submit(&self, op: Op) -> Result<Done, Error> {
        let weight = u32::try_from(op.weight().min(WAITING_BYTES)).expect("32 MiB fit into an u32");
        let room = self.room.clone().acquire_many_owned(weight).await.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { op, answer, _room: room };
        self.requests.send(Request::Op(waiting)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    pub(super) async fn check_growth(&self) -> Result<(), Error> {
        match self.bounds.refusal_of_many(&self.free_space) {
            Some(refusal) => return Err(refusal),
            None if !self.troubled.load(Relaxed) => return Ok(()),
            None => {}
        }
        self.submit(Change::TouchPeers(vec![]).into()).await.map(drop)
    }

    pub(super) fn inbound_head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    pub(super) fn push_head(&self) -> watch::Receiver<push::Head> {
        self.push_head.clone()
    }

    pub(super) fn push_wanted(&self) -> bool {
        self.push_head.borrow().open
    }

    pub(super) async fn close(&self) {
        // An error: it is closing already.
        let _ = self.requests.send(Request::Close).await;
        self.ended.cancelled().await;
    }
}

struct Writer {
    queue: mpsc::Receiver<Request>,
    /// Taken from the queue, but not for the batch that was gathered then.
    carried: Option<Request>,
    options: SqliteConnectOptions,
    /// `None`: it failed, and is opened anew for the next transaction.
    connection: Option<SqliteConnection>,
    known: Known,
    head: watch::Sender<u64>,
    push_head: watch::Sender<push::Head>,
    settings: Settings,
    bounds: Bounds,
    troubled: Arc<AtomicBool>,
    /// Rows were deleted since free pages were looked for.
    freed: bool,
    /// Free pages were given back since the WAL was moved into the file.
    given_back: bool,
    /// New rows were refused since free pages were looked for.
    refused: bool,
    shrunk_at: Instant,
}

impl Writer {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            let group = self.gather(first);
            self.commit(group).await;
            // Who is refused may ask so often that there is no idle moment.
            if self.refused && self.shrunk_at.elapsed() >= self.settings.idle {
                self.shrink().await;
            }
        }
        self.end().await;
    }

    /// `None` when all that was submitted is done and no more can come.
    async fn next(&mut self) -> Option<Waiting> {
        loop {
            let request = match self.carried.take() {
                Some(request) => request,
                None if self.freed || self.refused => match timeout(self.settings.idle, self.queue.recv()).await {
                    Ok(request) => request?,
                    Err(_) => {
                        self.shrink().await;
                        continue;
                    }
                },
                None => self.queue.recv().await?,
            };
            match request {
                Request::Op(waiting) => return Some(waiting),
                // What is in the queue still comes out of it.
                Request::Close => self.queue.close(),
                #[cfg(test)]
                other => self.obey(other).await,
            }
        }
    }

    /// What waits behind the first op and may share its transaction.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = first.op.weight();
        let mut open = first.op.is_grouped();
        let mut group = vec![first];
        let most = self.bounds.batch(BATCH_BYTES);
        while open && group.len() < BATCH_OPS && bytes < most {
            match self.queue.try_recv() {
                Ok(Request::Op(next)) if next.op.is_grouped() => {
                    bytes += next.op.weight();
                    group.push(next);
                }
                Ok(other) => {
                    self.carried = Some(other);
                    open = false;
                }
                Err(_) => open = false,
            }
        }
        group
    }

    async fn commit(&mut self, group: Vec<Waiting>) {
        if self.bounds.is_tight(&self.settings.free_space) {
            self.checkpoint().await;
        }
        let ops: Vec<&Op> = group.iter().map(|waiting| &waiting.op).collect();
        let full = self.refusal(&ops);
        let outcome = self.transaction(&ops, full.as_ref()).await;
        self.troubled.store(outcome.is_err(), Relaxed);
        let results = match outcome {
            Ok(results) => results,
            Err(Abort::Rows(cause)) if ops.len() > 1 => {
                tracing::warn!(error = %cause, ops = ops.len(), "a batch failed; its ops are tried one by one");
                return self.commit_singly(group).await;
            }
            Err(abort) => vec![Err(Error::from(abort)); group.len()],
        };
        for (waiting, result) in group.into_iter().zip(results) {
            // Who does not wait any more does not want to know.
            let _ = waiting.answer.send(result);
        }
    }

    async fn commit_singly(&mut self, group: Vec<Waiting>) {
        for waiting in group {
            let full = self.refusal(&[&waiting.op]);
            let outcome = self.transaction(&[&waiting.op], full.as_ref()).await;
            self.troubled.store(outcome.is_err(), Relaxed);
            let result = match outcome {
                Ok(results) => results.into_iter().next().unwrap_or_else(|| Err(closed())),
                Err(abort) => Err(abort.into()),
            };
            let _ = waiting.answer.send(result);
        }
    }

    /// Why ops that grow are refused now, if they are.
    fn refusal(&mut self, ops: &[&Op]) -> Option<Error> {
        if !ops.iter().any(|op| op.grows()) {
            return None;
        }
        let bytes = ops.iter().filter(|op| op.grows()).map(|op| op.weight()).sum();
        let refusal = self.bounds.refusal(&self.settings.free_space, bytes);
        self.refused |= refusal.is_some();
        refusal
    }

    /// One transaction. `Ok`: it is on disk, with a result for each op.
    async fn transaction(&mut self, ops: &[&Op], full: Option<&Error>) -> Result<Vec<Result<Done, Error>>, Abort> {
        // Taken out: whoever returns without putting it back has it opened anew.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open().await.map_err(Abort::File)?,
        };
        let written = match ops {
            [op] if !op.is_grouped() => alone(&mut connection, op, &self.known, full).await,
            _ => grouped(&mut connection, ops, &self.known, full).await,
        };
        let failure = match written {
            Ok(written) => {
                self.connection = Some(connection);
                self.committed(&written);
                return Ok(written.results);
            }
            Err(Failure::Commit(cause)) if !matches!(sqlite_code(&cause), Some(SQLITE_FULL | SQLITE_BUSY)) => {
                let _ = connection.close().await;
                return Err(Abort::Commit(cause));
            }
            Err(failure) => failure,
        };
        // SQLite may have rolled back by itself; then this says so.
        let _ = run(&mut connection, "ROLLBACK").await;
        match failure {
            Failure::Refused(refusal) => {
                self.connection = Some(connection);
                Ok(vec![Err(refusal)])
            }
            Failure::Commit(cause) => {
                self.connection = Some(connection);
                Err(Abort::Rows(cause))
            }
            Failure::Sql(cause) => Err(self.abort(connection, cause).await),
        }
    }

    /// The heads move before the answers go out: whoever was answered finds
    /// its own rows below it.
    fn committed(&mut self, written: &Written) {
        self.known.learn(written);
        let newest = written.counters.cursor - 1;
        self.head.send_if_modified(|head| mem::replace(head, newest) != newest);
        let pushed = written.counters.push.head();
        self.push_head.send_if_modified(|head| mem::replace(head, pushed) != pushed);
        self.freed |= written.results.iter().flatten().any(|done| done.gone.iter().any(|gone| gone.rows > 0));
    }

    async fn open(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        self.known = Known::read(&mut connection).await?;
        Ok(connection)
    }

    /// What failed before the COMMIT was, by its code: a refusal of SQLite's
    /// leaves the connection sound; after anything else nobody knows.
    async fn abort(&mut self, connection: SqliteConnection, cause: sqlx::Error) -> Abort {
        self.refused |= sqlite_code(&cause) == Some(SQLITE_FULL);
        match sqlite_code(&cause) {
            Some(SQLITE_FULL | SQLITE_TOOBIG | SQLITE_CONSTRAINT) => {
                self.connection = Some(connection);
                Abort::Rows(cause)
            }
            // Another process had the file when it was to begin.
            Some(SQLITE_BUSY | SQLITE_LOCKED) => {
                self.connection = Some(connection);
                Abort::File(cause)
            }
            code => {
                tracing::error!(error = %cause, "the database failed; it is opened anew");
                let _ = connection.close().await;
                match code {
                    Some(SQLITE_IOERR | SQLITE_READONLY | SQLITE_CANTOPEN) => Abort::File(cause),
                    _ => Abort::Rows(cause),
                }
            }
        }
    }

    /// Gives some free pages back to the file system. The files get shorter
    /// once there is no more to give, or at once for those who were refused.
    async fn shrink(&mut self) {
        self.shrunk_at = Instant::now();
        let refused = mem::take(&mut self.refused);
        if refused {
            // Giving back writes, too.
            self.checkpoint().await;
        }
        self.freed = false;
        let Some(connection) = &mut self.connection else { return };
        match self.bounds.give_back(connection).await {
            Ok(more) => self.freed = more,
            Err(cause) => tracing::warn!(error = %cause, "free pages could not be given back"),
        }
        self.given_back |= self.freed;
        if self.given_back && (refused || !self.freed) {
            self.given_back = false;
            self.checkpoint().await;
        }
    }

    async fn checkpoint(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        if let Err(cause) = disk::checkpoint(connection).await {
            tracing::debug!(error = %cause, "the log of the database could not be moved into it");
        }
    }

    async fn end(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let result = match run(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await {
            Ok(()) => connection.close().await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = result {
            tracing::warn!(error = %cause, "the database was not closed in good order; nothing is lost");
        }
    }

    #[cfg(test)]
    async fn obey(&mut self, request: Request) {
        let connection = self.connection.as_mut().expect("a test asks while the connection is sound");
        match request {
            Request::Hold(release) => drop(release.await),
            Request::Execute(text, done) => {
                run(connection, text).await.expect("the test's statement");
                let _ = done.send(());
            }
            Request::VetoCommit(done) => {
                connection.lock_handle().await.expect("the connection is idle").set_commit_hook(|| false);
                let _ = done.send(());
            }
            Request::Op(_) | Request::Close => {}
        }
    }
}

#[cfg(test)]
mod tests;
