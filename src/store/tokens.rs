//! Tokens of callers; that of a user is a device session. Only the SHA-256 of
//! one is ever here.

use super::{
    Named, Store, UserState,
    batch::Batch,
    broken, error,
    op::{Gone, ROWS_AN_OP},
    rows::{ManyRows, Script, bits, count, unbits},
    users::user_id,
};
use crate::{
    error::Error,
    types::{Millis, UserId},
};
use sqlx::SqliteConnection;
use std::sync::LazyLock;

/// Tokens of one user, expired ones too: what ends them all is one transaction,
/// with a row for each.
pub const SESSIONS_MAX: usize = ROWS_AN_OP;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    pub hash: TokenHash,
    /// What the operator calls it by; tells nothing of the token.
    pub id: String,
    /// `kind:NAME`.
    pub principal: String,
    /// Set exactly where the principal is a user.
    pub user: Option<UserId>,
    pub created_at: Millis,
    pub expires_at: Option<Millis>,
    pub last_used_at: Option<Millis>,
    /// What its user's program calls itself, as it said last.
    pub user_agent: Option<String>,
}

/// That a token was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUse {
    pub hash: TokenHash,
    pub at: Millis,
    /// `None`: as it was.
    pub user_agent: Option<String>,
}

/// A party that a token binds to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundParty {
    /// `party:NAME`.
    pub principal: String,
    /// The user's name.
    pub user: String,
    pub expires_at: Option<Millis>,
}

#[derive(sqlx::FromRow)]
struct TokenColumns {
    hash: Vec<u8>,
    id: String,
    principal: String,
    user_id: Option<i64>,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    user_agent: Option<String>,
}

fn token(row: TokenColumns) -> Result<TokenRow, Error> {
    Ok(TokenRow {
        hash: row.hash.try_into().map_err(|_| broken("the hash of a token"))?,
        id: row.id,
        principal: row.principal,
        user: row.user_id.map(user_id).transpose()?,
        created_at: Millis(row.created_at),
        expires_at: row.expires_at.map(Millis),
        last_used_at: row.last_used_at.map(Millis),
        user_agent: row.user_agent,
    })
}

#[derive(sqlx::FromRow)]
struct FoundColumns {
    #[sqlx(flatten)]
    token: TokenColumns,
    state: Option<String>,
}

impl Store {
    /// And of a user's the state of the user.
    pub async fn token_by_hash(&self, hash: &TokenHash) -> Result<Option<(TokenRow, Option<UserState>)>, Error> {
        let found: Option<FoundColumns> = sqlx::query_as(
            "SELECT hash, token.id, principal, user_id, token.created_at, expires_at, last_used_at, user_agent, state
             FROM token LEFT JOIN local_user ON local_user.id = user_id WHERE hash = $1",
        )
        .bind(hash.as_slice())
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        let Some(found) = found else { return Ok(None) };
        let state = found.state.as_deref().map(UserState::named).transpose()?;
        Ok(Some((token(found.token)?, state)))
    }

    /// All of them, expired ones too, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, Error> {
        let found: Vec<TokenColumns> = sqlx::query_as(
            "SELECT hash, id, principal, user_id, created_at, expires_at, last_used_at, user_agent FROM token
             ORDER BY created_at, id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(token).collect()
    }

