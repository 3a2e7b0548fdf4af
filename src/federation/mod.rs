//! Out to other homeservers: the postbox (floor 4).
//!
//! [`Federation`] is the handle: store events for a server, see and change its
//! peers. Events are rows before anyone hears of them; a peer's driver then does
//! what its delivery machine says.

mod config;
mod courier;
pub mod delivery;
mod driver;
mod gate;
mod inbox;
mod janitor;
mod keys;
mod lists;
mod mailroom;
mod news;
mod operator;
mod parcels;
pub mod pattern;
mod peers;
mod registry;
mod remote;
mod rename;
mod save;
mod service;
pub mod stream;
pub mod window;
mod wire;

pub use config::Config;
pub use driver::View;
pub use inbox::EVENT_MAX;
pub use mailroom::ReceivedStream;
pub use news::{Changes, Heard, Listener};
pub use parcels::{Letter, Letters, Outcome, PARCEL_MAX, Speaks, Taken, Takers, Then, shown};
pub use peers::{Health, Peer};
pub use registry::AddPeer;

use crate::{
    error::Error,
    identity::node_key::NodeKey,
    metrics::Metrics,
    net::dial::Dialer,
    proto::protocol::sync::v1::{Event, event},
    store::{Change, ListTotal, Op, Store},
    types::{Mark, Millis, PeerId, ServerId},
};
use bytes::Bytes;
use gate::Admission;
use inbox::Row;
use keys::Keys;
use lists::{Counting, Rows};
use prost::Message;
use registry::Registry;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Attempts that peers which do not answer may have under way together.
const FAILING_ATTEMPTS: usize = 16;
/// Events in one `send`.
pub const SEND_MAX: usize = 1024;

/// Prepares the node to be reached under these ids.
pub type BeforeRename = Box<dyn Fn(&[ServerId]) -> Result<(), Error> + Send + Sync>;

/// What the node hands in.
pub struct Parts {
    pub config: Config,
    pub store: Store,
    pub key: NodeKey,
    pub dialer: Dialer,
    pub metrics: Metrics,
    pub own_id: ServerId,
    /// Ids this node had before and still answers to.
    pub former_ids: Vec<ServerId>,
    /// Called with all ids the node will have, before it takes a new one.
    pub before_rename: BeforeRename,
    /// Takes the letters that come in parcels.
    pub letters: Takers,
    /// Hears of all other events, if anybody does.
    pub listener: Option<Box<dyn Listener>>,
    /// Ends every task.
    pub stop: CancellationToken,
}

/// The handle; clones are the same federation.
#[derive(Clone)]
pub struct Federation(Arc<Inner>);

struct Inner {
    config: Config,
    store: Store,
    key: NodeKey,
    dialer: Dialer,
    metrics: Metrics,
    own: RwLock<OwnIds>,
    registry: Registry,
    keys: Keys,
    failing_attempts: Semaphore,
    /// For batches of all peers that are being applied or wait for it.
    batches: Arc<Semaphore>,
    counting: Counting,
    before_rename: BeforeRename,
    letters: Takers,
    listener: Option<Box<dyn Listener>>,
    /// Held while rows become dead letters and their makers are told.
    burials: Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct OwnIds {
    id: ServerId,
    former: Vec<ServerId>,
}

impl Federation {
    /// Reads the peers and starts their drivers. Ends when `stop` is cancelled;
    /// then wait for [`Federation::ended`].
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        let Parts { config, store, key, dialer, metrics, own_id, former_ids, before_rename, letters, listener, stop } =
            parts;
        let (registry, mut owner) = Registry::new();
        let tasks = TaskTracker::new();
        let batches = Arc::new(Semaphore::new(usize::try_from(config.courier_batches).unwrap_or(usize::MAX >> 3)));
        let inner = Arc::new(Inner {
            batches,
            config,
            store,
            key,
            dialer,
            metrics,
            own: RwLock::new(OwnIds { id: own_id, former: former_ids }),
            registry,
            keys: Keys::new(tasks.clone(), stop.clone()),
            failing_attempts: Semaphore::new(FAILING_ATTEMPTS),
            counting: Counting::default(),
            before_rename,
            letters,
            listener,
            burials: Mutex::new(()),
            stop,
            tasks,
        });
        owner.load(&inner).await?;
        inner.tasks.spawn(owner.run(inner.clone()));
        inner.tasks.spawn(janitor::run(inner.clone()));
        Ok(Self(inner))
    }

    /// Returns when every task has ended, after `stop`.
    pub async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub fn own_id(&self) -> ServerId {
        self.0.own_id()
    }

