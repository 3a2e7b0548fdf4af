//! The row of this node, and the ids it had before.
//!
//! The counters in that row belong to the writer: kept with the rows they
//! number, in the same transaction.

use super::{
    Store,
    batch::Counters,
    broken, error, push,
    rows::{self, Script},
};
use crate::{
    error::Error,
    types::{Millis, ServerId},
};
use sqlx::SqliteConnection;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// `None` before the first start.
    pub server_id: Option<ServerId>,
    /// Where it listened last.
    pub port: Option<u16>,
    /// What the next row of the outbox (or the next delivery or session event)
    /// and the next event of the local log get.
    pub next_number: u64,
    pub next_cursor: u64,
}

/// An id this node had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerId {
    pub server_id: ServerId,
    pub until: Millis,
}

impl Store {
    pub async fn node(&self) -> Result<NodeRow, Error> {
        let (server_id, port, number, cursor): (Option<String>, Option<u16>, i64, i64) =
            sqlx::query_as("SELECT server_id, port, next_number, next_cursor FROM node WHERE id = 1")
                .fetch_one(&self.readers)
                .await
                .map_err(error)?;
        let server_id = server_id.map(|text| text.parse().map_err(|_| broken("the id of the node"))).transpose()?;
        Ok(NodeRow { server_id, port, next_number: rows::unbits(number), next_cursor: rows::unbits(cursor) })
    }

    /// All of them, those whose time is over too.
    pub async fn former_ids(&self) -> Result<Vec<FormerId>, Error> {
        let found: Vec<(String, i64)> = sqlx::query_as("SELECT server_id, until FROM former_id ORDER BY server_id")
            .fetch_all(&self.readers)
            .await
            .map_err(error)?;
        let former = |(id, until): (String, i64)| {
            let server_id = id.parse().map_err(|_| broken("a former id"))?;
            Ok(FormerId { server_id, until: Millis(until) })
        };
        found.into_iter().map(former).collect()
    }
}

pub(super) async fn counters(connection: &mut SqliteConnection) -> Result<Counters, sqlx::Error> {
    let (number, cursor, created): (i64, i64, i64) =
        sqlx::query_as("SELECT next_number, next_cursor, last_created FROM node WHERE id = 1")
            .fetch_one(&mut *connection)
            .await?;
    let push = push::end_of(connection).await?;
    Ok(Counters { number: rows::unbits(number), cursor: rows::unbits(cursor), created, push })
}

pub(super) fn put_counters(script: &mut Script, counters: Counters) {
    script.add("UPDATE node SET next_number = ?, next_cursor = ?, last_created = ? WHERE id = 1");
    script.bind(rows::bits(counters.number)).bind(rows::bits(counters.cursor)).bind(counters.created);
}

pub(super) async fn put(connection: &mut SqliteConnection, server_id: &ServerId, port: u16) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE node SET server_id = $1, port = $2 WHERE id = 1")
        .bind(server_id.as_str())
        .bind(port)
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM former_id WHERE server_id = $1").bind(server_id.as_str()).execute(connection).await?;
    Ok(())
}

pub(super) async fn put_former(
    connection: &mut SqliteConnection,
    server_id: &ServerId,
    until: Millis,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO former_id (server_id, until) VALUES ($1, $2)
         ON CONFLICT (server_id) DO UPDATE SET until = excluded.until",
    )
    .bind(server_id.as_str())
    .bind(until.0)
    .execute(connection)
    .await?;
    Ok(())
}
