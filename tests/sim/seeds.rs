//! Which worlds are simulated: `SEED=n` one, `SEEDS=n` so many, else the
//! simulation's own number.

use std::ops::Range;

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number is wanted")))
}

pub fn chosen(most: u64) -> Range<u64> {
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(most),
    }
}
