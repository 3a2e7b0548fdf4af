//! Ids that look like UUIDs: of chats and their messages.
//!
//! Sixteen bytes of a hash, marked as version 8 (RFC 9562). Never random here.

use crate::error::Error;
use std::{fmt, str::FromStr};

/// Where the hyphens stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const LENGTH: usize = 36;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// The first half of a SHA-256, with the bits of a UUID set.
    pub fn of_hash(hash: [u8; 32]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// `None`: not 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = Error;

    /// Lower-case, with hyphens: as it is shown.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::invalid(format!("{text:?} is not an id of 32 hexadecimal digits and four hyphens"));
        let mut digits = Vec::with_capacity(32);
        if text.len() != LENGTH {
            return Err(bad());
        }
        for (at, byte) in text.bytes().enumerate() {
            match (HYPHENS.contains(&at), byte) {
                (true, b'-') => {}
                (false, b'0'..=b'9') => digits.push(byte - b'0'),
                (false, b'a'..=b'f') => digits.push(byte - b'a' + 10),
                _ => return Err(bad()),
            }
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests;
