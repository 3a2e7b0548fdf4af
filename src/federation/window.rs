//! The window of a Courier session: what its sender has in flight, which batch a
//! receiver takes, how many it grants.
//!
//! Pure: no I/O, no clock, no randomness. Knows rows by their place in the stream.
//! What receipts mean for the stream is the delivery machine's to say.

use super::stream::{Mark, Position, Verdict, judge};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Rows of one batch.
pub const BATCH_ROWS: usize = 512;
/// Bodies of one batch, unless a single one is larger.
pub const BATCH_BYTES: usize = 1 << 20;
/// Batches of one stream that may be on their way or wait to be applied. Of small
/// events that is 9 MB, which fills a long link.
pub const WINDOW: u64 = 64;
/// The same before any was applied. One more for each that was, so that it doubles in
/// a round trip: whoever has little to send is promised little.
const FIRST: u64 = 4;
/// A receipt for something new, or a grant for rows that wait, comes within this time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A batch in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Number and id of its last row.
    pub last: Mark,
    at: Instant,
}

/// What the sender of a session knows.
#[derive(Debug)]
pub struct Window {
    in_flight: VecDeque<Sent>,
    /// Batches that receipts have covered.
    covered: u64,
    granted: u64,
    /// When the last receipt covered something new.
    heard: Option<Instant>,
    /// The row that the next batch begins after.
    reached: Mark,
    /// Since when rows wait for a grant.
    waiting: Option<Instant>,
}

impl Window {
    /// `after`: the mark that the first batch goes after. `granted`: by the receipt
    /// that opened the session.
    pub fn new(after: Mark, granted: u64) -> Self {
        Self { in_flight: VecDeque::new(), covered: 0, granted, heard: None, reached: after, waiting: None }
    }

    /// What the next batch goes after.
    pub fn reached(&self) -> Mark {
        self.reached
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn may_send(&self) -> bool {
        self.sent_in_all() < self.granted
    }

    fn sent_in_all(&self) -> u64 {
        self.covered + self.in_flight.len() as u64
    }

    /// Rows wait, and no grant does.
    pub fn wait(&mut self, now: Instant) {
        self.waiting.get_or_insert(now);
    }

    /// A batch that ends with this row was sent.
    pub fn sent(&mut self, now: Instant, last: Mark) {
        self.waiting = None;
        self.reached = last;
        self.in_flight.push_back(Sent { last, at: now });
    }

    /// A receipt that covers so many batches in all. Returns the last batch that it
    /// newly covers; `None`: it only grants. An error: it cannot be.
    pub fn receipt(&mut self, now: Instant, batches: u64, granted: u64) -> Result<Option<Sent>, &'static str> {
        if batches < self.covered || batches > self.sent_in_all() {
            return Err("a receipt for batches that are not in flight");
        }
        // What was granted stays granted.
        self.granted = self.granted.max(granted);
        let mut last = None;
        while self.covered < batches {
            last = self.in_flight.pop_front();
            self.covered += 1;
            self.heard = Some(now);
        }
        if self.may_send() {
            self.waiting = None;
        }
        Ok(last)
    }

    /// When the session has failed unless a receipt comes. On a slow link what is in
    /// flight takes longer than that as a whole.
    pub fn deadline(&self) -> Option<Instant> {
        let oldest = self.in_flight.front().map(|sent| self.heard.map_or(sent.at, |heard| heard.max(sent.at)));
        oldest.or(self.waiting).map(|at| at + PATIENCE)
    }
}

/// Why a batch is not taken. Nothing of it is applied, and nothing that comes
/// after it in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The stream began anew since.
    Epoch,
    /// It goes after another row than the one at the mark.
    Forked,
    /// It does not begin at the mark, or has a hole.
    Gap,
}

impl Refusal {
    pub fn text(self) -> &'static str {
        match self {
            Self::Epoch => "epoch: an earlier one than that of the stream",
            Self::Forked => "another row stands at the mark than the one that was applied",
            Self::Gap => "after: not the mark of the stream",
        }
    }
}

/// Judges a batch whose rows go after `after`, each after the one before it.
/// Returns the mark behind it; all of it may have been applied before. It is taken
/// whole or not at all: what its sender has in flight behind it counts on that.
pub fn take(mark: Mark, after: Mark, rows: &[Position]) -> Result<Mark, Refusal> {
    if after.epoch < mark.epoch {
        return Err(Refusal::Epoch);
    }
    // The row before the first is in no batch that could be looked at any more.
    if (after.epoch, after.number) == (mark.epoch, mark.number) && after.id != mark.id {
        return Err(Refusal::Forked);
    }
    match judge(mark, rows) {
        Verdict::Forked => Err(Refusal::Forked),
        Verdict::Apply { skip, take, mark } if skip + take == rows.len() => Ok(mark),
        Verdict::Apply { .. } => Err(Refusal::Gap),
    }
}

/// How many batches of a stream may be sent in all, when receipts cover so many: as
/// many more as there is room for in the node, but always one, so that an idle
/// stream can go on. `granted`: what was said before stays said.
pub fn grant(granted: u64, covered: u64, room: usize) -> u64 {
    let most = (FIRST + covered).min(WINDOW);
    granted.max(covered + (room as u64).clamp(1, most))
}

#[cfg(test)]
mod tests;
