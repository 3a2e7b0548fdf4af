//! The words every floor uses: server ids, public keys, users, rows' numbers,
//! times.
//!
//! Parsed at the door, so that what is inside is known to be well formed.
//! Never does I/O.

mod cursor;
pub mod size;
mod user;
pub mod uuid;

pub use cursor::{Cursor, NoCursor};
pub use user::{USER_NAME_MAX, UserId, check_name, check_user_name};

use crate::error::Error;
use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Id of a homeserver: `domain:port`, lower-case, both required. An IPv6
/// address stands in brackets. At most 260 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId {
    text: Box<str>,
    port_at: u16,
}

impl ServerId {
    /// The domain or address, without brackets.
    pub fn host(&self) -> &str {
        self.text[..usize::from(self.port_at) - 1].trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.text[usize::from(self.port_at)..].parse().expect("the constructor parsed the port")
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for ServerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::invalid(format!("server id {text:?}: {why}; it is written domain:port"));
        if text.len() > 260 {
            return Err(Error::invalid("server id: longer than 260 bytes"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
        let number: u16 = match port.parse() {
            Ok(number) if number > 0 && port == format!("{number}") => number,
            _ => return Err(bad("the port is not a number from 1 to 65535")),
        };
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => {
                let address: Ipv6Addr = inner.parse().map_err(|_| bad("not an IPv6 address in the brackets"))?;
                format!("[{address}]")
            }
            None => {
                let lower = host.to_ascii_lowercase();
                check_domain(&lower).map_err(bad)?;
                lower
            }
        };
        let port_at = u16::try_from(host.len() + 1).map_err(|_| bad("too long"))?;
        Ok(Self { text: format!("{host}:{number}").into(), port_at })
    }
}

/// A host name of RFC 1123 (underscores let be) or an IPv4 address.
fn check_domain(host: &str) -> Result<(), &'static str> {
    if host.is_empty() || host.len() > 253 {
        return Err("the domain has 1 to 253 characters");
    }
    for label in host.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("each part of the domain has 1 to 63 characters");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err("the domain has a character that is not a letter, digit, '-', '_' or '.'");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a part of the domain begins or ends with '-'");
        }
    }
    let looks_like_address = host.split('.').next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if looks_like_address && host.parse::<IpAddr>().is_err() {
        return Err("neither a domain nor an IPv4 address");
    }
    Ok(())
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for ServerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for ServerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An Ed25519 public key that is a point of the curve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// `bytes`: 32 raw bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let raw: &[u8; 32] = bytes
            .try_into()
            .map_err(|_| Error::invalid(format!("an Ed25519 public key has 32 bytes, not {}", bytes.len())))?;
        let key = VerifyingKey::from_bytes(raw).map_err(|_| Error::invalid("not an Ed25519 public key"))?;
        if key.is_weak() {
            return Err(Error::invalid("a weak Ed25519 public key: it would verify signatures nobody made"));
        }
        Ok(Self(key))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Strict verification (RFC 8032 without the malleable corner cases) of
    /// bytes as they stand.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|s| self.0.verify_strict(message, &s).is_ok())
    }
}

impl fmt::Display for PublicKey {
    /// Padded base64, as the CLI and the ready line show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = STANDARD.decode(text).map_err(|_| Error::invalid("the key is not base64"))?;
        Self::from_bytes(&bytes)
    }
}

/// What the node key signs apart from Harmony's own tokens: 0x00 "pillarbox"
/// purpose 0x00 bytes. No Harmony `AuthData` begins with 0x00, so a signature
/// of one kind never passes as another.
pub fn signed_bytes(purpose: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(11 + purpose.len() + bytes.len());
    out.push(0);
    out.extend_from_slice(b"pillarbox");
    out.extend_from_slice(purpose.as_bytes());
    out.push(0);
    out.extend_from_slice(bytes);
    out
}

/// The row of a peer; other rows name a server by it, never by text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub i64);

impl PeerId {
    /// This node itself, where a row may also name another server.
    pub const SELF: Self = Self(0);
}

/// A party of a multi-party computation, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartyRef {
    /// [`PeerId::SELF`]: of this node.
    pub peer: PeerId,
    /// Without the server.
    pub name: String,
}

/// How far a stream (one sender to one receiver) has come: the state a receiver
/// tells, and what a sender holds settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Mark {
    /// 0: nothing was ever applied. The later epoch wins.
    pub epoch: u64,
    /// Number of the last row applied.
    pub number: u64,
    /// Random id of that row.
    pub id: u64,
}

/// A moment of the wall clock: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub i64);

impl Millis {
    pub fn now() -> Self {
        Self(i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX))
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Seconds of the wall clock, as tokens carry them.
pub fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}

/// Microseconds of the wall clock, as epochs are made of them.
pub fn unix_micros() -> u64 {
    u64::try_from(since_epoch().as_micros()).unwrap_or(u64::MAX)
}

/// A clock before 1970 counts as 1970.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
