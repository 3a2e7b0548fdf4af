//! Session events: published by a service, stored, read by the parties they
//! name, here and on their own nodes.
//!
//! A party gets nobody's join token but its own; another server gets those of
//! its parties. A stream is woken, then reads rows after its cursor.

use super::{
    Relay, names, news,
    notify::Kind as Notice,
    reader::stops,
    router::{Announced, check_id},
};
use crate::{
    error::Error,
    net::{
        feed::{Held, Room},
        unread::{self, PAGE_BYTES, pages},
    },
    proto::{
        mpc::router::v1::SessionEvent,
        pillarbox::relay::v1::{Letter, letter::Kind},
    },
    store::{
        Change, Op,
        relay::{Change as Row, EventRow, NewEvent},
    },
    types::{Millis, PartyRef, PeerId, ServerId},
};
use futures_util::stream;
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, Semaphore};
use tokio_stream::Stream;
use tonic::Status;

/// One event, serialized.
const EVENT_MAX: usize = 1 << 20;
/// An event of another server is kept no longer, whatever it says.
const FOREIGN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Parties that one event names.
pub const PARTIES_MAX: usize = 1_024;
const TYPE_MAX: usize = 256;
/// Types that one subscription names.
const TYPES_MAX: usize = 64;
const PAGE_ROWS: usize = 64;

pub type EventStream = Pin<Box<dyn Stream<Item = Result<Held<SessionEvent>, Status>> + Send>>;

/// What the rest of the relay holds of a stream of events.
#[derive(Debug)]
pub struct EventSubscription {
    /// `None`: a service that reads all of them.
    party: Option<String>,
    /// Empty: all types.
    types: Vec<String>,
    wake: Notify,
}

impl EventSubscription {
    /// Who reads it; `None`: a service.
    pub(super) fn party(&self) -> Option<&str> {
        self.party.as_deref()
    }

    fn concerns(&self, kind: &str, local_parties: Option<&[String]>) -> bool {
        let named = match (&self.party, local_parties) {
            (None, _) | (_, None) => true,
            (Some(party), Some(parties)) => parties.contains(party),
        };
        named && self.wants(kind)
    }

    fn wants(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted == kind)
    }
}

struct Reader {
    relay: Relay,
    id: u64,
    subscription: Arc<EventSubscription>,
    cursor: u64,
    /// What the party's streams may hold.
    bound: Arc<Semaphore>,
    page: VecDeque<(EventRow, Room)>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(party) = self.subscription.party() {
            self.relay.presence().heard(party, self.cursor);
        }
        self.relay.close_events(self.id);
    }
}

impl Relay {
    /// Stores an event of a session of this node, and sends it to the nodes of
    /// its parties. Returns how many streams of this node it concerns. An event
    /// that is stored already changes nothing, so that a retry is safe; another
    /// one under its id is [`Error::Conflict`].
    pub async fn publish(&self, mut event: SessionEvent) -> Result<usize, Error> {
        check(&event, Millis::now())?;
        if event.event_id.is_empty() {
            event.event_id = format!("{:032x}", u128::from(random()?) << 64 | u128::from(random()?));
        }
        let mut parties = vec![];
        for (at, text) in event.selected_parties.iter().enumerate() {
            parties.push(self.recipient(&format!("event.selected_parties[{at}]"), text).await?);
        }
        let mut tokens = BTreeMap::new();
        for (text, token) in std::mem::take(&mut event.join_tokens) {
            let field = format!("event.join_tokens[{text:?}]");
            if tokens.insert(self.recipient(&field, &text).await?, token).is_some() {
                return Err(Error::invalid(format!("{field}: this party has another entry under its other name")));
            }
        }
        let relay = self.clone();
        let stored = async move { relay.store_once(event, parties, tokens).await };
        self.0.tasks.spawn(stored).await.map_err(Error::internal)?
    }

