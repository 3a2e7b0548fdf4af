//! A pair of nodes, and writers that send events through the Mailroom and note
//! what was acknowledged.

use super::ledger::{Ledger, event, verdict};
use crate::process::NodeProcess;
use pillarbox::{
    net::dial::{DialConfig, Dialer, Target},
    net::link::Link,
    proto::pillarbox::postbox::v1::{SendRequest, mailroom_client::MailroomClient},
    types::{PublicKey, ServerId},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::Runtime,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

/// Nothing here takes long; a machine under load, or its disk, may.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// So that a peer that was away is found soon.
pub const QUICK: &[(&str, &str)] =
    &[("FEDERATION__PULL_INTERVAL", "1s"), ("FEDERATION__RETRY_BASE", "20ms"), ("FEDERATION__RETRY_MAX", "200ms")];

/// On a thread of the test's own, for looking again and for killing at random.
#[allow(clippy::disallowed_methods)] // no runtime's worker is stopped by it
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits for what must come true.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        pause(Duration::from_millis(10));
    }
}

/// Two nodes that know each other, their keys pinned.
pub struct Pair {
    pub a: NodeProcess,
    pub b: NodeProcess,
}

impl Pair {
    pub fn start(a: &Path, b: &Path) -> Self {
        let pair = Self { a: NodeProcess::start(a, QUICK), b: NodeProcess::start(b, QUICK) };
        pair.a.add_peer(&pair.b);
        pair.b.add_peer(&pair.a);
        pair
    }

    /// Nothing waits on either side, and both may push.
    pub fn settle(&self) {
        for (node, other) in [(&self.a, &self.b), (&self.b, &self.a)] {
            drained(node, other);
            eventually("live", || (fares(node, other)["state"] == "live").then_some(()));
        }
    }

    /// Waits until all is delivered, stops both in good order and holds the
    /// ledgers against their stores.
    pub fn finish(self, to_b: &[Ledger], to_a: &[Ledger]) {
        self.settle();
        let dirs: [PathBuf; 2] = [self.a.dir().to_owned(), self.b.dir().to_owned()];
        self.a.stop();
        self.b.stop();
        verdict(&dirs[0], &dirs[1], to_b, to_a);
    }
}

/// Waits until nothing waits for the peer any more; as long as the queue gets
/// shorter.
pub fn drained(node: &NodeProcess, peer: &NodeProcess) {
    let mut best = u64::MAX;
    while best > 0 {
        best = eventually(&format!("fewer than {best} wait"), || {
            let queued = fares(node, peer)["queued"].as_u64().unwrap();
            (queued < best).then_some(queued)
        });
    }
}

/// A directory for nodes that lies in memory where that is possible: a disk
/// that is slow today (other tests, a shared machine) is not what is tested.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// How the node says its peer fares.
pub fn fares(node: &NodeProcess, peer: &NodeProcess) -> serde_json::Value {
    node.json(&["peer", "show", &peer.server_id])["peer"].clone()
}

/// Where a writer sends: the same over all restarts of the node.
#[derive(Clone)]
pub struct Door {
    id: ServerId,
    key: PublicKey,
    token: String,
    to: String,
}

impl Door {
    /// The Mailroom of `node`, for events to `to`.
    pub fn new(node: &NodeProcess, to: &NodeProcess) -> Self {
        Self {
            id: node.server_id.parse().unwrap(),
            key: node.key.parse().unwrap(),
            token: node.ok(&["token", "new", "service:homeserver"]).trim().to_owned(),
            to: to.server_id.clone(),
        }
    }

    async fn open(&self, dialer: &Dialer) -> Option<MailroomClient<Link>> {
        let target = Target {
            id: self.id.clone(),
            address: None,
            plaintext: false,
            http1: false,
            pinned: Some(self.key),
            trusted: true,
        };
        let link = dialer.dial(&target, tokio::time::Instant::now() + DEADLINE).await.ok()?;
        Some(MailroomClient::with_origin(link.clone(), link.origin()))
    }

    fn request(&self, events: Vec<bytes::Bytes>) -> Request<SendRequest> {
        let mut request = Request::new(SendRequest { to: self.to.clone(), events });
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }
}

