//! Batches with a window between nodes of ours: who uses them, what is refused, and
//! that whatever happens to a stream, nothing is lost, repeated or out of order.

use crate::{
    common::{
        LONG, TestNode, event,
        faulty::{DELIVER, Faulty},
        federate,
        forwarder::Forwarder,
        large_event,
    },
    eventually,
};
use bytes::Bytes;
use pillarbox::{
    federation::delivery::{Kind, State},
    net::link::Link,
    proto::pillarbox::federation::v1::{Batch, Load, Receipt, Row, courier_client::CourierClient},
    types::{PublicKey, ServerId},
};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// A node whose metrics can be asked for.
pub async fn node() -> TestNode {
    node_with(|_| {}).await
}

async fn node_with(edit: impl FnOnce(&mut pillarbox::config::Config)) -> TestNode {
    TestNode::start_with(|config| {
        config.metrics.listen = Some(([127, 0, 0, 1], 0).into());
        edit(config);
    })
    .await
}

/// A counter, 0 as long as it was never raised.
async fn count(node: &TestNode, name: &str) -> u64 {
    let text = node.ask_metrics("/metrics").await;
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map_or(0, |value| value.parse().unwrap())
}

async fn sent(node: &TestNode, lane: &str) -> u64 {
    count(node, &format!("pillarbox_events_sent_total{{lane=\"{lane}\"}}")).await
}

async fn streams_taken(node: &TestNode) -> u64 {
    count(node, "pillarbox_postbox_calls_total{code=\"Ok\",method=\"Deliver\"}").await
}

/// Sends events one by one until one goes by a stream of batches, which is open then; how
/// many it sent. What waits when the receiver begins is pulled by it.
pub async fn open_stream(a: &TestNode, b: &TestNode) -> u64 {
    let mut first = 0;
    while sent(a, "courier").await == 0 {
        a.send(&b.id, first..first + 1).await;
        first += 1;
        eventually!(a.is_drained(&b.id).await);
    }
    first
}

// ----- who uses it

#[tokio::test]
async fn two_nodes_use_one_stream_of_batches_for_as_long_as_it_lasts() {
    let (a, b) = (node().await, node().await);
    federate(&a, &b).await;
    a.send(&b.id, 0..3_000).await;
    assert_eq!(b.log(2_999).await, Vec::from_iter(0..3_000));
    eventually!(a.is_drained(&b.id).await);
    for n in 3_000..3_010 {
        a.send(&b.id, n..n + 1).await;
        eventually!(a.is_drained(&b.id).await);
    }
    assert_eq!(b.log(3_009).await, Vec::from_iter(0..3_010));
    assert_eq!((sent(&a, "courier").await, sent(&a, "push").await), (3_010, 0));
    assert_eq!(streams_taken(&b).await, 1);
    assert_eq!(a.view(&b.id).await.state, State::Live);
    assert_eq!(a.peer(&b.id).lane(), "courier");
}

#[tokio::test]
async fn a_peer_that_says_nothing_of_batches_gets_pushes_and_no_stream() {
    let (node, faulty) = (node().await, Faulty::start().await);
    faulty.speak(&["postbox/1"]);
    node.add(&faulty.id, faulty.key).await;
    node.send(&faulty.id, 0..20).await;
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), Vec::from_iter(0..20));
    assert_eq!((node.view(&faulty.id).await.kind, faulty.delivers()), (Kind::Ours, 0));
    assert_eq!((sent(&node, "courier").await, sent(&node, "push").await), (0, 20));
    assert_eq!(node.peer(&faulty.id).lane(), "push");
}

#[tokio::test]
async fn a_stock_peer_is_asked_for_no_stream_and_for_its_key_no_more_often() {
    let (node, faulty) = (node().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    node.send(&faulty.id, 0..20).await;
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), Vec::from_iter(0..20));
    assert_eq!((faulty.delivers(), faulty.keys()), (0, 1));
    assert_eq!(node.peer(&faulty.id).lane(), "push");
}

