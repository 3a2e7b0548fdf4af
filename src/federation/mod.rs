//! Out to other homeservers: the postbox (floor 4).

pub mod delivery;
pub mod stream;
