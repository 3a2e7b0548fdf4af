//! `bench postbox`: events of a homeserver to its peers, from the call that stores
//! them to the log of the peer.

use super::{
    Bench, DELIVERED, Error, LOOK, Listeners, Node, STALL,
    drive::Meter,
    events::{Shape, age, stamped_event},
    mailroom::Mailroom,
    report::Figure,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const SETTINGS: [(&str, &str); 1] = [("LIMITS__CALLS_PER_SECOND", "0")];

pub async fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>, Error> {
    let (node, others) = bench.stage(bench.options.peers, &SETTINGS).await?;
    let mut rooms = Vec::new();
    for _ in 0..bench.options.connections {
        rooms.push(Mailroom::new(node.caller().await?));
    }
    let to: Vec<String> = match &bench.options.running {
        Some(running) => running.to.iter().map(ToString::to_string).collect(),
        None => others.iter().map(|other| other.id.to_string()).collect(),
    };
    let mut listeners = Listeners::new();
    for other in &others {
        rooms[0].until(other.id.as_str(), "reached", |peer| peer.outbound_ok_at > 0).await?;
        let (room, delivered) = (Mailroom::new(other.caller().await?), bench.delivered.clone());
        listeners.spawn(listen(room, delivered));
    }
    // An unknown server is told before anything is sent.
    for id in &to {
        rooms[0].peer(id).await?;
    }
    let (since, used) = (Instant::now(), cpu(&node, &others));
    let (each, size) = (bench.options.batch, bench.options.size);
    let (senders, names) = (rooms.clone(), to.clone());
    let loaded = bench.load(move |number| {
        let at = |count: usize| usize::try_from(number % count as u64).unwrap_or(0);
        let (room, to) = (senders[at(senders.len())].clone(), names[at(names.len())].clone());
        let numbers = number * each..(number + 1) * each;
        let events = numbers.map(|number| stamped_event(Shape::Rejected, number, size)).collect();
        async move { room.send(&to, events).await }
    });
    let loaded = loaded.await?;
    if bench.options.running.is_some() {
        let acknowledged = Figure::new(super::ACKNOWLEDGED, &bench.acknowledged, loaded, size);
        let drained = drained(bench, &rooms[0], &to).await?.then(|| since.elapsed().as_secs_f64());
        let count = bench.acknowledged.done();
        let delivered = drained.map(|seconds| Figure::counted(DELIVERED, count, seconds, size, None));
        return Ok([acknowledged].into_iter().chain(delivered).collect());
    }
    bench.all_arrive(&mut listeners, 1).await?;
    let mut figures = bench.figures(loaded, since.elapsed().as_secs_f64());
    let used: Vec<_> = cpu(&node, &others).into_iter().zip(used).map(|(now, then)| Some(now? - then?)).collect();
    figures[0] = figures[0].clone().cpu(used[0]);
    figures[1] = figures[1].clone().cpu(used[1..].iter().copied().sum());
    Ok(figures)
}

/// Seconds on a core so far, of the node and of each other.
fn cpu(node: &Node, others: &[Node]) -> Vec<Option<f64>> {
    [node].into_iter().chain(others).map(Node::cpu).collect()
}

async fn listen(room: Mailroom, delivered: Arc<Meter>) -> Result<(), Error> {
    let mut log = room.receive().await?;
    while let Some(received) = log.message().await? {
        delivered.note(age(&received.event).unwrap_or(Duration::ZERO), 1);
    }
    Ok(())
}

/// Waits until nothing waits for these peers of a running node. `false`: something
/// stayed, so that nobody knows how fast they are.
async fn drained(bench: &mut Bench<'_>, room: &Mailroom, to: &[String]) -> Result<bool, Error> {
    let draining = async {
        let (mut last, mut moved) = (u64::MAX, Instant::now());
        loop {
            let peers = room.peers().await?;
            let waiting = peers.iter().filter(|peer| to.contains(&peer.server_id)).map(|peer| peer.queued).sum();
            if waiting == 0 {
                return Ok(0);
            }
            if waiting < last {
                (last, moved) = (waiting, Instant::now());
            } else if moved.elapsed() > STALL {
                return Ok::<_, Error>(waiting);
            }
            sleep(LOOK).await;
        }
    };
    let waiting = bench.progress.during(&[], draining).await?;
    if waiting > 0 {
        bench.progress.say(&format!("{waiting} events still wait for these peers: see pillarbox peer list"));
    }
    Ok(waiting == 0)
}
