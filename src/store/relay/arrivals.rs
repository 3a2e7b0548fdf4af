//! When each recipient was given its last delivery, so that the next one comes
//! after it; and where the chain of each session stands.
//!
//! Pure. Bounded: who is forgotten leaves the greatest of its moments as the
//! floor for everyone who is not remembered.

use super::chain::{Head, Heads};
use std::collections::HashMap;

/// Recipients that are remembered; beyond this the old ones are forgotten.
const REMEMBERED: usize = 1 << 16;
const MINUTE: i64 = 60_000;

/// As of the last commit.
#[derive(Debug)]
pub(in crate::store) struct Arrivals {
    floor: i64,
    last: HashMap<String, i64>,
    /// The newest moment a message was accepted at.
    newest: i64,
    heads: Heads,
}

impl Arrivals {
    /// `floor`: the greatest moment ever given.
    pub(in crate::store) fn new(floor: i64, heads: Heads) -> Self {
        Self { floor, last: HashMap::new(), newest: floor, heads }
    }

    /// Where the chain of a session stands.
    pub(super) fn head(&self, session: &str) -> Head {
        self.heads.of(session)
    }

    /// Nothing above it was given to this recipient.
    pub(super) fn last(&self, party: &str) -> i64 {
        self.last.get(party).copied().unwrap_or(self.floor)
    }

    /// Learns what a commit gave.
    pub(in crate::store) fn advance(&mut self, given: &Given) {
        self.heads.advance(&given.heads, &given.dropped);
        self.newest = self.newest.max(given.accepted_at);
        self.last.extend(given.created.iter().map(|(party, at)| (party.clone(), *at)));
        if self.last.len() <= REMEMBERED {
            return;
        }
        self.forget(self.newest.saturating_sub(MINUTE));
        // Half of it is free then, so that this is not looked at every commit.
        if self.last.len() > REMEMBERED / 2 {
            self.forget(i64::MAX);
        }
    }

    fn forget(&mut self, before: i64) {
        let floor = &mut self.floor;
        self.last.retain(|_, at| {
            let kept = *at >= before;
            if !kept {
                *floor = (*floor).max(*at);
            }
            kept
        });
    }
}

/// What a batch gives, or gave.
#[derive(Debug, Default)]
pub(in crate::store) struct Given {
    pub(super) created: HashMap<String, i64>,
    pub(super) accepted_at: i64,
    /// Of the sessions that were written in.
    pub(super) heads: HashMap<String, Head>,
    /// Sessions whose chains are gone.
    pub(in crate::store) dropped: Vec<String>,
}

#[cfg(test)]
mod tests;
