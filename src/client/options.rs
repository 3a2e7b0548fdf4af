//! Whom to connect to, as whom, and for how long to try.
//!
//! Read once, before anything is dialled. Never shows the token.

use super::error::Error;
use crate::{
    net::dial::Target,
    types::{PublicKey, ServerId},
};
use std::{path::PathBuf, time::Duration};
use tonic::metadata::{Ascii, MetadataValue};

/// What a [`Client`](super::Client) is made of.
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) target: Target,
    pub(super) party: String,
    pub(super) bearer: MetadataValue<Ascii>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) patience: Duration,
    pub(super) attempt: Duration,
}

impl Options {
    /// `node`: `https://host:port`, `host:port`, or `http://127.0.0.1:port` for
    /// a node without TLS on a loopback address. `party`: the party of that
    /// node to act as; empty for a service that only publishes and reads
    /// session events. `token`: as `pillarbox token new` printed it.
    ///
    /// The certificate must be vouched for by a public authority, unless
    /// [`ca_file`](Self::ca_file) or [`pinned`](Self::pinned) say otherwise.
    pub fn new(node: &str, party: &str, token: &str) -> Result<Self, Error> {
        let (rest, plaintext) = match node.split_once("://") {
            None => (node, false),
            Some(("https", rest)) => (rest, false),
            Some(("http", rest)) => (rest, true),
            Some((scheme, _)) => return Err(Error::invalid(format!("node: {scheme}:// is neither https nor http"))),
        };
        let id: ServerId = rest
            .strip_suffix('/')
            .unwrap_or(rest)
            .parse()
            .map_err(|error| Error::invalid(format!("node {node:?}: {error}")))?;
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| Error::invalid("token: it has characters that no token has"))?;
        bearer.set_sensitive(true);
        let target = Target { id, address: None, plaintext, http1: false, pinned: None, trusted: true };
        Ok(Self {
            target,
            party: party.to_owned(),
            bearer,
            ca_file: None,
            patience: Duration::from_secs(120),
            attempt: Duration::from_secs(10),
        })
    }

    /// PEM certificates that are roots besides the public ones.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// The node's own Ed25519 key (`pillarbox key show`): its self-signed
    /// certificate is accepted because it carries that key's signature.
    #[must_use]
    pub fn pinned(mut self, key: PublicKey) -> Self {
        self.target.pinned = Some(key);
        self
    }

    /// Connect to this address instead of the node's name, which TLS still
    /// verifies.
    #[must_use]
    pub fn address(mut self, host: &str, port: u16) -> Self {
        self.target.address = Some((host.to_owned(), port));
        self
    }

    /// How long an outage is waited out: from a call's first attempt, or from
    /// the loss of a stream, to the last attempt. Two minutes unless given;
    /// `Duration::MAX` never gives up.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long one attempt may take, from dialling to the answer, and how long
    /// a quiet connection is trusted before the node is asked whether it is
    /// still there. Ten seconds unless given; at least 10 ms.
    #[must_use]
    pub fn attempt(mut self, attempt: Duration) -> Self {
        self.attempt = attempt.max(Duration::from_millis(10));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_urls_or_host_and_port_do() {
        let of = |text: &str| Options::new(text, "alice", "pbt_x").map(|options| options.target);
        for text in ["https://a.example:7443", "https://a.example:7443/", "a.example:7443", "A.Example:7443"] {
            let target = of(text).unwrap();
            assert_eq!((target.id.as_str(), target.plaintext), ("a.example:7443", false), "{text}");
        }
        assert!(of("http://127.0.0.1:80").unwrap().plaintext);
        for bad in ["", "a.example", "ftp://a.example:1", "https://a.example:7443/path", "https://u@a.example:1"] {
            assert!(matches!(of(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let options = Options::new("a.example:7443", "alice", "pbt_secret\n").unwrap();
        assert_eq!(options.bearer.to_str().unwrap(), "Bearer pbt_secret");
        assert!(!format!("{options:?}").contains("secret"));
        assert!(Options::new("a.example:7443", "alice", "a\nb").is_err());
    }
}
