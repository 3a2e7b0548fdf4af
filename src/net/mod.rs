//! Transport: TLS, listening, dialling, limits by address, hRPC (floor 2).
//!
//! Owns sockets and certificates, and the `[tls]` section of the
//! configuration. Never knows a peer, a row or a principal.

pub mod address;
pub mod answer;
pub mod certificate;
pub mod codec;
pub mod connection;
pub mod dial;
pub mod feed;
#[cfg(test)]
mod fixture;
mod frames;
pub mod grpc;
pub mod hrpc;
pub mod limits;
pub mod link;
pub mod listen;
mod messages;
mod metered;
pub mod post;
pub mod requests;
pub(crate) mod tasks;
pub mod tls;
pub mod unread;

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::{io, net::SocketAddr, path::PathBuf, time::Duration};
use tokio::net::TcpStream;

/// Where the certificate comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Made by the node, carries its Ed25519 key.
    #[default]
    SelfSigned,
    /// PEM files of the operator.
    Files,
    /// No TLS.
    Off,
}

/// `[tls]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub mode: Mode,
    /// PEM, the node's own certificate first. With `mode = "files"` only.
    pub cert: PathBuf,
    /// PEM, PKCS#8, PKCS#1 or SEC1. With `mode = "files"` only.
    pub key: PathBuf,
    /// Something before the node ends TLS: `mode = "off"` is then allowed on
    /// any address.
    pub behind_proxy: bool,
}

impl Config {
    /// `listen`: the address the node will listen on. Fails with
    /// [`Error::Invalid`] that names the key.
    pub fn check(&self, listen: SocketAddr) -> Result<(), Error> {
        let given = [("tls.cert", &self.cert), ("tls.key", &self.key)];
        if self.mode == Mode::Files
            && let Some((name, _)) = given.iter().find(|(_, path)| path.as_os_str().is_empty())
        {
            return Err(Error::invalid(format!("{name} is missing: tls.mode = \"files\" needs tls.cert and tls.key")));
        }
        if self.mode != Mode::Files
            && let Some((name, _)) = given.iter().find(|(_, path)| !path.as_os_str().is_empty())
        {
            return Err(Error::invalid(format!("{name} is given: set tls.mode = \"files\" too, or remove it")));
        }
        if self.mode == Mode::Off && !self.behind_proxy && !listen.ip().to_canonical().is_loopback() {
            return Err(Error::invalid(format!(
                "tls.mode = \"off\" on {listen}: only a loopback address may go without TLS; \
                 set tls.behind_proxy = true if a proxy ends TLS before the node"
            )));
        }
        Ok(())
    }
}

/// Sets what every socket of ours has: no delay for small packets, and an end
/// when the peer has acknowledged nothing for so long.
fn tune(tcp: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(unacknowledged))?;
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
    Ok(())
}

#[cfg(test)]
mod tests;
