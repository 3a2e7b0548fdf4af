//! `pillarbox bench`: what it is told, which nodes it is about, how it ends.

use super::{
    Failure,
    demo::{runtime, stop},
    output::Out,
};
use crate::{
    bench::{self, Node, Options, Progress, Running, Until, What, caller::Place, events::SMALLEST},
    types::{PublicKey, ServerId},
};
use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

pub const EXAMPLES: &str = "Examples:
  Two nodes that it starts itself, for ten seconds:
    pillarbox bench postbox
  One call at a time, which is the latency of an idle node:
    pillarbox bench router --in-flight 1 --duration 5s
  A node that runs, with a token of `pillarbox token new service:bench`:
    PILLARBOX_BENCH_TOKEN=… pillarbox bench chat --node a.example:7443 --ca ca.pem

Figures of a busy machine are worth little; compare the ratios to what the machine
gives by itself, which is measured in the same run, where the bench runs.";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Events to other servers, until they are in the logs there
    #[command(after_help = "Examples:
  pillarbox bench postbox --peers 3 --in-flight 256
  pillarbox bench postbox --msgs 1000000 --batch 1000
  pillarbox bench postbox --json | jq .ratios
  From a node that runs to two of its peers:
    pillarbox bench postbox --node a.example:7443 --token TOKEN --to b.example:7443 --to c.example:7443

At a node that runs, \"delivered\" is how fast its queues for these peers get empty.")]
    Postbox(Postbox),
    /// Messages between MPC parties of one node, each acknowledged by its subscriber
    #[command(after_help = "Examples:
  pillarbox bench router --peers 100 --in-flight 512
  pillarbox bench router --in-flight 1 --duration 5s --json")]
    Router(Common),
    /// Messages in chats of one node, until they are at the other member's stream
    #[command(after_help = "Examples:
  pillarbox bench chat --peers 64
  pillarbox bench chat --size 4096 --msgs 10000

At a node that runs, the chats and users it makes stay; their names begin with \"bench-\".")]
    Chat(Common),
    /// Events that a backend publishes, until every gateway of the node has them
    #[command(after_help = "Examples:
  pillarbox bench push --peers 100
  pillarbox bench push --in-flight 512 --msgs 1000000 --json
  At a node that runs, with a token of `pillarbox token new gateway:web`:
    pillarbox bench push --node a.example:7443 --token TOKEN --gateway web --gateway-token TOKEN")]
    Push(Push),
    /// The echo that calls are held against; ends with its stdin
    #[command(
        hide = true,
        after_help = "Examples:
  pillarbox bench echo-server DIR"
    )]
    EchoServer {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub struct Postbox {
    #[command(flatten)]
    common: Common,
    /// Events in a call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    batch: u64,
    /// A peer of the running node that events go to; may be repeated
    #[arg(long, value_name = "ID", requires = "node")]
    to: Vec<ServerId>,
}

#[derive(Debug, clap::Args)]
pub struct Push {
    #[command(flatten)]
    common: Common,
    /// The gateway of the running node that listens
    #[arg(long, value_name = "NAME", requires_all = ["node", "gateway_token"])]
    gateway: Option<String>,
    /// A token of its principal, "gateway:NAME"
    #[arg(long, value_name = "TOKEN", env = "PILLARBOX_BENCH_GATEWAY_TOKEN", hide_env_values = true)]
    gateway_token: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Common {
    /// Servers, parties or chats that messages go to in turn; or gateways, each of which hears all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    peers: u16,
    /// Calls that wait for their answer, on all connections together
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,
    /// Connections that the calls are spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(SMALLEST as i64..=65_536))]
    size: u32,
    /// How long calls are made, 100ms to 1h [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "msgs")]
    duration: Option<Duration>,
    /// How many messages are sent instead, in whole calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    msgs: Option<u64>,
    /// The address of a running node, instead of nodes started for this
    #[arg(long, value_name = "HOST:PORT", requires = "token")]
    node: Option<ServerId>,
    /// A token of the running node, of a principal "service:…"
    #[arg(long, value_name = "TOKEN", env = "PILLARBOX_BENCH_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// PEM certificates that the running node's certificate may be signed by, besides the public ones
    #[arg(long, value_name = "FILE", requires = "node")]
    ca: Option<PathBuf>,
    /// The running node's key, as `pillarbox key show` prints it: accepts its self-signed certificate
    #[arg(long, value_name = "BASE64", requires = "node")]
    key: Option<PublicKey>,
    /// The running node has no TLS; loopback addresses only
    #[arg(long, requires = "node", conflicts_with_all = ["ca", "key"])]
    plaintext: bool,
    /// Where started nodes keep their data meanwhile; must be on the disk that is meant [default: the directory for temporary things]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Do not measure what the machine gives by itself
    #[arg(long)]
    no_baselines: bool,
    /// Print nothing on stderr meanwhile
    #[arg(long)]
    no_progress: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    const BOUNDS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3600)];
    let span: Duration = text.parse::<humantime::Duration>().map_err(|error| error.to_string())?.into();
    match span < BOUNDS[0] || span > BOUNDS[1] {
        true => Err("must be 100ms to 1h".to_owned()),
        false => Ok(span),
    }
}

