//! A homeserver written from the contract alone (no positions, no states,
//! plain tokens) that behaves as its script says.
//!
//! It makes its gRPC and hRPC answers by hand, so that it can also make the
//! wrong ones. As a client it signs whatever it is told to sign.

use super::{LONG, TestNode};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use ed25519_dalek::{Signer, SigningKey};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillarbox::{
    net::{certificate, link::Link, tls::ServerTls},
    proto::{
        pillarbox::federation::v1::{Binding, Position, State},
        protocol::{
            auth::v1::KeyResponse,
            harmonytypes::v1::Token,
            sync::v1::{
                AuthData, PullRequest, PullResponse, PushRequest, PushResponse,
                postbox_service_client::PostboxServiceClient,
            },
        },
    },
    types::{PublicKey, ServerId, signed_bytes, unix_seconds},
};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status, body::Body, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

pub const PUSH: &str = "/protocol.sync.v1.PostboxService/Push";
pub const PULL: &str = "/protocol.sync.v1.PostboxService/Pull";
pub const DELIVER: &str = "/pillarbox.federation.v1.Courier/Deliver";
pub const NOTIFY: &str = "/protocol.sync.v1.PostboxService/NotifyNewId";

/// How a call is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    Well,
    Fail(Code),
    /// RESOURCE_EXHAUSTED with RetryInfo.
    Later(Duration),
    /// Never; until [`Faulty::hang_up`].
    Hang,
    /// As `Well`, once [`Faulty::release`] was called.
    Wait,
    /// Does as asked and ends the connection instead of answering.
    HangUp,
    /// A gRPC answer with bytes that are no message.
    Garbage,
    /// What a proxy shows when the server behind it is gone.
    Html,
}

/// A Push as it came.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub authorization: String,
    /// The serialized request.
    pub body: Bytes,
}

#[derive(Debug, Default)]
struct Script {
    pushes: VecDeque<Reply>,
    pulls: VecDeque<Reply>,
    /// When the script is over.
    always: Option<Reply>,
    /// Handed over at the next Pull, and forgotten.
    queue: Vec<Bytes>,
    applied: Vec<Bytes>,
    attempts: Vec<Pushed>,
    key: Vec<u8>,
    speaks: Vec<String>,
    /// How far the node's stream was applied, if it speaks of that.
    mark: State,
    delivers: usize,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    hrpc: bool,
    connections: AtomicU64,
    keys: AtomicU64,
    pulls: AtomicU64,
    hangups: watch::Sender<u64>,
    released: watch::Sender<bool>,
}

pub struct Faulty {
    pub id: ServerId,
    pub key: PublicKey,
    /// PEM that a client may trust as a root.
    pub certificate: String,
    signing: SigningKey,
    state: Arc<Shared>,
    _stop: DropGuard,
}

impl Faulty {
    /// Speaks gRPC only.
    pub async fn start() -> Self {
        Self::start_as(false).await
    }

    /// Speaks hRPC only, over HTTP/1.1.
    pub async fn start_hrpc() -> Self {
        Self::start_as(true).await
    }

