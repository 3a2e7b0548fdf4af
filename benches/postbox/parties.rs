//! MPC parties: how many messages a second the router takes, how long one is on
//! its way, what a subscription costs.

use crate::{
    Failure, Size,
    load::{again, caller, echo},
    process::NodeProcess,
    report::{Aim, Figure, Report, median},
};
use bytes::Bytes;
use pillarbox::bench::{
    baselines::fdatasyncs,
    drive::{Rate, calls},
    parties::{PAYLOAD, Parties, ROOMY},
    usage::memory,
};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const PAYLOAD_BYTES: Bytes = Bytes::from_static(&[0x2a; PAYLOAD]);

/// Messages acknowledged to their sender a second: each on disk, for one
/// recipient that is away.
pub async fn route(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dir = crate::directory()?;
    let node = NodeProcess::start(dir.path(), &ROOMY);
    let (parties, echo) = (Parties::new(caller(&node).await?), echo().await?);
    for in_flight in [1, 64, 512] {
        let (mut routes, mut echoes) = (vec![], vec![]);
        for _ in 0..size.rounds {
            echoes.push(echo.calls(in_flight, size.span).await?);
            let parties = parties.clone();
            let call = move || {
                let parties = parties.clone();
                async move { parties.route("bench", "alice", vec!["bob".into()], PAYLOAD_BYTES).await }
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
            async move { from.route("way", "alice", vec![to], PAYLOAD_BYTES).await }
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
    let (at_a, at_b, echo) = (Parties::new(caller(&a).await?), Parties::new(caller(&b).await?), echo().await?);
    let far = format!("carol@{}", b.server_id);
    // Until the two have met there is no parcel peer.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(status) = at_a.route("met", "alice", vec![format!("dave@{}", b.server_id)], PAYLOAD_BYTES).await {
        if Instant::now() > deadline {
            return Err(status.into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut base, mut here, mut there) = (vec![], [vec![], vec![]], [vec![], vec![]]);
    for _ in 0..size.rounds {
        let sync = fdatasyncs(dirs[0].path(), size.span)?;
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
    let parties = Parties::new(caller(&node).await?);
    let names: Vec<String> = (0..RECIPIENTS).map(|n| format!("p{n}")).collect();
    parties.open_session("broadcast", names.iter().cloned().chain(["alice".to_owned()]).collect()).await?;
    let mut streams = vec![];
    for name in &names {
        streams.push(parties.subscribe(name).await?);
    }
    let mut times = vec![];
    for _ in 0..(size.timed / 20).max(10) {
        let since = Instant::now();
        parties.route("broadcast", "alice", vec![], PAYLOAD_BYTES).await?;
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
        let token = node.ok(&["token", "new", "service:bench"]);
        let first = Parties::new(again(&node, token.trim()).await?);
        // What the first ones of everything take is not a subscription's.
        let warm = first.subscribe("warm").await?;
        let before = memory(node.pid(), "VmRSS")?;
        let mut streams = JoinSet::new();
        for connection in 0..size.parties / each {
            let parties = Parties::new(again(&node, token.trim()).await?);
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
