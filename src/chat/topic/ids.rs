//! What follows from the names of a chat's users alone: its id, its home, the
//! ids of its messages, and what an author's node signs.
//!
//! Pure. Every name is length-prefixed before it is hashed, so that no two
//! lists read the same.

use crate::types::uuid::Uuid;
use sha2::{Digest, Sha256};

/// What a node signs of its users' messages.
pub const PURPOSE: &str = "chat-post";

/// What a set of users makes: the same on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    pub chat: Uuid,
    /// Sorted, each once: `name@server`.
    pub users: Vec<String>,
    /// The server that gives the order: one of those of `users`.
    pub home: String,
}

/// `users`: `name@server` each, in any order, also more than once; at least one.
pub fn found(mut users: Vec<String>) -> Founding {
    users.sort_unstable();
    users.dedup();
    let mut hash = hasher(b"chat-id");
    for user in &users {
        add(&mut hash, user.as_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut servers: Vec<&str> = users.iter().map(|user| server_of(user)).collect();
    servers.sort_unstable();
    servers.dedup();
    let mut draw = [0; 8];
    draw.copy_from_slice(&hash[16..24]);
    let at = u64::from_be_bytes(draw) % (servers.len().max(1) as u64);
    let home = servers.get(usize::try_from(at).unwrap_or(0)).copied().unwrap_or_default().to_owned();
    Founding { chat: Uuid::of_hash(hash), users, home }
}

/// The server of `name@server`.
pub fn server_of(user: &str) -> &str {
    user.rsplit_once('@').map_or("", |(_, server)| server)
}

/// A message's id: who says the same again under one client id says it once.
pub fn message_id(chat: Uuid, user: &str, client_id: &str) -> Uuid {
    let mut hash = hasher(b"chat-message-id");
    for part in [chat.as_bytes().as_slice(), user.as_bytes(), client_id.as_bytes()] {
        add(&mut hash, part);
    }
    Uuid::of_hash(hash.finalize().into())
}

/// What a message says, as far as its author's node answers for it.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pub chat: Uuid,
    pub id: Uuid,
    /// As it stands in the chat's list of users.
    pub user: &'a str,
    pub client_id: &'a str,
    /// Unix time in milliseconds.
    pub sent_at: i64,
    pub head: &'a [u8],
    pub content: &'a [u8],
}

impl Said<'_> {
    /// The bytes that are signed, under [`PURPOSE`].
    pub fn to_sign(self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let digest: [u8; 32] = Sha256::digest(self.content).into();
        let sent_at = self.sent_at.to_be_bytes();
        let parts: [&[u8]; 7] = [
            self.chat.as_bytes(),
            self.id.as_bytes(),
            self.user.as_bytes(),
            self.client_id.as_bytes(),
            &sent_at,
            self.head,
            &digest,
        ];
        parts.iter().for_each(|part| add(&mut hash, part));
        hash.finalize().into()
    }
}

/// The chain of a log behind one more change: equal chains are equal logs.
pub fn chained(chain: u64, id: Option<Uuid>) -> u64 {
    let mut hash = Sha256::new();
    hash.update(chain.to_be_bytes());
    hash.update(id.as_ref().map_or(&[0; 16], Uuid::as_bytes));
    let hash: [u8; 32] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

/// The users of this node's chats as one short key: peer row and name, in the
/// order of the chat's list. A renamed server leaves it as it is.
pub fn members_key<'a>(members: impl Iterator<Item = (i64, &'a str)>) -> [u8; 32] {
    let mut members: Vec<_> = members.collect();
    members.sort_unstable();
    members.dedup();
    let mut hash = hasher(b"chat-members");
    for (peer, name) in members {
        add(&mut hash, &peer.to_be_bytes());
        add(&mut hash, name.as_bytes());
    }
    hash.finalize().into()
}

fn hasher(purpose: &[u8]) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(b"\0pillarbox");
    hash.update(purpose);
    hash.update([0]);
    hash
}

fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}
