//! What parcels of other servers change here, and what theirs are told back.
//!
//! A server speaks for its own parties only: whom a message is from follows
//! from who sent the parcel, never from a field of it. Decides from memory;
//! the rows are written in the transaction that moves the postbox's mark.

use super::{
    Relay,
    evidence::{self, Proof, Slot},
    names, news,
    notify::Kind as Notice,
    router::check_id,
    routing::read_message_id,
    service::PAYLOAD_MAX,
};
use crate::{
    error::Error,
    federation::{Letters, Outcome, Taken},
    proto::pillarbox::relay::v1::{Letter, Message, State, States, letter::Kind},
    store::{
        Change, Op,
        relay::{Change as Row, DeliveryState, MESSAGE_BYTES, NewMessage, RemoteState, Unreported},
    },
    types::{Millis, PartyRef, PeerId, ServerId},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{sleep, timeout};

const TEXT_MAX: usize = 1_024;
/// States in one parcel that we send; others may send some more.
const STATES_MAX: usize = 256;
/// States that follow one another closely travel together.
const GATHER: Duration = Duration::from_millis(20);
/// Without a wake: for states whose parcel found no room.
const AGAIN: Duration = Duration::from_secs(30);

impl Letters<Letter> for Relay {
    fn take(&self, peer: PeerId, server: &ServerId, letter: Letter, now: Millis) -> Result<Taken, String> {
        let taken = match letter.kind {
            Some(Kind::Message(message)) => self.take_message(peer, server, message, now),
            Some(Kind::States(states)) => self.take_states(peer, states),
            Some(Kind::Event(event)) => self.foreign_event(peer, server, event, now).map(|foreign| {
                let (relay, session) = (self.clone(), foreign.session);
                Taken::new(foreign.op.changes, move |outcome| match outcome {
                    Outcome::Failed => relay.router().undo_announce(&session, foreign.announced),
                    // After an unknown one the rows tell.
                    Outcome::Committed(_) | Outcome::Unknown => {
                        relay.wake_events(&session, &foreign.kind, foreign.local.as_deref());
                    }
                })
            }),
            None => Err(Error::invalid("an unknown kind of letter")),
        };
        taken.map_err(|error| error.to_string())
    }

    fn returned(&self, peer: PeerId, id: u64, reason: &str, now: Millis) -> Taken {
        // A parcel with a message goes by the message's number.
        let error = shorten(reason);
        tracing::info!(peer = peer.0, reason = error, "another server refused a letter of the router");
        let relay = self.clone();
        let failed = Row::FailRemote { message: id, peer, at: now, error };
        Taken::new(vec![Change::Relay(failed)], move |_| {
            relay.0.freeing.notify_one();
            relay.0.watchers.told(&[id]);
        })
    }
}

impl Relay {
    fn take_message(&self, peer: PeerId, server: &ServerId, message: Message, now: Millis) -> Result<Taken, Error> {
        check(&message, now)?;
        let (slot, proof) = self.foreign_slot(peer, server, &message)?;
        let bytes = message.payload.len() as u64 + MESSAGE_BYTES;
        // Only if somebody is to be told of it.
        let told = self.0.store.push_wanted().then(|| (message.message_id.clone(), message.message_type.clone()));
        let (session, from) = (message.session_id, PartyRef { peer, name: message.from_party });
        let routed = self.router().route_inbound(now, &session, &from, &message.to_parties, bytes)?;
        let mut changes = vec![];
        if routed.joined {
            let (session, party, until) = (session.clone(), from.clone(), routed.until);
            changes.push(Change::Relay(Row::Joined { session, party, until }));
        }
        changes.push(Change::Relay(Row::Message(Box::new(NewMessage {
            number: self.next_number(now),
            origin: peer,
            remote_id: Some(message.message_id),
            tag: 0,
            session: session.clone(),
            sender: from.name.clone(),
            broadcast: message.is_broadcast,
            round: message.round_number,
            kind: message.message_type,
            accepted_at: now,
            expires_at: Millis(message.expires_at).min(now.plus(self.0.config.retention)),
            body: message.payload,
            slot: slot.stored(proof),
        }))));
        changes.extend(routed.recipients.iter().map(|party| Change::Relay(Row::Deliver { party: party.clone() })));
        if let Some((message_id, message_type)) = &told {
            let waiting = news::Message {
                message_id,
                session_id: &session,
                from_party: &names::show(&from.name, Some(server)),
                message_type,
                round_number: message.round_number,
                is_broadcast: message.is_broadcast,
            };
            let parties = routed.recipients.iter().map(|party| &*party.name);
            changes.extend(self.told(parties, |party, user| news::message(peer, waiting, party, user, now)));
        }
        let relay = self.clone();
        Ok(Taken::new(changes, move |outcome| match outcome {
            Outcome::Failed => relay.router().undo(&session, &from, bytes),
            // After an unknown one the rows tell; what is counted too much is right again after a start.
            Outcome::Committed(_) | Outcome::Unknown => {
                if routed.joined && outcome != Outcome::Unknown {
                    relay.router().saved(&session, &from);
                }
                relay.accepted(&session, slot.claim().is_some());
                let parties = || routed.recipients.iter().map(|party| &*party.name);
                relay.wake(&session, parties());
                relay.notify(&session, Notice::Message, parties());
            }
        }))
    }

    /// A message of another server as it stands in the transcript here, and that
    /// server's word for it if it is a broadcast. An older server gives none.
    fn foreign_slot(&self, peer: PeerId, server: &ServerId, message: &Message) -> Result<(Slot, Option<Proof>), Error> {
        let bad = |why: &str| Error::invalid(format!("signature: {why}"));
        let signed = message.signature.as_ref().filter(|_| message.is_broadcast);
        // A letter may have been signed under a name its server had before.
        let name: Option<ServerId> = signed.map(|signed| signed.server.parse()).transpose()?;
        let federation = self.federation()?;
        if name.as_ref().is_some_and(|name| name != server && federation.peer_of(name) != Some(peer)) {
            return Err(bad("it names another server"));
        }
        let slot = Slot {
            session: message.session_id.clone(),
            round: message.round_number,
            kind: message.message_type.clone(),
            sender: names::show(&message.from_party, Some(name.as_ref().unwrap_or(server))),
            message_id: message.message_id.clone(),
            broadcast: message.is_broadcast,
            digest: evidence::digest(&message.payload),
        };
        let Some(signed) = signed else { return Ok((slot, None)) };
        let key = federation.key_of(peer).ok_or_else(|| bad("the key of its server is not known"))?;
        if !evidence::is_signed(&slot, &key, &signed.signature) {
            return Err(bad("it does not verify; the broadcast is refused"));
        }
        let signature = signed.signature[..].try_into().map_err(|_| bad("it has 64 bytes"))?;
        Ok((slot, Some(Proof { key: *key.as_bytes(), signature })))
    }

    /// A server tells of its own parties; what it says of others touches no row.
    fn take_states(&self, peer: PeerId, states: States) -> Result<Taken, Error> {
        let count = states.states.len();
        if count > 4 * STATES_MAX {
            return Err(Error::invalid(format!("states: {count}; the limit is {}", 4 * STATES_MAX)));
        }
        let told: Vec<u64> = match self.0.watchers.is_idle() {
            true => vec![],
            false => states.states.iter().filter_map(|told| Some(read_message_id(&told.message_id)?.0)).collect(),
        };
        let changes = states.states.into_iter().filter_map(|told| {
            let (message, _) = read_message_id(&told.message_id)?;
            let state = match told.state {
                1 => DeliveryState::Delivered,
                2 => DeliveryState::Acknowledged,
                3 => DeliveryState::Failed,
                _ => return None,
            };
            let moment = |at: i64| (at > 0).then_some(Millis(at));
            Some(Change::Relay(Row::RemoteState(Box::new(RemoteState {
                message,
                party: PartyRef { peer, name: told.party },
                state,
                delivered_at: moment(told.delivered_at),
                finished_at: moment(told.finished_at),
                retries: u32::try_from(told.retries).unwrap_or(0),
                error: shorten(&told.error),
            }))))
        });
        let relay = self.clone();
        Ok(Taken::new(changes.collect(), move |_| {
            relay.0.freeing.notify_one();
            relay.0.watchers.told(&told);
        }))
    }

    /// Tells other servers how their messages fare here, until the node stops.
    pub(super) async fn report(self) {
        while self.0.stop.run_until_cancelled(timeout(AGAIN, self.0.reporting.notified())).await.is_some() {
            if self.0.stop.run_until_cancelled(sleep(GATHER)).await.is_none() {
                return;
            }
            if let Err(error) = self.report_all().await {
                tracing::warn!(%error, "other servers could not be told how their messages fare; trying again");
            }
        }
    }

    async fn report_all(&self) -> Result<(), Error> {
        let mut after = 0;
        loop {
            let rows = self.0.store.unreported(after, STATES_MAX).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.seq;
            let mut by_server: BTreeMap<PeerId, Vec<Unreported>> = BTreeMap::new();
            for row in rows {
                by_server.entry(row.origin).or_default().push(row);
            }
            for (peer, rows) in by_server {
                let told = rows.iter().map(|row| Row::Reported { seq: row.seq, state: row.state });
                let op = Op::from(told.map(Change::Relay).collect::<Vec<_>>());
                let states = States { states: rows.into_iter().map(State::from).collect() };
                let letter = Letter { kind: Some(Kind::States(states)) };
                let id = getrandom::u64().map_err(Error::internal)?;
                if let Err(error) = self.federation()?.post(op, vec![(peer, id, letter)]).await {
                    tracing::debug!(%error, "a server could not be told how its messages fare");
                }
            }
        }
    }
}

impl From<Unreported> for State {
    fn from(row: Unreported) -> Self {
        let millis = |at: Option<Millis>| at.map_or(0, |at| at.0);
        Self {
            message_id: row.remote_id,
            party: row.party,
            state: match row.state {
                DeliveryState::Pending => 0,
                DeliveryState::Delivered => 1,
                DeliveryState::Acknowledged => 2,
                DeliveryState::Failed => 3,
            },
            delivered_at: millis(row.delivered_at),
            finished_at: millis(row.finished_at),
            retries: i32::try_from(row.retries).unwrap_or(i32::MAX),
            error: row.error,
        }
    }
}

fn check(message: &Message, now: Millis) -> Result<(), Error> {
    if message.expires_at <= now.0 {
        return Err(Error::invalid("expired"));
    }
    check_id("message_id", &message.message_id)?;
    let length = message.payload.len();
    if length > PAYLOAD_MAX {
        return Err(Error::invalid(format!("payload: {length} bytes; the limit is {PAYLOAD_MAX}")));
    }
    match message.message_type.len() {
        0..=TEXT_MAX => Ok(()),
        length => Err(Error::invalid(format!("message_type: {length} bytes; the limit is {TEXT_MAX}"))),
    }
}

/// A text of another server, cut to what is kept.
fn shorten(text: &str) -> String {
    text.chars().take(TEXT_MAX / 4).collect()
}
