//! The node: wires the floors together, the only place that knows all of them.
//!
//! Owns the data directory, the listeners and the order of start and stop.
//! Decides nothing about delivery, trust or rows.

mod certificate;
mod news;

use crate::{
    admin::{self, metrics, socket},
    chat::{self, Chat},
    config::Config,
    error::Error,
    federation::{Federation, Parts, Takers},
    identity::{node_key::NodeKey, tokens::Tokens, users::Users},
    metrics::Metrics,
    net::{
        Mode,
        dial::{DialConfig, Dialer},
        hrpc::{DEFAULT_MAX_BODY, HrpcLayer, Methods},
        limits::Limits,
        listen::{self, Listener},
        requests,
    },
    proto::{DESCRIPTORS, pillarbox::admin::v1::admin_server::AdminServer},
    push::{Push, Sessions},
    relay::{Notifier, Relay, operator_sessions},
    store::{Change, FormerId, NodeRow, Store},
    types::{Millis, PublicKey, ServerId},
};
use certificate::Certificate;
use news::News;
use rustix::fs::{FlockOperation, flock};
use std::{
    convert::Infallible,
    fs::{self, DirBuilder, File, OpenOptions},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};

/// Requests in flight when the node stops.
const GRACE: Duration = Duration::from_secs(3);
const SERVICES: [&str; 10] = [
    "protocol.sync.v1.PostboxService",
    "protocol.auth.v1.AuthService",
    "pillarbox.federation.v1.Courier",
    "pillarbox.postbox.v1.Mailroom",
    "mpc.router.v1.MessageRouter",
    "chat.Chat",
    "pillarbox.relay.v1.Sessions",
    "galaxy.backend.push.v1.Push",
    "pillarbox.push.v1.Publisher",
    "pillarbox.push.v1.Sessions",
];

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator asked for something that cannot be; the text says what to change.
    #[error("{0}")]
    BadConfig(String),
    /// The machine did not give what is needed.
    #[error("{0}")]
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

/// What the ready line says.
#[derive(Debug, Clone)]
pub struct Ready {
    pub server_id: ServerId,
    pub listen: SocketAddr,
    pub key: PublicKey,
    pub tls: Mode,
}

/// A running node.
pub struct Node {
    ready: Ready,
    metrics_address: Option<SocketAddr>,
    certificate: Option<Certificate>,
    health: HealthReporter,
    /// Ends what serves.
    closing: CancellationToken,
    /// Ends what delivers.
    stop: CancellationToken,
    tasks: TaskTracker,
    federation: Federation,
    relay: Relay,
    chat: Chat,
    push: Push,
    dialer: Dialer,
    store: Store,
    socket: PathBuf,
    /// Held until the process is done with the directory.
    _lock: File,
}

