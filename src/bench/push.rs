//! `bench push`: events that a backend publishes, from the call that stores them to
//! each gateway; every gateway hears all of them.

use super::{
    Bench, Error, Listeners,
    drive::Meter,
    events::{age, stamped_text},
    report::Figure,
    stage::token,
    unique,
};
use crate::{
    bench::caller::Caller,
    demo::process::Name,
    net::link::Link,
    proto::{
        galaxy::backend::push::v1::{GatewaySubscribeRequest, PushEvent, push_client::PushClient, push_event::Kind},
        pillarbox::push::v1::{PublishRequest, publisher_client::PublisherClient},
    },
};
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Status, Streaming};

/// Settings of a node under load.
pub const ROOMY: [(&str, &str); 2] = [("LIMITS__CALLS_PER_SECOND", "0"), ("PUSH__WINDOW_EVENTS", "10000000")];

/// The service that publishes; a cheap clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    client: PublisherClient<Link>,
    caller: Caller,
}

impl Publisher {
    pub fn new(caller: Caller) -> Self {
        Self { client: PublisherClient::with_origin(caller.link.clone(), caller.link.origin()), caller }
    }

    /// A payload, which is JSON, under an id of its own.
    pub async fn publish(&self, event_id: String, payload: Bytes) -> Result<(), Status> {
        self.tell("alice", event_id, payload).await
    }

    /// The same to another user.
    pub async fn tell(&self, user: &str, event_id: String, payload: Bytes) -> Result<(), Status> {
        let request = PublishRequest {
            user_id: user.into(),
            kind: "bench.event".into(),
            payload,
            event_id,
            ..PublishRequest::default()
        };
        self.client.clone().publish(self.caller.request(request)).await.map(drop)
    }
}

/// A stream of what is published after `cursor`. An error, too, if that is of no use.
pub async fn subscribe(caller: &Caller, gateway: &str, cursor: &str) -> Result<Streaming<PushEvent>, Status> {
    let request = GatewaySubscribeRequest { gateway_client_id: gateway.into(), cursor: cursor.into() };
    let mut client = PushClient::with_origin(caller.link.clone(), caller.link.origin());
    let answer = client.subscribe_push(caller.request(request)).await?;
    match answer.metadata().get("x-cursor-reset") {
        Some(_) => Err(Status::internal("the cursor was of no use")),
        None => Ok(answer.into_inner()),
    }
}

/// A JSON text of so many bytes, stamped now.
fn payload(size: usize) -> Bytes {
    format!("\"{}\"", stamped_text(size - 2)).into()
}

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>, Error> {
    let (node, _) = bench.stage(0, &ROOMY).await?;
    let mut publishers = Vec::new();
    for _ in 0..bench.options.connections {
        publishers.push(Publisher::new(node.caller().await?));
    }
    let run = unique()?;
    let mut gateways = Vec::new();
    match &bench.options.running {
        Some(running) => gateways.extend(running.gateway.clone()),
        None => {
            for at in 0..bench.options.peers {
                let id = format!("{run}-g{at}");
                let token = token(bench.nodes, Name::A, &format!("gateway:{id}")).await?;
                gateways.push((id, token));
            }
        }
    }
    let mut listeners = Listeners::new();
    for (id, token) in &gateways {
        let caller = node.place.caller(token).await?;
        let stream = subscribe(&caller, id, "").await?;
        listeners.spawn(listen(caller, stream, bench.delivered.clone(), format!("{run}-")));
    }
    let (since, used, size) = (Instant::now(), node.cpu(), bench.options.size);
    let loaded = bench.load(move |number| {
        let at = usize::try_from(number % publishers.len() as u64).unwrap_or(0);
        let (publisher, id) = (publishers[at].clone(), format!("{run}-{number}"));
        async move { publisher.publish(id, payload(size)).await }
    });
    let loaded = loaded.await?;
    bench.all_arrive(&mut listeners, gateways.len() as u64).await?;
    Ok(bench.figures_of_one(&node, used, loaded, since.elapsed().as_secs_f64()))
}

/// Counts this run's own; a running node may have others.
async fn listen(
    caller: Caller,
    mut stream: Streaming<PushEvent>,
    delivered: Arc<Meter>,
    own: String,
) -> Result<(), Error> {
    while let Some(event) = stream.message().await? {
        if let Some(Kind::ClientEvent(event)) = event.kind
            && event.event_id.starts_with(&own)
        {
            let text = event.payload.strip_suffix(b"\"").unwrap_or_default();
            delivered.note(age(text).unwrap_or(Duration::ZERO), 1);
        }
    }
    // As long as its stream.
    drop(caller);
    Ok(())
}
