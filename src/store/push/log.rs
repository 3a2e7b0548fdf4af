//! Reading the push log, and the rare changes of it.

use super::{Change, Log, batch::Batch, sessions};
use crate::{
    error::Error,
    store::{
        Store, error,
        op::{Done, Gone, ROWS_AN_OP},
        rows::{Script, bits, count, counter, page, unbits},
        transaction::Failure,
    },
    types::Millis,
};
use bytes::Bytes;
use sqlx::SqliteConnection;
use tokio::sync::watch;

/// How far the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// No cursor after it was given.
    pub newest: u64,
    /// What is committed now is kept.
    pub open: bool,
}

/// What bounds the log, read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The lowest cursor that can be gone on from.
    pub floor: u64,
    pub open: bool,
    /// When a gateway was there last.
    pub seen_at: Millis,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The cursor of its last user.
    pub cursor: u64,
    /// With a space between them.
    pub users: String,
    pub session: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Event {
        kind: String,
        payload: Bytes,
        event_id: String,
        request_id: String,
        trace_id: String,
    },
    /// A session ended, for this reason.
    Ended(String),
}

impl Row {
    /// Each user and its cursor, in their order.
    pub fn recipients(&self) -> impl Iterator<Item = (u64, &str)> {
        (self.first()..).zip(self.users.split(' '))
    }

    /// The cursor of its first user.
    pub fn first(&self) -> u64 {
        first(self.cursor, &self.users)
    }

    /// Bytes of what is in it.
    pub fn size(&self) -> usize {
        let what = match &self.what {
            What::Event { kind, payload, event_id, request_id, trace_id } => {
                kind.len() + payload.len() + event_id.len() + request_id.len() + trace_id.len()
            }
            What::Ended(reason) => reason.len(),
        };
        self.users.len() + self.session.len() + what
    }
}

fn first(cursor: u64, users: &str) -> u64 {
    cursor.saturating_sub(users.bytes().filter(|byte| *byte == b' ').count() as u64)
}

#[derive(sqlx::FromRow)]
struct Columns {
    cursor: i64,
    users: String,
    session: String,
    kind: Option<String>,
    event_id: Option<String>,
    request_id: String,
    trace_id: String,
    payload: Vec<u8>,
}

impl From<Columns> for Row {
    fn from(row: Columns) -> Self {
        let Columns { cursor, users, session, kind, event_id, request_id, trace_id, payload } = row;
        let what = match kind {
            Some(kind) => {
                let (payload, event_id) = (payload.into(), event_id.unwrap_or_default());
                What::Event { kind, payload, event_id, request_id, trace_id }
            }
            None => What::Ended(String::from_utf8_lossy(&payload).into_owned()),
        };
        Self { cursor: unbits(cursor), users, session, what }
    }
}

impl Store {
    /// How far the push log is. Wakes after the commit: then read the rows
    /// after your own cursor.
    pub fn push_head(&self) -> watch::Receiver<Head> {
        self.writer.push_head()
    }

    /// Whether what is told to gateways now would be kept. Who finds that it is
    /// not may spare itself the work; nobody has to ask.
    pub fn push_wanted(&self) -> bool {
        self.writer.push_wanted()
    }

    pub async fn push_bounds(&self) -> Result<Bounds, Error> {
        let (floor, open, seen_at): (i64, bool, i64) =
            sqlx::query_as("SELECT push_floor, push_open, push_seen_at FROM node WHERE id = 1")
                .fetch_one(&self.readers)
                .await
                .map_err(error)?;
        Ok(Bounds { floor: unbits(floor), open, seen_at: Millis(seen_at) })
    }

    /// The rows with cursors after `after`, oldest first: at most `max_rows`,
    /// and no more than `max_bytes` unless the first alone has more. Of the
    /// first one some users may have cursors before.
    pub async fn push_page(&self, after: u64, max_rows: usize, max_bytes: usize) -> Result<Vec<Row>, Error> {
        let found = sqlx::query_as::<_, Columns>(
            "SELECT cursor, users, session, kind, event_id, request_id, trace_id, payload FROM push
             WHERE cursor > $1 ORDER BY cursor LIMIT $2",
        )
        .bind(counter(after))
        .bind(count(max_rows))
        .fetch(&self.readers);
        page(found, Row::from, Row::size, max_bytes).await
    }

    /// Whether the log has an event with this very cursor.
    pub async fn has_push(&self, cursor: u64) -> Result<bool, Error> {
        let found: Option<(i64, String)> =
            sqlx::query_as("SELECT cursor, users FROM push WHERE cursor >= $1 ORDER BY cursor LIMIT 1")
                .bind(counter(cursor))
                .fetch_optional(&self.readers)
                .await
                .map_err(error)?;
        Ok(found.is_some_and(|(last, users)| first(unbits(last), &users) <= cursor))
    }

    /// The event under an id for one user alone.
    pub async fn push_event(&self, event_id: &str, user: &str) -> Result<Option<Row>, Error> {
        let found: Option<Columns> = sqlx::query_as(
            "SELECT cursor, users, session, kind, event_id, request_id, trace_id, payload FROM push
             WHERE event_id = $1 AND users = $2",
        )
        .bind(event_id)
        .bind(user)
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        Ok(found.map(Row::from))
    }

