//! Turns of peers that fail.

use super::*;
use crate::{
    federation::{AddPeer, Config, Federation, Letters, Parts, Taken, Takers},
    identity::node_key::NodeKey,
    metrics::Metrics,
    net::dial::{DialConfig, Dialer},
    store::Store,
    types::{Millis, PeerId},
};
use std::{net::TcpListener, pin::pin};
use tokio_util::sync::CancellationToken;

/// Gets no letters in these tests.
struct Nobody;

impl<L> Letters<L> for Nobody {
    fn take(&self, _: PeerId, _: &ServerId, _: L, _: Millis) -> Result<Taken, String> {
        Err("nobody takes letters".into())
    }

    fn returned(&self, _: PeerId, _: u64, _: &str, _: Millis) -> Taken {
        Taken::new(vec![], |_| ())
    }
}

/// Whoever failed waited for its turn among dead ones, and had what was left of its time.
#[tokio::test]
async fn waiting_for_a_turn_is_not_the_time_of_the_call() {
    let dir = tempfile::tempdir().unwrap();
    let federation = Federation::start(Parts {
        config: Config::default(),
        store: Store::open(dir.path()).await.unwrap(),
        key: NodeKey::load_or_make(&dir.path().join("node.key")).unwrap(),
        dialer: Dialer::new(&DialConfig::default()).unwrap(),
        metrics: Metrics::default(),
        own_id: "here.example:7443".parse().unwrap(),
        former_ids: vec![],
        before_rename: Box::new(|_| Ok(())),
        letters: Takers { relay: Arc::new(Nobody), chat: Arc::new(Nobody) },
        listener: None,
        stop: CancellationToken::new(),
    })
    .await
    .unwrap();
    // Connections are made there and nobody speaks.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let id = format!("localhost:{}", silent.local_addr().unwrap().port()).parse().unwrap();
    let inner = federation.0.clone();
    let places = inner.failing_attempts.acquire_many(16).await.unwrap();
    let row =
        federation.add_peer(AddPeer { server_id: id, key: None, address: None, plaintext: false }).await.unwrap().row();
    // Without a driver, which would say that it does not fail.
    let peer = Peer::new(row.into(), mpsc::channel(1).0, 0, (0, 0));
    peer.set_failing(true);
    let remote = Remote::new(inner.clone(), peer.into());
    let patience = Duration::from_millis(50);
    let mut call = pin!(remote.call(Method::Pull, Bytes::new(), patience));
    assert!(timeout(3 * patience, &mut call).await.is_err(), "it waits for its turn");
    drop(places);
    call.await.unwrap_err();
    silent.set_nonblocking(true).unwrap();
    silent.accept().unwrap();
}
