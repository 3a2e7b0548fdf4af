//! The relay of multi-party computations: `mpc.router.v1.MessageRouter`
//! (floor 5).
//!
//! [`Relay`] is the handle. A message is rows before anyone hears of it: its own
//! and one for each recipient; a subscriber is woken and reads them. Messages,
//! events and states of parties on other servers travel as parcels over the
//! postbox. Who may send to whom is the word of `router.rs`, repeats that of
//! `window.rs`, who reads what that of `subscriptions.rs`; all three are pure.
//! What is hashed and signed stands in `evidence.rs`, how far a session is in
//! `progress.rs`, pure too.

mod config;
mod events;
pub mod evidence;
mod janitor;
mod letters;
mod names;
mod news;
mod notify;
mod presence;
pub mod progress;
mod reader;
pub mod router;
mod routing;
mod service;
mod sessions;
mod status;
pub mod subscriptions;
pub mod window;

pub use config::Config;
pub use notify::{Config as NotifyConfig, Hidden, Notifier};
pub use service::{PAYLOAD_MAX, Service};
pub use sessions::{Service as SessionsService, operator_service as operator_sessions};

use crate::{
    error::Error,
    federation::Federation,
    identity::{node_key::NodeKey, tokens::Tokens},
    metrics::Metrics,
    net::unread::Unread,
    store::{
        Change, Store,
        relay::{Change as Row, PartyRole, PartyRow, SessionRow},
    },
    types::{Millis, PartyRef, PeerId},
};
use events::EventSubscription;
use names::Name;
use presence::Presence;
use reader::Subscription;
use router::{Limits, Router, Saved};
use routing::Underway;
use sessions::Watchers;
use status::Passing;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use subscriptions::Subscriptions;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use window::{Page, Redelivery};

/// Deliveries noted in memory before they are written without a pause.
const PASSING_MAX: usize = 4_096;
/// Subscriptions of one party.
const SUBSCRIPTIONS_MAX: usize = 1_024;
/// Open streams of session events.
const EVENT_STREAMS_MAX: usize = 100_000;
/// The low bits of a message's number, below its microsecond.
const WITHIN_MICRO: u32 = 8;

/// The handle; clones are the same relay.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    config: Config,
    store: Store,
    key: NodeKey,
    tokens: Tokens,
    metrics: Metrics,
    router: Mutex<Router>,
    presence: Mutex<Presence>,
    notifier: Notifier,
    streams: Mutex<Streams>,
    watchers: Watchers,
    unread: Unread,
    underway: Underway,
    /// Handed to subscribers, not yet written.
    passing: Mutex<Passing>,
    /// The number of the newest message.
    newest: AtomicU64,
    /// Set before the first call comes.
    federation: OnceLock<Federation>,
    writing: Notify,
    full: Notify,
    freeing: Notify,
    reporting: Notify,
    comparing: Notify,
    /// The newest equivocation when the node started.
    compared: u64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The open streams.
struct Streams {
    subscriptions: Subscriptions,
    messages: HashMap<u64, Arc<Subscription>>,
    events: HashMap<u64, Arc<EventSubscription>>,
    /// How many streams of events each party has.
    listeners: HashMap<String, usize>,
    /// Ids of streams of events.
    next: u64,
}

impl Streams {
    fn new() -> Self {
        let subscriptions = Subscriptions::new(SUBSCRIPTIONS_MAX);
        Self { subscriptions, messages: HashMap::new(), events: HashMap::new(), listeners: HashMap::new(), next: 0 }
    }

    /// The party has a stream of messages or of events.
    fn is_live(&self, party: &str) -> bool {
        self.subscriptions.is_subscribed(party) || self.listeners.contains_key(party)
    }
}

impl Relay {
    /// Reads what is kept. Ends when `stop` is cancelled; then wait for
    /// [`Relay::ended`].
    pub async fn open_on(
        config: Config,
        store: Store,
        key: NodeKey,
        tokens: Tokens,
        metrics: Metrics,
        notifier: Notifier,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let limits = Limits {
            recipients: events::PARTIES_MAX,
            session_bytes: config.session_max_bytes.as_u64(),
            sender_bytes: config.sender_max_bytes.as_u64(),
            sessions: config.max_sessions,
            parties_a_session: events::PARTIES_MAX,
        };
        let saved = store.sessions().await?.into_iter().map(|row| {
            let SessionRow { session, owner, settled, parties, until } = row;
            Saved { session, owner, settled, parties, until }
        });
        let stored = store.stored_bytes().await?.into_iter();
        let stored = stored.map(|row| (row.session, PartyRef { peer: row.origin, name: row.sender }, row.bytes));
        let router = Router::new(limits, config.retention, saved.collect(), stored);
        let presence = Presence::new(store.parties().await?, store.newest_event().await?);
        let (newest, compared) = (store.newest_message().await?, store.newest_equivocation().await?);
        Ok(Self(Arc::new(Inner {
            config,
            store,
            key,
            tokens,
            metrics,
            router: Mutex::new(router),
            presence: Mutex::new(presence),
            notifier,
            streams: Mutex::new(Streams::new()),
            watchers: Watchers::default(),
            unread: Unread::default(),
            underway: Underway::default(),
            passing: Mutex::default(),
            newest: AtomicU64::new(newest),
            federation: OnceLock::new(),
            writing: Notify::new(),
            full: Notify::new(),
            freeing: Notify::new(),
            reporting: Notify::new(),
            comparing: Notify::new(),
            compared,
            stop,
            tasks: TaskTracker::new(),
        })))
    }

