//! Calls to one peer: connection, key, signed requests.
//!
//! Keeps at most one connection and lets go of it when it is idle. Tokens are
//! signed anew at each call. Never retries (the delivery machine does) and
//! never follows a redirect.

use super::{
    Inner, courier,
    delivery::{Failure, Kind},
    parcels,
    peers::{Peer, Transport},
};
use crate::{
    error::Error,
    identity::postbox_token::{self, Nonce, Request},
    net::{
        dial::{DialError, Target},
        grpc::Strict,
        hrpc::HrpcClient,
        link::Link,
        tls::Verified,
    },
    proto::{
        pillarbox::federation::v1::{Batch, Receipt, courier_client::CourierClient},
        protocol::{
            auth::v1::{KeyRequest, KeyResponse, auth_service_client::AuthServiceClient},
            sync::v1::{NotifyNewIdRequest, postbox_service_client::PostboxServiceClient},
        },
    },
    store::{KeyOrigin, PeerKind},
    types::{PublicKey, ServerId, unix_seconds},
};
use bytes::Bytes;
use prost::Message;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{RwLock, RwLockReadGuard, SemaphorePermit, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::StatusExt;

/// An idle connection costs memory at both ends.
pub const IDLE: Duration = Duration::from_secs(60);
/// One that was made for a Pull that found nothing; longer than the peer may wait
/// to see whether its answer arrived.
const UNUSED: Duration = Duration::from_secs(10);
/// Connecting, of a call's time: of a peer that is well, and of one that is not.
const DIAL: Duration = Duration::from_secs(8);
const FAILING_DIAL: Duration = Duration::from_secs(4);
/// Waiting for a place among the attempts at peers that fail.
const TURN: Duration = Duration::from_secs(10);
/// A Pull answer of a stock peer is everything it had.
const ANSWER_MAX: usize = 64 << 20;
/// What `KeyResponse.speaks` says of a server that knows positions and states.
pub const SPEAKS: &str = "postbox/1";

/// A method of `PostboxService`, or of our own `Courier`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Pull,
    Push,
    NotifyNewId,
    /// A stream, opened by [`Remote::deliver`].
    Deliver,
}

impl Method {
    /// The gRPC path, which a bound token names.
    pub fn path(self) -> &'static str {
        match self {
            Self::Pull => "/protocol.sync.v1.PostboxService/Pull",
            Self::Push => "/protocol.sync.v1.PostboxService/Push",
            Self::NotifyNewId => "/protocol.sync.v1.PostboxService/NotifyNewId",
            Self::Deliver => "/pillarbox.federation.v1.Courier/Deliver",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "Pull",
            Self::Push => "Push",
            Self::NotifyNewId => "NotifyNewId",
            Self::Deliver => "Deliver",
        }
    }
}

/// A call that failed: what the machine makes of it, and what the operator reads.
#[derive(Debug, Clone)]
pub struct CallError {
    pub failure: Failure,
    pub text: String,
    /// What the peer's status was, if it gave one.
    pub code: Option<Code>,
}

impl CallError {
    pub fn transient(text: impl Into<String>) -> Self {
        Self { failure: Failure::Transient { retry_after: None }, text: text.into(), code: None }
    }

    pub fn local(error: Error) -> Self {
        Self { failure: Failure::Local, text: error.to_string(), code: None }
    }
}

impl From<DialError> for CallError {
    fn from(error: DialError) -> Self {
        Self::transient(error.to_string())
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let failure = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => Failure::Refused,
            _ => Failure::Transient { retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay) },
        };
        Self { failure, text: format!("{:?}: {}", status.code(), status.message()), code: Some(status.code()) }
    }
}

/// An open connection and what is spoken on it.
#[derive(Clone)]
struct Open {
    link: Link,
    transport: Transport,
    /// What the operator, or `Key`, said of the peer when it was dialled.
    target: Arc<Target>,
}

/// A place among the attempts at peers that fail, if it takes one.
pub struct Turn<'a>(Option<SemaphorePermit<'a>>);

/// An open stream for batches.
pub struct Stream {
    /// The id of the peer when it was opened.
    pub destination: ServerId,
    pub nonce: Nonce,
    /// Boxed, as a channel makes room for many at once.
    pub batches: mpsc::Sender<Box<Batch>>,
    pub receipts: tonic::Streaming<Receipt>,
    /// The receipt that came before any batch.
    pub first: Receipt,
    target: Arc<Target>,
}

