//! Many dead peers beside a few live ones, and many clients behind one address.

use crate::{
    common::{LONG, TestNode, faulty::Faulty},
    eventually,
};
use pillarbox::{
    net::{
        dial::{DialConfig, Dialer, Target},
        limits,
    },
    types::ServerId,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// Attempts that failing peers have together.
const PLACES: usize = 16;

/// Ends connections at once or, later, takes them and says nothing.
struct Dead {
    address: SocketAddr,
    silent: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Dead {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = Self {
            address: listener.local_addr().unwrap(),
            silent: Arc::default(),
            open: Arc::default(),
            most: Arc::default(),
        };
        let (silent, open, most) = (dead.silent.clone(), dead.open.clone(), dead.most.clone());
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                if !silent.load(SeqCst) {
                    continue;
                }
                most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                let open = open.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = tcp.read(&mut buffer).await {}
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        dead
    }
}

#[tokio::test]
async fn dead_peers_take_their_own_few_attempts_and_nothing_from_the_live_ones() {
    let node = TestNode::start_with(|config| config.federation.retry_max = std::time::Duration::from_millis(5)).await;
    let dead = Dead::start().await;
    let ids: Vec<ServerId> = (0..290).map(|n| format!("dead{n}.example:7443").parse().unwrap()).collect();
    for id in &ids {
        node.add_at(id, node.key, Some(dead.address)).await;
        node.send(id, 0..1).await;
    }
    eventually!(ids.iter().all(|id| node.peer(id).is_failing()));
    // From now on an attempt holds its place for seconds: all places are taken.
    dead.silent.store(true, SeqCst);
    for id in &ids {
        node.federation().retry(&node.peer(id), true).await.unwrap();
    }
    eventually!(dead.open.load(SeqCst) == PLACES);

    let mut live = vec![];
    for _ in 0..10 {
        let faulty = Faulty::start().await;
        node.add(&faulty.id, faulty.key).await;
        live.push(faulty);
    }
    for faulty in &live {
        node.send(&faulty.id, 0..20).await;
    }
    for faulty in &live {
        eventually!(faulty.applied() == Vec::from_iter(0..20));
    }
    // Besides those under way, some may have ended unseen.
    let most = dead.most.load(SeqCst);
    assert!(most <= 2 * PLACES, "{most} attempts of failing peers at once");
    for id in &ids {
        assert_eq!(node.peer(id).queued().0, 1);
    }
}

/// Lets this process open so many files, as whoever runs a node must.
fn allow_files(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let most = limit.maximum.unwrap_or(u64::MAX);
        assert!(most >= wanted, "this machine lets a process open {most} files; the test needs {wanted}");
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_behind_one_address_are_served_with_the_default_limits() {
    const CLIENTS: usize = 2_000;
    // Both ends are in this process, beside those of other tests.
    allow_files(8_192);
    let node = TestNode::start().await;
    assert_eq!(node.config.limits, limits::Config::default());
    let dialer = Dialer::new(&DialConfig::default()).unwrap();
    let target = Target {
        id: node.id.clone(),
        address: Some(("127.0.0.1".into(), node.address.port())),
        plaintext: false,
        http1: false,
        pinned: Some(node.key),
        trusted: true,
    };
    // A handshake is given up when it takes long: not all at once.
    let (places, mut dials) = (Arc::new(Semaphore::new(64)), JoinSet::new());
    for _ in 0..CLIENTS {
        let (dialer, target, places) = (dialer.clone(), target.clone(), places.clone());
        dials.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            dialer.dial(&target, Instant::now() + LONG).await.unwrap()
        });
    }
    let links = timeout(LONG, dials.join_all()).await.unwrap();
    let mut calls = JoinSet::new();
    for link in &links {
        let mut health = HealthClient::with_origin(link.clone(), link.origin());
        calls.spawn(async move {
            let answer = health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
        });
    }
    timeout(LONG, calls.join_all()).await.unwrap();
    assert!(links.iter().all(|link| !link.is_closed()), "all of them are still connected");
}
