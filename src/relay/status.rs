//! What became of a message: acknowledgements of its recipients, and the
//! answer to who asks.
//!
//! States only rise and the first final one stays; the rows see to that. That
//! something was handed to a subscriber is written in passing, and told from
//! memory until then.

use super::{
    Relay,
    routing::{message_id, read_message_id},
};
use crate::{
    error::Error,
    identity::principal::Principal,
    proto::mpc::router::v1::{MessageDeliveryStatus, MpcMessage},
    store::{
        Change, Op,
        relay::{Change as Row, DeliveryRow, DeliveryState, MessageRow, OpenDelivery},
    },
    types::{Millis, PartyRef, PeerId},
};
use std::collections::HashMap;

/// Bodies in one answer to `GetPendingMessages`, unless a single one is larger.
const PENDING_BYTES: usize = 1 << 20;

/// A call of `AcknowledgeMessage`.
#[derive(Debug)]
pub struct Acknowledgement {
    pub message_id: String,
    /// A party of this node.
    pub party: String,
    /// `None`: whatever session it was in.
    pub session: Option<String>,
    pub failed: bool,
    pub error: String,
}

/// A message and how it fared with each recipient.
#[derive(Debug)]
pub struct Status {
    pub session_id: String,
    pub deliveries: Vec<Delivery>,
}

#[derive(Debug)]
pub struct Delivery {
    /// Qualified when it belongs to another server.
    pub party: String,
    pub status: &'static str,
    pub delivered_at: Option<Millis>,
    pub acknowledged_at: Option<Millis>,
    pub retries: u32,
    /// Why it failed; empty otherwise.
    pub error: String,
}

impl From<Delivery> for MessageDeliveryStatus {
    fn from(delivery: Delivery) -> Self {
        let millis = |at: Option<Millis>| at.map_or(0, |at| at.0);
        Self {
            party_id: delivery.party,
            status: delivery.status.into(),
            delivered_at: millis(delivery.delivered_at),
            acknowledged_at: millis(delivery.acknowledged_at),
            retry_count: i32::try_from(delivery.retries).unwrap_or(i32::MAX),
            error: delivery.error,
        }
    }
}

/// A delivery that ends, and whom that concerns.
#[derive(Debug)]
pub(super) struct Finish {
    pub(super) seq: u64,
    /// The number of its message, and whose that is.
    pub(super) message: u64,
    pub(super) origin: PeerId,
    /// The recipient, of this node.
    pub(super) party: String,
    pub(super) session: String,
}

/// What was handed to a reader and is not written yet.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub at: Millis,
    pub retries: u32,
}

/// By the number of the delivery.
pub type Passing = HashMap<u64, Sent>;

impl Relay {
    /// The messages that go by this id here, and are in that session. An id of
    /// this node is one message; two other servers may give one id to two.
    async fn find(&self, id: &str, session: Option<&str>) -> Result<Vec<MessageRow>, Error> {
        let mut found = self.0.store.remote_messages(id).await?;
        if let Some((number, tag)) = read_message_id(id) {
            found
                .extend(self.0.store.message(number).await?.filter(|row| row.origin == PeerId::SELF && row.tag == tag));
        }
        found.retain(|row| session.is_none_or(|session| row.session == session));
        Ok(found)
    }

    /// A recipient is done with a message, or cannot take it. Returns a text
    /// for the caller; saying it again is no error, and changes nothing.
    pub async fn acknowledge(&self, said: Acknowledgement) -> Result<String, Error> {
        let Acknowledgement { message_id, party, session, failed, error } = said;
        let me = PartyRef { peer: PeerId::SELF, name: party };
        let (mut before, mut known) = (None, false);
        for message in self.find(&message_id, session.as_deref()).await? {
            known = true;
            let Some(row) = self.0.store.delivery(message.number, &me).await? else { continue };
            if row.state.is_final() {
                before = before.or(Some(row));
                continue;
            }
            let error = if failed { error } else { String::new() };
            let (seq, session) = (row.seq, message.session);
            let finish = Finish { seq, message: message.number, origin: message.origin, party: me.name, session };
            self.finish(finish, failed, error).await?;
            return Ok(if failed { "taken as failed" } else { "acknowledged" }.into());
        }
        match before {
            Some(row) => Ok(format!("was {} already", row.state.name())),
            None if known => Err(Error::Denied(format!("message_id: {} is no recipient of {message_id:?}", me.name))),
            None => Err(Error::NotFound(format!(
                "message_id: no message {message_id:?} for {} is kept here{}",
                me.name,
                session.map_or_else(String::new, |session| format!(" in session {session:?}"))
            ))),
        }
    }

