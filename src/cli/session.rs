//! `pillarbox session`: where a user is signed in. A session is a token of the
//! user's.

use super::{
    Failure,
    connect::{call, connect},
    output::{Out, Table, ago, moment, plain},
    user::name,
    view,
};
use crate::{
    proto::pillarbox::admin::v1::{ListSessionsRequest, RevokeSessionsRequest},
    types::Millis,
};
use clap::builder::NonEmptyStringValueParser;
use std::path::Path;

pub const EXAMPLES: &str = "Examples:
  pillarbox session list alice
  pillarbox session revoke alice 5f3a9c01
  pillarbox token new user:alice";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the sessions of a user, expired ones too
    #[command(after_help = "Examples:
  pillarbox session list alice
  pillarbox session list alice --json | jq -r .user_agent")]
    List {
        #[arg(value_name = "USER", value_parser = name)]
        user: String,
    },
    /// Sign a user out at once: of one session, or of all
    #[command(after_help = "Examples:
  One device:
    pillarbox session revoke alice 5f3a9c01
  All of them:
    pillarbox session revoke alice")]
    Revoke {
        #[arg(value_name = "USER", value_parser = name)]
        user: String,
        /// What `session list` calls it; left out: all of them
        #[arg(value_name = "SESSION", value_parser = NonEmptyStringValueParser::new())]
        session: Option<String>,
    },
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let mut node = connect(data_dir).await?;
    match command {
        Command::List { user } => {
            let sessions = call(node.list_sessions(ListSessionsRequest { user })).await?.sessions;
            if out.json() {
                return sessions.iter().try_for_each(|session| out.object(&view::TokenInfo::from(session)));
            }
            let now = Millis::now().0;
            let rows = sessions.iter().map(|session| {
                vec![
                    plain(&session.id).into_owned(),
                    moment(session.created_at),
                    moment(session.expires_at),
                    ago(session.last_used_at, now),
                    plain(&session.user_agent).into_owned(),
                ]
            });
            Table::whole(out, &["SESSION", "CREATED", "EXPIRES", "LAST USED", "USER AGENT"], rows.collect())
        }
        Command::Revoke { user, session } => {
            let id = session.clone().unwrap_or_default();
            let revoked = call(node.revoke_sessions(RevokeSessionsRequest { user: user.clone(), id })).await?.revoked;
            let text = match session {
                Some(id) => format!("session {id} of {user} is revoked"),
                None => format!("all sessions of {user} are revoked: {revoked}"),
            };
            out.either(&view::RevokeSessionsResponse { revoked }, &text)
        }
    }
}
