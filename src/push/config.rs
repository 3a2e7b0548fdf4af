//! The section `[push]` of the configuration.
//!
//! Refuses values that parse but make no sense. Never reads a file.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The section `[push]`: how far a gateway may fall behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Events that are kept.
    pub window_events: u64,
    /// How long one is kept, and how long after the last gateway was there
    /// events are kept at all.
    #[serde(with = "humantime_serde")]
    pub window_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { window_events: 100_000, window_age: Duration::from_secs(24 * 3600) }
    }
}

impl Config {
    /// The text begins with the key to change.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |key: &str, why: &str| Err(Error::invalid(format!("push.{key}: {why}")));
        if self.window_events == 0 {
            return bad("window_events", "0; every gateway would have fallen out of the window");
        }
        if self.window_age < Duration::from_secs(1) {
            return bad("window_age", "less than 1 s; every gateway would have fallen out of the window");
        }
        Ok(())
    }
}
