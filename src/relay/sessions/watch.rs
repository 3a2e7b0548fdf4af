//! One stream of `Sessions/Watch`: woken by what changes, it reads the session's
//! rows and hands on what is new.

use super::{Caller, PAGE_ROWS, news::news, number, watchers::Watched};
use crate::{
    error::Error,
    net::feed::Held,
    proto::pillarbox::relay::v1 as wire,
    relay::{
        Relay,
        evidence::Slot,
        names,
        progress::{Part, progress},
        router::Members,
    },
    store::relay::{DeliveryState, SessionMessage},
    types::{Millis, PartyRef, PeerId, ServerId},
};
use futures_util::stream;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::Stream;
use tonic::Status;

/// Rows that one view is made of.
const MESSAGES: usize = 1_024;
const DELIVERIES: usize = 8_192;
/// Between two views of a stream, at least.
const PAUSE: Duration = Duration::from_millis(250);
/// Without a wake: heartbeats and subscriptions wake nobody.
const LOOK_EVERY: Duration = Duration::from_secs(10);
struct Watch {
    relay: Relay,
    caller: Caller,
    session: String,
    id: u64,
    watched: Arc<Watched>,
    wake: Arc<Notify>,
    /// What its client has; `None`: nothing yet.
    told: Option<Arc<wire::View>>,
    /// For the one view that its client has not read.
    unread: Arc<Semaphore>,
    /// Not to be read before.
    next_at: Instant,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.relay.0.watchers.remove(&self.session, &self.caller, self.id);
    }
}

impl Relay {
    /// All of a session, then what changes. A client that does not read has one
    /// view waiting for it, and gets the newest after that.
    pub(super) fn watch(
        &self,
        caller: Caller,
        session: String,
    ) -> Result<impl Stream<Item = Result<Held<wire::View>, Status>> + Send + use<>, Error> {
        self.visible(&caller, &session)?;
        let (id, watched, wake) = self.0.watchers.add(&session, &caller)?;
        let (relay, unread) = (self.clone(), Arc::new(Semaphore::new(1)));
        let watch = Watch { relay, caller, session, id, watched, wake, told: None, unread, next_at: Instant::now() };
        Ok(stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(view) => Some((Ok(view), Some(watch))),
                Err(error) => Some((Err(error.into()), None)),
            }
        }))
    }

    /// A session as it is now, and the messages that parties elsewhere have not
    /// done with.
    async fn view(&self, members: Members, session: &str) -> Result<(wire::View, HashSet<u64>), Error> {
        let (mut messages, cut) = self.0.store.session_messages(session, MESSAGES, DELIVERIES).await?;
        self.add_passing(&mut messages);
        let open = |message: &&SessionMessage| {
            message.deliveries.iter().any(|it| it.party.peer != PeerId::SELF && !it.state.is_final())
        };
        let afar = messages.iter().filter(open).map(|message| message.number).collect();
        let expected = Some(&members.parties).filter(|_| members.settled);
        let progress = progress(expected, &messages);
        let mut named = Named { relay: self, servers: HashMap::new() };
        let mut rounds = Vec::with_capacity(progress.rounds.len());
        for (round, parts) in &progress.rounds {
            let mut parties = Vec::with_capacity(parts.len());
            for (party, part) in parts {
                parties.push(shown(named.show(party).await?, part));
            }
            rounds.push(wire::Round { round: *round, parties });
        }
        let all: BTreeSet<&PartyRef> =
            members.parties.iter().chain(progress.rounds.values().flat_map(BTreeMap::keys)).collect();
        let mut parties = Vec::with_capacity(all.len());
        for party in all {
            let (online, heard) = self.presence_of(party, session);
            let last_seen_at = progress.seen.get(party).copied().max(heard).map_or(0, |at| at.0);
            let member = members.parties.contains(party);
            parties.push(wire::Party { party: named.show(party).await?, member, online, last_seen_at });
        }
        let last = self.0.store.last_slot(session).await?;
        let equivocations = self.0.store.equivocations(Some(session), 0, PAGE_ROWS).await?;
        let equivocation_count = number(self.0.store.equivocation_count(session).await?);
        let view = wire::View {
            session_id: session.to_owned(),
            whole: true,
            owner: self.owner(members.owner).await?,
            settled: members.settled,
            messages: last.map_or(0, |row| row.position),
            cut,
            now: Millis::now().0,
            expires_at: members.until.0,
            parties,
            rounds,
            equivocations: equivocations.iter().filter_map(|row| claim(session, &row.entry)).collect(),
            equivocation_count,
        };
        Ok((view, afar))
    }

    /// What was handed to subscribers and is not written yet.
    fn add_passing(&self, messages: &mut [SessionMessage]) {
        let passing = self.passing();
        for delivery in messages.iter_mut().flat_map(|message| &mut message.deliveries) {
            if delivery.state == DeliveryState::Pending
                && let Some(sent) = passing.get(&delivery.seq)
            {
                (delivery.state, delivery.delivered_at) = (DeliveryState::Delivered, Some(sent.at));
            }
        }
    }

    /// Whether a party of this node subscribes now, and when it was heard of.
    fn presence_of(&self, party: &PartyRef, session: &str) -> (bool, Option<Millis>) {
        if party.peer != PeerId::SELF {
            return (false, None);
        }
        let heard = self.presence().get(&party.name).map(|row| row.last_seen_at);
        (self.streams().subscriptions.reader(&party.name, session).is_some(), heard)
    }
}