#[tokio::test]
async fn a_peer_that_says_it_takes_batches_and_does_not_gets_pushes_instead_and_none_counts_as_failed() {
    let (node, faulty) = (node().await, Faulty::start().await);
    faulty.speak(&["postbox/1", "courier/1"]);
    node.add(&faulty.id, faulty.key).await;
    node.send(&faulty.id, 0..20).await;
    eventually!(node.is_drained(&faulty.id).await);
    assert_eq!(faulty.applied(), Vec::from_iter(0..20));
    assert_eq!(faulty.delivers(), 1, "found out once a connection");
    assert_eq!(count(&node, "pillarbox_postbox_streams_total{result=\"refused\"}").await, 0);
    assert_eq!(count(&node, "pillarbox_postbox_push_total{result=\"ok\"}").await, 20);
    assert_eq!(node.peer(&faulty.id).lane(), "push");
}

#[tokio::test]
async fn an_event_larger_than_a_batch_travels_alone() {
    let (a, b) = (node().await, node().await);
    federate(&a, &b).await;
    let mut events: Vec<Bytes> = (0..60).map(|n| large_event(n, 60_000)).collect();
    events.push(event(60));
    for some in events.chunks(20) {
        a.federation().send(&b.id, some.to_vec()).await.unwrap();
    }
    let received = b.received(0, &event(60)).await;
    assert!(received.iter().map(|received| &received.event).eq(&events));
    assert_eq!(sent(&a, "courier").await, 61);
}

// ----- what ends it

#[tokio::test]
async fn holding_a_peer_ends_the_stream_and_releasing_it_goes_on() {
    let (a, b) = (node().await, node().await);
    federate(&a, &b).await;
    a.send(&b.id, 0..10).await;
    assert_eq!(b.log(9).await, Vec::from_iter(0..10));
    let peer = a.peer(&b.id);
    a.federation().hold(&peer, true).await.unwrap();
    eventually!(count(&a, "pillarbox_postbox_streams_total{result=\"ok\"}").await == 1);
    a.send(&b.id, 10..20).await;
    // Those before are forgotten a moment later.
    eventually!(peer.queued().0 == 10);
    assert_eq!(sent(&a, "courier").await, 10);
    a.federation().hold(&peer, false).await.unwrap();
    assert_eq!(b.log(19).await, Vec::from_iter(0..20));
    assert_eq!(streams_taken(&b).await, 2);
}

#[tokio::test]
async fn a_peer_that_was_removed_loses_its_stream_at_once_and_its_sender_queues() {
    let (a, b) = (node().await, node().await);
    federate(&a, &b).await;
    a.send(&b.id, 0..10).await;
    assert_eq!(b.log(9).await, Vec::from_iter(0..10));
    eventually!(a.is_drained(&b.id).await);
    b.federation().remove_peer(&b.peer(&a.id)).await.unwrap();
    eventually!(count(&a, "pillarbox_postbox_streams_total{result=\"refused\"}").await == 1);
    a.send(&b.id, 10..20).await;
    eventually!(a.is_queued(&b.id).await);
    // Added again it gets what waited, and nothing twice.
    b.add(&a.id, a.key).await;
    assert_eq!(b.log(19).await, Vec::from_iter(0..20));
}

