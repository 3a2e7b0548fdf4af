//! A server that is away, and a link that lies: nothing is lost, repeated or
//! out of order between two nodes.

use crate::{
    common::{TestNode, event, faulty::Faulty, faulty::Reply, federate, forwarder::Forwarder, large_event, quick},
    courier::{node, open_stream},
    eventually,
};
use bytes::Bytes;
use pillarbox::{
    config::Config,
    proto::{pillarbox::federation::v1::State, protocol::sync::v1::PullResponse},
};
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn what_waited_during_an_outage_is_pulled_in_order_and_then_pushed_again() {
    let (a, mut b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    a.send(&b.id, 0..10).await;
    assert_eq!(b.log(9).await, Vec::from_iter(0..10));

    b.stop().await;
    a.send(&b.id, 10..60).await;
    eventually!(a.is_queued(&b.id).await);
    a.send(&b.id, 60..100).await;
    assert_eq!(a.peer(&b.id).queued().0, 90);

    b.start_again().await;
    assert_eq!(b.log(99).await, Vec::from_iter(0..100));
    eventually!(a.is_drained(&b.id).await);
    a.send(&b.id, 100..110).await;
    assert_eq!(b.log(109).await, Vec::from_iter(0..110));
}

#[tokio::test]
async fn a_queue_survives_the_restart_of_its_node() {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    b.stop().await;
    a.send(&b.id, 0..50).await;
    eventually!(a.is_queued(&b.id).await);
    a.stop().await;
    b.start_again().await;
    a.start_again().await;
    a.send(&b.id, 50..60).await;
    assert_eq!(b.log(59).await, Vec::from_iter(0..60));
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn a_node_that_takes_its_old_name_back_drains_what_waits() {
    let impatient = |config: &mut Config| {
        quick(config);
        config.federation.push_retries = 0;
    };
    let (a, mut b) = (TestNode::start_with(impatient).await, TestNode::start_with(impatient).await);
    federate(&a, &b).await;
    b.stop().await;
    a.send(&b.id, 0..5).await;
    eventually!(a.is_queued(&b.id).await);
    let other = a.id.to_string().replace("localhost", "127.0.0.1");
    for name in [&other, a.id.as_str()] {
        a.federation().rename(name.parse().unwrap()).await.unwrap();
    }
    b.start_again().await;
    assert_eq!(b.log(4).await, Vec::from_iter(0..5));
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn two_nodes_send_to_each_other_at_once_in_order() {
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    tokio::join!(a.send(&b.id, 0..500), b.send(&a.id, 0..500));
    let (at_a, at_b) = tokio::join!(a.log(499), b.log(499));
    assert_eq!(at_a, Vec::from_iter(0..500));
    assert_eq!(at_b, Vec::from_iter(0..500));
}

#[tokio::test]
async fn a_push_whose_answer_was_swallowed_is_applied_once() {
    let (a, b) = (node().await, node().await);
    let link = Forwarder::to(b.address).await;
    a.add_at(&b.id, b.key, Some(link.address)).await;
    b.add(&a.id, a.key).await;
    let first = open_stream(&a, &b).await;

    link.swallow(true);
    a.send(&b.id, first..first + 1).await;
    assert_eq!(b.log(first).await, Vec::from_iter(0..=first));
    eventually!(link.swallowed() > 0);
    link.swallow(false);
    link.cut();
    a.send(&b.id, first + 1..first + 4).await;
    assert_eq!(b.log(first + 3).await, Vec::from_iter(0..first + 4));
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn a_pull_whose_answer_was_swallowed_gets_the_same_rows_again_and_applies_them_once() {
    let a = TestNode::start().await;
    // Pulls only when it is told to.
    let b = TestNode::start_with(|config| config.federation.pull_interval = Duration::from_secs(3600)).await;
    let (to_b, to_a) = (Forwarder::to(b.address).await, Forwarder::to(a.address).await);
    a.add_at(&b.id, b.key, Some(to_b.address)).await;
    b.add_at(&a.id, a.key, Some(to_a.address)).await;
    eventually!(b.peer(&a.id).health().outbound_ok_at.is_some());
    a.send(&b.id, 0..1).await;
    assert_eq!(b.log(0).await, [0]);
    eventually!(a.is_drained(&b.id).await);

    to_b.close();
    a.send(&b.id, 1..50).await;
    eventually!(a.is_queued(&b.id).await);
    to_a.swallow(true);
    b.federation().retry(&b.peer(&a.id), false).await.unwrap();
    eventually!(to_a.swallowed() > 500);
    to_a.swallow(false);
    to_a.cut();
    assert_eq!(b.log(49).await, Vec::from_iter(0..50));

    to_b.open();
    eventually!(a.is_drained(&b.id).await);
    a.send(&b.id, 50..60).await;
    assert_eq!(b.log(59).await, Vec::from_iter(0..60));
}

#[tokio::test]
async fn a_node_that_stops_with_a_push_in_flight_delivers_it_once() {
    let (mut a, b) = (node().await, node().await);
    let link = Forwarder::to(b.address).await;
    a.add_at(&b.id, b.key, Some(link.address)).await;
    b.add(&a.id, a.key).await;
    let first = open_stream(&a, &b).await;

    link.swallow(true);
    a.send(&b.id, first..first + 4).await;
    assert_eq!(b.log(first).await, Vec::from_iter(0..=first));
    eventually!(link.swallowed() > 0);
    let cut = async {
        tokio::task::yield_now().await;
        link.close();
    };
    tokio::join!(a.stop(), cut);
    link.swallow(false);
    link.open();
    a.start_again().await;
    assert_eq!(b.log(first + 3).await, Vec::from_iter(0..first + 4));
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn what_a_pull_in_flight_brings_is_kept_when_the_node_stops() {
    let (mut a, stock) = (TestNode::start().await, Faulty::start().await);
    stock.on_pull([Reply::Wait]);
    stock.queue([event(1), event(2)]);
    a.add(&stock.id, stock.key).await;
    eventually!(stock.pulls() == 1);
    let answer = async {
        tokio::task::yield_now().await;
        stock.release();
    };
    tokio::join!(a.stop(), answer);
    a.start_again().await;
    assert_eq!(a.log(2).await, [1, 2]);
}

/// A node for whose peer, which is scripted and then pulls as one of ours,
/// more than two pages wait; and what waits.
async fn pages_wait() -> (TestNode, Faulty, Vec<Bytes>) {
    // The node pulls at the start only: what it hears then is a stock peer's.
    let node = TestNode::start_with(|config| config.federation.pull_interval = Duration::from_secs(3600)).await;
    let peer = Faulty::start().await;
    peer.on_push([Reply::Fail(Code::PermissionDenied)]);
    node.add(&peer.id, peer.key).await;
    let events: Vec<_> = (0..60).map(|n| large_event(n, 60_000)).collect();
    node.federation().send(&peer.id, events.clone()).await.unwrap();
    eventually!(node.is_queued(&peer.id).await);
    (node, peer, events)
}

/// The state of a peer that has applied a page.
fn after(page: &PullResponse) -> State {
    let last = page.positions.last().unwrap();
    State { epoch: last.epoch, mark: last.number, id: last.id }
}

#[tokio::test]
async fn a_queue_of_several_pages_is_pulled_page_by_page_once_and_in_order() {
    let (node, peer, events) = pages_wait().await;
    let link = node.dial(false).await;
    let (mut got, mut pages, mut state) = (vec![], 0, State::default());
    loop {
        let page = peer.pull_after(&link, state).await;
        // Asked again from where it stood, the node does not give the page after.
        let again = peer.pull_after(&link, state).await;
        assert!(again.event_queue == page.event_queue, "page {pages}");
        assert_eq!(again.positions, page.positions, "page {pages}");
        if page.event_queue.is_empty() {
            break;
        }
        assert!(page.event_queue.iter().map(Bytes::len).sum::<usize>() <= 1 << 20);
        assert_eq!(page.positions[0].after, state.mark);
        state = after(&page);
        got.extend(page.event_queue);
        pages += 1;
    }
    assert!(got == events, "{} events of {}, once and in order", got.len(), events.len());
    assert!(pages > 2, "{pages} pages");
    eventually!(node.is_drained(&peer.id).await);
}

#[tokio::test]
async fn what_was_dropped_after_a_page_was_answered_is_not_on_the_next_one() {
    let (node, peer, mut events) = pages_wait().await;
    let link = node.dial(false).await;
    let page = peer.pull_after(&link, State::default()).await;
    let first = page.event_queue.len();
    let (row, mark) = (node.peer(&peer.id), after(&page).mark);
    let waiting = node.federation().queue(&row, mark).await.unwrap();
    for dropped in [3, 0] {
        assert_eq!(waiting[dropped].body, events[first + dropped]);
        node.federation().drop_queued(&row, Some(waiting[dropped].number)).await.unwrap();
        events.remove(first + dropped);
    }
    let mut got = page.event_queue.clone();
    let mut state = after(&page);
    loop {
        let page = peer.pull_after(&link, state).await;
        if page.event_queue.is_empty() {
            break;
        }
        state = after(&page);
        got.extend(page.event_queue);
    }
    assert!(got == events, "{} events of {}", got.len(), events.len());
    assert_eq!(node.federation().dead_letters(None, None).await.unwrap().len(), 2);
}
