//! How much of the guild and invite lists one peer has made.
//!
//! Nothing ever expires from the lists, so what a peer may add to them is
//! bounded. The counts are kept in memory and err on the side of the disk: an
//! event that adds what is there already counts too, and what was removed counts
//! until the rows are counted anew. Never touches a row itself.

use std::{
    ops::{Add, Sub},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A peer's share of the lists.
const MAX: Rows = Rows { guilds: 1_000_000, invites: 100_000, invite_bytes: 256 << 20 };
/// Counting anew reads the lists of all peers.
const COUNT_EVERY: Duration = Duration::from_secs(60);

/// Rows of the lists, and the bytes of the invites' ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rows {
    pub guilds: u64,
    pub invites: u64,
    pub invite_bytes: u64,
}

impl Rows {
    /// For what the operator does.
    pub const UNBOUNDED: Self = Self { guilds: u64::MAX, invites: u64::MAX, invite_bytes: u64::MAX };

    /// Room for so many events of so many bytes together, whatever they are.
    pub fn is_ample(&self, events: usize, bytes: usize) -> bool {
        let wide = |count| u64::try_from(count).unwrap_or(u64::MAX);
        self.guilds.min(self.invites) >= wide(events) && self.invite_bytes >= wide(bytes)
    }

    /// Takes a guild's row out of this room; false: there is none.
    pub fn take_guild(&mut self) -> bool {
        let room = self.guilds > 0;
        self.guilds -= u64::from(room);
        room
    }

    /// The same for an invite with an id of so many bytes.
    pub fn take_invite(&mut self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let room = self.invites > 0 && self.invite_bytes >= bytes;
        if room {
            self.invites -= 1;
            self.invite_bytes -= bytes;
        }
        room
    }
}

impl Add for Rows {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            guilds: self.guilds.saturating_add(other.guilds),
            invites: self.invites.saturating_add(other.invites),
            invite_bytes: self.invite_bytes.saturating_add(other.invite_bytes),
        }
    }
}

/// Never below zero.
impl Sub for Rows {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            guilds: self.guilds.saturating_sub(other.guilds),
            invites: self.invites.saturating_sub(other.invites),
            invite_bytes: self.invite_bytes.saturating_sub(other.invite_bytes),
        }
    }
}

/// The counts of one peer.
#[derive(Debug, Default)]
pub struct Lists {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Found in the store.
    counted: Rows,
    /// Added since, as of `before` when the count began.
    added: Rows,
    before: Rows,
}

impl Lists {
    /// What the peer may still add.
    pub fn room(&self) -> Rows {
        let counts = self.lock();
        MAX - (counts.counted + (counts.added - counts.before))
    }

    /// To be called once they are committed, or may be.
    pub fn add(&self, rows: Rows) {
        let mut counts = self.lock();
        counts.added = counts.added + rows;
    }

    /// What was added so far; to be asked before the rows are counted.
    pub fn added(&self) -> Rows {
        self.lock().added
    }

    /// So many rows were found in a count that began when `before` had been added.
    pub fn counted(&self, found: Rows, before: Rows) {
        let mut counts = self.lock();
        counts.counted = found;
        counts.before = before;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the lists of all peers were counted last.
#[derive(Debug, Default)]
pub struct Counting(Mutex<Option<Instant>>);

impl Counting {
    /// Whether they may be counted now; then whoever asked does it.
    pub fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= COUNT_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests;