    /// Gives a delivery its final state. A caller that goes away does not take
    /// it back.
    pub(super) async fn finish(&self, what: Finish, failed: bool, error: String) -> Result<(), Error> {
        let relay = self.clone();
        let committed = self.0.tasks.spawn(async move {
            let Finish { seq, message, .. } = what;
            let mut op = Op::new();
            if let Some(Sent { at, retries }) = relay.passing().get(&seq).copied() {
                op.push(Change::Relay(Row::Sent { seq, at, retries }));
            }
            op.push(Change::Relay(Row::Finish { seq, message, failed, at: Millis::now(), error }));
            relay.0.store.submit(op).await?;
            relay.finished(&what.party, &what.session, seq, what.origin);
            Ok(())
        });
        committed.await.map_err(Error::internal)?
    }

    /// A delivery has its final state on disk: its reader lets go of it, its
    /// origin is told.
    pub(super) fn finished(&self, party: &str, session: &str, seq: u64, origin: PeerId) {
        self.passing().remove(&seq);
        self.0.watchers.changed(session);
        self.let_go(party, session, seq);
        self.0.freeing.notify_one();
        if origin != PeerId::SELF {
            self.0.reporting.notify_one();
        }
    }

    /// How a message fares: for its sender, its recipients, and services.
    pub async fn status(&self, caller: &Principal, id: &str, session: Option<&str>) -> Result<Status, Error> {
        let found = self.find(id, session).await?;
        let known = !found.is_empty();
        for message in found {
            let rows = self.0.store.deliveries(message.number).await?;
            if !self.may_see(caller, &message, &rows) {
                continue;
            }
            let mut deliveries = Vec::with_capacity(rows.len());
            for row in rows {
                deliveries.push(self.describe(row).await?);
            }
            return Ok(Status { session_id: message.session, deliveries });
        }
        match known {
            true => Err(Error::Denied(format!("message_id: {caller} is neither sender nor recipient of {id:?}"))),
            false => Err(Error::NotFound(format!("message_id: no message {id:?} is kept here"))),
        }
    }

    fn may_see(&self, caller: &Principal, message: &MessageRow, rows: &[DeliveryRow]) -> bool {
        let is = |own: &str, peer: PeerId, name: &str| peer == PeerId::SELF && self.is_party(own, name);
        match caller {
            Principal::Service(_) => true,
            Principal::Party(own) => {
                is(own, message.origin, &message.sender)
                    || rows.iter().any(|row| is(own, row.party.peer, &row.party.name))
            }
            _ => false,
        }
    }

    async fn describe(&self, row: DeliveryRow) -> Result<Delivery, Error> {
        let passing = self.passing().get(&row.seq).copied();
        let delivered_at = row.delivered_at.or(passing.map(|sent| sent.at));
        let state = match row.state {
            DeliveryState::Pending if passing.is_some() => DeliveryState::Delivered,
            state => state,
        };
        Ok(Delivery {
            party: self.show(row.party.peer, &row.party.name).await?,
            status: state.name(),
            delivered_at,
            acknowledged_at: row.finished_at.filter(|_| state == DeliveryState::Acknowledged),
            retries: row.retries.max(passing.map_or(0, |sent| sent.retries)),
            error: row.error,
        })
    }

    /// What a party has not acknowledged, accepted here after a moment (ms),
    /// oldest first: at most 1 MiB, or one message.
    pub async fn pending(&self, party: &str, session: Option<&str>, after: i64) -> Result<Vec<MpcMessage>, Error> {
        let rows = self.0.store.pending_page(party, session, after, Millis::now(), PENDING_BYTES).await?;
        let now = Millis::now();
        for row in &rows {
            self.note_sent(row.seq, &row.message.session, Sent { at: now, retries: row.retries });
        }
        let mut messages = Vec::with_capacity(rows.len());
        for row in rows {
            messages.push(self.message(row).await?);
        }
        Ok(messages)
    }

    /// A message as a recipient of this node sees it.
    pub(super) async fn message(&self, row: OpenDelivery) -> Result<MpcMessage, Error> {
        Ok(MpcMessage {
            message_id: row
                .message
                .remote_id
                .clone()
                .unwrap_or_else(|| message_id(row.message.number, row.message.tag)),
            from_party: self.show(row.message.origin, &row.message.sender).await?,
            session_id: row.message.session,
            is_broadcast: row.message.broadcast,
            round_number: row.message.round,
            message_type: row.message.kind,
            payload: row.body,
            created_at: row.created_at.0,
        })
    }

    pub(super) fn note_sent(&self, seq: u64, session: &str, sent: Sent) {
        let mut passing = self.passing();
        passing.entry(seq).and_modify(|before| before.retries = before.retries.max(sent.retries)).or_insert(sent);
        if passing.len() >= super::PASSING_MAX {
            self.0.full.notify_one();
        }
        drop(passing);
        self.0.writing.notify_one();
        self.0.watchers.changed(session);
    }
}
