//! How fast events go from one node to another: in batches while both are up, and
//! pulled by the page when one was away.

use crate::{
    Failure, Size,
    idle::start,
    load::{echo, mailroom, rows_per_second},
    parties::percentile,
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use pillarbox::{
    admin::client::{self, Client},
    bench::{
        baselines::fdatasyncs,
        events::{Shape, event},
        mailroom::Mailroom,
        usage::{cpu, memory},
    },
    proto::pillarbox::{
        admin::v1::ShowPeerRequest,
        postbox::v1::{Peer, Received},
    },
    store::Store,
};
use std::{
    ops::Range,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

const LOOK: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(600);

/// Two nodes that know each other and have met.
pub async fn pair(a: &NodeProcess, b: &NodeProcess) -> Result<Mailroom, Failure> {
    b.add_peer(a);
    a.add_peer(b);
    let backend = mailroom(a).await?;
    backend.until(&b.server_id, "reached", |peer| peer.outbound_ok_at > 0).await?;
    Ok(backend)
}

/// Batches with a window: a queue that was held is let go, and both nodes put on disk
/// what they say is there.
pub async fn courier(report: &mut Report, size: Size) -> Result<(), Failure> {
    courier_of(report, size, Shape::Added, "user added").await?;
    courier_of(report, size, Shape::Rejected, "invite rejected").await?;
    idle_latency(report, size).await
}

async fn courier_of(report: &mut Report, size: Size, shape: Shape, what: &str) -> Result<(), Failure> {
    let dirs = [crate::directory()?, crate::directory()?];
    let (a, b) = (NodeProcess::start(dirs[0].path(), &[]), NodeProcess::start(dirs[1].path(), &[]));
    let backend = pair(&a, &b).await?;
    let (mut values, mut limits, mut sender, mut receiver) = (vec![], vec![], vec![], vec![]);
    for round in 0..size.rounds as u64 {
        limits.push(rows_per_second(size.span).await?);
        let numbers = round * size.couriered..(round + 1) * size.couriered;
        let passage = queue_let_go(&a, &b, &backend, shape, numbers, None).await?;
        values.push(passage.rate);
        sender.push(passage.cpu[0]);
        receiver.push(passage.cpu[1]);
    }
    let memory = [memory(a.pid(), "VmHWM")?, memory(b.pid(), "VmHWM")?];
    report.add(
        &Figure::new(format!("{what}: Courier, A to B"), "/s", values)
            .beside("SQLite, rows at 1,024 a commit", limits)
            .aim(Aim::AtLeast(100_000.0)),
    );
    report.add(&Figure::new(format!("{what}: CPU of the sender"), "µs", sender));
    report.add(&Figure::new(format!("{what}: CPU of the receiver"), "µs", receiver));
    report.add(&Figure::new(format!("{what}: sender's most memory"), "MiB", vec![memory[0]]));
    report.add(&Figure::new(format!("{what}: receiver's most memory"), "MiB", vec![memory[1]]));
    drop((a, b));
    applied(dirs[1].path(), size.couriered * size.rounds as u64).await
}

/// How a queue went over.
pub struct Passage {
    /// Events a second.
    pub rate: f64,
    /// Microseconds of sender and receiver on a core, an event.
    pub cpu: [f64; 2],
}

/// Fills a queue that is held, lets it go, and waits until B has all of it; and until
/// a reader of its log does, where there is one.
pub async fn queue_let_go(
    a: &NodeProcess,
    b: &NodeProcess,
    backend: &Mailroom,
    shape: Shape,
    numbers: Range<u64>,
    log: Option<&mut Streaming<Received>>,
) -> Result<Passage, Failure> {
    let wanted = numbers.end - numbers.start;
    a.ok(&["queue", "hold", &b.server_id]);
    backend.fill(&b.server_id, shape, numbers).await?;
    a.ok(&["queue", "release", &b.server_id]);
    // The clock starts when the first are gone: the command took its time, too.
    // The operator's question is about this peer alone, however many there are.
    let mut operator = client::connect(&a.dir().join("admin.sock")).await?;
    let first = until(&mut operator, &b.server_id, |peer| peer.queued < wanted).await?;
    let (since, used) = (Instant::now(), [cpu(a.pid())?, cpu(b.pid())?]);
    until(&mut operator, &b.server_id, |peer| peer.queued == 0).await?;
    let (count, took) = (first.queued as f64, since.elapsed().as_secs_f64());
    let cpu = [(cpu(a.pid())? - used[0]) * 1e6 / count, (cpu(b.pid())? - used[1]) * 1e6 / count];
    if let Some(log) = log {
        for _ in 0..wanted {
            log.message().await?.ok_or("the log of B ended")?;
        }
    }
    Ok(Passage { rate: count / took, cpu })
}

/// Looks at one peer until it is so.
async fn until(operator: &mut Client, id: &str, is: impl Fn(&Peer) -> bool) -> Result<Peer, Failure> {
    let look = async {
        loop {
            let detail = operator.show_peer(ShowPeerRequest { server_id: id.to_owned() }).await?.into_inner();
            if let Some(peer) = detail.peer.filter(&is) {
                return Ok::<_, Failure>(peer);
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, look).await.map_err(|_| format!("{id} was not as it should be within {PATIENCE:?}"))?
}

/// Microseconds of one event at a time, from the call that stores it at A until a
/// reader of B's log has it.
pub async fn ways(
    backend: &Mailroom,
    b: &NodeProcess,
    log: &mut Streaming<Received>,
    (shape, numbers): (Shape, Range<u64>),
) -> Result<Vec<f64>, Failure> {
    let mut times = vec![];
    for number in numbers {
        let since = Instant::now();
        let (sent, received) = tokio::join!(backend.send(&b.server_id, vec![event(shape, number)]), log.message());
        sent?;
        received?.ok_or("the log of B ended")?;
        times.push(since.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// One event at a time, from the call that stores it at A until a reader of B's log has
/// it: two commits, and the ways between. Its receipt is under way to A then.
async fn idle_latency(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dirs = [crate::directory()?, crate::directory()?, crate::directory()?];
    let (a, b) = (NodeProcess::start(dirs[0].path(), &[]), NodeProcess::start(dirs[1].path(), &[]));
    let (backend, there, echo) = (pair(&a, &b).await?, mailroom(&b).await?, echo().await?);
    let mut log = there.receive().await?;
    let (mut p50, mut p99, mut limits) = (vec![], vec![], vec![]);
    for round in 0..size.rounds as u64 {
        let (call, sync) = (echo.calls(1, size.span).await?.calls, fdatasyncs(dirs[2].path(), size.span)?);
        limits.push(1e6 * (1.0 / call + 2.0 / sync));
        let numbers = round * size.timed as u64..(round + 1) * size.timed as u64;
        let mut times = ways(&backend, &b, &mut log, (Shape::Added, numbers)).await?;
        p50.push(percentile(&mut times, 0.5));
        p99.push(percentile(&mut times, 0.99));
    }
    let baseline = "two fdatasync + one echo";
    report.add(
        &Figure::new("one event to B's log, idle, p50", "µs", p50)
            .beside(baseline, limits.clone())
            .aim(Aim::RatioAtMost(3.0)),
    );
    report.add(&Figure::new("the same, p99", "µs", p99).beside(baseline, limits));
    Ok(())
}

/// B was away while A's queue grew; it comes back and pulls all of it.
pub async fn drain(report: &mut Report, size: Size) -> Result<(), Failure> {
    drain_of(report, size, Shape::Added, "user added").await?;
    drain_of(report, size, Shape::Rejected, "invite rejected").await
}

async fn drain_of(report: &mut Report, size: Size, shape: Shape, what: &str) -> Result<(), Failure> {
    let dirs = [crate::directory()?, crate::directory()?];
    // A peer that is away is Queued after its first failure.
    let settings = [("FEDERATION__PUSH_RETRIES", "0")];
    let (mut a, mut b) = (NodeProcess::start(dirs[0].path(), &settings), NodeProcess::start(dirs[1].path(), &settings));
    let backend = pair(&a, &b).await?;
    b.kill();
    backend.fill(&b.server_id, shape, 0..1).await?;
    backend.until(&b.server_id, "queued", |peer| peer.state == "queued").await?;
    let since = Instant::now();
    backend.fill(&b.server_id, shape, 1..size.drained).await?;
    let filled = (size.drained - 1) as f64 / since.elapsed().as_secs_f64();
    let filling = memory(a.pid(), "VmHWM")?;
    a.kill();

    let (mut a, starting) = start(dirs[0].path(), &settings);
    let backend = mailroom(&a).await?;
    let rows = rows_per_second(size.span).await?;
    let mut b = NodeProcess::start(dirs[1].path(), &settings);
    let (since, used) = (Instant::now(), [cpu(a.pid())?, cpu(b.pid())?]);
    backend.until(&b.server_id, "up to date", |peer| peer.queued == 0).await?;
    let drained = size.drained as f64 / since.elapsed().as_secs_f64();
    let used = [cpu(a.pid())? - used[0], cpu(b.pid())? - used[1]].map(|used| used * 1e6 / size.drained as f64);
    let (sender, receiver) = (memory(a.pid(), "VmHWM")?, memory(b.pid(), "VmHWM")?);
    a.kill();
    b.kill();
    applied(dirs[1].path(), size.drained).await?;

    let (baseline, memory) = ("SQLite, rows at 1,024 a commit", Aim::AtMost(150.0));
    let (drained, filled) = (vec![drained], vec![filled]);
    let starting = vec![starting.as_secs_f64() * 1000.0];
    report.add(&Figure::new(format!("{what}: Send, 1,024 a call"), "/s", filled).beside(baseline, vec![rows]));
    report.add(&Figure::new(format!("{what}: most memory meanwhile"), "MiB", vec![filling]).aim(memory));
    report.add(&Figure::new(format!("{what}: start with {} waiting", size.drained), "ms", starting));
    let name = format!("{what}: Pull drain of {}", size.drained);
    report.add(&Figure::new(name, "/s", drained).beside(baseline, vec![rows]).aim(Aim::AtLeast(100_000.0)));
    report.add(&Figure::new(format!("{what}: CPU of the sender"), "µs", vec![used[0]]));
    report.add(&Figure::new(format!("{what}: CPU of the receiver"), "µs", vec![used[1]]));
    report.add(&Figure::new(format!("{what}: sender's most memory"), "MiB", vec![sender]).aim(memory));
    report.add(&Figure::new(format!("{what}: receiver's most memory"), "MiB", vec![receiver]).aim(memory));
    Ok(())
}

/// A figure counts only if everything arrived, once.
async fn applied(dir: &std::path::Path, wanted: u64) -> Result<(), Failure> {
    let store = Store::open(dir).await?;
    let found = store.inbound_range().await?.map_or(0, |range| range.end() + 1 - range.start());
    store.close().await;
    if found == wanted { Ok(()) } else { Err(format!("the receiver has {found} events, not {wanted}").into()) }
}
