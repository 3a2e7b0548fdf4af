//! A connection to a node as any client has one: HTTP/2 over TLS, and a token.

use super::Error;
use crate::{
    net::{
        dial::{DialConfig, Dialer, Target},
        link::Link,
    },
    types::{PublicKey, ServerId},
};
use std::{path::PathBuf, time::Duration};
use tokio::time::Instant;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

const CONNECT: Duration = Duration::from_secs(10);

/// Where a node is.
#[derive(Debug, Clone)]
pub struct Place {
    target: Target,
    dialer: Dialer,
}

impl Place {
    /// `key`: accepts a certificate that speaks for it. `ca_file`: roots besides the
    /// public ones.
    pub fn new(id: ServerId, key: Option<PublicKey>, ca_file: Option<PathBuf>, plaintext: bool) -> Result<Self, Error> {
        let dialer = Dialer::new(&DialConfig { ca_file, ..DialConfig::default() })?;
        let target = Target { id, address: None, plaintext, http1: false, pinned: key, trusted: true };
        Ok(Self { target, dialer })
    }

    /// One on this machine, whoever its id says it is.
    pub fn local(port: u16, key: PublicKey) -> Result<Self, Error> {
        let id: ServerId = format!("localhost:{port}").parse().map_err(|_| format!("{port}: not a port"))?;
        let mut place = Self::new(id, Some(key), None, false)?;
        place.target.address = Some(("127.0.0.1".to_owned(), port));
        Ok(place)
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Result<Link, Error> {
        Ok(self.dialer.dial(&self.target, Instant::now() + CONNECT).await?)
    }

    /// The same, with the token that its calls carry.
    pub async fn caller(&self, token: &str) -> Result<Caller, Error> {
        let mut bearer: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|_| "the token has characters that no token has")?;
        bearer.set_sensitive(true);
        Ok(Caller { link: self.connect().await?, bearer })
    }
}

/// A connection and a token; clones share the connection.
#[derive(Debug, Clone)]
pub struct Caller {
    pub link: Link,
    bearer: MetadataValue<Ascii>,
}

impl Caller {
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }
}
