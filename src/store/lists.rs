//! The guilds a user is in on other servers, and the invites that wait for one.

use super::{
    Store,
    batch::Batch,
    error,
    rows::{ManyRows, Script, bits, unbits},
};
use crate::{error::Error, types::PeerId};
use std::{collections::HashMap, sync::LazyLock};

/// An invite that waits for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteRow {
    pub invite: String,
    /// Where the guild is, and the inviter.
    pub peer: PeerId,
    pub inviter: u64,
}

/// What one peer has in the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListTotal {
    pub guilds: u64,
    pub invites: u64,
    /// Bytes of the invites' ids.
    pub invite_bytes: u64,
}

impl Store {
    /// What every peer has in the lists that has anything. Reads all of them.
    pub async fn list_totals(&self) -> Result<HashMap<PeerId, ListTotal>, Error> {
        let guilds: Vec<(i64, i64)> = sqlx::query_as("SELECT peer, count(*) FROM guild GROUP BY peer")
            .fetch_all(&self.readers)
            .await
            .map_err(error)?;
        let invites: Vec<(i64, i64, i64)> =
            sqlx::query_as("SELECT peer, count(*), sum(octet_length(invite_id)) FROM invite GROUP BY peer")
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        let mut totals = HashMap::<PeerId, ListTotal>::new();
        for (peer, rows) in guilds {
            totals.entry(PeerId(peer)).or_default().guilds = unbits(rows);
        }
        for (peer, rows, bytes) in invites {
            let total = totals.entry(PeerId(peer)).or_default();
            (total.invites, total.invite_bytes) = (unbits(rows), unbits(bytes));
        }
        Ok(totals)
    }

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

pub(super) fn write(script: &mut Script, batch: &Batch) {
    write_guilds(script, batch);
    write_invites(script, batch);
}

fn write_guilds(script: &mut Script, batch: &Batch) {
    static ADD: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("INSERT INTO guild (user_id, guild_id, peer) VALUES", "(?, ?, ?)", "ON CONFLICT DO NOTHING")
    });
    static REMOVE: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("DELETE FROM guild WHERE (user_id, guild_id, peer) IN (VALUES", "(?, ?, ?)", ")")
    });
    let (add, remove): (Vec<_>, Vec<_>) = batch.guilds.iter().partition(|(_, member)| **member);
    for (many, rows) in [(&ADD, add), (&REMOVE, remove)] {
        many.write(script, &rows, |script, ((user, guild, peer), _)| {
            script.bind(bits(*user)).bind(bits(*guild)).bind(peer.0);
        });
    }
}

fn write_invites(script: &mut Script, batch: &Batch) {
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
    PUT.write(script, &put, |script, ((user, invite, peer), inviter)| {
        script.bind(bits(*user)).bind(invite.clone()).bind(peer.0).bind(inviter.map(bits));
    });
    REMOVE.write(script, &remove, |script, ((user, invite, peer), _)| {
        script.bind(bits(*user)).bind(invite.clone()).bind(peer.0);
    });
}
