//! The rules of one chat: first one by one, then nodes of memory in a world
//! where everything is lost, cut, restored and forged.
//!
//! `SEEDS=n` runs more worlds, `SEED=n` one.

mod checks;
mod disk;
mod readers;
mod rules;
mod world;

use crate::{
    seeds::chosen,
    worlds::{check_seen, run},
};

const SEEDS: u64 = 1_500;

#[test]
fn every_node_ends_with_the_same_history_and_nothing_that_is_held_is_lost() {
    run(chosen(SEEDS), world::run);
}

#[test]
fn what_is_simulated_does_happen() {
    check_seen(&run(1_000_000..1_000_300, world::run), world::SIGHTS);
}
