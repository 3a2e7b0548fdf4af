//! The node's certificate: of its own making or files of the operator.
//!
//! Serves new connections with the newest one that can be used; a bad pair of
//! files never replaces a good one.

use crate::{
    config::Config,
    error::Error,
    identity::node_key::NodeKey,
    net::{
        Mode,
        certificate::{self, PemPair},
        tls::ServerTls,
    },
    types::ServerId,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// Certificate files are looked at this often.
const WATCH_FILES: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Certificate {
    pub tls: ServerTls,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// Made for the ids of the node; kept in this directory.
    SelfSigned {
        dir: PathBuf,
        key: NodeKey,
    },
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
}

impl Source {
    fn read(&self, ids: &[ServerId]) -> Result<PemPair, Error> {
        match self {
            Self::Files { cert, key } => PemPair::read(cert, key),
            Self::SelfSigned { dir, key } => {
                let mut names: Vec<String> = vec![];
                let loopback = ["localhost", "127.0.0.1", "::1"];
                for name in ids.iter().map(ServerId::host).chain(loopback) {
                    if !names.iter().any(|known| known == name) {
                        names.push(name.to_owned());
                    }
                }
                let sign = |framed: &[u8]| key.sign_framed(framed);
                certificate::load_or_make(dir, &names, &key.public(), &sign)
            }
        }
    }
}

impl Certificate {
    /// `ids`: those the node has, and had. `None` without TLS.
    pub fn new(config: &Config, ids: &[ServerId], key: &NodeKey) -> Result<Option<Self>, Error> {
        let source = match config.tls.mode {
            Mode::Off => return Ok(None),
            Mode::Files => Source::Files { cert: config.tls.cert.clone(), key: config.tls.key.clone() },
            Mode::SelfSigned => Source::SelfSigned { dir: config.data_dir.join("tls"), key: key.clone() },
        };
        Ok(Some(Self { tls: ServerTls::new(&source.read(ids)?)?, source }))
    }

    /// Names every one of these ids from now on, if that is in our hands.
    pub fn name(&self, ids: &[ServerId]) -> Result<(), Error> {
        match &self.source {
            Source::Files { .. } => Ok(()),
            made @ Source::SelfSigned { .. } => self.tls.replace(&made.read(ids)?),
        }
    }

    /// Reads the operator's files again.
    pub fn reload(&self) -> Result<(), Error> {
        match &self.source {
            Source::SelfSigned { .. } => Ok(()),
            files @ Source::Files { .. } => self.tls.replace(&files.read(&[])?),
        }
    }

    /// Follows changes of the operator's files.
    pub async fn watch(self, stop: CancellationToken) {
        let Source::Files { cert, key } = &self.source else { return };
        let changed = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
        let mut seen = (changed(cert), changed(key));
        while stop.run_until_cancelled(tokio::time::sleep(WATCH_FILES)).await.is_some() {
            let now = (changed(cert), changed(key));
            if now == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => {
                    seen = now;
                    tracing::info!("certificate files changed and were read again");
                }
                // Perhaps one of the two is still being written: look again.
                Err(error) => tracing::warn!(%error, "changed certificate files cannot be used; the old ones stay"),
            }
        }
    }
}
