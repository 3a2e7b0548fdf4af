//! `pillarbox demo`: what it is told, where its picture goes, how it ends.

use super::{Failure, output::Out};
use crate::demo::{self, Options, Screen};
use std::{
    future::Future,
    io::{self, IsTerminal, Write},
};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Three nodes, an outage, and a verdict

Starts three real nodes A, B and C as processes of their own, on free ports, with
data in a temporary directory, TLS and pinned keys. A sends events to B and to C,
500 a second each. In the middle B is killed (SIGKILL); A retries, then keeps a
queue; B is started again, pulls, and the queue drains. C never notices.

At the end the nodes are stopped and the ledger of what A acknowledged is compared
with what the stores of B and C hold. Exit 1 if anything was lost, repeated or out
of order.",
    after_help = "Examples:
  pillarbox demo
  pillarbox demo --events 2000 --keep
  pillarbox demo --json | jq .peers

The picture needs a terminal of 80 by 24; without one, lines are printed.
With --json it goes to stderr and the verdict alone to stdout.",
    args_conflicts_with_subcommands = true
)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Events to each of B and C
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    events: u64,
    /// Keep the data directories and logs of the nodes, and say where
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Two nodes, three users, a cut link, and one history
    ///
    /// Starts two real nodes; alice and bob belong to A, carol to B. They chat; the
    /// link between the nodes is cut and everybody goes on talking; it comes back,
    /// and both nodes end with the same messages in the same order. Exit 1 if not.
    #[command(after_help = "Examples:
  pillarbox demo chat
  pillarbox demo chat --json | jq .history")]
    Chat {
        /// Keep the data directories and logs of the nodes, and say where
        #[arg(long)]
        keep: bool,
    },
}

pub fn run(args: &Args, out: &mut Out) -> Result<(), Failure> {
    if let Some(What::Chat { keep }) = args.what {
        return chat(keep, out);
    }
    let options = Options { events: args.events, keep: args.keep };
    let runtime = runtime()?;
    // With --json stdout is for the object.
    let (sink, terminal): (Box<dyn Write + Send>, _) = match out.json() {
        true => (Box::new(io::stderr()), io::stderr().is_terminal()),
        false => (Box::new(io::stdout()), io::stdout().is_terminal()),
    };
    let report = runtime.block_on(async {
        let stop = stop().map_err(|error| Failure::Failed(format!("cannot watch signals: {error}")))?;
        demo::run(options, Screen::new(sink, terminal), stop).await.map_err(Failure::from)
    })?;
    out.either(&report, &report.text())?;
    match report.ok {
        true => Ok(()),
        false => Err(Failure::Failed("events were lost, repeated or out of order".into())),
    }
}

fn chat(keep: bool, out: &mut Out) -> Result<(), Failure> {
    // With --json stdout is for the object.
    let sink: Box<dyn Write + Send> = match out.json() {
        true => Box::new(io::stderr()),
        false => Box::new(io::stdout()),
    };
    let report = runtime()?.block_on(async {
        let stop = stop().map_err(|error| Failure::Failed(format!("cannot watch signals: {error}")))?;
        demo::chat::run(keep, sink, stop).await.map_err(Failure::from)
    })?;
    out.either(&report, &report.text())?;
    match report.ok {
        true => Ok(()),
        false => Err(Failure::Failed("the nodes do not have the same history".into())),
    }
}

pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))
}

impl From<demo::Error> for Failure {
    fn from(error: demo::Error) -> Self {
        match error {
            demo::Error::Failed(text) => Self::Failed(text),
            demo::Error::Output(error) => error.into(),
            demo::Error::Stopped(signal) => Self::Signalled(signal),
        }
    }
}

/// The number of the first signal that tells to stop. SIGHUP is one: nobody
/// watches any more, and the nodes must not stay behind.
pub fn stop() -> io::Result<impl Future<Output = u8>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
            _ = hangup.recv() => 1,
        }
    })
}
