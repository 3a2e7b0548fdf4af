//! Chats: how many messages a second are taken, each on disk before its answer,
//! and how fast one is handed to a thousand streams.

use crate::{
    Failure, Size,
    load::{again, caller, echo},
    process::NodeProcess,
    report::{Aim, Figure, Report, median},
};
use pillarbox::bench::{
    baselines::fdatasyncs,
    drive::{Rate, calls},
    talkers::Talkers,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Status;

const TEXT: usize = 256;
/// Streams of one chat, so many a connection.
const STREAMS: usize = 1_000;
const A_CONNECTION: usize = 50;
const ROOMY: [(&str, &str); 1] = [("LIMITS__CALLS_PER_SECOND", "0")];

/// Messages acknowledged a second, under a client id each.
pub async fn send(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dir = crate::directory()?;
    let node = NodeProcess::start(dir.path(), &ROOMY);
    let (talkers, echo) = (Talkers::new(caller(&node).await?), echo().await?);
    let mut chats = vec![];
    for n in 0..64 {
        chats.push(talkers.open(&["alice", &format!("u{n}")]).await?);
    }
    let (chats, next) = (Arc::new(chats), Arc::new(AtomicU64::new(0)));
    for (in_flight, spread) in [(1, 1), (64, 1), (64, 64), (512, 1)] {
        let (mut sends, mut echoes, mut syncs) = (vec![], vec![], vec![]);
        for _ in 0..size.rounds {
            syncs.push(fdatasyncs(dir.path(), size.span / 3)?);
            echoes.push(echo.calls(in_flight, size.span).await?);
            let (talkers, chats, next) = (talkers.clone(), chats.clone(), next.clone());
            let call = move || {
                let (talkers, chats, n) = (talkers.clone(), chats.clone(), next.fetch_add(1, Relaxed));
                async move {
                    let chat = &chats[usize::try_from(n % spread).unwrap_or(0)];
                    talkers.send(chat, "alice", n.to_string(), "x".repeat(TEXT)).await
                }
            };
            sends.push(calls(node.pid(), in_flight, size.span, call).await?);
        }
        let each = |of: fn(&Rate) -> f64| (sends.iter().map(of).collect(), echoes.iter().map(of).collect());
        let to = if spread == 1 { "one chat" } else { "64 chats" };
        let (name, (values, baseline)) = (format!("chat Send, {in_flight} in flight, {to}"), each(|rate| rate.calls));
        let figure = Figure::new(&name, "/s", values).beside("unary echo", baseline);
        report.add(&if in_flight == 64 { figure.aim(Aim::Ratio(0.5)) } else { figure });
        let sends: Vec<f64> = sends.iter().map(|rate| rate.calls).collect();
        report.add(&Figure::new(format!("{name}: beside the disk"), "/s", sends).beside("fdatasync", syncs));
    }
    Ok(())
}

/// One chat with a thousand streams: how long a message is on its way to each,
/// and deliveries a second when one is sent after the other.
pub async fn fan_out(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dir = crate::directory()?;
    let node = NodeProcess::start(dir.path(), &ROOMY);
    let token = node.ok(&["token", "new", "service:bench"]);
    let talkers = Talkers::new(again(&node, token.trim()).await?);
    let chat = talkers.open(&["alice", "bob"]).await?;
    let mut listeners: JoinSet<Result<(), Status>> = JoinSet::new();
    let (seen, mut times) = mpsc::channel(1 << 16);
    let since = Instant::now();
    for _ in 0..STREAMS / A_CONNECTION {
        let talkers = Talkers::new(again(&node, token.trim()).await?);
        for _ in 0..A_CONNECTION {
            let mut stream = talkers.listen(&chat, "bob").await?;
            let (seen, talkers) = (seen.clone(), talkers.clone());
            listeners.spawn(async move {
                while let Some(message) = stream.message().await? {
                    // The text begins with the moment it was sent at.
                    let sent: u64 = message.text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
                    let _ = seen.send((since.elapsed().as_micros() as u64).saturating_sub(sent)).await;
                }
                drop(talkers);
                Ok(())
            });
        }
    }
    let (mut p50, mut p99, mut all, mut rates) = (vec![], vec![], vec![], vec![]);
    for _ in 0..size.rounds {
        let mut took = vec![];
        for n in 0..20 {
            send_stamped(&talkers, &chat, since, n).await?;
            collect(&mut listeners, &mut times, STREAMS, &mut took).await?;
            all.push(took[took.len() - STREAMS..].iter().max().copied().unwrap_or(0) as f64 / 1e3);
        }
        took.sort_unstable();
        p50.push(took[took.len() / 2] as f64 / 1e3);
        p99.push(took[took.len() * 99 / 100] as f64 / 1e3);
        let (count, begun) = (200, Instant::now());
        let (sender, to) = (talkers.clone(), chat.clone());
        let sending = tokio::spawn(async move {
            for n in 0..count {
                send_stamped(&sender, &to, since, n).await?;
            }
            Ok::<_, Status>(())
        });
        let deliveries = STREAMS * usize::try_from(count)?;
        collect(&mut listeners, &mut times, deliveries, &mut took).await?;
        sending.await??;
        rates.push(deliveries as f64 / begun.elapsed().as_secs_f64());
    }
    let name = format!("chat with {STREAMS} streams");
    report.add(&Figure::new(format!("{name}: deliveries"), "/s", rates));
    report.add(&Figure::new(format!("{name}: a message to a stream, p50"), "ms", p50));
    report.add(&Figure::new(format!("{name}: a message to a stream, p99"), "ms", p99));
    report.add(&Figure::new(format!("{name}: until all have it"), "ms", vec![median(&all)]));
    listeners.abort_all();
    Ok(())
}

async fn send_stamped(talkers: &Talkers, chat: &str, since: Instant, n: u64) -> Result<(), Status> {
    let text = format!("{} {n} {}", since.elapsed().as_micros(), "x".repeat(TEXT - 32));
    talkers.send(chat, "alice", String::new(), text).await
}

/// Waits for so many deliveries; no stream may end meanwhile.
async fn collect(
    listeners: &mut JoinSet<Result<(), Status>>,
    times: &mut mpsc::Receiver<u64>,
    count: usize,
    into: &mut Vec<u64>,
) -> Result<(), Failure> {
    let all = async {
        for _ in 0..count {
            tokio::select! {
                Some(took) = times.recv() => into.push(took),
                Some(ended) = listeners.join_next() => {
                    ended??;
                    return Err("a stream ended".into());
                }
            }
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(120), all).await?
}
