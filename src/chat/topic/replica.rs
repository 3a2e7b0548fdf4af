//! What only a replica knows of a chat: its home, the posts that wait for it,
//! and when home is asked again.
//!
//! Pure, a part of `topic.rs`.

use super::ids::chained;
use crate::types::{Millis, PeerId};
use std::time::Duration;

/// Between two questions about the same chat, at first.
const ASK_PAUSE: Duration = Duration::from_secs(2);
/// Posts that were not numbered are sent again after this, at first.
pub const POST_PAUSE: Duration = Duration::from_secs(10);
pub const PAUSE_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub struct Replica {
    pub home: PeerId,
    /// The places of posts that wait, in their order.
    pub waiting: Waiting,
    pub flight: Option<Flight>,
    /// Flights without an effect, one after the other.
    pub misses: u32,
    /// Home was said to be so far.
    pub home_at: u64,
    pub ask_at: Option<Millis>,
    pub asked: Option<(Millis, u32)>,
    /// Home was silent for too long.
    pub lost: bool,
    /// What waits from this place on was said after home asked last.
    pub fresh_from: i64,
}

#[derive(Debug, Clone, Default)]
pub struct Waiting {
    pub count: usize,
    pub first: i64,
    pub next: i64,
}

/// Posts under way.
#[derive(Debug, Clone)]
pub struct Flight {
    pub through: i64,
    pub left: usize,
    pub again_at: Millis,
}

impl Replica {
    pub fn new(home: PeerId, waiting: Waiting, lost: bool) -> Self {
        Self { home, waiting, flight: None, misses: 0, home_at: 0, ask_at: None, asked: None, lost, fresh_from: 0 }
    }

    /// The oldest `count` posts, through this place, are on their way.
    pub fn fly(&mut self, count: usize, through: i64, now: Millis, seed: u64) {
        let again_at = now.plus(pause(POST_PAUSE, self.misses, seed));
        self.misses += 1;
        self.flight = (count > 0).then_some(Flight { through, left: count, again_at });
    }

    pub fn ask(&mut self, now: Millis, seed: u64) {
        let earliest = match self.asked {
            Some((at, times)) => now.max(at.plus(pause(ASK_PAUSE, times, seed))),
            None => now,
        };
        self.ask_at = Some(self.ask_at.map_or(earliest, |at| at.min(earliest)));
    }

    /// Asks again by itself as long as home is known to be further.
    pub fn has_asked(&mut self, now: Millis, revision: u64, seed: u64) {
        let times = self.asked.map_or(0, |(_, times)| times + 1);
        self.asked = Some((now, times));
        self.ask_at = (self.home_at > revision).then(|| now.plus(pause(ASK_PAUSE, times + 1, seed)));
    }

    pub fn clear(&mut self, places: &[i64]) {
        if places.is_empty() {
            return;
        }
        self.misses = 0;
        self.waiting.count = self.waiting.count.saturating_sub(places.len());
        if let Some(flight) = &mut self.flight {
            let landed = places.iter().filter(|place| **place <= flight.through).count();
            flight.left = flight.left.saturating_sub(landed);
        }
        if self.flight.as_ref().is_some_and(|flight| flight.left == 0) {
            self.flight = None;
        }
    }
}

/// Twice as long each time, a quarter less or more.
fn pause(first: Duration, times: u32, seed: u64) -> Duration {
    let full = first.saturating_mul(1 << times.min(16)).min(PAUSE_MAX);
    let spread = chained(seed, None) % 512;
    full.mul_f64(0.75 + spread as f64 / 1024.0)
}
