//! What may be asked of the writer for the MPC router.
//!
//! Pure data, as `store/op.rs`: decided before by its owner, all or none of an
//! op's, in their order.

use super::{parties::PartyRow, retention};
use crate::{
    store,
    types::{Millis, PartyRef, PeerId},
};
use bytes::Bytes;

/// How far a delivery is. Only rises; the last two are final, and the first of
/// them stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeliveryState {
    Pending = 0,
    Delivered = 1,
    Acknowledged = 2,
    Failed = 3,
}

impl DeliveryState {
    /// As the contract writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Acknowledged => "acknowledged",
            Self::Failed => "failed",
        }
    }

    pub fn is_final(self) -> bool {
        self >= Self::Acknowledged
    }

    /// As it stands in its column.
    pub(super) fn code(self) -> i64 {
        self as i64
    }

    pub(super) fn of_code(code: i64) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Acknowledged, Self::Failed]
            .into_iter()
            .find(|state| state.code() == code)
    }
}

/// A message as it is accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// Given by its maker, growing, below 2^63 and never twice: parcels name the
    /// message by it before it is on disk.
    pub number: u64,
    /// Whose server took it from its sender.
    pub origin: PeerId,
    /// The id its origin gave it; `None` exactly for a message of this node.
    pub remote_id: Option<String>,
    /// Random; with the number it is the id of a message of this node.
    pub tag: u64,
    pub session: String,
    /// Without the server, which is `origin`.
    pub sender: String,
    pub broadcast: bool,
    pub round: i32,
    pub kind: String,
    /// When this node took it.
    pub accepted_at: Millis,
    pub expires_at: Millis,
    pub body: Bytes,
    pub slot: NewSlot,
}

/// What stands in the session's chain for a message; what its bytes mean is its
/// maker's word.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewSlot {
    /// Hashed between the session and the digest.
    pub entry: Bytes,
    /// Of the payload.
    pub digest: [u8; 32],
    /// Two digests under one claim are an equivocation; `None`: it claims nothing.
    pub claim: Option<[u8; 16]>,
    /// Kept with it, not hashed.
    pub proof: Option<[u8; 96]>,
}

/// A session event as it is published or arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub event_id: String,
    /// Whose server published it.
    pub owner: PeerId,
    pub session: String,
    pub kind: String,
    /// The parties of this node it is for; `None`: all.
    pub local_parties: Option<Vec<String>>,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub body: Bytes,
}

/// What another server told of a delivery to one of its parties.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteState {
    /// Number of the message.
    pub message: u64,
    /// Of another server: nothing happens for a party of this node.
    pub party: PartyRef,
    pub state: DeliveryState,
    pub delivered_at: Option<Millis>,
    /// Of a final state; `None` counts as moment 0 then.
    pub finished_at: Option<Millis>,
    pub retries: u32,
    pub error: String,
}

/// A row that is not there, or a number that was never given, is no error:
/// nothing happens then.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Nothing stays of it, its `Deliver`s and so on when it is another
    /// server's and `(origin, remote_id)` is there already, but its slot in the
    /// chain; their numbers are used up all the same. `Conflict` for a number that another message has.
    Message(Box<NewMessage>),
    /// A delivery of the message before it in the op; takes a number of the
    /// writer, its `seq`. The writer gives `created_at` too: for a party of this
    /// node above those it gave the party before, and not below `accepted_at`.
    ///
    /// Refused without a message before it; a rare change between is one too
    /// many.
    Deliver { party: PartyRef },
    /// What the caller's key stands for: the local message before it in the op.
    /// A key that is taken stays as it is.
    Idempotent { caller: String, key: String, digest: [u8; 32] },

    /// Sent to a subscriber of this node: pending becomes delivered. The first
    /// `at` stays, `retries` rises.
    Sent { seq: u64, at: Millis, retries: u32 },
    /// Ends a delivery (acknowledged or `failed`) that is not final yet, and
    /// lowers `open` of its message. `message`: that of the delivery.
    Finish { seq: u64, message: u64, failed: bool, at: Millis, error: String },
    /// Only rises, as by `Sent` and `Finish`.
    RemoteState(Box<RemoteState>),
    /// The parcel with a message did not arrive: its deliveries to parties of
    /// that server that are not final become failed, and `open` is lowered.
    /// Nothing happens for this node as the server. Rare.
    FailRemote { message: u64, peer: PeerId, at: Millis, error: String },
    /// The origin of the message was told so much. Only rises.
    Reported { seq: u64, state: DeliveryState },

    /// Adds a party to a session that is not settled, which is made (without an owner) if missing.
    /// `until` only rises.
    Joined { session: String, party: PartyRef, until: Millis },
    /// Sets the owner of a session, which is made if missing. `Some`: these are
    /// its parties now, and it is settled from then on; `None`: both stay as
    /// they are. `until` only rises.
    Announced { session: String, owner: PeerId, parties: Option<Vec<PartyRef>>, until: Millis },
    /// `until` of sessions that are there rises.
    TouchSessions(Vec<(String, Millis)>),
    /// Takes a number of the writer. A repeat of `(owner, session, event_id)`
    /// leaves nothing but the number used up.
    Event(Box<NewEvent>),
    /// `last_seen_at` of parties that are there rises.
    TouchParties(Vec<(String, Millis)>),

    /// Makes the party's row or replaces it; `registered_at` stays, and
    /// `last_seen_at` only rises. Rare, as all that follow.
    PutParty(PartyRow),
    /// Deliveries that are not final, of messages with `expires_at <= now`,
    /// become failed with the error [`Change::EXPIRED`]; they come back in
    /// `Done::expired`. The message that expired first comes first; about
    /// `limit` deliveries, but whole messages and one at least.
    FailExpired { now: Millis, limit: usize },
    /// Drops the bodies of messages without open deliveries, the oldest first:
    /// at most `limit` (and `ROWS_AN_OP`), about 64 MiB. `Done::freed` says
    /// whose they were. One `Gone`.
    FreeBodies { limit: usize },
    /// Removes messages without open deliveries and `expires_at <
    /// expired_before`, with all that belongs to them, reported or not: at most
    /// `limit` (and `ROWS_AN_OP`) messages and some thousand deliveries.
    /// `Done::freed` has the bodies that were still kept. One `Gone`.
    TrimMessages { expired_before: Millis, limit: usize },
    /// Removes events with `expires_at < expired_before`; bounded in the same
    /// way. One `Gone`.
    TrimEvents { expired_before: Millis, limit: usize },
    /// Removes those of these sessions whose time is over at `until`, and who
    /// is in them, and their slots; at most `ROWS_AN_OP` sessions and some
    /// thousand slots: one that has more keeps the rest and its row for the next
    /// time. `Done::dropped` names those that went. One `Gone`: sessions and slots.
    DropSessions { sessions: Vec<String>, until: Millis },
}