    /// What tokens bind to users who are not deleted, the oldest token first.
    pub async fn bound_parties(&self) -> Result<Vec<BoundParty>, Error> {
        let found: Vec<(String, String, Option<i64>)> = sqlx::query_as(
            "SELECT principal, name, expires_at FROM token JOIN local_user ON local_user.id = bound_user
             WHERE bound_user IS NOT NULL AND state <> 'deleted' ORDER BY token.created_at, token.id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        let bound = |(principal, user, expires_at): (String, String, Option<i64>)| BoundParty {
            principal,
            user,
            expires_at: expires_at.map(Millis),
        };
        Ok(found.into_iter().map(bound).collect())
    }

    /// The tokens of one user.
    pub async fn tokens_of(&self, user: UserId) -> Result<Vec<TokenRow>, Error> {
        let found: Vec<TokenColumns> = sqlx::query_as(
            "SELECT hash, id, principal, user_id, created_at, expires_at, last_used_at, user_agent FROM token
             WHERE user_id = $1 ORDER BY created_at, id",
        )
        .bind(bits(user.get()))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(token).collect()
    }
}

/// Whether a user can have one session more. Expired ones whose end was told go
/// when the room is needed.
pub(super) async fn has_room(connection: &mut SqliteConnection, user: UserId) -> Result<bool, sqlx::Error> {
    const COUNT: &str = "SELECT count(*) FROM token WHERE user_id = $1";
    let user = bits(user.get());
    let limit = count(SESSIONS_MAX);
    let has: i64 = sqlx::query_scalar(COUNT).bind(user).fetch_one(&mut *connection).await?;
    if has < limit {
        return Ok(true);
    }
    let swept =
        sqlx::query("DELETE FROM token WHERE user_id = $1 AND lapsed = 1").bind(user).execute(connection).await?;
    Ok(unbits(has) - swept.rows_affected() < unbits(limit))
}

/// `false` when it is a user's who is not active.
pub(super) async fn put(connection: &mut SqliteConnection, row: &TokenRow) -> Result<bool, sqlx::Error> {
    let put = sqlx::query(
        "INSERT INTO token (hash, id, principal, user_id, created_at, expires_at, last_used_at, user_agent)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8
         WHERE $4 IS NULL OR EXISTS (SELECT 1 FROM local_user WHERE id = $4 AND state = 'active')",
    )
    .bind(row.hash.as_slice())
    .bind(row.id.as_str())
    .bind(row.principal.as_str())
    .bind(row.user.map(|user| bits(user.get())))
    .bind(row.created_at.0)
    .bind(row.expires_at.map(|at| at.0))
    .bind(row.last_used_at.map(|at| at.0))
    .bind(row.user_agent.as_deref())
    .execute(connection)
    .await?;
    Ok(put.rows_affected() > 0)
}

/// `false` when there is no such token.
pub(super) async fn bind(connection: &mut SqliteConnection, id: &str, user: UserId) -> Result<bool, sqlx::Error> {
    let bound = sqlx::query("UPDATE token SET bound_user = $2 WHERE id = $1")
        .bind(id)
        .bind(bits(user.get()))
        .execute(connection)
        .await?;
    Ok(bound.rows_affected() > 0)
}

/// `None` when there is no such token, or it is not `user`'s.
pub(super) async fn revoke(
    connection: &mut SqliteConnection,
    id: &str,
    user: Option<UserId>,
) -> Result<Option<Gone>, sqlx::Error> {
    let gone = sqlx::query("DELETE FROM token WHERE id = $1 AND ($2 IS NULL OR user_id = $2)")
        .bind(id)
        .bind(user.map(|user| bits(user.get())))
        .execute(connection)
        .await?;
    Ok((gone.rows_affected() > 0).then_some(Gone { rows: 1, bytes: 0 }))
}

pub(super) async fn end_sessions(connection: &mut SqliteConnection, user: UserId) -> Result<Gone, sqlx::Error> {
    let gone = sqlx::query("DELETE FROM token WHERE user_id = $1").bind(bits(user.get())).execute(connection).await?;
    Ok(Gone { rows: gone.rows_affected(), bytes: 0 })
}

pub(super) fn touch(script: &mut Script, batch: &Batch) {
    static TOUCH: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH touch (hash, at, agent) AS (VALUES",
            "(?, ?, ?)",
            ") UPDATE token SET last_used_at = touch.at, user_agent = coalesce(touch.agent, user_agent)
             FROM touch WHERE token.hash = touch.hash",
        )
    });
    let uses: Vec<&TokenUse> = batch.tokens.values().collect();
    TOUCH.write(script, &uses, |script, used| {
        script.bind(used.hash.to_vec()).bind(used.at.0).bind(used.user_agent.clone());
    });
}
