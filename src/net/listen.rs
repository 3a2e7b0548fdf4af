//! The accept loop: one port for HTTP/1.1 and HTTP/2, with TLS or without.
//!
//! Owns the tasks of its connections and of their requests until they end.
//! Each request gets its [`Connection`] and [`Answer`] as extensions. Never
//! knows what is served.

use crate::{
    error::Error,
    net::{
        answer::{Answer, Outgoing},
        connection::{Connection, End, Stream, Tap},
        hrpc,
        limits::{Limits, Permit, Refusal},
        metered::Metered,
        tasks::Tasks,
        tls::ServerTls,
        tune,
    },
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt};

/// A TLS handshake, and the first bytes of HTTP, must have come by then.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of an HTTP/1.1 request; an idle connection lives that long too.
const HTTP1_HEAD: Duration = Duration::from_secs(30);
/// Bytes that a peer does not acknowledge break the connection after this.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// An HTTP/2 connection without a sign of life is asked for one.
const PING_AFTER: Duration = Duration::from_secs(60);
const PING_ANSWER: Duration = Duration::from_secs(20);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const STREAMS_PER_CONNECTION: u32 = 1024;
const HEADER_LIST: u32 = 16 * 1024;
/// What may come unread. Half of a window is given back at once, so that a stream over
/// 300 ms there and back is slowed down only beyond 10 MB/s. Bytes take memory once they
/// are there, and what takes bodies reads them or ends.
const STREAM_WINDOW: u32 = 6 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Heads of HTTP/1.1 in one request at most, and the bytes they come in.
const HTTP1_BUFFER: usize = 64 * 1024;
/// A request's message that began must be whole by then.
const MESSAGE: Duration = Duration::from_secs(60);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Port 0 takes a free one. Within a tokio runtime only.
    /// [`Error::Precondition`] says what is in the way.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bind = || -> io::Result<(TcpListener, SocketAddr)> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Else a restart would wait for the connections of the last run to time out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(1024)?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        };
        let (inner, local) =
            bind().map_err(|cause| Error::Precondition(format!("cannot listen on {address}: {cause}")))?;
        Ok(Self { inner, local })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// Serves until `stop`: then no more is accepted, GOAWAY is said, requests in
/// flight get `grace` to finish, and what is left is cut. Returns when every
/// task it started has ended.
pub async fn serve<S>(
    listener: Listener,
    tls: Option<ServerTls>,
    limits: Limits,
    service: S,
    stop: CancellationToken,
    grace: Duration,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    serve_with(listener, tls, limits, service, stop, Times::until(grace)).await;
}

/// How long is waited: for the handshake, for a message to be whole, for what is
/// in flight at the stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    handshake: Duration,
    message: Duration,
    grace: Duration,
}

impl Times {
    pub(super) fn until(grace: Duration) -> Self {
        Self { handshake: HANDSHAKE, message: MESSAGE, grace }
    }
}

