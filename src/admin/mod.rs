//! The operator's side: a socket only the operator can open, and metrics
//! (floor 7).

pub mod client;
pub mod metrics;
mod service;
pub mod socket;

pub use service::Service;
