//! The caller's end of `DATA_DIR/admin.sock`: gRPC over a Unix socket.
//!
//! Owns the connection, over which the services of the socket are called. Whoever may open the socket is the operator, so there
//! is neither TLS nor a token. Never retries: a broken connection is told by
//! the call that needed it.

use crate::proto::pillarbox::{admin::v1::admin_client::AdminClient, relay::v1::sessions_client::SessionsClient};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};
use tonic::body::Body;

/// The operator's calls; clones share one connection.
pub type Client = AdminClient<Channel>;

/// The operator's view of the sessions of MPC parties.
pub type Sessions = SessionsClient<Channel>;

/// A local socket either takes us at once or not at all.
const CONNECT: Duration = Duration::from_secs(5);
/// A list may hold all of 10,000 peers, a row a body of 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;

/// Connects to the node that serves `socket`. `NotFound` and
/// `ConnectionRefused`: no node runs there; `TimedOut`: it does not answer.
pub async fn connect(socket: &Path) -> io::Result<Client> {
    let client = AdminClient::with_origin(open(socket).await?, origin());
    Ok(client.max_decoding_message_size(MAX_MESSAGE))
}

/// The same for the sessions.
pub async fn connect_sessions(socket: &Path) -> io::Result<Sessions> {
    let client = SessionsClient::with_origin(open(socket).await?, origin());
    Ok(client.max_decoding_message_size(MAX_MESSAGE))
}

fn origin() -> Uri {
    Uri::from_static("http://admin.sock")
}

async fn open(socket: &Path) -> io::Result<Channel> {
    let opened = timeout(CONNECT, async {
        let stream = UnixStream::connect(socket).await?;
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(io::Error::other)
    });
    let (sender, connection) = opened.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    // An error of the connection also ends the call that waits on it, which reports it.
    let driver = Driver(tokio::spawn(async move {
        let _ = connection.await;
    }));
    Ok(Channel { sender, _driver: Arc::new(driver) })
}

/// One HTTP/2 connection, as the generated client wants it.
#[derive(Debug, Clone)]
pub struct Channel {
    sender: http2::SendRequest<Body>,
    _driver: Arc<Driver>,
}

/// The task that moves the connection's bytes; ends with the last channel.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Whether the connection broke is told by the call: the generated client turns an error here into words.
        self.sender.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
