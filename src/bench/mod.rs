//! `pillarbox bench`: how much a node takes, and how long it takes for it (floor 9).
//!
//! Against nodes that it starts itself, or one that runs; each is spoken to only
//! through its sockets. What the machine gives by itself is measured in the same run:
//! ratios say more than figures. `benches/` measures with the same code. Never
//! imports `cli/`.

pub mod baselines;
pub mod caller;
mod chat;
pub mod drive;
pub mod echo;
mod error;
pub mod events;
pub mod mailroom;
pub mod parties;
mod postbox;
mod progress;
pub mod push;
pub mod report;
mod router;
mod stage;
pub mod talkers;
pub mod usage;

pub use error::Error;
pub use progress::Progress;
pub use report::Report;
pub use stage::Node;

use crate::{demo::process::Nodes, types::ServerId};
use baselines::Baselines;
use drive::{Meter, Work, keep_calling};
use report::Figure;
use std::{
    env,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use usage::Machine;

/// On disk, and so answered.
const ACKNOWLEDGED: &str = "acknowledged";
/// Handed to who it is for.
const DELIVERED: &str = "delivered";
/// Nothing more is waited for once nothing came for so long.
const STALL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);
/// The longest that a single baseline takes, and the shortest.
const BASELINE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Events to other servers.
    Postbox,
    /// Messages between parties of one node.
    Router,
    /// Messages in chats of one node.
    Chat,
    /// Events to the gateways of one node.
    Push,
}

#[derive(Debug, Clone, Copy)]
pub enum Until {
    Span(Duration),
    /// Messages; in whole calls.
    Count(u64),
}

#[derive(Clone)]
pub struct Options {
    pub what: What,
    /// `None`: nodes are started.
    pub running: Option<Running>,
    /// Servers, parties or chats that messages go to in turn; or gateways.
    pub peers: u16,
    pub connections: usize,
    /// Calls that wait for their answer, on all connections together.
    pub in_flight: usize,
    /// Messages in a call.
    pub batch: u64,
    /// Bytes of a message, at least [`events::SMALLEST`].
    pub size: usize,
    pub until: Until,
    pub baselines: bool,
    /// Where the data of started nodes goes, and what the baselines write.
    pub dir: Option<PathBuf>,
}

/// A node that was there before.
#[derive(Clone)]
pub struct Running {
    pub node: Node,
    /// Its peers that events go to.
    pub to: Vec<ServerId>,
    /// Id and token of a gateway that listens.
    pub gateway: Option<(String, String)>,
}

/// Measures. When this returns nothing that it started runs, and its directory is
/// gone; `stop` ends it early.
pub async fn run(options: Options, mut progress: Progress, stop: impl Future<Output = u8>) -> Result<Report, Error> {
    let mut nodes = Nodes::new(options.dir.as_deref().unwrap_or(&env::temp_dir()), "bench")?;
    let measured = tokio::select! {
        measured = measure(&options, &mut nodes, &mut progress) => measured,
        signal = stop => Err(Error::Stopped(signal)),
    };
    nodes.end().await;
    if let Err(Error::Failed(text)) = measured {
        if options.running.is_some() {
            return Err(Error::Failed(text));
        }
        nodes.keep();
        return Err(Error::Failed(format!("{text}\n  data and logs of the nodes: {}", nodes.home().display())));
    }
    measured
}

async fn measure(options: &Options, nodes: &mut Nodes, progress: &mut Progress) -> Result<Report, Error> {
    let baselines = match options.baselines {
        false => None,
        true => {
            progress.say("measuring what this machine gives by itself");
            let span = match options.until {
                Until::Span(span) => span / 10,
                Until::Count(_) => BASELINE[1],
            };
            let span = span.clamp(BASELINE[0], BASELINE[1]);
            let of = (options.size, options.in_flight);
            Some(Baselines::measure(nodes.program(), nodes.home(), of, span).await?)
        }
    };
    let mut bench = Bench { options, nodes, progress, acknowledged: Arc::default(), delivered: Arc::default() };
    let (name, figures) = match options.what {
        What::Postbox => ("postbox", postbox::run(&mut bench).await?),
        What::Router => ("router", router::run(&mut bench).await?),
        What::Chat => ("chat", chat::run(&mut bench).await?),
        What::Push => ("push", push::run(&mut bench).await?),
    };
    let mut report = Report {
        bench: name,
        started: options.running.is_none(),
        peers: options.peers,
        connections: options.connections,
        in_flight: options.in_flight,
        batch: options.batch,
        size: options.size,
        figures,
        refused: bench.acknowledged.refused(),
        baselines,
        ratios: Vec::new(),
        machine: Machine::now(),
    };
    report.compare();
    Ok(report)
}

