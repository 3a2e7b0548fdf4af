//! The task that owns the rows of peers, and their drivers.
//!
//! A row is never deleted: what was applied of a peer's stream must be known
//! when it is added again. What the store refuses is not believed.

use super::{AddPeer, Ask, Edit, Map};
use crate::{
    error::Error,
    federation::{
        Inner,
        delivery::{Delivery, Kind, Saved},
        driver::{Command, Driver},
        lists::Rows,
        peers::{COMMANDS_MAX, Peer, Transport},
        remote::Introduction,
        rows_of,
        save::Saver,
    },
    store::{Change, KeyOrigin, Op, PeerKey, PeerKind, PeerOrigin, PeerRow, QueueTotal, StreamOut},
    types::{Mark, Millis, PeerId, PublicKey, ServerId, unix_micros},
};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Start-up Pulls are spread by this much a peer, up to a Pull interval.
const FIRST_PULL_SPREAD: Duration = Duration::from_millis(20);

pub struct Owner {
    asks: mpsc::Receiver<Ask>,
    pub(super) rows: HashMap<PeerId, Arc<PeerRow>>,
    running: HashMap<PeerId, (CancellationToken, JoinHandle<()>)>,
}

impl Owner {
    pub(super) fn new(asks: mpsc::Receiver<Ask>) -> Self {
        Self { asks, rows: HashMap::new(), running: HashMap::new() }
    }

    /// Reads the peers and starts their drivers.
    pub(in crate::federation) async fn load(&mut self, inner: &Arc<Inner>) -> Result<(), Error> {
        let store = &inner.store;
        let out: HashMap<_, _> = store.streams_out().await?.into_iter().collect();
        let applied: HashMap<_, _> = store.streams_in().await?.into_iter().collect();
        let queues: HashMap<_, _> = store.outbox_totals().await?.into_iter().map(|total| (total.peer, total)).collect();
        let lists = store.list_totals().await?;
        let rows = store.peers().await?;
        let spread =
            (FIRST_PULL_SPREAD * u32::try_from(rows.len()).unwrap_or(u32::MAX)).min(inner.config.pull_interval);
        for row in rows {
            let (id, row) = (row.id, Arc::new(row));
            self.rows.insert(id, row.clone());
            if row.removed || inner.is_denied(&row.server_id) {
                continue;
            }
            let stream = out.get(&id).copied().unwrap_or_default();
            let applied = applied.get(&id).copied().unwrap_or_default();
            let first_pull = spread.mul_f64(f64::from(random()) / f64::from(u32::MAX));
            let peer = self.start(inner, row, stream, applied, queues.get(&id).copied(), first_pull);
            peer.lists().counted(rows_of(&lists, id), Rows::default());
        }
        for (peer, former) in store.peer_former_ids().await? {
            let mut map = inner.registry.map.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(peer) = map.by_row.get(&peer).cloned().filter(|_| !map.by_id.contains_key(&former)) {
                map.former.insert(former, peer);
            }
        }
        Ok(())
    }

    pub(in crate::federation) async fn run(mut self, inner: Arc<Inner>) {
        while let Some(Some(ask)) = inner.stop.run_until_cancelled(self.asks.recv()).await {
            let answer = match ask.edit {
                Edit::Renamed { new_id } => self.renamed(&inner, new_id).await.map(|()| None),
                edit => self.edit(&inner, edit).await.map(Some),
            };
            let _ = ask.reply.send(answer);
        }
        for (stop, driver) in self.running.into_values() {
            stop.cancel();
            let _ = driver.await;
        }
    }

