//! Out to other servers: resolve, filter, connect to that very address, TLS,
//! HTTP/2 or HTTP/1.1.
//!
//! Owns the tasks of the connections it made. Never follows a redirect, never
//! uses a proxy, never keeps a pool: who dials keeps the [`Link`].

use crate::{
    error::Error,
    net::{
        address,
        link::{Link, Made},
        tasks::Tasks,
        tls::{Roots, Verified},
        tune,
    },
    types::{PublicKey, ServerId},
};
use rustls::pki_types::ServerName;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bytes that a peer does not acknowledge break the connection after this.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// How to dial; for the life of the [`Dialer`].
#[derive(Debug, Clone, Default)]
pub struct DialConfig {
    /// Foreign ids may lead to private addresses.
    pub allow_private_addresses: bool,
    /// PEM certificates that are roots besides the public ones.
    pub ca_file: Option<PathBuf>,
}

/// Whom to dial, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name is what TLS verifies and what the requests say.
    pub id: ServerId,
    /// Where to connect to instead of the id's own host and port.
    pub address: Option<(String, u16)>,
    /// No TLS; loopback addresses only.
    pub plaintext: bool,
    /// HTTP/1.1 rather than HTTP/2.
    pub http1: bool,
    /// A certificate that speaks for this node key is accepted, too.
    pub pinned: Option<PublicKey>,
    /// Given by the operator: private addresses are allowed.
    pub trusted: bool,
}

impl Target {
    fn place(&self) -> (&str, u16) {
        match &self.address {
            Some((host, port)) => (host.as_str(), *port),
            None => (self.id.host(), self.id.port()),
        }
    }
}

/// Why there is no connection. Every text names the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("{host}: cannot be resolved: {cause}")]
    Resolve { host: String, cause: String },
    /// By our own policy; nothing was sent.
    #[error("{host}: not dialled: {cause}")]
    Refused { host: String, cause: String },
    #[error("{host}: no connection to {address}: {cause}")]
    Connect { host: String, address: SocketAddr, cause: String },
    #[error("{host}: TLS with {address} failed: {cause}")]
    Tls { host: String, address: SocketAddr, cause: String },
    /// The certificate is not that of whom we meant.
    #[error("{host}: TLS with {address} failed: {cause}")]
    Untrusted { host: String, address: SocketAddr, cause: String },
    #[error("{host}: no answer in time ({what})")]
    Timeout { host: String, what: String },
}

/// Makes connections. Clones share the owned tasks.
#[derive(Debug, Clone)]
pub struct Dialer {
    roots: Roots,
    allow_private_addresses: bool,
    tasks: Tasks,
}

impl Dialer {
    /// [`Error::Invalid`] when `ca_file` cannot be read as certificates.
    pub fn new(config: &DialConfig) -> Result<Self, Error> {
        Ok(Self {
            roots: Roots::new(config.ca_file.as_deref())?,
            allow_private_addresses: config.allow_private_addresses,
            tasks: Tasks { tracker: TaskTracker::new(), cut: CancellationToken::new() },
        })
    }

    /// Cuts every link it made and returns when their tasks have ended.
    pub async fn shutdown(&self) {
        self.tasks.cut.cancel();
        self.tasks.tracker.close();
        self.tasks.tracker.wait().await;
    }

    /// Where the target would be dialled, allowed or not.
    pub async fn resolve(&self, target: &Target, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
        let (host, port) = target.place();
        resolve(host, port, deadline).await
    }

