//! What may be asked of the writer: an [`Op`] is a list of typed row changes,
//! decided before by their owner; a [`Done`] is what came of it.
//!
//! Pure data. The changes of an op take effect in their order, all or none.
//! Numbers and cursors are given by the writer, in the order of the commits; but
//! a message of the relay brings its own.

use super::{
    chat,
    dead::DeadLetter,
    peers::{PeerRow, PeerTouch},
    push, relay,
    tokens::{TokenRow, TokenUse},
    users::{UserRow, UserState},
};
use crate::types::{Mark, Millis, PeerId, ServerId, UserId};
use bytes::Bytes;
use std::ops::Range;

/// Most rows one change of retention, or one [`Change::BuryRows`], touches.
pub const ROWS_AN_OP: usize = 1_000;

/// One transaction's worth of changes. It commits whole or leaves nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Op {
    pub changes: Vec<Change>,
}

/// How far our stream to a peer is settled. No row counts as all 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamOut {
    pub epoch: u64,
    pub settled: u64,
    /// The random id of the row settled last.
    pub settled_id: u64,
    /// The peer's queue must be emptied by a Pull before anything is pushed.
    pub queued: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The id of this node, and the port it listens on. The id stops being a
    /// former one.
    PutNode {
        server_id: ServerId,
        port: u16,
    },
    /// An id this node had, answered to until `until`.
    PutFormerId {
        server_id: ServerId,
        until: Millis,
    },

    /// Makes the peer's row, or replaces all of it but the name (see
    /// [`Change::RenamePeer`]) and the two moments (see [`Change::TouchPeers`]).
    /// `Conflict` when another row has the name.
    PutPeer(Box<PeerRow>),
    /// The former name is kept beside it. `NotFound` without such a row,
    /// `Conflict` when another row has the name.
    RenamePeer {
        peer: PeerId,
        new_id: ServerId,
    },
    TouchPeers(Vec<PeerTouch>),

    /// A row for a peer. The writer gives its number.
    Enqueue {
        peer: PeerId,
        id: u64,
        stored_at: Millis,
        body: Bytes,
    },
    /// The peer has every row up to `number`: the rows go, the mark is kept,
    /// `queued` stays. `Conflict` for a number that was never given.
    Settle {
        peer: PeerId,
        epoch: u64,
        number: u64,
        id: u64,
    },
    /// Sets the stream and deletes nothing.
    PutOut {
        peer: PeerId,
        stream: StreamOut,
    },

    /// How far a stream from a peer was applied. A guard: `Conflict`, and
    /// nothing of the op happens, unless the stream stands at the epoch and
    /// number of `was` (no row: all 0).
    Mark {
        peer: PeerId,
        was: (u64, u64),
        now: Mark,
    },
    /// An applied event for the local log. The writer gives its cursor.
    Inbound {
        peer: PeerId,
        received_at: Millis,
        body: Bytes,
    },
    /// `user` is, or is no longer, a member of a guild on that peer.
    Guild {
        user: u64,
        guild: u64,
        peer: PeerId,
        member: bool,
    },
    /// An invite that stands open (`inviter`), or no longer (`None`).
    Invite {
        user: u64,
        invite: String,
        peer: PeerId,
        inviter: Option<u64>,
    },

    /// A letter that is in no queue becomes a dead one.
    Bury(DeadLetter),
    /// The oldest rows of the peer's queue within `from..=through` become dead
    /// letters: at most `limit` (and [`ROWS_AN_OP`]) rows and about 4 MiB
    /// (less on a small disk).
    BuryRows {
        peer: PeerId,
        from: u64,
        through: u64,
        reason: String,
        died_at: Millis,
        limit: usize,
    },
    /// The same for rows at the head of the queue stored before a moment; it
    /// stops at the first younger one.
    BuryOlder {
        peer: PeerId,
        stored_before: Millis,
        reason: String,
        died_at: Millis,
        limit: usize,
    },
    /// A guard: `NotFound`, and nothing of the op happens, when it is gone.
    DropDead {
        id: i64,
    },

    /// Retention of the local log: the oldest events received before a moment;
    /// it stops at the first younger one.
    TrimInbound {
        received_before: Millis,
    },
    /// Retention of the dead letters: the oldest of the peer that holds most
    /// goes first, until both bounds hold.
    TrimDead {
        max_rows: u64,
        max_bytes: u64,
    },

    /// `Conflict` when the name or the id is taken, also by a deleted user.
    PutUser(UserRow),
    /// `NotFound` when there is none, or it is deleted: that is for good.
    SetUserState {
        user: UserId,
        state: UserState,
    },

    /// `Conflict` when the hash or the id is taken; `Precondition` when it is a
    /// user's who is not active.
    PutToken(TokenRow),
    /// The party that the token is for is this user's. `NotFound` when there is
    /// no such token.
    BindToken {
        id: String,
        user: UserId,
    },
    /// `NotFound` when there is none, or when it is not `user`'s.
    RevokeToken {
        id: String,
        user: Option<UserId>,
    },
    /// All tokens of a user.
    EndSessions {
        user: UserId,
    },
    TouchTokens(Vec<TokenUse>),

    /// Rows of the MPC router.
    Relay(relay::Change),
    /// Rows of chats.
    Chat(chat::Change),
    /// The push log.
    Push(push::Change),
}