    /// Stores 1 to [`SEND_MAX`] events for one server, all or none; when this
    /// returns they are on disk. Returns the number of the first.
    ///
    /// `Precondition`: the server is no peer and may not become one. `Exhausted`:
    /// its queue, or the disk, is full.
    pub async fn send(&self, to: &ServerId, events: Vec<Bytes>) -> Result<u64, Error> {
        check_events(&events)?;
        let peer = self.peer_for(to).await?;
        let stored_at = Millis::now();
        let mut op = Op::default();
        for body in events {
            let effect = inbox::effect_of_sending(peer.row_id(), &body);
            let id = getrandom::u64().map_err(Error::internal)?;
            op.push(Change::Enqueue { peer: peer.row_id(), id, stored_at, body });
            op.changes.extend(effect);
        }
        Ok(self.enqueue(op).await?.numbers.start)
    }

    /// The peer that something is to be sent to; it becomes one if the rules
    /// allow.
    async fn peer_for(&self, to: &ServerId) -> Result<Arc<Peer>, Error> {
        let inner = &self.0;
        if inner.is_own_id(to.as_str()) {
            return Err(Error::invalid(format!("to: {to} is this server itself")));
        }
        match inner.admission(to) {
            Admission::Known(peer) => Ok(peer),
            Admission::Open => inner.registry.discover(to.clone(), None).await,
            Admission::Closed if inner.is_denied(to) => {
                Err(Error::Precondition(format!("{to} is refused by federation.deny")))
            }
            Admission::Closed => Err(Error::Precondition(format!(
                "{to} is not a peer: add it with `pillarbox peer add {to}`, or let it in by federation.allow"
            ))),
        }
    }
}

impl Inner {
    fn own_id(&self) -> ServerId {
        self.with_own_id(Clone::clone)
    }

    /// No rename falls between what is looked at meanwhile.
    fn with_own_id<T>(&self, look: impl FnOnce(&ServerId) -> T) -> T {
        look(&self.own.read().unwrap_or_else(PoisonError::into_inner).id)
    }

    fn former_ids(&self) -> Vec<ServerId> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).former.clone()
    }

    /// What rows of a peer may add to the lists. Before a list counts as full,
    /// its rows are counted.
    async fn room(&self, peer: &Peer, mark: Mark, rows: &[Row]) -> Rows {
        let room = peer.lists().room();
        match inbox::overfills(mark, rows, room) && self.count_lists(Instant::now()).await {
            true => peer.lists().room(),
            false => room,
        }
    }

    /// Counts what every peer has made of the lists, unless that was done a
    /// moment ago; returns whether it was.
    async fn count_lists(&self, now: Instant) -> bool {
        if !self.counting.is_due(now) {
            return false;
        }
        let peers: Vec<_> = self.registry.all().into_iter().map(|peer| (peer.lists().added(), peer)).collect();
        match self.store.list_totals().await {
            Ok(totals) => {
                for (before, peer) in peers {
                    peer.lists().counted(rows_of(&totals, peer.row_id()), before);
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the guild and invite lists cannot be counted");
                false
            }
        }
    }

    fn is_own_id(&self, id: &str) -> bool {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        own.id.as_str() == id || own.former.iter().any(|former| former.as_str() == id)
    }
}

fn rows_of(totals: &HashMap<PeerId, ListTotal>, peer: PeerId) -> Rows {
    let total = totals.get(&peer).copied().unwrap_or_default();
    Rows { guilds: total.guilds, invites: total.invites, invite_bytes: total.invite_bytes }
}

fn check_events(events: &[Bytes]) -> Result<(), Error> {
    if events.is_empty() || events.len() > SEND_MAX {
        return Err(Error::invalid(format!("events: {}; a call takes 1 to {SEND_MAX}", events.len())));
    }
    for (at, event) in events.iter().enumerate() {
        if event.is_empty() {
            return Err(Error::invalid(format!("events[{at}]: it is empty; an event has one of its kinds")));
        }
        if event.len() > EVENT_MAX {
            return Err(Error::invalid(format!("events[{at}]: {} bytes; the limit is {EVENT_MAX}", event.len())));
        }
        // A peer that cannot read one event may refuse all that travel with it.
        let read = Event::decode(event.clone())
            .map_err(|error| Error::invalid(format!("events[{at}]: not an Event: {error}")))?;
        if matches!(read.kind, Some(event::Kind::Parcel(_))) {
            return Err(Error::invalid(format!("events[{at}]: it is a parcel; only the node itself sends those")));
        }
    }
    Ok(())
}
