//! `pillarbox demo`: three real nodes, an outage, and a verdict (floor 9); and
//! `demo chat` in `chat.rs`.
//!
//! A sends to B and C; B is killed in the middle and started again; the stores
//! of the stopped nodes tell whether anything was lost, repeated or out of
//! order. The nodes are processes of their own with the settings every node
//! has, and are spoken to only through their sockets. Never imports `cli/`.

pub mod chat;
mod gauge;
mod link;
mod load;
mod picture;
pub mod process;
mod report;
mod screen;
mod stage;
mod verdict;

pub use report::Report;
pub use screen::Screen;

use crate::{store::Store, types::Millis};
use picture::{Picture, thousands};
use process::{Name, Nodes};
use stage::{Came, Stage};
use std::{io, ops::Range, time::Duration};
use tokio::sync::watch;
use verdict::{Arrival, Span, Verdict};

/// When things happen, in percent of the events to each peer: B is killed once
/// it applied so many, and started again once so many are acknowledged and A
/// gave up pushing.
const KILL_AT: u64 = 30;
const START_AT: u64 = 60;
/// No more is sent before B was killed, and before it was started again. At
/// the usual size and speed the load never gets there; a small or slow demo
/// must not be over before its outage.
const SENT_BEFORE_KILL: u64 = 60;
const SENT_BEFORE_START: u64 = 80;
const PAGE_ROWS: usize = 4096;
const PAGE_BYTES: usize = 4 << 20;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// To each of the two peers.
    pub events: u64,
    /// The data directories stay.
    pub keep: bool,
}

/// Why there is no verdict.
#[derive(Debug)]
pub enum Error {
    Failed(String),
    /// Whoever watched cannot be written to.
    Output(io::Error),
    /// Cut short from outside, by the signal of this number.
    Stopped(u8),
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Plays the demo. When this returns no node runs, and the terminal is as it
/// was; `stop` ends it early.
pub async fn run(options: Options, mut screen: Screen, stop: impl Future<Output = u8>) -> Result<Report, Error> {
    let mut nodes = Nodes::new(&std::env::temp_dir(), "demo")?;
    let played = tokio::select! {
        played = play(&mut nodes, &mut screen, options.events) => played,
        signal = stop => Err(Error::Stopped(signal)),
    };
    // The error that counts is the one above.
    let _ = screen.leave();
    nodes.end().await;
    let home = nodes.home().to_owned();
    match played {
        Ok(mut report) => {
            if options.keep || !report.ok {
                nodes.keep();
                report.kept = Some(home);
            }
            Ok(report)
        }
        Err(Error::Failed(text)) => {
            nodes.keep();
            Err(Error::Failed(format!("{text}\n  data and logs of the nodes: {}", home.display())))
        }
        Err(other) => {
            if options.keep {
                nodes.keep();
            }
            Err(other)
        }
    }
}

async fn play(nodes: &mut Nodes, screen: &mut Screen, events: u64) -> Result<Report, Error> {
    let mut stage = Stage::set(nodes, screen, events).await?;
    stage.note("A, B and C are ready; each was given the keys of its peers");
    let percent = |percent: u64| events * percent / 100;
    let (gate, gated) = watch::channel(percent(SENT_BEFORE_KILL));
    for peer in &stage.peers {
        let (node, ledger) = (stage.sender.clone(), peer.ledger.clone());
        stage.senders.spawn(load::send(node, peer.server_id.clone(), events, gated.clone(), ledger));
    }
    let began = Millis::now().0;
    stage.note(format!("A sends {} events a second to each of B and C", load::PER_SECOND));
    expect(stage.until(|now| now.lanes[0].applied >= percent(KILL_AT)).await?, "B applies what A sends")?;

    let killed = (Millis::now().0, stage.elapsed());
    stage.kill_b().await?;
    stage.note(format!("B is killed (SIGKILL) after {} events", thousands(stage.picture.lanes[0].applied)));
    gate.send_replace(percent(SENT_BEFORE_START));
    let away = |now: &Picture| now.lanes[0].state == "queued" && now.lanes[0].acknowledged >= percent(START_AT);
    expect(stage.until(away).await?, "A takes B for gone")?;

    stage.start_b().await?;
    let back = (Millis::now().0, stage.elapsed());
    let waiting = thousands(stage.picture.lanes[0].queued);
    stage.note(format!("B is started again and pulls the {waiting} events that wait"));
    gate.send_replace(events);
    let live = stage.until(|now| now.lanes[0].state == "live").await?;
    let drained = (live == Came::Yes).then(|| stage.elapsed().saturating_sub(back.1));
    let all =
        |now: &Picture| now.lanes.iter().all(|lane| lane.applied >= events && lane.queued == 0 && lane.state == "live");
    let came = if live == Came::Yes { stage.until(all).await? } else { live };
    match came {
        Came::Yes => stage.note("all is applied; the nodes are stopped, their stores read"),
        Came::Stalled => stage.note("nothing moves any more; the nodes are stopped, their stores read"),
    }
    stage.curtain().await?;
    let outage = report::Outage {
        seconds: rounded(back.1.saturating_sub(killed.1)),
        drained_after_seconds: drained.map(rounded),
        c_before: Span::default(),
        c_during: Span::default(),
    };
    judge(&stage, outage, began..killed.0, killed.0..back.0).await
}

fn expect(came: Came, what: &str) -> Result<(), Error> {
    match came {
        Came::Yes => Ok(()),
        Came::Stalled => Err(Error::Failed(format!("waited in vain until {what}"))),
    }
}

/// Compares the ledgers with the stores. The nodes have stopped.
async fn judge(
    stage: &Stage<'_>,
    mut outage: report::Outage,
    before: Range<i64>,
    during: Range<i64>,
) -> Result<Report, Error> {
    let mut peers = Vec::new();
    for (peer, lane) in stage.peers.iter().zip(&stage.picture.lanes) {
        let (ledger, log) = (peer.ledger.letters(), log(stage.nodes, peer.name).await?);
        if peer.name == Name::C {
            outage.c_before = Span::of(&ledger, &log, &before);
            outage.c_during = Span::of(&ledger, &log, &during);
        }
        peers.push(report::Peer {
            name: lane.name.clone(),
            server_id: lane.server_id.clone(),
            verdict: Verdict::of(&ledger, &log),
            deepest_queue: lane.depths.deepest(),
        });
    }
    let ok = peers.iter().all(|peer| peer.verdict.is_clean());
    Ok(Report { ok, seconds: rounded(stage.elapsed()), peers, outage, kept: None })
}

/// Everything a node applied, in the order in which it did.
async fn log(nodes: &Nodes, name: Name) -> Result<Vec<Arrival>, Error> {
    let failed = |cause: crate::error::Error| format!("cannot read the store of {name}: {cause}");
    let store = Store::open(&nodes.dir(name)).await.map_err(failed)?;
    let (mut found, mut cursor) = (Vec::new(), 0);
    loop {
        let page = store.inbound_page(cursor, PAGE_ROWS, PAGE_BYTES).await.map_err(failed)?;
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        // No letter has the serial 0.
        found.extend(
            page.iter()
                .map(|row| Arrival { serial: load::serial(&row.body).unwrap_or(0), received_at: row.received_at.0 }),
        );
    }
    store.close().await;
    Ok(found)
}

/// Seconds to the tenth.
fn rounded(span: Duration) -> f64 {
    (span.as_secs_f64() * 10.0).round() / 10.0
}
