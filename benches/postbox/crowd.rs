//! A thousand peers in one process: pillarboxes that say yes to all, on one port,
//! under a name each and with one key; and the same as callers.
//!
//! What they cost a real node is measured there; this process is no part of it.

use crate::{Failure, process::NodeProcess};
use bytes::Bytes;
use pillarbox::{
    bench::events::{Shape, event},
    identity::{
        node_key::NodeKey,
        postbox_token::{self, Request as Called},
    },
    net::{
        certificate::self_signed,
        dial::{DialConfig, Dialer, Target},
        limits::{Config, Limits},
        link::Link,
        listen::{self, Listener},
        tls::ServerTls,
    },
    proto::{
        pillarbox::federation::v1::{Batch, Load, Receipt, Row, State, courier_client::CourierClient},
        protocol::{
            auth::v1::{KeyRequest, KeyResponse},
            sync::v1::{PullRequest, PullResponse},
        },
    },
    types::{PublicKey, ServerId, unix_seconds},
};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use tower::service_fn;

const DELIVER: &str = "/pillarbox.federation.v1.Courier/Deliver";
/// Batches that one of them takes before its receipt.
const GRANTED: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// The id of the one so many after the first.
pub fn id(number: usize) -> String {
    format!("p{number}.test:7443")
}

/// How far each has applied the node's stream.
type States = Arc<Mutex<HashMap<String, State>>>;

/// All of them, listening until this is dropped.
pub struct Crowd {
    pub address: SocketAddr,
    key: Arc<NodeKey>,
    limits: Limits,
    dialer: Dialer,
    _ends: DropGuard,
    _dir: tempfile::TempDir,
}

impl Crowd {
    pub fn new() -> Result<Self, Failure> {
        let dir = crate::directory()?;
        let key = Arc::new(NodeKey::load_or_make(&dir.path().join("node.key"))?);
        let pems = self_signed(&["localhost".into()], &key.public(), &|framed| key.sign_framed(framed))?;
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let (address, public) = (listener.local_addr(), key.public());
        let (stop, limits) =
            (CancellationToken::new(), Limits::new(Config { calls_per_second: 0, ..Config::default() }));
        let states = States::default();
        let service = service_fn(move |request| {
            let states = states.clone();
            async move { Ok::<_, Infallible>(answer(states, public, request).await) }
        });
        let (tls, grace, dialer) = (ServerTls::new(&pems)?, Duration::ZERO, Dialer::new(&DialConfig::default())?);
        tokio::spawn(listen::serve(listener, Some(tls), limits.clone(), service, stop.clone(), grace));
        Ok(Self { address, key, limits, dialer, _ends: stop.drop_guard(), _dir: dir })
    }

    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// Connections that are open to it.
    pub fn connections(&self) -> u32 {
        self.limits.connections()
    }

    /// One of them opens a stream to the node and has an event applied.
    pub async fn deliver(&self, number: usize, node: &NodeProcess) -> Result<Delivering, Failure> {
        let (address, destination): (SocketAddr, ServerId) = (node.listen.parse()?, node.server_id.parse()?);
        let target = Target {
            id: destination.clone(),
            address: Some((address.ip().to_string(), address.port())),
            plaintext: false,
            http1: false,
            pinned: Some(node.key.parse()?),
            trusted: true,
        };
        let link = self.dialer.dial(&target, Instant::now() + PATIENCE).await?;
        let nonce = postbox_token::fresh_nonce()?;
        let (called, own) = (Called { method: DELIVER, body: &[] }, id(number).parse()?);
        let token = postbox_token::mint_with(&self.key, &own, &destination, called, unix_seconds(), nonce);
        let (batches, outgoing) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert("authorization", token.parse()?);
        let mut client = CourierClient::with_origin(link.clone(), link.origin());
        let mut receipts = client.deliver(request).await?.into_inner();
        receipts.message().await?.ok_or("the stream ended before it began")?;
        let row = Row { number: 1, id: 1, event: event(Shape::Rejected, number as u64) };
        let load: Bytes = Load {
            destination: destination.to_string(),
            nonce: Bytes::copy_from_slice(&nonce),
            epoch: 1,
            after: 0,
            after_id: 0,
            rows: vec![row],
        }
        .encode_to_vec()
        .into();
        let signature = self.key.sign("courier batch", &Sha256::digest(&load)).to_vec().into();
        batches.send(Batch { load, signature }).await?;
        receipts.message().await?.ok_or("the stream ended before its receipt")?;
        Ok(Delivering { _link: link, _batches: batches, _receipts: receipts })
    }
}

/// An idle stream to a node.
pub struct Delivering {
    _link: Link,
    _batches: mpsc::Sender<Batch>,
    _receipts: Streaming<Receipt>,
}

/// As whom the request names.
async fn answer(states: States, key: PublicKey, request: http::Request<Body>) -> http::Response<Body> {
    let id = request.uri().authority().map_or_else(String::new, ToString::to_string);
    let state = lock(&states).get(&id).copied().unwrap_or_default();
    match request.uri().path() {
        "/protocol.auth.v1.AuthService/Key" => {
            let response = KeyResponse {
                key: Bytes::copy_from_slice(key.as_bytes()),
                speaks: vec!["postbox/1".into(), "courier/1".into()],
                server_id: id,
                former_ids: vec![],
            };
            let key = |_: Request<KeyRequest>| std::future::ready(Ok::<_, Status>(Response::new(response.clone())));
            Grpc::new(ProstCodec::<KeyResponse, KeyRequest>::default()).unary(service_fn(key), request).await
        }
        "/protocol.sync.v1.PostboxService/Pull" => {
            let response = PullResponse { event_queue: vec![], state: Some(state), positions: vec![] };
            let pull = |_: Request<PullRequest>| std::future::ready(Ok::<_, Status>(Response::new(response.clone())));
            Grpc::new(ProstCodec::<PullResponse, PullRequest>::default()).unary(service_fn(pull), request).await
        }
        DELIVER => {
            let deliver = |request: Request<Streaming<Batch>>| {
                let (sender, receipts) = mpsc::channel(2 * GRANTED as usize);
                tokio::spawn(take(states.clone(), id.clone(), state, request.into_inner(), sender));
                std::future::ready(Ok::<_, Status>(Response::new(ReceiverStream::new(receipts))))
            };
            Grpc::new(ProstCodec::<Receipt, Batch>::default()).streaming(service_fn(deliver), request).await
        }
        path => Status::unimplemented(path.to_owned()).into_http(),
    }
}

/// Says yes to every batch, until the stream ends.
async fn take(
    states: States,
    id: String,
    mut state: State,
    mut batches: Streaming<Batch>,
    receipts: mpsc::Sender<Result<Receipt, Status>>,
) {
    let receipt = |state, batches| Ok(Receipt { state: Some(state), batches, granted: batches + GRANTED });
    for covered in 0.. {
        if receipts.send(receipt(state, covered)).await.is_err() {
            return;
        }
        let Ok(Some(batch)) = batches.message().await else { return };
        let Ok(load) = Load::decode(batch.load) else { return };
        if let Some(last) = load.rows.last() {
            state = State { epoch: load.epoch, mark: last.number, id: last.id };
            lock(&states).insert(id.clone(), state);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
