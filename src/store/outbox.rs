//! The queue of rows towards each peer.
//!
//! Numbers grow over all peers together and may have holes within one.

use super::{
    Store,
    batch::{Batch, OutboxRow},
    disk, error,
    op::{Gone, ROWS_AN_OP},
    rows::{ManyRows, Script, bits, count, counter, page, page_len, unbits},
};
use crate::{
    error::Error,
    types::{Millis, PeerId},
};
use bytes::Bytes;
use sqlx::SqliteConnection;
use std::{collections::BTreeMap, sync::LazyLock};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRow {
    pub number: u64,
    pub peer: PeerId,
    /// Random; tells two rows of one number apart after a restored backup.
    pub id: u64,
    pub stored_at: Millis,
    pub body: Bytes,
}

/// What waits for one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueTotal {
    pub peer: PeerId,
    pub rows: u64,
    pub bytes: u64,
    pub oldest: u64,
    pub newest: u64,
}

type OutColumns = (i64, i64, i64, i64, Vec<u8>);

fn out_row((number, peer, id, stored_at, body): OutColumns) -> OutRow {
    OutRow {
        number: unbits(number),
        peer: PeerId(peer),
        id: unbits(id),
        stored_at: Millis(stored_at),
        body: body.into(),
    }
}

type QueueColumns = (i64, i64, i64, i64, i64);

fn queue_total((peer, rows, bytes, oldest, newest): QueueColumns) -> QueueTotal {
    QueueTotal {
        peer: PeerId(peer),
        rows: unbits(rows),
        bytes: unbits(bytes),
        oldest: unbits(oldest),
        newest: unbits(newest),
    }
}

impl Store {
    /// The rows of a peer after a number, oldest first: at most `max_rows`,
    /// and no more than `max_bytes` of bodies unless the first alone has more.
    pub async fn outbox_page(
        &self,
        peer: PeerId,
        after: u64,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<OutRow>, Error> {
        let found = sqlx::query_as::<_, OutColumns>(
            "SELECT number, peer, id, stored_at, body FROM outbox WHERE peer = $1 AND number > $2
             ORDER BY number LIMIT $3",
        )
        .bind(peer.0)
        .bind(counter(after))
        .bind(count(max_rows))
        .fetch(&self.readers);
        page(found, out_row, |row| row.body.len(), max_bytes).await
    }

    pub async fn outbox_row(&self, number: u64) -> Result<Option<OutRow>, Error> {
        let found = sqlx::query_as("SELECT number, peer, id, stored_at, body FROM outbox WHERE number = $1")
            .bind(bits(number))
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        Ok(found.map(out_row))
    }

    /// What waits, for every peer that has something waiting.
    pub async fn outbox_totals(&self) -> Result<Vec<QueueTotal>, Error> {
        let found: Vec<QueueColumns> = sqlx::query_as(
            "SELECT peer, count(*), sum(size), min(number), max(number) FROM outbox GROUP BY peer ORDER BY peer",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        Ok(found.into_iter().map(queue_total).collect())
    }

    /// What waits for one peer; `None`: nothing.
    pub async fn outbox_total(&self, peer: PeerId) -> Result<Option<QueueTotal>, Error> {
        let found: Option<QueueColumns> = sqlx::query_as(
            "SELECT peer, count(*), sum(size), min(number), max(number) FROM outbox WHERE peer = $1 GROUP BY peer",
        )
        .bind(peer.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        Ok(found.map(queue_total))
    }

    /// The random id of the row a peer was sent under a number, as long as the
    /// row is in the queue or among the dead letters.
    pub async fn sent_id(&self, peer: PeerId, number: u64) -> Result<Option<u64>, Error> {
        let found: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM outbox WHERE number = $2 AND peer = $1
             UNION ALL SELECT row_id FROM dead WHERE peer = $1 AND number = $2 AND direction = 'out'
             LIMIT 1",
        )
        .bind(peer.0)
        .bind(bits(number))
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        Ok(found.map(unbits))
    }
}

pub(super) fn insert(script: &mut Script, rows: &[OutboxRow]) {
    static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("INSERT INTO outbox (number, peer, id, stored_at, size, body) VALUES", "(?, ?, ?, ?, ?, ?)", "")
    });
    INSERT.write(script, rows, |script, row| {
        script.bind(bits(row.number)).bind(row.peer.0).bind(bits(row.id)).bind(row.stored_at.0);
        script.bind(count(row.body.len())).bind(row.body.to_vec());
    });
}

/// Deletes what is settled; what it was, for each peer.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    batch: &Batch<'_>,
) -> Result<BTreeMap<PeerId, Gone>, sqlx::Error> {
    let mut gone = BTreeMap::new();
    for (peer, settled) in &batch.settled {
        gone.insert(*peer, delete(connection, *peer, 0, settled.through).await?);
    }
    Ok(gone)
}

async fn delete(connection: &mut SqliteConnection, peer: PeerId, from: u64, through: u64) -> Result<Gone, sqlx::Error> {
    let (rows, bytes): (i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE peer = $1 AND number BETWEEN $2 AND $3",
    )
    .bind(peer.0)
    .bind(counter(from))
    .bind(counter(through))
    .fetch_one(&mut *connection)
    .await?;
    if rows > 0 {
        sqlx::query("DELETE FROM outbox WHERE peer = $1 AND number BETWEEN $2 AND $3")
            .bind(peer.0)
            .bind(counter(from))
            .bind(counter(through))
            .execute(connection)
            .await?;
    }
    Ok(Gone { rows: unbits(rows), bytes: unbits(bytes) })
}

/// Which rows become dead letters, and why.
pub(super) struct Burial<'a> {
    pub(super) peer: PeerId,
    pub(super) from: u64,
    pub(super) through: u64,
    pub(super) stored_before: Option<Millis>,
    pub(super) reason: &'a str,
    pub(super) died_at: Millis,
    pub(super) limit: usize,
}

pub(super) async fn bury(connection: &mut SqliteConnection, burial: &Burial<'_>) -> Result<Gone, sqlx::Error> {
    let head: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT number, size, stored_at FROM outbox WHERE peer = $1 AND number BETWEEN $2 AND $3
         ORDER BY number LIMIT $4",
    )
    .bind(burial.peer.0)
    .bind(counter(burial.from))
    .bind(counter(burial.through))
    .bind(count(burial.limit.min(ROWS_AN_OP)))
    .fetch_all(&mut *connection)
    .await?;
    let old =
        head.iter().take_while(|(_, _, stored_at)| burial.stored_before.is_none_or(|before| *stored_at < before.0));
    let rows = page_len(old.map(|(_, size, _)| *size), disk::movable_bytes(connection).await?);
    let Some((last, ..)) = rows.checked_sub(1).and_then(|at| head.get(at)) else {
        return Ok(Gone::default());
    };
    sqlx::query(
        "INSERT INTO dead (peer, direction, reason, died_at, number, last_number, row_id, size, body)
         SELECT peer, 'out', $4, $5, number, number, id, size, body
         FROM outbox WHERE peer = $1 AND number BETWEEN $2 AND $3 ORDER BY number",
    )
    .bind(burial.peer.0)
    .bind(counter(burial.from))
    .bind(last)
    .bind(burial.reason)
    .bind(burial.died_at.0)
    .execute(&mut *connection)
    .await?;
    delete(connection, burial.peer, burial.from, unbits(*last)).await
}