fn header(token: String) -> MetadataValue<tonic::metadata::Ascii> {
    MetadataValue::try_from(token).expect("base64 is a header value")
}

/// The way to one peer.
pub struct Remote {
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    /// And when it is idle.
    open: Mutex<Option<(Open, Instant)>>,
    /// Held together by calls under way, alone by one that tells of a new id:
    /// nothing that was signed under the old one arrives behind it.
    under_way: RwLock<()>,
}

impl Remote {
    pub fn new(inner: Arc<Inner>, peer: Arc<Peer>) -> Self {
        Self { inner, peer, open: Mutex::new(None), under_way: RwLock::new(()) }
    }

    /// Calls `method` with a fresh token. `body`: the serialized request.
    /// `patience` is for everything, dialling too, once it has its turn.
    pub async fn call(&self, method: Method, body: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let turn = self.turn().await?;
        let deadline = Instant::now() + patience;
        let late = || CallError::transient(format!("no answer within {} s", patience.as_secs()));
        let answer = timeout_at(deadline, self.call_by(method, body, deadline, turn)).await;
        let answer = answer.unwrap_or_else(|_| Err(late()));
        if let Err(error) = &answer
            && !matches!(error.failure, Failure::Refused)
        {
            // Whatever is wrong may be wrong with the connection.
            self.close();
        }
        answer
    }

    async fn call_by(
        &self,
        method: Method,
        body: Bytes,
        deadline: Instant,
        turn: Turn<'_>,
    ) -> Result<Bytes, CallError> {
        let open = self.connection(deadline, turn).await?;
        // A Pull comes every minute, and finds nothing as a rule.
        if method != Method::Pull {
            self.touch();
        }
        let (own, _under_way) = self.known_id(&open).await?;
        self.send(open, method, body, own).await
    }

    /// The id that the peer knows this node by: nothing else is sent before it
    /// has heard of a new one. It stays so while the guard is held.
    async fn known_id(&self, open: &Open) -> Result<(ServerId, RwLockReadGuard<'_, ()>), CallError> {
        loop {
            let under_way = self.under_way.read().await;
            if let (own, None) = self.ids() {
                return Ok((own, under_way));
            }
            drop(under_way);
            let _alone = self.under_way.write().await;
            if let (own, Some(known_as)) = self.ids() {
                Box::pin(self.tell_new_id(open, &own, known_as)).await?;
            }
        }
    }

    /// The id of this node, and the one that the peer still knows it by.
    fn ids(&self) -> (ServerId, Option<ServerId>) {
        self.inner.with_own_id(|own| (own.clone(), self.peer.known_as()))
    }

    async fn tell_new_id(&self, open: &Open, own: &ServerId, known_as: ServerId) -> Result<(), CallError> {
        let request = NotifyNewIdRequest { new_server_id: own.to_string() };
        let told = self.send(open.clone(), Method::NotifyNewId, request.encode_to_vec().into(), known_as).await;
        match told {
            Ok(_) => {}
            // A server that cannot be told never will be.
            Err(error) if error.code == Some(Code::Unimplemented) => {
                tracing::warn!(peer = %self.peer.server_id(), "the peer does not follow changes of id; it must be told by hand");
            }
            Err(error) => return Err(error),
        }
        self.inner.registry.told(self.peer.row_id()).await.map_err(CallError::local)
    }