    async fn store_once(
        &self,
        event: SessionEvent,
        parties: Vec<PartyRef>,
        tokens: BTreeMap<PartyRef, String>,
    ) -> Result<usize, Error> {
        let shown = |party: &PartyRef| self.show_known(party);
        let event = SessionEvent {
            selected_parties: parties.iter().map(shown).collect(),
            join_tokens: tokens.iter().map(|(party, token)| (shown(party), token.clone())).collect(),
            ..event
        };
        let key = ("session event".into(), format!("{}\n{}", event.session_id, event.event_id));
        let _turn = self.0.underway.turn(key).await;
        let Some(before) = self.0.store.event(PeerId::SELF, &event.session_id, &event.event_id).await? else {
            return self.store_own(event, &parties, &tokens).await;
        };
        let before = SessionEvent::decode(before.body).map_err(Error::internal)?;
        if filled(event, before.created_at, before.expires_at) != before {
            let id = before.event_id;
            return Err(Error::Conflict(format!(
                "event.event_id: {id:?} is another event of this session; a new event takes a new id"
            )));
        }
        Ok(self.concerned(&before.event_type, local_names(&parties).as_deref(), |_| {}))
    }

    async fn store_own(
        &self,
        event: SessionEvent,
        parties: &[PartyRef],
        tokens: &BTreeMap<PartyRef, String>,
    ) -> Result<usize, Error> {
        let now = Millis::now();
        let event = filled(event, now.0, now.plus(self.0.config.retention).0);
        let letters = self.event_letters(&event, parties, tokens)?;
        let (kind, local) = (event.event_type.clone(), local_names(parties));
        let session = event.session_id.clone();
        let (op, announced) = self.event_op(PeerId::SELF, event, parties)?;
        if let Err(error) = self.commit(op, letters).await {
            self.router().undo_announce(&session, announced);
            return Err(error);
        }
        Ok(self.wake_events(&session, &kind, local.as_deref()))
    }

    /// The rows of an event; who its session's parties are is settled with it.
    fn event_op(&self, owner: PeerId, event: SessionEvent, parties: &[PartyRef]) -> Result<(Op, Announced), Error> {
        let now = Millis::now();
        let until = Millis(event.expires_at);
        let announced = self.router().announce(now, &event.session_id, owner, parties, until)?;
        let (session, kind) = (event.session_id.clone(), event.event_type.clone());
        let settled = announced.settles.then(|| parties.to_vec());
        let local = parties.iter().filter(|party| party.peer == PeerId::SELF).map(|party| &*party.name);
        let told = self.told(local, |party, user| news::event(owner, &event, party, user, now));
        let mut op = Op::from(vec![
            Change::Relay(Row::Announced { session: session.clone(), owner, parties: settled, until: announced.until }),
            Change::Relay(Row::Event(Box::new(NewEvent {
                event_id: event.event_id.clone(),
                owner,
                session,
                kind,
                local_parties: local_names(parties),
                created_at: Millis(event.created_at),
                expires_at: until,
                body: event.encode_to_vec().into(),
            }))),
        ]);
        op.changes.extend(told);
        Ok((op, announced))
    }

    /// One for each server with parties in it, all names qualified.
    fn event_letters(
        &self,
        event: &SessionEvent,
        parties: &[PartyRef],
        tokens: &BTreeMap<PartyRef, String>,
    ) -> Result<Vec<(PeerId, u64, Letter)>, Error> {
        let own = self.federation()?.own_id();
        let qualified = |party: &PartyRef| match party.peer {
            PeerId::SELF => names::show(&party.name, Some(&own)),
            _ => self.show_known(party),
        };
        let peers: BTreeSet<PeerId> =
            parties.iter().map(|party| party.peer).filter(|peer| *peer != PeerId::SELF).collect();
        let letter = |peer: PeerId| {
            let theirs = tokens.iter().filter(|(party, _)| party.peer == peer);
            let event = SessionEvent {
                selected_parties: parties.iter().map(qualified).collect(),
                join_tokens: theirs.map(|(party, token)| (qualified(party), token.clone())).collect(),
                ..event.clone()
            };
            // Its names are longer than they were, and it is held to the same limit there.
            check_length(&event)?;
            Ok((peer, random()?, Letter { kind: Some(Kind::Event(event)) }))
        };
        peers.into_iter().map(letter).collect()
    }

