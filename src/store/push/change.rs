//! What may be asked of the writer for the push log.
//!
//! Pure data, as `store/op.rs`.

use crate::{
    store,
    types::{Millis, UserId},
};
use bytes::Bytes;

/// What users are to be told. Each of them gets a cursor of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Names of users of this node, one at least.
    pub users: Vec<String>,
    /// A device session; empty: all of each user's.
    pub session: String,
    pub kind: String,
    pub payload: Bytes,
    /// An event that is in the log under this id for the same users is not stored again.
    pub event_id: String,
    pub request_id: String,
    pub trace_id: String,
    pub stored_at: Millis,
}

/// Sessions that are about to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One, by the id of its token.
    Session(String),
    /// All of a user's.
    User(UserId),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Kept if the log is open.
    Event(Box<NewEvent>),
    /// That sessions end: one row for each that counts now. Stands before the
    /// change that ends them. Rare.
    Ending { whose: Whose, reason: &'static str, at: Millis },
    /// That sessions expired, the oldest first; each is told of once. Rare.
    Expired { at: Millis },
    /// A gateway is there: what is committed from now on is kept. Rare.
    Open { seen_at: Millis },
    /// No gateway is there any more: nothing is kept, and no cursor that was
    /// given can be gone on from. It takes one, the lowest that can be. Rare.
    Close,
    /// No cursor below this is given any more. Rare.
    StartAt { least: u64 },
    /// Retention: the oldest rows, none behind this cursor. Rare.
    Trim { through: u64 },
}

impl Change {
    /// The end of a session must be told of however full the disk is.
    pub(in crate::store) fn grows(&self) -> bool {
        matches!(self, Self::Event(_))
    }

    pub(in crate::store) fn is_grouped(&self) -> bool {
        matches!(self, Self::Event(_))
    }

    pub(in crate::store) fn weight(&self) -> usize {
        match self {
            Self::Event(event) => {
                let users: usize = event.users.iter().map(|user| user.len() + 1).sum();
                let ids = 2 * event.event_id.len() + event.request_id.len() + event.trace_id.len();
                users + event.session.len() + event.kind.len() + event.payload.len() + ids
            }
            _ => 0,
        }
    }
}

impl From<Change> for store::Change {
    fn from(change: Change) -> Self {
        Self::Push(change)
    }
}

impl From<Change> for store::Op {
    fn from(change: Change) -> Self {
        store::Change::from(change).into()
    }
}

impl From<NewEvent> for store::Change {
    fn from(event: NewEvent) -> Self {
        Self::Push(Change::Event(Box::new(event)))
    }
}