#[tokio::test]
async fn nodes_that_stop_under_load_go_on_where_they_were() {
    let (mut a, mut b) = (node().await, node().await);
    federate(&a, &b).await;
    for round in 0..4 {
        let first = round * 2_000;
        a.send(&b.id, first..first + 2_000).await;
        match round % 2 {
            0 => {
                a.stop().await;
                a.start_again().await;
            }
            _ => {
                b.stop().await;
                b.start_again().await;
            }
        }
    }
    assert_eq!(b.log(7_999).await, Vec::from_iter(0..8_000));
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn a_link_that_is_cut_amid_the_window_costs_time_and_nothing_else() {
    let (a, b) = (node().await, node().await);
    let link = Forwarder::to(b.address).await;
    a.add_at(&b.id, b.key, Some(link.address)).await;
    b.add(&a.id, a.key).await;
    for round in 0..10 {
        let first = round * 1_500;
        a.send(&b.id, first..first + 1_500).await;
        let before = sent(&a, "courier").await;
        eventually!(sent(&a, "courier").await > before || a.peer(&b.id).queued().0 == 0 || a.is_queued(&b.id).await);
        link.cut();
    }
    assert_eq!(b.log(14_999).await, Vec::from_iter(0..15_000));
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn a_receiver_that_says_nothing_gets_no_more_than_a_window() {
    let (a, b) = (node().await, node().await);
    let link = Forwarder::to(b.address).await;
    a.add_at(&b.id, b.key, Some(link.address)).await;
    b.add(&a.id, a.key).await;
    let first = open_stream(&a, &b).await;
    link.swallow(true);
    a.send(&b.id, first..20_000).await;
    // Five batches of 512: four that a stream begins with, and one for the one that was applied.
    let mut most = 0;
    eventually!({
        let now = sent(&a, "courier").await;
        let still = now > 1 && now == std::mem::replace(&mut most, now);
        still && link.swallowed() > 0
    });
    assert!(most <= 1 + 5 * 512, "{most} events were sent");
    assert!(a.peer(&b.id).queued().0 >= 20_000 - first - 5 * 512);
    link.swallow(false);
    link.cut();
    assert_eq!(b.log(19_999 - 1).await.len(), 19_999);
}

// ----- a client made by hand

/// A stream to a node.
struct Hand<'a> {
    who: &'a Faulty,
    node: ServerId,
    nonce: [u8; 16],
    batches: mpsc::Sender<Batch>,
    receipts: Streaming<Receipt>,
    first: Receipt,
    _link: Link,
}

impl<'a> Hand<'a> {
    async fn open(who: &'a Faulty, node: &TestNode) -> Result<Self, Status> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).unwrap();
        Self::open_with(who, node, nonce, &who.bound_with(&node.id, DELIVER, b"", nonce)).await
    }

    async fn open_with(who: &'a Faulty, node: &TestNode, nonce: [u8; 16], token: &str) -> Result<Self, Status> {
        let link = node.dial(false).await;
        let (batches, outgoing) = mpsc::channel(32);
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        let mut client = CourierClient::with_origin(link.clone(), link.origin());
        let mut receipts = timeout(LONG, client.deliver(request)).await.unwrap()?.into_inner();
        let first = timeout(LONG, receipts.message()).await.unwrap()?.unwrap();
        Ok(Self { who, node: node.id.clone(), nonce, batches, receipts, first, _link: link })
    }

    /// Rows of these numbers right after `after`; a row's id is its number.
    fn load(&self, after: u64, numbers: &[u64]) -> Load {
        let row = |&number: &u64| Row { number, id: number, event: event(number) };
        Load {
            destination: self.node.to_string(),
            nonce: Bytes::copy_from_slice(&self.nonce),
            epoch: 7,
            after,
            after_id: after,
            rows: numbers.iter().map(row).collect(),
        }
    }

    fn sealed(&self, load: &Load) -> Batch {
        let load: Bytes = load.encode_to_vec().into();
        let signature = self.who.sign_for("courier batch", &Sha256::digest(&load)).into();
        Batch { load, signature }
    }

    async fn send(&self, load: &Load) {
        self.batches.send(self.sealed(load)).await.unwrap();
    }

    async fn receipt(&mut self) -> Result<Receipt, Status> {
        timeout(LONG, self.receipts.message()).await.unwrap().map(|receipt| receipt.unwrap())
    }

    /// Why the stream ended.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.receipt().await {
                return status;
            }
        }
    }
}

