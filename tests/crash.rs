//! The binary under what befalls it: `kill -9`, full disks, disks that cannot
//! be written, signals, and what it finds when it starts.
//!
//! Real processes over real TLS. What was acknowledged is held against what the
//! stores say in the end. `CRASH_SEED=n` repeats a run's choices, `CRASH_KILLS=n`
//! makes it longer.
#![allow(clippy::unwrap_used)] // a test that cannot go on says where

#[path = "common/process.rs"]
mod process;

mod crash {
    mod chat;
    mod client;
    mod disk;
    mod gateway;
    mod kill;
    mod ledger;
    mod load;
    mod parties;
    mod start;
    mod way;
    mod writer;
}
