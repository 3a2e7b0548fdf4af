//! The local log: every event that was applied here, in the order of the
//! commits, for as long as retention keeps it.

use super::{
    Store,
    batch::InboundRow as NewRow,
    error,
    op::{Gone, ROWS_AN_OP},
    rows::{ManyRows, Script, bits, count, counter, page, unbits},
};
use crate::{
    error::Error,
    types::{Millis, PeerId},
};
use bytes::Bytes;
use sqlx::SqliteConnection;
use std::{ops::RangeInclusive, sync::LazyLock};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundRow {
    pub cursor: u64,
    pub peer: PeerId,
    pub received_at: Millis,
    pub body: Bytes,
}

type InboundColumns = (i64, i64, i64, Vec<u8>);

impl Store {
    /// The events after a cursor, oldest first: at most `max_rows`, and no more
    /// than `max_bytes` of bodies unless the first alone has more.
    pub async fn inbound_page(&self, after: u64, max_rows: usize, max_bytes: usize) -> Result<Vec<InboundRow>, Error> {
        let found = sqlx::query_as::<_, InboundColumns>(
            "SELECT cursor, peer, received_at, body FROM inbound WHERE cursor > $1 ORDER BY cursor LIMIT $2",
        )
        .bind(counter(after))
        .bind(count(max_rows))
        .fetch(&self.readers);
        let row = |(cursor, peer, received_at, body): InboundColumns| InboundRow {
            cursor: unbits(cursor),
            peer: PeerId(peer),
            received_at: Millis(received_at),
            body: body.into(),
        };
        page(found, row, |row| row.body.len(), max_bytes).await
    }

    /// The oldest cursor that is kept and the newest; `None` while none is.
    pub async fn inbound_range(&self) -> Result<Option<RangeInclusive<u64>>, Error> {
        // Two lookups: min() and max() in one SELECT would scan the table.
        let (oldest, newest): (Option<i64>, Option<i64>) =
            sqlx::query_as("SELECT (SELECT min(cursor) FROM inbound), (SELECT max(cursor) FROM inbound)")
                .fetch_one(&self.readers)
                .await
                .map_err(error)?;
        Ok(oldest.zip(newest).map(|(oldest, newest)| unbits(oldest)..=unbits(newest)))
    }
}

pub(super) fn insert(script: &mut Script, rows: &[NewRow]) {
    static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("INSERT INTO inbound (cursor, peer, received_at, size, body) VALUES", "(?, ?, ?, ?, ?)", "")
    });
    INSERT.write(script, rows, |script, row| {
        script.bind(bits(row.cursor)).bind(row.peer.0).bind(row.received_at.0);
        script.bind(count(row.body.len())).bind(row.body.to_vec());
    });
}

pub(super) async fn trim(connection: &mut SqliteConnection, received_before: Millis) -> Result<Gone, sqlx::Error> {
    let head: Vec<(i64, i64, i64)> =
        sqlx::query_as("SELECT cursor, size, received_at FROM inbound ORDER BY cursor LIMIT $1")
            .bind(count(ROWS_AN_OP))
            .fetch_all(&mut *connection)
            .await?;
    let old: Vec<_> = head.iter().take_while(|(_, _, received_at)| *received_at < received_before.0).collect();
    if let Some((last, ..)) = old.last() {
        sqlx::query("DELETE FROM inbound WHERE cursor <= $1").bind(last).execute(connection).await?;
    }
    Ok(Gone { rows: unbits(count(old.len())), bytes: old.iter().map(|(_, size, _)| unbits(*size)).sum() })
}