/// What came of an op that committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The numbers of all that takes one in the op (`Enqueue`, and of the relay
    /// `Deliver` and `Event`), in the order of its changes, without a hole.
    pub numbers: Range<u64>,
    /// The cursors of the op's `Inbound`s, in their order.
    pub cursors: Range<u64>,
    /// The cursors of the push log that were given in the op. One is kept for an
    /// event that was there already, too.
    pub pushed: Range<u64>,
    /// One of those may have been there already. `false`: all of them are new.
    pub push_repeats: bool,
    /// One for each change that takes rows away (`Settle`, `Bury…` of rows,
    /// `DropDead`, `Trim…`, `RevokeToken`, `EndSessions`, and so in the relay),
    /// in their order. When several `Settle`s of one peer are committed together, the
    /// last has their sum.
    pub gone: Vec<Gone>,
    /// The bodies that `relay::Change::FreeBodies` and `TrimMessages` dropped.
    pub freed: Vec<relay::BodyBytes>,
    /// The deliveries that `relay::Change::FailExpired` failed, by seq.
    pub expired: Vec<relay::Expired>,
    /// The sessions that `relay::Change::DropSessions` dropped.
    pub dropped: Vec<String>,
}

/// Rows that left their table, and the bytes of their bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gone {
    pub rows: u64,
    pub bytes: u64,
}

impl Op {
    pub fn new() -> Self {
        Self::default()
    }

    /// The op with one more change.
    pub fn with(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    pub fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Makes the database larger for good: refused when the disk is nearly full.
    pub fn grows(&self) -> bool {
        self.changes.iter().any(Change::grows)
    }

    /// May share its transaction and its statements with other ops.
    pub(super) fn is_grouped(&self) -> bool {
        self.changes.iter().all(Change::is_grouped)
    }

    /// About how many bytes the op brings, for the bounds of queue and batch.
    pub(super) fn weight(&self) -> usize {
        self.changes.iter().map(Change::weight).sum()
    }
}

impl From<Change> for Op {
    fn from(change: Change) -> Self {
        Self { changes: vec![change] }
    }
}

impl From<Vec<Change>> for Op {
    fn from(changes: Vec<Change>) -> Self {
        Self { changes }
    }
}

impl Change {
    /// A dead letter does not count: without it the queue behind it could not
    /// move. Nor does a peer's row: holding or removing a peer is one too.
    pub fn grows(&self) -> bool {
        match self {
            Self::Enqueue { .. } | Self::Inbound { .. } | Self::PutToken(_) | Self::PutUser(_) => true,
            Self::Guild { member, .. } => *member,
            Self::Invite { inviter, .. } => inviter.is_some(),
            Self::Relay(change) => change.grows(),
            Self::Chat(change) => change.grows(),
            Self::Push(change) => change.grows(),
            _ => false,
        }
    }

    /// How many numbers the writer gives for it.
    pub fn numbers(&self) -> u64 {
        match self {
            Self::Enqueue { .. } => 1,
            Self::Relay(change) => change.numbers(),
            _ => 0,
        }
    }

    pub(super) fn is_grouped(&self) -> bool {
        match self {
            Self::Relay(change) => return change.is_grouped(),
            Self::Chat(change) => return change.is_grouped(),
            Self::Push(change) => return change.is_grouped(),
            _ => {}
        }
        matches!(
            self,
            Self::TouchPeers(_)
                | Self::Enqueue { .. }
                | Self::Settle { .. }
                | Self::PutOut { .. }
                | Self::Mark { .. }
                | Self::Inbound { .. }
                | Self::Guild { .. }
                | Self::Invite { .. }
                | Self::Bury(_)
                | Self::TouchTokens(_)
        )
    }

    /// 64 bytes for a row's other columns and its share of the indexes.
    fn weight(&self) -> usize {
        64 + match self {
            Self::Enqueue { body, .. } | Self::Inbound { body, .. } => body.len(),
            Self::Bury(letter) => letter.body.len() + letter.reason.len(),
            Self::Invite { invite, .. } => invite.len(),
            Self::TouchPeers(touches) => touches.len() * 64,
            Self::TouchTokens(uses) => {
                uses.iter().map(|used| 64 + used.user_agent.as_ref().map_or(0, String::len)).sum()
            }
            Self::Relay(change) => change.weight(),
            Self::Chat(change) => change.weight(),
            Self::Push(change) => change.weight(),
            _ => 0,
        }
    }
}
