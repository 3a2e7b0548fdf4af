//! Local users: their ids as callers see them, and what a login name may be.
//!
//! Pure. Users of other servers are known by name and server, never by an id.

use crate::error::Error;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{fmt, num::NonZeroU64, str::FromStr};

/// Bytes of a login name.
pub const USER_NAME_MAX: usize = 64;

const PREFIX: &str = "usr";

/// Id of a user of this node: 64 bits, never 0. Shown as `usr` and the
/// base64url of its eight bytes, the lowest first, without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(NonZeroU64);

impl UserId {
    /// `None` for 0.
    pub fn new(value: u64) -> Option<Self> {
        NonZeroU64::new(value).map(Self)
    }

    /// A new one of random bits, positive as a signed number too. `None` once
    /// in 2^63 times.
    pub fn of_random(bits: u64) -> Option<Self> {
        Self::new(bits >> 1)
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for UserId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
            Self::new(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        read().ok_or_else(|| {
            Error::invalid(format!(
                "user id {text:?}: it is written {PREFIX} and 11 characters of base64url, and not 0"
            ))
        })
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.get().to_le_bytes()))
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A login name, without a server: 1 to 64 bytes of ASCII letters, digits, `.`,
/// `_` and `-`. Case counts. `field`: what the refusal calls it.
pub fn check_user_name(field: &str, name: &str) -> Result<(), Error> {
    check_name(field, "a user's name", name)
}

/// The same for the name of something else. `what`: such a name.
pub fn check_name(field: &str, what: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > USER_NAME_MAX {
        let length = name.len();
        return Err(Error::invalid(format!("{field}: {length} bytes; {what} has 1 to {USER_NAME_MAX}")));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(Error::invalid(format!("{field}: {name:?}; {what} has letters, digits, '.', '_' and '-' only")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
