//! `pillarbox peer`: the servers this node federates with.

use super::{
    Failure,
    connect::{Admin, call, connect},
    output::{Out, Table, ago, base64, moment, pairs, plain},
    view,
};
use crate::{
    proto::pillarbox::{
        admin::v1::{
            AddPeerRequest, ListPeersRequest, PeerDetail, RemovePeerRequest, RetryPeerRequest, ShowPeerRequest,
        },
        postbox::v1::Peer,
    },
    types::{Millis, PublicKey, ServerId},
};
use std::path::Path;

pub const EXAMPLES: &str = "Examples:
  pillarbox peer add b.example:7443
  pillarbox peer list
  pillarbox peer show b.example:7443
  pillarbox peer retry b.example:7443";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Federate with a server
    #[command(after_help = "Examples:
  A server with a public certificate; its key is learnt from it:
    pillarbox peer add b.example:7443
  A self-signed one; the key is what `pillarbox key show` prints there:
    pillarbox peer add b.example:7443 --key 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
  One that is reached elsewhere than its name says:
    pillarbox peer add b.example:7443 --address 10.0.0.7:7443
  One on this machine without TLS:
    pillarbox peer add localhost:7444 --plaintext

Adding a peer again changes what is given and keeps its queue.")]
    Add(Box<Add>),
    /// List all peers
    #[command(after_help = "Examples:
  pillarbox peer list
  pillarbox peer list --json | jq -r 'select(.peer.state != \"live\") | .peer.server_id'")]
    List,
    /// Show all that is known of a peer
    #[command(after_help = "Examples:
  pillarbox peer show b.example:7443
  pillarbox peer show b.example:7443 --json")]
    Show {
        #[arg(value_name = "ID")]
        id: ServerId,
    },
    /// Pull a peer now, without waiting for the next time
    #[command(after_help = "Examples:
  pillarbox peer retry b.example:7443
  The peer will not pull its queue; push it on the operator's word:
    pillarbox peer retry b.example:7443 --push")]
    Retry {
        #[arg(value_name = "ID")]
        id: ServerId,
        /// Also end the state "queued": push again without having been pulled
        #[arg(long)]
        push: bool,
    },
    /// Forget a peer; what waits for it becomes dead letters
    #[command(after_help = "Examples:
  pillarbox peer remove b.example:7443")]
    Remove {
        #[arg(value_name = "ID")]
        id: ServerId,
    },
}

#[derive(Debug, clap::Args)]
pub struct Add {
    /// The server's id, "domain:port"
    #[arg(value_name = "ID")]
    id: ServerId,
    /// Its Ed25519 public key; never replaced by a learnt one
    #[arg(long, value_name = "BASE64")]
    key: Option<PublicKey>,
    /// Where to connect instead of the id
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<ServerId>,
    /// gRPC without TLS; towards loopback only
    #[arg(long)]
    plaintext: bool,
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    let mut node = connect(data_dir).await?;
    match command {
        Command::Add(add) => {
            let Add { id, key, address, plaintext } = *add;
            let request = AddPeerRequest {
                server_id: id.to_string(),
                key: key.map(|key| key.as_bytes().to_vec().into()).unwrap_or_default(),
                address: address.map(|address| address.to_string()).unwrap_or_default(),
                plaintext,
            };
            detail(out, &call(node.add_peer(request)).await?)
        }
        Command::List => list(&mut node, out).await,
        Command::Show { id } => {
            let request = ShowPeerRequest { server_id: id.to_string() };
            detail(out, &call(node.show_peer(request)).await?)
        }
        Command::Retry { id, push } => {
            let request = RetryPeerRequest { server_id: id.to_string(), push };
            detail(out, &call(node.retry_peer(request)).await?)
        }
        Command::Remove { id } => {
            let answer = call(node.remove_peer(RemovePeerRequest { server_id: id.to_string() })).await?;
            let text = format!("{id} is removed; {} waiting events became dead letters", answer.dead);
            out.either(&view::Dead { dead: answer.dead }, &text)
        }
    }
}

async fn list(node: &mut Admin, out: &mut Out) -> Result<(), Failure> {
    let peers = call(node.list_peers(ListPeersRequest {})).await?.peers;
    if out.json() {
        return peers.iter().try_for_each(|peer| out.object(&view::PeerDetail::from(peer)));
    }
    let now = Millis::now().0;
    let rows = peers.iter().map(|detail| {
        let peer = detail.peer.as_ref().unwrap_or(&NOTHING);
        vec![
            plain(&peer.server_id).into_owned(),
            state(detail, peer),
            peer.queued.to_string(),
            ago(peer.outbound_ok_at, now),
            ago(peer.inbound_ok_at, now),
            plain(&detail.kind).into_owned(),
            plain(&detail.key_origin).into_owned(),
            plain(&peer.outbound_error).into_owned(),
        ]
    });
    let header = ["PEER", "STATE", "QUEUED", "REACHED", "HEARD", "KIND", "KEY", "LAST ERROR"];
    Table::whole(out, &header, rows.collect())
}

/// Stands in for a part that the node left out.
static NOTHING: Peer = Peer {
    server_id: String::new(),
    state: String::new(),
    queued: 0,
    queued_bytes: 0,
    outbound_ok_at: 0,
    inbound_ok_at: 0,
    outbound_error: String::new(),
};

fn state(detail: &PeerDetail, peer: &Peer) -> String {
    let held = if detail.held { " (held)" } else { "" };
    format!("{}{held}", plain(&peer.state))
}

/// One peer, all of it. Also what commands that change a peer answer.
pub fn detail(out: &mut Out, detail: &PeerDetail) -> Result<(), Failure> {
    if out.json() {
        return out.object(&view::PeerDetail::from(detail));
    }
    let peer = detail.peer.as_ref().unwrap_or(&NOTHING);
    let now = Millis::now().0;
    let time = |millis: i64| match millis {
        0 => moment(0),
        _ => format!("{} ({})", moment(millis), ago(millis, now)),
    };
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { plain(text).into_owned() };
    let planned = |millis: i64| if millis == 0 { "none planned".to_owned() } else { time(millis) };
    let key = if detail.key.is_empty() { "unknown".to_owned() } else { base64(&detail.key) };
    let former: Vec<_> = detail.former_ids.iter().map(|id| plain(id)).collect();
    pairs(
        out,
        &[
            ("peer", text(&peer.server_id)),
            ("former ids", text(&former.join(", "))),
            ("will be", text(&detail.next_id)),
            ("knows us as", text(&detail.known_as)),
            ("state", state(detail, peer)),
            ("queued", format!("{} events, {} bytes", peer.queued, peer.queued_bytes)),
            ("last reached", time(peer.outbound_ok_at)),
            ("last heard", time(peer.inbound_ok_at)),
            ("last error", text(&peer.outbound_error)),
            ("next attempt", planned(detail.next_attempt_at)),
            ("next pull", planned(detail.next_pull_at)),
            ("key", key),
            ("key origin", text(&detail.key_origin)),
            ("address", text(&detail.address)),
            ("plaintext", if detail.plaintext { "yes" } else { "no" }.to_owned()),
            ("tokens", text(&detail.tokens)),
            ("kind", text(&detail.kind)),
            ("transport", text(&detail.transport)),
            ("lane", text(&detail.lane)),
            ("parcels", if detail.parcels { "yes" } else { "no" }.to_owned()),
            ("outbound", format!("epoch {}, applied there up to {}", detail.epoch, detail.settled)),
            ("inbound", format!("epoch {}, applied here up to {}", detail.inbound_epoch, detail.inbound_mark)),
        ],
    )
}
