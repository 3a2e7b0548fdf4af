//! Writes the relay's part of a batch into the open transaction.
//!
//! The order is fixed: what is inserted first, then the states; `batch.rs` says
//! why that is right. Statements of one kind go over many rows.

use super::{batch::Batch, deliveries, events, messages, parties, sessions, slots};
use crate::store::rows::Script;

pub(in crate::store) fn write(script: &mut Script, batch: &Batch<'_>) {
    messages::insert(script, batch);
    slots::insert(script, batch);
    deliveries::insert(script, batch);
    messages::insert_keys(script, batch);
    deliveries::send(script, batch);
    for phase in &batch.phases {
        deliveries::finish(script, phase);
        deliveries::tell(script, phase);
    }
    deliveries::report(script, batch);
    sessions::write(script, batch);
    events::insert(script, batch);
    parties::touch(script, batch);
}