/// Names of parties, each server looked up once.
struct Named<'a> {
    relay: &'a Relay,
    servers: HashMap<PeerId, ServerId>,
}

impl Named<'_> {
    async fn show(&mut self, party: &PartyRef) -> Result<String, Error> {
        if party.peer == PeerId::SELF {
            return Ok(party.name.clone());
        }
        if !self.servers.contains_key(&party.peer) {
            let server = self.relay.federation()?.name_of(party.peer).await?;
            self.servers.insert(party.peer, server);
        }
        Ok(names::show(&party.name, self.servers.get(&party.peer)))
    }
}

impl Watch {
    async fn next(&mut self) -> Result<Held<wire::View>, Error> {
        let stopped = || Error::unavailable("the node stops; watch again");
        let stop = self.relay.0.stop.clone();
        let read = stop.run_until_cancelled(self.unread.clone().acquire_owned()).await.ok_or_else(stopped)?;
        let room = Some(Arc::new(read.map_err(|_| stopped())?));
        loop {
            let fresh = match self.told {
                None => Instant::now(),
                Some(_) => stop.run_until_cancelled(self.wait()).await.ok_or_else(stopped)?,
            };
            let view = self.read(fresh).await?;
            self.next_at = Instant::now() + PAUSE;
            let news = news(self.told.as_deref(), &view);
            self.told = Some(view);
            if let Some(answer) = news {
                return Ok(Held { answer, room });
            }
        }
    }

    /// Waits for news; returns since when a view must be to have them.
    async fn wait(&self) -> Instant {
        let woken = timeout(LOOK_EVERY, self.wake.notified()).await.is_ok();
        let now = Instant::now();
        sleep_until(self.next_at).await;
        if woken { now } else { now.checked_sub(LOOK_EVERY / 2).unwrap_or(now) }
    }

    /// A view begun at this moment or later: another stream's, or a new one.
    async fn read(&self, fresh: Instant) -> Result<Arc<wire::View>, Error> {
        let members = self.relay.visible(&self.caller, &self.session)?;
        let mut last = self.watched.view.lock().await;
        if let Some((at, view)) = &*last
            && *at >= fresh
        {
            return Ok(view.clone());
        }
        let at = Instant::now();
        self.watched.set_afar(None);
        let (view, afar) = self.relay.view(members, &self.session).await?;
        self.watched.set_afar(Some(afar));
        let view = Arc::new(view);
        *last = Some((at, view.clone()));
        Ok(view)
    }
}

fn shown(party: String, part: &Part) -> wire::Part {
    wire::Part {
        party,
        sent: part.sent,
        sent_at: part.sent_at.map_or(0, |at| at.0),
        addressed: part.addressed,
        delivered: part.delivered,
        acknowledged: part.acknowledged,
        failed: part.failed,
        waiting_for: part.waiting.name().into(),
        waiting_since: part.since.map_or(0, |at| at.0),
    }
}

fn claim(session: &str, entry: &[u8]) -> Option<wire::Claim> {
    let Slot { round, kind, sender, .. } = Slot::read(session, entry, [0; 32])?;
    Some(wire::Claim { round_number: round, message_type: kind, sender })
}
