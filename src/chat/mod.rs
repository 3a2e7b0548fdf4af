//! Chat: who talks with whom, in one order on every node, and
//! `chat.Chat` as its first face (floor 5).
//!
//! [`Chat`] is the handle. A message is a row before anyone hears of it. One of
//! the nodes that have a part in a chat, its home, numbers what is said there;
//! the others follow. The rules are those of `topic.rs`, which is pure; what
//! nodes tell each other travels in parcels over the postbox (`letters.rs`,
//! `teller.rs`).

mod config;
mod content;
mod found;
mod keeper;
mod letters;
mod news;
mod proof;
mod reader;
mod room;
mod service;
mod talk;
mod teller;
pub mod topic;
mod trailers;

pub use config::Config;
pub use service::{Service, TEXT_MAX};

use crate::{
    error::Error,
    federation::Federation,
    identity::node_key::NodeKey,
    metrics::Metrics,
    net::unread::Unread,
    store::{
        Store,
        chat::{Place, TopicRow},
    },
    types::{PeerId, uuid::Uuid},
};
use found::Counts;
use letters::Inbound;
use room::Room;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use teller::Duties;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use topic::{Head, Saved, Tellings, Topic};

/// Chats kept in memory while nobody uses them.
const HOT_MAX: usize = 8_192;

/// The handle; clones are the same chats.
#[derive(Clone)]
pub struct Chat(Arc<Inner>);

struct Inner {
    config: Config,
    store: Store,
    metrics: Metrics,
    key: NodeKey,
    /// How long messages wait for a home that is away.
    max_age: Duration,
    rooms: Mutex<HashMap<Uuid, Arc<Room>>>,
    unread: Unread,
    counts: Mutex<Counts>,
    /// The number of the newest chat.
    newest: AtomicU64,
    /// Set before the first call comes.
    federation: OnceLock<Federation>,
    inbound: Inbound,
    duties: Mutex<BTreeMap<PeerId, Duties>>,
    telling: Notify,
    opened_at: Instant,
    /// Names this run of the node.
    run: u64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the node hands in.
pub struct Parts {
    pub config: Config,
    pub store: Store,
    pub metrics: Metrics,
    pub key: NodeKey,
    /// How long what waits for another server is kept.
    pub max_age: Duration,
    /// Ends every task.
    pub stop: CancellationToken,
}

impl Chat {
    /// Reads what is kept. Ends when `stop` is cancelled; then wait for
    /// [`Chat::ended`].
    pub async fn open_on(parts: Parts) -> Result<(Self, Opened), Error> {
        let Parts { config, store, metrics, key, max_age, stop } = parts;
        let counts = Counts::new(store.chat_makers().await?, store.chat_usage().await?);
        let newest = store.newest_chat().await?;
        let (inbound, letters) = Inbound::new();
        let chat = Self(Arc::new(Inner {
            config,
            store,
            metrics,
            key,
            max_age,
            rooms: Mutex::default(),
            unread: Unread::default(),
            counts: Mutex::new(counts),
            newest: AtomicU64::new(newest),
            federation: OnceLock::new(),
            inbound,
            duties: Mutex::default(),
            telling: Notify::new(),
            opened_at: Instant::now(),
            run: getrandom::u64().map_err(Error::internal)?.max(1),
            stop,
            tasks: TaskTracker::new(),
        }));
        Ok((chat, Opened(letters)))
    }

    /// Gives the chats their way to other servers, and starts what they do by
    /// themselves.
    pub fn start(&self, federation: Federation, opened: Opened) {
        // A second one is not taken: there is one federation.
        let _ = self.0.federation.set(federation);
        self.0.tasks.spawn(self.clone().take_letters(opened.0));
        self.0.tasks.spawn(self.clone().tell());
        self.0.tasks.spawn(self.clone().keep());
    }

    /// Returns when every task has ended, after `stop`.
    pub async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn federation(&self) -> Result<&Federation, Error> {
        self.0.federation.get().ok_or_else(|| Error::unavailable("the node is starting; try again"))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Room>>> {
        self.0.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_number(&self) -> u64 {
        self.0.newest.fetch_add(1, Relaxed) + 1
    }

    /// A chat that is kept here.
    async fn room(&self, chat: Uuid) -> Result<Option<Arc<Room>>, Error> {
        if let Some(room) = self.rooms().get(&chat) {
            return Ok(Some(room.clone()));
        }
        Ok(self.0.store.chat(chat).await?.map(|row| self.enter(row)))
    }

    /// The chat of a row that was read; of several readings the first is kept.
    fn enter(&self, row: TopicRow) -> Arc<Room> {
        let (revision, seq, chain) = row.head;
        let saved = Saved {
            head: Head { revision, seq, chain },
            home: row.home,
            links: row.links.clone(),
            waiting: row.waiting,
            lost: row.lost,
            told: Tellings { last: row.told.0, away: row.told.1 },
        };
        let topic = Topic::new(saved, row.number, self.0.run);
        let mut rooms = self.rooms();
        if rooms.len() >= HOT_MAX {
            // Whoever has work to do, or is read, is held by somebody else too.
            rooms.retain(|_, room| Arc::strong_count(room) > 1);
        }
        rooms.entry(row.chat).or_insert_with(|| Arc::new(Room::new(row, topic))).clone()
    }

    /// Where messages are, of those that are in this chat.
    async fn places(&self, room: &Room, ids: &[Uuid]) -> Result<HashMap<Uuid, Place>, Error> {
        let mut places = self.0.store.chat_places(ids).await?;
        places.retain(|_, place| match place {
            Place::Logged(topic, _) | Place::Waiting(topic, ..) | Place::GivenUp(topic, ..) => *topic == room.number,
        });
        Ok(places)
    }
}

/// What came before the start, to be given to it.
pub struct Opened(mpsc::Receiver<letters::Came>);
