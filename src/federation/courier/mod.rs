//! Courier: batches with a window between nodes of this project, the Push of the
//! contract under another envelope.
//!
//! Owns what a batch is on the wire and who signed it. Order, retries and queueing
//! stay the delivery machine's; a stream is one attempt of it.

mod service;
mod session;

pub(super) use service::{Arrived, Line, Reply, Turned};
pub(super) use session::{Session, Told, start};

use super::{
    inbox::Row,
    stream::{Mark, Position},
    window::BATCH_ROWS,
    wire::EPOCH_MAX,
};
use crate::{
    error::Error,
    identity::{node_key::NodeKey, postbox_token::Nonce},
    proto::pillarbox::federation::v1::{Batch, Load, Row as WireRow, State},
    store::OutRow,
    types::{PublicKey, ServerId, signed_bytes},
};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

/// What `KeyResponse.speaks` says of a server that takes batches.
pub const SPEAKS: &str = "courier/1";
/// What the signature of a batch is for.
const PURPOSE: &str = "courier batch";

/// A batch as it was read, and proven.
#[derive(Debug)]
pub struct Cargo {
    /// What its first row goes after.
    pub after: Mark,
    pub rows: Vec<Row>,
}

/// A signed batch of rows right after the mark.
fn seal(key: &NodeKey, destination: &ServerId, nonce: &Nonce, after: Mark, rows: Vec<OutRow>) -> Batch {
    let rows = rows.into_iter().map(|row| WireRow { number: row.number, id: row.id, event: row.body }).collect();
    let load: Bytes = Load {
        destination: destination.to_string(),
        nonce: Bytes::copy_from_slice(nonce),
        epoch: after.epoch,
        after: after.number,
        after_id: after.id,
        rows,
    }
    .encode_to_vec()
    .into();
    let signature = Bytes::copy_from_slice(&key.sign(PURPOSE, &Sha256::digest(&load)));
    Batch { load, signature }
}

/// Reads a batch that `key` must have signed for this stream. Nothing of it is to be
/// applied otherwise.
fn open(batch: Batch, key: &PublicKey, nonce: &[u8], is_ours: impl Fn(&str) -> bool) -> Result<Cargo, Error> {
    let Batch { load, signature } = batch;
    if !key.verify(&signed_bytes(PURPOSE, &Sha256::digest(&load)), &signature) {
        return Err(Error::Unauthenticated(
            "signature: not by the key this server knows of the sender, or of another batch".into(),
        ));
    }
    let load = Load::decode(load).map_err(|error| Error::invalid(format!("load: not a Load: {error}")))?;
    if !is_ours(&load.destination) {
        return Err(Error::Unauthenticated("destination: the batch is for another server".into()));
    }
    if load.nonce != nonce {
        return Err(Error::Unauthenticated("nonce: the batch is of another stream".into()));
    }
    read(load)
}

fn read(load: Load) -> Result<Cargo, Error> {
    let Load { epoch, after, after_id, rows, .. } = load;
    if epoch == 0 || epoch > EPOCH_MAX {
        return Err(Error::invalid("epoch: it cannot be"));
    }
    if rows.is_empty() || rows.len() > BATCH_ROWS {
        return Err(Error::invalid(format!("rows: {}; a batch has 1 to {BATCH_ROWS}", rows.len())));
    }
    let after = Mark { epoch, number: after, id: if after == 0 { 0 } else { after_id } };
    let mut before = after.number;
    let mut read = Vec::with_capacity(rows.len());
    for (at, WireRow { number, id, event }) in rows.into_iter().enumerate() {
        if number <= before || number > EPOCH_MAX {
            return Err(Error::invalid(format!("rows[{at}].number: {number} does not come after {before}")));
        }
        let position = Position { epoch, number, id, after: before };
        before = number;
        read.push(Row { position: Some(position), body: event });
    }
    Ok(Cargo { after, rows: read })
}

/// The state in a receipt; without one it is none.
fn state(state: Option<State>) -> Result<Mark, String> {
    super::wire::mark(state)?.ok_or_else(|| "a receipt without a state".to_owned())
}

#[cfg(test)]
mod tests;
