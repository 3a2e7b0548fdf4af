//! The parties of this node that registered.

use super::batch::Batch;
use crate::{
    error::Error,
    store::{
        Named, Store, error,
        rows::{ManyRows, Script},
    },
    types::Millis,
};
use sqlx::SqliteConnection;
use std::sync::LazyLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartyRole {
    Persistent,
    Delegate,
    Temporary,
}

impl Named for PartyRole {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Persistent, "persistent"), (Self::Delegate, "delegate"), (Self::Temporary, "temporary")];
}

impl PartyRole {
    /// As callers write it.
    pub fn as_str(self) -> &'static str {
        self.name()
    }

    /// `None`: not a role.
    pub fn parse(text: &str) -> Option<Self> {
        Self::named(text).ok()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartyRow {
    /// Without the server.
    pub name: String,
    pub role: PartyRole,
    pub version: String,
    /// Where to notify it while it is offline.
    pub email: Option<String>,
    pub phone: Option<String>,
    pub push_token: Option<String>,
    pub registered_at: Millis,
    pub last_seen_at: Millis,
}

impl PartyRow {
    pub(super) fn weight(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let channels = optional(&self.email) + optional(&self.phone) + optional(&self.push_token);
        self.name.len() + self.version.len() + channels
    }
}

#[derive(sqlx::FromRow)]
struct PartyColumns {
    name: String,
    role: String,
    version: String,
    email: Option<String>,
    phone: Option<String>,
    push_token: Option<String>,
    registered_at: i64,
    last_seen_at: i64,
}

fn party(row: PartyColumns) -> Result<PartyRow, Error> {
    Ok(PartyRow {
        name: row.name,
        role: PartyRole::named(&row.role)?,
        version: row.version,
        email: row.email,
        phone: row.phone,
        push_token: row.push_token,
        registered_at: Millis(row.registered_at),
        last_seen_at: Millis(row.last_seen_at),
    })
}

impl Store {
    /// All of them, by name. For the start.
    pub async fn parties(&self) -> Result<Vec<PartyRow>, Error> {
        let found: Vec<PartyColumns> = sqlx::query_as(
            "SELECT name, role, version, email, phone, push_token, registered_at, last_seen_at FROM party
             ORDER BY name",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(party).collect()
    }
}

pub(super) async fn put(connection: &mut SqliteConnection, row: &PartyRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO party (name, role, version, email, phone, push_token, registered_at, last_seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (name) DO UPDATE SET role = excluded.role, version = excluded.version, email = excluded.email,
         phone = excluded.phone, push_token = excluded.push_token,
         last_seen_at = max(party.last_seen_at, excluded.last_seen_at)",
    )
    .bind(row.name.as_str())
    .bind(row.role.name())
    .bind(row.version.as_str())
    .bind(row.email.as_deref())
    .bind(row.phone.as_deref())
    .bind(row.push_token.as_deref())
    .bind(row.registered_at.0)
    .bind(row.last_seen_at.0)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) fn touch(script: &mut Script, batch: &Batch<'_>) {
    static TOUCH: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH touch (name, at) AS (VALUES",
            "(?, ?)",
            ") UPDATE party SET last_seen_at = max(last_seen_at, touch.at) FROM touch WHERE party.name = touch.name",
        )
    });
    let touches: Vec<_> = batch.parties.iter().collect();
    TOUCH.write(script, &touches, |script, (name, at)| {
        script.bind((*name).clone()).bind(at.0);
    });
}
