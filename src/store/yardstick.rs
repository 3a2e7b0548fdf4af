//! What SQLite takes by itself, its file opened as the node's own is: the plainest
//! table there is. What a benchmark of the node is held against.

use super::error;
use crate::error::Error;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use std::{path::Path, sync::Arc};

/// Rows of one statement.
const STATEMENT_ROWS: usize = 64;

/// A file with one table.
pub struct Yardstick {
    connection: SqliteConnection,
    many: Arc<str>,
}

impl Yardstick {
    /// Makes `path`.
    pub async fn make(path: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(error)?;
        let table = "CREATE TABLE row (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT";
        sqlx::query(table).execute(&mut connection).await.map_err(error)?;
        let many = format!("INSERT INTO row (body) VALUES {}", ["(?)"; STATEMENT_ROWS].join(", ")).into();
        Ok(Self { connection, many })
    }

    /// One row, on disk when this returns.
    pub async fn commit_one(&mut self, body: &[u8]) -> Result<(), Error> {
        let insert = sqlx::query("INSERT INTO row (body) VALUES ($1)").bind(body.to_vec());
        insert.execute(&mut self.connection).await.map(drop).map_err(error)
    }

    /// So many statements of 64 rows each in one transaction; returns the rows.
    pub async fn commit_many(&mut self, body: &[u8], statements: usize) -> Result<u64, Error> {
        self.transaction(body, statements).await.map_err(error)?;
        Ok((statements * STATEMENT_ROWS) as u64)
    }

    async fn transaction(&mut self, body: &[u8], statements: usize) -> Result<(), sqlx::Error> {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await?;
        for _ in 0..statements {
            let insert = sqlx::query(AssertSqlSafe(self.many.clone()));
            let insert = (0..STATEMENT_ROWS).fold(insert, |insert, _| insert.bind(body.to_vec()));
            insert.execute(&mut self.connection).await?;
        }
        sqlx::query("COMMIT").execute(&mut self.connection).await.map(drop)
    }

    pub async fn close(self) -> Result<(), Error> {
        self.connection.close().await.map_err(error)
    }
}