    /// The last of the oldest rows that are not to be kept, at most
    /// [`ROWS_AN_OP`] of them: stored before a moment, with `keep` events or
    /// more behind them, or below the floor.
    pub async fn push_excess(&self, stored_before: Millis, keep: u64) -> Result<Option<u64>, Error> {
        let (total, floor): (i64, i64) = sqlx::query_as("SELECT push_total, push_floor FROM node WHERE id = 1")
            .fetch_one(&self.readers)
            .await
            .map_err(error)?;
        let oldest: Vec<(i64, i64, i64)> =
            sqlx::query_as("SELECT cursor, total, stored_at FROM push ORDER BY cursor LIMIT $1")
                .bind(count(ROWS_AN_OP))
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        let surplus = unbits(total).saturating_sub(keep);
        let excess = |(cursor, total, stored_at): &&(i64, i64, i64)| {
            *stored_at < stored_before.0 || unbits(*total) <= surplus || *cursor < floor
        };
        Ok(oldest.iter().take_while(excess).last().map(|(cursor, ..)| unbits(*cursor)))
    }
}

/// Where the log stands, for the writer.
pub(in crate::store) async fn end_of(connection: &mut SqliteConnection) -> Result<Log, sqlx::Error> {
    let (next, total, open): (i64, i64, bool) =
        sqlx::query_as("SELECT push_next, push_total, push_open FROM node WHERE id = 1").fetch_one(connection).await?;
    Ok(Log { next: unbits(next), total: unbits(total), open })
}

pub(super) fn put(script: &mut Script, log: Log) {
    script.add("UPDATE node SET push_next = ?, push_total = ? WHERE id = 1");
    script.bind(bits(log.next)).bind(bits(log.total));
}

/// Makes a rare change.
pub(in crate::store) async fn apply(
    connection: &mut SqliteConnection,
    change: &Change,
    log: &mut Log,
    done: &mut Done,
) -> Result<(), Failure> {
    match change {
        Change::Ending { whose, reason, at } => {
            let ending = sessions::ending(connection, whose, *at).await?;
            tell(connection, ending, reason, *at, log).await?;
        }
        Change::Expired { at } => {
            let (expired, rows) = sessions::expire(connection, *at).await?;
            tell(connection, expired, "expired", *at, log).await?;
            done.gone.push(Gone { rows, bytes: 0 });
        }
        Change::Open { seen_at } => {
            log.open = true;
            sqlx::query("UPDATE node SET push_open = 1, push_seen_at = $1 WHERE id = 1")
                .bind(seen_at.0)
                .execute(connection)
                .await?;
        }
        Change::Close if log.open => {
            // The floor is a cursor that no event gets: whoever has the newest one misses something.
            let floor = log.next;
            *log = Log { next: floor + 1, open: false, ..*log };
            sqlx::query("UPDATE node SET push_open = 0, push_floor = $1, push_next = $2 WHERE id = 1")
                .bind(bits(floor))
                .bind(bits(log.next))
                .execute(connection)
                .await?;
        }
        Change::Close => {}
        Change::StartAt { least } => {
            log.next = log.next.max(*least);
            sqlx::query("UPDATE node SET push_next = $1 WHERE id = 1").bind(bits(log.next)).execute(connection).await?;
        }
        Change::Trim { through } => done.gone.push(trim(connection, *through).await?),
        Change::Event(_) => return Err(Failure::Refused(Error::internal("a grouped change among the rare ones"))),
    }
    Ok(())
}

/// Writes that these sessions (user, session) end.
async fn tell(
    connection: &mut SqliteConnection,
    ending: Vec<(String, String)>,
    reason: &'static str,
    at: Millis,
    log: &mut Log,
) -> Result<(), sqlx::Error> {
    if !log.open {
        return Ok(());
    }
    let mut batch = Batch::default();
    for (user, session) in ending {
        batch.end(user, session, reason, at, log);
    }
    let mut script = Script::default();
    batch.write(&mut script, *log);
    script.run(connection).await.map(drop)
}

async fn trim(connection: &mut SqliteConnection, through: u64) -> Result<Gone, sqlx::Error> {
    let oldest: Vec<(i64, i64)> =
        sqlx::query_as("SELECT cursor, length(payload) FROM push WHERE cursor <= $1 ORDER BY cursor LIMIT $2")
            .bind(counter(through))
            .bind(count(ROWS_AN_OP))
            .fetch_all(&mut *connection)
            .await?;
    let Some((last, _)) = oldest.last() else { return Ok(Gone::default()) };
    sqlx::query("DELETE FROM push WHERE cursor <= $1").bind(last).execute(&mut *connection).await?;
    sqlx::query("UPDATE node SET push_floor = max(push_floor, $1) WHERE id = 1").bind(last).execute(connection).await?;
    Ok(Gone { rows: oldest.len() as u64, bytes: oldest.iter().map(|(_, bytes)| unbits(*bytes)).sum() })
}
