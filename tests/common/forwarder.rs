//! A TCP link between two servers that can be cut, closed, or made to swallow
//! what comes back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Clone)]
struct State {
    target: SocketAddr,
    closed: Arc<AtomicBool>,
    swallows: Arc<AtomicBool>,
    swallowed: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    /// Of them, those that last.
    live: Arc<AtomicU64>,
    cuts: watch::Sender<u64>,
}

pub struct Forwarder {
    pub address: SocketAddr,
    state: State,
    _stop: DropGuard,
}

impl Forwarder {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            target,
            closed: Arc::default(),
            swallows: Arc::default(),
            swallowed: Arc::default(),
            connections: Arc::default(),
            live: Arc::default(),
            cuts: watch::Sender::new(0),
        };
        let (stop, shared) = (CancellationToken::new(), state.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                shared.connections.fetch_add(1, SeqCst);
                if !shared.closed.load(SeqCst) {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        shared.live.fetch_add(1, SeqCst);
                        shared.clone().carry(client).await;
                        shared.live.fetch_sub(1, SeqCst);
                    });
                }
            }
        }));
        Self { address, state, _stop: stop.drop_guard() }
    }

    /// New connections end at once.
    pub fn close(&self) {
        self.state.closed.store(true, SeqCst);
        self.cut();
    }

    pub fn open(&self) {
        self.state.closed.store(false, SeqCst);
    }

    /// What the server answers goes nowhere, as long as this is on.
    pub fn swallow(&self, on: bool) {
        self.state.swallows.store(on, SeqCst);
    }

    /// Bytes that went nowhere.
    pub fn swallowed(&self) -> u64 {
        self.state.swallowed.load(SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.state.connections.load(SeqCst)
    }

    /// Connections that have not ended.
    pub fn live(&self) -> u64 {
        self.state.live.load(SeqCst)
    }

    /// Resets every connection, on both sides.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl State {
    async fn carry(self, mut client: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let Ok(mut server) = TcpStream::connect(self.target).await else { return };
        {
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
            let up = async {
                let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                let _ = to_server.shutdown().await;
            };
            let down = async {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                    if self.swallows.load(SeqCst) {
                        self.swallowed.fetch_add(length as u64, SeqCst);
                    } else if to_client.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
                let _ = to_client.shutdown().await;
            };
            tokio::select! {
                _ = async { tokio::join!(up, down) } => return,
                _ = cuts.changed() => {}
            }
        }
        for socket in [&client, &server] {
            // A reset instead of a FIN.
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}
