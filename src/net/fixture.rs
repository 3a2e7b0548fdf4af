//! For the tests of this folder: node keys, certificates, a small server.

use crate::{
    net::{
        answer::{Answer, Progress},
        certificate::{PemPair, self_signed},
        connection::{Connection, End},
        dial::Target,
        limits::{Config, Limits},
        listen::{Listener, Times, serve_with},
        tls::ServerTls,
    },
    types::PublicKey,
};
use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::service_fn;

/// A deadline that only a hanging test meets.
pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) fn later() -> tokio::time::Instant {
    tokio::time::Instant::now() + LONG
}

pub(super) fn node(seed: u8) -> (PublicKey, impl Fn(&[u8]) -> [u8; 64]) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = PublicKey::from_bytes(key.verifying_key().as_bytes()).unwrap();
    (public, move |bytes: &[u8]| key.sign(bytes).to_bytes())
}

pub(super) fn pair(seed: u8, name: &str) -> PemPair {
    let (public, sign) = node(seed);
    self_signed(&[name.to_owned()], &public, &sign).unwrap()
}

/// What the server knows of one request.
pub(super) struct Seen {
    pub(super) connection: Arc<Connection>,
    pub(super) answer: Answer,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) end: watch::Receiver<End>,
}

impl Seen {
    pub(super) async fn ended(&mut self) -> End {
        *self.end.wait_for(|end| *end != End::Open).await.unwrap()
    }

    pub(super) async fn progressed(&mut self) -> Progress {
        *self.progress.wait_for(|progress| *progress != Progress::Pending).await.unwrap()
    }
}

pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<()>,
    pub(super) seen: mpsc::Receiver<Seen>,
    /// Lets requests of `/wait` go on.
    pub(super) gate: Arc<Semaphore>,
    pub(super) limits: Limits,
}

pub(super) const BIG: usize = 8 << 20;

/// `/echo` gives the body back, `/big` 8 MiB, `/wait` what `/echo` gives, after the gate.
/// `/stream` answers at once with the length of each piece that comes.
pub(super) fn server(tls: Option<ServerTls>, limits: Config, grace: Duration) -> Served {
    server_with(tls, limits, Times::until(grace))
}

pub(super) fn server_with(tls: Option<ServerTls>, limits: Config, times: Times) -> Served {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, stop, limits) = (listener.local_addr(), CancellationToken::new(), Limits::new(limits));
    let (tell, seen) = mpsc::channel(64);
    let gate = Arc::new(Semaphore::new(0));
    let waiting = gate.clone();
    let service = service_fn(move |request: Request<Body>| {
        let (tell, gate) = (tell.clone(), waiting.clone());
        async move {
            let answer = request.extensions().get::<Answer>().unwrap().clone();
            let connection = request.extensions().get::<Arc<Connection>>().unwrap().clone();
            let (progress, end) = (answer.progress(), connection.ended());
            // The test may have gone on without looking.
            let _ = tell.try_send(Seen { connection, answer, progress, end });
            let path = request.uri().path().to_owned();
            if path == "/wait" {
                gate.acquire().await.unwrap().forget();
            }
            if path == "/stream" {
                let lengths =
                    request.into_body().map_frame(|frame| frame.map_data(|piece| piece.len().to_string().into()));
                return Ok(Response::new(Body::new(lengths)));
            }
            let body = match path.as_str() {
                "/big" => Bytes::from(vec![7; BIG]),
                _ => match request.into_body().collect().await {
                    Ok(body) => body.to_bytes(),
                    Err(status) => return Ok(status.into_http()),
                },
            };
            Ok::<_, Infallible>(Response::new(Body::new(Full::new(body))))
        }
    });
    let task = tokio::spawn(serve_with(listener, tls, limits.clone(), service, stop.clone(), times));
    Served { address, stop, task, seen, gate, limits }
}

impl Served {
    /// The server under the name `localhost`, dialled at its address.
    pub(super) fn target(&self, pinned: Option<PublicKey>) -> Target {
        Target {
            id: format!("localhost:{}", self.address.port()).parse().unwrap(),
            address: Some(("127.0.0.1".to_owned(), self.address.port())),
            plaintext: false,
            http1: false,
            pinned,
            trusted: true,
        }
    }

    pub(super) fn plain(&self, http1: bool) -> Target {
        Target { plaintext: true, http1, ..self.target(None) }
    }

    pub(super) async fn next(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }

    /// Waits until requests that are not answered hold so many bytes.
    pub(super) async fn holds(&self, bytes: u64) {
        let held = async {
            while self.limits.unanswered() != bytes {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(LONG, held).await.is_err() {
            panic!("{} bytes are held, not {bytes}", self.limits.unanswered());
        }
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(super) fn post(path: &str, body: &'static str) -> Request<Body> {
    Request::post(path).body(Body::new(Full::new(Bytes::from_static(body.as_bytes())))).unwrap()
}
