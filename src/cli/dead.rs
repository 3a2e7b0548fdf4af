//! `pillarbox dead`: what could not be delivered or applied.

use super::{
    Failure,
    connect::{call, connect, next},
    output::{Out, Table, moment, pairs, plain},
    view,
};
use crate::{
    proto::pillarbox::admin::v1::{DeadLetter, ListDeadRequest, ResendDeadRequest, ShowDeadRequest},
    types::ServerId,
};
use std::{num::NonZeroU64, path::Path};

pub const EXAMPLES: &str = "Examples:
  pillarbox dead list
  pillarbox dead show 3
  pillarbox dead resend 3";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List dead letters, the newest first
    #[command(after_help = "Examples:
  pillarbox dead list
  pillarbox dead list b.example:7443 --limit 20
  pillarbox dead list --json | jq 'select(.reason == \"expired\") | .id'")]
    List {
        /// Only those of this peer
        #[arg(value_name = "PEER")]
        peer: Option<ServerId>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<NonZeroU64>,
    },
    /// Show one dead letter
    #[command(after_help = "Examples:
  pillarbox dead show 3
  pillarbox dead show 3 --json")]
    Show {
        #[arg(value_name = "ID")]
        id: NonZeroU64,
    },
    /// Try again: one of ours goes to the end of its queue, an inbound one is applied again
    #[command(after_help = "Examples:
  pillarbox dead resend 3
  All that expired:
    pillarbox dead list --json | jq 'select(.reason == \"expired\") | .id' | xargs -n1 pillarbox dead resend")]
    Resend {
        #[arg(value_name = "ID")]
        id: NonZeroU64,
    },
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let mut node = connect(data_dir).await?;
    match command {
        Command::List { peer, limit } => {
            let server_id = peer.map(|peer| peer.to_string()).unwrap_or_default();
            let request = ListDeadRequest { server_id, limit: limit.map_or(0, NonZeroU64::get) };
            let mut letters = call(node.list_dead(request)).await?;
            let columns = [("ID", 8), ("PEER", 24), ("WAY", 8), ("REASON", 12), ("DIED", 24), ("EVENT", 0)];
            let table = if out.json() { None } else { Some(Table::streaming(out, &columns)?) };
            while let Some(letter) = next(&mut letters).await? {
                let Some(table) = &table else {
                    out.object(&view::DeadLetter::from(&letter))?;
                    continue;
                };
                let cells = [
                    letter.id.to_string(),
                    plain(&letter.server_id).into(),
                    plain(&letter.direction).into(),
                    plain(&letter.reason).into(),
                    moment(letter.died_at),
                    body(&letter),
                ];
                table.row(out, &cells)?;
            }
            Ok(())
        }
        Command::Show { id } => {
            let letter = call(node.show_dead(ShowDeadRequest { id: id.get() })).await?;
            if out.json() {
                return out.object(&view::DeadLetter::from(&letter));
            }
            let number = match (letter.number, letter.last_number) {
                (0, _) => "none".to_owned(),
                (first, last) if last > first => format!("{first} to {last}"),
                (number, _) => number.to_string(),
            };
            pairs(
                out,
                &[
                    ("id", letter.id.to_string()),
                    ("peer", plain(&letter.server_id).into()),
                    ("way", plain(&letter.direction).into()),
                    ("reason", plain(&letter.reason).into()),
                    ("died", moment(letter.died_at)),
                    ("number", number),
                    ("bytes", letter.size.to_string()),
                    ("event", body(&letter)),
                ],
            )
        }
        Command::Resend { id } => {
            let number = call(node.resend_dead(ResendDeadRequest { id: id.get() })).await?.number;
            out.either(
                &view::ResendDeadResponse { number },
                &format!("dead letter {id} lives again as number {number}"),
            )
        }
    }
}

fn body(letter: &DeadLetter) -> String {
    match letter.body.is_empty() {
        true => "-".to_owned(),
        false => view::read_event(&letter.body).text(),
    }
}