impl Node {
    /// Starts everything; when this returns, calls are taken.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let lock = take_directory(&config.data_dir)?;
        let store = Store::open(&config.data_dir).await?;
        let started = Self::start_on(config, lock, store.clone()).await;
        if started.is_err() {
            store.close().await;
        }
        started
    }

    async fn start_on(config: Config, lock: File, store: Store) -> Result<Self, StartError> {
        let known = store.node().await?;
        let key = node_key(&config.data_dir.join("node.key"), &known)?;
        let listener = bind(config.listen, known.port)?;
        let address = listener.local_addr();
        let server_id = settle_id(&config, &known, &store.former_ids().await?, address)?;
        store.submit(Change::PutNode { server_id: server_id.clone(), port: address.port() }).await?;

        let metrics = Metrics::new();
        let ca_file = Some(config.federation.ca_file.clone()).filter(|path| !path.as_os_str().is_empty());
        let allow_private_addresses = config.federation.allow_private_addresses;
        let dialer = Dialer::new(&DialConfig { allow_private_addresses, ca_file: ca_file.clone() })?;
        let notifier = Notifier::new(&config.relay.notify, dialer.clone(), ca_file.as_deref(), metrics.clone())?;
        let now = Millis::now();
        let former = store.former_ids().await?.into_iter().filter(|former| former.until > now);
        let former_ids: Vec<ServerId> = former.map(|former| former.server_id).collect();
        let ids: Vec<ServerId> = [server_id.clone()].into_iter().chain(former_ids.iter().cloned()).collect();
        let certificate = Certificate::new(&config, &ids, &key)?;
        let renaming = certificate.clone();
        let (closing, stop, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        // Whatever was started ends, should a later step fail.
        let undo = (closing.clone().drop_guard(), stop.clone().drop_guard());
        let push = Push::open_on(config.push.clone(), store.clone(), metrics.clone(), stop.clone()).await?;
        let tokens = Tokens::new(store.clone());
        tokens.read_parties().await?;
        let users = Users::new(store.clone(), tokens.clone());
        let (relay_config, relay_tokens) = (config.relay.clone(), tokens.clone());
        let relay = Relay::open_on(
            relay_config,
            store.clone(),
            key.clone(),
            relay_tokens,
            metrics.clone(),
            notifier,
            stop.clone(),
        )
        .await?;
        let (chat, opened) = Chat::open_on(chat::Parts {
            config: config.chat.clone(),
            store: store.clone(),
            metrics: metrics.clone(),
            key: key.clone(),
            max_age: config.federation.queue_max_age,
            stop: stop.clone(),
        })
        .await?;
        let federation = Federation::start(Parts {
            config: config.federation.clone(),
            store: store.clone(),
            key: key.clone(),
            dialer: dialer.clone(),
            metrics: metrics.clone(),
            own_id: server_id.clone(),
            former_ids,
            before_rename: Box::new(move |ids| renaming.as_ref().map_or(Ok(()), |certificate| certificate.name(ids))),
            letters: Takers { relay: Arc::new(relay.clone()), chat: Arc::new(chat.clone()) },
            listener: Some(Box::new(News { push: push.clone(), users: users.clone() })),
            stop: stop.clone(),
        })
        .await?;
        relay.start(federation.clone());
        chat.start(federation.clone(), opened);

        tasks.spawn(tokens.clone().run(stop.clone()));
        tasks.spawn(tokens.clone().tell_lapses(stop.clone()));
        let socket = config.data_dir.join("admin.sock");
        let operator = admin::Service {
            federation: federation.clone(),
            tokens: tokens.clone(),
            users: users.clone(),
            key: key.public(),
            tasks: tasks.clone(),
            stop: closing.clone(),
        };
        let commands = Routes::new(AdminServer::new(operator).max_decoding_message_size(66 << 20));
        let commands = plain(commands.add_service(operator_sessions(&relay)));
        tasks.spawn(socket::serve(socket::bind(&socket)?, commands, closing.clone()));

        let limits = Limits::new(config.limits);
        let metrics_address = match config.metrics.listen {
            None => None,
            Some(address) => {
                let listener = Listener::bind(address)?;
                let address = listener.local_addr();
                let service = metrics::Service { metrics, federation: federation.clone() };
                tasks.spawn(listen::serve(listener, None, limits.clone(), service, closing.clone(), GRACE));
                Some(address)
            }
        };
        let (health, door) = door(&federation, &relay, &chat, &push, tokens, users).await?;
        let tls = certificate.as_ref().map(|certificate| certificate.tls.clone());
        tasks.spawn(listen::serve(listener, tls, limits, door, closing.clone(), GRACE));
        if let Some(certificate) = certificate.clone() {
            tasks.spawn(certificate.watch(stop.clone()));
        }
        undo.0.disarm();
        undo.1.disarm();
        let ready = Ready { server_id, listen: address, key: key.public(), tls: config.tls.mode };
        tracing::info!(server_id = %ready.server_id, listen = %ready.listen, "ready");
        Ok(Self {
            ready,
            metrics_address,
            certificate,
            health,
            closing,
            stop,
            tasks,
            federation,
            relay,
            chat,
            push,
            dialer,
            store,
            socket,
            _lock: lock,
        })
    }

    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The postbox of this node, for whoever runs it in their own process.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// Where metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Reads certificate files again.
    pub async fn reload(&self) -> Result<(), Error> {
        self.certificate.as_ref().map_or(Ok(()), Certificate::reload)
    }

    /// Not ready, no new connections, streams end, the Push in flight is
    /// finished or recorded, the writer is drained, the database closed.
    pub async fn shutdown(self) {
        for service in SERVICES {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        self.closing.cancel();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.relay.ended().await;
        self.chat.ended().await;
        self.push.ended().await;
        self.federation.ended().await;
        self.dialer.shutdown().await;
        self.store.close().await;
        // A command that comes now is told that no node is running.
        let _ = fs::remove_file(&self.socket);
    }
}

/// Makes the directory (0700) and takes its lock.
fn take_directory(path: &Path) -> Result<File, StartError> {
    let failed = |what: &str, cause: std::io::Error| StartError::Failed(format!("{what} {}: {cause}", path.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|cause| failed("cannot make", cause))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|cause| failed("cannot chmod 700", cause))?;
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(|cause| failed("cannot open the lock in", cause))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        StartError::Failed(format!(
            "another pillarbox runs on {}: stop it first, or give this one another --data-dir",
            path.display()
        ))
    })?;
    Ok(lock)
}

