//! pillarbox: a self-hosted node that federates homeservers, relays MPC
//! parties, carries chat and drives push gateways.
//!
//! The floors of the house, from the ground up; a file imports only lower
//! floors, or its own folder (`tests/floors.rs` holds this):
//!
//! 0. [`proto`]: generated code
//! 1. [`types`], [`error`], [`metrics`]
//! 2. [`store`]: rows; [`net`]: sockets, TLS, HTTP
//! 3. [`identity`]: the node's key, tokens, principals; [`client`] of a router
//! 4. [`federation`]: the postbox, out to other servers; [`push`]: the push channel, out to gateways
//! 5. [`relay`]: the MPC router; [`chat`]: chats
//! 7. [`admin`]: the operator's socket, metrics
//! 8. [`node`]: the wiring; [`config`]
//! 9. [`cli`]: the process; [`demo`]; [`bench`](mod@bench); [`gateway`]
#![forbid(unsafe_code)]

pub mod admin;
pub mod bench;
pub mod chat;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod error;
pub mod federation;
pub mod gateway;
pub mod identity;
pub mod metrics;
pub mod net;
pub mod node;
pub mod proto;
pub mod push;
pub mod relay;
pub mod store;
pub mod types;

// What the simulations of pure rules share with `tests/sim`.
#[cfg(test)]
#[path = "../tests/sim/rng.rs"]
mod rng;
#[cfg(test)]
#[path = "../tests/sim/seeds.rs"]
mod seeds;
#[cfg(test)]
#[path = "../tests/sim/worlds.rs"]
mod worlds;
