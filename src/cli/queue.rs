//! `pillarbox queue`: events that wait for a peer.

use super::{
    Failure,
    connect::{call, connect, next},
    output::{Out, Table, moment, pairs, plain},
    peer, view,
};
use crate::{
    proto::pillarbox::admin::v1::{
        DropQueueRequest, HoldQueueRequest, ListQueueRequest, ReleaseQueueRequest, ShowQueueRequest,
    },
    types::ServerId,
};
use std::{num::NonZeroU64, path::Path};

pub const EXAMPLES: &str = "Examples:
  pillarbox queue list b.example:7443
  pillarbox queue show 17
  pillarbox queue drop b.example:7443 17
  pillarbox queue hold b.example:7443";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List waiting events, the oldest first
    #[command(after_help = "Examples:
  pillarbox queue list
  pillarbox queue list b.example:7443 --limit 20
  pillarbox queue list --json | jq .event")]
    List {
        /// Only what waits for this peer
        #[arg(value_name = "PEER")]
        peer: Option<ServerId>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<NonZeroU64>,
    },
    /// Show one waiting event
    #[command(after_help = "Examples:
  pillarbox queue show 17
  pillarbox queue show 17 --json")]
    Show {
        #[arg(value_name = "NUMBER")]
        number: NonZeroU64,
    },
    /// Turn waiting events into dead letters
    #[command(after_help = "Examples:
  One event:
    pillarbox queue drop b.example:7443 17
  All that wait for the peer:
    pillarbox queue drop b.example:7443 --all

Nothing is lost: `pillarbox dead list` shows them, `pillarbox dead resend` sends them after all.")]
    Drop {
        #[arg(value_name = "PEER")]
        peer: ServerId,
        /// The event's number, from `queue list`
        #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all")]
        number: Option<NonZeroU64>,
        /// All events that wait for the peer
        #[arg(long)]
        all: bool,
    },
    /// Hand a peer nothing until released: no Push, and its Pulls find nothing
    #[command(after_help = "Examples:
  pillarbox queue hold b.example:7443

A held queue stays held when the node is started again.")]
    Hold {
        #[arg(value_name = "PEER")]
        peer: ServerId,
    },
    /// Let a held queue go on
    #[command(after_help = "Examples:
  pillarbox queue release b.example:7443")]
    Release {
        #[arg(value_name = "PEER")]
        peer: ServerId,
    },
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let mut node = connect(data_dir).await?;
    match command {
        Command::List { peer, limit } => {
            let server_id = peer.map(|peer| peer.to_string()).unwrap_or_default();
            let request = ListQueueRequest { server_id, limit: limit.map_or(0, NonZeroU64::get) };
            let mut rows = call(node.list_queue(request)).await?;
            let columns = [("NUMBER", 8), ("PEER", 24), ("STORED", 24), ("EVENT", 0)];
            let table = if out.json() { None } else { Some(Table::streaming(out, &columns)?) };
            while let Some(row) = next(&mut rows).await? {
                let Some(table) = &table else {
                    out.object(&view::QueuedEvent::from(&row))?;
                    continue;
                };
                let event = view::read_event(&row.event).text();
                let cells = [row.number.to_string(), plain(&row.server_id).into(), moment(row.stored_at), event];
                table.row(out, &cells)?;
            }
            Ok(())
        }
        Command::Show { number } => {
            let row = call(node.show_queue(ShowQueueRequest { number: number.get() })).await?;
            if out.json() {
                return out.object(&view::QueuedEvent::from(&row));
            }
            let event = view::read_event(&row.event);
            pairs(
                out,
                &[
                    ("number", row.number.to_string()),
                    ("peer", plain(&row.server_id).into()),
                    ("stored", moment(row.stored_at)),
                    ("bytes", row.event.len().to_string()),
                    ("event", event.text()),
                ],
            )
        }
        Command::Drop { peer, number, all: _ } => {
            let request = DropQueueRequest { server_id: peer.to_string(), number: number.map_or(0, NonZeroU64::get) };
            let dead = call(node.drop_queue(request)).await?.dead;
            out.either(&view::Dead { dead }, &format!("{dead} events became dead letters"))
        }
        Command::Hold { peer } => {
            let request = HoldQueueRequest { server_id: peer.to_string() };
            peer::detail(out, &call(node.hold_queue(request)).await?)
        }
        Command::Release { peer } => {
            let request = ReleaseQueueRequest { server_id: peer.to_string() };
            peer::detail(out, &call(node.release_queue(request)).await?)
        }
    }
}