    /// A peer that fails must not take connections from those that answer: its
    /// attempts have few places, and wait for one. That is not their own time: a slow
    /// peer among many dead ones would be left too little of it, each time.
    pub async fn turn(&self) -> Result<Turn<'_>, CallError> {
        if !self.peer.is_failing() || self.kept().is_some() {
            return Ok(Turn(None));
        }
        match timeout(TURN, self.inner.failing_attempts.acquire()).await {
            Ok(Ok(place)) => Ok(Turn(Some(place))),
            Ok(Err(_)) => Err(CallError::transient("stopping")),
            Err(_) => {
                Err(CallError::transient(format!("not tried: too many servers fail, no turn in {} s", TURN.as_secs())))
            }
        }
    }

    /// Opens a stream for batches. `None`: the peer takes none. The deadline covers
    /// dialling and the first receipt.
    pub async fn deliver(&self, deadline: Instant, turn: Turn<'_>) -> Result<Option<Stream>, CallError> {
        let open = self.connection(deadline, turn).await?;
        if open.transport == Transport::Hrpc || !open.link.is_h2() || !self.peer.has_courier() {
            return Ok(None);
        }
        self.touch();
        let (own, _under_way) = self.known_id(&open).await?;
        let (destination, nonce) = (self.peer.server_id(), postbox_token::fresh_nonce().map_err(CallError::local)?);
        let opening = Request { method: Method::Deliver.path(), body: &[] };
        let token = postbox_token::mint_with(&self.inner.key, &own, &destination, opening, unix_seconds(), nonce);
        // The window bounds what is under way: here only the next batch waits.
        let (batches, outgoing) = mpsc::channel(1);
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing).map(|batch: Box<Batch>| *batch));
        request.metadata_mut().insert("authorization", header(token));
        let origin = open.link.origin();
        let mut client = CourierClient::with_origin(Strict(open.link), origin);
        let first = async {
            let mut receipts = client.deliver(request).await?.into_inner();
            let first = receipts.message().await?;
            Ok::<_, Status>((first.ok_or_else(|| Status::unavailable("the stream ended before it began"))?, receipts))
        };
        match first.await {
            Ok((first, receipts)) => {
                Ok(Some(Stream { destination, nonce, batches, receipts, first, target: open.target }))
            }
            Err(status) if status.code() == Code::Unimplemented => {
                self.peer.set_courier(false);
                Ok(None)
            }
            Err(status) => Err(status.into()),
        }
    }

    /// The peer is to be reached elsewhere than where this stream leads, or has to
    /// hear of our new id before it gets anything more.
    pub fn is_stale(&self, stream: &Stream) -> bool {
        self.peer.target() != *stream.target || self.peer.known_as().is_some()
    }

    /// The connection is in use.
    pub fn touch(&self) {
        if let Some((_, idle_at)) = self.open.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *idle_at = Instant::now() + IDLE;
        }
    }

    async fn send(&self, open: Open, method: Method, body: Bytes, own: ServerId) -> Result<Bytes, CallError> {
        let destination = self.peer.server_id();
        let request = Request { method: method.path(), body: &body };
        let token = postbox_token::mint(&self.inner.key, &own, &destination, request, unix_seconds())
            .map_err(CallError::local)?;
        let mut request = tonic::Request::new(body);
        request.metadata_mut().insert("authorization", header(token));
        let origin = open.link.origin();
        let answer = match open.transport {
            Transport::Hrpc => {
                let service = HrpcClient::new(open.link, ANSWER_MAX);
                postbox(method, PostboxServiceClient::with_origin(service, origin), request).await
            }
            Transport::Grpc | Transport::Unknown => {
                postbox(method, PostboxServiceClient::with_origin(Strict(open.link), origin), request).await
            }
        };
        Ok(answer?)
    }

    /// Lets go of a connection that nobody has used for a while. Returns when
    /// it is worth asking again.
    pub fn close_idle(&self) -> Option<Instant> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let idle_at = open.as_ref().map(|(_, idle_at)| *idle_at)?;
        if idle_at <= Instant::now() {
            *open = None;
            return None;
        }
        Some(idle_at)
    }

    /// There is a connection on which a request may be under way.
    pub fn is_connected(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Lets go of the connection.
    pub fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The connection that is there, if it is still of use.
    fn kept(&self) -> Option<Open> {
        let target = self.peer.target();
        let kept = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let good = |open: &Open| !open.link.is_closed() && *open.target == target;
        kept.as_ref().map(|(open, _)| open).filter(|open| good(open)).cloned()
    }

    /// The turn ends when it is made.
    async fn connection(&self, deadline: Instant, turn: Turn<'_>) -> Result<Open, CallError> {
        if let Some(open) = self.kept() {
            return Ok(open);
        }
        let target = self.peer.target();
        // Others that fail wait for this one's place.
        let patience = if turn.0.is_some() { FAILING_DIAL } else { DIAL };
        // Boxed here and below: rare and large, it would take room in every call, and while it waits for its place.
        let link = Box::pin(self.inner.dialer.dial(&target, deadline.min(Instant::now() + patience))).await?;
        let transport = match self.peer.transport() {
            // Why it fails may be that it speaks something else now.
            _ if self.peer.is_failing() => self.introduce(&link).await?,
            // One of ours may speak more than when this process last heard, and says so.
            Transport::Grpc if self.peer.row().kind == PeerKind::Pillarbox && !self.peer.has_courier() => {
                self.introduce(&link).await?
            }
            // HTTP/1.1 carries no gRPC.
            Transport::Grpc if link.is_h2() => Transport::Grpc,
            Transport::Hrpc => Transport::Hrpc,
            Transport::Grpc | Transport::Unknown => self.introduce(&link).await?,
        };
        let open = Open { link, transport, target: target.into() };
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((open.clone(), Instant::now() + UNUSED));
        Ok(open)
    }

    /// Finds out by `Key` what the peer speaks and who it is.
    async fn introduce(&self, link: &Link) -> Result<Transport, CallError> {
        let introduction = Box::pin(ask_key(link)).await?;
        Box::pin(self.inner.note_introduction(&self.peer, &introduction)).await?;
        Ok(introduction.transport)
    }
}

