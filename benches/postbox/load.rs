//! The ways from a benchmark to its nodes, and the baselines in its directory.

use crate::{Failure, process::NodeProcess};
use pillarbox::{
    bench::{
        baselines,
        caller::{Caller, Place},
        echo::EchoProcess,
        events::EVENT,
        mailroom::Mailroom,
    },
    store::yardstick::Yardstick,
};
use std::{net::SocketAddr, path::Path, time::Duration};

/// One connection of the service behind a node.
pub async fn caller(node: &NodeProcess) -> Result<Caller, Failure> {
    again(node, node.ok(&["token", "new", "service:bench"]).trim()).await
}

/// Another one, with a token that is there already.
pub async fn again(node: &NodeProcess, token: &str) -> Result<Caller, Failure> {
    let address: SocketAddr = node.listen.parse()?;
    Ok(Place::local(address.port(), node.key.parse()?)?.caller(token).await?)
}

/// The homeserver behind a node.
pub async fn mailroom(node: &NodeProcess) -> Result<Mailroom, Failure> {
    Ok(Mailroom::new(caller(node).await?))
}

/// The echo server, and the directory of its key.
pub struct Echo {
    pub process: EchoProcess,
    _dir: tempfile::TempDir,
}

impl std::ops::Deref for Echo {
    type Target = EchoProcess;

    fn deref(&self) -> &EchoProcess {
        &self.process
    }
}

pub async fn echo() -> Result<Echo, Failure> {
    let dir = crate::directory()?;
    let process = EchoProcess::start(Path::new(env!("CARGO_BIN_EXE_pillarbox")), dir.path(), EVENT).await?;
    Ok(Echo { process, _dir: dir })
}

/// Rows a second that SQLite takes from a single bulk writer.
pub async fn rows_per_second(span: Duration) -> Result<f64, Failure> {
    let dir = crate::directory()?;
    let mut sqlite = Yardstick::make(&dir.path().join("plain.db")).await?;
    let rate = baselines::many_row_commits(&mut sqlite, &[0x2a; EVENT], span).await?;
    sqlite.close().await?;
    Ok(rate)
}