/// Callers that send one event each and are gone once the first of them got
/// its answer, connection and all; what they know.
pub fn give_up(door: &Door, writers: std::ops::Range<u64>) -> Vec<Ledger> {
    Runtime::new().unwrap().block_on(async {
        let dialer = Dialer::new(&DialConfig { allow_private_addresses: true, ca_file: None }).unwrap();
        let client = door.open(&dialer).await.unwrap();
        let mut calls = JoinSet::new();
        for writer in writers.clone() {
            let (mut client, request) = (client.clone(), door.request(vec![event(writer, 0).into()]));
            calls.spawn(async move { (writer, client.send(request).await) });
        }
        let (first, answer) = timeout(DEADLINE, calls.join_next()).await.unwrap().unwrap().unwrap();
        answer.unwrap();
        drop(calls);
        dialer.shutdown().await;
        let acknowledged = |writer| if writer == first { vec![0] } else { vec![] };
        let ledger = |writer| Ledger { writer, tried: 1, acknowledged: acknowledged(writer), ..Ledger::default() };
        writers.map(ledger).collect()
    })
}

/// Writers at work.
pub struct Load {
    runtime: Runtime,
    stop: CancellationToken,
    writers: Vec<Writer>,
}

struct Writer {
    acknowledged: Arc<AtomicU64>,
    ledger: Arc<Mutex<Ledger>>,
    task: JoinHandle<()>,
}

impl Load {
    pub fn new() -> Self {
        Self { runtime: Runtime::new().unwrap(), stop: CancellationToken::new(), writers: vec![] }
    }

    /// Adds a writer; its number is the guild of its events.
    pub fn write(&mut self, writer: u64, door: &Door) {
        let ledger = Arc::new(Mutex::new(Ledger { writer, ..Ledger::default() }));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let task = write(door.clone(), ledger.clone(), acknowledged.clone(), self.stop.clone());
        let task = self.runtime.spawn(task);
        self.writers.push(Writer { acknowledged, ledger, task });
    }

    /// Events acknowledged to the writer that was added at this place.
    pub fn acknowledged(&self, place: usize) -> u64 {
        self.writers[place].acknowledged.load(Relaxed)
    }

    /// Returns when the writer got this many acknowledgements more.
    pub fn progress(&self, place: usize, more: u64) {
        let goal = self.acknowledged(place) + more;
        eventually("acknowledgements", || (self.acknowledged(place) >= goal).then_some(()));
    }

    /// Returns when the writer was refused with this code (again).
    pub fn refused(&self, place: usize, code: Code) {
        let ledger = &self.writers[place].ledger;
        ledger.lock().unwrap().refusals.clear();
        eventually(&format!("{code:?}"), || {
            let refusals = ledger.lock().unwrap().refusals.clone();
            assert!(refusals.iter().all(|it| *it == code), "{code:?} was awaited, and came {refusals:?}");
            refusals.contains(&code).then_some(())
        });
    }

    /// Ends the writers; the ledgers, in the order of `write`.
    pub fn end(self) -> Vec<Ledger> {
        self.stop.cancel();
        let Self { runtime, writers, .. } = self;
        let ended = writers.into_iter().map(|writer| {
            runtime.block_on(async { timeout(DEADLINE, writer.task).await.expect("it stops") }).unwrap();
            writer.ledger.lock().unwrap().clone()
        });
        ended.collect()
    }
}

/// Sends one request after the other, never an event twice.
async fn write(door: Door, ledger: Arc<Mutex<Ledger>>, acknowledged: Arc<AtomicU64>, stop: CancellationToken) {
    let dialer = Dialer::new(&DialConfig { allow_private_addresses: true, ca_file: None }).unwrap();
    let writer = ledger.lock().unwrap().writer;
    let mut client = None;
    let mut serial = 0;
    while !stop.is_cancelled() {
        let Some(open) = &mut client else {
            client = door.open(&dialer).await;
            if client.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            continue;
        };
        let serials = serial..serial + 1 + serial % 4;
        serial = serials.end;
        ledger.lock().unwrap().tried = serial;
        let request = door.request(serials.clone().map(|serial| event(writer, serial).into()).collect());
        let answer = timeout(DEADLINE, open.send(request)).await.expect("an answer or an error in time");
        match answer {
            Ok(_) => {
                ledger.lock().unwrap().acknowledged.extend(serials.clone());
                acknowledged.fetch_add(serials.end - serials.start, Relaxed);
            }
            Err(status) => {
                ledger.lock().unwrap().refusals.insert(status.code());
                // It may be the connection; a new one is soon made.
                client = None;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    drop(client);
    dialer.shutdown().await;
}
