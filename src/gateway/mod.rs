//! The reference gateway (floor 9): from the push channel of a backend to
//! browsers and other clients, by Server-Sent Events and WebSocket.
//!
//! One task reads the backend; each client's stream reads its own queue. Signs
//! what it hands on, keeps its cursor on disk, and ends whoever the backend
//! says is signed out. Never keeps a token of a client, never imports `cli/`.

mod access;
mod envelope;
mod event;
mod feed;
mod http;
mod hub;
mod line;
mod page;
mod ring;
mod saved;
mod seat;
mod socket;
mod words;

pub use access::check_origin;
pub use hub::{Limits, Standing};
pub use seat::Bounds;

use crate::{
    client::{Options, Push},
    error::Error,
    identity::node_key::NodeKey,
    net::{self, certificate::PemPair, limits, listen, tls::ServerTls},
    types::PublicKey,
};
use event::Signer;
use hub::Hub;
use saved::Saved;
use std::{
    fs::DirBuilder,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// For what is under way when the gateway stops.
const GRACE: Duration = Duration::from_secs(4);

/// What a gateway is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its id; it subscribes as `gateway:ID`.
    pub id: String,
    /// The backend, as the operator wrote it, and how to reach it with `id`
    /// for a party.
    pub backend: String,
    pub options: Options,
    pub listen: SocketAddr,
    pub tls: net::Config,
    pub cursor_file: PathBuf,
    pub key_file: PathBuf,
    /// Pages of other origins that may use it, as [`check_origin`] gives them.
    pub allow_origins: Vec<String>,
    pub limits: Limits,
    /// After which a client is told that nothing came.
    pub keep_alive: Duration,
}

/// Why there is no gateway.
#[derive(Debug)]
pub enum StartError {
    BadConfig(String),
    Failed(String),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(text) => Self::BadConfig(text),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    listen: SocketAddr,
    key: PublicKey,
    hub: Arc<Hub>,
    tls: Option<(ServerTls, net::Config)>,
    tasks: TaskTracker,
    /// For the feed, and then for the listener.
    stop: [CancellationToken; 2],
    ended: oneshot::Receiver<String>,
}

impl Gateway {
    /// Listens when it returns; whether the backend is there, `/health` tells.
    /// Within a tokio runtime only.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let Config { id, backend, options, listen, tls, cursor_file, key_file, allow_origins, limits, keep_alive } =
            config;
        crate::types::check_name("--id", "a gateway's id", &id)?;
        tls.check(listen)?;
        for file in [&cursor_file, &key_file] {
            make_directory(file)?;
        }
        let signer = Arc::new(Signer::new(id.clone(), NodeKey::load_or_make(&key_file)?));
        let saved = Saved { path: cursor_file, backend, gateway: id };
        let mark = saved.read()?;
        let push = Push::new(options).map_err(|error| StartError::BadConfig(error.to_string()))?;
        let server_tls = match tls.mode {
            net::Mode::Files => Some(ServerTls::new(&PemPair::read(&tls.cert, &tls.key)?)?),
            _ => None,
        };
        let listener = listen::Listener::bind(listen)?;
        let (listen, key) = (listener.local_addr(), signer.public());

        let hub = Arc::new(Hub::new(limits, mark));
        let tasks = TaskTracker::new();
        let stop = [CancellationToken::new(), CancellationToken::new()];
        let (marks, kept) = watch::channel(None);
        tasks.spawn(saved.keep(kept));
        let (tell, ended) = oneshot::channel();
        let feeder = feed::Feeder { push: push.clone(), hub: hub.clone(), saved: mark, marks };
        let told = stop[0].clone();
        tasks.spawn(async move {
            if let Err(why) = feeder.run(told).await {
                // Nobody asks any more: it is stopping.
                let _ = tell.send(why);
            }
        });
        let service = http::service(http::App {
            hub: hub.clone(),
            push,
            signer,
            origins: allow_origins.into(),
            keep_alive,
            tasks: tasks.clone(),
            stop: stop[1].clone(),
            checks: http::Checks::default(),
        });
        let places = address_limits(&limits, &tls);
        let serve = listen::serve(listener, server_tls.clone(), places, service, stop[1].clone(), GRACE);
        tasks.spawn(serve);
        Ok(Self { listen, key, hub, tls: server_tls.map(|server| (server, tls)), tasks, stop, ended })
    }

    /// Where it listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// By which its envelopes are verified.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    pub fn standing(&self) -> Standing {
        self.hub.standing()
    }

    /// Streams of clients there are.
    pub fn clients(&self) -> usize {
        self.hub.clients()
    }

    /// Returns when it cannot go on, with the reason; to be stopped then.
    pub async fn failed(&mut self) -> String {
        // It has one answer; whoever asks again gets none.
        if !self.ended.is_terminated()
            && let Ok(why) = (&mut self.ended).await
        {
            return why;
        }
        // The feed was told to end: nothing failed.
        std::future::pending().await
    }

    /// Reads the certificate files again; on an error the ones before stay.
    pub async fn reload(&self) -> Result<(), Error> {
        match &self.tls {
            Some((server, config)) => server.replace(&PemPair::read(&config.cert, &config.key)?),
            None => Ok(()),
        }
    }

    /// Tells the clients, writes the cursor, and returns when nothing of it
    /// runs any more.
    pub async fn shutdown(self) {
        let [feed, listener] = &self.stop;
        feed.cancel();
        self.hub.stop();
        listener.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn make_directory(file: &Path) -> Result<(), StartError> {
    let Some(parent) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|cause| StartError::Failed(format!("cannot make {}: {cause}", parent.display())))
}

/// What one address may use. Behind a proxy all clients have the proxy's.
fn address_limits(limits: &Limits, tls: &net::Config) -> limits::Limits {
    let connections = u32::try_from(limits.connections).unwrap_or(u32::MAX).max(1);
    let of_one = |limit: u32| if tls.behind_proxy { 0 } else { limit };
    limits::Limits::new(limits::Config {
        connections,
        connections_per_address: of_one(connections.min(4_096)),
        streams_per_address: of_one(connections.min(8_192)),
        calls_per_second: of_one(500),
        ..limits::Config::default()
    })
}
