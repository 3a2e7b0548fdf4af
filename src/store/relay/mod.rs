//! The rows of the MPC router: messages and their deliveries, parties, sessions
//! and session events.
//!
//! Owns the tables of `0002_relay.sql` and `0006_evidence.sql`. What may be changed is [`Change`]; how
//! many ops share a transaction is in `batch.rs` (pure) and `flush.rs`; the
//! rare changes are in `retention.rs` and `parties.rs`, what notifications ask in
//! `waiting.rs`. States of a delivery
//! only rise, and the first final one stays.

pub(super) mod arrivals;
pub(super) mod batch;
pub mod chain;
mod change;
mod deliveries;
mod events;
pub(super) mod flush;
mod messages;
mod parties;
mod progress;
mod retention;
mod sessions;
pub(super) mod slots;
mod waiting;

pub use change::{Change, DeliveryState, NewEvent, NewMessage, NewSlot, RemoteState};
pub use deliveries::{DeliveryRow, OpenDelivery, Unreported};
pub use events::EventRow;
pub use messages::{BodyBytes, MESSAGE_BYTES, MessageRow};
pub use parties::{PartyRole, PartyRow};
pub use progress::{SessionDelivery, SessionMessage};
pub use retention::Expired;
pub use sessions::SessionRow;
pub use slots::{EquivocationRow, SlotRow};
pub use waiting::Waits;

pub(super) use retention::apply;

use std::fmt::Display;

/// Numbers, or what is JSON as it is shown, as one bound value, for `IN (SELECT
/// value FROM json_each(?))`.
fn json(values: impl IntoIterator<Item = impl Display>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("[{}]", values.join(","))
}

#[cfg(test)]
mod tests;
