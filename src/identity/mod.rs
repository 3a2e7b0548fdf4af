//! Who is who: the node's key, the tokens of servers, the tokens of local
//! callers, and its users (floor 3).

pub mod node_key;
pub mod postbox_token;
pub mod principal;
pub mod tokens;
pub mod users;
