//! The push channel: events published a second, each on disk before its answer;
//! how long one is on its way to a gateway; a gateway that comes back; a hundred
//! gateways at once.

use crate::{
    Failure, Size,
    load::{Echo, again, echo},
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use bytes::Bytes;
use pillarbox::{
    bench::{
        baselines::fdatasyncs,
        caller::Caller,
        drive::{Rate, calls},
        push::{Publisher, ROOMY, subscribe},
    },
    proto::galaxy::backend::push::v1::PushEvent,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Status, Streaming};

const GATEWAYS: usize = 100;
/// Publishers that fill the log.
const FILLERS: usize = 256;
/// No stream waits for longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A principal of a node, on a connection of its own.
async fn principal(node: &NodeProcess, name: &str) -> Result<Caller, Failure> {
    again(node, node.ok(&["token", "new", name]).trim()).await
}

/// A payload of 256 bytes, under an id of its own.
async fn publish_one(service: &Publisher, number: u64) -> Result<(), Status> {
    service.publish(number.to_string(), payload(number)).await
}

fn payload(number: u64) -> Bytes {
    format!("\"{number:0254}\"").into()
}

async fn next(stream: &mut Streaming<PushEvent>) -> Result<PushEvent, Failure> {
    Ok(timeout(PATIENCE, stream.message()).await??.ok_or("the stream ended")?)
}

/// Everything about the push channel.
pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    let (dir, echo) = (crate::directory()?, echo().await?);
    let node = NodeProcess::start(dir.path(), &ROOMY);
    let (gateway, service) =
        (principal(&node, "gateway:web").await?, Publisher::new(principal(&node, "service:bench").await?));
    let numbers = Arc::new(AtomicU64::new(0));
    // The log is written from the first subscription on.
    drop(subscribe(&gateway, "web", "").await?);
    publish(report, size, &node, &service, &echo, dir.path(), &numbers).await?;
    way(report, size, &gateway, &service, &echo, dir.path(), &numbers).await?;
    catch_up(report, size, &gateway, &service, &numbers).await?;
    many(report, size, &node, &service, &numbers).await
}

async fn publish(
    report: &mut Report,
    size: Size,
    node: &NodeProcess,
    service: &Publisher,
    echo: &Echo,
    dir: &std::path::Path,
    numbers: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    for in_flight in [1, 64, 512] {
        let (mut rates, mut echoes, mut syncs) = (vec![], vec![], vec![]);
        for _ in 0..size.rounds {
            syncs.push(fdatasyncs(dir, size.span / 3)?);
            echoes.push(echo.calls(in_flight, size.span).await?.calls);
            let (service, numbers) = (service.clone(), numbers.clone());
            let call = move || {
                let (service, number) = (service.clone(), numbers.fetch_add(1, Relaxed));
                async move { publish_one(&service, number).await }
            };
            rates.push(calls(node.pid(), in_flight, size.span, call).await?);
        }
        let values = || rates.iter().map(|rate: &Rate| rate.calls).collect::<Vec<_>>();
        let name = format!("push Publish, {in_flight} in flight");
        report.add(&Figure::new(&name, "/s", values()).beside("unary echo", echoes));
        report.add(&Figure::new(format!("{name}: beside the disk"), "/s", values()).beside("fdatasync", syncs));
    }
    Ok(())
}

