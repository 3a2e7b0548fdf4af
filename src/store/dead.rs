//! Dead letters: what could not be delivered, what could not be taken, and the
//! holes that were stepped over.

use super::{
    Named, Store, error,
    op::{Gone, ROWS_AN_OP},
    rows::{ManyRows, Script, bits, count, page, unbits},
};
use crate::{
    error::Error,
    types::{Millis, PeerId},
};
use bytes::Bytes;
use sqlx::SqliteConnection;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::LazyLock,
};

/// Bodies of one page for the operator, unless the first alone has more.
const PAGE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the peer to us.
    In,
    /// From us to the peer.
    Out,
}

impl Named for Direction {
    const NAMES: &'static [(Self, &'static str)] = &[(Self::In, "in"), (Self::Out, "out")];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub peer: PeerId,
    pub direction: Direction,
    /// For people and metrics: `expired`, `unknown kind`, `hole`…
    pub reason: String,
    pub died_at: Millis,
    /// The number it had in its stream; of a hole the first and the last.
    pub number: u64,
    pub last_number: u64,
    /// The random id it had, 0 for none.
    pub row_id: u64,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRow {
    pub id: i64,
    pub letter: DeadLetter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadTotal {
    pub peer: PeerId,
    pub rows: u64,
    pub bytes: u64,
}

type DeadColumns = (i64, i64, String, String, i64, i64, i64, i64, Vec<u8>);

fn dead_row(columns: DeadColumns) -> Result<DeadRow, Error> {
    let (id, peer, direction, reason, died_at, number, last_number, row_id, body) = columns;
    let letter = DeadLetter {
        peer: PeerId(peer),
        direction: Direction::named(&direction)?,
        reason,
        died_at: Millis(died_at),
        number: unbits(number),
        last_number: unbits(last_number),
        row_id: unbits(row_id),
        body: body.into(),
    };
    Ok(DeadRow { id, letter })
}

fn body_len(columns: &DeadColumns) -> usize {
    columns.8.len()
}

/// The columns of [`DeadColumns`], for the pages and the single letter.
macro_rules! select_dead {
    ($tail:literal) => {
        concat!("SELECT id, peer, direction, reason, died_at, number, last_number, row_id, body FROM dead ", $tail)
    };
}

impl Store {
    /// The newest first: those below `before` (`None`: from the newest on), of
    /// one peer or of all; no more than 1 MiB of bodies unless the first alone
    /// has more.
    pub async fn dead_page(
        &self,
        peer: Option<PeerId>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<DeadRow>, Error> {
        let before = before.unwrap_or(i64::MAX);
        let query = match peer {
            Some(peer) => sqlx::query_as(select_dead!("WHERE peer = $3 AND id < $1 ORDER BY id DESC LIMIT $2"))
                .bind(before)
                .bind(count(limit))
                .bind(peer.0),
            None => {
                sqlx::query_as(select_dead!("WHERE id < $1 ORDER BY id DESC LIMIT $2")).bind(before).bind(count(limit))
            }
        };
        let found = page(query.fetch(&self.readers), |columns: DeadColumns| columns, body_len, PAGE_BYTES).await?;
        found.into_iter().map(dead_row).collect()
    }

    /// The oldest first: those above `after` that were to go to a peer, but no
    /// holes; no more than `max_bytes` of bodies unless the first alone has more.
    pub async fn dead_sent(
        &self,
        peer: PeerId,
        after: i64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<DeadRow>, Error> {
        let query = sqlx::query_as(select_dead!(
            "WHERE peer = $1 AND id > $2 AND direction = 'out' AND size > 0 ORDER BY id LIMIT $3"
        ))
        .bind(peer.0)
        .bind(after)
        .bind(count(limit));
        let found = page(query.fetch(&self.readers), |columns: DeadColumns| columns, body_len, max_bytes).await?;
        found.into_iter().map(dead_row).collect()
    }

    /// The id of a peer's newest dead letter; 0 without one.
    pub async fn newest_dead(&self, peer: PeerId) -> Result<i64, Error> {
        let newest: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM dead WHERE peer = $1")
            .bind(peer.0)
            .fetch_one(&self.readers)
            .await
            .map_err(error)?;
        Ok(newest.unwrap_or(0))
    }

    pub async fn dead(&self, id: i64) -> Result<Option<DeadRow>, Error> {
        let found = sqlx::query_as(select_dead!("WHERE id = $1"))
            .bind(id)
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        found.map(dead_row).transpose()
    }

    /// For every peer that has some.
    pub async fn dead_totals(&self) -> Result<Vec<DeadTotal>, Error> {
        let mut connection = self.readers.acquire().await.map_err(error)?;
        totals(&mut connection).await.map_err(error)
    }
}

async fn totals(connection: &mut SqliteConnection) -> Result<Vec<DeadTotal>, sqlx::Error> {
    let found: Vec<(i64, i64, i64)> =
        sqlx::query_as("SELECT peer, count(*), sum(size) FROM dead GROUP BY peer ORDER BY peer")
            .fetch_all(connection)
            .await?;
    let total = |(peer, rows, bytes)| DeadTotal { peer: PeerId(peer), rows: unbits(rows), bytes: unbits(bytes) };
    Ok(found.into_iter().map(total).collect())
}

pub(super) fn insert(script: &mut Script, letters: &[DeadLetter]) {
    static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO dead (peer, direction, reason, died_at, number, last_number, row_id, size, body) VALUES",
            "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
            "",
        )
    });
    INSERT.write(script, letters, |script, letter| {
        script.bind(letter.peer.0).bind(letter.direction.name()).bind(letter.reason.clone());
        script.bind(letter.died_at.0).bind(bits(letter.number)).bind(bits(letter.last_number));
        script.bind(bits(letter.row_id)).bind(count(letter.body.len())).bind(letter.body.to_vec());
    });
}

