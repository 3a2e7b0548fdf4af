//! Parcels on their way out: to whom, and into which queues.
//!
//! Also what every op with rows for queues needs: their room, and the word to
//! the drivers once they are committed.

use super::{PARCEL_MAX, event};
use crate::{
    error::Error,
    federation::{
        Federation, Inner,
        driver::Command,
        peers::{Peer, QueueBounds},
    },
    proto::pillarbox::relay::v1::Letter,
    store::{Change, Done, Op},
    types::{Millis, PeerId, PublicKey, ServerId},
};
use std::{collections::BTreeMap, sync::Arc};

impl Federation {
    /// The row of a server that takes parcels; makes it a peer if the rules
    /// allow. Of a server that is not known to take them it asks `Key`, which
    /// takes 10 s at most and is not done again for a minute.
    ///
    /// `Invalid`: this server itself. `Precondition`: it is no peer and may not
    /// become one, it takes no parcels, or nobody could be asked.
    pub async fn parcel_peer(&self, server: &ServerId) -> Result<PeerId, Error> {
        let inner = &self.0;
        let peer = self.peer_for(server).await?;
        if peer.row().parcels {
            return Ok(peer.row_id());
        }
        let unknown =
            |why: String| Error::Precondition(format!("{server}: it is not known yet whether it takes parcels: {why}"));
        let asked = inner.keys.fetch(&inner.dialer, peer.target(), false, None, &inner.metrics).await;
        let introduction = asked.map_err(|error| unknown(error.to_string()))?;
        if !introduction.parcels {
            return Err(Error::Precondition(format!("{server} takes no parcels: it is no pillarbox, or an older one")));
        }
        inner.note_introduction(&peer, &introduction).await.map_err(|error| unknown(error.text))?;
        Ok(peer.row_id())
    }

    /// Commits `op` together with one parcel for each letter (to whom, its id
    /// at this node, what it says), all or none, and wakes the drivers. Several
    /// for one peer go in their order. A caller that goes away in the middle
    /// does not take it back. Returns what the op became: its numbers first,
    /// then one for each parcel.
    ///
    /// The peers are those that [`Federation::parcel_peer`] gave or that sent a
    /// letter. `Precondition`: one is none any more. `Exhausted`: a queue, or
    /// the disk, is full. `Invalid`: a letter has more than [`PARCEL_MAX`] bytes.
    pub async fn post(&self, mut op: Op, letters: Vec<(PeerId, u64, Letter)>) -> Result<Done, Error> {
        let stored_at = Millis::now();
        for (peer, id, letter) in letters {
            let body = event(id, letter);
            if body.len() > PARCEL_MAX {
                return Err(Error::invalid(format!("a parcel: {} bytes; the limit is {PARCEL_MAX}", body.len())));
            }
            let id = getrandom::u64().map_err(Error::internal)?;
            op.push(Change::Enqueue { peer, id, stored_at, body });
        }
        self.enqueue(op).await
    }

    /// The name of a peer now; `None` when it is none, or was removed.
    pub fn server_of(&self, peer: PeerId) -> Option<ServerId> {
        self.0.registry.by_row(peer).map(|peer| peer.server_id())
    }

    /// The peer that goes, or went, by this id.
    pub fn peer_of(&self, server: &ServerId) -> Option<PeerId> {
        self.0.registry.find(server).map(|peer| peer.row_id())
    }

    /// The key a peer is known by; `None`: it is no peer, or not known yet.
    pub fn key_of(&self, peer: PeerId) -> Option<PublicKey> {
        self.0.registry.by_row(peer)?.row().key.map(|key| key.key)
    }

    /// An id of this node, or one it had and still answers to.
    pub fn is_own_id(&self, id: &ServerId) -> bool {
        self.0.is_own_id(id.as_str())
    }

    /// Takes room for the rows that the op brings into queues, commits it and
    /// wakes the drivers. A caller that goes away in the middle does not take
    /// the op back, so what belongs to it is done without the caller.
    pub(in crate::federation) async fn enqueue(&self, op: Op) -> Result<Done, Error> {
        let inner = self.0.clone();
        let queued = Queued::of(&inner, &op);
        queued.reserve(&inner, &op)?;
        let committed = self.0.tasks.spawn(async move {
            let done = inner.store.submit(op).await.inspect_err(|error| queued.failed(error))?;
            queued.committed(&inner, &done);
            Ok(done)
        });
        committed.await.map_err(Error::internal)?
    }
}

/// What an op brings into the queues of peers.
pub(in crate::federation) struct Queued {
    shares: Vec<Share>,
    /// How many numbers the op takes.
    numbers: u64,
}

struct Share {
    peer: Arc<Peer>,
    rows: u64,
    bytes: u64,
    /// Which of the op's numbers is the last row's.
    last: u64,
}

impl Queued {
    /// Rows for a peer that was removed are not in it: they die when the
    /// janitor finds them.
    pub(in crate::federation) fn of(inner: &Inner, op: &Op) -> Self {
        let mut totals: BTreeMap<PeerId, (u64, u64, u64)> = BTreeMap::new();
        let mut number = 0;
        for change in &op.changes {
            if let Change::Enqueue { peer, body, .. } = change {
                let (rows, bytes, last) = totals.entry(*peer).or_default();
                *rows += 1;
                *bytes += body.len() as u64;
                *last = number;
            }
            number += change.numbers();
        }
        let share = |(peer, (rows, bytes, last))| Some(Share { peer: inner.registry.by_row(peer)?, rows, bytes, last });
        Self { shares: totals.into_iter().filter_map(share).collect(), numbers: number }
    }

    /// Takes room for all of it, or for none.
    fn reserve(&self, inner: &Inner, op: &Op) -> Result<(), Error> {
        let known = |peer: &PeerId| self.shares.iter().any(|share| share.peer.row_id() == *peer);
        if op.changes.iter().any(|change| matches!(change, Change::Enqueue { peer, .. } if !known(peer))) {
            return Err(Error::Precondition("the server is no peer any more: add it first with `peer add`".into()));
        }
        let config = &inner.config;
        let bounds = QueueBounds { events: config.queue_max_events, bytes: config.queue_max_bytes.as_u64() };
        for (at, share) in self.shares.iter().enumerate() {
            if let Err(error) = share.peer.reserve(bounds, share.rows, share.bytes) {
                self.shares[..at].iter().for_each(Share::release);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes room for all of it, whether there is any or not.
    pub(in crate::federation) fn occupy(&self) {
        self.shares.iter().for_each(|share| share.peer.occupy(share.rows, share.bytes));
    }

    pub(in crate::federation) fn committed(&self, inner: &Inner, done: &Done) {
        debug_assert_eq!(
            done.numbers.end - done.numbers.start,
            self.numbers,
            "Change::numbers says what the writer gives"
        );
        for share in &self.shares {
            inner.metrics.events_stored.inc_by(share.rows);
            share.peer.stored(done.numbers.start + share.last);
        }
    }

    pub(in crate::federation) fn failed(&self, error: &Error) {
        // After a failed commit the rows may be there all the same; when there
        // was no room they are not, and who is refused may ask again at once.
        let doubtful = !matches!(error, Error::Exhausted { .. });
        for share in &self.shares {
            share.release();
            if !doubtful {
                continue;
            }
            let _ = share.peer.command(Command::LookAgain);
        }
    }
}

impl Share {
    fn release(&self) {
        self.peer.release(self.rows, self.bytes);
    }
}
