//! How long to wait before the next attempt at a node that is away.
//!
//! Pure: randomness comes in. Full jitter: parties that lost one node at the
//! same moment do not come back at the same moment.

use std::time::Duration;

/// The first wait is at most this; the next at most twice that, and so on.
const BASE: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failed: u32,
}

impl Backoff {
    /// The next wait: from nothing to the bound of this attempt, as `random`
    /// says.
    pub fn next(&mut self, random: u64) -> Duration {
        let bound = BASE.saturating_mul(2u32.saturating_pow(self.failed)).min(MAX);
        self.failed = self.failed.saturating_add(1);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random % (nanos + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_spread_below_it() {
        let longest = |mut backoff: Backoff, skip: u32| {
            (0..skip).for_each(|_| _ = backoff.next(0));
            let nanos = |wait: Duration| u64::try_from(wait.as_nanos()).unwrap();
            (0..=10u32).map(|bits| backoff.clone().next(nanos(BASE) * 2u64.pow(bits))).max().unwrap()
        };
        assert_eq!(longest(Backoff::default(), 0), BASE);
        assert_eq!(longest(Backoff::default(), 3), BASE * 8);
        assert!(longest(Backoff::default(), 80) <= MAX);
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..100u64).map(|n| backoff.next(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        assert!(waits.iter().all(|wait| *wait <= MAX));
        assert!(waits.iter().any(|wait| *wait > MAX / 2) && waits.iter().skip(10).any(|wait| *wait < MAX / 2));
    }
}