    /// An event of another server: what it changes here. All its names are
    /// qualified; a party of a server that is no peer cannot be reached from
    /// here and is left out.
    pub(super) fn foreign_event(
        &self,
        peer: PeerId,
        server: &ServerId,
        event: SessionEvent,
        now: Millis,
    ) -> Result<Foreign, Error> {
        check(&event, now)?;
        if event.event_id.is_empty() || event.created_at <= 0 || event.expires_at <= 0 {
            return Err(Error::invalid("event: event_id, created_at and expires_at are set by the node that sends it"));
        }
        let party = |text: &str| -> Result<Option<PartyRef>, Error> {
            let named = self.name("event.selected_parties", text)?;
            if !text.contains('@') {
                return Err(Error::invalid("event.selected_parties: a name without its server"));
            }
            let peer = match &named.server {
                None => Some(PeerId::SELF),
                Some(other) if other == server => Some(peer),
                Some(other) => self.federation()?.peer_of(other),
            };
            Ok(peer.map(|peer| PartyRef { peer, name: named.name }))
        };
        let parties: Vec<Option<PartyRef>> =
            event.selected_parties.iter().map(|text| party(text)).collect::<Result<_, _>>()?;
        let parties: Vec<PartyRef> = parties.into_iter().flatten().collect();
        // One for everybody is for the parties of its own node: it does not travel.
        if !parties.iter().any(|party| party.peer == PeerId::SELF) {
            return Err(Error::invalid("event.selected_parties: none of them is of this server"));
        }
        let mut tokens = std::collections::HashMap::new();
        for (text, token) in &event.join_tokens {
            let named = self.name("event.join_tokens", text)?;
            if named.server.is_none() {
                tokens.insert(named.name, token.clone());
            }
        }
        let shown = |party: &PartyRef| self.show_known(party);
        let expires_at = event.expires_at.min(now.plus(FOREIGN_MAX.max(self.0.config.retention)).0);
        let event = SessionEvent {
            selected_parties: parties.iter().map(shown).collect(),
            join_tokens: tokens,
            expires_at,
            ..event
        };
        let (kind, local) = (event.event_type.clone(), local_names(&parties));
        let session = event.session_id.clone();
        let (op, announced) = self.event_op(peer, event, &parties)?;
        Ok(Foreign { op, announced, session, kind, local })
    }

    /// Wakes the streams an event concerns; returns how many. The parties that
    /// it names are told elsewhere if they are away.
    pub(super) fn wake_events(&self, session: &str, kind: &str, local: Option<&[String]>) -> usize {
        self.0.watchers.changed(session);
        self.notify(session, Notice::Event, local.unwrap_or_default().iter().map(String::as_str));
        self.concerned(kind, local, |subscription| subscription.wake.notify_one())
    }

    /// How many live streams an event concerns.
    fn concerned(&self, kind: &str, local: Option<&[String]>, each: impl Fn(&EventSubscription)) -> usize {
        let streams = self.streams();
        let concerned = streams.events.values().filter(|subscription| subscription.concerns(kind, local));
        concerned.inspect(|subscription| each(subscription)).count()
    }

