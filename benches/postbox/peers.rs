//! A thousand peers: what each costs while little goes on, and what those that are
//! dead cost the one that lives.

use crate::{
    Failure, Size,
    crowd::{self, Crowd},
    delivery::{pair, queue_let_go, ways},
    load::mailroom,
    parties::percentile,
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use bytes::Bytes;
use pillarbox::{
    admin::client::{self, Client},
    bench::{
        events::{Shape, event},
        mailroom::Mailroom,
        usage::memory,
    },
    proto::pillarbox::{
        admin::v1::{AddPeerRequest, ListPeersRequest},
        postbox::v1::{Peer, SendRequest},
    },
    types::PublicKey,
};
use rustix::process::Signal;
use std::{
    net::{SocketAddr, TcpListener},
    ops::Range,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// What was just done leaves nothing more to do by then.
const SETTLED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(300);
/// Streams that are being opened at a time.
const OPENING: usize = 16;

pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    let sending = of_the_sender(report, size).await?;
    let receiving = of_the_receiver(size).await?;
    let name = format!("{} peers with a connection", size.peers);
    report.add(&Figure::new(format!("{name}: at the sender, each"), "KiB", vec![sending]));
    report.add(&Figure::new(format!("{name}: at the receiver, each"), "KiB", vec![receiving]));
    let both = vec![sending + receiving];
    report.add(&Figure::new(format!("{name}: both ends, each"), "KiB", both).aim(Aim::AtMost(100.0)));
    beside_the_dead(report, size).await
}

async fn operator(node: &NodeProcess) -> Result<Client, Failure> {
    Ok(client::connect(&node.dir().join("admin.sock")).await?)
}

/// Makes these peers, all at one place.
async fn add(node: &mut Client, numbers: Range<usize>, key: PublicKey, at: SocketAddr) -> Result<(), Failure> {
    for number in numbers {
        let request = AddPeerRequest {
            server_id: crowd::id(number),
            key: Bytes::copy_from_slice(key.as_bytes()),
            address: at.to_string(),
            plaintext: false,
        };
        node.add_peer(request).await?;
    }
    Ok(())
}

/// Waits until it is so of all peers.
async fn all(node: &mut Client, what: &str, is: impl Fn(&Peer) -> bool) -> Result<(), Failure> {
    let look = async {
        loop {
            let peers = node.list_peers(ListPeersRequest {}).await?.into_inner().peers;
            if peers.iter().all(|detail| detail.peer.as_ref().is_some_and(&is)) {
                return Ok::<_, Failure>(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, look).await.map_err(|_| format!("not all peers were {what} within {PATIENCE:?}"))?
}

async fn resident(node: &NodeProcess) -> Result<f64, Failure> {
    sleep(SETTLED).await;
    Ok(memory(node.pid(), "VmRSS")? * 1024.0)
}

/// A port where nobody listens.
fn nobody() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// KiB of the sender for each peer that it has a connection and an idle stream to.
async fn of_the_sender(report: &mut Report, size: Size) -> Result<f64, Failure> {
    let (dir, crowd) = (crate::directory()?, Crowd::new()?);
    let node = NodeProcess::start(dir.path(), &[]);
    let alone = resident(&node).await?;
    let mut operator_of = operator(&node).await?;
    add(&mut operator_of, 0..size.peers, crowd.key(), crowd.address).await?;
    all(&mut operator_of, "reached", |peer| peer.outbound_ok_at > 0).await?;
    for number in 0..size.peers {
        let events = vec![event(Shape::Rejected, number as u64)];
        operator_of.send_event(SendRequest { to: crowd::id(number), events }).await?;
    }
    all(&mut operator_of, "up to date", |peer| peer.queued == 0).await?;
    let open = crowd.connections();
    if (open as usize) < size.peers {
        return Err(format!("only {open} connections are open").into());
    }
    let each = |with: f64, without: f64| (with - without) / size.peers as f64;
    let connected = each(resident(&node).await?, alone);
    // Idle connections close after a minute.
    let closing = async {
        while crowd.connections() > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, closing).await.map_err(|_| format!("{} connections stay open", crowd.connections()))?;
    let name = format!("{} peers whose connection has closed: each", size.peers);
    report.add(&Figure::new(name, "KiB", vec![each(resident(&node).await?, alone)]));
    drop((node, crowd));
    // Nobody is there any more.
    let node = NodeProcess::start(dir.path(), &[]);
    let mut operator_of = operator(&node).await?;
    all(&mut operator_of, "tried", |peer| !peer.outbound_error.is_empty()).await?;
    let name = format!("{} peers without a connection: each", size.peers);
    let values = vec![each(resident(&node).await?, alone)];
    report.add(&Figure::new(name, "KiB", values).aim(Aim::AtMost(10.0)));
    Ok(connected)
}

/// KiB of the receiver for each peer that has a connection and an idle stream to it.
async fn of_the_receiver(size: Size) -> Result<f64, Failure> {
    let (dir, crowd) = (crate::directory()?, Crowd::new()?);
    let node = NodeProcess::start(dir.path(), &[]);
    let mut operator_of = operator(&node).await?;
    add(&mut operator_of, 0..size.peers, crowd.key(), nobody()?).await?;
    all(&mut operator_of, "tried", |peer| !peer.outbound_error.is_empty()).await?;
    let before = resident(&node).await?;
    let mut streams = Vec::new();
    for first in (0..size.peers).step_by(OPENING) {
        let opening = (first..size.peers.min(first + OPENING)).map(|number| crowd.deliver(number, &node));
        streams.extend(futures_util::future::try_join_all(opening).await?);
    }
    let after = resident(&node).await?;
    let count = streams.len();
    drop(streams);
    Ok((after - before) / count as f64)
}

/// Two pairs of nodes, one of which also has peers that are dead: half of them refuse
/// connections, half never say a word. While one pair is measured the other stands still.
async fn beside_the_dead(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dirs = [(); 4].map(|()| crate::directory()).into_iter().collect::<Result<Vec<_>, _>>()?;
    let start = |at: usize| NodeProcess::start(dirs[at].path(), &[]);
    let pairs = [[start(0), start(1)], [start(2), start(3)]];
    let mut senders: Vec<Mailroom> = vec![];
    for [a, b] in &pairs {
        senders.push(pair(a, b).await?);
    }
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let key = pairs[0][0].key.parse()?;
    let mut operator_of = operator(&pairs[1][0]).await?;
    add(&mut operator_of, 0..size.peers / 2, key, silent.local_addr()?).await?;
    add(&mut operator_of, size.peers / 2..size.peers, key, nobody()?).await?;
    for number in 0..size.peers {
        senders[1].send(&crowd::id(number), vec![event(Shape::Rejected, number as u64)]).await?;
    }
    let dead = |peer: &Peer| peer.state == "queued" || peer.queued == 0;
    all(&mut operator_of, "given up", dead).await?;
    let mut logs = [mailroom(&pairs[0][1]).await?.receive().await?, mailroom(&pairs[1][1]).await?.receive().await?];
    let (mut rates, mut slowest) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..size.rounds as u64 {
        for at in 0..2 {
            let still = |signal| pairs[1 - at].iter().for_each(|node| node.signal(signal));
            still(Signal::STOP);
            let ([a, b], from) = (&pairs[at], round * (size.couriered + size.timed as u64));
            let numbers = from..from + size.couriered;
            rates[at].push(queue_let_go(a, b, &senders[at], Shape::Rejected, numbers, Some(&mut logs[at])).await?.rate);
            let numbers = from + size.couriered..from + size.couriered + size.timed as u64;
            let mut times = ways(&senders[at], b, &mut logs[at], (Shape::Rejected, numbers)).await?;
            slowest[at].push(percentile(&mut times, 0.99));
            still(Signal::CONT);
            sleep(SETTLED).await;
        }
    }
    let ([alone, beside], [p99_alone, p99]) = (rates, slowest);
    let name = format!("beside {} dead peers", size.peers);
    let rate = Figure::new(format!("Courier {name}"), "/s", beside).beside("without them", alone);
    report.add(&rate.aim(Aim::Ratio(0.95)));
    let p99 = Figure::new(format!("one event {name}, p99"), "µs", p99).beside("without them", p99_alone);
    report.add(&p99.aim(Aim::RatioAtMost(1.1)));
    Ok(())
}