    async fn start_as(hrpc: bool) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let signing = SigningKey::from_bytes(&seed);
        let key = PublicKey::from_bytes(signing.verifying_key().as_bytes()).unwrap();
        let pems =
            certificate::self_signed(&["localhost".into()], &key, &|bytes| signing.sign(bytes).to_bytes()).unwrap();
        let mut tls = (*ServerTls::new(&pems).unwrap().config()).clone();
        tls.alpn_protocols = vec![if hrpc { b"http/1.1".to_vec() } else { b"h2".to_vec() }];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Shared {
            script: Mutex::new(Script { key: key.as_bytes().to_vec(), ..Script::default() }),
            hrpc,
            connections: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            pulls: AtomicU64::new(0),
            hangups: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(listener, acceptor, state.clone(), stop.clone())));
        Self {
            id: format!("localhost:{}", address.port()).parse().unwrap(),
            key,
            certificate: pems.cert,
            signing,
            state,
            _stop: stop.drop_guard(),
        }
    }

    // ----- its script

    /// The next Pushes are answered so, one each.
    pub fn on_push(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.script.lock().unwrap().pushes.extend(replies);
    }

    pub fn on_pull(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.script.lock().unwrap().pulls.extend(replies);
    }

    /// Every Push, once the script is over.
    pub fn always(&self, reply: Reply) {
        self.state.script.lock().unwrap().always = Some(reply);
    }

    /// It says that it speaks these, and speaks of positions and states if they are
    /// among them; a stream of batches it never takes.
    pub fn speak(&self, what: &[&str]) {
        self.state.script.lock().unwrap().speaks = what.iter().map(ToString::to_string).collect();
    }

    /// What the next Pull takes.
    pub fn queue(&self, events: impl IntoIterator<Item = Bytes>) {
        self.state.script.lock().unwrap().queue.extend(events);
    }

    /// Ends all connections.
    pub fn hang_up(&self) {
        self.state.hangups.send_modify(|count| *count += 1);
    }

    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    // ----- what it saw

    /// Numbers of the events that were pushed and taken, in order.
    pub fn applied(&self) -> Vec<u64> {
        self.state.script.lock().unwrap().applied.iter().map(super::number).collect()
    }

    /// Pushes, answered well or not.
    pub fn attempts(&self) -> Vec<Pushed> {
        self.state.script.lock().unwrap().attempts.clone()
    }

    pub fn pushes(&self) -> usize {
        self.state.script.lock().unwrap().attempts.len()
    }

    /// Streams of batches that were asked for.
    pub fn delivers(&self) -> usize {
        self.state.script.lock().unwrap().delivers
    }

    pub fn pulls(&self) -> u64 {
        self.state.pulls.load(SeqCst)
    }

    /// Calls of `Key`.
    pub fn keys(&self) -> u64 {
        self.state.keys.load(SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.state.connections.load(SeqCst)
    }

    // ----- as a client

    /// The serialized token over `data`.
    pub fn sign(&self, data: &AuthData) -> Vec<u8> {
        let data = data.encode_to_vec();
        let sig = Bytes::copy_from_slice(&self.signing.sign(&data).to_bytes());
        Token { sig, data: data.into() }.encode_to_vec()
    }

    /// Signs bytes for a purpose of ours.
    pub fn sign_for(&self, purpose: &str, bytes: &[u8]) -> Vec<u8> {
        self.signing.sign(&signed_bytes(purpose, bytes)).to_bytes().to_vec()
    }

    /// A token of the contract, made `ahead` seconds ahead of the clock.
    pub fn plain_at(&self, ahead: i64) -> String {
        let time = unix_seconds().saturating_add_signed(ahead);
        STANDARD.encode(self.sign(&AuthData { server_id: self.id.to_string(), time, binding: None }))
    }

    pub fn plain(&self) -> String {
        self.plain_at(0)
    }

    /// A token as our own nodes make it.
    pub fn bound(&self, destination: &ServerId, method: &str, body: &[u8]) -> String {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).unwrap();
        self.bound_with(destination, method, body, nonce)
    }

    pub fn bound_with(&self, destination: &ServerId, method: &str, body: &[u8], nonce: [u8; 16]) -> String {
        let binding = Binding {
            destination: destination.to_string(),
            method: method.into(),
            body_sha256: Bytes::copy_from_slice(&Sha256::digest(body)),
            nonce: Bytes::copy_from_slice(&nonce),
        };
        let data = AuthData { server_id: self.id.to_string(), time: unix_seconds(), binding: Some(binding) };
        STANDARD.encode(self.sign(&data))
    }

    /// Pushes with a plain token over a connection of its own.
    pub async fn push(&self, node: &TestNode, event: Bytes) -> Result<(), Status> {
        call(&node.dial(false).await, PUSH, Some(&self.plain()), push_body(event)).await.map(drop)
    }

    /// Pulls with a plain token; the numbers of the events.
    pub async fn pull(&self, link: &Link) -> Result<Vec<u64>, Status> {
        let answer = call(link, PULL, Some(&self.plain()), pull_body()).await?;
        let answer = PullResponse::decode(answer).unwrap();
        Ok(answer.event_queue.iter().map(super::number).collect())
    }

    /// Pulls as one of ours would that has applied the node's stream through `state`.
    pub async fn pull_after(&self, link: &Link, state: State) -> PullResponse {
        let body = PullRequest { state: Some(state), waiting: 0 }.encode_to_vec().into();
        PullResponse::decode(call(link, PULL, Some(&self.plain()), body).await.unwrap()).unwrap()
    }
}

pub fn push_body(event: Bytes) -> Bytes {
    PushRequest { event, position: None }.encode_to_vec().into()
}

pub fn pull_body() -> Bytes {
    PullRequest::default().encode_to_vec().into()
}

/// One gRPC call with this `authorization`.
pub async fn call(link: &Link, path: &str, authorization: Option<&str>, body: Bytes) -> Result<Bytes, Status> {
    let mut metadata = MetadataMap::new();
    if let Some(value) = authorization {
        metadata.insert("authorization", value.parse().unwrap());
    }
    call_with(link, path, metadata, body).await
}

pub async fn call_with(link: &Link, path: &str, metadata: MetadataMap, body: Bytes) -> Result<Bytes, Status> {
    // A client of default limits: 4 MiB an answer.
    let mut client = PostboxServiceClient::with_origin(link.clone(), link.origin());
    let request = tonic::Request::from_parts(metadata, Default::default(), body);
    let answer = async {
        match path {
            PUSH => client.push(request).await,
            PULL => client.pull(request).await,
            NOTIFY => client.notify_new_id(request).await,
            other => panic!("no method {other}"),
        }
    };
    timeout(LONG, answer).await.unwrap().map(tonic::Response::into_inner)
}

