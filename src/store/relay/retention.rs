//! The rare changes: what expires, what did not arrive at another server, and
//! what is dropped after its time.
//!
//! What takes many messages chooses its rows by an index first, within its
//! bounds, and then changes exactly those.

use super::{
    change::Change,
    json,
    messages::{BodyBytes, MESSAGE_BYTES},
    parties, slots,
};
use crate::{
    error::Error,
    store::{
        op::{Done, Gone, ROWS_AN_OP},
        rows::{bits, count, page_len, unbits},
        transaction::Failure,
    },
    types::{Millis, PartyRef, PeerId},
};
use sqlx::SqliteConnection;
use std::collections::{BTreeMap, HashMap};

/// The error of a delivery that nobody acknowledged in its time.
pub(super) const EXPIRED: &str = "expired";
/// Bodies that one change drops.
const FREED_BYTES: usize = 64 << 20;
/// Rows that hang on what one change removes.
const HANGING_ROWS: usize = 4 * ROWS_AN_OP;

pub(super) const DUE: &str =
    "SELECT number, open, origin FROM message WHERE open > 0 AND expires_at <= $1 ORDER BY expires_at LIMIT $2";
pub(super) const FREEABLE: &str =
    "SELECT number, size, session, origin, sender FROM message WHERE open = 0 AND freed = 0
     ORDER BY number LIMIT $1";
pub(super) const OVER: &str = "SELECT number, recipients, size, session, origin, sender, freed FROM message
     WHERE open = 0 AND expires_at < $1 ORDER BY expires_at LIMIT $2";

/// A delivery that failed because its message expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    pub seq: u64,
    pub message: u64,
    /// Of the message.
    pub origin: PeerId,
    pub session: String,
    /// The recipient.
    pub party: PartyRef,
}

/// A rare change. What it took away or ended is added to `done`.
pub(in crate::store) async fn apply(
    connection: &mut SqliteConnection,
    change: &Change,
    done: &mut Done,
) -> Result<(), Failure> {
    match change {
        Change::PutParty(row) => parties::put(connection, row).await?,
        Change::FailRemote { message, peer, at, error } => {
            fail_remote(connection, *message, *peer, *at, error).await?;
        }
        Change::FailExpired { now, limit } => done.expired.extend(fail(connection, *now, *limit).await?),
        Change::FreeBodies { limit } => {
            let (gone, freed) = free(connection, *limit).await?;
            done.gone.push(gone);
            done.freed.extend(freed);
        }
        Change::TrimMessages { expired_before, limit } => {
            let (gone, freed) = trim_messages(connection, *expired_before, *limit).await?;
            done.gone.push(gone);
            done.freed.extend(freed);
        }
        Change::TrimEvents { expired_before, limit } => {
            done.gone.push(trim_events(connection, *expired_before, *limit).await?);
        }
        Change::DropSessions { sessions, .. } if sessions.len() > ROWS_AN_OP => {
            return Err(Failure::Refused(Error::internal("too many sessions are dropped in one go")));
        }
        Change::DropSessions { sessions, until } => {
            done.gone.push(drop_sessions(connection, sessions, *until, &mut done.dropped).await?);
        }
        _ => return Err(Failure::Refused(Error::internal("a grouped change among the rare ones"))),
    }
    Ok(())
}

async fn fail_remote(
    connection: &mut SqliteConnection,
    message: u64,
    peer: PeerId,
    at: Millis,
    error: &str,
) -> Result<(), sqlx::Error> {
    if peer == PeerId::SELF {
        return Ok(());
    }
    let failed = sqlx::query(
        "UPDATE delivery SET state = 3, finished_at = $3, error = $4
         WHERE message = $1 AND peer = $2 AND finished_at IS NULL",
    )
    .bind(bits(message))
    .bind(peer.0)
    .bind(at.0)
    .bind(error)
    .execute(&mut *connection)
    .await?
    .rows_affected();
    sqlx::query("UPDATE message SET open = open - $2 WHERE number = $1")
        .bind(bits(message))
        .bind(bits(failed))
        .execute(connection)
        .await?;
    Ok(())
}

