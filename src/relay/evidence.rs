//! What is hashed and signed about messages, byte for byte, and what it proves.
//!
//! Pure. `docs/evidence.md` says the same in words; the test vectors beside this
//! file hold both. All integers are big-endian; a text stands behind its length
//! in 4 bytes:
//!
//! ```text
//! slot      = text(session) round(4) text(type) text(sender) text(message id) broadcast(1) SHA-256(payload)(32)
//! link      = SHA-256(link before(32) slot); the link before the first is 32 zeros
//! broadcast = Ed25519 over 0x00 "pillarbox" "broadcast" 0x00 slot, by the sender's node
//! head      = Ed25519 over 0x00 "pillarbox" "transcript" 0x00 text(session) position(8) link(32), by the telling node
//! ```

use crate::{
    store::relay::{
        NewSlot,
        chain::{self, Hash},
    },
    types::{PublicKey, signed_bytes},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a node signs of its parties' broadcasts.
pub const BROADCAST: &str = "broadcast";
/// What a node signs of a session's chain.
pub const TRANSCRIPT: &str = "transcript";

/// A message as it stands in a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub session: String,
    pub round: i32,
    pub kind: String,
    /// `name@domain:port`, as the sender's node was called then.
    pub sender: String,
    /// As the sender's node gave it.
    pub message_id: String,
    pub broadcast: bool,
    /// SHA-256 of the payload.
    pub digest: Hash,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

impl Slot {
    /// What stands between the session and the digest.
    pub fn entry(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.kind.len() + self.sender.len() + self.message_id.len());
        out.extend(self.round.to_be_bytes());
        for part in [&self.kind, &self.sender, &self.message_id] {
            text(&mut out, part);
        }
        out.push(u8::from(self.broadcast));
        out
    }

    /// Reads an entry back; `None`: it is none.
    pub fn read(session: &str, entry: &[u8], digest: Hash) -> Option<Self> {
        let (round, mut rest) = entry.split_first_chunk()?;
        let mut next = || {
            let (length, behind) = rest.split_first_chunk()?;
            let (text, behind) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            rest = behind;
            String::from_utf8(text.to_vec()).ok()
        };
        let (kind, sender, message_id) = (next()?, next()?, next()?);
        let broadcast = match rest {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let round = i32::from_be_bytes(*round);
        Some(Self { session: session.into(), round, kind, sender, message_id, broadcast, digest })
    }

    /// All of it, as it is hashed and signed.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        text(&mut out, &self.session);
        out.extend(self.entry());
        out.extend(self.digest);
        out
    }

    /// The link behind it.
    pub fn link(&self, before: &Hash) -> Hash {
        chain::link(before, &self.session, &self.entry(), &self.digest)
    }

    /// Of a broadcast: what its round, type and sender stand for in the session.
    /// Two payloads under one claim are an equivocation. A broadcast of round 0
    /// without a type claims nothing: there may be many.
    pub fn claim(&self) -> Option<[u8; 16]> {
        if !self.broadcast || (self.round == 0 && self.kind.is_empty()) {
            return None;
        }
        Some(claim(self.round, &self.kind, &self.sender))
    }

    /// The same slot with another payload: both claim that there is only one.
    pub fn contradicts(&self, other: &Self) -> bool {
        let same =
            |a: &Self, b: &Self| (&a.session, a.round, &a.kind, &a.sender) == (&b.session, b.round, &b.kind, &b.sender);
        self.claim().is_some() && other.broadcast && same(self, other) && self.digest != other.digest
    }

    /// What goes to the store. `proof`: of a broadcast.
    pub fn stored(&self, proof: Option<Proof>) -> NewSlot {
        let proof = proof.map(|proof| proof.to_bytes());
        NewSlot { entry: self.entry().into(), digest: self.digest, claim: self.claim(), proof }
    }
}

/// By what broadcasts of one sender, round and type are found.
pub fn claim(round: i32, kind: &str, sender: &str) -> [u8; 16] {
    let mut bytes = round.to_be_bytes().to_vec();
    text(&mut bytes, kind);
    text(&mut bytes, sender);
    *Sha256::digest(bytes).first_chunk().expect("a SHA-256 has 32 bytes")
}

pub fn digest(payload: &[u8]) -> Hash {
    Sha256::digest(payload).into()
}

/// A node's word for a broadcast of one of its parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Of the sender's node.
    pub key: [u8; 32],
    /// Over the slot.
    pub signature: [u8; 64],
}

impl Proof {
    pub fn to_bytes(self) -> [u8; 96] {
        let mut out = [0; 96];
        out[..32].copy_from_slice(&self.key);
        out[32..].copy_from_slice(&self.signature);
        out
    }

    pub fn of_bytes(bytes: &[u8; 96]) -> Self {
        let mut proof = Self { key: [0; 32], signature: [0; 64] };
        proof.key.copy_from_slice(&bytes[..32]);
        proof.signature.copy_from_slice(&bytes[32..]);
        proof
    }
}

/// Whether `key` signed this broadcast.
pub fn is_signed(slot: &Slot, key: &PublicKey, signature: &[u8]) -> bool {
    slot.broadcast && key.verify(&signed_bytes(BROADCAST, &slot.bytes()), signature)
}

/// What a node signs of a session's chain: how long it is and its last link.
pub fn head_bytes(session: &str, position: u64, link: &Hash) -> Vec<u8> {
    let mut out = Vec::with_capacity(44 + session.len());
    text(&mut out, session);
    out.extend(position.to_be_bytes());
    out.extend(link);
    out
}

/// Whether `key` signed this head.
pub fn is_head_signed(session: &str, position: u64, link: &Hash, key: &PublicKey, signature: &[u8]) -> bool {
    key.verify(&signed_bytes(TRANSCRIPT, &head_bytes(session, position, link)), signature)
}

/// Which of these records do not verify with `key`, and which slots have two
/// payloads among those that do.
pub fn judge<'a>(records: &'a [(Slot, Vec<u8>)], key: &PublicKey) -> (Vec<usize>, Vec<(&'a Slot, &'a Slot)>) {
    let (valid, bad): (Vec<usize>, Vec<usize>) =
        (0..records.len()).partition(|at| is_signed(&records[*at].0, key, &records[*at].1));
    let mut first: BTreeMap<_, &Slot> = BTreeMap::new();
    let mut twice = BTreeMap::new();
    for slot in valid.into_iter().map(|at| &records[at].0) {
        let place = (&slot.session, slot.round, &slot.kind, &slot.sender);
        let before = *first.entry(place).or_insert(slot);
        if before.contradicts(slot) {
            twice.entry(place).or_insert((before, slot));
        }
    }
    (bad, twice.into_values().collect())
}

#[cfg(test)]
mod tests;
