//! The benchmarks of the postbox, and of the router, the chats and the push channel beside it, against real nodes:
//! each a process of its own, TLS on, keys pinned.
//!
//! `cargo bench --bench postbox [-- NAME…] [--quick] [--json]`
//!
//! Every figure stands beside a baseline measured in the same run, right
//! before it: what the machine gives without this program. The load of the
//! machine is printed too; figures of a busy one are worth little, ratios more.

#[path = "postbox/alone.rs"]
mod alone;
#[path = "postbox/browsers.rs"]
mod browsers;
#[path = "postbox/chatting.rs"]
mod chatting;
#[path = "postbox/crowd.rs"]
mod crowd;
#[path = "postbox/delivery.rs"]
mod delivery;
#[path = "postbox/gateways.rs"]
mod gateways;
#[path = "postbox/idle.rs"]
mod idle;
#[path = "postbox/link.rs"]
mod link;
#[path = "postbox/load.rs"]
mod load;
#[path = "postbox/nats.rs"]
mod nats;
#[path = "postbox/parties.rs"]
mod parties;
#[path = "postbox/peers.rs"]
mod peers;
#[path = "../tests/common/process.rs"]
mod process;
#[path = "postbox/pushing.rs"]
mod pushing;
#[path = "postbox/report.rs"]
mod report;
#[path = "postbox/send.rs"]
mod send;
#[path = "postbox/wan.rs"]
mod wan;

use report::Report;
use std::{env, process::ExitCode, time::Duration};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const NAMES: [&str; 17] = [
    "baselines",
    "idle",
    "send",
    "courier",
    "wan",
    "peers",
    "drain",
    "route",
    "latency",
    "broadcast",
    "subscribed",
    "nats",
    "chat",
    "fanout",
    "push",
    "gateways",
    "browsers",
];

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    rounds: usize,
    /// How long a rate is measured, after a fifth of it to warm up.
    span: Duration,
    /// Events sent in batches.
    couriered: u64,
    /// Events over a long link.
    far: u64,
    /// Peers of one node.
    peers: usize,
    /// Events drained by Pull.
    drained: u64,
    /// Events that a gateway catches up.
    pushed: u64,
    /// Messages whose way is timed.
    timed: usize,
    /// Parties that subscribe at once.
    parties: usize,
    /// Gateways of one node, and clients of one gateway.
    gateways: usize,
    browsers: usize,
}

const FULL: Size = Size {
    rounds: 3,
    span: Duration::from_secs(3),
    couriered: 300_000,
    far: 600_000,
    peers: 1_000,
    drained: 1_000_000,
    pushed: 1_000_000,
    timed: 2_000,
    parties: 2_000,
    gateways: 1_000,
    browsers: 5_000,
};
const QUICK: Size = Size {
    rounds: 1,
    span: Duration::from_millis(500),
    couriered: 20_000,
    far: 100_000,
    peers: 100,
    drained: 50_000,
    pushed: 20_000,
    timed: 200,
    parties: 200,
    gateways: 100,
    browsers: 200,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into()),
    };
    let done = match &arguments[..] {
        [end, address] if end == wan::SINK => wan::serve_sink(address),
        [end, address, bytes] if end == wan::SOURCE => wan::run_source(address, bytes),
        _ => runtime.block_on(run(&arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure),
    }
}

fn complain(failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    ExitCode::FAILURE
}

async fn run(arguments: &[String]) -> Result<(), Failure> {
    let (mut size, mut json, mut names) = (FULL, false, vec![]);
    for argument in arguments {
        match argument.as_str() {
            "--quick" => size = QUICK,
            "--json" => json = true,
            // What cargo itself says.
            "--bench" => {}
            name if NAMES.contains(&name) => names.push(name),
            other => return Err(format!("{other}: not one of {NAMES:?}, --quick, --json").into()),
        }
    }
    if names.is_empty() {
        names = NAMES.to_vec();
    }
    let mut report = Report::new(json);
    report.machine("at the start");
    for name in names {
        match name {
            "baselines" => alone::baselines(&mut report, size).await?,
            "idle" => idle::run(&mut report, size).await?,
            "send" => send::run(&mut report, size).await?,
            "courier" => delivery::courier(&mut report, size).await?,
            "wan" => wan::run(&mut report, size).await?,
            "peers" => peers::run(&mut report, size).await?,
            "route" => parties::route(&mut report, size).await?,
            "latency" => parties::latency(&mut report, size).await?,
            "broadcast" => parties::broadcast(&mut report, size).await?,
            "subscribed" => parties::subscribed(&mut report, size).await?,
            "chat" => chatting::send(&mut report, size).await?,
            "fanout" => chatting::fan_out(&mut report, size).await?,
            "push" => pushing::run(&mut report, size).await?,
            "gateways" => gateways::run(&mut report, size).await?,
            "browsers" => browsers::run(&mut report, size).await?,
            "nats" => nats::run(&mut report, size).await?,
            _ => delivery::drain(&mut report, size).await?,
        }
    }
    report.machine("at the end");
    Ok(())
}

/// Data lies below `target/`, on a disk; the temporary directory may be memory.
fn directory() -> Result<tempfile::TempDir, Failure> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}
