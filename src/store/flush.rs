//! Writes a batch, kind by kind.
//!
//! The order is fixed: outbox rows in, outbox rows out, streams and touches,
//! local log, lists, dead letters, tokens, the relay's rows, those of chats, the push log, counters. Only the
//! first two depend on each other, and the relay's among themselves; `batch.rs`
//! and `relay/batch.rs` say why their order is right.

use super::{
    batch::Batch,
    dead, inbound, lists, node,
    op::Gone,
    outbox, peers, relay,
    rows::{Changed, Script, Uncommitted},
    tokens,
};
use crate::types::PeerId;
use sqlx::SqliteConnection;
use std::{collections::BTreeMap, mem};

/// What came of a batch.
pub(super) struct Flushed {
    /// What the settles of each peer deleted.
    pub(super) gone: BTreeMap<PeerId, Gone>,
    /// An event of the push log was there already.
    pub(super) repeats: bool,
}

/// Writes the batch into the open transaction.
pub(super) async fn flush(connection: &mut SqliteConnection, batch: &Batch<'_>) -> Result<Flushed, sqlx::Error> {
    let (script, gone) = rows(connection, Script::default(), batch).await?;
    let repeats = script.run(connection).await? == Changed::Fewer;
    Ok(Flushed { gone, repeats })
}

/// Writes the batch behind what `script` holds already, and commits.
pub(super) async fn commit(
    connection: &mut SqliteConnection,
    script: Script,
    batch: &Batch<'_>,
) -> Result<Flushed, Uncommitted> {
    let (script, gone) = rows(connection, script, batch).await.map_err(Uncommitted::Before)?;
    let repeats = script.commit(connection).await? == Changed::Fewer;
    Ok(Flushed { gone, repeats })
}

/// What is still to be run, and what is known already.
async fn rows(
    connection: &mut SqliteConnection,
    mut script: Script,
    batch: &Batch<'_>,
) -> Result<(Script, BTreeMap<PeerId, Gone>), sqlx::Error> {
    outbox::insert(&mut script, &batch.outbox);
    let gone = if batch.settled.is_empty() {
        BTreeMap::new()
    } else {
        mem::take(&mut script).run(connection).await?;
        outbox::settle(connection, batch).await?
    };
    peers::write(&mut script, batch);
    inbound::insert(&mut script, &batch.inbound);
    lists::write(&mut script, batch);
    dead::insert(&mut script, &batch.dead);
    tokens::touch(&mut script, batch);
    relay::flush::write(&mut script, &batch.relay);
    batch.chat.write(&mut script);
    batch.push.write(&mut script, batch.counters.push);
    if !batch.outbox.is_empty() || !batch.inbound.is_empty() || batch.relay.is_numbered() {
        node::put_counters(&mut script, batch.counters);
    }
    Ok((script, gone))
}
