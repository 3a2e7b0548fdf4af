//! The nodes that a bench is about: those it starts, or one that runs.

use super::{
    Error,
    caller::{Caller, Place},
    usage::cpu,
};
use crate::{
    admin::client::{self, Client},
    demo::process::{Name, Nodes, Ready},
    proto::pillarbox::admin::v1::{AddPeerRequest, NewTokenRequest},
    types::ServerId,
};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Response, Status};

const CALL: Duration = Duration::from_secs(20);

/// A running node, and the token of a service behind it.
#[derive(Clone)]
pub struct Node {
    pub id: ServerId,
    pub place: Place,
    pub token: String,
    /// Only of one that was started here.
    pub pid: Option<u32>,
}

impl Node {
    /// A connection of its own.
    pub async fn caller(&self) -> Result<Caller, Error> {
        self.place.caller(&self.token).await
    }

    /// Seconds on a core so far, where that can be seen.
    pub fn cpu(&self) -> Option<f64> {
        cpu(self.pid?).ok()
    }
}

/// A token of a node that was started here.
pub async fn token(nodes: &Nodes, name: Name, principal: &str) -> Result<String, Error> {
    let request = NewTokenRequest { principal: principal.to_owned(), ..NewTokenRequest::default() };
    Ok(answered(operator(nodes, name).await?.new_token(request)).await?.token)
}

async fn operator(nodes: &Nodes, name: Name) -> Result<Client, Error> {
    let socket = nodes.dir(name).join("admin.sock");
    let connected = client::connect(&socket).await;
    Ok(connected.map_err(|cause| format!("cannot connect to {}: {cause}", socket.display()))?)
}

/// Starts the first node and `peers` more, each a peer of the first.
pub async fn start(nodes: &mut Nodes, peers: u16, settings: &[(&str, &str)]) -> Result<(Node, Vec<Node>), Error> {
    let ready = nodes.start_with(Name::A, 0, settings).await?;
    let (mut operator, first) = open(nodes, Name::A, &ready).await?;
    let mut others = Vec::new();
    for at in 1..=peers {
        let name = Name::nth(at);
        let other = nodes.start_with(name, 0, settings).await?;
        let (mut there, node) = open(nodes, name, &other).await?;
        add_peer(&mut there, &ready).await?;
        add_peer(&mut operator, &other).await?;
        others.push(node);
    }
    Ok((first, others))
}

async fn open(nodes: &Nodes, name: Name, ready: &Ready) -> Result<(Client, Node), Error> {
    let token = token(nodes, name, "service:bench").await?;
    let place = Place::local(ready.server_id.port(), ready.key)?;
    let node = Node { id: ready.server_id.clone(), place, token, pid: nodes.pid(name) };
    Ok((operator(nodes, name).await?, node))
}

/// As `pillarbox peer add ID --key KEY` does.
async fn add_peer(operator: &mut Client, other: &Ready) -> Result<(), Error> {
    let key = Bytes::copy_from_slice(other.key.as_bytes());
    let request = AddPeerRequest { server_id: other.server_id.to_string(), key, ..AddPeerRequest::default() };
    answered(operator.add_peer(request)).await.map(drop)
}

async fn answered<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    match timeout(CALL, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(format!("no answer within {} s", CALL.as_secs()).into()),
    }
}
