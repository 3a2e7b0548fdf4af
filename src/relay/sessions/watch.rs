//! One stream of `Sessions/Watch`: woken by what changes, it reads the session's
//! rows and hands on what is new.

use super::{Caller, PAGE_ROWS};
use crate::{
    error::Error,
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
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
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
/// Open streams.
const WATCHERS_MAX: usize = 1_024;

pub type ViewStream = Pin<Box<dyn Stream<Item = Result<wire::View, Status>> + Send>>;

/// Who watches what.
#[derive(Debug, Default)]
pub struct Watchers {
    /// So that a message costs nothing when nobody watches.
    count: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_session: HashMap<String, Arc<Watched>>,
}

/// A session that somebody watches.
#[derive(Debug, Default)]
struct Watched {
    /// One for each stream.
    wakes: Mutex<BTreeMap<u64, Arc<Notify>>>,
    /// Messages in its view that parties elsewhere have not done with; `None`
    /// while it is made.
    afar: Mutex<Option<HashSet<u64>>>,
    /// The last view, and when it was begun; made once for all streams.
    view: tokio::sync::Mutex<Option<(Instant, Arc<wire::View>)>>,
}

impl Watched {
    fn wakes(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn afar(&self) -> MutexGuard<'_, Option<HashSet<u64>>> {
        self.afar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.wakes().values().for_each(|wake| wake.notify_one());
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened in a session.
    pub fn changed(&self, session: &str) {
        if !self.is_idle()
            && let Some(watched) = self.lock().by_session.get(session)
        {
            watched.wake();
        }
    }

    /// Another server told of these messages.
    pub fn told(&self, messages: &[u64]) {
        if self.is_idle() {
            return;
        }
        for watched in self.lock().by_session.values() {
            let concerned = {
                let afar = watched.afar();
                afar.as_ref().is_none_or(|afar| messages.iter().any(|number| afar.contains(number)))
            };
            if concerned {
                watched.wake();
            }
        }
    }

    pub fn is_idle(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// `limited`: not the operator, whom nobody keeps from looking.
    fn add(&self, session: &str, limited: bool) -> Result<(u64, Arc<Watched>, Arc<Notify>), Error> {
        let mut open = self.lock();
        if limited && self.count.load(Relaxed) >= WATCHERS_MAX {
            return Err(Error::exhausted(format!("{WATCHERS_MAX} streams watch sessions already")));
        }
        self.count.fetch_add(1, Relaxed);
        open.next += 1;
        let (id, wake) = (open.next, Arc::new(Notify::new()));
        let watched = open.by_session.entry(session.to_owned()).or_default().clone();
        watched.wakes().insert(id, wake.clone());
        Ok((id, watched, wake))
    }

    fn remove(&self, session: &str, id: u64) {
        let mut open = self.lock();
        let Some(watched) = open.by_session.get(session) else { return };
        let mut wakes = watched.wakes();
        self.count.fetch_sub(usize::from(wakes.remove(&id).is_some()), Relaxed);
        let last = wakes.is_empty();
        drop(wakes);
        if last {
            open.by_session.remove(session);
        }
    }
}

struct Watch {
    relay: Relay,
    caller: Caller,
    session: String,
    id: u64,
    watched: Arc<Watched>,
    wake: Arc<Notify>,
    /// What its client has; `None`: nothing yet.
    told: Option<Told>,
    /// Not to be read before.
    next_at: Instant,
}

#[derive(Default)]
struct Told {
    parties: HashMap<String, wire::Party>,
    rounds: BTreeMap<i32, wire::Round>,
    messages: u64,
    settled: bool,
    equivocations: usize,
}

impl Told {
    /// A party or round is gone: that cannot be said but by the whole.
    fn has_more_than(&self, view: &wire::View) -> bool {
        let parties: HashSet<&str> = view.parties.iter().map(|party| party.party.as_str()).collect();
        let rounds: HashSet<i32> = view.rounds.iter().map(|round| round.round).collect();
        self.parties.keys().any(|party| !parties.contains(party.as_str()))
            || self.rounds.keys().any(|round| !rounds.contains(round))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.relay.0.watchers.remove(&self.session, self.id);
    }
}

impl Relay {
    pub(super) fn watch(&self, caller: Caller, session: String) -> Result<ViewStream, Error> {
        self.visible(&caller, &session)?;
        let limited = !matches!(caller, Caller::Operator);
        let (id, watched, wake) = self.0.watchers.add(&session, limited)?;
        let (relay, told, next_at) = (self.clone(), None, Instant::now());
        let watch = Watch { relay, caller, session, id, watched, wake, told, next_at };
        Ok(Box::pin(stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(view) => Some((Ok(view), Some(watch))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
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
    async fn next(&mut self) -> Result<wire::View, Error> {
        loop {
            let fresh = match self.told {
                None => Instant::now(),
                Some(_) => self.wait().await?,
            };
            let view = self.read(fresh).await?;
            self.next_at = Instant::now() + PAUSE;
            if let Some(news) = self.news(wire::View::clone(&view)) {
                return Ok(news);
            }
        }
    }

    /// Waits for news; returns since when a view must be to have them.
    async fn wait(&self) -> Result<Instant, Error> {
        let woken = async {
            let woken = timeout(LOOK_EVERY, self.wake.notified()).await.is_ok();
            let now = Instant::now();
            sleep_until(self.next_at).await;
            if woken { now } else { now.checked_sub(LOOK_EVERY / 2).unwrap_or(now) }
        };
        let stopped = || Error::unavailable("the node stops; watch again");
        self.relay.0.stop.run_until_cancelled(woken).await.ok_or_else(stopped)
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
        *self.watched.afar() = None;
        let (view, afar) = self.relay.view(members, &self.session).await?;
        *self.watched.afar() = Some(afar);
        let view = Arc::new(view);
        *last = Some((at, view.clone()));
        Ok(view)
    }

    /// What its client does not have yet; `None`: nothing.
    fn news(&mut self, mut view: wire::View) -> Option<wire::View> {
        if self.told.as_ref().is_some_and(|told| told.has_more_than(&view)) {
            self.told = None;
        }
        let first = self.told.is_none();
        let told = self.told.get_or_insert_default();
        view.whole = first;
        view.parties.retain(|party| told.parties.get(&party.party) != Some(party));
        view.rounds.retain(|round| told.rounds.get(&round.round) != Some(round));
        let same = (told.messages, told.settled, told.equivocations)
            == (view.messages, view.settled, view.equivocations.len());
        (told.messages, told.settled, told.equivocations) = (view.messages, view.settled, view.equivocations.len());
        told.parties.extend(view.parties.iter().map(|party| (party.party.clone(), party.clone())));
        told.rounds.extend(view.rounds.iter().map(|round| (round.round, round.clone())));
        (first || !same || !view.parties.is_empty() || !view.rounds.is_empty()).then_some(view)
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
