//! `kill -9` under the router: fifty parties on two nodes that send to one
//! another while both nodes are killed again and again.

use super::{
    load::{DEADLINE, Pair, pause, scratch},
    way::Way,
};
use crate::process::NodeProcess;
use base64::{Engine, engine::general_purpose::STANDARD};
use pillarbox::{
    net::link::Link,
    proto::mpc::router::v1::{
        AcknowledgeMessageRequest, RouteMessageRequest, SubscribeMessagesRequest,
        message_router_client::MessageRouterClient,
    },
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

const PARTIES: usize = 50;
const KILLS: u64 = 10;
const SESSION: &str = "signing";
/// Acts for all parties of its node.
const PRINCIPAL: &str = "service:parties";

async fn router(home: &Way) -> MessageRouterClient<Link> {
    let link = home.connect().await;
    MessageRouterClient::with_origin(link.clone(), link.origin())
}

/// What was acknowledged to senders, and what recipients saw first, by sender
/// and recipient.
#[derive(Default)]
struct Ledger {
    sent: Mutex<HashMap<(usize, usize), Vec<u64>>>,
    seen: Mutex<HashMap<(usize, usize), Vec<u64>>>,
    acknowledged: AtomicU64,
    received: AtomicU64,
}

/// Even parties live on the first node, odd ones on the second.
fn named(party: usize, from: usize, homes: &[Way; 2]) -> String {
    match party % 2 == from % 2 {
        true => format!("p{party}"),
        false => format!("p{party}@{}", homes[party % 2].target.id),
    }
}

async fn send(party: usize, homes: [Way; 2], ledger: Arc<Ledger>, stop: CancellationToken) {
    let home = &homes[party % 2];
    let mut client = router(home).await;
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        // Now to a party here, now to one over there.
        let to = (party + 1 + usize::try_from(number).unwrap() % 7) % PARTIES;
        loop {
            let mut request = home.request(RouteMessageRequest {
                session_id: SESSION.into(),
                from_party: format!("p{party}"),
                to_parties: vec![named(to, party, &homes)],
                round_number: 1,
                message_type: "share".into(),
                payload: format!("{party} {number}").into_bytes().into(),
            });
            request.metadata_mut().insert("idempotency-key", format!("{party}-{number}").parse().unwrap());
            match timeout(Duration::from_secs(10), client.route_message(request)).await {
                Ok(Ok(_)) => break,
                _ => client = router(home).await,
            }
        }
        ledger.sent.lock().unwrap().entry((party, to)).or_default().push(number);
        ledger.acknowledged.fetch_add(1, Relaxed);
    }
}

async fn receive(party: usize, homes: [Way; 2], ledger: Arc<Ledger>) {
    let home = &homes[party % 2];
    let (mut known, me) = (HashSet::new(), format!("p{party}"));
    loop {
        let mut client = router(home).await;
        let subscribe = SubscribeMessagesRequest { session_id: String::new(), party_id: me.clone() };
        let Ok(answer) = client.subscribe_messages(home.request(subscribe)).await else { continue };
        let mut messages = answer.into_inner();
        while let Ok(Some(message)) = messages.message().await {
            if known.insert(message.message_id.clone()) {
                let text = String::from_utf8(message.payload.to_vec()).unwrap();
                let (from, number) = text.split_once(' ').unwrap();
                let from: usize = from.parse().unwrap();
                let sender = named(from, party, &homes);
                assert_eq!(message.from_party, sender, "nobody speaks for another");
                ledger.seen.lock().unwrap().entry((from, party)).or_default().push(number.parse().unwrap());
                ledger.received.fetch_add(1, Relaxed);
            }
            let acknowledge = AcknowledgeMessageRequest {
                message_id: message.message_id,
                party_id: me.clone(),
                session_id: SESSION.into(),
                success: true,
                error_message: String::new(),
            };
            // If it fails the message comes again.
            let _ = client.acknowledge_message(home.request(acknowledge)).await;
        }
    }
}

/// Waits for so many more of a count.
fn progress(count: &AtomicU64, more: u64) {
    let goal = count.load(Relaxed) + more;
    let deadline = Instant::now() + DEADLINE;
    while count.load(Relaxed) < goal {
        assert!(Instant::now() < deadline, "nothing goes on");
        pause(Duration::from_millis(5));
    }
}

#[test]
fn kill_9_under_fifty_parties_loses_no_message_and_keeps_their_order() {
    let dir = scratch();
    let mut pair = Pair::start(&dir.path().join("a"), &dir.path().join("b"));
    let homes = [Way::of(&pair.a, PRINCIPAL), Way::of(&pair.b, PRINCIPAL)];
    let (ledger, stop, runtime) = (Arc::new(Ledger::default()), CancellationToken::new(), Runtime::new().unwrap());
    let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
    for party in 0..PARTIES {
        senders.spawn_on(send(party, homes.clone(), ledger.clone(), stop.clone()), runtime.handle());
        receivers.spawn_on(receive(party, homes.clone(), ledger.clone()), runtime.handle());
    }
    for kill in 0..KILLS {
        progress(&ledger.acknowledged, 100);
        progress(&ledger.received, 50);
        let node = if kill % 2 == 0 { &mut pair.a } else { &mut pair.b };
        node.kill();
        let dir = node.dir().to_owned();
        *node = NodeProcess::start(&dir, super::load::QUICK);
    }
    progress(&ledger.acknowledged, 100);
    stop.cancel();
    let ended = async {
        while let Some(ended) = senders.join_next().await {
            ended.unwrap()
        }
    };
    runtime.block_on(async { timeout(DEADLINE, ended).await.expect("a sender never got through") });

    // Everything that was acknowledged arrives.
    while ledger.received.load(Relaxed) < ledger.acknowledged.load(Relaxed) {
        progress(&ledger.received, 1);
    }
    let (sent, seen) = (ledger.sent.lock().unwrap(), ledger.seen.lock().unwrap());
    println!("{KILLS} kills, {} messages", ledger.acknowledged.load(Relaxed));
    for (pair, numbers) in sent.iter() {
        assert_eq!(seen.get(pair), Some(numbers), "from {} to {}: each once, in order", pair.0, pair.1);
    }
    assert_eq!(seen.len(), sent.len());
    for node in [&pair.a, &pair.b] {
        assert!(chain_of(node) >= 500, "what was accepted stands in the transcript");
    }
}

/// Follows the chain of the session link by link to the head; returns its length.
fn chain_of(node: &NodeProcess) -> usize {
    let printed = node.ok(&["--json", "mpc", "transcript", SESSION]);
    let mut lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let head = lines.pop().unwrap();
    let text = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    let mut link = vec![0; 32];
    for (slot, position) in lines.iter().zip(1..) {
        assert_eq!((slot["position"].as_u64(), bytes(&slot["before"])), (Some(position), link.clone()));
        let fields = ["message_type", "sender", "message_id"].map(|name| text(slot[name].as_str().unwrap())).concat();
        let round = i32::try_from(slot["round_number"].as_i64().unwrap()).unwrap().to_be_bytes();
        let broadcast = [u8::from(slot["broadcast"].as_bool().unwrap())];
        let digest = bytes(&slot["payload_sha256"]);
        link = Sha256::digest([&link[..], &text(SESSION), &round, &fields, &broadcast, &digest].concat()).to_vec();
        assert_eq!(bytes(&slot["link"]), link);
    }
    assert_eq!((head["position"].as_u64(), bytes(&head["link"])), (Some(lines.len() as u64), link));
    lines.len()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}
