//! Thousands of browsers' clients at one gateway, half by Server-Sent Events, half by
//! WebSocket: what each costs, how fast all of them have an event, what those do
//! who do not read, and what is left when they go.

use crate::{
    Failure, Size,
    gateways::{Heard, resident},
    load::again,
    parties::percentile,
    process::{NodeProcess, pillarbox},
    report::{Aim, Figure, Report},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use pillarbox::bench::{
    push::{Publisher, ROOMY},
    usage::{cpu, memory},
};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Clients that are coming at a time.
const COMING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it is looked at what doing nothing costs: two of the signs of life that
/// each client gets.
const IDLE: Duration = Duration::from_secs(30);
/// Events told at once.
const BURST: usize = 100;
/// Stands in each payload once and nowhere else in what a client is sent.
const MARK: [u8; 2] = *b"~~";
/// Clients that do not read, what they are sent, and how much of it the kernel may
/// keep for one of them.
const SLOW: usize = 50;
const SLOW_EVENTS: u64 = 2_500;
const SLOW_BYTES: usize = 8 << 10;
const SLOW_ROOM: u32 = 64 << 10;

/// `pillarbox gateway` before a node; killed when it is dropped.
struct Gateway {
    child: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start(dir: &Path, node: &NodeProcess, token: &str) -> Result<Self, Failure> {
        let log = File::create(dir.with_extension("log"))?;
        let mut command = pillarbox();
        command.arg("--data-dir").arg(dir).args(["gateway", "--id", "web", "--listen", "127.0.0.1:0", "--json"]);
        command.args(["--backend", &format!("https://{}", node.server_id), "--pin", &node.key]);
        // All come from one address, and most as one user.
        command.args(["--behind-proxy", "--max-clients", "100000", "--max-clients-per-user", "100000"]);
        command.env("PILLARBOX_TOKEN", token).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("stdout is piped")?).read_line(&mut line)?;
        let ready: serde_json::Value = serde_json::from_str(&line)?;
        let address = ready["listen"].as_str().ok_or("the ready line names no address")?.parse()?;
        Ok(Self { child, address })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Open files of the process.
    fn files(&self) -> Result<usize, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Waits until it has no more than so many open files.
    async fn has_let_go(&self, files: usize) -> Result<(), Failure> {
        let look = async {
            while self.files()? > files {
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, look).await.map_err(|_| "the gateway keeps connections of clients that are gone")?
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Stage {
    gateway: Gateway,
    node: NodeProcess,
    service: Publisher,
    alice: String,
    bob: String,
    published: AtomicU64,
    heard: Arc<Heard>,
    /// Of each delivery since it was published, in milliseconds.
    times: Arc<Mutex<Vec<f64>>>,
    since: Arc<Mutex<Instant>>,
    _dirs: [tempfile::TempDir; 2],
}

impl Stage {
    async fn set() -> Result<Self, Failure> {
        let dirs = [crate::directory()?, crate::directory()?];
        let node = NodeProcess::start(dirs[0].path(), &ROOMY);
        let token = |name: &str| node.ok(&["token", "new", name]).trim().to_owned();
        let service = Publisher::new(again(&node, &token("service:bench")).await?);
        let gateway = Gateway::start(&dirs[1].path().join("web"), &node, &token("gateway:web"))?;
        let (alice, bob) = (token("user:alice"), token("user:bob"));
        let stage = Self {
            gateway,
            node,
            service,
            alice,
            bob,
            published: AtomicU64::default(),
            heard: Arc::default(),
            times: Arc::default(),
            since: Arc::new(Mutex::new(Instant::now())),
            _dirs: dirs,
        };
        // It lets nobody in before it has subscribed; and what the first one takes is not a client's.
        let first = async {
            while stage.come(Kind::Events, &stage.alice, None).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, first).await.map_err(|_| "the gateway lets nobody in")?;
        Ok(stage)
    }

    /// A client whose stream has begun. `room`: what the kernel may hold unread.
    async fn come(&self, kind: Kind, token: &str, room: Option<u32>) -> Result<TcpStream, Failure> {
        let socket = TcpSocket::new_v4()?;
        if let Some(room) = room {
            socket.set_recv_buffer_size(room)?;
        }
        let mut stream = socket.connect(self.gateway.address).await?;
        let request = match kind {
            Kind::Events => "GET /events HTTP/1.1\r\n",
            Kind::Socket => {
                "GET /ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
        };
        let head = format!("{request}host: {}\r\nauthorization: Bearer {token}\r\n\r\n", self.gateway.address);
        stream.write_all(head.as_bytes()).await?;
        let mut said = Vec::new();
        let begun = async {
            // In what is said first.
            while !said.windows(9).any(|nine| nine == b"\"user_id\"") {
                if stream.read_buf(&mut said).await? == 0 {
                    return Err(format!("refused: {}", String::from_utf8_lossy(&said)).into());
                }
            }
            Ok::<_, Failure>(())
        };
        timeout(PATIENCE, begun).await.map_err(|_| "no stream begins")??;
        Ok(stream)
    }

    /// So many clients of alice more, each read by a task.
    async fn crowd(&self, kind: Kind, clients: usize, crowd: &mut JoinSet<()>) -> Result<(), Failure> {
        let coming = stream::iter(0..clients).map(|_| self.come(kind, &self.alice, None));
        let streams: Vec<TcpStream> = coming.buffer_unordered(COMING).try_collect().await?;
        for stream in streams {
            crowd.spawn(read(stream, self.heard.clone(), self.since.clone(), self.times.clone()));
        }
        Ok(())
    }

    async fn tell(&self, user: &str, bytes: usize) -> Result<(), Failure> {
        let number = self.published.fetch_add(1, SeqCst);
        let payload = format!("\"~~{number:0width$}\"", width = bytes - 4);
        Ok(self.service.tell(user, number.to_string(), payload.into()).await?)
    }

    /// One after the other, until all have it. Returns those times, and how long each
    /// delivery took.
    async fn one_by_one(&self, clients: usize, events: usize) -> Result<(Vec<f64>, Vec<f64>), Failure> {
        lock(&self.times).clear();
        let mut until_all = vec![];
        for _ in 0..events {
            self.heard.expect(clients as u64);
            let since = Instant::now();
            *lock(&self.since) = since;
            self.tell("alice", 256).await?;
            self.heard.all().await?;
            until_all.push(since.elapsed().as_secs_f64() * 1e3);
        }
        Ok((until_all, std::mem::take(&mut *lock(&self.times))))
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Events,
    Socket,
}

/// Counts what comes, until it ends.
async fn read(mut stream: TcpStream, heard: Arc<Heard>, since: Arc<Mutex<Instant>>, times: Arc<Mutex<Vec<f64>>>) {
    let (mut buffer, mut before) = (vec![0; 4 << 10], 0);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        for byte in &buffer[..read] {
            if [before, *byte] == MARK {
                let took = lock(&since).elapsed().as_secs_f64() * 1e3;
                lock(&times).push(took);
                heard.once();
            }
            before = *byte;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything about many clients.
pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    let (stage, count) = (Stage::set().await?, size.browsers);
    let (process, name) = (stage.gateway.pid(), format!("{count} clients"));
    let (alone, files) = (resident(process).await?, stage.gateway.files()?);
    let mut crowd = JoinSet::new();
    for (kind, what) in [(Kind::Events, "Server-Sent Events"), (Kind::Socket, "WebSocket")] {
        let (before, some, since) = (resident(process).await?, count / 2, Instant::now());
        stage.crowd(kind, some, &mut crowd).await?;
        let rate = some as f64 / since.elapsed().as_secs_f64();
        report.add(&Figure::new(format!("{some} clients by {what} come"), "/s", vec![rate]));
        let each = (resident(process).await? - before) / some as f64;
        report.add(&Figure::new(format!("{some} clients by {what}, without TLS: each"), "KiB", vec![each]));
    }
    let used = cpu(process)?;
    sleep(IDLE).await;
    let share = (cpu(process)? - used) / IDLE.as_secs_f64() * 100.0;
    report.add(&Figure::new(format!("{name}, idle: CPU of the gateway"), "% of a core", vec![share]));
    fan_out(report, size, &stage).await?;
    beside_the_slow(report, size, &stage, files).await?;
    crowd.shutdown().await;
    stage.gateway.has_let_go(files).await?;
    let left = resident(process).await? / 1024.0;
    let figure = Figure::new(format!("{name} have left: resident"), "MiB", vec![left]);
    report.add(&figure.beside("before they came", vec![alone / 1024.0]));
    drop(stage.node);
    Ok(())
}

/// One event for all of them, and many.
async fn fan_out(report: &mut Report, size: Size, stage: &Stage) -> Result<(), Failure> {
    let (mut rates, mut costs, name) = (vec![], vec![], format!("{} clients", size.browsers));
    let (mut all, mut each) = stage.one_by_one(size.browsers, size.timed / 20).await?;
    for (part, percent) in [(0.5, "p50"), (0.99, "p99")] {
        report.add(&Figure::new(format!("{name}: one event, {percent}"), "ms", vec![percentile(&mut each, part)]));
        let value = vec![percentile(&mut all, part)];
        report.add(&Figure::new(format!("{name}: until all have it, {percent}"), "ms", value));
    }
    for _ in 0..size.rounds {
        // Fewer than may wait for one client.
        let deliveries = (BURST * size.browsers) as u64;
        stage.heard.expect(deliveries);
        let (since, used) = (Instant::now(), cpu(stage.gateway.pid())?);
        let telling = stream::iter(0..BURST).map(|_| stage.tell("alice", 256));
        telling.buffer_unordered(COMING).try_collect::<()>().await?;
        stage.heard.all().await?;
        rates.push(deliveries as f64 / since.elapsed().as_secs_f64());
        costs.push((cpu(stage.gateway.pid())? - used) * 1e6 / deliveries as f64);
    }
    report.add(&Figure::new(format!("{name}: deliveries"), "/s", rates));
    report.add(&Figure::new(format!("{name}: CPU of the gateway a delivery"), "µs", costs));
    Ok(())
}

/// The 99th percentile of one event's times while others are sent a lot. Those keep
/// their connections until what is returned is dropped.
async fn beside_others(stage: &Stage, size: Size, reads: bool) -> Result<(f64, Vec<TcpStream>, JoinSet<()>), Failure> {
    let (mut others, mut reading) = (vec![], JoinSet::new());
    for n in 0..SLOW {
        let kind = if n % 2 == 0 { Kind::Events } else { Kind::Socket };
        let mut other = stage.come(kind, &stage.bob, Some(SLOW_ROOM)).await?;
        if reads {
            reading.spawn(async move { drop(tokio::io::copy(&mut other, &mut tokio::io::sink()).await) });
        } else {
            others.push(other);
        }
    }
    let telling = async {
        let all = stream::iter(0..SLOW_EVENTS).map(|_| stage.tell("bob", SLOW_BYTES));
        all.buffer_unordered(COMING).try_collect::<()>().await
    };
    let (told, heard) = tokio::join!(telling, stage.one_by_one(size.browsers, size.timed / 20));
    told?;
    Ok((percentile(&mut heard?.1, 0.99), others, reading))
}

/// Some who do not read are ended; the others do not feel it.
async fn beside_the_slow(report: &mut Report, size: Size, stage: &Stage, files: usize) -> Result<(), Failure> {
    let (quick, _, mut reading) = beside_others(stage, size, true).await?;
    reading.shutdown().await;
    stage.gateway.has_let_go(files + size.browsers).await?;
    let (slow, others, _) = beside_others(stage, size, false).await?;
    let figure = Figure::new(format!("one event beside {SLOW} that do not read, p99"), "ms", vec![slow]);
    report.add(&figure.beside("beside as many that do", vec![quick]));
    let since = Instant::now();
    stage.gateway.has_let_go(files + size.browsers).await?;
    let took = since.elapsed().as_secs_f64();
    report.add(&Figure::new("those that do not read are gone after", "s", vec![took]).aim(Aim::AtMost(10.0)));
    drop(others);
    let most = memory(stage.gateway.pid(), "VmHWM")?;
    report.add(&Figure::new("most memory of the gateway so far", "MiB", vec![most]));
    Ok(())
}
