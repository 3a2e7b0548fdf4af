//! What one client address may use: connections, streams, bytes, calls, room.
//!
//! The first line of defence, before any signature is looked at: an address
//! is all that is known then. [`Table`] is pure and takes `now`; [`Limits`] is
//! the same behind a lock, with permits that give back what they took. Never
//! knows a peer; loopback counts as any other address.

mod held;

pub(super) use held::Held;

use crate::error::Error;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// `[limits]`. 0 means no limit. An address is one IPv4 address or one IPv6
/// /64 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Open connections of all addresses together. The process needs that many
    /// file descriptors, and some more.
    pub connections: u32,
    /// Open connections of one address.
    pub connections_per_address: u32,
    /// Requests in flight (a stream counts while it is open) of one address.
    pub streams_per_address: u32,
    /// Bytes of request bodies a second that are read from one address; more
    /// are not refused but read later. A second's worth may come at once.
    #[serde(with = "crate::types::size")]
    pub bytes_per_second: ByteSize,
    /// Calls a second of one address; more are refused with RESOURCE_EXHAUSTED
    /// (HTTP 429). A second's worth may come at once.
    pub calls_per_second: u32,
    /// Bytes of requests that are not answered yet, of all addresses together;
    /// of a stream that was answered, those of a message that is not whole. One
    /// address has room for as much as stays free, so that there is always some
    /// for the next one; more is refused with RESOURCE_EXHAUSTED.
    #[serde(with = "crate::types::size")]
    pub unanswered_bytes: ByteSize,
}

impl Default for Config {
    /// Two thousand clients behind one address fit in with room to spare.
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_address: 8_192,
            streams_per_address: 32_768,
            bytes_per_second: ByteSize::mib(512),
            calls_per_second: 200_000,
            unanswered_bytes: ByteSize::mib(512),
        }
    }
}

/// Which limit stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Connections,
    ConnectionsPerAddress,
    StreamsPerAddress,
    /// Another call passes after this time.
    CallsPerSecond(Duration),
    UnansweredBytes,
    /// Too many addresses at once for the table.
    Addresses,
}

impl Refusal {
    /// The key of `[limits]` that the operator may raise.
    pub fn key(self) -> &'static str {
        match self {
            Self::Connections | Self::Addresses => "limits.connections",
            Self::ConnectionsPerAddress => "limits.connections_per_address",
            Self::StreamsPerAddress => "limits.streams_per_address",
            Self::CallsPerSecond(_) => "limits.calls_per_second",
            Self::UnansweredBytes => "limits.unanswered_bytes",
        }
    }

    /// When another call may pass.
    pub fn retry_after(self) -> Duration {
        match self {
            Self::CallsPerSecond(after) => after.max(Duration::from_millis(10)),
            _ => Duration::from_secs(1),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let what = match refusal {
            Refusal::UnansweredBytes => "too many bytes of calls that are not answered",
            _ => "too many calls",
        };
        let message = format!("{what} from this address ({})", refusal.key());
        Self::Exhausted { message, retry_after: Some(refusal.retry_after()) }
    }
}

/// An IPv4 address or the /64 of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))),
            v4 => Self(v4),
        }
    }
}

