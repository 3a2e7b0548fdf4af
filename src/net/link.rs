//! One connection to another server, as a service for the generated clients.
//!
//! HTTP/2 carries many requests at once, HTTP/1.1 one after the other. Its
//! task ends when the last clone and the last response body are gone. Never
//! dials again: a closed link stays closed.

use crate::{
    net::{tasks::Tasks, tls::Verified},
    types::ServerId,
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::body::Body;

const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
const HEADER_LIST: u32 = 16 * 1024;
const HTTP1_BUFFER: usize = 64 * 1024;
/// To say goodbye (GOAWAY, close_notify) when nobody holds the link any more.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the connection to {0} is closed")]
    Closed(ServerId),
    #[error("the connection to {id} failed: {cause}")]
    Http { id: ServerId, cause: hyper::Error },
}

impl LinkError {
    /// The request surely never left, so it may be sent again elsewhere.
    pub fn never_sent(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

/// A cheap clone. `with_origin(link.clone(), link.origin())` makes a generated
/// client of it.
#[derive(Clone)]
pub struct Link {
    sender: Sender,
    shared: Arc<Shared>,
}

#[derive(Clone)]
enum Sender {
    H2(http2::SendRequest<Body>),
    H1(Arc<Turns>),
}

/// HTTP/1.1: whose turn it is takes the sender and puts it back with the
/// response. Who gives up in between takes it along, which closes the
/// connection: the answer on its way is nobody's.
struct Turns {
    turn: Semaphore,
    sender: Mutex<Option<http1::SendRequest<Body>>>,
}

struct Shared {
    made: Made,
    closed: Arc<AtomicBool>,
    _gone: DropGuard,
}

/// What dialling found out.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) id: ServerId,
    pub(super) remote: SocketAddr,
    pub(super) verified: Verified,
    pub(super) h2: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("made", &self.shared.made).field("closed", &self.is_closed()).finish()
    }
}

impl Link {
    pub(super) async fn start<IO>(io: IO, made: Made, tasks: &Tasks) -> Result<Self, hyper::Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let gone = CancellationToken::new();
        let closed = Arc::new(AtomicBool::new(false));
        let cut = tasks.cut.child_token();
        let life = Life { gone: gone.clone(), cut: cut.clone(), closed: closed.clone(), own: TaskTracker::new() };
        let sender = if made.h2 {
            // No keep-alive pings: a stock gRPC server answers too_many_pings.
            let (sender, connection) = http2::Builder::new(Tasks { tracker: life.own.clone(), cut })
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(HEADER_LIST)
                .handshake(TokioIo::new(io))
                .await?;
            tasks.tracker.spawn(life.run(Box::pin(connection)));
            Sender::H2(sender)
        } else {
            let (sender, connection) =
                http1::Builder::new().max_buf_size(HTTP1_BUFFER).handshake(TokioIo::new(io)).await?;
            tasks.tracker.spawn(life.run(Box::pin(connection)));
            Sender::H1(Arc::new(Turns { turn: Semaphore::new(1), sender: Mutex::new(Some(sender)) }))
        };
        Ok(Self { sender, shared: Arc::new(Shared { made, closed, _gone: gone.drop_guard() }) })
    }

    /// No request will go out any more.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
            || match &self.sender {
                Sender::H2(sender) => sender.is_closed(),
                // Taken during a turn, and back after it: only its own state tells.
                Sender::H1(turns) => match &*turns.slot() {
                    Some(sender) => sender.is_closed(),
                    None => turns.turn.available_permits() > 0,
                },
            }
    }

    /// A clone of the other, rather than another connection.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub fn verified(&self) -> Verified {
        self.shared.made.verified
    }

    pub fn is_h2(&self) -> bool {
        self.shared.made.h2
    }

    /// The address connected to.
    pub fn remote(&self) -> SocketAddr {
        self.shared.made.remote
    }

    /// `https://id` or `http://id`.
    pub fn origin(&self) -> Uri {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(match self.verified() {
            Verified::Plaintext => uri::Scheme::HTTP,
            _ => uri::Scheme::HTTPS,
        });
        parts.authority =
            Some(self.shared.made.id.as_str().parse().expect("a server id is an authority: its parser saw to that"));
        parts.path_and_query = Some(uri::PathAndQuery::from_static("/"));
        Uri::from_parts(parts).expect("scheme, authority and path are all there")
    }

    /// Sends one request. Of its URI only path and query matter. Over HTTP/1.1
    /// it waits for the response before it to be read or dropped, and a `Host`
    /// that the request has is kept.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<LinkBody>, LinkError> {
        let id = &self.shared.made.id;
        let path = request.uri().path_and_query().cloned().unwrap_or(uri::PathAndQuery::from_static("/"));
        let failed = |cause| LinkError::Http { id: id.clone(), cause };
        let response = match &self.sender {
            Sender::H2(sender) => {
                let mut parts = self.origin().into_parts();
                parts.path_and_query = Some(path);
                *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
                let mut sender = sender.clone();
                if sender.is_closed() {
                    return Err(LinkError::Closed(id.clone()));
                }
                sender.send_request(request).await.map_err(failed)?
            }
            Sender::H1(turns) => {
                *request.uri_mut() = path.into();
                let host = HeaderValue::from_str(id.as_str()).expect("a server id is visible ASCII");
                request.headers_mut().entry(header::HOST).or_insert(host);
                let closed = || LinkError::Closed(id.clone());
                let _turn = turns.turn.acquire().await.map_err(|_| closed())?;
                let mut sender = turns.slot().take().ok_or_else(closed)?;
                sender.ready().await.map_err(|_| closed())?;
                let response = sender.send_request(request).await.map_err(failed)?;
                *turns.slot() = Some(sender);
                response
            }
        };
        Ok(response.map(|body| LinkBody { body, _link: self.shared.clone() }))
    }
}

impl Turns {
    fn slot(&self) -> MutexGuard<'_, Option<http1::SendRequest<Body>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl tower::Service<Request<Body>> for Link {
    type Response = Response<LinkBody>;
    type Error = LinkError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, LinkError>> + Send>>;

    /// Always: a closed link says so in the call's own result.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let link = self.clone();
        Box::pin(async move { link.send(request).await })
    }
}

/// A response's body; keeps the connection alive while it is read.
pub struct LinkBody {
    body: Incoming,
    _link: Arc<Shared>,
}

impl http_body::Body for LinkBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The task that drives the connection, and its end.
struct Life {
    /// Nobody holds the link any more.
    gone: CancellationToken,
    /// The dialler shuts down.
    cut: CancellationToken,
    closed: Arc<AtomicBool>,
    /// What the HTTP library spawned for this connection.
    own: TaskTracker,
}

impl Life {
    /// The connection is dropped before its tasks are waited for: they end when it is gone.
    async fn run<C>(self, mut connection: Pin<Box<C>>)
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        tokio::select! {
            _ = &mut connection => {}
            () = self.cut.cancelled() => {}
            () = self.gone.cancelled() => {
                let _late = timeout(GOODBYE, self.cut.run_until_cancelled(&mut connection)).await;
            }
        }
        drop(connection);
        self.closed.store(true, Ordering::Release);
        self.own.close();
        let _late = timeout(GOODBYE, self.cut.run_until_cancelled(self.own.wait())).await;
        self.cut.cancel();
        self.own.wait().await;
    }
}
