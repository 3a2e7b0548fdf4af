//! The router of MPC messages: parties of this node and of others send to each
//! other within sessions (floor 5).
//!
//! `router` says who may send to whom and what is kept, `subscriptions` who
//! reads what, `window` when one subscription gets what again; all three are
//! rules without I/O. Rows are the store's, the way to other nodes federation's.

pub mod router;
pub mod subscriptions;
pub mod window;

#[cfg(test)]
mod tests;
