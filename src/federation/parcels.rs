//! Parcels: letters of what stands on the postbox, carried as its events.
//!
//! Owns what a parcel is, who is asked about one that came, and who hears of
//! one that did not arrive. What is in a letter is its taker's business. A
//! letter and its effect are one transaction, like every event.

mod post;
mod returns;

pub(super) use post::Queued;
pub(super) use returns::tell_makers;

use super::inbox::Refused;
use crate::{
    proto::{
        pillarbox::{
            chat::v1 as chat,
            federation::v1::{Parcel, Returned, parcel::Body},
            relay::v1 as relay,
        },
        protocol::sync::v1::{Event, event::Kind},
    },
    store::Change,
    types::{Millis, PeerId, ServerId},
};
use bytes::Bytes;
use prost::Message;
use std::{fmt, ops::Range, sync::Arc};

/// Bytes of one event that is a parcel.
pub const PARCEL_MAX: usize = (4 << 20) + (64 << 10);
/// What `KeyResponse.speaks` says of a server that takes parcels.
pub const SPEAKS: &str = "parcels/1";
/// The same of one that takes letters of chats, too.
pub const SPEAKS_CHAT: &str = "chat/1";
/// Numbers of the bodies of a parcel that are letters.
const RELAY: u32 = 3;
const CHAT: u32 = 4;
/// Characters of a reason that travel, and that are heard.
const REASON_MAX: usize = 1024;

/// A letter, by whose it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Letter {
    Relay(relay::Letter),
    Chat(chat::Letter),
}

impl From<relay::Letter> for Letter {
    fn from(letter: relay::Letter) -> Self {
        Self::Relay(letter)
    }
}

impl From<chat::Letter> for Letter {
    fn from(letter: chat::Letter) -> Self {
        Self::Chat(letter)
    }
}

impl From<Letter> for Body {
    fn from(letter: Letter) -> Self {
        match letter {
            Letter::Relay(letter) => Self::Relay(letter),
            Letter::Chat(letter) => Self::Chat(letter),
        }
    }
}

/// What a server must say of itself to be sent a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Parcels,
    Chat,
}

/// Who takes the letters of each kind.
#[derive(Clone)]
pub struct Takers {
    pub relay: Arc<dyn Letters<relay::Letter>>,
    pub chat: Arc<dyn Letters<chat::Letter>>,
}

impl Takers {
    pub(super) fn restored(&self, peer: PeerId) {
        self.relay.restored(peer);
        self.chat.restored(peer);
    }

    /// A parcel with this body did not arrive.
    fn returned(&self, body: u32, peer: PeerId, id: u64, reason: &str, now: Millis) -> Option<Taken> {
        match body {
            0 | RELAY => Some(self.relay.returned(peer, id, reason, now)),
            CHAT => Some(self.chat.returned(peer, id, reason, now)),
            _ => None,
        }
    }
}

/// The number of a body that is a letter.
pub(super) fn number_of(body: &Body) -> Option<u32> {
    match body {
        Body::Returned(_) => None,
        Body::Relay(_) => Some(RELAY),
        Body::Chat(_) => Some(CHAT),
    }
}

/// Takes the letters of one kind above the postbox. Never blocks: decides from
/// its own memory. Called for one letter of a peer at a time, in their order;
/// for letters of several peers at once.
pub trait Letters<L>: Send + Sync {
    /// What a letter of `peer` changes here, in the transaction that moves its
    /// mark. A refusal goes back to its maker.
    fn take(&self, peer: PeerId, server: &ServerId, letter: L, now: Millis) -> Result<Taken, String>;

    /// A letter that this node sent to `peer` did not arrive: refused there, or
    /// it expired or was dropped here. May be said twice, and of a letter that
    /// the operator sends again later.
    fn returned(&self, peer: PeerId, id: u64, reason: &str, now: Millis) -> Taken;

    /// The peer, or this node, is from a backup: what was told between the two
    /// may be forgotten.
    fn restored(&self, _peer: PeerId) {}
}

/// What became of the transaction that a letter's changes were in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk; these numbers were given to the changes of this letter,
    /// in their order.
    Committed(Range<u64>),
    /// Nothing of it is. The letter will come again.
    Failed,
    /// It may be on disk, or nothing of it, and then the letter will come
    /// again: the rows tell.
    Unknown,
}

