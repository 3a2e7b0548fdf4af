//! `pillarbox token`: who may call this node.

use super::{
    Failure,
    connect::{call, connect},
    output::{Out, Table, ago, moment, plain},
    view,
};
use crate::{
    proto::pillarbox::admin::v1::{ListTokensRequest, NewTokenRequest, RevokeTokenRequest},
    types::Millis,
};
use std::path::Path;

pub const EXAMPLES: &str = "Examples:
  pillarbox token new service:homeserver
  pillarbox token list
  pillarbox token revoke 5f3a9c01";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it; it is shown this once only
    #[command(after_help = "Examples:
  pillarbox token new service:homeserver
  pillarbox token new user:alice --ttl 30d
  pillarbox token new party:alice-phone --user alice

A principal is party:NAME, user:NAME, gateway:NAME, service:NAME or admin:NAME.
A user that there is not yet is made; its tokens are its device sessions.
With --user a party is that user's: it is told through gateways what waits for the party.")]
    New {
        /// Who calls with it
        #[arg(value_name = "PRINCIPAL")]
        principal: String,
        /// How long it is good for; left out: it does not expire
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        ttl: Option<u64>,
        /// Whose a party is
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// List tokens, without the tokens themselves
    #[command(after_help = "Examples:
  pillarbox token list
  pillarbox token list --json | jq -r .principal")]
    List,
    /// Make a token worthless at once
    #[command(after_help = "Examples:
  pillarbox token revoke 5f3a9c01")]
    Revoke {
        /// What `token list` calls it
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// "30d" in seconds, 1 at least.
fn seconds(text: &str) -> Result<u64, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 12h or 30d"))?;
    match time.as_secs() {
        0 => Err("must be a second or more; leave it out for a token that does not expire".into()),
        seconds => Ok(seconds),
    }
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let mut node = connect(data_dir).await?;
    match command {
        Command::New { principal, ttl, user } => {
            let answer = call(node.new_token(NewTokenRequest {
                principal,
                ttl: ttl.unwrap_or(0),
                user: user.unwrap_or_default(),
            }))
            .await?;
            out.either(&view::NewTokenResponse { token: &answer.token, id: &answer.id }, &answer.token)
        }
        Command::List => {
            let tokens = call(node.list_tokens(ListTokensRequest {})).await?.tokens;
            if out.json() {
                return tokens.iter().try_for_each(|token| out.object(&view::TokenInfo::from(token)));
            }
            let now = Millis::now().0;
            let rows = tokens.iter().map(|token| {
                vec![
                    plain(&token.id).into_owned(),
                    plain(&token.principal).into_owned(),
                    moment(token.created_at),
                    moment(token.expires_at),
                    ago(token.last_used_at, now),
                ]
            });
            Table::whole(out, &["ID", "PRINCIPAL", "CREATED", "EXPIRES", "LAST USED"], rows.collect())
        }
        Command::Revoke { id } => {
            call(node.revoke_token(RevokeTokenRequest { id: id.clone() })).await?;
            out.either(&view::RevokeTokenResponse {}, &format!("token {id} is revoked"))
        }
    }
}
