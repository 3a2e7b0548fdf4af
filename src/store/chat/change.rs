//! What may be asked of the writer for chats.
//!
//! Pure data, as `store/op.rs`: decided before by the owner of the chat, of
//! which there is one op under way at a time.

use crate::{
    store,
    types::{Millis, PeerId, uuid::Uuid},
};
use bytes::Bytes;

/// What somebody said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `None`: what was sent for its place was refused, and is not kept.
    pub id: Option<Uuid>,
    /// Place of its author in the chat's list of users.
    pub author: u32,
    pub sent_at: Millis,
    pub client_id: String,
    pub head: Bytes,
    pub content: Bytes,
    /// `None`: its author is of this node.
    pub signature: Option<Bytes>,
    /// A revision: home may have forgotten it, and who saw it before that has seen
    /// the log up to there.
    pub since: Option<u64>,
}

impl Message {
    /// The empty place of a message that was not taken.
    pub fn refused() -> Self {
        Self {
            id: None,
            author: 0,
            sent_at: Millis(0),
            client_id: String::new(),
            head: Bytes::new(),
            content: Bytes::new(),
            signature: None,
            since: None,
        }
    }

    /// Bytes it takes, with its rows.
    pub fn size(&self) -> usize {
        let signature = self.signature.as_ref().map_or(0, Bytes::len);
        128 + self.client_id.len() + self.head.len() + self.content.len() + signature
    }
}

/// A message at its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub revision: u64,
    pub seq: u64,
    pub chain: u64,
    pub told: Told,
    pub message: Message,
}

/// Where a message stands in the order in which a node tells its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Its telling.
    pub at: u64,
    /// Who saw it goes on behind this telling: its own or an earlier one.
    pub resume: u64,
}

impl Told {
    /// All that is told before it was seen by whoever saw it.
    pub fn at(at: u64) -> Self {
        Self { at, resume: at }
    }
}

/// A message that waits for its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    pub place: i64,
    pub message: Message,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// [`PeerId::SELF`]: of this node.
    pub peer: PeerId,
    /// Without the server.
    pub name: String,
    /// As it stands in the chat's list of users.
    pub qualified: String,
}

/// A chat as it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Given by its maker, growing, below 2^31.
    pub number: u64,
    pub chat: Uuid,
    pub members_key: [u8; 32],
    /// `None`: this node.
    pub home: Option<PeerId>,
    /// A principal of this node, unless a peer made it.
    pub maker: Option<String>,
    pub maker_peer: PeerId,
    pub created_at: Millis,
    pub members: Vec<Member>,
    /// The peers it is talked about with, and whether each knows it.
    pub links: Vec<(PeerId, bool)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// `Conflict` when the number or the id has one. Rare.
    Topic(Box<NewTopic>),
    /// A guard: `Conflict`, and nothing of the op happens, when a message with one of
    /// these ids is here.
    Unsaid(Vec<Uuid>),
    /// Entries behind all that are there, and posts that wait no more.
    Append { topic: u64, entries: Vec<Entry>, cleared: Vec<i64> },
    /// Posts that wait for their home.
    Wait { topic: u64, stored_at: Millis, posts: Vec<Post> },
    /// The peer knows the chat, or does not.
    Introduced { topic: u64, peer: PeerId, introduced: bool },
    /// Behind this revision stand words of others, put there while the peer may
    /// have had older ones; `None`: it has none.
    Behind { topic: u64, peer: PeerId, behind: Option<u64> },
    /// Letters of the peer made this node keep so many bytes more.
    Used { peer: PeerId, bytes: u64 },
    /// What is behind the revision waits again, from `first_place` on; what was
    /// refused is gone. Who saw any that waits has seen the log to there. Rare.
    CutBack { topic: u64, revision: u64, first_place: i64, stored_at: Millis },
    /// Posts at these places are given up, and the chat's home with them. Rare.
    GiveUp { topic: u64, places: Vec<i64> },
    /// Home has been heard of again. Rare.
    Found { topic: u64 },
}

impl Change {
    pub(in crate::store) fn grows(&self) -> bool {
        matches!(self, Self::Topic(_) | Self::Append { .. } | Self::Wait { .. })
    }

    pub(in crate::store) fn is_grouped(&self) -> bool {
        match self {
            Self::Unsaid(_) | Self::Append { .. } | Self::Wait { .. } | Self::Introduced { .. } => true,
            Self::Behind { .. } | Self::Used { .. } => true,
            Self::Topic(_) | Self::CutBack { .. } | Self::GiveUp { .. } | Self::Found { .. } => false,
        }
    }

    pub(in crate::store) fn weight(&self) -> usize {
        match self {
            Self::Topic(new) => new.members.iter().map(|member| 64 + 2 * member.qualified.len()).sum(),
            Self::Append { entries, cleared, .. } => {
                entries.iter().map(|entry| entry.message.size()).sum::<usize>() + 64 * cleared.len()
            }
            Self::Wait { posts, .. } => posts.iter().map(|post| 64 + post.message.size()).sum(),
            Self::GiveUp { places, .. } => 64 * places.len(),
            Self::Unsaid(ids) => 16 * ids.len(),
            Self::Introduced { .. } | Self::Behind { .. } | Self::Used { .. } => 0,
            Self::CutBack { .. } | Self::Found { .. } => 0,
        }
    }
}

impl From<Change> for store::Change {
    fn from(change: Change) -> Self {
        Self::Chat(change)
    }
}

impl From<Change> for store::Op {
    fn from(change: Change) -> Self {
        store::Change::from(change).into()
    }
}