    /// Gives the relay its way to other servers, and starts what it does by
    /// itself.
    pub fn start(&self, federation: Federation) {
        // A second one is not taken: there is one federation.
        let _ = self.0.federation.set(federation);
        self.0.tasks.spawn(self.clone().write());
        self.0.tasks.spawn(self.clone().free());
        self.0.tasks.spawn(self.clone().sweep());
        self.0.tasks.spawn(self.clone().report());
        self.0.tasks.spawn(self.clone().compare(self.0.compared));
        if !self.0.notifier.is_off() {
            self.0.tasks.spawn(self.clone().notify_all());
        }
        // What was left when the node stopped.
        self.0.freeing.notify_one();
        self.0.reporting.notify_one();
    }

    /// Returns when every task has ended, after `stop`.
    pub async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn federation(&self) -> Result<&Federation, Error> {
        self.0.federation.get().ok_or_else(|| Error::unavailable("the node is starting; try again"))
    }

    fn router(&self) -> MutexGuard<'_, Router> {
        self.0.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.0.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passing(&self) -> MutexGuard<'_, Passing> {
        self.0.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers of messages grow, over restarts too: they follow the clock, and
    /// go on from the newest where the clock went back.
    fn next_number(&self, now: Millis) -> u64 {
        let clock = (now.0.max(0).cast_unsigned() * 1_000) << WITHIN_MICRO;
        let next = |newest: u64| clock.max(newest + 1);
        match self.0.newest.fetch_update(Relaxed, Relaxed, |newest| Some(next(newest))) {
            Ok(before) | Err(before) => next(before),
        }
    }

