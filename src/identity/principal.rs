//! Local callers and their tokens.
//!
//! A token is `pbt_` and 32 random bytes in base64url; the store keeps its
//! SHA-256 only. Principals say who may act for whom.
//! Never logs a token.

use crate::{error::Error, types::check_user_name};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

const PREFIX: &str = "pbt_";
const NAME_MAX: usize = 256;

/// Who calls. Names are 1–256 bytes, printable, without spaces; that of a user
/// is stricter (see [`check_user_name`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A party of a multi-party computation.
    Party(String),
    User(String),
    Gateway(String),
    /// A trusted backend; may act for any local party or user.
    Service(String),
    Admin(String),
}

impl FromStr for Principal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::invalid(format!(
                "principal {text:?}: {why}; it is written party:NAME, user:NAME, gateway:NAME, service:NAME or admin:NAME"
            ))
        };
        let (kind, name) = text.split_once(':').ok_or_else(|| bad("the kind is missing"))?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(bad("the name has 1 to 256 bytes"));
        }
        if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("the name has a space or a control character"));
        }
        let name = name.to_owned();
        match kind {
            "party" => Ok(Self::Party(name)),
            "user" => {
                check_user_name(&format!("principal {text:?}"), &name)?;
                Ok(Self::User(name))
            }
            "gateway" => Ok(Self::Gateway(name)),
            "service" => Ok(Self::Service(name)),
            "admin" => Ok(Self::Admin(name)),
            _ => Err(bad("no such kind")),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Party(name) => ("party", name),
            Self::User(name) => ("user", name),
            Self::Gateway(name) => ("gateway", name),
            Self::Service(name) => ("service", name),
            Self::Admin(name) => ("admin", name),
        };
        write!(f, "{kind}:{name}")
    }
}

/// A fresh token, shown once.
pub fn new_token() -> Result<String, Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(Error::internal)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)))
}

/// The SHA-256 under which a token is stored; `None` when the text is not one.
pub fn token_hash(token: &str) -> Option<[u8; 32]> {
    let secret = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
    (secret.len() == 32).then(|| Sha256::digest(token.as_bytes()).into())
}

/// The token in an `authorization: Bearer <token>` header.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests;