/// A node that has an id keeps its key: its peers would refuse another.
fn node_key(path: &Path, known: &NodeRow) -> Result<NodeKey, StartError> {
    if let Some(id) = &known.server_id
        && path.try_exists().is_ok_and(|there| !there)
    {
        return Err(StartError::Failed(format!(
            "{} is missing, and peers know {id} by that key: restore the file. If it is lost for good, start a new node \
             on an empty --data-dir; every peer has to remove {id} and add it anew",
            path.display()
        )));
    }
    Ok(NodeKey::load_or_make(path)?)
}

/// With port 0 the port of the last run is taken again if it is free.
fn bind(address: SocketAddr, last: Option<u16>) -> Result<Listener, Error> {
    if let (0, Some(last)) = (address.port(), last)
        && let Ok(listener) = Listener::bind(SocketAddr::new(address.ip(), last))
    {
        return Ok(listener);
    }
    Listener::bind(address)
}

/// The id is kept: peers know this node by it. A node that was renamed and is
/// told no id starts under the new one.
fn settle_id(
    config: &Config,
    known: &NodeRow,
    former: &[FormerId],
    address: SocketAddr,
) -> Result<ServerId, StartError> {
    let asked = config.server_id(address);
    let Some(id) = known.server_id.clone().filter(|id| *id != asked) else { return Ok(asked) };
    if config.server_id.is_none() && former.iter().any(|former| former.server_id == asked) {
        return Ok(id);
    }
    Err(StartError::BadConfig(format!(
        "this node is {id} (so its data directory says) and would start as {asked}; \
         start it as {id} (--server-id {id}), or rename it: `pillarbox server rename {asked}` on the running node"
    )))
}

/// What the one port serves, and the reporter of its health.
async fn door(
    federation: &Federation,
    relay: &Relay,
    chat: &Chat,
    push: &Push,
    tokens: Tokens,
    users: Users,
) -> Result<(HealthReporter, Door), Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        SERVICES.into_iter().fold(builder, |builder, service| builder.with_service_name(service))
    };
    let routes = Routes::new(federation.postbox_service())
        .add_service(federation.auth_service())
        .add_service(federation.courier_service())
        .add_service(federation.mailroom_service(tokens.clone()))
        .add_service(relay.service(tokens.clone()))
        .add_service(relay.sessions_service(tokens.clone()))
        .add_service(chat.service(tokens.clone(), users.clone()))
        .add_service(push.service(tokens.clone()))
        .add_service(push.publisher_service(tokens.clone(), users))
        .add_service(Sessions::service(tokens))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(Error::internal)?)
        .add_service(reflection().build_v1alpha().map_err(Error::internal)?);
    let methods = Methods::of(&[DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET])?;
    let web = GrpcWebLayer::new().layer(plain(routes));
    Ok((health, Door::new(HrpcLayer::new(methods, DEFAULT_MAX_BODY).layer(web))))
}

type Door = tower::util::BoxCloneService<http::Request<Body>, http::Response<Body>, Infallible>;

/// gRPC routes as a service of plain bodies.
fn plain(
    routes: Routes,
) -> impl Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    routes
        .into_axum_router()
        .into_service()
        .map_response(|response: http::Response<_>| requests::reworded(response.map(Body::new)))
}
