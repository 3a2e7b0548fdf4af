//! What the operator may see and do: peers, queues, dead letters.
//!
//! Each act is one op or a few small ones; nothing here decides about delivery.

use super::{
    Federation,
    driver::{Command, View},
    inbox::{self, Refused, Row},
    janitor,
    lists::Rows,
    parcels,
    peers::Peer,
    registry::AddPeer,
};
use crate::{
    error::Error,
    proto::pillarbox::federation::v1::Parcel,
    store::{Change, DeadRow, Direction, Op, OutRow},
    types::{Mark, Millis, PeerId, ServerId},
};
use std::{sync::Arc, time::Duration};

/// The driver answers between two steps; longer than this it is stuck on the disk.
const PATIENCE: Duration = Duration::from_secs(10);

impl Federation {
    /// All peers, by id.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.0.registry.all()
    }

    /// `NotFound` names the way to add one.
    pub fn peer(&self, id: &ServerId) -> Result<Arc<Peer>, Error> {
        self.0.registry.find(id).ok_or_else(|| {
            Error::NotFound(format!("{id} is not a peer; `pillarbox peer list` shows them, `peer add {id}` adds it"))
        })
    }

    /// The id of a peer, of one that was removed too.
    pub async fn name_of(&self, peer: PeerId) -> Result<ServerId, Error> {
        if let Some(peer) = self.0.registry.by_row(peer) {
            return Ok(peer.server_id());
        }
        let row = self.0.store.peer(peer).await?;
        row.map(|row| row.server_id).ok_or_else(|| Error::internal("a row names a peer that never was"))
    }

    /// The row of a server that is, or was, a peer.
    pub async fn row_of(&self, id: &ServerId) -> Result<PeerId, Error> {
        if let Some(peer) = self.0.registry.find(id) {
            return Ok(peer.row_id());
        }
        let rows = self.0.store.peers().await?;
        let found = rows.into_iter().find(|row| row.server_id == *id);
        found.map(|row| row.id).ok_or_else(|| Error::NotFound(format!("{id} is not and never was a peer")))
    }

    pub async fn view(&self, peer: &Peer) -> Result<View, Error> {
        peer.ask(PATIENCE, Command::View).await
    }

    pub async fn add_peer(&self, add: AddPeer) -> Result<Arc<Peer>, Error> {
        let inner = &self.0;
        let id = &add.server_id;
        if inner.is_own_id(id.as_str()) {
            return Err(Error::invalid(format!("{id} is this server itself")));
        }
        if inner.is_denied(id) {
            return Err(Error::Precondition(format!("{id} is refused by federation.deny: take it out first")));
        }
        let leads_home = match &add.address {
            Some(address) => is_loopback(&address.host),
            None => is_loopback(id.host()),
        };
        if add.plaintext && !leads_home {
            return Err(Error::invalid("plaintext: only towards loopback (localhost, 127.0.0.1, [::1])"));
        }
        inner.registry.add(add).await
    }

    /// Pulls now; with `push`, ends Queued.
    pub async fn retry(&self, peer: &Peer, push: bool) -> Result<(), Error> {
        peer.tell(Command::RetryNow { push }).await
    }

    pub async fn hold(&self, peer: &Peer, held: bool) -> Result<Arc<Peer>, Error> {
        self.0.registry.hold(peer.row_id(), held).await
    }

    /// Forgets a peer; returns how many rows became dead letters.
    pub async fn remove_peer(&self, peer: &Peer) -> Result<u64, Error> {
        let removed = self.0.registry.remove(peer.row_id()).await?;
        janitor::bury_all(&self.0, removed.row_id(), "peer_removed").await
    }

    /// A page of a queue, oldest first.
    pub async fn queue(&self, peer: &Peer, after: u64) -> Result<Vec<OutRow>, Error> {
        self.0.store.outbox_page(peer.row_id(), after, 1000, 1 << 20).await
    }

    pub async fn queued_row(&self, number: u64) -> Result<OutRow, Error> {
        let row = self.0.store.outbox_row(number).await?;
        row.ok_or_else(|| Error::NotFound(format!("no event waits under number {number}")))
    }

    /// Makes dead letters of one row (or of all): how many. Goes on without a
    /// caller that goes away, and the driver looks again however far it came.
    pub async fn drop_queued(&self, peer: &Arc<Peer>, number: Option<u64>) -> Result<u64, Error> {
        let (from, through) = number.map_or((0, u64::MAX >> 1), |number| (number, number));
        let (inner, whose) = (self.0.clone(), peer.clone());
        let dropped = self.0.tasks.spawn(async move {
            let buried = janitor::bury(&inner, whose.row_id(), from, through, "dropped").await;
            whose.tell(Command::LookAgain).await?;
            buried
        });
        match (dropped.await.map_err(Error::internal)??, number) {
            (0, Some(number)) => {
                Err(Error::NotFound(format!("no event waits for {} under number {number}", peer.server_id())))
            }
            (rows, _) => Ok(rows),
        }
    }

    /// A page of dead letters, newest first; `before`: those older than this one.
    pub async fn dead_letters(&self, peer: Option<PeerId>, before: Option<i64>) -> Result<Vec<DeadRow>, Error> {
        self.0.store.dead_page(peer, before, 500).await
    }

    pub async fn dead_letter(&self, id: i64) -> Result<DeadRow, Error> {
        let row = self.0.store.dead(id).await?;
        row.ok_or_else(|| Error::NotFound(format!("there is no dead letter {id}")))
    }

    /// Sends one of ours again as a new row at the end of its queue, or applies
    /// an inbound one again; the letter is gone then. Returns the number of the
    /// row, or the cursor of the event.
    pub async fn resend_dead(&self, id: i64) -> Result<u64, Error> {
        let letter = self.dead_letter(id).await?.letter;
        if letter.body.is_empty() {
            return Err(Error::Precondition(format!("dead letter {id} is a hole: what was in it is not known")));
        }
        match letter.direction {
            Direction::Out => {
                if parcels::read(&letter.body).is_some()
                    && let Some(server) = self.server_of(letter.peer)
                {
                    self.parcel_peer(&server).await?;
                }
                let row = getrandom::u64().map_err(Error::internal)?;
                let stored_at = Millis::now();
                let enqueue = Change::Enqueue { peer: letter.peer, id: row, stored_at, body: letter.body };
                let op = Op::from(Change::DropDead { id }).with(enqueue);
                Ok(self.enqueue(op).await?.numbers.start)
            }
            Direction::In => {
                let rows = [Row { position: None, body: letter.body }];
                // A parcel without its place in the stream is buried before it would be opened.
                let mut open = |parcel: Parcel| Err(Refused { reason: "resent".into(), row_id: parcel.id });
                let peer = self.0.registry.by_row(letter.peer);
                let room = match &peer {
                    Some(peer) => self.0.room(peer, Mark::default(), &rows).await,
                    None => Rows::UNBOUNDED,
                };
                let now = Millis::now();
                let mut plan = inbox::plan(letter.peer, Mark::default(), &rows, room, now, &mut open);
                if let Some(reason) = plan.dead.first() {
                    return Err(Error::Precondition(format!("dead letter {id} still cannot be applied: {reason}")));
                }
                let server = self.name_of(letter.peer).await?;
                self.0.tell_news(letter.peer, &server, &mut plan, now).await?;
                let mut op = Op::from(Change::DropDead { id });
                op.changes.extend(plan.op.changes);
                let cursor = self.0.store.submit(op).await?.cursors.start;
                if let Some(peer) = peer {
                    peer.lists().add(plan.added);
                }
                Ok(cursor)
            }
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.to_canonical().is_loopback())
}
