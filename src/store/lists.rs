//! The guilds a user is in on other servers, and the invites that wait for one.

use super::{
    Store,
    batch::Batch,
    error,
    rows::{ManyRows, bits, unbits},
};
use crate::{error::Error, types::PeerId};
use sqlx::SqliteConnection;
use std::sync::LazyLock;

/// An invite that waits for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteRow {
    pub invite: String,
    /// Where the guild is, and the inviter.
    pub peer: PeerId,
    pub inviter: u64,
}

impl Store {
    /// The guilds of a user, and the server of each.
    pub async fn guilds(&self, user: u64) -> Result<Vec<(u64, PeerId)>, Error> {
        let found: Vec<(i64, i64)> =
            sqlx::query_as("SELECT guild_id, peer FROM guild WHERE user_id = $1 ORDER BY guild_id, peer")
                .bind(bits(user))
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        Ok(found.into_iter().map(|(guild, peer)| (unbits(guild), PeerId(peer))).collect())
    }

    pub async fn invites(&self, user: u64) -> Result<Vec<InviteRow>, Error> {
        let found: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT invite_id, peer, inviter_id FROM invite WHERE user_id = $1 ORDER BY invite_id, peer",
        )
        .bind(bits(user))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        let row = |(invite, peer, inviter)| InviteRow { invite, peer: PeerId(peer), inviter: unbits(inviter) };
        Ok(found.into_iter().map(row).collect())
    }
}

pub(super) async fn write(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    write_guilds(connection, batch).await?;
    write_invites(connection, batch).await
}

async fn write_guilds(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    static ADD: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("INSERT INTO guild (user_id, guild_id, peer) VALUES", "(?, ?, ?)", "ON CONFLICT DO NOTHING")
    });
    static REMOVE: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("DELETE FROM guild WHERE (user_id, guild_id, peer) IN (VALUES", "(?, ?, ?)", ")")
    });
    let (add, remove): (Vec<_>, Vec<_>) = batch.guilds.iter().partition(|(_, member)| **member);
    for (many, rows) in [(&ADD, add), (&REMOVE, remove)] {
        many.execute(connection, &rows, |statement, ((user, guild, peer), _)| {
            statement.bind(bits(*user)).bind(bits(*guild)).bind(peer.0)
        })
        .await?;
    }
    Ok(())
}

async fn write_invites(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    static PUT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO invite (user_id, invite_id, peer, inviter_id) VALUES",
            "(?, ?, ?, ?)",
            "ON CONFLICT (user_id, invite_id, peer) DO UPDATE SET inviter_id = excluded.inviter_id",
        )
    });
    static REMOVE: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("DELETE FROM invite WHERE (user_id, invite_id, peer) IN (VALUES", "(?, ?, ?)", ")")
    });
    let (put, remove): (Vec<_>, Vec<_>) = batch.invites.iter().partition(|(_, inviter)| inviter.is_some());
    PUT.execute(connection, &put, |statement, ((user, invite, peer), inviter)| {
        let statement = statement.bind(bits(*user)).bind(invite.clone()).bind(peer.0);
        statement.bind(inviter.map(bits))
    })
    .await?;
    REMOVE
        .execute(connection, &remove, |statement, ((user, invite, peer), _)| {
            statement.bind(bits(*user)).bind(invite.clone()).bind(peer.0)
        })
        .await?;
    Ok(())
}
