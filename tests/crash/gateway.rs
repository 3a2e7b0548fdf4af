//! `kill -9` under the push channel: backends publish, a gateway reads and
//! reconnects, and the node is killed again and again.

use super::{
    load::{DEADLINE, QUICK, pause, scratch},
    way::Way,
};
use crate::process::NodeProcess;
use pillarbox::proto::{
    galaxy::backend::push::v1::{GatewaySubscribeRequest, push_client::PushClient, push_event::Kind},
    pillarbox::push::v1::{PublishRequest, publisher_client::PublisherClient},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet, time::timeout};

const PUBLISHERS: usize = 8;
const EACH: usize = 150;
const KILLS: usize = 6;

/// Publishes each of its events until it is acknowledged, under one id.
async fn publish(way: Way, publisher: usize, cursors: Arc<Mutex<HashMap<String, String>>>) {
    let mut link = way.connect().await;
    for n in 0..EACH {
        let event_id = format!("{publisher}-{n}");
        loop {
            let request = way.request(PublishRequest {
                user_id: format!("u{publisher}"),
                kind: "test.event".into(),
                payload: n.to_string().into(),
                event_id: event_id.clone(),
                ..PublishRequest::default()
            });
            let mut client = PublisherClient::with_origin(link.clone(), link.origin());
            match timeout(Duration::from_secs(10), client.publish(request)).await {
                Ok(Ok(answer)) => {
                    cursors.lock().unwrap().insert(event_id, answer.into_inner().cursor);
                    break;
                }
                _ => link = way.connect().await,
            }
        }
    }
}

/// Reads until it has seen everything; returns the events in their order.
async fn read(way: Way, seen: Arc<AtomicUsize>, mut cursor: String) -> Vec<(String, String)> {
    let mut events: Vec<(String, String)> = vec![];
    while events.len() < PUBLISHERS * EACH {
        let link = way.connect().await;
        let mut client = PushClient::with_origin(link.clone(), link.origin());
        let request = way.request(GatewaySubscribeRequest { gateway_client_id: "web".into(), cursor: cursor.clone() });
        let Ok(answer) = client.subscribe_push(request).await else { continue };
        assert!(answer.metadata().get("x-cursor-reset").is_none(), "a cursor outlives the node: {cursor}");
        let mut stream = answer.into_inner();
        while let Ok(Some(event)) = stream.message().await {
            assert!(event.cursor > cursor, "{} after {cursor}", event.cursor);
            cursor = event.cursor;
            match event.kind.unwrap() {
                Kind::ClientEvent(event) => events.push((cursor.clone(), event.event_id)),
                other => panic!("{other:?}"),
            }
            if seen.fetch_add(1, Relaxed) + 1 == PUBLISHERS * EACH {
                break;
            }
        }
    }
    events
}

#[test]
fn what_was_published_reaches_a_gateway_once_over_kill_9_under_the_cursor_it_was_given() {
    let dir = scratch();
    let mut node = NodeProcess::start(&dir.path().join("node"), QUICK);
    let (gateway, service) = (Way::of(&node, "gateway:web"), Way::of(&node, "service:shop"));
    let runtime = Runtime::new().unwrap();
    let cursors = Arc::new(Mutex::new(HashMap::new()));
    let seen = Arc::new(AtomicUsize::new(0));
    let oldest = runtime.block_on(async {
        let link = gateway.connect().await;
        let request =
            gateway.request(GatewaySubscribeRequest { gateway_client_id: "web".into(), cursor: String::new() });
        let answer = PushClient::with_origin(link.clone(), link.origin()).subscribe_push(request).await.unwrap();
        answer.metadata().get("x-oldest-cursor").unwrap().to_str().unwrap().to_owned()
    });
    let reading = runtime.spawn(read(gateway, seen.clone(), oldest));
    let mut publishing = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        publishing.spawn_on(publish(service.clone(), publisher, cursors.clone()), runtime.handle());
    }
    for kill in 1..=KILLS {
        let (due, since) = (kill * PUBLISHERS * EACH / (KILLS + 1), Instant::now());
        while seen.load(Relaxed) < due {
            assert!(since.elapsed() < DEADLINE, "{} of {due} came", seen.load(Relaxed));
            pause(Duration::from_millis(2));
        }
        node.kill();
        let dir = node.dir().to_owned();
        node = NodeProcess::start(&dir, QUICK);
    }
    let events = runtime.block_on(async {
        let all = async { publishing.join_all().await };
        timeout(DEADLINE, all).await.expect("publishing never ended");
        timeout(DEADLINE, reading).await.expect("not everything came").unwrap()
    });
    let cursors = cursors.lock().unwrap();
    assert_eq!(cursors.len(), PUBLISHERS * EACH);
    let read: HashMap<_, _> = events.iter().map(|(cursor, id)| (id.clone(), cursor.clone())).collect();
    assert_eq!(read.len(), events.len(), "something came twice");
    assert_eq!(read, *cursors, "each under the cursor its publisher was told");
}
