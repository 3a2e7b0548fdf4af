//! Courier over a long link, beside one bare TCP stream over the same one.

use crate::{
    Failure, Size,
    link::{ADDRESSES, DELAY, LongLink, missing},
    parties::percentile,
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use pillarbox::{
    admin::client::{self, Client},
    bench::events::{EVENT, Shape, event},
    proto::pillarbox::{
        admin::v1::{ShowPeerRequest, TailEventsRequest},
        postbox::v1::SendRequest,
    },
};
use std::{
    env,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// How this program is told to be an end of the bare stream; an address follows.
pub const SINK: &str = "--tcp-sink";
pub const SOURCE: &str = "--tcp-source";
const SINK_PORT: u16 = 7000;
/// Events in one call that fills the queue.
const FILL: u64 = 1024;
const PATIENCE: Duration = Duration::from_secs(600);
/// One event is on its way at a time.
const TIMED: usize = 20;

pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    if let Some(why) = missing() {
        eprintln!("wan: passed over, {why}");
        return Ok(());
    }
    for lost in [0, 10] {
        over(report, size, lost).await?;
    }
    Ok(())
}

/// `lost`: of a thousand packets.
async fn over(report: &mut Report, size: Size, lost: u64) -> Result<(), Failure> {
    let (link, dirs) = (LongLink::new(lost)?, [crate::directory()?, crate::directory()?]);
    let mut sink = Sink::start(&link)?;
    let start = |end: usize| {
        let listen = format!("{}:{}", ADDRESSES[end], 7443 + end);
        let id = format!("localhost:{}", 7443 + end);
        let settings = [("LISTEN", listen.as_str()), ("SERVER_ID", &id)];
        NodeProcess::spawn_by(&link.at(end), dirs[end].path(), &settings).ready()
    };
    let (a, b) = (start(0)?, start(1)?);
    for (here, there, end) in [(&a, &b, 1), (&b, &a, 0)] {
        let address = format!("{}:{}", ADDRESSES[end], 7443 + end);
        here.ok(&["peer", "add", &there.server_id, "--key", &there.key, "--address", &address]);
    }
    let (mut at_a, mut at_b) = (operator(&a).await?, operator(&b).await?);
    until(&mut at_a, &b, "reached", |peer| peer.outbound_ok_at > 0).await?;

    let (mut rates, mut bare, mut times, mut ways) = (vec![], vec![], vec![], vec![]);
    for round in 0..size.rounds as u64 {
        let (trip, took) = source(&link, size.far * EVENT as u64)?;
        bare.push(size.far as f64 / took.as_secs_f64());
        ways.push(trip.as_secs_f64() * 500.0);
        a.ok(&["queue", "hold", &b.server_id]);
        for first in (0..size.far).step_by(FILL as usize) {
            let numbers = first..size.far.min(first + FILL);
            let events = numbers.map(|number| event(Shape::Rejected, round * size.far + number)).collect();
            at_a.send_event(SendRequest { to: b.server_id.clone(), events }).await?;
        }
        let since = Instant::now();
        a.ok(&["queue", "release", &b.server_id]);
        until(&mut at_a, &b, "up to date", |peer| peer.queued == 0).await?;
        rates.push(size.far as f64 / since.elapsed().as_secs_f64());
        times.push(one_by_one(&mut at_a, &mut at_b, &b, (round + 1) * (size.far + TIMED as u64)).await?);
    }
    sink.0.kill()?;
    let name = format!("{} ms each way, {} % lost", DELAY.as_millis(), lost as f64 / 10.0);
    let figure = Figure::new(format!("{name}: Courier, A to B"), "/s", rates);
    report.add(&figure.beside("one bare TCP stream of as many bytes", bare).aim(Aim::Ratio(0.8)));
    let times = times.into_iter().map(|mut times| percentile(&mut times, 0.5)).collect();
    report.add(&Figure::new(format!("{name}: one event, p50"), "ms", times).beside("half of a TCP round trip", ways));
    Ok(())
}

async fn operator(node: &NodeProcess) -> Result<Client, Failure> {
    Ok(client::connect(&node.dir().join("admin.sock")).await?)
}

async fn until(
    operator: &mut Client,
    other: &NodeProcess,
    what: &str,
    is: impl Fn(&pillarbox::proto::pillarbox::postbox::v1::Peer) -> bool,
) -> Result<(), Failure> {
    let look = async {
        loop {
            let request = ShowPeerRequest { server_id: other.server_id.clone() };
            if operator.show_peer(request).await?.into_inner().peer.is_some_and(|peer| is(&peer)) {
                return Ok::<_, Failure>(());
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, look).await.map_err(|_| format!("the other node was not {what} within {PATIENCE:?}"))?
}

/// Milliseconds from the call that stores an event at A until B's log has it.
async fn one_by_one(a: &mut Client, b: &mut Client, to: &NodeProcess, first: u64) -> Result<Vec<f64>, Failure> {
    let mut after = 0;
    let mut log = b.tail_events(TailEventsRequest { after: 0 }).await?.into_inner();
    // All that is there already comes first.
    while let Ok(received) = timeout(Duration::from_millis(500), log.message()).await {
        after = received?.ok_or("the log of B ended")?.cursor;
    }
    let mut times = vec![];
    for number in first..first + TIMED as u64 {
        let since = Instant::now();
        let events = vec![event(Shape::Rejected, number)];
        a.send_event(SendRequest { to: to.server_id.clone(), events }).await?;
        let received = timeout(PATIENCE, log.message()).await??.ok_or("the log of B ended")?;
        if received.cursor <= after {
            return Err("the log of B repeats".into());
        }
        after = received.cursor;
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// The receiving end of the bare stream; killed when it is dropped.
struct Sink(Child);

impl Sink {
    fn start(link: &LongLink) -> Result<Self, Failure> {
        let mut child =
            by(&link.at(1)).arg(env::current_exe()?).arg(SINK).arg(sink()).stdout(Stdio::piped()).spawn()?;
        let mut ready = [0];
        child.stdout.take().ok_or("the sink has no stdout")?.read_exact(&mut ready)?;
        Ok(Self(child))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn sink() -> String {
    format!("{}:{SINK_PORT}", ADDRESSES[1])
}

/// A round trip, and the time of so many bytes until the sink had all of them.
fn source(link: &LongLink, bytes: u64) -> Result<(Duration, Duration), Failure> {
    let mut command = by(&link.at(0));
    let output = command.arg(env::current_exe()?).arg(SOURCE).arg(sink()).arg(bytes.to_string()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    match seconds[..] {
        [trip, took] => Ok((Duration::from_secs_f64(trip), Duration::from_secs_f64(took))),
        _ => Err(format!("the bare stream: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Takes streams, one after the other, and says a byte once one has ended.
pub fn serve_sink(address: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind(address)?;
    std::io::stdout().write_all(b".")?;
    std::io::stdout().flush()?;
    let mut buffer = vec![0; 1 << 16];
    for stream in listener.incoming() {
        let mut stream = stream?;
        while stream.read(&mut buffer)? > 0 {}
        stream.write_all(b".")?;
    }
    Ok(())
}

pub fn run_source(address: &str, bytes: &str) -> Result<(), Failure> {
    let (mut left, begun) = (bytes.parse::<usize>()?, Instant::now());
    let mut stream = TcpStream::connect_timeout(&address.parse()?, PATIENCE)?;
    let (trip, since, page) = (begun.elapsed(), Instant::now(), vec![0x2a; 1 << 16]);
    while left > 0 {
        left -= stream.write(&page[..left.min(page.len())])?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    // The byte back is half a round trip that is none of the stream's.
    let took = since.elapsed().saturating_sub(trip / 2);
    println!("{} {}", trip.as_secs_f64(), took.as_secs_f64());
    Ok(())
}
