//! Which device sessions end, as the gateways of their users are told.

use super::Whose;
use crate::{
    error::Error,
    store::{
        Store, error,
        op::ROWS_AN_OP,
        rows::{bits, count, unbits},
    },
    types::{Millis, UserId},
};
use sqlx::SqliteConnection;

impl Store {
    /// When the next session of a user expires; of those whose end was not told.
    pub async fn next_lapse(&self) -> Result<Option<Millis>, Error> {
        let found: Option<i64> = sqlx::query_scalar(
            "SELECT min(expires_at) FROM token
             WHERE user_id IS NOT NULL AND expires_at IS NOT NULL AND lapsed = 0",
        )
        .fetch_one(&self.readers)
        .await
        .map_err(error)?;
        Ok(found.map(Millis))
    }

    /// Whether the user has this session, and it has not expired.
    pub async fn has_session(&self, user: UserId, id: &str, now: Millis) -> Result<bool, Error> {
        let found: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM token WHERE id = $1 AND user_id = $2 AND (expires_at IS NULL OR expires_at > $3)",
        )
        .bind(id)
        .bind(bits(user.get()))
        .bind(now.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        Ok(found.is_some())
    }
}

/// User and session of those that count now: of a user who is disabled none
/// does, and that was told.
pub(super) async fn ending(
    connection: &mut SqliteConnection,
    whose: &Whose,
    at: Millis,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    const ONE: &str = "SELECT name, token.id FROM token JOIN local_user ON local_user.id = user_id AND state = 'active'
         WHERE token.id = $1 AND lapsed = 0 AND (expires_at IS NULL OR expires_at > $2)";
    const ALL: &str = "SELECT name, token.id FROM token JOIN local_user ON local_user.id = user_id AND state = 'active'
         WHERE user_id = $1 AND lapsed = 0 AND (expires_at IS NULL OR expires_at > $2) ORDER BY token.created_at, token.id";
    let found = match whose {
        Whose::Session(id) => sqlx::query_as(ONE).bind(id.as_str()),
        Whose::User(user) => sqlx::query_as(ALL).bind(bits(user.get())),
    };
    found.bind(at.0).fetch_all(connection).await
}

/// Notes that the oldest expired sessions were told of. Returns them, and how
/// many rows were touched.
pub(super) async fn expire(
    connection: &mut SqliteConnection,
    at: Millis,
) -> Result<(Vec<(String, String)>, u64), sqlx::Error> {
    let expired: Vec<(Vec<u8>, String, String, bool, i64)> = sqlx::query_as(
        "SELECT hash, name, token.id, state = 'active', expires_at FROM token
         JOIN local_user ON local_user.id = user_id
         WHERE user_id IS NOT NULL AND expires_at IS NOT NULL AND expires_at <= $1 AND lapsed = 0
         ORDER BY expires_at LIMIT $2",
    )
    .bind(at.0)
    .bind(count(ROWS_AN_OP))
    .fetch_all(&mut *connection)
    .await?;
    for (hash, ..) in &expired {
        sqlx::query("UPDATE token SET lapsed = 1 WHERE hash = $1").bind(hash).execute(&mut *connection).await?;
    }
    let rows = unbits(count(expired.len()));
    let told = expired.into_iter().filter(|(.., active, _)| *active).map(|(_, name, id, ..)| (name, id));
    Ok((told.collect(), rows))
}