impl Inner {
    /// Keeps what `Key` told of a peer, unless it shows another key than it has.
    pub(super) async fn note_introduction(&self, peer: &Peer, told: &Introduction) -> Result<(), CallError> {
        let key = match peer.row().key {
            Some(known) if known.key != told.key && known.origin == KeyOrigin::Operator => {
                return Err(CallError::transient(format!(
                    "{} shows another key than the one given for it; if it has a new one: peer add --key",
                    peer.server_id()
                )));
            }
            // A learnt key gives way only when a signature shows that it must.
            Some(known) => known.key,
            None => told.key,
        };
        peer.set_courier(told.courier);
        self.registry.learn(peer.row_id(), Introduction { key, ..told.clone() }).await.map_err(CallError::local)
    }
}

async fn postbox<S>(
    method: Method,
    client: PostboxServiceClient<S>,
    request: tonic::Request<Bytes>,
) -> Result<Bytes, Status>
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let mut client = client.max_decoding_message_size(ANSWER_MAX);
    let answer = match method {
        Method::Pull => client.pull(request).await?,
        Method::Push => client.push(request).await?,
        Method::NotifyNewId => client.notify_new_id(request).await?,
        Method::Deliver => return Err(Status::internal("a stream is not opened by a call")),
    };
    Ok(answer.into_inner())
}

/// What `Key` told.
#[derive(Debug, Clone)]
pub struct Introduction {
    pub transport: Transport,
    pub kind: Kind,
    /// It takes parcels.
    pub parcels: bool,
    /// It takes letters of chats.
    pub chat: bool,
    /// It takes batches.
    pub courier: bool,
    pub key: PublicKey,
    /// How the channel was verified: only then the key is worth something.
    pub verified: Verified,
}

/// Asks `Key` by gRPC and, where that is not spoken, by hRPC.
pub async fn ask_key(link: &Link) -> Result<Introduction, CallError> {
    let origin = link.origin();
    let mut why = None;
    if link.is_h2() {
        let mut client = AuthServiceClient::with_origin(Strict(link.clone()), origin.clone());
        match client.key(KeyRequest {}).await {
            Ok(answer) => return introduction(link, Transport::Grpc, answer.into_inner()),
            Err(status) => why = Some(status),
        }
    }
    let mut client = AuthServiceClient::with_origin(HrpcClient::new(link.clone(), 64 << 10), origin);
    match client.key(KeyRequest {}).await {
        Ok(answer) => introduction(link, Transport::Hrpc, answer.into_inner()),
        // Where neither is spoken, what gRPC said is the better word.
        Err(status) => Err(why.unwrap_or(status).into()),
    }
}

fn introduction(link: &Link, transport: Transport, answer: KeyResponse) -> Result<Introduction, CallError> {
    let key = PublicKey::from_bytes(&answer.key).map_err(|error| CallError::transient(format!("Key: {error}")))?;
    let speaks = |what: &str| answer.speaks.iter().any(|said| said == what);
    let kind = match speaks(SPEAKS) {
        true => Kind::Ours,
        false => Kind::Stock,
    };
    // A parcel needs its place in the stream.
    let parcels = kind == Kind::Ours && speaks(parcels::SPEAKS);
    let chat = parcels && speaks(parcels::SPEAKS_CHAT);
    let courier = kind == Kind::Ours && speaks(courier::SPEAKS);
    Ok(Introduction { transport, kind, parcels, chat, courier, key, verified: link.verified() })
}

/// The way to a server that is no peer (yet).
pub fn stranger(id: ServerId) -> Target {
    Target { id, address: None, plaintext: false, http1: false, pinned: None, trusted: false }
}

#[cfg(test)]
mod tests;