/// Each is a process with a file of its own.
const MOST_NODES: u16 = 32;

pub fn run(command: Command, out: &mut Out) -> Result<(), Failure> {
    let mut gateway = None;
    let (what, common, batch, to) = match command {
        Command::EchoServer { dir } => return runtime()?.block_on(bench::echo::serve(&dir)).map_err(Failure::from),
        Command::Postbox(Postbox { common, batch, to }) => (What::Postbox, common, batch, to),
        Command::Router(common) => (What::Router, common, 1, Vec::new()),
        Command::Chat(common) => (What::Chat, common, 1, Vec::new()),
        Command::Push(push) => {
            gateway = push.gateway.zip(push.gateway_token);
            (What::Push, push.common, 1, Vec::new())
        }
    };
    let running = running(&common, to, gateway, what)?;
    let peers = match &running {
        Some(running) if what == What::Postbox => u16::try_from(running.to.len()).unwrap_or(u16::MAX),
        Some(_) if what == What::Push => 1,
        _ => common.peers,
    };
    if what == What::Postbox && running.is_none() && peers > MOST_NODES {
        return Err(Failure::Usage(format!("--peers: {peers}; at most {MOST_NODES} nodes are started for a bench")));
    }
    if let Some(dir) = common.dir.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(Failure::Usage(format!("--dir: {} is not a directory", dir.display())));
    }
    let options = Options {
        what,
        running,
        peers,
        connections: common.connections.into(),
        in_flight: common.in_flight.into(),
        batch,
        size: usize::try_from(common.size).unwrap_or(SMALLEST),
        until: match common.msgs {
            Some(count) => Until::Count(count),
            None => Until::Span(common.duration.unwrap_or(Duration::from_secs(10))),
        },
        baselines: !common.no_baselines,
        dir: common.dir,
    };
    let sink: Option<Box<dyn Write + Send>> = match common.no_progress {
        true => None,
        false => Some(Box::new(io::stderr())),
    };
    let report = runtime()?.block_on(async {
        let stop = stop().map_err(|error| Failure::Failed(format!("cannot watch signals: {error}")))?;
        let progress = Progress::new(sink, io::stderr().is_terminal());
        bench::run(options, progress, stop).await.map_err(Failure::from)
    })?;
    out.either(&report, &report.text())
}

fn running(
    common: &Common,
    to: Vec<ServerId>,
    gateway: Option<(String, String)>,
    what: What,
) -> Result<Option<Running>, Failure> {
    let Common { node: Some(id), token: Some(token), ca, key, plaintext, .. } = common else { return Ok(None) };
    if what == What::Postbox && to.is_empty() {
        return Err(Failure::Usage("--to: say which peers of the running node the events go to".to_owned()));
    }
    if what == What::Push && gateway.is_none() {
        return Err(Failure::Usage("--gateway: say which gateway of the running node listens".to_owned()));
    }
    let place = Place::new(id.clone(), *key, ca.clone(), *plaintext).map_err(|error| match error {
        bench::Error::Failed(text) => Failure::Usage(text),
        other => other.into(),
    })?;
    Ok(Some(Running { node: Node { id: id.clone(), place, token: token.clone(), pid: None }, to, gateway }))
}

impl From<bench::Error> for Failure {
    fn from(error: bench::Error) -> Self {
        match error {
            bench::Error::Failed(text) => Self::Failed(text),
            bench::Error::Stopped(signal) => Self::Signalled(signal),
        }
    }
}
