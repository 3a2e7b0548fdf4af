//! Tokens of callers. Only the SHA-256 of one is ever here.

use super::{
    Store,
    batch::Batch,
    broken, error,
    op::Gone,
    rows::{ManyRows, Script},
};
use crate::{error::Error, types::Millis};
use sqlx::SqliteConnection;
use std::sync::LazyLock;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    pub hash: TokenHash,
    /// What the operator calls it by; tells nothing of the token.
    pub id: String,
    /// `kind:NAME`.
    pub principal: String,
    pub created_at: Millis,
    pub expires_at: Option<Millis>,
    pub last_used_at: Option<Millis>,
}

type TokenColumns = (Vec<u8>, String, String, i64, Option<i64>, Option<i64>);

fn token((hash, id, principal, created_at, expires_at, last_used_at): TokenColumns) -> Result<TokenRow, Error> {
    Ok(TokenRow {
        hash: hash.try_into().map_err(|_| broken("the hash of a token"))?,
        id,
        principal,
        created_at: Millis(created_at),
        expires_at: expires_at.map(Millis),
        last_used_at: last_used_at.map(Millis),
    })
}

impl Store {
    pub async fn token_by_hash(&self, hash: &TokenHash) -> Result<Option<TokenRow>, Error> {
        let found = sqlx::query_as(
            "SELECT hash, id, principal, created_at, expires_at, last_used_at FROM token WHERE hash = $1",
        )
        .bind(hash.as_slice())
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        found.map(token).transpose()
    }

    /// All of them, expired ones too, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, Error> {
        let found = sqlx::query_as(
            "SELECT hash, id, principal, created_at, expires_at, last_used_at FROM token ORDER BY created_at, id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(token).collect()
    }
}

pub(super) async fn put(connection: &mut SqliteConnection, row: &TokenRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO token (hash, id, principal, created_at, expires_at, last_used_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(row.hash.as_slice())
    .bind(row.id.as_str())
    .bind(row.principal.as_str())
    .bind(row.created_at.0)
    .bind(row.expires_at.map(|at| at.0))
    .bind(row.last_used_at.map(|at| at.0))
    .execute(connection)
    .await?;
    Ok(())
}

/// `None` when there is no such token.
pub(super) async fn revoke(connection: &mut SqliteConnection, id: &str) -> Result<Option<Gone>, sqlx::Error> {
    let gone = sqlx::query("DELETE FROM token WHERE id = $1").bind(id).execute(connection).await?;
    Ok((gone.rows_affected() > 0).then_some(Gone { rows: 1, bytes: 0 }))
}

pub(super) fn touch(script: &mut Script, batch: &Batch) {
    static TOUCH: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH touch (hash, at) AS (VALUES",
            "(?, ?)",
            ") UPDATE token SET last_used_at = touch.at FROM touch WHERE token.hash = touch.hash",
        )
    });
    let touches: Vec<(TokenHash, Millis)> = batch.tokens.iter().map(|(hash, at)| (*hash, *at)).collect();
    TOUCH.write(script, &touches, |script, (hash, at)| {
        script.bind(hash.to_vec()).bind(at.0);
    });
}