pub(super) async fn serve_with<S>(
    listener: Listener,
    tls: Option<ServerTls>,
    limits: Limits,
    service: S,
    stop: CancellationToken,
    times: Times,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let (cut, tasks) = (CancellationToken::new(), TaskTracker::new());
    let acceptor = tls.map(|tls| TlsAcceptor::from(tls.config()));
    while let Some((tcp, remote)) = accept(&listener.inner, &stop).await {
        let place = match limits.open(remote.ip()) {
            Ok(place) => place,
            Err(refusal) => {
                tracing::debug!(%remote, limit = refusal.key(), "connection refused");
                continue;
            }
        };
        let host = Host {
            service: service.clone(),
            limits: limits.clone(),
            times,
            stop: stop.clone(),
            cut: cut.child_token(),
            tasks: tasks.clone(),
        };
        // Boxed, for the task to hold room for it once.
        let (connection, cut) = (Box::pin(host.connection(acceptor.clone(), tcp, remote)), cut.clone());
        tasks.spawn(async move {
            cut.run_until_cancelled_owned(connection).await;
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    if timeout(times.grace, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}

/// The next connection, `None` on `stop`. No error ends it: those of one
/// connection are passed over, those of the system waited out.
async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    let mut told = false;
    loop {
        let cause = match stop.run_until_cancelled(listener.accept()).await? {
            Ok(accepted) => return Some(accepted),
            Err(cause) => cause,
        };
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(cause.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
            continue;
        }
        if !told {
            tracing::warn!(%cause, "cannot accept connections; trying on (too few file descriptors?)");
            told = true;
        }
        stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await?;
    }
}

/// What a connection's task needs.
struct Host<S> {
    service: S,
    limits: Limits,
    times: Times,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// Says the last word even when the task is cut.
struct LastWord(Arc<Connection>);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.finish(End::Broken);
    }
}

impl<S> Host<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    async fn connection(self, acceptor: Option<TlsAcceptor>, tcp: TcpStream, remote: SocketAddr) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if let Err(cause) = tune(&tcp, UNACKNOWLEDGED) {
            // The peer is gone already.
            tracing::debug!(%remote, %cause, "connection dropped");
            return;
        }
        let stream = match acceptor {
            None => Stream::Plain(tcp),
            Some(acceptor) => {
                let accepting = Box::pin(timeout(self.times.handshake, acceptor.accept(tcp)));
                match self.stop.run_until_cancelled(accepting).await {
                    None => return,
                    Some(Err(_)) => return tracing::debug!(%remote, "no TLS handshake in time"),
                    Some(Ok(Err(cause))) => return tracing::debug!(%remote, %cause, "TLS handshake failed"),
                    Some(Ok(Ok(tls))) => Stream::Tls(Box::new(tls)),
                }
            }
        };
        let connection = Connection::new(remote, NEXT.fetch_add(1, Ordering::Relaxed));
        let last_word = LastWord(connection.clone());
        self.http(stream, &connection).await;
        // What begins and ends a connection is boxed: it takes no room while one is idle.
        Box::pin(connection.close(UNACKNOWLEDGED + Duration::from_secs(1))).await;
        drop(last_word);
    }

    async fn http(self, stream: Stream, connection: &Arc<Connection>) {
        let tap = TokioIo::new(Tap::new(stream, connection.clone()));
        let (service, limits, of) = (self.service, self.limits, connection.clone());
        let patience = self.times.message;
        let respond =
            service_fn(move |request| respond(service.clone(), limits.clone(), of.clone(), patience, request));
        let builder = builder(Tasks { tracker: self.tasks, cut: self.cut });
        let mut http = std::pin::pin!(builder.serve_connection_with_upgrades(tap, respond));
        let mut first_bytes = std::pin::pin!(sleep(self.times.handshake));
        let (mut stopping, mut looked) = (false, false);
        loop {
            tokio::select! {
                result = &mut http => {
                    if let Err(cause) = result {
                        tracing::debug!(remote = %connection.remote(), cause, "connection ended");
                    }
                    return;
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    http.as_mut().graceful_shutdown();
                }
                // The library waits for ever for the bytes that tell HTTP/2 (24 of them) from HTTP/1.1.
                () = &mut first_bytes, if !looked => {
                    looked = true;
                    if connection.requests() == 0 && connection.bytes_read() < 24 {
                        return;
                    }
                }
            }
        }
    }
}

fn builder(tasks: Tasks) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(tasks);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HTTP1_HEAD).max_buf_size(HTTP1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADER_LIST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_ANSWER);
    builder
}

async fn respond<S>(
    service: S,
    limits: Limits,
    connection: Arc<Connection>,
    patience: Duration,
    mut request: Request<Incoming>,
) -> Result<Response<Outgoing>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    connection.begin_request();
    let address = connection.remote().ip();
    let place: Permit = match limits.call(address) {
        Ok(place) => place,
        Err(refusal) => return Ok(refuse(refusal, &request).map(|body| Outgoing::new(body, None, None))),
    };
    let answer = Answer::new(connection.clone());
    request.extensions_mut().insert(connection);
    request.extensions_mut().insert(answer.clone());
    let (head, body) = request.into_parts();
    let held = limits.held(address);
    let body = Metered::new(&head.headers, body, (limits, address), held.clone(), patience);
    let response = service.oneshot(Request::from_parts(head, Body::new(body))).await?;
    held.answered();
    Ok(response.map(|body| Outgoing::new(body, Some(answer), Some(place))))
}

/// What a call over the limit gets: RESOURCE_EXHAUSTED where gRPC or hRPC is
/// spoken, else 429.
fn refuse(refusal: Refusal, request: &Request<Incoming>) -> Response<Body> {
    let after = refusal.retry_after();
    let kind =
        request.headers().get(header::CONTENT_TYPE).filter(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let status = Status::from(Error::from(refusal));
    if let Some(response) = hrpc::refused_early(&status, request) {
        return response;
    }
    if let Some(kind) = kind {
        let mut response = status.into_http::<Body>();
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        return response;
    }
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    // Clients of a gateway, which has not the node's keys.
    let message = format!("too many requests from this address; again in {seconds} s\n");
    let mut response = Response::new(Body::new(http_body_util::Full::new(Bytes::from(message))));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests;
