//! The stage: looks at the running nodes, keeps the picture, waits for what
//! the story waits for.
//!
//! Every number comes from the nodes: the sender's queue and state from the
//! sender, what is applied from the receiver. Decides nothing of the story.

use super::{
    Error,
    load::Ledger,
    picture::{Lane, Note, Picture},
    process::{Name, Nodes, Ready},
    screen::Screen,
};
use crate::{
    admin::client::{self, Client},
    proto::pillarbox::admin::v1::{AddPeerRequest, ListPeersRequest, PeerDetail, ShowPeerRequest},
    types::{Millis, ServerId},
};
use bytes::Bytes;
use std::{collections::HashMap, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::{Response, Status};

const LOOK: Duration = Duration::from_millis(100);
const CALL: Duration = Duration::from_secs(10);
/// Longer than any pause that the nodes take by themselves.
const STALL: Duration = Duration::from_secs(90);

/// Whether what was waited for came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    Yes,
    /// Nothing moved for [`STALL`].
    Stalled,
}

/// A receiver of the load.
pub struct Peer {
    pub name: Name,
    pub server_id: ServerId,
    pub ledger: Ledger,
    /// None while it is down.
    node: Option<Client>,
}

pub struct Stage<'a> {
    pub nodes: &'a mut Nodes,
    pub picture: Picture,
    pub peers: [Peer; 2],
    /// What sends; a failure ends the demo.
    pub senders: JoinSet<Result<(), String>>,
    pub sender: Client,
    sender_id: ServerId,
    screen: &'a mut Screen,
    started: Instant,
}

impl<'a> Stage<'a> {
    /// Starts the three nodes and makes them peers by their keys.
    pub async fn set(nodes: &'a mut Nodes, screen: &'a mut Screen, events: u64) -> Result<Self, Error> {
        let started = Instant::now();
        let a = nodes.start(Name::A, 0).await?;
        let b = nodes.start(Name::B, 0).await?;
        let c = nodes.start(Name::C, 0).await?;
        let mut sender = connect(nodes, Name::A).await?;
        let mut peers = Vec::new();
        for (name, ready) in [(Name::B, &b), (Name::C, &c)] {
            let mut node = connect(nodes, name).await?;
            add_peer(&mut sender, ready).await?;
            add_peer(&mut node, &a).await?;
            peers.push(Peer { name, server_id: ready.server_id.clone(), ledger: Ledger::default(), node: Some(node) });
        }
        let peers: [Peer; 2] = peers.try_into().map_err(|_| "a peer is missing".to_owned())?;
        let lanes = peers.each_ref().map(|peer| Lane::new(peer.name.to_string(), peer.server_id.to_string()));
        let (elapsed, sender_id) = (started.elapsed(), a.server_id);
        let picture = Picture { elapsed, sender: sender_id.to_string(), events, lanes, notes: Vec::new() };
        Ok(Self { nodes, picture, peers, senders: JoinSet::new(), sender, sender_id, screen, started })
    }