async fn fail(connection: &mut SqliteConnection, now: Millis, limit: usize) -> Result<Vec<Expired>, sqlx::Error> {
    let due: Vec<(i64, i64, i64)> =
        sqlx::query_as(DUE).bind(now.0).bind(count(limit.min(ROWS_AN_OP))).fetch_all(&mut *connection).await?;
    let due = &due[..page_len(due.iter().map(|(_, open, _)| *open), limit.min(HANGING_ROWS))];
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = json(due.iter().map(|(number, ..)| *number));
    let failed: Vec<(i64, i64, String, i64, String)> = sqlx::query_as(
        "UPDATE delivery SET state = 3, finished_at = $2, error = $3
         WHERE message IN (SELECT value FROM json_each($1)) AND finished_at IS NULL
         RETURNING seq, message, session, peer, party",
    )
    .bind(numbers.as_str())
    .bind(now.0)
    .bind(EXPIRED)
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query("UPDATE message SET open = 0 WHERE number IN (SELECT value FROM json_each($1))")
        .bind(numbers.as_str())
        .execute(connection)
        .await?;
    let origins: HashMap<i64, i64> = due.iter().map(|(number, _, origin)| (*number, *origin)).collect();
    let expired = |(seq, message, session, peer, name)| Expired {
        seq: unbits(seq),
        message: unbits(message),
        origin: PeerId(origins.get(&message).copied().unwrap_or_default()),
        session,
        party: PartyRef { peer: PeerId(peer), name },
    };
    let mut expired: Vec<Expired> = failed.into_iter().map(expired).collect();
    // RETURNING promises no order.
    expired.sort_by_key(|delivery| delivery.seq);
    Ok(expired)
}

/// Bytes by session, origin and sender.
type Shares = BTreeMap<(String, i64, String), u64>;

fn freed(shares: Shares) -> Vec<BodyBytes> {
    let share = |((session, origin, sender), bytes)| BodyBytes { session, origin: PeerId(origin), sender, bytes };
    shares.into_iter().map(share).collect()
}

async fn free(connection: &mut SqliteConnection, limit: usize) -> Result<(Gone, Vec<BodyBytes>), sqlx::Error> {
    let found: Vec<(i64, i64, String, i64, String)> =
        sqlx::query_as(FREEABLE).bind(count(limit.min(ROWS_AN_OP))).fetch_all(&mut *connection).await?;
    let rows = page_len(found.iter().map(|(_, size, ..)| *size), FREED_BYTES);
    let (mut gone, mut shares, mut numbers) = (Gone::default(), Shares::new(), Vec::new());
    for (number, size, session, origin, sender) in found.into_iter().take(rows) {
        numbers.push(number);
        gone.rows += 1;
        gone.bytes += unbits(size);
        *shares.entry((session, origin, sender)).or_default() += unbits(size) + MESSAGE_BYTES;
    }
    if !numbers.is_empty() {
        let numbers = json(numbers);
        for statement in [
            "DELETE FROM message_body WHERE number IN (SELECT value FROM json_each($1))",
            "UPDATE message SET freed = 1 WHERE number IN (SELECT value FROM json_each($1))",
        ] {
            sqlx::query(statement).bind(numbers.as_str()).execute(&mut *connection).await?;
        }
    }
    Ok((gone, freed(shares)))
}

#[derive(sqlx::FromRow)]
struct Over {
    number: i64,
    recipients: i64,
    size: i64,
    session: String,
    origin: i64,
    sender: String,
    freed: bool,
}

impl Over {
    fn kept_bytes(&self) -> i64 {
        if self.freed { 0 } else { self.size }
    }
}