impl Change {
    pub const EXPIRED: &str = retention::EXPIRED;

    pub(in crate::store) fn grows(&self) -> bool {
        matches!(
            self,
            Self::Message(_) | Self::Joined { .. } | Self::Announced { .. } | Self::Event(_) | Self::PutParty(_)
        )
    }

    pub(in crate::store) fn is_grouped(&self) -> bool {
        !matches!(
            self,
            Self::PutParty(_)
                | Self::FailRemote { .. }
                | Self::FailExpired { .. }
                | Self::FreeBodies { .. }
                | Self::TrimMessages { .. }
                | Self::TrimEvents { .. }
                | Self::DropSessions { .. }
        )
    }

    /// How many numbers of the writer it takes.
    pub(in crate::store) fn numbers(&self) -> u64 {
        u64::from(matches!(self, Self::Deliver { .. } | Self::Event(_)))
    }

    /// Bytes of bodies and texts, and of the rows of a list.
    pub(in crate::store) fn weight(&self) -> usize {
        let parties = |parties: &[PartyRef]| parties.iter().map(|party| 64 + party.name.len()).sum::<usize>();
        let names = |names: &[String]| names.iter().map(|name| 64 + name.len()).sum::<usize>();
        let touches = |touches: &[(String, Millis)]| touches.iter().map(|(name, _)| 64 + name.len()).sum::<usize>();
        match self {
            Self::Message(new) => {
                let id = new.remote_id.as_ref().map_or(0, String::len);
                id + new.session.len() + new.sender.len() + new.kind.len() + new.body.len() + new.slot.entry.len()
            }
            Self::Deliver { party } => party.name.len(),
            Self::Idempotent { caller, key, .. } => caller.len() + key.len(),
            Self::Finish { error, .. } | Self::FailRemote { error, .. } => error.len(),
            Self::RemoteState(told) => told.party.name.len() + told.error.len(),
            Self::Joined { session, party, .. } => session.len() + party.name.len(),
            Self::Announced { session, parties: list, .. } => session.len() + list.as_deref().map_or(0, parties),
            Self::TouchSessions(list) | Self::TouchParties(list) => touches(list),
            Self::Event(new) => {
                let named = new.local_parties.as_deref().map_or(0, names);
                new.event_id.len() + new.session.len() + new.kind.len() + named + new.body.len()
            }
            Self::PutParty(row) => row.weight(),
            Self::DropSessions { sessions, .. } => names(sessions),
            Self::Sent { .. }
            | Self::Reported { .. }
            | Self::FailExpired { .. }
            | Self::FreeBodies { .. }
            | Self::TrimMessages { .. }
            | Self::TrimEvents { .. } => 0,
        }
    }
}

impl From<Change> for store::Change {
    fn from(change: Change) -> Self {
        Self::Relay(change)
    }
}

impl From<Change> for store::Op {
    fn from(change: Change) -> Self {
        store::Change::from(change).into()
    }
}