    /// What the users of parties of this node are told of something.
    fn told<'a>(
        &self,
        parties: impl Iterator<Item = &'a str>,
        tell: impl Fn(&str, String) -> Option<Change>,
    ) -> Vec<Change> {
        if !self.0.store.push_wanted() {
            return vec![];
        }
        let now = Millis::now();
        parties.filter_map(|party| tell(party, self.0.tokens.user_of_party(party, now)?)).collect()
    }

    // ----- names

    fn name(&self, field: &str, text: &str) -> Result<Name, Error> {
        let federation = self.federation()?;
        names::parse(field, text, |server| federation.is_own_id(server))
    }

    /// Whether a principal's name stands for the local party `name`.
    fn is_party(&self, own: &str, name: &str) -> bool {
        own == name || self.name("principal", own).is_ok_and(|own| own.server.is_none() && own.name == name)
    }

    /// A party as it is shown here: qualified when it belongs to another server,
    /// which may be no peer any more.
    async fn show(&self, peer: PeerId, name: &str) -> Result<String, Error> {
        if peer == PeerId::SELF {
            return Ok(name.to_owned());
        }
        let server = self.federation()?.name_of(peer).await?;
        Ok(names::show(name, Some(&server)))
    }

    /// The same of a party whose server is a peer.
    fn show_known(&self, party: &PartyRef) -> String {
        let server = (party.peer != PeerId::SELF).then(|| self.0.federation.get()?.server_of(party.peer)).flatten();
        names::show(&party.name, server.as_ref())
    }

    // ----- parties

    /// Registers a party, or updates it; whether it was registered before.
    pub async fn register(&self, mut row: PartyRow) -> Result<(PartyRow, bool), Error> {
        let (before, count) = {
            let presence = self.presence();
            (presence.get(&row.name).cloned(), presence.len())
        };
        match &before {
            Some(before) => row.registered_at = before.registered_at,
            None if count >= self.0.config.max_parties => {
                let limit = self.0.config.max_parties;
                return Err(Error::exhausted(format!(
                    "{limit} parties are registered; relay.max_parties is the limit"
                )));
            }
            None => {}
        }
        let relay = self.clone();
        let stored = async move {
            relay.0.store.submit(Change::Relay(Row::PutParty(row.clone()))).await?;
            relay.presence().put(row.clone());
            // Something may have come before it.
            relay.left(&row.name);
            Ok::<_, Error>(row)
        };
        let row = self.0.tasks.spawn(stored).await.map_err(Error::internal)??;
        Ok((row, before.is_some()))
    }

    /// A sign of life: the time here, and how many messages wait.
    pub async fn heartbeat(&self, party: &str) -> Result<(Millis, u64), Error> {
        let now = Millis::now();
        if !self.presence().seen(party, now) {
            return Err(Error::NotFound(format!("party_id: {party} is not registered; call RegisterParty first")));
        }
        Ok((now, self.0.store.waiting(party).await?))
    }

    /// The registered parties, and whether each is online.
    pub fn registered(&self, role: Option<PartyRole>, only_online: bool) -> Vec<(PartyRow, bool)> {
        let now = Millis::now();
        let (presence, streams) = (self.presence(), self.streams());
        let online = |row: &PartyRow| {
            streams.is_live(&row.name) || presence.is_fresh(&row.name, now, self.0.config.online_after)
        };
        let wanted = presence.all().filter(|row| role.is_none_or(|role| row.role == role));
        wanted.map(|row| (row.clone(), online(row))).filter(|(_, online)| *online || !only_online).collect()
    }

    // ----- subscriptions

    fn redelivery(&self) -> Redelivery {
        let config = &self.0.config;
        Redelivery { after: config.redeliver_after, tries: config.redeliver_tries, max: config.max_unacknowledged }
    }

    /// Who subscribes in a session nobody announced is of its parties.
    async fn join(&self, session: &str, party: &str) -> Result<(), Error> {
        let party = PartyRef { peer: PeerId::SELF, name: party.to_owned() };
        let Some(until) = self.router().join(Millis::now(), session, &party)? else { return Ok(()) };
        let row = Row::Joined { session: session.to_owned(), party: party.clone(), until };
        self.0.store.submit(Change::Relay(row)).await?;
        self.router().saved(session, &party);
        Ok(())
    }

    /// Makes a stream the reader of its party and session.
    fn open(&self, subscription: Arc<Subscription>) -> Result<u64, Error> {
        let mut streams = self.streams();
        let opened = streams.subscriptions.subscribe(&subscription.party, subscription.session.as_deref())?;
        if let Some(replaced) = opened.replaced.and_then(|id| streams.messages.remove(&id)) {
            replaced.end(Error::Aborted("replaced by a newer subscription of this party and session".into()));
        }
        if let Some(narrowed) = opened.narrowed.and_then(|id| streams.messages.get(&id))
            && let Some(session) = &subscription.session
        {
            narrowed.window().let_go(|held| held == session);
        }
        streams.messages.insert(opened.id, subscription);
        Ok(opened.id)
    }

    fn unsubscribe(&self, id: u64) {
        let mut streams = self.streams();
        let ended = streams.messages.remove(&id);
        if let Some(heir) = streams.subscriptions.unsubscribe(id).and_then(|id| streams.messages.get(&id)) {
            heir.window().rescan();
            heir.wake();
        }
        let gone = ended.filter(|ended| !streams.is_live(&ended.party));
        drop(streams);
        if let Some(gone) = gone {
            self.left(&gone.party);
        }
    }

    /// What a stream is to read next, and the sessions it leaves out because
    /// they have a subscription of their own: both of one moment, else a message
    /// could overtake older ones of a session that is handed over.
    fn next_page(&self, subscription: &Subscription) -> Option<(Page, BTreeSet<String>)> {
        let streams = self.streams();
        let page = subscription.window().next_page()?;
        let covered = match subscription.session {
            Some(_) => BTreeSet::new(),
            None => streams.subscriptions.covered(&subscription.party).map(str::to_owned).collect(),
        };
        Some((page, covered))
    }

    /// Rows for these parties of this node were written.
    fn wake<'a>(&self, session: &str, parties: impl Iterator<Item = &'a str>) {
        let streams = self.streams();
        for party in parties {
            let reader = streams.subscriptions.reader(party, session);
            if let Some(subscription) = reader.and_then(|id| streams.messages.get(&id)) {
                subscription.window().woken();
                subscription.wake();
            }
        }
    }

    /// A delivery is final: whoever holds it lets go of it.
    fn let_go(&self, party: &str, session: &str, seq: u64) {
        let streams = self.streams();
        let reader = streams.subscriptions.reader(party, session);
        if let Some(subscription) = reader.and_then(|id| streams.messages.get(&id)) {
            subscription.window().finished(seq);
            subscription.wake();
        }
    }

    fn open_events(&self, subscription: Arc<EventSubscription>) -> Result<u64, Error> {
        let mut streams = self.streams();
        if streams.events.len() >= EVENT_STREAMS_MAX {
            return Err(Error::exhausted(format!("{EVENT_STREAMS_MAX} streams of session events are open")));
        }
        streams.next += 1;
        let id = streams.next;
        if let Some(party) = subscription.party() {
            *streams.listeners.entry(party.to_owned()).or_default() += 1;
        }
        streams.events.insert(id, subscription);
        Ok(id)
    }

    fn close_events(&self, id: u64) {
        let mut streams = self.streams();
        let Some(ended) = streams.events.remove(&id) else { return };
        let Some(party) = ended.party() else { return };
        if let Some(count) = streams.listeners.get_mut(party) {
            *count -= 1;
            if *count == 0 {
                streams.listeners.remove(party);
            }
        }
        let gone = !streams.is_live(party);
        drop(streams);
        if gone {
            self.left(party);
        }
    }
}

#[cfg(test)]
mod tests;