async fn trim_messages(
    connection: &mut SqliteConnection,
    expired_before: Millis,
    limit: usize,
) -> Result<(Gone, Vec<BodyBytes>), sqlx::Error> {
    let mut over: Vec<Over> = sqlx::query_as(OVER)
        .bind(expired_before.0)
        .bind(count(limit.min(ROWS_AN_OP)))
        .fetch_all(&mut *connection)
        .await?;
    over.truncate(page_len(over.iter().map(|row| row.recipients), HANGING_ROWS));
    over.truncate(page_len(over.iter().map(Over::kept_bytes), FREED_BYTES));
    if over.is_empty() {
        return Ok((Gone::default(), Vec::new()));
    }
    let numbers = json(over.iter().map(|row| row.number));
    for statement in [
        "DELETE FROM idempotency WHERE message IN (SELECT value FROM json_each($1))",
        "DELETE FROM delivery WHERE message IN (SELECT value FROM json_each($1))",
        "DELETE FROM message_body WHERE number IN (SELECT value FROM json_each($1))",
        "DELETE FROM message WHERE number IN (SELECT value FROM json_each($1))",
    ] {
        sqlx::query(statement).bind(numbers.as_str()).execute(&mut *connection).await?;
    }
    let mut sessions: Vec<&str> = over.iter().map(|row| row.session.as_str()).collect();
    sessions.sort_unstable();
    sessions.dedup();
    for session in sessions {
        slots::trim(connection, session, HANGING_ROWS).await?;
    }
    let (mut gone, mut shares) = (Gone::default(), Shares::new());
    for row in over {
        let bytes = unbits(row.kept_bytes());
        gone.rows += 1;
        gone.bytes += bytes;
        if !row.freed {
            *shares.entry((row.session, row.origin, row.sender)).or_default() += bytes + MESSAGE_BYTES;
        }
    }
    Ok((gone, freed(shares)))
}

async fn trim_events(
    connection: &mut SqliteConnection,
    expired_before: Millis,
    limit: usize,
) -> Result<Gone, sqlx::Error> {
    let mut over: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT number, coalesce(named, 0), size FROM session_event WHERE expires_at < $1 ORDER BY expires_at LIMIT $2",
    )
    .bind(expired_before.0)
    .bind(count(limit.min(ROWS_AN_OP)))
    .fetch_all(&mut *connection)
    .await?;
    over.truncate(page_len(over.iter().map(|(_, named, _)| *named), HANGING_ROWS));
    over.truncate(page_len(over.iter().map(|(_, _, size)| *size), FREED_BYTES));
    if over.is_empty() {
        return Ok(Gone::default());
    }
    let numbers = json(over.iter().map(|(number, ..)| *number));
    for statement in [
        "DELETE FROM event_party WHERE event IN (SELECT value FROM json_each($1))",
        "DELETE FROM session_event WHERE number IN (SELECT value FROM json_each($1))",
    ] {
        sqlx::query(statement).bind(numbers.as_str()).execute(&mut *connection).await?;
    }
    Ok(Gone { rows: unbits(count(over.len())), bytes: over.iter().map(|(_, _, size)| unbits(*size)).sum() })
}

async fn drop_sessions(
    connection: &mut SqliteConnection,
    sessions: &[String],
    until: Millis,
    dropped: &mut Vec<String>,
) -> Result<Gone, sqlx::Error> {
    let (mut rows, mut room) = (0, unbits(count(HANGING_ROWS)));
    for session in sessions {
        let over: Option<i64> = sqlx::query_scalar("SELECT 1 FROM session WHERE session = $1 AND until <= $2")
            .bind(session)
            .bind(until.0)
            .fetch_optional(&mut *connection)
            .await?;
        if over.is_none() {
            continue;
        }
        let slots = slots::forget(connection, session, room).await?;
        rows += slots;
        room -= slots;
        if room == 0 {
            break;
        }
        for statement in [
            "DELETE FROM equivocation WHERE session = $1",
            "DELETE FROM session_party WHERE session = $1",
            "DELETE FROM session WHERE session = $1",
        ] {
            sqlx::query(statement).bind(session).execute(&mut *connection).await?;
        }
        rows += 1;
        dropped.push(session.clone());
    }
    Ok(Gone { rows, bytes: 0 })
}
