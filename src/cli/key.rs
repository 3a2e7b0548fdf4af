//! `pillarbox key`.

use super::{
    Failure,
    connect::{call, connect},
    output::{Out, pairs, plain},
    view,
};
use crate::proto::pillarbox::admin::v1::ShowKeyRequest;
use std::path::Path;

pub const EXAMPLES: &str = "Examples:
  pillarbox key show
  pillarbox key show --json";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the server id and the public key that others pin with `peer add --key`
    #[command(after_help = EXAMPLES)]
    Show,
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let Command::Show = command;
    let mut node = connect(data_dir).await?;
    let answer = call(node.show_key(ShowKeyRequest {})).await?;
    let shown = view::ShowKeyResponse::from(&answer);
    if out.json() {
        return out.object(&shown);
    }
    pairs(out, &[("server id", plain(shown.server_id).into()), ("key", shown.key.clone())])
}
