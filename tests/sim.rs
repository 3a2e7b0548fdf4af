//! The simulation: worlds of a few nodes with invented time, real delivery
//! machines and the real receiver's rule, and whatever can go wrong between them.
//!
//! `SEEDS=n` runs more of them, `SEED=n` one with a readable trace.

#[path = "sim/courier.rs"]
mod courier;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/driver.rs"]
mod driver;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/node.rs"]
mod node;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/seeds.rs"]
mod seeds;
#[path = "sim/stock.rs"]
mod stock;
#[path = "sim/world.rs"]
mod world;

use oracle::{Sight, Sights};
use seeds::{chosen, number};
use std::{
    ops::Range,
    panic::catch_unwind,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

const SEEDS: u64 = 10_000;

/// Seeds that once failed, and why.
const REGRESSIONS: &[(u64, &str)] = &[];

fn run(seed: u64) -> Result<Sights, String> {
    catch_unwind(|| world::run(seed, false))
        .unwrap_or_else(|_| Err("a panic, see above".into()))
        .map_err(|rule| format!("SEED={seed}: {rule}"))
}

/// Runs the seeds on all cores; what was seen, and the first failures.
fn run_all(seeds: Range<u64>) -> (Sights, Vec<String>) {
    const FAILURES_SHOWN: usize = 10;
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let (mut seen, mut failures) = (Sights::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failures.len() >= FAILURES_SHOWN {
                return (seen, failures);
            }
            match run(seed) {
                Ok(sights) => seen.merge(sights),
                Err(failure) => {
                    eprintln!("{failure}");
                    failures.push(failure);
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        let mut all = (Sights::default(), Vec::new());
        for worker in workers {
            let (seen, failures) = worker.join().expect("a world's panic is caught");
            all.0.merge(seen);
            all.1.extend(failures);
        }
        all
    })
}

#[test]
fn nothing_acknowledged_is_lost_repeated_or_reordered() {
    if let Some(seed) = number("SEED") {
        world::run(seed, true).unwrap_or_else(|rule| panic!("SEED={seed}: {rule}"));
        return;
    }
    let (_, failures) = run_all(chosen(SEEDS));
    assert!(failures.is_empty(), "{} worlds failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn seeds_that_once_failed_pass() {
    for &(seed, why) in REGRESSIONS {
        run(seed).unwrap_or_else(|rule| panic!("{rule} ({why})"));
    }
}

/// A simulation that does not do what it says would pass too.
#[test]
fn the_faults_do_happen() {
    let (seen, _) = run_all(1_000_000..1_000_500);
    let missing: Vec<Sight> = Sight::ALL.into_iter().filter(|&sight| !seen.has(sight)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}");
}