/// What a letter changes here.
pub struct Taken {
    pub changes: Vec<Change>,
    /// Called once it is known what became of the changes; not when the node
    /// stops before that.
    pub then: Then,
}

/// Must not block.
pub type Then = Box<dyn FnOnce(Outcome) + Send>;

impl Taken {
    pub fn new(changes: Vec<Change>, then: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self { changes, then: Box::new(then) }
    }

    /// Changes nothing.
    pub fn nothing() -> Self {
        Self::new(Vec::new(), |_| {})
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("changes", &self.changes).finish_non_exhaustive()
    }
}

/// The parcels of one transaction, as they are opened one after the other.
pub(super) struct Opening<'a> {
    takers: &'a Takers,
    peer: PeerId,
    server: ServerId,
    now: Millis,
    thens: Vec<Then>,
}

impl<'a> Opening<'a> {
    pub(super) fn new(takers: &'a Takers, peer: PeerId, server: ServerId, now: Millis) -> Self {
        Self { takers, peer, server, now, thens: Vec::new() }
    }

    pub(super) fn open(&mut self, parcel: Parcel) -> Result<Vec<Change>, Refused> {
        let taken = match parcel.body {
            Some(Body::Relay(letter)) if letter.kind.is_some() => {
                self.takers.relay.take(self.peer, &self.server, letter, self.now)
            }
            Some(Body::Chat(letter)) => self.takers.chat.take(self.peer, &self.server, letter, self.now),
            Some(Body::Returned(back)) => {
                let reason = cut(&back.reason);
                let taken = self.takers.returned(back.body, self.peer, back.id, reason, self.now);
                Ok(taken.unwrap_or_else(Taken::nothing))
            }
            Some(Body::Relay(_)) | None => Err("unknown letter".to_owned()),
        };
        match taken {
            Ok(Taken { changes, then }) => {
                self.thens.push(then);
                Ok(changes)
            }
            // Where the system has no randomness, that of the maker will do.
            Err(reason) => Err(Refused { reason, row_id: getrandom::u64().unwrap_or(parcel.id) }),
        }
    }

    /// `own`: which of the transaction's numbers, from `first` on, are each
    /// letter's.
    pub(super) fn committed(self, first: u64, own: &[Range<u64>]) {
        committed(self.thens, first, own);
    }

    pub(super) fn failed(self, outcome: &Outcome) {
        failed(self.thens, outcome);
    }
}

fn committed(thens: Vec<Then>, first: u64, own: &[Range<u64>]) {
    for (then, own) in thens.into_iter().zip(own) {
        then(Outcome::Committed(first + own.start..first + own.end));
    }
}

fn failed(thens: Vec<Then>, outcome: &Outcome) {
    thens.into_iter().for_each(|then| then(outcome.clone()));
}

/// An event that is a parcel.
pub(super) fn event(id: u64, letter: impl Into<Letter>) -> Bytes {
    encode(Parcel { id, body: Some(letter.into().into()) })
}

/// An event that brings the refusal of a parcel with this body back.
pub(super) fn refusal(id: u64, body: Option<u32>, reason: &str) -> Bytes {
    let body = body.unwrap_or_default();
    encode(Parcel { id, body: Some(Body::Returned(Returned { id, reason: cut(reason).to_owned(), body })) })
}

fn encode(parcel: Parcel) -> Bytes {
    Event { kind: Some(Kind::Parcel(parcel)) }.encode_to_vec().into()
}

/// `None`: another event, or none at all.
pub(super) fn read(event: &Bytes) -> Option<Parcel> {
    match Event::decode(event.clone()).ok()?.kind? {
        Kind::Parcel(parcel) => Some(parcel),
        _ => None,
    }
}

/// An event for the operator's eye: of a parcel only that it is one, and which.
pub fn shown(event: Bytes) -> Bytes {
    read(&event).map_or(event, |parcel| encode(Parcel { id: parcel.id, body: None }))
}

/// The reason without what nobody would read to the end.
fn cut(reason: &str) -> &str {
    reason.char_indices().nth(REASON_MAX).map_or(reason, |(end, _)| &reason[..end])
}

#[cfg(test)]
mod tests;
