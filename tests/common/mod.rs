//! Nodes in this process, for tests that talk to them: started on port 0 in a
//! directory of their own, stopped and started again with both kept.
//!
//! Waiting is always for a condition, with a deadline that only a hanging test
//! meets.

pub mod backend;
pub mod browser;
pub mod faulty;
pub mod forwarder;
pub mod gateway;
pub mod process;

use bytes::Bytes;
use pillarbox::{
    admin::client,
    config::Config,
    federation::{AddPeer, Federation, Peer, View, delivery::State},
    net::{
        Mode,
        dial::{DialConfig, Dialer, Target},
        link::Link,
    },
    node::{Node, StartError},
    proto::{
        pillarbox::{
            admin::v1::{ListTokensRequest, NewTokenRequest, RevokeTokenRequest},
            postbox::v1::Received,
        },
        protocol::sync::v1::{
            Event,
            event::{Kind, UserAddedToGuild, UserInvited},
        },
    },
    store::PeerAddress,
    types::{PublicKey, ServerId},
};
use prost::Message;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_stream::StreamExt;
use tonic::metadata::{Ascii, MetadataValue};

/// A deadline that only a hanging test meets.
pub const LONG: Duration = Duration::from_secs(40);

/// Waits until the condition holds. It may await.
#[macro_export]
macro_rules! eventually {
    ($condition:expr $(, $($arg:tt)+)?) => {{
        let deadline = tokio::time::Instant::now() + $crate::common::LONG;
        while !$condition {
            assert!(tokio::time::Instant::now() < deadline, "never came true: {}", stringify!($condition));
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    }};
}

/// A node, running or stopped.
pub struct TestNode {
    pub config: Config,
    pub id: ServerId,
    pub key: PublicKey,
    pub address: SocketAddr,
    node: Option<Node>,
    /// While the node is stopped nobody else gets its port.
    port: Option<TcpSocket>,
    _dir: TempDir,
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// `edit` changes a configuration whose retries and Pulls come fast.
    pub async fn start_with(edit: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: dir.path().join("data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..Config::default()
        };
        config.federation.retry_base = Duration::from_millis(5);
        config.federation.retry_max = Duration::from_millis(20);
        config.federation.pull_interval = Duration::from_secs(1);
        edit(&mut config);
        let node = Node::start(config.clone()).await.unwrap();
        let ready = node.ready().clone();
        let (id, key, address) = (ready.server_id, ready.key, ready.listen);
        Self { config, id, key, address, node: Some(node), port: None, _dir: dir }
    }

    /// What the listener of the metrics answers, which the configuration has to open.
    pub async fn ask_metrics(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.node().metrics_address().unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    /// The value of a metric, with its labels as they are shown.
    pub async fn metric(&self, name: &str) -> String {
        let text = self.ask_metrics("/metrics").await;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{name} is missing:\n{text}")).to_owned()
    }

    /// Stops; directory and port are kept.
    pub async fn stop(&mut self) {
        timeout(LONG, self.node.take().unwrap().shutdown()).await.unwrap();
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind(self.address).unwrap();
        self.port = Some(port);
    }

    pub async fn start_again(&mut self) {
        self.try_again().await.unwrap();
    }

    pub async fn try_again(&mut self) -> Result<(), StartError> {
        let node = Node::start(self.config.clone()).await?;
        self.port = None;
        assert_eq!((&node.ready().server_id, node.ready().key), (&self.id, self.key));
        self.node = Some(node);
        Ok(())
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    pub fn federation(&self) -> &Federation {
        self.node().federation()
    }

    /// PEM that a client may trust as a root.
    pub fn certificate(&self) -> String {
        std::fs::read_to_string(self.config.data_dir.join("tls/cert.pem")).unwrap()
    }

    /// Makes the other one a peer, its key pinned.
    pub async fn add(&self, id: &ServerId, key: PublicKey) {
        self.add_at(id, key, None).await;
    }

    /// `address`: where to connect instead of the id.
    pub async fn add_at(&self, id: &ServerId, key: PublicKey, address: Option<SocketAddr>) {
        let address = address.map(|address| PeerAddress { host: address.ip().to_string(), port: address.port() });
        let add = AddPeer { server_id: id.clone(), key: Some(key), address, plaintext: false };
        self.federation().add_peer(add).await.unwrap();
    }

    pub fn peer(&self, id: &ServerId) -> Arc<Peer> {
        self.federation().peer(id).unwrap()
    }

    pub async fn view(&self, id: &ServerId) -> View {
        self.federation().view(&self.peer(id)).await.unwrap()
    }

    /// Live with nothing waiting.
    pub async fn is_drained(&self, id: &ServerId) -> bool {
        self.view(id).await.state == State::Live && self.peer(id).queued().0 == 0
    }

    pub async fn is_queued(&self, id: &ServerId) -> bool {
        self.view(id).await.state == State::Queued
    }

    /// Stores `event(n)` for each of the numbers.
    pub async fn send(&self, to: &ServerId, numbers: std::ops::Range<u64>) {
        let events: Vec<_> = numbers.map(event).collect();
        for some in events.chunks(pillarbox::federation::SEND_MAX) {
            self.federation().send(to, some.to_vec()).await.unwrap();
        }
    }

    /// All inbound events after `cursor` through the first that equals `last`.
    pub async fn received(&self, cursor: u64, last: &Bytes) -> Vec<Received> {
        let mut stream = self.federation().events(cursor).await.unwrap();
        let mut seen = vec![];
        let read = async {
            while let Some(received) = stream.next().await {
                seen.push(received.unwrap());
                if seen.last().unwrap().event == *last {
                    return;
                }
            }
        };
        let done = timeout(LONG, read).await;
        assert!(done.is_ok(), "the last event never came; {} others did", seen.len());
        seen
    }

    /// The numbers of all inbound events through `last`.
    pub async fn log(&self, last: u64) -> Vec<u64> {
        self.received(0, &event(last)).await.iter().map(|received| number(&received.event)).collect()
    }

    /// A connection to this node, its key pinned. `http1`: rather than HTTP/2.
    pub async fn dial(&self, http1: bool) -> Link {
        self.dial_at(self.address, http1).await
    }

    pub async fn dial_at(&self, address: SocketAddr, http1: bool) -> Link {
        let dialer = Dialer::new(&DialConfig::default()).unwrap();
        let target = Target {
            id: self.id.clone(),
            address: Some((address.ip().to_string(), address.port())),
            plaintext: self.config.tls.mode == Mode::Off,
            http1,
            pinned: Some(self.key),
            trusted: true,
        };
        dialer.dial(&target, Instant::now() + LONG).await.unwrap()
    }

    /// A token for a local caller, made over the operator's socket; as a header.
    pub async fn bearer(&self, principal: &str) -> MetadataValue<Ascii> {
        let request = NewTokenRequest { principal: principal.into(), ttl: 0, user: String::new() };
        let token = self.operator().await.new_token(request).await.unwrap().into_inner().token;
        format!("Bearer {token}").parse().unwrap()
    }

    /// Revokes all tokens of a principal.
    pub async fn revoke(&self, principal: &str) {
        let mut operator = self.operator().await;
        let tokens = operator.list_tokens(ListTokensRequest {}).await.unwrap().into_inner().tokens;
        for token in tokens.into_iter().filter(|token| token.principal == principal) {
            operator.revoke_token(RevokeTokenRequest { id: token.id }).await.unwrap();
        }
    }

    /// The operator's calls.
    pub async fn operator(&self) -> client::Client {
        client::connect(&self.config.data_dir.join("admin.sock")).await.unwrap()
    }
}

/// A node that looks for rows at its peers often.
pub fn quick(config: &mut Config) {
    config.federation.pull_interval = Duration::from_millis(200);
}

/// Two such nodes that federate.
pub async fn two() -> (TestNode, TestNode) {
    let (a, b) = (TestNode::start_with(quick).await, TestNode::start_with(quick).await);
    federate(&a, &b).await;
    (a, b)
}

/// Makes each a peer of the other, keys pinned.
pub async fn federate(a: &TestNode, b: &TestNode) {
    a.add(&b.id, b.key).await;
    b.add(&a.id, a.key).await;
}

/// An event that carries a number.
pub fn event(number: u64) -> Bytes {
    let added = UserAddedToGuild { user_id: number, guild_id: 7 };
    Event { kind: Some(Kind::UserAddedToGuild(added)) }.encode_to_vec().into()
}

/// The number that [`event`] carries.
pub fn number(event: &Bytes) -> u64 {
    match Event::decode(event.clone()).unwrap().kind {
        Some(Kind::UserAddedToGuild(added)) => added.user_id,
        other => panic!("another event: {other:?}"),
    }
}

/// An event of about `size` bytes that carries a number.
pub fn large_event(number: u64, size: usize) -> Bytes {
    let invite_id = "i".repeat(size);
    let invited = UserInvited { user_id: number, inviter_id: 1, invite_id };
    Event { kind: Some(Kind::UserInvited(invited)) }.encode_to_vec().into()
}