/// `None` when there is no such letter.
pub(super) async fn drop_one(connection: &mut SqliteConnection, id: i64) -> Result<Option<Gone>, sqlx::Error> {
    let size: Option<i64> =
        sqlx::query_scalar("DELETE FROM dead WHERE id = $1 RETURNING size").bind(id).fetch_optional(connection).await?;
    Ok(size.map(|size| Gone { rows: 1, bytes: unbits(size) }))
}

/// What a peer holds, and its oldest letters, fetched when it is its turn.
struct Share {
    rows: u64,
    bytes: u64,
    oldest: VecDeque<(i64, u64)>,
    through: Option<i64>,
}

pub(super) async fn trim(
    connection: &mut SqliteConnection,
    max_rows: u64,
    max_bytes: u64,
) -> Result<Gone, sqlx::Error> {
    let mut shares: BTreeMap<PeerId, Share> = BTreeMap::new();
    for DeadTotal { peer, rows, bytes } in totals(connection).await? {
        shares.insert(peer, Share { rows, bytes, oldest: VecDeque::new(), through: None });
    }
    let mut rows: u64 = shares.values().map(|share| share.rows).sum();
    let mut bytes: u64 = shares.values().map(|share| share.bytes).sum();
    let mut gone = Gone::default();
    while gone.rows < unbits(count(ROWS_AN_OP)) && (rows > max_rows || bytes > max_bytes) {
        // The bound that is broken says what "most" means.
        let by_rows = rows > max_rows;
        let held = |share: &Share| if by_rows { share.rows } else { share.bytes };
        let Some((peer, share)) = shares.iter_mut().max_by_key(|(_, share)| held(share)) else { break };
        if share.oldest.is_empty() {
            share.oldest = oldest(connection, *peer, share.through).await?;
        }
        let Some((id, size)) = share.oldest.pop_front() else { break };
        share.through = Some(id);
        share.rows -= 1;
        share.bytes -= size;
        rows -= 1;
        bytes -= size;
        gone.rows += 1;
        gone.bytes += size;
    }
    for (peer, share) in shares {
        if let Some(through) = share.through {
            sqlx::query("DELETE FROM dead WHERE peer = $1 AND id <= $2")
                .bind(peer.0)
                .bind(through)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(gone)
}

async fn oldest(
    connection: &mut SqliteConnection,
    peer: PeerId,
    after: Option<i64>,
) -> Result<VecDeque<(i64, u64)>, sqlx::Error> {
    let found: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, size FROM dead WHERE peer = $1 AND id > $2 ORDER BY id LIMIT $3")
            .bind(peer.0)
            .bind(after.unwrap_or(0))
            .bind(count(ROWS_AN_OP))
            .fetch_all(connection)
            .await?;
    Ok(found.into_iter().map(|(id, size)| (id, unbits(size))).collect())
}
