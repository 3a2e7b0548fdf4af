//! Renames, as the owner of the rows makes them: of a peer, and of this node.

use super::Owner;
use crate::{
    error::Error,
    federation::{
        Inner,
        driver::Command,
        peers::{Peer, Transport},
    },
    store::{Change, Op, PeerRow},
    types::{Millis, PeerId, ServerId},
};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

/// This node answers to an id it had for a year.
const FORMER_KEPT: Duration = Duration::from_secs(365 * 24 * 3600);

impl Owner {
    /// Remembers the id a peer will go by.
    pub(super) async fn expect(&mut self, inner: &Inner, peer: PeerId, next_id: ServerId) -> Result<Arc<Peer>, Error> {
        let found = self.known(inner, peer)?;
        let was = found.row();
        let next = (next_id != was.server_id).then(|| next_id.clone());
        let taken = |other: &Arc<PeerRow>| {
            other.id != peer
                && !other.removed
                && (other.server_id == next_id || other.next_id.as_ref() == Some(&next_id))
        };
        if self.rows.values().any(taken) {
            return Err(Error::Conflict(format!(
                "new_server_id: {next_id} is, or will be, another peer of this server"
            )));
        }
        self.put(inner, &found, was.clone(), PeerRow { next_id: next.clone(), ..was }).await?;
        let mut map = inner.registry.map.write().unwrap_or_else(PoisonError::into_inner);
        map.expected.retain(|_, known| known.row_id() != peer);
        if let Some(next) = next {
            map.expected.insert(next, found.clone());
        }
        Ok(found)
    }

    /// The peer goes by the id that was expected of it: one UPDATE, because
    /// rows name it by its row. An `--address` led to where it was.
    pub(super) async fn take_over(&mut self, inner: &Inner, peer: PeerId) -> Result<Arc<Peer>, Error> {
        let found = self.known(inner, peer)?;
        let was = found.row();
        let Some(new_id) = was.next_id.clone() else { return Ok(found) };
        let row = PeerRow {
            server_id: new_id.clone(),
            next_id: None,
            address: None,
            transport: Transport::Unknown,
            ..was.clone()
        };
        let mut op = Op::new();
        let holder = self.rows.values().find(|other| other.server_id == new_id && other.id != peer).cloned();
        if let Some(gone) = &holder {
            // A peer that was removed once held the name; nobody can be reached under what it gets.
            let name = format!("removed-{}.invalid:1", gone.id.0);
            op.push(Change::RenamePeer { peer: gone.id, new_id: name.parse()? });
        }
        op.push(Change::RenamePeer { peer, new_id: new_id.clone() });
        op.push(Change::PutPeer(row.clone().into()));
        inner.store.submit(op).await?;
        if let Some(gone) = holder
            && let Some(row) = self.rows.get_mut(&gone.id)
        {
            Arc::make_mut(row).server_id = format!("removed-{}.invalid:1", gone.id.0).parse()?;
        }
        let row = Arc::new(row);
        self.rows.insert(peer, row.clone());
        found.set_row(row);
        let mut map = inner.registry.map.write().unwrap_or_else(PoisonError::into_inner);
        map.by_id.remove(&was.server_id);
        map.expected.remove(&new_id);
        map.former.remove(&new_id);
        map.former.insert(was.server_id.clone(), found.clone());
        map.by_id.insert(new_id.clone(), found.clone());
        drop(map);
        tracing::info!(was = %was.server_id, is = %new_id, "a peer has a new id");
        let _ = found.command(Command::Moved);
        Ok(found)
    }

    pub(super) async fn told(&mut self, inner: &Inner, peer: PeerId) -> Result<Arc<Peer>, Error> {
        let found = self.known(inner, peer)?;
        let was = found.row();
        self.put(inner, &found, was.clone(), PeerRow { known_as: None, ..was }).await?;
        Ok(found)
    }

    /// Every peer is to be told by the id it knows this node by, before
    /// anything else is sent to it.
    pub(super) async fn renamed(&mut self, inner: &Inner, new_id: ServerId) -> Result<(), Error> {
        let old = inner.own_id();
        if old == new_id {
            return Ok(());
        }
        let port = inner.store.node().await?.port.unwrap_or_else(|| new_id.port());
        let until = Millis::now().plus(FORMER_KEPT);
        let mut op = Op::from(Change::PutFormerId { server_id: old.clone(), until })
            .with(Change::PutNode { server_id: new_id.clone(), port });
        let mut told: Vec<Arc<PeerRow>> = vec![];
        for row in self.rows.values().filter(|row| !row.removed && row.known_as.is_none()) {
            let row = PeerRow { known_as: Some(old.clone()), ..PeerRow::clone(row) };
            op.push(Change::PutPeer(row.clone().into()));
            told.push(Arc::new(row));
        }
        inner.store.submit(op).await?;
        let mut peers = vec![];
        for row in told {
            self.rows.insert(row.id, row.clone());
            peers.extend(inner.registry.by_row(row.id).map(|peer| (peer, row)));
        }
        // Together: whoever signs with the new id finds that the peer is to be told first.
        inner.set_own_id(new_id, || peers.iter().for_each(|(peer, row)| peer.set_row(row.clone())));
        for (peer, _) in peers {
            let _ = peer.command(Command::RetryNow { push: false });
        }
        Ok(())
    }
}
