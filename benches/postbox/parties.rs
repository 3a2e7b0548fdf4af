//! MPC parties: how many messages a second the router takes, how long one is on
//! its way, what a subscription costs.

use crate::{
    Failure, Size, disk,
    echo::EchoProcess,
    load::{Rate, calls, connect},
    process::NodeProcess,
    report::{Aim, Figure, Report, median},
    usage::memory,
};
use bytes::Bytes;
use pillarbox::{
    net::link::Link,
    proto::mpc::router::v1::{
        AcknowledgeMessageRequest, MpcMessage, PublishSessionEventRequest, RouteMessageRequest, SessionEvent,
        SubscribeMessagesRequest, message_router_client::MessageRouterClient,
    },
};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

const PAYLOAD: usize = 256;
/// Nothing is refused for its size, and nothing comes twice.
const ROOMY: [(&str, &str); 4] = [
    ("RELAY__SENDER_MAX_BYTES", "1TiB"),
    ("RELAY__SESSION_MAX_BYTES", "1TiB"),
    ("RELAY__REDELIVER_AFTER", "10m"),
    ("LIMITS__CALLS_PER_SECOND", "0"),
];

/// The service behind the parties of a node, on a connection of its own.
#[derive(Clone)]
struct Parties {
    client: MessageRouterClient<Link>,
    bearer: MetadataValue<Ascii>,
}

impl Parties {
    async fn of(node: &NodeProcess) -> Result<Self, Failure> {
        let bearer = format!("Bearer {}", node.ok(&["token", "new", "service:bench"]).trim()).parse()?;
        Self::again(node, bearer).await
    }

    async fn again(node: &NodeProcess, bearer: MetadataValue<Ascii>) -> Result<Self, Failure> {
        let link = connect(&node.listen, &node.key).await?;
        Ok(Self { client: MessageRouterClient::with_origin(link.clone(), link.origin()), bearer })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    async fn route(&self, session: &str, to: Vec<String>) -> Result<(), Status> {
        let message = RouteMessageRequest {
            session_id: session.into(),
            from_party: "alice".into(),
            to_parties: to,
            round_number: 1,
            message_type: "share".into(),
            payload: Bytes::from_static(&[0x2a; PAYLOAD]),
        };
        self.client.clone().route_message(self.request(message)).await.map(drop)
    }

    async fn subscribe(&self, party: &str) -> Result<Streaming<MpcMessage>, Status> {
        let request = SubscribeMessagesRequest { session_id: String::new(), party_id: party.into() };
        self.client.clone().subscribe_messages(self.request(request)).await.map(tonic::Response::into_inner)
    }

    async fn acknowledge(&self, party: &str, message: MpcMessage) -> Result<(), Status> {
        let request = AcknowledgeMessageRequest {
            message_id: message.message_id,
            party_id: party.into(),
            session_id: message.session_id,
            success: true,
            error_message: String::new(),
        };
        self.client.clone().acknowledge_message(self.request(request)).await.map(drop)
    }
}

/// Messages acknowledged to their sender a second: each on disk, for one
/// recipient that is away.
pub async fn route(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dir = crate::directory()?;
    let node = NodeProcess::start(dir.path(), &ROOMY);
    let (parties, echo) = (Parties::of(&node).await?, EchoProcess::start().await?);
    for in_flight in [1, 64, 512] {
        let (mut routes, mut echoes) = (vec![], vec![]);
        for _ in 0..size.rounds {
            echoes.push(echo.calls(in_flight, size.span).await?);
            let parties = parties.clone();
            let call = move || {
                let parties = parties.clone();
                async move { parties.route("bench", vec!["bob".into()]).await }
            };
            routes.push(calls(node.pid(), in_flight, size.span, call).await?);
        }
        let each = |of: fn(&Rate) -> f64| (routes.iter().map(of).collect(), echoes.iter().map(of).collect());
        let (name, (values, baseline)) = (format!("RouteMessage, {in_flight} in flight"), each(|rate| rate.calls));
        let figure = Figure::new(&name, "/s", values).beside("unary echo", baseline);
        report.add(&if in_flight == 64 { figure.aim(Aim::Ratio(0.6)) } else { figure });
        let (values, baseline) = each(|rate| rate.cpu);
        report.add(&Figure::new(format!("{name}: CPU of the node"), "µs", values).beside("unary echo", baseline));
    }
    Ok(())
}

pub fn percentile(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * part) as usize]
}

/// From the call of RouteMessage to the subscriber, one message at a time.
async fn way(from: &Parties, at: &Parties, to: &str, name: &str, count: usize) -> Result<Vec<f64>, Failure> {
    let mut messages = at.subscribe(name).await?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let since = Instant::now();
        let routed = tokio::spawn({
            let (from, to) = (from.clone(), to.to_owned());
            async move { from.route("way", vec![to]).await }
        });
        let message = messages.message().await?.ok_or("the stream ended")?;
        times.push(since.elapsed().as_secs_f64() * 1e6);
        routed.await??;
        at.acknowledge(name, message).await?;
    }
    Ok(times)
}