    /// Tries the addresses one after the other, each with a fair share of the
    /// time that is left. The error is that of the last one.
    pub async fn dial(&self, target: &Target, deadline: Instant) -> Result<Link, DialError> {
        let (host, port) = target.place();
        let found = resolve(host, port, deadline).await?;
        let allowed = self.filter(target, host, &found)?;
        let mut last = DialError::Timeout { host: host.to_owned(), what: "before the first attempt".to_owned() };
        for (done, address) in allowed.iter().enumerate() {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            let share = u32::try_from(allowed.len() - done).unwrap_or(u32::MAX);
            match self.attempt(target, host, *address, now + left / share).await {
                Ok(link) => return Ok(link),
                Err(error) => {
                    tracing::debug!(%error, "dialling");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// The addresses that may be dialled, at least one.
    fn filter(&self, target: &Target, host: &str, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, DialError> {
        let refused = |cause: String| DialError::Refused { host: host.to_owned(), cause };
        let mut why = String::from("it has no address");
        let mut allowed = Vec::new();
        for address in found {
            let policy = match address::check(address.ip()) {
                _ if target.trusted || self.allow_private_addresses => Ok(()),
                checked => checked,
            };
            if let Err(kind) = policy {
                why = format!("{} is a {kind} address (federation.allow_private_addresses is off)", address.ip());
            } else if target.plaintext && !address.ip().to_canonical().is_loopback() {
                why = format!("{} is not a loopback address, and plaintext goes nowhere else", address.ip());
            } else if !allowed.contains(address) {
                allowed.push(*address);
            }
        }
        allowed.truncate(MOST_ADDRESSES);
        if allowed.is_empty() { Err(refused(why)) } else { Ok(allowed) }
    }

    async fn attempt(
        &self,
        target: &Target,
        host: &str,
        address: SocketAddr,
        deadline: Instant,
    ) -> Result<Link, DialError> {
        let late = |what: &str| DialError::Timeout { host: host.to_owned(), what: format!("{what} {address}") };
        let broken = |cause: String| DialError::Connect { host: host.to_owned(), address, cause };
        let connect = async {
            let tcp = TcpStream::connect(address).await?;
            tune(&tcp, UNACKNOWLEDGED)?;
            io::Result::Ok(tcp)
        };
        let tcp = timeout_at(deadline, connect)
            .await
            .map_err(|_| late("connecting to"))?
            .map_err(|cause| broken(cause.to_string()))?;
        let made = |verified, h2| Made { id: target.id.clone(), remote: address, verified, h2 };
        let started = if target.plaintext {
            let made = made(Verified::Plaintext, !target.http1);
            timeout_at(deadline, Link::start(tcp, made, &self.tasks)).await
        } else {
            let failed = |cause: String| DialError::Tls { host: host.to_owned(), address, cause };
            let (config, verifier) =
                self.roots.client(target.pinned, target.http1).map_err(|cause| failed(cause.to_string()))?;
            let name = ServerName::try_from(target.id.host().to_owned()).map_err(|cause| failed(cause.to_string()))?;
            let tls = timeout_at(deadline, TlsConnector::from(Arc::new(config)).connect(name, tcp))
                .await
                .map_err(|_| late("TLS with"))?
                .map_err(|cause| match is_distrust(&cause) {
                    true => DialError::Untrusted { host: host.to_owned(), address, cause: cause.to_string() },
                    false => failed(cause.to_string()),
                })?;
            let verified = verifier.verified().ok_or_else(|| failed("nothing was verified".to_owned()))?;
            let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            timeout_at(deadline, Link::start(tls, made(verified, h2), &self.tasks)).await
        };
        started.map_err(|_| late("HTTP with"))?.map_err(|cause| broken(cause.to_string()))
    }
}

/// Our verifier's word, rather than a handshake that broke off.
fn is_distrust(cause: &io::Error) -> bool {
    let cause = cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)))
}

async fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    match timeout_at(deadline, lookup_host((host, port))).await {
        Err(_) => Err(DialError::Timeout { host: host.to_owned(), what: "resolving the name".to_owned() }),
        Ok(Err(cause)) => Err(DialError::Resolve { host: host.to_owned(), cause: cause.to_string() }),
        Ok(Ok(addresses)) => Ok(addresses.collect()),
    }
}

#[cfg(test)]
mod tests;
