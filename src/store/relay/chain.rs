//! The hash chain over what was accepted in a session.
//!
//! Pure. The writer extends it, in the order of the commits; what a link is made
//! of beside the one before comes from above as bytes.

use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// A SHA-256.
pub type Hash = [u8; 32];

/// The link before the first.
pub const START: Hash = [0; 32];

/// Where the chain of a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Links so far.
    pub position: u64,
    pub link: Hash,
}

impl Default for Head {
    fn default() -> Self {
        Self { position: 0, link: START }
    }
}

impl Head {
    /// With one link more. `entry`: what stands between the session and the
    /// payload's digest.
    pub fn next(self, session: &str, entry: &[u8], digest: &Hash) -> Self {
        Self { position: self.position + 1, link: link(&self.link, session, entry, digest) }
    }
}

/// SHA-256 over the link before, the session (its length in 4 bytes, big-endian,
/// first), the entry and the digest.
pub fn link(before: &Hash, session: &str, entry: &[u8], digest: &Hash) -> Hash {
    let length = u32::try_from(session.len()).unwrap_or(u32::MAX);
    let mut hash = Sha256::new();
    for part in [&before[..], &length.to_be_bytes(), session.as_bytes(), entry, digest] {
        hash.update(part);
    }
    hash.finalize().into()
}

/// The heads of all sessions, as of the last commit.
#[derive(Debug, Default)]
pub(in crate::store) struct Heads(HashMap<String, Head>);

impl Heads {
    pub(in crate::store) fn new(heads: HashMap<String, Head>) -> Self {
        Self(heads)
    }

    /// Of a session without one: the start.
    pub(super) fn of(&self, session: &str) -> Head {
        self.0.get(session).copied().unwrap_or_default()
    }

    /// Learns what a commit moved, and which sessions it dropped.
    pub(super) fn advance(&mut self, moved: &HashMap<String, Head>, dropped: &[String]) {
        for session in dropped {
            self.0.remove(session);
        }
        self.0.extend(moved.iter().map(|(session, head)| (session.clone(), *head)));
    }
}

#[cfg(test)]
mod tests;