/// Who take messages, each a task.
type Listeners = JoinSet<Result<(), Error>>;

/// One bench under way.
struct Bench<'a> {
    options: &'a Options,
    nodes: &'a mut Nodes,
    progress: &'a mut Progress,
    acknowledged: Arc<Meter>,
    delivered: Arc<Meter>,
}

impl Bench<'_> {
    /// The node, and those that were started beside it.
    async fn stage(&mut self, peers: u16, settings: &[(&str, &str)]) -> Result<(Node, Vec<Node>), Error> {
        if let Some(running) = &self.options.running {
            return Ok((running.node.clone(), Vec::new()));
        }
        self.progress.say(&format!("starting {} in {}", count(1 + peers, "node"), self.nodes.home().display()));
        stage::start(self.nodes, peers, settings).await
    }

    /// Makes the calls; the seconds they took.
    async fn load<C, F>(&mut self, call: C) -> Result<f64, Error>
    where
        C: Fn(u64) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), tonic::Status>> + Send + 'static,
    {
        let Options { until, in_flight, batch, .. } = *self.options;
        let (most, span) = match until {
            Until::Count(messages) => (messages.div_ceil(batch), None),
            Until::Span(span) => (u64::MAX, Some(span)),
        };
        let stop = CancellationToken::new();
        let work = Work { in_flight, most, each: batch, stop: stop.clone() };
        let mut calling = std::pin::pin!(keep_calling(work, self.acknowledged.clone(), call));
        let since = Instant::now();
        let timed = async {
            match span {
                None => calling.await,
                Some(span) => match timeout(span, &mut calling).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        stop.cancel();
                        calling.await
                    }
                },
            }
        };
        let meters = [(ACKNOWLEDGED, &self.acknowledged), (DELIVERED, &self.delivered)];
        self.progress.during(&meters, timed).await?;
        Ok(since.elapsed().as_secs_f64())
    }

    /// Waits until all that was acknowledged is delivered, each so many times. An
    /// error: a listener ended, or nothing came any more.
    async fn all_arrive(&mut self, listeners: &mut Listeners, times: u64) -> Result<(), Error> {
        let (wanted, delivered) = (self.acknowledged.done() * times, self.delivered.clone());
        let arriving = async {
            let (mut last, mut moved) = (delivered.done(), Instant::now());
            loop {
                let now = delivered.done();
                if now >= wanted {
                    return Ok(());
                }
                if now != last {
                    (last, moved) = (now, Instant::now());
                } else if moved.elapsed() > STALL {
                    let stall = STALL.as_secs();
                    return Err(format!("{now} of {wanted} messages were delivered, and none in {stall} s").into());
                }
                tokio::select! {
                    Some(ended) = listeners.join_next() => {
                        ended??;
                        return Err("a stream of the node ended".into());
                    }
                    () = sleep(LOOK) => {}
                }
            }
        };
        self.progress.during(&[(DELIVERED, &self.delivered)], arriving).await
    }

    /// What was acknowledged and what was delivered, by these seconds.
    fn figures(&self, loaded: f64, arrived: f64) -> Vec<Figure> {
        let size = self.options.size;
        vec![
            Figure::new(ACKNOWLEDGED, &self.acknowledged, loaded, size),
            Figure::new(DELIVERED, &self.delivered, arrived, size),
        ]
    }

    /// The same where one node both takes and hands over; `used`: seconds on a
    /// core it had had before.
    fn figures_of_one(&self, node: &Node, used: Option<f64>, loaded: f64, arrived: f64) -> Vec<Figure> {
        let mut figures = self.figures(loaded, arrived);
        let used = node.cpu().zip(used).map(|(now, then)| now - then);
        figures[1] = figures[1].clone().cpu(used);
        figures
    }
}

/// "1 node", "3 nodes".
fn count(number: u16, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A word that no run before this one had.
fn unique() -> Result<String, Error> {
    Ok(format!("bench-{:08x}", getrandom::u32().map_err(|cause| format!("no randomness: {cause}"))?))
}
