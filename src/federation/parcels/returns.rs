//! Parcels that died here: whoever made one is told, once it is a dead letter.
//!
//! If the node dies in between, nobody is told; what waits for an answer to a
//! letter has an end of its own.

use super::{Outcome, Queued, committed, failed, number_of, read};
use crate::{
    error::Error,
    federation::{Inner, save::Pause},
    proto::pillarbox::federation::v1::Parcel,
    store::{Change, DeadRow, Op},
    types::{Millis, PeerId},
};

/// Dead letters read at once, and their bytes unless one alone has more.
const PAGE_ROWS: usize = 1_000;
const PAGE_BYTES: usize = 1 << 20;
/// Until then a store that cannot be written is tried again: about half a minute.
const TRIES: usize = 12;

/// Tells the makers of the parcels among the dead letters of `peer` after
/// `after`, all of which died of `reason`.
pub(in crate::federation) async fn tell_makers(inner: &Inner, peer: PeerId, mut after: i64, reason: &str) {
    loop {
        let page = match inner.store.dead_sent(peer, after, PAGE_ROWS, PAGE_BYTES).await {
            Ok(page) => page,
            Err(error) => return tracing::warn!(peer = peer.0, %error, "the makers of dead parcels were not told"),
        };
        let Some(last) = page.last() else { return };
        after = last.id;
        tell(inner, peer, &page, reason).await;
    }
}

async fn tell(inner: &Inner, peer: PeerId, page: &[DeadRow], reason: &str) {
    let (mut op, mut thens, mut own, mut number) = (Op::new(), Vec::new(), Vec::new(), 0);
    for row in page {
        let Some(Parcel { id, body: Some(body) }) = read(&row.letter.body) else { continue };
        let told = number_of(&body).and_then(|body| inner.letters.returned(body, peer, id, reason, Millis::now()));
        let Some(taken) = told else { continue };
        let first = number;
        number += taken.changes.iter().map(Change::numbers).sum::<u64>();
        own.push(first..number);
        op.changes.extend(taken.changes);
        thens.push(taken.then);
    }
    if thens.is_empty() {
        return;
    }
    match commit(inner, op).await {
        Ok(first) => committed(thens, first, &own),
        Err(error) => {
            tracing::warn!(peer = peer.0, %error, "what became of dead parcels was not recorded");
            failed(thens, &Outcome::Unknown);
        }
    }
}

/// The first number of the op. Tries again where that may help: what a parcel
/// that came back changes may be said twice.
async fn commit(inner: &Inner, op: Op) -> Result<u64, Error> {
    if op.changes.is_empty() {
        return Ok(0);
    }
    let queued = Queued::of(inner, &op);
    queued.occupy();
    let mut pause = Pause::new();
    for _ in 1..TRIES {
        match inner.store.submit(op.clone()).await {
            Ok(done) => {
                queued.committed(inner, &done);
                return Ok(done.numbers.start);
            }
            Err(Error::Unavailable { .. } | Error::Exhausted { .. }) => pause.wait().await,
            Err(_) => break,
        }
    }
    let done = inner.store.submit(op).await.inspect_err(|error| queued.failed(error))?;
    queued.committed(inner, &done);
    Ok(done.numbers.start)
}
