//! What time does to rows: events too old become dead letters, dead letters and
//! the log of inbound events are kept within bounds.
//!
//! Works in small ops, so that nobody waits long behind it.

use super::{Inner, driver::Command, parcels, peers::Peer};
use crate::{
    error::Error,
    store::{Change, Gone, PeerTouch, ROWS_AN_OP},
    types::{Millis, PeerId},
};
use std::{sync::Arc, time::Duration};

const EVERY: Duration = Duration::from_secs(60);
const INBOUND_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const DEAD_MAX_ROWS: u64 = 100_000;
const DEAD_MAX_BYTES: u64 = 256 << 20;

pub async fn run(inner: Arc<Inner>) {
    loop {
        if inner.stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            // The last word on who was heard of when.
            note_calls(&inner).await;
            return;
        }
        note_calls(&inner).await;
        if let Some(Err(error)) = inner.stop.run_until_cancelled(round(&inner)).await {
            tracing::warn!(%error, "old rows could not be cleared away; trying again in a minute");
        }
    }
}

async fn round(inner: &Inner) -> Result<(), Error> {
    for peer in inner.registry.all() {
        if peer.queued().0 > 0 {
            expire(inner, &peer).await?;
        }
    }
    // What a crash left in the queues of peers that were removed.
    for total in inner.store.outbox_totals().await? {
        let removed = inner.store.peer(total.peer).await?.is_some_and(|row| row.removed);
        if removed && inner.registry.by_row(total.peer).is_none() {
            bury_all(inner, total.peer, "peer_removed").await?;
        }
    }
    let before = Millis::now().minus(INBOUND_KEPT);
    while trim(inner, Change::TrimInbound { received_before: before }).await? == ROWS_AN_OP as u64 {}
    loop {
        // Not those whose makers are being told.
        let alone = inner.burials.lock().await;
        let dropped = trim(inner, Change::TrimDead { max_rows: DEAD_MAX_ROWS, max_bytes: DEAD_MAX_BYTES }).await?;
        drop(alone);
        inner.metrics.dead_letters_dropped.inc_by(dropped);
        if dropped < ROWS_AN_OP as u64 {
            return Ok(());
        }
    }
}

async fn trim(inner: &Inner, change: Change) -> Result<u64, Error> {
    Ok(inner.store.submit(change).await?.gone.iter().map(|gone| gone.rows).sum())
}

async fn expire(inner: &Inner, peer: &Peer) -> Result<(), Error> {
    let stored_before = Millis::now().minus(inner.config.queue_max_age);
    let head = inner.store.outbox_page(peer.row_id(), 0, 1, 0).await?;
    if head.first().is_none_or(|row| row.stored_at >= stored_before) {
        return Ok(());
    }
    let mut total = 0;
    loop {
        let (peer_id, died_at) = (peer.row_id(), Millis::now());
        let reason = "expired".to_owned();
        let change = Change::BuryOlder { peer: peer_id, stored_before, reason, died_at, limit: ROWS_AN_OP };
        let gone = bury_some(inner, peer_id, change, "expired").await?;
        peer.release(gone.rows, gone.bytes);
        total += gone.rows;
        if gone.rows == 0 {
            break;
        }
    }
    tracing::warn!(peer = %peer.server_id(), events = total, "events waited too long and became dead letters");
    peer.tell(Command::LookAgain).await
}

/// Makes dead letters of all rows that wait for a peer; returns how many.
pub async fn bury_all(inner: &Inner, peer: PeerId, reason: &str) -> Result<u64, Error> {
    bury(inner, peer, 0, u64::MAX >> 1, reason).await
}

/// The same for the rows numbered `from..=through`.
pub async fn bury(inner: &Inner, peer: PeerId, from: u64, through: u64, reason: &str) -> Result<u64, Error> {
    let mut rows = 0;
    loop {
        let died_at = Millis::now();
        let reason_text = reason.to_owned();
        let change = Change::BuryRows { peer, from, through, reason: reason_text, died_at, limit: ROWS_AN_OP };
        let gone = bury_some(inner, peer, change, reason).await?;
        if gone.rows == 0 {
            return Ok(rows);
        }
        rows += gone.rows;
    }
}

/// One step of a burial: rows become dead letters, then the makers of the
/// parcels among them are told.
async fn bury_some(inner: &Inner, peer: PeerId, change: Change, reason: &str) -> Result<Gone, Error> {
    // One at a time: so those that are new are those of this step.
    let _alone = inner.burials.lock().await;
    let before = inner.store.newest_dead(peer).await?;
    let buried = inner.store.submit(change).await;
    // After a failed commit the rows may be dead all the same.
    parcels::tell_makers(inner, peer, before, reason).await;
    let total = buried?
        .gone
        .iter()
        .fold(Gone::default(), |sum, gone| Gone { rows: sum.rows + gone.rows, bytes: sum.bytes + gone.bytes });
    inner.metrics.dead_letters.with_label_values(&[reason]).inc_by(total.rows);
    Ok(total)
}

async fn note_calls(inner: &Inner) {
    let touches: Vec<PeerTouch> = inner
        .registry
        .all()
        .iter()
        .filter_map(|peer| {
            let (row, health) = (peer.row(), peer.health());
            let news = health.outbound_ok_at > row.outbound_ok_at || health.inbound_ok_at > row.inbound_ok_at;
            news.then_some(PeerTouch {
                peer: row.id,
                outbound_ok_at: health.outbound_ok_at,
                inbound_ok_at: health.inbound_ok_at,
            })
        })
        .collect();
    if !touches.is_empty()
        && let Err(error) = inner.store.submit(Change::TouchPeers(touches)).await
    {
        tracing::debug!(%error, "when peers were heard of could not be written");
    }
}