pub async fn latency(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dirs = [crate::directory()?, crate::directory()?];
    let (a, b) = (NodeProcess::start(dirs[0].path(), &ROOMY), NodeProcess::start(dirs[1].path(), &ROOMY));
    a.add_peer(&b);
    b.add_peer(&a);
    let (at_a, at_b, echo) = (Parties::of(&a).await?, Parties::of(&b).await?, EchoProcess::start().await?);
    let far = format!("carol@{}", b.server_id);
    // Until the two have met there is no parcel peer.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(status) = at_a.route("met", vec![format!("dave@{}", b.server_id)]).await {
        if Instant::now() > deadline {
            return Err(status.into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut base, mut here, mut there) = (vec![], [vec![], vec![]], [vec![], vec![]]);
    for _ in 0..size.rounds {
        let sync = disk::fdatasyncs(dirs[0].path(), size.span)?;
        base.push(1e6 / sync + 1e6 / echo.calls(1, size.span).await?.calls);
        let mut times = way(&at_a, &at_a, "bob", "bob", size.timed).await?;
        here[0].push(percentile(&mut times, 0.5));
        here[1].push(percentile(&mut times, 0.99));
        let mut times = way(&at_a, &at_b, &far, "carol", size.timed).await?;
        there[0].push(percentile(&mut times, 0.5));
        there[1].push(percentile(&mut times, 0.99));
    }
    let baseline = "fdatasync + unary echo";
    let ([p50, p99], [far50, far99]) = (here, there);
    report.add(
        &Figure::new("message to subscriber, p50", "µs", p50).beside(baseline, base.clone()).aim(Aim::RatioAtMost(2.0)),
    );
    report.add(&Figure::new("message to subscriber, p99", "µs", p99).beside(baseline, base.clone()));
    report.add(&Figure::new("to a subscriber on another node, p50", "µs", far50).beside(baseline, base.clone()));
    report.add(&Figure::new("to a subscriber on another node, p99", "µs", far99).beside(baseline, base));
    Ok(())
}

/// One broadcast to a hundred subscribers: until the last one has it.
pub async fn broadcast(report: &mut Report, size: Size) -> Result<(), Failure> {
    const RECIPIENTS: usize = 100;
    let dir = crate::directory()?;
    let node = NodeProcess::start(dir.path(), &ROOMY);
    let parties = Parties::of(&node).await?;
    let names: Vec<String> = (0..RECIPIENTS).map(|n| format!("p{n}")).collect();
    let event = SessionEvent {
        event_type: "session_created".into(),
        session_id: "broadcast".into(),
        selected_parties: names.iter().cloned().chain(["alice".to_owned()]).collect(),
        ..SessionEvent::default()
    };
    let request = parties.request(PublishSessionEventRequest { event: Some(event) });
    parties.client.clone().publish_session_event(request).await?;
    let mut streams = vec![];
    for name in &names {
        streams.push(parties.subscribe(name).await?);
    }
    let mut times = vec![];
    for _ in 0..(size.timed / 20).max(10) {
        let since = Instant::now();
        parties.route("broadcast", vec![]).await?;
        for stream in &mut streams {
            stream.message().await?.ok_or("the stream ended")?;
        }
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    report.add(&Figure::new("broadcast to 100 subscribers, all have it", "ms", vec![median(&times)]));
    report.add(&Figure::new("broadcast to 100: deliveries", "/s", vec![RECIPIENTS as f64 / median(&times) * 1e3]));
    Ok(())
}

/// What an idle subscription costs the node.
pub async fn subscribed(report: &mut Report, size: Size) -> Result<(), Failure> {
    for (each, most) in [(20, 20.0), (1, 64.0)] {
        let dir = crate::directory()?;
        let node = NodeProcess::start(dir.path(), &ROOMY);
        let first = Parties::of(&node).await?;
        // What the first ones of everything take is not a subscription's.
        let warm = first.subscribe("warm").await?;
        let before = memory(node.pid(), "VmRSS")?;
        let mut streams = JoinSet::new();
        for connection in 0..size.parties / each {
            let parties = Parties::again(&node, first.bearer.clone()).await?;
            for n in 0..each {
                let (parties, name) = (parties.clone(), format!("p{}", connection * each + n));
                streams.spawn(async move { parties.subscribe(&name).await.map(|stream| (parties, stream)) });
            }
        }
        let streams: Vec<_> = streams.join_all().await.into_iter().collect::<Result<_, _>>()?;
        let after = memory(node.pid(), "VmRSS")?;
        let cost = (after - before) * 1024.0 / streams.len() as f64;
        let name = format!("{} subscriptions, {each} a connection: each", streams.len());
        report.add(&Figure::new(name, "KiB", vec![cost]).aim(Aim::AtMost(most)));
        drop((streams, warm));
    }
    Ok(())
}
