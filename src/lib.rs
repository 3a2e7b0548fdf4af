//! pillarbox: a self-hosted node that federates homeservers, relays MPC
//! parties, carries chat and drives push gateways.
//!
//! The floors of the house, from the ground up; a file imports only lower
//! floors, or its own folder (`tests/floors.rs` holds this):
//!
//! 0. [`proto`]
//! 1. [`types`], [`error`]
//! 2. [`net`]
#![forbid(unsafe_code)]

pub mod error;
pub mod federation;
pub mod net;
pub mod proto;
pub mod types;