    async fn edit(&mut self, inner: &Arc<Inner>, edit: Edit) -> Result<Arc<Peer>, Error> {
        match edit {
            Edit::Add(add) => self.add(inner, add).await,
            Edit::Discover { server_id, key } => self.discover(inner, server_id, key).await,
            Edit::Learn { peer, told: Introduction { transport, kind, parcels, chat, key, .. } } => {
                let found = self.known(inner, peer)?;
                let was = found.row();
                let mut row = was.clone();
                row.transport = transport;
                row.kind = kind.into();
                row.parcels = parcels;
                row.chat = chat;
                if row.key.is_none_or(|known| known.origin == KeyOrigin::Learnt && known.key != key) {
                    if row.key.is_some() {
                        tracing::warn!(peer = %row.server_id, %key, "the peer has a new key");
                    }
                    row.key = Some(PeerKey { key, origin: KeyOrigin::Learnt });
                }
                self.put(inner, &found, was, row).await?;
                // A busy driver learns it from the next answer anyway.
                let _ = found.command(Command::Learnt(kind));
                Ok(found)
            }
            Edit::Kind { peer, kind } => {
                let found = self.known(inner, peer)?;
                let was = found.row();
                // One that is no pillarbox any more takes no parcels.
                let (parcels, chat) = (was.parcels && kind == Kind::Ours, was.chat && kind == Kind::Ours);
                self.put(inner, &found, was.clone(), PeerRow { kind: kind.into(), parcels, chat, ..was }).await?;
                Ok(found)
            }
            Edit::Hold { peer, held } => {
                let found = self.known(inner, peer)?;
                let was = found.row();
                self.put(inner, &found, was.clone(), PeerRow { held, ..was }).await?;
                found.tell(Command::Hold(held)).await?;
                Ok(found)
            }
            Edit::Remove { peer } => self.remove(inner, peer).await,
            Edit::Expect { peer, next_id } => self.expect(inner, peer, next_id).await,
            Edit::TakeOver { peer } => self.take_over(inner, peer).await,
            Edit::Told { peer } => self.told(inner, peer).await,
            Edit::Renamed { .. } => Err(Error::internal("a rename of this node is about no peer")),
        }
    }

    pub(super) fn known(&self, inner: &Inner, peer: PeerId) -> Result<Arc<Peer>, Error> {
        inner.registry.by_row(peer).ok_or_else(|| Error::NotFound("the peer was removed".into()))
    }

    /// Writes the row if it changed. What the store refuses is not believed.
    pub(super) async fn put(&mut self, inner: &Inner, peer: &Peer, was: PeerRow, row: PeerRow) -> Result<(), Error> {
        if row != was {
            inner.store.submit(Change::PutPeer(row.clone().into())).await?;
            let row = Arc::new(row);
            self.rows.insert(row.id, row.clone());
            peer.set_row(row);
        }
        Ok(())
    }

    async fn add(&mut self, inner: &Arc<Inner>, add: AddPeer) -> Result<Arc<Peer>, Error> {
        let given = add.key.map(|key| PeerKey { key, origin: KeyOrigin::Operator });
        if let Some(peer) = inner.registry.named(&add.server_id) {
            let was = peer.row();
            let row = PeerRow {
                origin: PeerOrigin::Operator,
                key: given.or(was.key),
                address: add.address,
                plaintext: add.plaintext,
                transport: Transport::Unknown,
                ..was.clone()
            };
            self.put(inner, &peer, was, row).await?;
            let _ = peer.command(Command::RetryNow { push: false });
            return Ok(peer);
        }
        let AddPeer { server_id, address, plaintext, .. } = add;
        let fresh = PeerRow { address, plaintext, key: given, ..fresh(server_id, PeerOrigin::Operator) };
        self.create(inner, fresh).await
    }

