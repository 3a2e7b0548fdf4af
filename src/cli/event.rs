//! `pillarbox event`: send one, or watch what arrives.

use super::{
    Failure,
    connect::{call, connect, next_live},
    output::{Out, Table, moment, plain},
    view,
};
use crate::{
    proto::{
        pillarbox::{admin::v1::TailEventsRequest, postbox::v1::SendRequest},
        protocol::sync::v1::{Event, event},
    },
    types::ServerId,
};
use prost::Message;
use std::path::Path;

pub const EXAMPLES: &str = "Examples:
  pillarbox event send --to b.example:7443 user-added --user 1 --guild 2
  pillarbox event tail";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Send an event to a server; done (exit 0) means it is on disk and will be delivered
    #[command(after_help = "Examples:
  pillarbox event send --to b.example:7443 user-added --user 1 --guild 2
  pillarbox event send --to b.example:7443 user-invited --user 1 --inviter 7 --invite welcome")]
    Send {
        /// The receiving server, "domain:port"
        #[arg(long, value_name = "ID")]
        to: ServerId,
        #[command(subcommand)]
        kind: Kind,
    },
    /// Print the events that other servers sent: all that is kept, then live
    #[command(after_help = "Examples:
  pillarbox event tail
  pillarbox event tail --after 120
  pillarbox event tail --json | jq 'select(.event.user_added_to_guild)'")]
    Tail {
        /// Only what came after this cursor
        #[arg(long, value_name = "CURSOR", default_value_t = 0, hide_default_value = true)]
        after: u64,
    },
}

#[derive(Debug, clap::Subcommand)]
pub enum Kind {
    /// A user came into a guild
    #[command(
        name = "user-added",
        after_help = "Examples:
  pillarbox event send --to b.example:7443 user-added --user 1 --guild 2"
    )]
    Added {
        /// Id of the user
        #[arg(long, value_name = "N")]
        user: u64,
        /// Id of the guild
        #[arg(long, value_name = "N")]
        guild: u64,
    },
    /// A user left a guild, or was made to
    #[command(
        name = "user-removed",
        after_help = "Examples:
  pillarbox event send --to b.example:7443 user-removed --user 1 --guild 2"
    )]
    Removed {
        /// Id of the user
        #[arg(long, value_name = "N")]
        user: u64,
        /// Id of the guild
        #[arg(long, value_name = "N")]
        guild: u64,
    },
    /// A user was invited by another one
    #[command(
        name = "user-invited",
        after_help = "Examples:
  pillarbox event send --to b.example:7443 user-invited --user 1 --inviter 7 --invite welcome"
    )]
    Invited {
        /// Id of the user
        #[arg(long, value_name = "N")]
        user: u64,
        /// Id of the user who invites
        #[arg(long, value_name = "N")]
        inviter: u64,
        /// Id of the invitation
        #[arg(long, value_name = "ID")]
        invite: String,
    },
    /// An invited user said no
    #[command(
        name = "user-rejected",
        after_help = "Examples:
  pillarbox event send --to b.example:7443 user-rejected --user 1 --guild 2 --invite welcome"
    )]
    Rejected {
        /// Id of the user
        #[arg(long, value_name = "N")]
        user: u64,
        /// Id of the guild
        #[arg(long, value_name = "N")]
        guild: u64,
        /// Id of the invitation
        #[arg(long, value_name = "ID")]
        invite: String,
    },
}

impl From<Kind> for event::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Added { user, guild } => {
                Self::UserAddedToGuild(event::UserAddedToGuild { user_id: user, guild_id: guild })
            }
            Kind::Removed { user, guild } => {
                Self::UserRemovedFromGuild(event::UserRemovedFromGuild { user_id: user, guild_id: guild })
            }
            Kind::Invited { user, inviter, invite } => {
                Self::UserInvited(event::UserInvited { user_id: user, inviter_id: inviter, invite_id: invite })
            }
            Kind::Rejected { user, guild, invite } => Self::UserRejectedInvite(event::UserRejectedInvite {
                guild_id: guild,
                user_id: user,
                invite_id: invite,
            }),
        }
    }
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let mut node = connect(data_dir).await?;
    match command {
        Command::Send { to, kind } => {
            let event = Event { kind: Some(kind.into()) };
            let request = SendRequest { to: to.to_string(), events: vec![event.encode_to_vec().into()] };
            let first_number = call(node.send_event(request)).await?.first_number;
            let text = format!("stored for {to} as number {first_number}");
            out.either(&view::SendResponse { first_number }, &text)
        }
        Command::Tail { after } => {
            let mut events = call(node.tail_events(TailEventsRequest { after })).await?;
            let columns = [("CURSOR", 8), ("SENDER", 24), ("RECEIVED", 24), ("EVENT", 0)];
            let table = if out.json() { None } else { Some(Table::streaming(out, &columns)?) };
            let mut cursor = after;
            while let Some(row) = next_live(&mut events).await? {
                cursor = row.cursor;
                let Some(table) = &table else {
                    out.object(&view::Received::from(&row))?;
                    continue;
                };
                let event = view::read_event(&row.event).text();
                table.row(out, &[row.cursor.to_string(), plain(&row.sender).into(), moment(row.received_at), event])?;
            }
            // A tail has no end of its own: whoever relies on it must hear that it stopped.
            Err(Failure::Failed(format!(
                "the node ended the stream; go on with: pillarbox event tail --after {cursor}"
            )))
        }
    }
}
