//! The rules together: simulated nodes with invented time, a disk that refuses
//! at times, readers that lag behind, and whatever clients do.
//!
//! `SEEDS=n` runs more of them, `SEED=n` one.

mod model;
mod world;

use crate::{
    seeds::chosen,
    worlds::{check_seen, run},
};

const SEEDS: u64 = 1_500;

#[test]
fn nothing_is_lost_overtaken_misread_or_miscounted() {
    run(chosen(SEEDS), world::run);
}

#[test]
fn what_is_simulated_does_happen() {
    check_seen(&run(1_000_000..1_000_200, world::run), world::SIGHTS);
}
