//! A thousand peers: what each costs while little goes on, and what those that are
//! dead cost the one that lives.

use crate::{
    Failure, Size,
    crowd::{self, Crowd},
    delivery::{pair, queue_let_go, ways},
    load::mailroom,
    parties::percentile,
    process::NodeProcess,
    report::{Aim, Figure, Report, median},
};
use bytes::Bytes;
use pillarbox::{
    admin::client::{self, Client},
    bench::{
        events::{Shape, event},
        mailroom::Mailroom,
        usage::{cpu, memory},
    },
    proto::pillarbox::{
        admin::v1::{AddPeerRequest, ListPeersRequest, RemovePeerRequest},
        postbox::v1::{Peer, Received, SendRequest},
    },
    types::PublicKey,
};
use std::{
    net::{SocketAddr, TcpListener},
    ops::Range,
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

/// What was just done leaves nothing more to do by then.
const SETTLED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(300);
/// Longer than an idle connection is kept.
const SILENT: Duration = Duration::from_secs(90);
/// Then a peer has been dead longer than the longest pause between two tries of it.
const LONG_DEAD: Duration = Duration::from_secs(120);
/// A node is watched doing nothing.
const IDLE: Duration = Duration::from_secs(5);
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
    // Idle connections close after a minute; a Pull in between is use.
    sleep(SILENT).await;
    let name = format!("of {} connections still open after {} s", size.peers, SILENT.as_secs());
    report.add(&Figure::new(name, "", vec![f64::from(crowd.connections())]));
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

/// Two nodes: alone, beside peers of one of them that died a moment ago, beside the same
/// when they have been dead for a while, and alone again. Half of the dead refuse
/// connections, half never say a word.
async fn beside_the_dead(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dirs = [crate::directory()?, crate::directory()?];
    let (a, b) = (NodeProcess::start(dirs[0].path(), &[]), NodeProcess::start(dirs[1].path(), &[]));
    let (sender, silent) = (pair(&a, &b).await?, TcpListener::bind("127.0.0.1:0")?);
    // A link is held as long as its stream.
    let there = mailroom(&b).await?;
    let mut living = Living { log: there.receive().await?, a, b, sender, from: 0 };
    let mut alone = living.fare(size).await?;
    bury(&living.a, &living.sender, size.peers, silent.local_addr()?).await?;
    let fresh = living.fare(size).await?;
    sleep(LONG_DEAD).await;
    let settled = living.fare(size).await?;
    exhume(&living.a, size.peers).await?;
    alone.add(living.fare(size).await?);

    // Those before and after together: each round of the others stands beside their median.
    let typical = |alone: &[f64]| vec![median(alone); size.rounds];
    for (dead, fare, aims) in [("a moment ago", fresh, false), ("minutes ago", settled, true)] {
        let name = format!("beside {} peers that died {dead}", size.peers);
        let rate =
            Figure::new(format!("Courier {name}"), "/s", fare.rates).beside("without them", typical(&alone.rates));
        let p99 =
            Figure::new(format!("one event {name}, p99"), "µs", fare.p99).beside("without them", typical(&alone.p99));
        let idle = Figure::new(format!("CPU of the idle node {name}"), "ms/s", fare.idle);
        report.add(&if aims { rate.aim(Aim::Ratio(0.95)) } else { rate });
        report.add(&if aims { p99.aim(Aim::RatioAtMost(1.1)) } else { p99 });
        report.add(&idle.beside("without them", typical(&alone.idle)));
    }
    Ok(())
}

/// How the one that lives fares, by rounds.
#[derive(Default)]
struct Fare {
    /// Events a second.
    rates: Vec<f64>,
    /// Microseconds of one event, the slowest of a hundred.
    p99: Vec<f64>,
    /// Milliseconds on a core a second, of the sender while nothing is sent.
    idle: Vec<f64>,
}

impl Fare {
    fn add(&mut self, other: Self) {
        self.rates.extend(other.rates);
        self.p99.extend(other.p99);
        self.idle.extend(other.idle);
    }
}

/// Two nodes, and what they have sent.
struct Living {
    a: NodeProcess,
    b: NodeProcess,
    sender: Mailroom,
    log: Streaming<Received>,
    from: u64,
}

impl Living {
    async fn fare(&mut self, size: Size) -> Result<Fare, Failure> {
        let mut fare = Fare::default();
        for _ in 0..size.rounds {
            let before = cpu(self.a.pid())?;
            sleep(IDLE).await;
            fare.idle.push((cpu(self.a.pid())? - before) * 1e3 / IDLE.as_secs_f64());
            let until = self.from + size.couriered;
            let Self { a, b, sender, log, from } = self;
            fare.rates.push(queue_let_go(a, b, sender, Shape::Rejected, *from..until, Some(log)).await?.rate);
            *from = until + size.timed as u64;
            let mut times = ways(sender, b, log, (Shape::Rejected, until..*from)).await?;
            fare.p99.push(percentile(&mut times, 0.99));
        }
        Ok(fare)
    }
}

/// The dead are peers no more.
async fn exhume(node: &NodeProcess, count: usize) -> Result<(), Failure> {
    let mut operator_of = operator(node).await?;
    for number in 0..count {
        operator_of.remove_peer(RemovePeerRequest { server_id: crowd::id(number) }).await?;
    }
    Ok(())
}

/// Gives the node so many peers that are dead, with an event for each, and waits until
/// it has given up pushing.
async fn bury(node: &NodeProcess, sender: &Mailroom, count: usize, silent: SocketAddr) -> Result<(), Failure> {
    let (key, mut operator_of) = (node.key.parse()?, operator(node).await?);
    add(&mut operator_of, 0..count / 2, key, silent).await?;
    add(&mut operator_of, count / 2..count, key, nobody()?).await?;
    for number in 0..count {
        sender.send(&crowd::id(number), vec![event(Shape::Rejected, number as u64)]).await?;
    }
    all(&mut operator_of, "given up", |peer| peer.state == "queued" || peer.queued == 0).await
}
