//! Who the peers are: the map everybody reads, and the way to change it.
//!
//! Changes are taken by one task, the [`Owner`], one after the other, so two
//! calls of one new server make one row. Never touches a row itself.

mod owner;
mod rename;

pub(super) use owner::Owner;

use super::{delivery::Kind, peers::Peer, remote::Introduction};
use crate::{
    error::Error,
    store::PeerAddress,
    types::{PeerId, PublicKey, ServerId},
};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::{mpsc, oneshot};

const ASKS_MAX: usize = 1024;

/// What the operator says of a peer.
#[derive(Debug, Clone)]
pub struct AddPeer {
    pub server_id: ServerId,
    pub key: Option<PublicKey>,
    pub address: Option<PeerAddress>,
    pub plaintext: bool,
}

enum Edit {
    Add(AddPeer),
    /// A verified call or an event for a server that `allow` lets in.
    Discover {
        server_id: ServerId,
        key: Option<PublicKey>,
    },
    /// `Key` told; an operator's key is never replaced.
    Learn {
        peer: PeerId,
        told: Introduction,
    },
    /// What the driver found the peer to be.
    Kind {
        peer: PeerId,
        kind: Kind,
    },
    Hold {
        peer: PeerId,
        held: bool,
    },
    Remove {
        peer: PeerId,
    },
    /// The peer will go by another id, once a token names it.
    Expect {
        peer: PeerId,
        next_id: ServerId,
    },
    /// A token of the peer named the id that was expected of it.
    TakeOver {
        peer: PeerId,
    },
    /// The peer has heard of our rename.
    Told {
        peer: PeerId,
    },
    /// This node goes by another id from now on.
    Renamed {
        new_id: ServerId,
    },
}

struct Ask {
    edit: Edit,
    /// Answered with the peer it is about, if it is about one.
    reply: oneshot::Sender<Result<Option<Arc<Peer>>, Error>>,
}

/// The map everybody reads, and the way to change it.
pub struct Registry {
    map: RwLock<Map>,
    asks: mpsc::Sender<Ask>,
}

#[derive(Default)]
struct Map {
    by_id: HashMap<ServerId, Arc<Peer>>,
    by_row: HashMap<PeerId, Arc<Peer>>,
    /// Ids that peers had before.
    former: HashMap<ServerId, Arc<Peer>>,
    /// Ids that peers said they will have.
    expected: HashMap<ServerId, Arc<Peer>>,
}

impl Registry {
    pub fn new() -> (Self, Owner) {
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        (Self { map: RwLock::default(), asks }, Owner::new(receiver))
    }

    /// The peer that goes, or went, by this id.
    pub fn find(&self, id: &ServerId) -> Option<Arc<Peer>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.by_id.get(id).or_else(|| map.former.get(id)).cloned()
    }

    /// The peer that goes by this id now.
    fn named(&self, id: &ServerId) -> Option<Arc<Peer>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }

    /// The peer that said it will go by this id.
    pub(super) fn expected(&self, id: &ServerId) -> Option<Arc<Peer>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).expected.get(id).cloned()
    }

    /// The ids a peer had before.
    pub fn former_ids(&self, peer: &Peer) -> Vec<ServerId> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<_> =
            map.former.iter().filter(|(_, known)| known.row_id() == peer.row_id()).map(|(id, _)| id.clone()).collect();
        drop(map);
        ids.sort();
        ids
    }

    pub fn by_row(&self, row: PeerId) -> Option<Arc<Peer>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).by_row.get(&row).cloned()
    }

    /// All peers, by id.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut peers: Vec<_> = map.by_id.iter().map(|(id, peer)| (id.clone(), peer.clone())).collect();
        drop(map);
        peers.sort_by(|a, b| a.0.cmp(&b.0));
        peers.into_iter().map(|(_, peer)| peer).collect()
    }

    fn len(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).by_row.len()
    }

    /// Adds a peer, or changes what is known of it. A given key replaces a
    /// learnt one; without one the key that is known stays.
    pub async fn add(&self, add: AddPeer) -> Result<Arc<Peer>, Error> {
        self.ask(Edit::Add(add)).await
    }

    pub(super) async fn discover(&self, server_id: ServerId, key: Option<PublicKey>) -> Result<Arc<Peer>, Error> {
        self.ask(Edit::Discover { server_id, key }).await
    }

    pub(super) async fn learn(&self, peer: PeerId, told: Introduction) -> Result<(), Error> {
        self.ask(Edit::Learn { peer, told }).await.map(drop)
    }

    pub(super) async fn set_kind(&self, peer: PeerId, kind: Kind) -> Result<(), Error> {
        self.ask(Edit::Kind { peer, kind }).await.map(drop)
    }

    pub async fn hold(&self, peer: PeerId, held: bool) -> Result<Arc<Peer>, Error> {
        self.ask(Edit::Hold { peer, held }).await
    }

    /// Ends the peer's driver and takes it off the map. Its rows are still in
    /// the queue.
    pub(super) async fn remove(&self, peer: PeerId) -> Result<Arc<Peer>, Error> {
        self.ask(Edit::Remove { peer }).await
    }

    pub(super) async fn expect(&self, peer: PeerId, next_id: ServerId) -> Result<Arc<Peer>, Error> {
        self.ask(Edit::Expect { peer, next_id }).await
    }

    pub(super) async fn take_over(&self, peer: PeerId) -> Result<Arc<Peer>, Error> {
        self.ask(Edit::TakeOver { peer }).await
    }

    pub(super) async fn told(&self, peer: PeerId) -> Result<(), Error> {
        self.ask(Edit::Told { peer }).await.map(drop)
    }

    /// This node goes by `new_id`; every peer is to be told.
    pub(super) async fn renamed(&self, new_id: ServerId) -> Result<(), Error> {
        self.submit(Edit::Renamed { new_id }).await.map(drop)
    }

    async fn ask(&self, edit: Edit) -> Result<Arc<Peer>, Error> {
        self.submit(edit).await?.ok_or_else(|| Error::NotFound("the peer was removed".into()))
    }

    async fn submit(&self, edit: Edit) -> Result<Option<Arc<Peer>>, Error> {
        let (reply, answer) = oneshot::channel();
        let stopping = || Error::unavailable("the node stops");
        self.asks.send(Ask { edit, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}
