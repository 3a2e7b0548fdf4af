//! A thousand gateways at one node: what each costs while nothing goes on, while all
//! of them hear everything, when all come back at once, and when they do not read.

use crate::{
    Failure, Size,
    load::again,
    parties::percentile,
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use pillarbox::{
    admin::client,
    bench::{
        caller::Caller,
        push::{Publisher, ROOMY, subscribe},
        usage::{cpu, memory},
    },
    proto::{
        galaxy::backend::push::v1::PushEvent,
        pillarbox::{
            admin::v1::NewTokenRequest,
            push::v1::{CheckRequest, sessions_client::SessionsClient},
        },
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::Streaming;

/// What was just done leaves nothing more to do by then.
const SETTLED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(300);
/// How long it is looked at what doing nothing costs.
const IDLE: Duration = Duration::from_secs(10);
/// Connections that are being opened at a time.
const OPENING: usize = 32;
/// Gateways that do not read; what they are sent waits in this process.
const STALLED: usize = 20;
/// More than the windows of one connection hold.
const UNREAD: u64 = 60_000;
/// Publishers at once.
const PUBLISHERS: usize = 64;

/// How often something was heard, by whom is not asked.
#[derive(Debug, Default)]
pub struct Heard {
    count: AtomicU64,
    target: AtomicU64,
    reached: Notify,
}

impl Heard {
    pub fn once(&self) {
        if self.count.fetch_add(1, SeqCst) + 1 == self.target.load(SeqCst) {
            self.reached.notify_one();
        }
    }

    /// To be called before the first of these can be heard.
    pub fn expect(&self, more: u64) {
        self.target.fetch_add(more, SeqCst);
    }

    /// Until all that is expected was heard.
    pub async fn all(&self) -> Result<(), Failure> {
        let wait = async {
            while self.count.load(SeqCst) < self.target.load(SeqCst) {
                self.reached.notified().await;
            }
        };
        let heard = || format!("{} of {} were heard", self.count.load(SeqCst), self.target.load(SeqCst));
        timeout(PATIENCE, wait).await.map_err(|_| heard().into())
    }
}

/// KiB that a process has in memory once it has settled.
pub async fn resident(process: u32) -> Result<f64, Failure> {
    sleep(SETTLED).await;
    Ok(memory(process, "VmRSS")? * 1024.0)
}

struct Stage {
    node: NodeProcess,
    service: Publisher,
    /// Ids of events so far.
    published: AtomicU64,
    /// A connection each; what one takes of the node, in KiB.
    callers: Vec<(String, Caller)>,
    connection: f64,
    heard: Arc<Heard>,
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn set(gateways: usize) -> Result<Self, Failure> {
        let dir = crate::directory()?;
        let node = NodeProcess::start(dir.path(), &ROOMY);
        let service = Publisher::new(again(&node, node.ok(&["token", "new", "service:bench"]).trim()).await?);
        let mut operator = client::connect(&node.dir().join("admin.sock")).await?;
        let mut tokens = vec![];
        for n in 0..gateways {
            let principal = format!("gateway:g{n}");
            let made = operator.new_token(NewTokenRequest { principal, ..NewTokenRequest::default() }).await?;
            tokens.push((format!("g{n}"), made.into_inner().token));
        }
        // What the first one of everything takes is not a gateway's.
        let (id, token) = &tokens[0];
        drop(subscribe(&again(&node, token).await?, id, "").await?);
        let before = resident(node.pid()).await?;
        let node_of = &node;
        let open = stream::iter(tokens).map(|(id, token)| async move {
            let caller = again(node_of, &token).await?;
            ask(&caller).await?;
            Ok::<_, Failure>((id, caller))
        });
        let callers: Vec<_> = open.buffer_unordered(OPENING).try_collect().await?;
        let connection = (resident(node.pid()).await? - before) / gateways as f64;
        let (published, heard) = (AtomicU64::new(0), Arc::new(Heard::default()));
        Ok(Self { node, service, published, callers, connection, heard, _dir: dir })
    }

    fn len(&self) -> u64 {
        self.callers.len() as u64
    }

    async fn publish(&self) -> Result<(), Failure> {
        let number = self.published.fetch_add(1, SeqCst);
        Ok(self.service.publish(number.to_string(), format!("\"{number:0254}\"").into()).await?)
    }

    async fn publish_many(&self, events: u64) -> Result<(), Failure> {
        let all = stream::iter(0..events).map(|_| self.publish());
        all.buffer_unordered(PUBLISHERS).try_collect().await
    }

    /// All gateways listen behind this cursor, each in a task.
    async fn listen(&self, cursor: &str) -> Result<Listening, Failure> {
        let opened = stream::iter(&self.callers).map(|(id, caller)| subscribe(caller, id, cursor));
        let streams: Vec<Streaming<PushEvent>> = opened.buffer_unordered(OPENING).try_collect().await?;
        let mut listening = JoinSet::new();
        for mut stream in streams {
            let heard = self.heard.clone();
            listening.spawn(async move {
                while let Ok(Some(_)) = stream.message().await {
                    heard.once();
                }
            });
        }
        Ok(listening)
    }
}

type Listening = JoinSet<()>;

/// One call, so that a connection has all that belongs to it.
async fn ask(caller: &Caller) -> Result<(), Failure> {
    let mut sessions = SessionsClient::with_origin(caller.link.clone(), caller.link.origin());
    match sessions.check(caller.request(CheckRequest::default())).await {
        Err(status) if status.message().starts_with("token: ") => Ok(()),
        other => Err(format!("a check without a token was answered {other:?}").into()),
    }
}

/// Everything about many gateways.
pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    let stage = Stage::set(size.gateways).await?;
    let listening = idle(report, &stage).await?;
    live(report, size, &stage).await?;
    back(report, size, &stage, listening).await?;
    stalled(report).await
}

/// What the streams take beside their connections, and what they cost meanwhile.
async fn idle(report: &mut Report, stage: &Stage) -> Result<Listening, Failure> {
    let (process, name) = (stage.node.pid(), format!("{} gateways", stage.len()));
    let before = resident(process).await?;
    let listening = stage.listen("").await?;
    let stream = (resident(process).await? - before) / stage.len() as f64;
    let whole = Figure::new(format!("{name}, idle: each"), "KiB", vec![stage.connection + stream]);
    report.add(&whole.beside("its connection alone", vec![stage.connection]));
    let since = cpu(process)?;
    sleep(IDLE).await;
    let share = (cpu(process)? - since) / IDLE.as_secs_f64() * 100.0;
    report.add(&Figure::new(format!("{name}, idle: CPU"), "% of a core", vec![share]).aim(Aim::AtMost(1.0)));
    Ok(listening)
}

/// All of them hear everything.
async fn live(report: &mut Report, size: Size, stage: &Stage) -> Result<(), Failure> {
    let (name, mut alone, mut rates, mut costs) = (format!("{} gateways", stage.len()), vec![], vec![], vec![]);
    for _ in 0..size.rounds {
        for _ in 0..size.timed / 20 {
            stage.heard.expect(stage.len());
            let since = Instant::now();
            stage.publish().await?;
            stage.heard.all().await?;
            alone.push(since.elapsed().as_secs_f64() * 1e3);
        }
        let (events, used, since) = (size.timed as u64 / 2, cpu(stage.node.pid())?, Instant::now());
        let deliveries = events * stage.len();
        stage.heard.expect(deliveries);
        stage.publish_many(events).await?;
        stage.heard.all().await?;
        rates.push(deliveries as f64 / since.elapsed().as_secs_f64());
        costs.push((cpu(stage.node.pid())? - used) * 1e6 / deliveries as f64);
    }
    report.add(&Figure::new(format!("{name}: deliveries"), "/s", rates));
    report.add(&Figure::new(format!("{name}: CPU of the node a delivery"), "µs", costs));
    for (part, percent) in [(0.5, "p50"), (0.99, "p99")] {
        let value = vec![percentile(&mut alone, part)];
        report.add(&Figure::new(format!("{name}: until all have one event, {percent}"), "ms", value));
    }
    Ok(())
}

/// All of them come back at once and read what they missed, while others call.
async fn back(report: &mut Report, size: Size, stage: &Stage, mut listening: Listening) -> Result<(), Failure> {
    let (process, name) = (stage.node.pid(), format!("{} gateways come back at once", stage.len()));
    let mut before = publish_times(stage, size.timed / 20).await?;
    stage.heard.all().await?;
    listening.shutdown().await;
    let (id, caller) = &stage.callers[0];
    let mut first = subscribe(caller, id, "").await?;
    stage.publish().await?;
    let cursor = first.message().await?.ok_or("the stream ended")?.cursor;
    drop(first);
    stage.publish_many(size.timed as u64).await?;
    let resident = resident(process).await?;
    let deliveries = size.timed as u64 * stage.len();
    stage.heard.expect(deliveries);
    let since = Instant::now();
    let listening = stage.listen(&cursor).await?;
    // What is published meanwhile is heard too.
    let mut meanwhile = publish_times(stage, size.timed / 20).await?;
    stage.heard.all().await?;
    let rate = deliveries as f64 / since.elapsed().as_secs_f64();
    report.add(&Figure::new(format!("{name}: deliveries"), "/s", vec![rate]));
    let most = memory(process, "VmHWM")? * 1024.0 - resident;
    report.add(&Figure::new(format!("{name}: memory meanwhile, each"), "KiB", vec![most / stage.len() as f64]));
    let (before, meanwhile) = (percentile(&mut before, 0.99), percentile(&mut meanwhile, 0.99));
    let figure = Figure::new("Publish meanwhile, p99", "ms", vec![meanwhile]);
    report.add(&figure.beside("while they were idle", vec![before]));
    drop(listening);
    Ok(())
}

/// Of `Publish`, one after the other, in milliseconds.
async fn publish_times(stage: &Stage, count: usize) -> Result<Vec<f64>, Failure> {
    let mut times = vec![];
    for _ in 0..count {
        stage.heard.expect(stage.len());
        let since = Instant::now();
        stage.publish().await?;
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// What waits at the node for gateways that do not read.
async fn stalled(report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::set(STALLED).await?;
    // What so many events take by themselves is no gateway's.
    drop(stage.listen("").await?);
    stage.publish_many(UNREAD).await?;
    let opened = stage.callers.iter().map(|(id, caller)| subscribe(caller, id, ""));
    let streams = try_join_all(opened).await?;
    let before = resident(stage.node.pid()).await?;
    stage.publish_many(UNREAD).await?;
    let each = (resident(stage.node.pid()).await? - before) / STALLED as f64;
    drop(streams);
    report.add(&Figure::new(format!("{STALLED} gateways that do not read {UNREAD} events: each"), "KiB", vec![each]));
    Ok(())
}