/// Tokens flow in at `rate` a second, up to one second's worth. The level may
/// fall below zero: a debt that later tokens pay.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, rate: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * rate).min(rate);
        self.at = self.at.max(now);
    }

    fn wait(&self, wanted: f64, rate: f64) -> Duration {
        Duration::try_from_secs_f64(((wanted - self.level) / rate).max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[derive(Debug)]
struct Entry {
    connections: u32,
    streams: u32,
    bytes: Bucket,
    calls: Bucket,
    unanswered: u64,
}

/// Pure: counts and buckets by address.
#[derive(Debug)]
pub struct Table {
    config: Config,
    connections: u32,
    unanswered: u64,
    entries: HashMap<Client, Entry>,
    max_entries: usize,
    sweep_at: usize,
}

/// Addresses the table holds at most.
const MAX_ENTRIES: usize = 65_536;
/// Below this many entries nobody looks for idle ones.
const SWEEP_FROM: usize = 1_024;

impl Table {
    pub fn new(config: Config) -> Self {
        let (connections, unanswered, entries) = (0, 0, HashMap::new());
        Self { config, connections, unanswered, entries, max_entries: MAX_ENTRIES, sweep_at: SWEEP_FROM }
    }

    /// Give it back with [`Table::close`].
    pub fn open(&mut self, client: Client, now: Instant) -> Result<(), Refusal> {
        let config = self.config;
        if over(self.connections, config.connections) {
            return Err(Refusal::Connections);
        }
        let entry = self.entry(client, now)?;
        if over(entry.connections, config.connections_per_address) {
            return Err(Refusal::ConnectionsPerAddress);
        }
        entry.connections += 1;
        self.connections += 1;
        Ok(())
    }

    pub fn close(&mut self, client: Client) {
        if let Some(entry) = self.entries.get_mut(&client) {
            entry.connections = entry.connections.saturating_sub(1);
            self.connections = self.connections.saturating_sub(1);
        }
    }

    /// A call begins. Give its stream back with [`Table::finish`].
    pub fn call(&mut self, client: Client, now: Instant) -> Result<(), Refusal> {
        let config = self.config;
        let entry = self.entry(client, now)?;
        if over(entry.streams, config.streams_per_address) {
            return Err(Refusal::StreamsPerAddress);
        }
        if config.calls_per_second > 0 {
            let rate = f64::from(config.calls_per_second);
            entry.calls.refill(rate, now);
            if entry.calls.level < 1.0 {
                return Err(Refusal::CallsPerSecond(entry.calls.wait(1.0, rate)));
            }
            entry.calls.level -= 1.0;
        }
        entry.streams += 1;
        Ok(())
    }

    pub fn finish(&mut self, client: Client) {
        if let Some(entry) = self.entries.get_mut(&client) {
            entry.streams = entry.streams.saturating_sub(1);
        }
    }

    /// `bytes` of a request were read. Read on after the time it returns.
    pub fn charge(&mut self, client: Client, bytes: usize, now: Instant) -> Duration {
        let rate = self.config.bytes_per_second.as_u64();
        if rate == 0 {
            return Duration::ZERO;
        }
        let Some(entry) = self.entries.get_mut(&client) else { return Duration::ZERO };
        #[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
        let (rate, bytes) = (rate as f64, bytes as f64);
        entry.bytes.refill(rate, now);
        entry.bytes.level -= bytes;
        entry.bytes.wait(0.0, rate)
    }

    /// A request of this address holds `bytes` more. Give them back with
    /// [`Table::release`]. The bound follows what is free, as switches share
    /// their memory (Choudhury and Hahne 1998): n that take all they can get
    /// have an n+1th of it each, and as much is left.
    pub fn hold(&mut self, client: Client, bytes: u64, now: Instant) -> Result<(), Refusal> {
        let (room, all) = (self.config.unanswered_bytes.as_u64(), self.unanswered + bytes);
        let entry = self.entry(client, now)?;
        let own = entry.unanswered + bytes;
        if room > 0 && own > room.saturating_sub(all) {
            return Err(Refusal::UnansweredBytes);
        }
        entry.unanswered = own;
        self.unanswered = all;
        Ok(())
    }

    pub fn release(&mut self, client: Client, bytes: u64) {
        if let Some(entry) = self.entries.get_mut(&client) {
            entry.unanswered = entry.unanswered.saturating_sub(bytes);
            self.unanswered = self.unanswered.saturating_sub(bytes);
        }
    }

    fn entry(&mut self, client: Client, now: Instant) -> Result<&mut Entry, Refusal> {
        if !self.entries.contains_key(&client) {
            if self.entries.len() >= self.sweep_at.min(self.max_entries) {
                self.sweep(now);
            }
            if self.entries.len() >= self.max_entries {
                return Err(Refusal::Addresses);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
        let full = |level: u64| Bucket { level: level as f64, at: now };
        let config = self.config;
        Ok(self.entries.entry(client).or_insert_with(|| Entry {
            connections: 0,
            streams: 0,
            bytes: full(config.bytes_per_second.as_u64()),
            calls: full(u64::from(config.calls_per_second)),
            unanswered: 0,
        }))
    }

    /// Forgets who holds nothing and whose buckets are full again: they would
    /// be made the same way anew.
    fn sweep(&mut self, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
        let (bytes, calls) = (self.config.bytes_per_second.as_u64() as f64, f64::from(self.config.calls_per_second));
        self.entries.retain(|_, entry| {
            entry.bytes.refill(bytes, now);
            entry.calls.refill(calls, now);
            let in_use = entry.connections > 0 || entry.streams > 0 || entry.unanswered > 0;
            in_use || entry.bytes.level < bytes || entry.calls.level < calls
        });
        // Twice what is in use, so that sweeping costs a constant an entry.
        self.sweep_at = (self.entries.len() * 2).max(SWEEP_FROM);
    }
}

fn over(used: u32, limit: u32) -> bool {
    limit > 0 && used >= limit
}

/// The table, shared. Clones share it.
#[derive(Debug, Clone)]
pub struct Limits(Arc<Mutex<Table>>);

impl Limits {
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Mutex::new(Table::new(config))))
    }

    /// The count falls when the permit is dropped.
    pub fn open(&self, address: IpAddr) -> Result<Permit, Refusal> {
        let client = Client::from(address);
        self.table().open(client, Instant::now())?;
        Ok(Permit { limits: self.clone(), client, what: What::Connection })
    }

    /// The stream counts until the permit is dropped.
    pub fn call(&self, address: IpAddr) -> Result<Permit, Refusal> {
        let client = Client::from(address);
        self.table().call(client, Instant::now())?;
        Ok(Permit { limits: self.clone(), client, what: What::Stream })
    }

    /// See [`Table::charge`].
    pub fn charge(&self, address: IpAddr, bytes: usize) -> Duration {
        self.table().charge(address.into(), bytes, Instant::now())
    }

    /// What a request that just began will hold.
    pub(super) fn held(&self, address: IpAddr) -> Arc<Held> {
        Arc::new(Held::new(self.clone(), address.into()))
    }

    /// Open connections now.
    pub fn connections(&self) -> u32 {
        self.table().connections
    }

    /// Bytes of requests that are not answered.
    #[cfg(test)]
    pub(super) fn unanswered(&self) -> u64 {
        self.table().unanswered
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Counts stay usable whatever panicked: nothing in there is half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum What {
    Connection,
    Stream,
}

/// A place taken; dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place back"]
pub struct Permit {
    limits: Limits,
    client: Client,
    what: What,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = self.limits.table();
        match self.what {
            What::Connection => table.close(self.client),
            What::Stream => table.finish(self.client),
        }
    }
}

#[cfg(test)]
mod tests;
