//! The rows of peers, their former names, and the two streams of each.
//!
//! A peer's row is never deleted: other rows name the server by it. One that
//! was removed says so.

use super::{
    Named, Store,
    batch::Batch,
    broken, error,
    op::StreamOut,
    rows::{ManyRows, Script, bits, unbits},
};
use crate::{
    error::Error,
    types::{Mark, Millis, PeerId, PublicKey, ServerId},
};
use sqlx::SqliteConnection;
use std::{collections::HashMap, sync::LazyLock};

const SELECT_MARKS: &str = "SELECT peer, epoch, mark, mark_id FROM stream_in ORDER BY peer";

/// Who made the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerOrigin {
    Operator,
    Learnt,
}

/// Who gave the key. An operator's is never replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    Operator,
    Learnt,
}

/// Whether the peer speaks our additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    Unknown,
    Stock,
    Pillarbox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTransport {
    Unknown,
    Grpc,
    Hrpc,
}

impl Named for PeerOrigin {
    const NAMES: &'static [(Self, &'static str)] = &[(Self::Operator, "operator"), (Self::Learnt, "learnt")];
}

impl Named for KeyOrigin {
    const NAMES: &'static [(Self, &'static str)] = &[(Self::Operator, "operator"), (Self::Learnt, "learnt")];
}

impl Named for PeerKind {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Unknown, "unknown"), (Self::Stock, "stock"), (Self::Pillarbox, "pillarbox")];
}

impl Named for PeerTransport {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Unknown, "unknown"), (Self::Grpc, "grpc"), (Self::Hrpc, "hrpc")];
}

/// Where to reach a peer when it is not at its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerKey {
    pub key: PublicKey,
    pub origin: KeyOrigin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRow {
    /// Chosen by the owner of the peers: one more than the highest so far.
    pub id: PeerId,
    pub server_id: ServerId,
    pub origin: PeerOrigin,
    pub address: Option<PeerAddress>,
    /// gRPC without TLS.
    pub plaintext: bool,
    pub key: Option<PeerKey>,
    pub kind: PeerKind,
    pub transport: PeerTransport,
    /// It takes parcels.
    pub parcels: bool,
    /// It takes letters of chats.
    pub chat: bool,
    /// The id by which it still knows this node, after a rename it has not
    /// heard of.
    pub known_as: Option<ServerId>,
    /// The id it will go by, once a token names it.
    pub next_id: Option<ServerId>,
    /// By the operator's word: no Push, Pulls are answered empty.
    pub held: bool,
    pub removed: bool,
    pub created_at: Millis,
    /// When a call to it, and one from it, went well last.
    pub outbound_ok_at: Option<Millis>,
    pub inbound_ok_at: Option<Millis>,
}

/// `None` leaves the moment as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerTouch {
    pub peer: PeerId,
    pub outbound_ok_at: Option<Millis>,
    pub inbound_ok_at: Option<Millis>,
}

#[derive(sqlx::FromRow)]
struct PeerColumns {
    id: i64,
    server_id: String,
    origin: String,
    host: Option<String>,
    port: Option<u16>,
    plaintext: bool,
    key: Option<Vec<u8>>,
    key_origin: Option<String>,
    kind: String,
    transport: String,
    parcels: bool,
    chat: bool,
    known_as: Option<String>,
    next_id: Option<String>,
    held: bool,
    removed: bool,
    created_at: i64,
    outbound_ok_at: Option<i64>,
    inbound_ok_at: Option<i64>,
}

/// The columns of [`PeerColumns`], for all peers and for one.
macro_rules! select_peers {
    ($tail:literal) => {
        concat!(
            "SELECT id, server_id, origin, host, port, plaintext, key, key_origin, kind, transport, known_as, ",
            "next_id, held, removed, created_at, outbound_ok_at, inbound_ok_at, parcels, chat FROM peer ",
            $tail
        )
    };
}

fn peer(row: PeerColumns) -> Result<PeerRow, Error> {
    let key = match (row.key, row.key_origin) {
        (Some(bytes), Some(origin)) => {
            let key = PublicKey::from_bytes(&bytes).map_err(|_| broken("the key of a peer"))?;
            Some(PeerKey { key, origin: KeyOrigin::named(&origin)? })
        }
        _ => None,
    };
    let id = |text: String| text.parse().map_err(|_| broken("the id of a peer"));
    Ok(PeerRow {
        id: PeerId(row.id),
        server_id: id(row.server_id)?,
        origin: PeerOrigin::named(&row.origin)?,
        address: row.host.zip(row.port).map(|(host, port)| PeerAddress { host, port }),
        plaintext: row.plaintext,
        key,
        kind: PeerKind::named(&row.kind)?,
        transport: PeerTransport::named(&row.transport)?,
        parcels: row.parcels,
        chat: row.chat,
        known_as: row.known_as.map(id).transpose()?,
        next_id: row.next_id.map(id).transpose()?,
        held: row.held,
        removed: row.removed,
        created_at: Millis(row.created_at),
        outbound_ok_at: row.outbound_ok_at.map(Millis),
        inbound_ok_at: row.inbound_ok_at.map(Millis),
    })
}

