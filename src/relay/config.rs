//! The section `[relay]` of the configuration.
//!
//! Refuses values that parse but make no sense. Never reads a file.

use super::notify;
use crate::error::Error;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The section `[relay]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A message that was not acknowledged is sent again after this; then after twice that, and so on up to 5 minutes.
    #[serde(with = "humantime_serde")]
    pub redeliver_after: Duration,
    /// So many times a message is sent to a live subscriber; then its delivery has failed.
    pub redeliver_tries: u32,
    /// A party is online while it subscribes, or was heard of so lately.
    #[serde(with = "humantime_serde")]
    pub online_after: Duration,
    /// How long messages wait for their recipients, and sessions are remembered without a sign of life.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Messages one subscription has open: further ones come as these are acknowledged.
    pub max_unacknowledged: usize,
    /// Payload bytes kept of one sender's messages; the parties of another server count as one sender.
    #[serde(with = "crate::types::size")]
    pub sender_max_bytes: ByteSize,
    /// Payload bytes kept in one session.
    #[serde(with = "crate::types::size")]
    pub session_max_bytes: ByteSize,
    /// Sessions remembered.
    pub max_sessions: usize,
    /// Parties that may register.
    pub max_parties: usize,
    /// How parties are told that something waits while they are away.
    pub notify: notify::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redeliver_after: Duration::from_secs(10),
            redeliver_tries: 10,
            online_after: Duration::from_secs(30),
            retention: Duration::from_secs(24 * 3600),
            max_unacknowledged: 1_024,
            sender_max_bytes: ByteSize::gib(1),
            session_max_bytes: ByteSize::gib(1),
            max_sessions: 100_000,
            max_parties: 100_000,
            notify: notify::Config::default(),
        }
    }
}

impl Config {
    /// The text begins with the key to change.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |key: &str, why: &str| Err(Error::invalid(format!("relay.{key}: {why}")));
        if self.redeliver_after.is_zero() {
            return bad("redeliver_after", "0; a message would be sent again without a pause");
        }
        if self.redeliver_tries == 0 {
            return bad("redeliver_tries", "0; nothing would be delivered");
        }
        if self.retention < Duration::from_secs(1) {
            return bad("retention", "less than a second; messages would be gone before they are read");
        }
        if self.max_unacknowledged == 0 {
            return bad("max_unacknowledged", "0; nothing would be delivered");
        }
        self.notify.check()
    }
}
