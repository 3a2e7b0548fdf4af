//! A message from its sender to the rows of its recipients, and into the
//! parcels for those on other servers.
//!
//! Who gets it is `router.rs`'s word; here it is stored, once, and whoever
//! waits is woken. Acknowledged means on disk.

use super::{
    Relay,
    events::PARTIES_MAX,
    evidence::{self, BROADCAST, Proof, Slot},
    names::{self, Name},
    news,
    notify::Kind as Notice,
};
use crate::{
    error::Error,
    proto::pillarbox::relay::v1::{BroadcastSignature, Letter, Message as Parcel, letter::Kind},
    store::{
        Change, Op,
        relay::{Change as Row, MESSAGE_BYTES, NewMessage},
    },
    types::{Millis, PartyRef, PeerId},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::{Mutex, PoisonError},
};
use tokio::sync::watch;

/// A call of `RouteMessage`, checked as far as it can be without the session.
#[derive(Debug)]
pub struct Route {
    pub session: String,
    /// A party of this node.
    pub from: String,
    /// As they were written; empty: a broadcast.
    pub to: Vec<String>,
    pub round: i32,
    pub kind: String,
    pub payload: Bytes,
    /// Caller, and its idempotency key.
    pub once: Option<(String, String)>,
}

impl Route {
    /// Two calls with one digest are the same message, however its recipients
    /// were written. `to`: each once.
    fn digest(&self, to: &[PartyRef]) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        for text in [&self.session, &self.from, &self.kind] {
            part(text.as_bytes());
        }
        part(&self.round.to_be_bytes());
        part(&self.payload);
        for party in to.iter().collect::<BTreeSet<_>>() {
            part(&party.peer.0.to_be_bytes());
            part(party.name.as_bytes());
        }
        digest.finalize().into()
    }
}

/// Calls that are to have their effect once and are under way: a second one
/// waits for the first.
#[derive(Debug, Default)]
pub struct Underway(Mutex<HashMap<(String, String), watch::Receiver<()>>>);

/// The right to be the one call under a key; given back when dropped.
pub(super) struct Turn<'a> {
    underway: &'a Underway,
    key: (String, String),
    _done: watch::Sender<()>,
}

