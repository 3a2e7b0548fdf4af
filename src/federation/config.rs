//! The section `[federation]` of the configuration.
//!
//! Refuses values that parse but make no sense. Never reads a file.

use super::{delivery::Retry, pattern::Pattern};
use crate::error::Error;
use bytesize::ByteSize;

use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// The section `[federation]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Retries of one event after its first attempt; then the queue waits for a Pull.
    pub push_retries: u32,
    /// Pause before the second retry (the first comes at once); doubled each time, with full jitter.
    #[serde(with = "humantime_serde")]
    pub retry_base: Duration,
    /// Longest pause between two retries.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// Pause between two Pulls of one peer.
    #[serde(with = "humantime_serde")]
    pub pull_interval: Duration,
    /// What waits longer than this becomes a dead letter.
    #[serde(with = "humantime_serde")]
    pub queue_max_age: Duration,
    /// Bound of one peer's queue in events; a full queue refuses new ones.
    pub queue_max_events: u64,
    /// Bound of one peer's queue in bytes.
    #[serde(with = "crate::types::size")]
    pub queue_max_bytes: ByteSize,
    /// Peers that may come by `allow`; those that the operator added always may.
    pub max_peers: u32,
    /// Batches of all peers that are being applied or wait for it, each up to 1 MiB or one event.
    pub courier_batches: u32,
    /// How long a connection must live on after an answer before a peer that sends no state counts as having it.
    #[serde(with = "humantime_serde")]
    pub stock_settle: Duration,
    /// PEM file with certificate authorities trusted beside the WebPKI roots; empty: none.
    pub ca_file: PathBuf,
    /// Connect to private, loopback and link-local addresses that a foreign server id leads to.
    pub allow_private_addresses: bool,
    /// Servers that may federate without having been added by the operator.
    pub allow: Vec<Pattern>,
    /// Servers that may not; wins over `allow`.
    pub deny: Vec<Pattern>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            push_retries: 5,
            retry_base: Duration::from_millis(500),
            retry_max: Duration::from_secs(4),
            pull_interval: Duration::from_secs(60),
            queue_max_age: Duration::from_secs(7 * 24 * 3600),
            queue_max_events: 1_000_000,
            queue_max_bytes: ByteSize::gib(1),
            max_peers: 10_000,
            courier_batches: 64,
            stock_settle: Duration::from_secs(5),
            ca_file: PathBuf::new(),
            allow_private_addresses: false,
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }
}

impl Config {
    /// The schedule of the delivery machines.
    pub(super) fn retry(&self) -> Retry {
        Retry {
            retries: self.push_retries,
            base: self.retry_base,
            max: self.retry_max,
            pull_interval: self.pull_interval,
        }
    }

    /// Refuses values that parse but make no sense. The text begins with the
    /// key, as it is written in the environment and the file.
    pub fn check(&self) -> Result<(), Error> {
        const MILLI: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_secs(60);
        const HOUR: Duration = Duration::from_secs(3600);
        const TEN_YEARS: Duration = Duration::from_secs(3650 * 24 * 3600);

        within("push_retries", u64::from(self.push_retries), 0, 100)?;
        lasts("retry_base", self.retry_base, MILLI, HOUR)?;
        lasts("retry_max", self.retry_max, self.retry_base, HOUR)?;
        lasts("pull_interval", self.pull_interval, SECOND, HOUR)?;
        lasts("queue_max_age", self.queue_max_age, MINUTE, TEN_YEARS)?;
        within("queue_max_events", self.queue_max_events, 1, 1 << 40)?;
        // The largest event must fit, else its queue could never take it.
        let (bytes, least, most) = (self.queue_max_bytes, ByteSize::kib(64), ByteSize::tib(64));
        if bytes < least || bytes > most {
            let bytes = crate::types::size::text(bytes);
            return Err(Error::invalid(format!("federation.queue_max_bytes: {bytes} is not from 64KiB to 64TiB")));
        }
        within("max_peers", u64::from(self.max_peers), 1, 1_000_000)?;
        within("courier_batches", u64::from(self.courier_batches), 1, 65_536)?;
        lasts("stock_settle", self.stock_settle, MILLI, MINUTE)
    }
}

fn within(key: &str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("federation.{key}: {value} is not from {least} to {most}")))
}

fn lasts(key: &str, value: Duration, least: Duration, most: Duration) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let [value, least, most] = [value, least, most].map(humantime::format_duration);
    Err(Error::invalid(format!("federation.{key}: {value} is not from {least} to {most}")))
}

#[cfg(test)]
mod tests;