fn stream_out((peer, epoch, settled, settled_id, queued): (i64, i64, i64, i64, bool)) -> (PeerId, StreamOut) {
    let (epoch, settled, settled_id) = (unbits(epoch), unbits(settled), unbits(settled_id));
    (PeerId(peer), StreamOut { epoch, settled, settled_id, queued })
}

fn stream_in((peer, epoch, mark, id): (i64, i64, i64, i64)) -> (PeerId, Mark) {
    (PeerId(peer), Mark { epoch: unbits(epoch), number: unbits(mark), id: unbits(id) })
}

impl Store {
    /// All of them, removed ones too, by row id.
    pub async fn peers(&self) -> Result<Vec<PeerRow>, Error> {
        let found = sqlx::query_as(select_peers!("ORDER BY id")).fetch_all(&self.readers).await.map_err(error)?;
        found.into_iter().map(peer).collect()
    }

    pub async fn peer(&self, id: PeerId) -> Result<Option<PeerRow>, Error> {
        let found = sqlx::query_as(select_peers!("WHERE id = $1"))
            .bind(id.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        found.map(peer).transpose()
    }

    /// The names that peers had before.
    pub async fn peer_former_ids(&self) -> Result<Vec<(PeerId, ServerId)>, Error> {
        let found: Vec<(i64, String)> =
            sqlx::query_as("SELECT peer, server_id FROM peer_former ORDER BY peer, server_id")
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        let former = |(peer, id): (i64, String)| Ok((PeerId(peer), id.parse().map_err(|_| broken("a former id"))?));
        found.into_iter().map(former).collect()
    }

    /// Our stream to every peer that has one.
    pub async fn streams_out(&self) -> Result<Vec<(PeerId, StreamOut)>, Error> {
        let found = sqlx::query_as("SELECT peer, epoch, settled, settled_id, queued FROM stream_out ORDER BY peer")
            .fetch_all(&self.readers)
            .await
            .map_err(error)?;
        Ok(found.into_iter().map(stream_out).collect())
    }

    pub async fn stream_out(&self, peer: PeerId) -> Result<StreamOut, Error> {
        let found = sqlx::query_as("SELECT peer, epoch, settled, settled_id, queued FROM stream_out WHERE peer = $1")
            .bind(peer.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        Ok(found.map(stream_out).map_or_else(StreamOut::default, |(_, stream)| stream))
    }

    /// The stream to us of every peer that has one.
    pub async fn streams_in(&self) -> Result<Vec<(PeerId, Mark)>, Error> {
        let found = sqlx::query_as(SELECT_MARKS).fetch_all(&self.readers).await.map_err(error)?;
        Ok(found.into_iter().map(stream_in).collect())
    }

    pub async fn stream_in(&self, peer: PeerId) -> Result<Mark, Error> {
        let found = sqlx::query_as("SELECT peer, epoch, mark, mark_id FROM stream_in WHERE peer = $1")
            .bind(peer.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        Ok(found.map(stream_in).map_or_else(Mark::default, |(_, stream)| stream))
    }
}

pub(super) async fn put(connection: &mut SqliteConnection, row: &PeerRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO peer (id, server_id, origin, host, port, plaintext, key, key_origin, kind, transport,
             known_as, next_id, held, removed, created_at, outbound_ok_at, inbound_ok_at, parcels, chat)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
         ON CONFLICT (id) DO UPDATE SET origin = excluded.origin, host = excluded.host, port = excluded.port,
             plaintext = excluded.plaintext, key = excluded.key, key_origin = excluded.key_origin,
             kind = excluded.kind, transport = excluded.transport, known_as = excluded.known_as,
             next_id = excluded.next_id, parcels = excluded.parcels,
             chat = excluded.chat, held = excluded.held, removed = excluded.removed, created_at = excluded.created_at",
    )
    .bind(row.id.0)
    .bind(row.server_id.as_str())
    .bind(row.origin.name())
    .bind(row.address.as_ref().map(|address| address.host.as_str()))
    .bind(row.address.as_ref().map(|address| address.port))
    .bind(row.plaintext)
    .bind(row.key.as_ref().map(|key| key.key.as_bytes().as_slice()))
    .bind(row.key.map(|key| key.origin.name()))
    .bind(row.kind.name())
    .bind(row.transport.name())
    .bind(row.known_as.as_ref().map(ServerId::as_str))
    .bind(row.next_id.as_ref().map(ServerId::as_str))
    .bind(row.held)
    .bind(row.removed)
    .bind(row.created_at.0)
    .bind(row.outbound_ok_at.map(|at| at.0))
    .bind(row.inbound_ok_at.map(|at| at.0))
    .bind(row.parcels)
    .bind(row.chat)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns whether there was such a row.
pub(super) async fn rename(
    connection: &mut SqliteConnection,
    peer: PeerId,
    new_id: &ServerId,
) -> Result<bool, sqlx::Error> {
    sqlx::query(
        "INSERT INTO peer_former (peer, server_id) SELECT id, server_id FROM peer WHERE id = $1
         ON CONFLICT (peer, server_id) DO NOTHING",
    )
    .bind(peer.0)
    .execute(&mut *connection)
    .await?;
    // After a rename there and back the name of today is no former one.
    sqlx::query("DELETE FROM peer_former WHERE peer = $1 AND server_id = $2")
        .bind(peer.0)
        .bind(new_id.as_str())
        .execute(&mut *connection)
        .await?;
    let renamed = sqlx::query("UPDATE peer SET server_id = $2 WHERE id = $1")
        .bind(peer.0)
        .bind(new_id.as_str())
        .execute(connection)
        .await?;
    Ok(renamed.rows_affected() > 0)
}

/// The stream to us of every peer, for the guards of the writer.
pub(super) async fn marks(connection: &mut SqliteConnection) -> Result<HashMap<PeerId, Mark>, sqlx::Error> {
    let found = sqlx::query_as(SELECT_MARKS).fetch_all(connection).await?;
    Ok(found.into_iter().map(stream_in).collect())
}

/// Touches and streams of a batch.
pub(super) fn write(script: &mut Script, batch: &Batch) {
    static TOUCH: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH touch (id, outbound_ok_at, inbound_ok_at) AS (VALUES",
            "(?, ?, ?)",
            ") UPDATE peer SET outbound_ok_at = coalesce(touch.outbound_ok_at, peer.outbound_ok_at),
                 inbound_ok_at = coalesce(touch.inbound_ok_at, peer.inbound_ok_at)
             FROM touch WHERE peer.id = touch.id",
        )
    });
    static STREAM_IN: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO stream_in (peer, epoch, mark, mark_id) VALUES",
            "(?, ?, ?, ?)",
            "ON CONFLICT (peer) DO UPDATE SET epoch = excluded.epoch, mark = excluded.mark, mark_id = excluded.mark_id",
        )
    });
    let touches: Vec<&PeerTouch> = batch.peers.values().collect();
    TOUCH.write(script, &touches, |script, touch| {
        let moment = |at: Option<Millis>| at.map(|at| at.0);
        script.bind(touch.peer.0).bind(moment(touch.outbound_ok_at)).bind(moment(touch.inbound_ok_at));
    });
    let marks: Vec<(&PeerId, &Mark)> = batch.marked.iter().collect();
    STREAM_IN.write(script, &marks, |script, (peer, stream)| {
        script.bind(peer.0).bind(bits(stream.epoch)).bind(bits(stream.number)).bind(bits(stream.id));
    });
    write_out(script, batch);
}