/// From the call of `Publish` to the event at the gateway.
async fn way(
    report: &mut Report,
    size: Size,
    gateway: &Caller,
    service: &Publisher,
    echo: &Echo,
    dir: &std::path::Path,
    numbers: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    let mut stream = subscribe(gateway, "web", "").await?;
    let (mut base, mut p50, mut p99) = (vec![], vec![], vec![]);
    for _ in 0..size.rounds {
        let sync = fdatasyncs(dir, size.span)?;
        base.push(1e6 / sync + 1e6 / echo.calls(1, size.span).await?.calls);
        let mut times = vec![];
        for _ in 0..size.timed {
            let (number, since) = (numbers.fetch_add(1, Relaxed), Instant::now());
            let (published, heard) = tokio::join!(publish_one(service, number), next(&mut stream));
            published?;
            heard?;
            times.push(since.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        p50.push(times[times.len() / 2]);
        p99.push(times[times.len() * 99 / 100]);
    }
    let baseline = "fdatasync + unary echo";
    report.add(&Figure::new("publish to gateway, p50", "µs", p50).beside(baseline, base.clone()));
    report.add(&Figure::new("publish to gateway, p99", "µs", p99).beside(baseline, base));
    Ok(())
}

/// A gateway that was away reads all that came meanwhile.
async fn catch_up(
    report: &mut Report,
    size: Size,
    gateway: &Caller,
    service: &Publisher,
    numbers: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    let mut stream = subscribe(gateway, "web", "").await?;
    let first = numbers.load(Relaxed);
    publish_one(service, numbers.fetch_add(1, Relaxed)).await?;
    let cursor = next(&mut stream).await?.cursor;
    drop(stream);
    let end = first + 1 + size.pushed;
    let mut fillers = JoinSet::new();
    for _ in 0..FILLERS {
        let (service, numbers) = (service.clone(), numbers.clone());
        fillers.spawn(async move {
            loop {
                match numbers.fetch_add(1, Relaxed) {
                    number if number < end => publish_one(&service, number).await?,
                    _ => return Ok::<_, Status>(()),
                }
            }
        });
    }
    while let Some(ended) = fillers.join_next().await {
        ended??;
    }
    let mut rates = vec![];
    for _ in 0..size.rounds {
        let mut stream = subscribe(gateway, "web", &cursor).await?;
        let since = Instant::now();
        for _ in 0..size.pushed {
            next(&mut stream).await?;
        }
        rates.push(size.pushed as f64 / since.elapsed().as_secs_f64());
    }
    let name = format!("a gateway catches up {} events", size.pushed);
    report.add(&Figure::new(name, "/s", rates).aim(Aim::AtLeast(100_000.0)));
    Ok(())
}

/// A hundred gateways that hear everything.
async fn many(
    report: &mut Report,
    size: Size,
    node: &NodeProcess,
    service: &Publisher,
    numbers: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    let (mut streams, mut links) = (vec![], vec![]);
    for n in 0..GATEWAYS {
        let id = format!("g{n}");
        let gateway = principal(node, &format!("gateway:{id}")).await?;
        streams.push(subscribe(&gateway, &id, "").await?);
        links.push(gateway);
    }
    let (mut alone, mut rates) = (vec![], vec![]);
    let events = size.timed / 2;
    for _ in 0..size.rounds {
        // One after the other: until the last gateway has it.
        for _ in 0..events / 10 {
            let since = Instant::now();
            publish_one(service, numbers.fetch_add(1, Relaxed)).await?;
            for stream in &mut streams {
                next(stream).await?;
            }
            alone.push(since.elapsed().as_secs_f64() * 1e3);
        }
        let since = Instant::now();
        let (service, numbers) = (service.clone(), numbers.clone());
        let publishing = tokio::spawn(async move {
            let all = (0..events).map(|_| publish_one(&service, numbers.fetch_add(1, Relaxed)));
            futures_util::future::try_join_all(all).await.map(drop)
        });
        let mut readers = JoinSet::new();
        for mut stream in streams.drain(..) {
            readers.spawn(async move {
                for _ in 0..events {
                    next(&mut stream).await?;
                }
                Ok::<_, Failure>(stream)
            });
        }
        while let Some(read) = readers.join_next().await {
            streams.push(read??);
        }
        publishing.await??;
        rates.push((events * GATEWAYS) as f64 / since.elapsed().as_secs_f64());
    }
    drop(links);
    report.add(&Figure::new(format!("{GATEWAYS} gateways: deliveries"), "/s", rates));
    alone.sort_by(f64::total_cmp);
    let (p50, p99) = (alone[alone.len() / 2], alone[alone.len() * 99 / 100]);
    report.add(&Figure::new(format!("{GATEWAYS} gateways: until all have one event, p50"), "ms", vec![p50]));
    report.add(&Figure::new(format!("{GATEWAYS} gateways: until all have one event, p99"), "ms", vec![p99]));
    Ok(())
}