impl Underway {
    pub(super) async fn turn(&self, key: (String, String)) -> Turn<'_> {
        loop {
            let mut before = {
                let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                match calls.entry(key.clone()) {
                    Entry::Occupied(call) => call.get().clone(),
                    Entry::Vacant(free) => {
                        let (done, waiting) = watch::channel(());
                        free.insert(waiting);
                        return Turn { underway: self, key, _done: done };
                    }
                }
            };
            // An error: the call before has ended.
            let _ = before.changed().await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.underway.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// How a message of this node is called: its number and a random tag, so that
/// no id can be guessed.
pub fn message_id(number: u64, tag: u64) -> String {
    format!("{number:016x}{tag:016x}")
}

/// Number and tag of a message of this node; `None`: no such id was ever given.
pub fn read_message_id(id: &str) -> Option<(u64, u64)> {
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    Some((u64::from_str_radix(&id[..16], 16).ok()?, u64::from_str_radix(&id[16..], 16).ok()?))
}

impl Relay {
    /// Stores a message for its recipients; when this returns it is on disk.
    /// Returns its id. A caller that goes away does not take it back.
    pub async fn route(&self, route: Route) -> Result<String, Error> {
        // Names first: nobody is looked for on behalf of a list that is too long.
        let (mut names, mut known) = (vec![], HashSet::new());
        for (at, text) in route.to.iter().enumerate() {
            let field = format!("to_parties[{at}]");
            let name = self.name(&field, text)?;
            if known.insert(name.clone()) {
                names.push((field, name));
            }
            if names.len() > PARTIES_MAX {
                return Err(Error::exhausted(format!("to_parties: a message goes to at most {PARTIES_MAX} parties")));
            }
        }
        let mut to = Vec::with_capacity(names.len());
        for (field, name) in names {
            to.push(self.resolve(name).await.map_err(|error| error.of_field(&field))?);
        }
        let relay = self.clone();
        self.0.tasks.spawn(async move { relay.route_once(route, to).await }).await.map_err(Error::internal)?
    }

    /// The party a name stands for; one of another server must be reachable by parcels.
    pub(super) async fn recipient(&self, field: &str, text: &str) -> Result<PartyRef, Error> {
        self.resolve(self.name(field, text)?).await.map_err(|error| error.of_field(field))
    }

    async fn resolve(&self, name: Name) -> Result<PartyRef, Error> {
        let Name { name, server } = name;
        let peer = match server {
            None => PeerId::SELF,
            Some(server) => self.federation()?.parcel_peer(&server).await?,
        };
        Ok(PartyRef { peer, name })
    }

    async fn route_once(&self, route: Route, to: Vec<PartyRef>) -> Result<String, Error> {
        let Some((caller, key)) = route.once.clone() else { return self.route_now(route, to, None).await };
        let digest = route.digest(&to);
        let _turn = self.0.underway.turn((caller.clone(), key.clone())).await;
        match self.0.store.idempotent(&caller, &key).await? {
            Some((number, tag, before)) if before == digest => Ok(message_id(number, tag)),
            Some(_) => Err(Error::Conflict(format!(
                "metadata idempotency-key: {key:?} was used for another message; a new message takes a new key"
            ))),
            None => self.route_now(route, to, Some(Row::Idempotent { caller, key, digest })).await,
        }
    }

    async fn route_now(&self, route: Route, to: Vec<PartyRef>, once: Option<Row>) -> Result<String, Error> {
        let (now, bytes) = (Millis::now(), route.payload.len() as u64 + MESSAGE_BYTES);
        let tag = getrandom::u64().map_err(Error::internal)?;
        let from = PartyRef { peer: PeerId::SELF, name: route.from.clone() };
        let broadcast = to.is_empty();
        let (own, digest) = (self.federation()?.own_id(), evidence::digest(&route.payload));
        let routed = self.router().route(now, &route.session, &from, &to, bytes)?;
        let number = self.next_number(now);
        let id = message_id(number, tag);
        let slot = Slot {
            session: route.session.clone(),
            round: route.round,
            kind: route.kind.clone(),
            sender: names::show(&route.from, Some(&own)),
            message_id: id.clone(),
            broadcast,
            digest,
        };
        let proof = broadcast.then(|| self.prove(&slot));
        let expires_at = now.plus(self.0.config.retention);
        let mut op = Op::new();
        if routed.joined {
            let (session, party, until) = (route.session.clone(), from.clone(), routed.until);
            op.push(Change::Relay(Row::Joined { session, party, until }));
        }
        op.push(Change::Relay(Row::Message(Box::new(NewMessage {
            number,
            origin: PeerId::SELF,
            remote_id: None,
            tag,
            session: route.session.clone(),
            sender: route.from.clone(),
            broadcast,
            round: route.round,
            kind: route.kind.clone(),
            accepted_at: now,
            expires_at,
            body: route.payload.clone(),
            slot: slot.stored(proof),
        }))));
        for party in &routed.recipients {
            op.push(Change::Relay(Row::Deliver { party: party.clone() }));
        }
        op.changes.extend(once.map(Change::Relay));
        let local = || routed.recipients.iter().filter(|party| party.peer == PeerId::SELF).map(|party| &*party.name);
        let waiting = news::Message {
            message_id: &id,
            session_id: &route.session,
            from_party: &route.from,
            message_type: &route.kind,
            round_number: route.round,
            is_broadcast: broadcast,
        };
        op.changes.extend(self.told(local(), |party, user| news::message(PeerId::SELF, waiting, party, user, now)));
        let signature = proof
            .map(|proof| BroadcastSignature { server: own.to_string(), signature: proof.signature.to_vec().into() });
        let letters = letters(&route, &routed.recipients, signature, &id, number, expires_at);
        if let Err(error) = self.commit(op, letters).await {
            self.router().undo(&route.session, &from, bytes);
            return Err(error);
        }
        if routed.joined {
            self.router().saved(&route.session, &from);
        }
        self.0.metrics.messages_routed.inc();
        self.accepted(&route.session, slot.claim().is_some());
        self.wake(&route.session, local());
        self.notify(&route.session, Notice::Message, local());
        Ok(id)
    }

    /// Signs a broadcast of a party of this node.
    fn prove(&self, slot: &Slot) -> Proof {
        let key = &self.0.key;
        Proof { key: *key.public().as_bytes(), signature: key.sign(BROADCAST, &slot.bytes()) }
    }

    /// Commits rows, and parcels with them.
    pub(super) async fn commit(&self, op: Op, letters: Vec<(PeerId, u64, Letter)>) -> Result<(), Error> {
        match letters.is_empty() {
            true => self.0.store.submit(op).await.map(drop),
            false => self.federation()?.post(op, letters).await.map(drop),
        }
    }
}

/// One parcel for each server, whatever the number of its parties. The parcel
/// goes by the number of its message: if it comes back, the message is found.
/// `signature`: of a broadcast.
fn letters(
    route: &Route,
    recipients: &[PartyRef],
    signature: Option<BroadcastSignature>,
    id: &str,
    number: u64,
    expires_at: Millis,
) -> Vec<(PeerId, u64, Letter)> {
    let mut parties: BTreeMap<PeerId, Vec<String>> = BTreeMap::new();
    for party in recipients.iter().filter(|party| party.peer != PeerId::SELF) {
        parties.entry(party.peer).or_default().push(party.name.clone());
    }
    let letter = |(peer, to_parties)| {
        let message = Parcel {
            message_id: id.to_owned(),
            session_id: route.session.clone(),
            from_party: route.from.clone(),
            to_parties,
            is_broadcast: signature.is_some(),
            round_number: route.round,
            message_type: route.kind.clone(),
            payload: route.payload.clone(),
            expires_at: expires_at.0,
            signature: signature.clone(),
        };
        (peer, number, Letter { kind: Some(Kind::Message(message)) })
    };
    parties.into_iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_no_other_text_is_one() {
        assert_eq!(read_message_id(&message_id(7, u64::MAX)), Some((7, u64::MAX)));
        for bad in ["", "7", &"g".repeat(32), &"A".repeat(32), &"é".repeat(16), &"0".repeat(33)] {
            assert_eq!(read_message_id(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_second_call_under_a_key_waits_for_the_first() {
        let underway = Underway::default();
        let key = ("party:alice".to_owned(), "k".to_owned());
        let first = underway.turn(key.clone()).await;
        let mut second = std::pin::pin!(underway.turn(key.clone()));
        let other = underway.turn(("party:bob".to_owned(), "k".to_owned())).await;
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(other);
        assert!(underway.0.lock().unwrap().is_empty());
    }
}
