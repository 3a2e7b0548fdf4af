//! Statements over many rows, in the fixed sizes 64, 8 and 1, so that each
//! text is built and prepared once whatever a batch holds.
//!
//! Also the two casts between u64 and SQLite's integers, and the choice of a
//! page by rows and bytes. Never knows a table.

use super::error;
use crate::error::Error;
use sqlx::{
    AssertSqlSafe, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};
use std::sync::Arc;
use tokio_stream::{Stream, StreamExt};

pub(super) type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

const SIZES: [usize; 3] = [64, 8, 1];

/// One statement with a list of rows in it: `head (…), (…) tail`.
pub(super) struct ManyRows {
    texts: [Arc<str>; 3],
}

impl ManyRows {
    /// `row` is written with `?` for each column: `(?, ?)`.
    pub(super) fn new(head: &str, row: &str, tail: &str) -> Self {
        Self { texts: SIZES.map(|size| text(head, row, tail, size).into()) }
    }

    /// `bind` binds the columns of one row. Returns the rows affected.
    pub(super) async fn execute<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl for<'q> Fn(Statement<'q>, &T) -> Statement<'q>,
    ) -> Result<u64, sqlx::Error> {
        let mut affected = 0;
        for (text, part) in self.parts(rows) {
            let statement = part.iter().fold(sqlx::query(AssertSqlSafe(text)), &bind);
            affected += statement.execute(&mut *connection).await?.rows_affected();
        }
        Ok(affected)
    }

    pub(super) async fn fetch<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl for<'q> Fn(Statement<'q>, &T) -> Statement<'q>,
    ) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let mut found = Vec::new();
        for (text, part) in self.parts(rows) {
            let statement = part.iter().fold(sqlx::query(AssertSqlSafe(text)), &bind);
            found.extend(statement.fetch_all(&mut *connection).await?);
        }
        Ok(found)
    }

    /// The largest size that still fits, again and again.
    fn parts<'a, T>(&'a self, mut rest: &'a [T]) -> impl Iterator<Item = (Arc<str>, &'a [T])> {
        std::iter::from_fn(move || {
            let at = SIZES.iter().position(|size| *size <= rest.len())?;
            let (part, after) = rest.split_at(SIZES[at]);
            rest = after;
            Some((self.texts[at].clone(), part))
        })
    }
}

/// The parameters stay without numbers: SQLite looks a numbered one up by a
/// walk through all of them, which costs more than the rows of a long list.
/// A dialect that must have numbers can be given them here.
fn text(head: &str, row: &str, tail: &str, rows: usize) -> String {
    format!("{head} {} {tail}", vec![row; rows].join(", "))
}

/// A u64 lies in SQLite as the i64 of the same bits; it is never compared
/// there except where it is a counter, which stays below 2^63.
pub(super) fn bits(value: u64) -> i64 {
    value.cast_signed()
}

pub(super) fn unbits(value: i64) -> u64 {
    value.cast_unsigned()
}

/// A number or cursor as a bound of a search: one above 2^63 was never given,
/// and must not wrap below all the others.
pub(super) fn counter(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A length or a limit as SQLite counts it.
pub(super) fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// How many of `sizes`, from the front, make a page of `max_bytes`: at least
/// one, so that a large row does not block what is behind it.
pub(super) fn page_len(sizes: impl IntoIterator<Item = i64>, max_bytes: usize) -> usize {
    let mut bytes = 0i64;
    sizes
        .into_iter()
        .enumerate()
        .take_while(|(at, size)| {
            bytes = bytes.saturating_add(*size);
            *at == 0 || bytes <= count(max_bytes)
        })
        .count()
}

/// The rows of a query until they make a page of `max_bytes`: at least one, and
/// no row is read for nothing but the few that SQLite's thread is ahead.
pub(super) async fn page<C, R>(
    mut found: impl Stream<Item = Result<C, sqlx::Error>> + Unpin,
    row: impl Fn(C) -> R,
    size: impl Fn(&R) -> usize,
    max_bytes: usize,
) -> Result<Vec<R>, Error> {
    let (mut page, mut bytes) = (Vec::new(), 0usize);
    while let Some(columns) = found.next().await {
        let row = row(columns.map_err(error)?);
        bytes = bytes.saturating_add(size(&row));
        if bytes > max_bytes && !page.is_empty() {
            break;
        }
        page.push(row);
    }
    Ok(page)
}

#[cfg(test)]
mod tests;
