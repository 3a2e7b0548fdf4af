//! `pillarbox server`.

use super::{
    Failure,
    connect::{call, connect},
    output::{Out, plain},
    view,
};
use crate::{
    proto::pillarbox::admin::v1::{RenameServerRequest, RenameServerResponse},
    types::ServerId,
};
use std::path::Path;

pub const EXAMPLES: &str = "Examples:
  Once chat.example:7443 leads to this node (DNS, port):
    pillarbox server rename chat.example:7443
  Which peers have not heard yet (\"knows us as\"):
    pillarbox peer show b.example:7443";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Give the running node another id and tell every peer
    ///
    /// Peers that are away are told once they are back. The node answers to its
    /// former ids for a year. If the id is configured, change it there too.
    #[command(after_help = EXAMPLES)]
    Rename {
        /// The new id; it must lead to this node already
        #[arg(value_name = "DOMAIN:PORT")]
        new_id: ServerId,
    },
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let Command::Rename { new_id } = command;
    let mut node = connect(data_dir).await?;
    let request = RenameServerRequest { new_server_id: new_id.to_string() };
    let answer: RenameServerResponse = call(node.rename_server(request)).await?;
    if out.json() {
        return out.object(&view::RenameServerResponse::from(&answer));
    }
    let former: Vec<_> = answer.former_ids.iter().map(|id| plain(id)).collect();
    let also = if former.is_empty() { String::new() } else { format!(" and answers to {} as well", former.join(", ")) };
    out.line(&format!("this server is {new_id} now{also}; peers still to be told: {}", answer.peers_to_tell))
}