    /// Tells that something happened.
    pub fn note(&mut self, text: impl Into<String>) {
        self.picture.elapsed = self.started.elapsed();
        self.picture.notes.push(Note { at: self.picture.elapsed, text: text.into() });
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// B has no process.
    pub async fn kill_b(&mut self) -> Result<(), Error> {
        self.peers[0].node = None;
        self.picture.lanes[0].up = false;
        Ok(self.nodes.kill(Name::B).await?)
    }

    /// B runs again on its data, at its address.
    pub async fn start_b(&mut self) -> Result<(), Error> {
        self.nodes.start(Name::B, self.peers[0].server_id.port()).await?;
        self.peers[0].node = Some(connect(self.nodes, Name::B).await?);
        self.picture.lanes[0].up = true;
        Ok(())
    }

    /// The last picture; then no node runs any more.
    pub async fn curtain(&mut self) -> Result<(), Error> {
        self.screen.show(&self.picture)?;
        for peer in &mut self.peers {
            peer.node = None;
        }
        Ok(self.nodes.stop().await?)
    }

    /// Looks and draws until `reached`. Told as well: each change of what the
    /// sender thinks of a peer.
    pub async fn until(&mut self, reached: impl Fn(&Picture) -> bool) -> Result<Came, Error> {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut moved = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(ended) = self.senders.join_next() => {
                    ended.map_err(|cause| cause.to_string())??;
                    continue;
                }
            }
            self.nodes.check()?;
            let before = self.moving();
            self.look().await?;
            self.screen.show(&self.picture)?;
            if reached(&self.picture) {
                return Ok(Came::Yes);
            }
            if self.moving() != before {
                moved = Instant::now();
            } else if moved.elapsed() > STALL {
                return Ok(Came::Stalled);
            }
        }
    }

    /// What changes as long as anything goes on.
    fn moving(&self) -> [(u64, u64, u64, String); 2] {
        self.picture.lanes.each_ref().map(|lane| (lane.acknowledged, lane.applied, lane.queued, lane.state.clone()))
    }

    async fn look(&mut self) -> Result<(), Error> {
        let told = call(Name::A, self.sender.list_peers(ListPeersRequest {})).await?.peers;
        let mut told: HashMap<String, PeerDetail> =
            told.into_iter().filter_map(|detail| Some((detail.peer.as_ref()?.server_id.clone(), detail))).collect();
        for at in 0..self.peers.len() {
            let id = self.peers[at].server_id.as_str();
            let detail = told.remove(id).ok_or_else(|| format!("A does not know {id} any more"))?;
            let mark = self.mark(at).await?;
            self.picture.elapsed = self.started.elapsed();
            self.note_lane(at, detail, mark);
        }
        Ok(())
    }

    /// How far a receiver has applied A's stream; `None` while it is down.
    async fn mark(&mut self, at: usize) -> Result<Option<u64>, Error> {
        let Peer { name, node, .. } = &mut self.peers[at];
        let Some(node) = node else { return Ok(None) };
        let request = ShowPeerRequest { server_id: self.sender_id.to_string() };
        Ok(Some(call(*name, node.show_peer(request)).await?.inbound_mark))
    }

    fn note_lane(&mut self, at: usize, detail: PeerDetail, mark: Option<u64>) {
        let elapsed = self.picture.elapsed;
        let wait = u64::try_from(detail.next_attempt_at.saturating_sub(Millis::now().0)).ok().filter(|wait| *wait > 0);
        let peer = detail.peer.unwrap_or_default();
        let lane = &mut self.picture.lanes[at];
        let (acknowledged, reached) = self.peers[at].ledger.count(mark.unwrap_or(0));
        lane.acknowledged = acknowledged;
        lane.applied = if mark.is_some() { reached } else { lane.applied };
        lane.queued = peer.queued;
        lane.next_attempt = wait.map(Duration::from_millis);
        lane.rate.note(elapsed, lane.applied);
        lane.depths.note(elapsed, lane.queued);
        let before = std::mem::replace(&mut lane.state, peer.state);
        if before == lane.state || before.is_empty() {
            return;
        }
        let name = &lane.name;
        let text = match lane.state.as_str() {
            "retrying" => format!("A cannot reach {name}: it sends the same event again, later and later"),
            "queued" => format!("A keeps the queue of {name} until {name} pulls it"),
            _ => format!("A pushes to {name} again"),
        };
        self.note(text);
    }
}

impl Lane {
    fn new(name: String, server_id: String) -> Self {
        Self {
            name,
            server_id,
            up: true,
            state: String::new(),
            next_attempt: None,
            acknowledged: 0,
            applied: 0,
            queued: 0,
            rate: super::gauge::Rate::default(),
            depths: super::gauge::Depths::default(),
        }
    }
}

async fn connect(nodes: &Nodes, name: Name) -> Result<Client, Error> {
    let socket = nodes.dir(name).join("admin.sock");
    Ok(client::connect(&socket).await.map_err(|cause| format!("cannot connect to {}: {cause}", socket.display()))?)
}

/// As `pillarbox peer add ID --key KEY` does.
async fn add_peer(node: &mut Client, other: &Ready) -> Result<(), Error> {
    let key = Bytes::copy_from_slice(other.key.as_bytes());
    let request = AddPeerRequest { server_id: other.server_id.to_string(), key, ..AddPeerRequest::default() };
    match timeout(CALL, node.add_peer(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(format!("cannot add {}: {}", other.server_id, status.message()).into()),
        Err(_) => Err(format!("cannot add {}: no answer within {} s", other.server_id, CALL.as_secs()).into()),
    }
}

async fn call<T>(name: Name, pending: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    match timeout(CALL, pending).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(format!("node {name}: {}", status.message()).into()),
        Err(_) => Err(format!("node {name} gave no answer within {} s", CALL.as_secs()).into()),
    }
}
