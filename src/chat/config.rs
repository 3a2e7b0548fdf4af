//! The section `[chat]` of the configuration.
//!
//! Refuses values that parse but make no sense. Never reads a file.

use crate::error::Error;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The section `[chat]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Chats kept on this node; other servers may open only three quarters of them.
    pub max_chats: u64,
    /// Chats that one user of this node may open.
    pub user_max_chats: u64,
    /// Chats that one other server may open here.
    pub peer_max_chats: u64,
    /// Bytes that one other server may make this node keep: of messages it sends to chats whose home is here, and of
    /// the history of chats whose home it is.
    #[serde(with = "crate::types::size")]
    pub peer_max_bytes: ByteSize,
    /// Messages of one chat that wait here while its home is away.
    pub max_waiting: usize,
    /// A stream that was up to date and is behind for so long is ended; it may resume.
    #[serde(with = "humantime_serde")]
    pub slow_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_chats: 100_000,
            user_max_chats: 1_000,
            peer_max_chats: 10_000,
            peer_max_bytes: ByteSize::gib(1),
            max_waiting: 10_000,
            slow_after: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// The text begins with the key to change.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |key: &str, why: &str| Err(Error::invalid(format!("chat.{key}: {why}")));
        if self.max_chats >= 1 << 31 {
            return bad("max_chats", "a node keeps fewer than 2147483648 chats");
        }
        if self.max_waiting == 0 {
            return bad("max_waiting", "0; nothing could be said in a chat of another server");
        }
        if self.slow_after < Duration::from_millis(10) {
            return bad("slow_after", "less than 10 ms; every reader would be too slow");
        }
        Ok(())
    }
}