    /// The events that concern a party (`None`: all), first those that have not
    /// expired, after the one with the id `after` if that is kept, then live.
    pub async fn subscribe_events(
        &self,
        party: Option<String>,
        types: Vec<String>,
        after: Option<String>,
    ) -> Result<EventStream, Error> {
        if types.len() > TYPES_MAX || types.iter().any(|kind| kind.len() > TYPE_MAX) {
            return Err(Error::invalid(format!("event_types: at most {TYPES_MAX}, each of at most {TYPE_MAX} bytes")));
        }
        let cursor = match after {
            Some(id) => self.0.store.event_number(&id).await?.unwrap_or(0),
            None => 0,
        };
        let subscription = Arc::new(EventSubscription { party, types, wake: Notify::new() });
        let bound = subscription.party().map_or_else(unread::alone, |party| self.0.unread.of(party));
        let id = self.open_events(subscription.clone())?;
        let reader = Reader { relay: self.clone(), id, subscription, cursor, bound, page: VecDeque::new() };
        Ok(Box::pin(stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(event) => Some((Ok(event), Some(reader))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }
}

/// What an event of another server changes, and whom it concerns.
pub struct Foreign {
    pub op: Op,
    pub announced: Announced,
    pub session: String,
    pub kind: String,
    pub local: Option<Vec<String>>,
}

impl Reader {
    async fn next(&mut self) -> Result<Held<SessionEvent>, Error> {
        loop {
            while let Some((row, room)) = self.page.pop_front() {
                self.cursor = row.number;
                if self.subscription.wants(&row.kind) {
                    return Ok(Held { answer: self.shown(&row)?, room: Some(room) });
                }
            }
            // Room for the largest: events are few.
            let most = self.bound.clone().acquire_many_owned(pages(EVENT_MAX));
            let mut room = tokio::select! {
                room = most => room.map_err(Error::internal)?,
                () = self.relay.0.stop.cancelled() => return Err(stops()),
            };
            let party = self.subscription.party.as_deref();
            let rows = self.relay.0.store.event_page(party, self.cursor, Millis::now(), PAGE_ROWS, PAGE_BYTES).await?;
            let taken = pages(rows.iter().map(|row| row.body.len()).sum());
            drop(room.split(room.num_permits().saturating_sub(usize::try_from(taken).unwrap_or(0))));
            let room = Arc::new(room);
            self.page.extend(rows.into_iter().map(|row| (row, room.clone())));
            if self.page.is_empty() {
                drop(room);
                tokio::select! {
                    () = self.subscription.wake.notified() => {}
                    () = self.relay.0.stop.cancelled() => return Err(stops()),
                }
            }
        }
    }

    /// The event without what is another party's.
    fn shown(&self, row: &EventRow) -> Result<SessionEvent, Error> {
        let mut event = SessionEvent::decode(row.body.clone()).map_err(Error::internal)?;
        if let Some(party) = &self.subscription.party {
            event.join_tokens.retain(|name, _| name == party);
        }
        Ok(event)
    }
}

fn check(event: &SessionEvent, now: Millis) -> Result<(), Error> {
    check_id("event.session_id", &event.session_id)?;
    if !event.event_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        // It is given back in metadata.
        return Err(Error::invalid("event.event_id: it has visible ASCII only, and no spaces"));
    }
    let limited = [("event.event_id", &event.event_id), ("event.event_type", &event.event_type)];
    for (field, text) in limited {
        if text.len() > TYPE_MAX {
            return Err(Error::invalid(format!("{field}: {} bytes; the limit is {TYPE_MAX}", text.len())));
        }
    }
    let (parties, tokens) = (event.selected_parties.len(), event.join_tokens.len());
    if parties > PARTIES_MAX || tokens > PARTIES_MAX {
        let text = format!("event: {parties} selected_parties and {tokens} join_tokens; the limit is {PARTIES_MAX}");
        return Err(Error::invalid(text));
    }
    check_length(event)?;
    if event.expires_at != 0 && event.expires_at <= now.0 {
        return Err(Error::invalid(format!("event.expires_at: {} ms since 1970 is over", event.expires_at)));
    }
    Ok(())
}

fn check_length(event: &SessionEvent) -> Result<(), Error> {
    match event.encoded_len() {
        0..=EVENT_MAX => Ok(()),
        length => Err(Error::invalid(format!(
            "event: {length} bytes, with the names of its parties in full; the limit is {EVENT_MAX}"
        ))),
    }
}

/// The event with what its publisher left to the node.
fn filled(event: SessionEvent, created_at: i64, expires_at: i64) -> SessionEvent {
    let given = |value: i64, otherwise: i64| if value == 0 { otherwise } else { value };
    SessionEvent {
        created_at: given(event.created_at, created_at),
        expires_at: given(event.expires_at, expires_at),
        ..event
    }
}

/// The parties of this node; `None`: the event names nobody and is for all.
fn local_names(parties: &[PartyRef]) -> Option<Vec<String>> {
    let local = parties.iter().filter(|party| party.peer == PeerId::SELF);
    (!parties.is_empty()).then(|| local.map(|party| party.name.clone()).collect())
}

fn random() -> Result<u64, Error> {
    getrandom::u64().map_err(Error::internal)
}
