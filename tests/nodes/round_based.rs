//! A protocol written on `round-based`, between parties of three nodes.

use crate::{
    common::{LONG, TestNode, federate},
    party::announcement,
};
use ::round_based::{
    Mpc, MpcParty, Outgoing as Sent, PartyIndex, ProtocolMessage,
    rounds_router::{RoundsRouter, simple_store::RoundInput},
};
use futures_util::SinkExt;
use pillarbox::client::{Client, Error, Options, Outgoing, round_based as adapter};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tonic::Code;

#[derive(Debug, Clone, Serialize, Deserialize, ProtocolMessage)]
enum Message {
    Number(Number),
    Share(Share),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Number(u64);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Share(Vec<u8>);

/// All learn the sum of all numbers; then each gives each other one a share of
/// its own.
async fn protocol<P>(party: P, own: PartyIndex, parties: PartyIndex, number: u64) -> (u64, Vec<Vec<u8>>)
where
    P: Mpc<ProtocolMessage = Message>,
{
    let MpcParty { delivery, .. } = party.into_party();
    let (incomings, mut outgoings) = round_based::Delivery::split(delivery);
    let mut rounds = RoundsRouter::<Message>::builder();
    let first = rounds.add_round(RoundInput::<Number>::broadcast(own, parties));
    let second = rounds.add_round(RoundInput::<Share>::p2p(own, parties));
    let mut rounds = rounds.listen(incomings);

    outgoings.send(Sent::broadcast(Message::Number(Number(number)))).await.unwrap();
    let numbers = rounds.complete(first).await.map_err(|error| error.to_string()).unwrap();
    let sum = number + numbers.iter().map(|number| number.0).sum::<u64>();
    for other in (0..parties).filter(|other| *other != own) {
        let share = Share(format!("{own} to {other}").into_bytes());
        outgoings.send(Sent::p2p(other, Message::Share(share))).await.unwrap();
    }
    let shares = rounds.complete(second).await.map_err(|error| error.to_string()).unwrap();
    (sum, shares.into_vec_without_me().into_iter().map(|share| share.0).collect())
}

async fn client(node: &TestNode, principal: &str, name: &str) -> Client {
    let bearer = node.bearer(principal).await;
    let token = bearer.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    let options = Options::new(node.id.as_str(), name, &token).unwrap().pinned(node.key);
    Client::connect(options.address(&node.address.ip().to_string(), node.address.port())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_runs_between_three_nodes_while_one_of_them_restarts() {
    let mut nodes = [TestNode::start().await, TestNode::start().await, TestNode::start().await];
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        federate(&nodes[one], &nodes[other]).await;
    }
    let names: Vec<String> =
        ["alice", "bob", "carol"].iter().zip(&nodes).map(|(name, node)| format!("{name}@{}", node.id)).collect();
    let service = client(&nodes[0], "service:coordinator", "").await;
    let parties: Vec<&str> = names.iter().map(String::as_str).collect();
    service.publish(announcement("run-1", &parties)).await.unwrap();
    let mut running = vec![];
    for (own, name) in ["alice", "bob", "carol"].into_iter().enumerate() {
        let party = client(&nodes[own], &format!("party:{name}"), name).await;
        // A party that is slow to learn of the session must not miss its broadcasts.
        let announced = tokio_stream::StreamExt::next(&mut party.events(["session_created"])).await.unwrap().unwrap();
        assert_eq!(announced.session_id, "run-1");
        let names = names.clone();
        let own = PartyIndex::try_from(own).unwrap();
        running.push(tokio::spawn(async move {
            let connected = adapter::connect::<Message>(&party, "run-1", "sum", &names, own).unwrap();
            let done = protocol(connected, own, 3, 10u64.pow(own.into())).await;
            party.flush().await.unwrap();
            assert!(party.pending("run-1", 0).await.unwrap().is_empty());
            done
        }));
    }
    nodes[2].stop().await;
    nodes[2].start_again().await;
    for (own, task) in running.into_iter().enumerate() {
        let (sum, shares) = timeout(LONG, task).await.expect("the protocol hangs").unwrap();
        assert_eq!(sum, 111);
        let expected: Vec<_> =
            (0..3).filter(|other| *other != own).map(|other| format!("{other} to {own}").into_bytes()).collect();
        assert_eq!(shares, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_message_is_passed_over_and_a_malformed_one_is_told() {
    let node = TestNode::start().await;
    let (alice, bob, mallory) = (
        client(&node, "party:alice", "alice").await,
        client(&node, "party:bob", "bob").await,
        client(&node, "party:mallory", "mallory").await,
    );
    mallory.route(Outgoing::to("run", ["alice"], &b"{\"Number\":6}"[..])).await.unwrap();
    bob.route(Outgoing::to("run", ["alice"], &b"{\"Number\":7}"[..])).await.unwrap();
    bob.route(Outgoing::to("run", ["alice"], &b"{\"Numbers\":8}"[..])).await.unwrap();
    let party = adapter::connect::<Message>(&alice, "run", "sum", &["alice", "bob"], 0).unwrap();
    let MpcParty { delivery, .. } = party.into_party();
    let (mut incomings, mut outgoings) = round_based::Delivery::split(delivery);
    let next = tokio_stream::StreamExt::next(&mut incomings).await.unwrap().unwrap();
    assert!(matches!(next.msg, Message::Number(Number(7))) && next.sender == 1 && next.is_p2p());
    let malformed = tokio_stream::StreamExt::next(&mut incomings).await.unwrap();
    let Err(adapter::DeliveryError::Malformed { from, .. }) = malformed else { panic!("{malformed:?}") };
    assert_eq!(from, "bob");
    // To itself, or to a party that is not there.
    for to in [0, 2] {
        let unsendable = outgoings.send(Sent::p2p(to, Message::Number(Number(1)))).await.unwrap_err();
        assert!(matches!(unsendable, adapter::DeliveryError::Unsendable(_)), "{unsendable}");
    }
    // The node's word reaches the protocol.
    let stranger = adapter::connect::<Message>(&alice, "run", "sum", &["alice", "a b"], 0).unwrap();
    let (_, mut outgoings) = round_based::Delivery::split(stranger.into_party().delivery);
    let refused = outgoings.send(Sent::p2p(1, Message::Number(Number(1)))).await.unwrap_err();
    let adapter::DeliveryError::Client(error @ Error::Refused(_)) = refused else { panic!("{refused}") };
    assert_eq!(error.code(), Some(Code::InvalidArgument));
}
