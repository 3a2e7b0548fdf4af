//! Writes a batch into the open transaction, kind by kind.
//!
//! The order is fixed: outbox rows in, outbox rows out, streams and touches,
//! local log, lists, dead letters, tokens, counters. Only the first two depend
//! on each other; `batch.rs` says why that order is right.

use super::{batch::Batch, dead, inbound, lists, node, op::Gone, outbox, peers, tokens};
use crate::types::PeerId;
use sqlx::SqliteConnection;
use std::collections::BTreeMap;

/// Returns what the settles of each peer deleted.
pub(super) async fn flush(
    connection: &mut SqliteConnection,
    batch: &Batch,
) -> Result<BTreeMap<PeerId, Gone>, sqlx::Error> {
    outbox::insert(connection, &batch.outbox).await?;
    let gone = outbox::settle(connection, batch).await?;
    peers::write(connection, batch).await?;
    inbound::insert(connection, &batch.inbound).await?;
    lists::write(connection, batch).await?;
    dead::insert(connection, &batch.dead).await?;
    tokens::touch(connection, batch).await?;
    if !batch.outbox.is_empty() || !batch.inbound.is_empty() {
        node::put_counters(connection, batch.counters).await?;
    }
    Ok(gone)
}
