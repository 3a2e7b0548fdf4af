//! The rules together: simulated nodes with invented time, a disk that refuses
//! at times, readers that lag behind, and whatever clients do.
//!
//! `SEEDS=n` runs more of them, `SEED=n` one.

mod model;
#[path = "../../tests/sim/rng.rs"]
mod rng;
mod world;

use std::{collections::BTreeMap, ops::Range, panic::catch_unwind};

const SEEDS: u64 = 1_500;

/// What happened, by name, in how many cases.
type Sights = BTreeMap<&'static str, u64>;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number is wanted")))
}

fn run_all(seeds: Range<u64>) -> Sights {
    let mut sights = Sights::new();
    for seed in seeds {
        let seen = catch_unwind(|| world::run(seed)).unwrap_or_else(|_| panic!("SEED={seed} failed, see above"));
        for (sight, count) in seen {
            *sights.entry(sight).or_default() += count;
        }
    }
    sights
}

#[test]
fn nothing_is_lost_overtaken_misread_or_miscounted() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    run_all(seeds);
}

/// A simulation that does not do what it says would pass too.
#[test]
fn what_is_simulated_does_happen() {
    let seen = run_all(1_000_000..1_000_200);
    let rare: Vec<_> =
        world::SIGHTS.iter().filter(|sight| seen.get(*sight).copied().unwrap_or_default() < 10).collect();
    assert!(rare.is_empty(), "hardly seen: {rare:?} of {seen:#?}");
}