// ----- the server

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Shared>, stop: CancellationToken) {
    while let Ok((tcp, _)) = listener.accept().await {
        state.connections.fetch_add(1, SeqCst);
        let (acceptor, state) = (acceptor.clone(), state.clone());
        let mut hangups = state.hangups.subscribe();
        let connection = async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let hrpc = state.hrpc;
            let service = service_fn(move |request| answer(state.clone(), request));
            if hrpc {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            } else {
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http2.serve_connection(TokioIo::new(tls), service).await;
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            tokio::select! {
                () = connection => {}
                _ = hangups.changed() => {}
            }
        }));
    }
}

async fn answer(state: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let wanted = if state.hrpc { "application/hrpc" } else { "application/grpc" };
    let kind = head.headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with(wanted) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Ok(response);
    }
    if head.uri.path() == DELIVER {
        // The stream goes on until it is answered.
        state.script.lock().unwrap().delivers += 1;
        return Ok(Status::unimplemented("as the contract has it").into_http());
    }
    let Ok(body) = body.collect().await else { return std::future::pending().await };
    let mut body = body.to_bytes();
    if !state.hrpc {
        // One message, not compressed: a flag and four bytes of length before it.
        body = body.split_off(5);
    }
    let (reply, message) = match head.uri.path() {
        "/protocol.auth.v1.AuthService/Key" => {
            state.keys.fetch_add(1, SeqCst);
            let script = state.script.lock().unwrap();
            let (key, speaks) = (script.key.clone().into(), script.speaks.clone());
            (Reply::Well, KeyResponse { key, speaks, ..KeyResponse::default() }.encode_to_vec())
        }
        PUSH => {
            let authorization = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let reply = state.pushed(authorization.unwrap_or_default(), body);
            let told = state.script.lock().unwrap().state();
            (reply, PushResponse { state: told }.encode_to_vec())
        }
        PULL => {
            state.pulls.fetch_add(1, SeqCst);
            let mut script = state.script.lock().unwrap();
            let reply = script.pulls.pop_front().unwrap_or(Reply::Well);
            let event_queue = match reply {
                Reply::Well | Reply::Wait => std::mem::take(&mut script.queue),
                _ => vec![],
            };
            (reply, PullResponse { event_queue, state: script.state(), ..PullResponse::default() }.encode_to_vec())
        }
        _ => (Reply::Fail(Code::Unimplemented), vec![]),
    };
    let status = match reply {
        Reply::Well => Status::ok(""),
        Reply::Garbage => return Ok(state.well(b"\xff\xff\xff\xff garbage".to_vec())),
        Reply::Fail(code) => Status::new(code, "as the script says"),
        Reply::Later(delay) => {
            let details = ErrorDetails::with_retry_info(Some(delay));
            Status::with_error_details(Code::ResourceExhausted, "later", details)
        }
        Reply::Hang => return std::future::pending().await,
        Reply::Wait => {
            let _ = state.released.subscribe().wait_for(|released| *released).await;
            Status::ok("")
        }
        Reply::HangUp => {
            state.hangups.send_modify(|count| *count += 1);
            return std::future::pending().await;
        }
        Reply::Html => {
            let mut response = Response::new(Body::new(Full::from("<html>bad gateway</html>")));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response.headers_mut().insert("content-type", "text/html".parse().unwrap());
            return Ok(response);
        }
    };
    match status.code() {
        Code::Ok => Ok(state.well(message)),
        _ => Ok(status.into_http()),
    }
}

impl Script {
    fn state(&self) -> Option<State> {
        self.speaks.iter().any(|it| it == "postbox/1").then_some(self.mark)
    }
}

impl Shared {
    fn pushed(&self, authorization: String, body: Bytes) -> Reply {
        let mut script = self.script.lock().unwrap();
        let reply = script.pushes.pop_front().or(script.always.clone()).unwrap_or(Reply::Well);
        if let Reply::Well | Reply::Wait | Reply::HangUp | Reply::Garbage = reply {
            let request = PushRequest::decode(body.clone()).unwrap();
            script.applied.push(request.event);
            if let Some(Position { epoch, number, id, .. }) = request.position {
                script.mark = State { epoch, mark: number, id };
            }
        }
        script.attempts.push(Pushed { authorization, body });
        reply
    }

    fn well(&self, message: Vec<u8>) -> Response<Body> {
        let builder = Response::builder();
        let response = if self.hrpc {
            let builder = builder.header("content-type", "application/hrpc").header("hrpc-version", "1");
            builder.body(Body::new(Full::from(message)))
        } else {
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(message.len().try_into().unwrap());
            framed.extend_from_slice(&message);
            let trailers = async {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                Some(Ok(trailers))
            };
            let body = Full::from(framed.freeze()).with_trailers(trailers);
            builder.header("content-type", "application/grpc").body(Body::new(body))
        };
        response.unwrap()
    }
}