    async fn discover(
        &mut self,
        inner: &Arc<Inner>,
        server_id: ServerId,
        key: Option<PublicKey>,
    ) -> Result<Arc<Peer>, Error> {
        if let Some(peer) = inner.registry.find(&server_id) {
            return Ok(peer);
        }
        let max = inner.config.max_peers;
        if inner.registry.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
            return Err(Error::exhausted(format!(
                "this server has as many peers as it takes (federation.max_peers = {max})"
            )));
        }
        let key = key.map(|key| PeerKey { key, origin: KeyOrigin::Learnt });
        let fresh = PeerRow { key, ..fresh(server_id, PeerOrigin::Learnt) };
        self.create(inner, fresh).await
    }

    /// Makes the row, or takes the one of a peer that was removed once: then
    /// the stream to it begins a new epoch, and how far its own stream was
    /// applied is still known.
    async fn create(&mut self, inner: &Arc<Inner>, mut row: PeerRow) -> Result<Arc<Peer>, Error> {
        let (id, stream, applied, lists) = match self.rows.values().find(|known| known.server_id == row.server_id) {
            Some(known) => {
                let (out, applied) = (inner.store.stream_out(known.id).await?, inner.store.stream_in(known.id).await?);
                // Its part of the lists is still there, too.
                (known.id, out, applied, inner.store.list_totals().await?)
            }
            None => {
                let highest = self.rows.keys().map(|id| id.0).max().unwrap_or(0);
                (PeerId(highest + 1), StreamOut::default(), Mark::default(), HashMap::new())
            }
        };
        row.id = id;
        let epoch = unix_micros().max(stream.epoch + 1);
        let stream = StreamOut { epoch, settled: 0, settled_id: 0, queued: false };
        let op = Op::from(Change::PutPeer(row.clone().into())).with(Change::PutOut { peer: id, stream });
        inner.store.submit(op).await?;
        let row = Arc::new(row);
        self.rows.insert(id, row.clone());
        tracing::info!(peer = %row.server_id, "peer added");
        // A crash while the peer was being removed may have left some of its queue.
        let queue = inner.store.outbox_total(id).await?;
        let peer = self.start(inner, row, stream, applied, queue, Duration::ZERO);
        peer.lists().counted(rows_of(&lists, id), Rows::default());
        Ok(peer)
    }

    fn start(
        &mut self,
        inner: &Arc<Inner>,
        row: Arc<PeerRow>,
        stream: StreamOut,
        applied: Mark,
        queue: Option<QueueTotal>,
        first_pull: Duration,
    ) -> Arc<Peer> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let newest = queue.map_or(0, |queue| queue.newest);
        let settled = Mark { epoch: stream.epoch, number: stream.settled, id: stream.settled_id };
        let saved = Saved { kind: row.kind.into(), settled, newest, queued: stream.queued, held: row.held };
        let seed = u64::from(random()) << 32 | u64::from(random());
        let machine = Delivery::new(inner.config.retry(), seed, saved, Instant::now() + first_pull);
        let waits = queue.map_or((0, 0), |queue| (queue.rows, queue.bytes));
        let peer = Arc::new(Peer::new(row, commands, newest, waits));
        let saver = Saver::new(peer.row_id(), stream);
        let driver = Box::new(Driver::new(inner.clone(), peer.clone(), machine, receiver, saver, applied));
        let stop = inner.stop.child_token();
        let handle = inner.tasks.spawn(driver.run(stop.clone()));
        self.running.insert(peer.row_id(), (stop, handle));
        let mut map = inner.registry.map.write().unwrap_or_else(PoisonError::into_inner);
        // A server that goes by an id now has more right to it than one that went by it.
        map.former.remove(&peer.server_id());
        map.by_id.insert(peer.server_id(), peer.clone());
        map.by_row.insert(peer.row_id(), peer.clone());
        if let Some(next) = peer.row().next_id {
            map.expected.insert(next, peer.clone());
        }
        peer
    }

    async fn remove(&mut self, inner: &Arc<Inner>, id: PeerId) -> Result<Arc<Peer>, Error> {
        let peer = self.known(inner, id)?;
        let was = peer.row();
        self.put(inner, &peer, was.clone(), PeerRow { removed: true, held: false, next_id: None, ..was }).await?;
        {
            let mut map = inner.registry.map.write().unwrap_or_else(PoisonError::into_inner);
            map.by_row.remove(&id);
            let Map { by_id, former, expected, .. } = &mut *map;
            for ids in [by_id, former, expected] {
                ids.retain(|_, known| known.row_id() != id);
            }
        }
        if let Some((stop, driver)) = self.running.remove(&id) {
            stop.cancel();
            let _ = driver.await;
        }
        tracing::info!(peer = %peer.server_id(), "peer removed");
        Ok(peer)
    }
}

/// The row of a server nothing is known of.
fn fresh(server_id: ServerId, origin: PeerOrigin) -> PeerRow {
    PeerRow {
        id: PeerId(0),
        server_id,
        origin,
        address: None,
        plaintext: false,
        key: None,
        kind: PeerKind::Unknown,
        transport: Transport::Unknown,
        parcels: false,
        chat: false,
        known_as: None,
        next_id: None,
        held: false,
        removed: false,
        created_at: Millis::now(),
        outbound_ok_at: None,
        inbound_ok_at: None,
    }
}

/// Spreads; keeps no secret.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
