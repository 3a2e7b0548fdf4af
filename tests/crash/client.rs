//! `kill -9` under the library's own client.

use super::load::{DEADLINE, Pair, QUICK, scratch};
use crate::process::NodeProcess;
use futures_util::SinkExt;
use pillarbox::client::{Acknowledge, Client, Options, Outgoing};
use tokio::{runtime::Runtime, time::timeout};
use tokio_stream::StreamExt;

const MESSAGES: u32 = 600;

async fn connect(node: &NodeProcess, party: &str) -> Client {
    let token = node.ok(&["token", "new", &format!("party:{party}")]);
    let options = Options::new(&node.server_id, party, &token).unwrap().pinned(node.key.parse().unwrap());
    Client::connect(options.patience(DEADLINE)).await.unwrap()
}

fn kill_and_start(node: &mut NodeProcess) {
    node.kill();
    let dir = node.dir().to_owned();
    *node = NodeProcess::start(&dir, QUICK);
}

#[test]
fn a_client_goes_on_through_kill_9_of_both_nodes_without_gap_or_repeat() {
    let dir = scratch();
    let mut pair = Pair::start(&dir.path().join("a"), &dir.path().join("b"));
    let runtime = Runtime::new().unwrap();
    let (alice, bob) = runtime.block_on(async { (connect(&pair.a, "alice").await, connect(&pair.b, "bob").await) });
    let to = format!("bob@{}", pair.b.server_id);
    let sending = runtime.spawn(async move {
        let mut outbox = alice.outbox();
        for n in 0..MESSAGES {
            outbox.send(Outgoing::to("s", [to.as_str()], n.to_be_bytes().to_vec())).await.unwrap();
        }
    });
    let mut messages = bob.messages("s", Acknowledge::WhenTaken);
    for n in 0..MESSAGES {
        let next = runtime.block_on(async { timeout(DEADLINE, messages.next()).await });
        let message = next.expect("no message came").expect("the stream ended").unwrap();
        assert_eq!(u32::from_be_bytes((*message.payload).try_into().unwrap()), n, "each once, in order");
        match n {
            100 | 300 | 500 => kill_and_start(&mut pair.b),
            200 | 400 => kill_and_start(&mut pair.a),
            _ => {}
        }
    }
    runtime.block_on(async {
        timeout(DEADLINE, sending).await.expect("the sender never got through").unwrap();
        bob.flush().await.unwrap();
        assert!(bob.pending("s", 0).await.unwrap().is_empty());
    });
}
