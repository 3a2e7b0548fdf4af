//! The rules of one chat: first one by one, then nodes of memory in a world
//! where everything is lost, cut, restored and forged.
//!
//! `SEEDS=n` runs more worlds, `SEED=n` one.

#[allow(clippy::duplicate_mod)] // one source of chance for all simulations
#[path = "../../../tests/sim/rng.rs"]
mod rng;
mod rules;
mod world;

use std::{collections::BTreeMap, ops::Range, panic::catch_unwind};

const SEEDS: u64 = 1_500;

/// Seeds that once failed, and why.
const REGRESSIONS: &[(u64, &str)] = &[];

/// What happened, by name, in how many worlds.
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
fn every_node_ends_with_the_same_history_and_nothing_that_is_held_is_lost() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    run_all(seeds);
}

#[test]
fn seeds_that_failed_once_pass() {
    for (seed, why) in REGRESSIONS {
        assert!(catch_unwind(|| world::run(*seed)).is_ok(), "SEED={seed} fails again: {why}");
    }
}

/// A simulation that does not do what it says would pass too.
#[test]
fn what_is_simulated_does_happen() {
    let seen = run_all(1_000_000..1_000_300);
    let rare: Vec<_> =
        world::SIGHTS.iter().filter(|sight| seen.get(*sight).copied().unwrap_or_default() < 10).collect();
    assert!(rare.is_empty(), "hardly seen: {rare:?} of {seen:#?}");
}