async fn peer() -> (TestNode, Faulty) {
    let (node, faulty) = (node().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    (node, faulty)
}

fn mark(receipt: &Receipt) -> (u64, u64) {
    let state = receipt.state.unwrap();
    (state.epoch, state.mark)
}

#[tokio::test]
async fn a_batch_is_applied_whole_and_its_receipt_tells_the_state_and_grants_more() {
    let (node, faulty) = peer().await;
    let mut hand = Hand::open(&faulty, &node).await.unwrap();
    assert_eq!((mark(&hand.first), hand.first.batches), ((0, 0), 0));
    assert!(hand.first.granted >= 1);
    hand.send(&hand.load(0, &[1, 2, 5])).await;
    let receipt = hand.receipt().await.unwrap();
    assert_eq!((mark(&receipt), receipt.batches), ((7, 5), 1));
    assert!(receipt.granted > 1);
    // Sent once more it changes nothing, and one across the mark brings what is new.
    hand.send(&hand.load(0, &[1, 2, 5])).await;
    assert_eq!(mark(&hand.receipt().await.unwrap()), (7, 5));
    hand.send(&hand.load(2, &[5, 9])).await;
    assert_eq!(mark(&hand.receipt().await.unwrap()), (7, 9));
    assert_eq!(node.log(9).await, [1, 2, 5, 9]);
}

/// A batch that is not as it must be, made of one that is.
type Spoil = fn(&Faulty, &Hand, Load) -> Batch;

#[tokio::test]
async fn a_batch_that_is_not_as_it_must_be_ends_the_stream_with_the_reason_and_nothing_of_it_is_applied() {
    let (node, faulty) = peer().await;
    let other = Faulty::start().await;
    let spoil: [(&str, Code, Spoil); 12] = [
        ("signature", Code::Unauthenticated, |_, hand, load| Batch {
            signature: vec![7; 64].into(),
            ..hand.sealed(&load)
        }),
        ("signature", Code::Unauthenticated, |_, hand, load| Batch { signature: Bytes::new(), ..hand.sealed(&load) }),
        ("signature", Code::Unauthenticated, |other, hand, load| {
            let load: Bytes = load.encode_to_vec().into();
            let signature = other.sign_for("courier batch", &Sha256::digest(&load)).into();
            let _ = hand;
            Batch { load, signature }
        }),
        ("signature", Code::Unauthenticated, |_, hand, load| {
            let load: Bytes = load.encode_to_vec().into();
            let signature = hand.who.sign_for("another purpose", &Sha256::digest(&load)).into();
            Batch { load, signature }
        }),
        ("destination", Code::Unauthenticated, |other, hand, load| {
            hand.sealed(&Load { destination: other.id.to_string(), ..load })
        }),
        ("nonce", Code::Unauthenticated, |_, hand, load| hand.sealed(&Load { nonce: vec![1; 16].into(), ..load })),
        ("epoch", Code::InvalidArgument, |_, hand, load| hand.sealed(&Load { epoch: 0, ..load })),
        ("epoch", Code::InvalidArgument, |_, hand, load| hand.sealed(&Load { epoch: u64::MAX, ..load })),
        ("epoch", Code::FailedPrecondition, |_, hand, load| hand.sealed(&Load { epoch: 6, ..load })),
        ("rows", Code::InvalidArgument, |_, hand, load| hand.sealed(&Load { rows: vec![], ..load })),
        ("number", Code::InvalidArgument, |_, hand, load| {
            hand.sealed(&Load { rows: hand.load(3, &[4, 4]).rows, ..load })
        }),
        ("after", Code::FailedPrecondition, |_, hand, load| hand.sealed(&Load { after: 4, after_id: 4, ..load })),
    ];
    let mut hand = Hand::open(&faulty, &node).await.unwrap();
    hand.send(&hand.load(0, &[3])).await;
    hand.receipt().await.unwrap();
    for (word, code, spoil) in spoil {
        let mut hand = Hand::open(&faulty, &node).await.unwrap();
        assert_eq!(mark(&hand.first), (7, 3), "after one refused for its {word}");
        hand.batches.send(spoil(&other, &hand, hand.load(3, &[5, 6]))).await.unwrap();
        // Nor is one behind it, whatever it says.
        let _ = hand.batches.send(hand.sealed(&hand.load(3, &[5]))).await;
        let status = hand.end().await;
        assert_eq!(status.code(), code, "{word}: {status:?}");
        assert!(status.message().contains(word), "{word}: {status:?}");
    }
    let mut hand = Hand::open(&faulty, &node).await.unwrap();
    hand.send(&hand.load(3, &[7])).await;
    hand.receipt().await.unwrap();
    assert_eq!(node.log(7).await, [3, 7]);
}

#[tokio::test]
async fn a_batch_after_another_row_than_the_one_applied_is_refused_and_the_state_told() {
    let (node, faulty) = peer().await;
    let mut hand = Hand::open(&faulty, &node).await.unwrap();
    hand.send(&hand.load(0, &[1, 2])).await;
    hand.receipt().await.unwrap();
    hand.send(&Load { after_id: 77, ..hand.load(2, &[3]) }).await;
    let told = hand.receipt().await.unwrap();
    assert_eq!((mark(&told), told.batches), ((7, 2), 2));
    assert_eq!(hand.end().await.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn more_batches_than_were_granted_end_the_stream() {
    let (node, faulty) = (node_with(|config| config.federation.courier_batches = 1).await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    let mut hand = Hand::open(&faulty, &node).await.unwrap();
    assert_eq!(hand.first.granted, 1);
    let loads: Vec<Load> = (1..=20).map(|n| hand.load(n - 1, &[n])).collect();
    for load in &loads {
        let _ = hand.batches.send(hand.sealed(load)).await;
    }
    let status = hand.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("granted"), "{status:?}");
}

#[tokio::test]
async fn a_node_without_a_place_lets_the_next_stream_begin_when_there_is_one() {
    let node = node_with(|config| config.federation.courier_batches = 1).await;
    let (first, second) = (Faulty::start().await, Faulty::start().await);
    node.add(&first.id, first.key).await;
    node.add(&second.id, second.key).await;
    let mut hand = Hand::open(&first, &node).await.unwrap();
    let opening = Hand::open(&second, &node);
    tokio::pin!(opening);
    let before = streams_taken(&node).await;
    tokio::select! {
        biased;
        _ = &mut opening => panic!("there is one place, and it is taken"),
        () = async { eventually!(streams_taken(&node).await == before) } => {}
    }
    hand.send(&hand.load(0, &[1])).await;
    hand.receipt().await.unwrap();
    assert_eq!(opening.await.unwrap().first.granted, 1);
}

#[tokio::test]
async fn a_stream_needs_a_bound_token_that_was_not_used_before() {
    let (node, faulty) = peer().await;
    let refused = |opened: Result<Hand<'_>, Status>| opened.err().unwrap().code();
    let (nonce, other) = ([3; 16], [4; 16]);
    let token = faulty.bound_with(&node.id, DELIVER, b"", nonce);
    drop(Hand::open_with(&faulty, &node, nonce, &token).await.unwrap());
    let again = Hand::open_with(&faulty, &node, nonce, &token).await;
    assert_eq!(refused(again), Code::Unauthenticated);
    for token in [
        faulty.plain(),
        faulty.bound_with(&faulty.id, DELIVER, b"", other),
        faulty.bound_with(&node.id, crate::common::faulty::PUSH, b"", other),
        faulty.bound_with(&node.id, DELIVER, b"something", other),
    ] {
        assert_eq!(refused(Hand::open_with(&faulty, &node, other, &token).await), Code::Unauthenticated);
    }
    let stranger = Faulty::start().await;
    assert_eq!(refused(Hand::open(&stranger, &node).await), Code::PermissionDenied);
}

#[tokio::test]
async fn a_second_stream_of_a_peer_a_new_key_and_its_removal_end_the_first() {
    let (node, faulty) = peer().await;
    let mut first = Hand::open(&faulty, &node).await.unwrap();
    let mut second = Hand::open(&faulty, &node).await.unwrap();
    assert_eq!(first.end().await.code(), Code::Unavailable);
    second.send(&second.load(0, &[1])).await;
    second.receipt().await.unwrap();
    let other: PublicKey = Faulty::start().await.key;
    node.add(&faulty.id, other).await;
    assert_eq!(second.end().await.code(), Code::Unavailable);
    node.add(&faulty.id, faulty.key).await;
    let mut third = Hand::open(&faulty, &node).await.unwrap();
    node.federation().remove_peer(&node.peer(&faulty.id)).await.unwrap();
    assert_eq!(third.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn batches_wait_while_the_peer_is_pulled() {
    let (node, faulty) = (node().await, Faulty::start().await);
    faulty.on_pull([crate::common::faulty::Reply::Wait]);
    faulty.queue([event(100)]);
    node.add(&faulty.id, faulty.key).await;
    eventually!(faulty.pulls() == 1);
    let mut hand = Hand::open(&faulty, &node).await.unwrap();
    hand.send(&hand.load(0, &[1, 2])).await;
    faulty.release();
    hand.receipt().await.unwrap();
    assert_eq!(node.log(2).await, [100, 1, 2]);
}

#[tokio::test]
async fn a_node_that_stops_tells_its_streams() {
    let (mut node, faulty) = peer().await;
    let mut hand = Hand::open(&faulty, &node).await.unwrap();
    hand.send(&hand.load(0, &[1])).await;
    hand.receipt().await.unwrap();
    let (status, ()) = tokio::join!(hand.end(), node.stop());
    assert_eq!(status.code(), Code::Unavailable);
}
