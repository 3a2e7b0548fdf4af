//! The users of this node. A deleted one keeps its row: its id and its name are
//! never another person's.

use super::{
    Named, Store, broken, error,
    rows::{bits, count, unbits},
};
use crate::{
    error::Error,
    types::{Millis, UserId},
};
use sqlx::SqliteConnection;
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserState {
    Active,
    /// May not act; until it is enabled again.
    Disabled,
    /// For good.
    Deleted,
}

impl Named for UserState {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Active, "active"), (Self::Disabled, "disabled"), (Self::Deleted, "deleted")];
}

impl UserState {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    pub id: UserId,
    /// Unique; case counts.
    pub name: String,
    pub state: UserState,
    pub created_at: Millis,
}

type UserColumns = (i64, String, String, i64);

fn user((id, name, state, created_at): UserColumns) -> Result<UserRow, Error> {
    Ok(UserRow { id: user_id(id)?, name, state: UserState::named(&state)?, created_at: Millis(created_at) })
}

pub(super) fn user_id(column: i64) -> Result<UserId, Error> {
    UserId::new(unbits(column)).ok_or_else(|| broken("the id of a user"))
}

impl Store {
    /// A deleted one too.
    pub async fn user_by_name(&self, name: &str) -> Result<Option<UserRow>, Error> {
        let found = sqlx::query_as("SELECT id, name, state, created_at FROM local_user WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        found.map(user).transpose()
    }

    /// A deleted one too.
    pub async fn user_by_id(&self, id: UserId) -> Result<Option<UserRow>, Error> {
        let found = sqlx::query_as("SELECT id, name, state, created_at FROM local_user WHERE id = $1")
            .bind(bits(id.get()))
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        found.map(user).transpose()
    }

    /// The names of those of these ids that are users who are not deleted.
    pub async fn user_names(&self, ids: &[UserId]) -> Result<HashMap<UserId, String>, Error> {
        let ids = format!("[{}]", ids.iter().map(|id| bits(id.get()).to_string()).collect::<Vec<_>>().join(","));
        let found: Vec<(i64, String)> = sqlx::query_as(
            "SELECT u.id, u.name FROM json_each($1) j CROSS JOIN local_user u ON u.id = j.value
             WHERE u.state <> 'deleted'",
        )
        .bind(ids)
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(|(id, name)| Ok((user_id(id)?, name))).collect()
    }

    /// The next by name, at most `limit`; `after`: the last name of the page
    /// before, empty for the first page. Those that are deleted only if asked for.
    pub async fn users(&self, after: &str, deleted: bool, limit: usize) -> Result<Vec<UserRow>, Error> {
        let found = sqlx::query_as(
            "SELECT id, name, state, created_at FROM local_user
             WHERE name > $1 AND ($2 OR state <> 'deleted') ORDER BY name LIMIT $3",
        )
        .bind(after)
        .bind(deleted)
        .bind(count(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(user).collect()
    }
}

pub(super) async fn put(connection: &mut SqliteConnection, row: &UserRow) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO local_user (id, name, state, created_at) VALUES ($1, $2, $3, $4)")
        .bind(bits(row.id.get()))
        .bind(row.name.as_str())
        .bind(row.state.name())
        .bind(row.created_at.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// `false` when there is no such user, or it is deleted.
pub(super) async fn set_state(
    connection: &mut SqliteConnection,
    user: UserId,
    state: UserState,
) -> Result<bool, sqlx::Error> {
    let set = sqlx::query("UPDATE local_user SET state = $2 WHERE id = $1 AND state <> 'deleted'")
        .bind(bits(user.get()))
        .bind(state.name())
        .execute(connection)
        .await?;
    Ok(set.rows_affected() > 0)
}

#[cfg(test)]
mod tests;