/// Where only settles came, `queued` stays.
fn write_out(script: &mut Script, batch: &Batch) {
    static SETTLED: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO stream_out (peer, epoch, settled, settled_id, queued) VALUES",
            "(?, ?, ?, ?, 0)",
            "ON CONFLICT (peer) DO UPDATE
             SET epoch = excluded.epoch, settled = excluded.settled, settled_id = excluded.settled_id",
        )
    });
    static PUT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO stream_out (peer, epoch, settled, settled_id, queued) VALUES",
            "(?, ?, ?, ?, ?)",
            "ON CONFLICT (peer) DO UPDATE SET epoch = excluded.epoch, settled = excluded.settled,
             settled_id = excluded.settled_id, queued = excluded.queued",
        )
    });
    let (put, settled): (Vec<_>, Vec<_>) = batch.out.iter().partition(|(_, state)| state.queued.is_some());
    SETTLED.write(script, &settled, |script, (peer, state)| {
        script.bind(peer.0).bind(bits(state.epoch)).bind(bits(state.settled)).bind(bits(state.settled_id));
    });
    PUT.write(script, &put, |script, (peer, state)| {
        script.bind(peer.0).bind(bits(state.epoch)).bind(bits(state.settled)).bind(bits(state.settled_id));
        script.bind(state.queued.unwrap_or_default());
    });
}
