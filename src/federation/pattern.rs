//! Which servers a rule of `allow` or `deny` means.
//!
//! `*` is every server. `a.example` is that domain, `*.a.example` every domain
//! below it (not itself), `10.0.0.7` and `[fd00::7]` an address; with `:7443`
//! only on that port. Parsed when the configuration is read; never resolves a
//! name.

use crate::{error::Error, types::ServerId};
use std::{fmt, str::FromStr};

/// One rule of `allow` or `deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    host: Host,
    /// None: any port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    Exactly(Box<str>),
    /// Every domain that ends with this text, which begins with a dot.
    Below(Box<str>),
}

impl Pattern {
    pub fn matches(&self, id: &ServerId) -> bool {
        let host = match &self.host {
            Host::Any => true,
            Host::Exactly(host) => id.host() == &**host,
            Host::Below(suffix) => id.host().len() > suffix.len() && id.host().ends_with(&**suffix),
        };
        host && self.port.is_none_or(|port| port == id.port())
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // The port is what follows the last colon, unless that is inside the brackets of an IPv6 address.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let (below, domain) = match host.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, host),
        };
        let any = host == "*";
        // A server id has the same grammar; where a part is left open, any will do for the check.
        let id: ServerId =
            format!("{}:{}", if any { "any" } else { domain }, port.unwrap_or("1")).parse().map_err(|_| {
                Error::invalid(format!(
                    "{text:?} is no pattern: write \"*\", \"domain\", \"*.domain\" or one of these with \":port\""
                ))
            })?;
        let host = match (any, below) {
            (true, _) => Host::Any,
            (false, true) => Host::Below(format!(".{}", id.host()).into()),
            (false, false) => Host::Exactly(id.host().into()),
        };
        Ok(Self { host, port: port.map(|_| id.port()) })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Exactly(host) if host.contains(':') => write!(f, "[{host}]")?,
            Host::Exactly(host) => f.write_str(host)?,
            Host::Below(suffix) => write!(f, "*{suffix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
