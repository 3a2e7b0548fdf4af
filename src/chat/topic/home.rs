//! What only a chat's home knows: which other nodes may hold what it has
//! forgotten.
//!
//! Pure, a part of `topic.rs`. A node cannot tell that it came from a backup; the
//! others can, when they compare.

use super::{Role, Topic};
use crate::types::PeerId;
use std::collections::BTreeSet;

#[derive(Debug, Clone, Default)]
pub struct Home {
    /// Names this run of the node: what others said before it began does not count.
    run: u64,
    /// Of whom it was not heard in this run that they hold nothing that is forgotten.
    doubted: BTreeSet<PeerId>,
    /// They are waited for no more.
    hasty: bool,
}

impl Home {
    pub fn new(run: u64, peers: impl Iterator<Item = PeerId>) -> Self {
        Self { run, doubted: peers.collect(), hasty: false }
    }

    pub fn is_sure(&self) -> bool {
        self.hasty || self.doubted.is_empty()
    }

    pub fn doubts(&self, peer: PeerId) -> bool {
        self.doubted.contains(&peer)
    }

    /// What to ask a peer with; 0: nothing.
    pub fn asks(&self, peer: PeerId) -> u64 {
        if self.doubted.contains(&peer) { self.run } else { 0 }
    }

    /// A peer's log is a part of ours, and nothing waits there. Whether it is
    /// still to be asked: it said so of another run.
    pub fn agrees(&mut self, peer: PeerId, answers: u64) -> bool {
        if answers == self.run {
            self.doubted.remove(&peer);
        }
        self.doubted.contains(&peer)
    }
}

impl Topic {
    /// Whether every other node has told, since this was opened, that it holds
    /// nothing that is forgotten here. Until then new words of this node's users
    /// would overtake their own older ones, if this came from a backup.
    pub fn is_sure(&self) -> bool {
        match &self.role {
            Role::Home(home) => home.is_sure(),
            Role::Replica(_) => true,
        }
    }

    /// The question that goes with what is told to this peer, or the answer to its
    /// own; 0: none.
    pub fn asks(&self, peer: PeerId) -> u64 {
        match &self.role {
            Role::Home(home) => home.asks(peer),
            Role::Replica(_) => self.links.get(&peer).map_or(0, |link| link.asked),
        }
    }

    /// A peer wants to be told where the log stands here.
    pub fn asked(&mut self, peer: PeerId, question: u64) {
        if let Some(link) = self.links.get_mut(&peer)
            && question != 0
        {
            if let Role::Replica(replica) = &mut self.role
                && link.asked != question
            {
                replica.fresh_from = replica.waiting.next;
                // What was under way to it may be lost with its run before.
                (replica.flight, replica.misses) = (None, 0);
            }
            (link.asked, link.head_due) = (question, true);
        }
    }

    /// Whether a peer says so of this run.
    pub fn is_of_this_run(&self, answers: u64) -> bool {
        matches!(&self.role, Role::Home(home) if home.run == answers)
    }

    /// Where what waits here begins that was said after home asked last.
    pub fn fresh_from(&self) -> i64 {
        self.replica().map_or(0, |replica| replica.fresh_from)
    }

    /// The chat was made just now, or waiting for others has taken too long.
    pub fn trust(&mut self) {
        if let Role::Home(home) = &mut self.role {
            home.hasty = true;
        }
    }

    /// All that waited at a peer is in the log. Whether it was said to be behind
    /// others, and is no more.
    pub fn has_all_of(&mut self, peer: PeerId, answers: u64) -> bool {
        let (Role::Home(home), Some(link)) = (&mut self.role, self.links.get_mut(&peer)) else { return false };
        let doubted = home.agrees(peer, answers);
        link.head_due |= doubted;
        !doubted && link.behind.take().is_some()
    }
}
