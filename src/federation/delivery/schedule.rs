//! How long the delivery machine waits: retries, Pulls and their back-off.
//!
//! Pure arithmetic. All jitter is drawn from the state the machine carries, so
//! that a run with the same seed is the same run.

use std::time::Duration;

/// The schedule. All jitter is drawn from the machine's seed.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Retries after the first try before the peer is Queued.
    pub retries: u32,
    /// The first retry is at once, the second within this time, then doubling.
    pub base: Duration,
    pub max: Duration,
    /// Between two Pulls of a healthy peer, ± 10 %.
    pub pull_interval: Duration,
}

/// A receiver cannot put off retries further than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Pulls of a failing peer: from here, doubling, up to the Pull interval …
const PULL_BACKOFF_BASE: Duration = Duration::from_secs(1);
/// … and to this once it has failed for an hour.
const PULL_BACKOFF_LONG: Duration = Duration::from_secs(15 * 60);
const LONG_FAILING: Duration = Duration::from_secs(60 * 60);

impl Retry {
    /// The wait before the next attempt after `failed` (>= 1) in a row;
    /// `asked`: what the receiver wants at least.
    pub(super) fn attempt_wait(&self, failed: u32, asked: Option<Duration>, random: &mut u64) -> Duration {
        let ceiling = match failed {
            1 => Duration::ZERO,
            n => self.base.saturating_mul(1 << (n - 2).min(20)).min(self.max),
        };
        jitter_below(random, ceiling).max(asked.unwrap_or_default().min(RETRY_AFTER_MAX))
    }

    /// The wait before the next Pull after one that found nothing.
    pub(super) fn pull_wait(&self, random: &mut u64) -> Duration {
        jitter_around(random, self.pull_interval)
    }

    /// The wait before the next Pull after `failures` (>= 1) in a row, the
    /// first of them `failing_for` ago.
    pub(super) fn pull_back_off(&self, failures: u32, failing_for: Duration, random: &mut u64) -> Duration {
        let ceiling = match failing_for >= LONG_FAILING {
            true => PULL_BACKOFF_LONG.max(self.pull_interval),
            false => PULL_BACKOFF_BASE.saturating_mul(1 << (failures - 1).min(16)).min(self.pull_interval),
        };
        ceiling / 2 + jitter_below(random, ceiling / 2)
    }
}

/// Uniform in 0..=ceiling ("full jitter").
fn jitter_below(random: &mut u64, ceiling: Duration) -> Duration {
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX - 1);
    Duration::from_nanos(next_random(random) % (nanos + 1))
}

/// Uniform in 90 % to 110 % of the interval.
fn jitter_around(random: &mut u64, interval: Duration) -> Duration {
    interval.mul_f64(0.9) + jitter_below(random, interval / 5)
}

/// SplitMix64 (Steele, Lea, Flood 2014): spreads retries, keeps no secret.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
