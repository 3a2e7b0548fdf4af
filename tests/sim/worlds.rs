//! Runs the simulated worlds of pure rules, one a seed, and counts what was seen
//! in them.

use std::{collections::BTreeMap, ops::Range, panic::catch_unwind};

/// What happened, by name, in how many worlds.
pub type Sights = BTreeMap<&'static str, u64>;

/// Panics with the first seed whose world does.
pub fn run(seeds: Range<u64>, world: fn(u64) -> Sights) -> Sights {
    let mut sights = Sights::new();
    for seed in seeds {
        let seen = catch_unwind(|| world(seed)).unwrap_or_else(|_| panic!("SEED={seed} failed, see above"));
        for (sight, count) in seen {
            *sights.entry(sight).or_default() += count;
        }
    }
    sights
}

/// A simulation that does not do what it says would pass too.
pub fn check_seen(seen: &Sights, expected: &[&str]) {
    let rare: Vec<_> = expected.iter().filter(|sight| seen.get(*sight).copied().unwrap_or_default() < 10).collect();
    assert!(rare.is_empty(), "hardly seen: {rare:?} of {seen:#?}");
}
