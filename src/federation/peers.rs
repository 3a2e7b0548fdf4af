//! One peer as the rest of the node sees it: who it is, how it fares, how to
//! talk to its driver.
//!
//! Owns the bounds of the peer's queue and lists and the memory of its nonces. Its row is
//! changed by the registry alone; its streams by its driver alone.

use super::{
    delivery::{self, State},
    driver::Command,
    lists::Lists,
    stream::Mark,
};
use crate::{
    error::Error,
    net::{
        answer::{Answer, Progress},
        connection::End,
        dial::Target,
    },
    store::{PeerKind, PeerRow, PeerTransport},
    types::{Millis, PeerId, PublicKey, ServerId},
};
use bytes::Bytes;
use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use crate::store::PeerTransport as Transport;

/// Commands that wait for a peer's driver.
pub const COMMANDS_MAX: usize = 32;
/// A driver takes its commands between two steps.
const TELL_PATIENCE: Duration = Duration::from_secs(5);
/// A bound token cannot be used again within the time window around it.
const NONCE_KEPT: Duration = Duration::from_secs(150);
const NONCES_MAX: usize = 65_536;
/// What the peer said of batches.
const UNHEARD: u8 = 0;
const TAKES_NOT: u8 = 1;
const TAKES: u8 = 2;

/// What the delivery machine's states are called outside.
const STATES: [&str; 3] = ["live", "retrying", "queued"];

/// How calls in either direction went. Inbound and outbound are apart: one may
/// work while the other does not.
#[derive(Debug, Clone, Default)]
pub struct Health {
    pub outbound_ok_at: Option<Millis>,
    pub inbound_ok_at: Option<Millis>,
    /// Empty when the last call went well.
    pub outbound_error: String,
    /// The last token of the peer was bound to its request.
    pub bound_tokens: Option<bool>,
}

/// Bounds of what may wait for one peer.
#[derive(Debug, Clone, Copy)]
pub struct QueueBounds {
    pub events: u64,
    pub bytes: u64,
}

pub struct Peer {
    row_id: PeerId,
    /// Shared with the registry's owner.
    row: RwLock<Arc<PeerRow>>,
    /// Boxed, as a channel makes room for many at once.
    commands: mpsc::Sender<Box<Command>>,
    newest: watch::Sender<u64>,
    queued_events: AtomicU64,
    queued_bytes: AtomicU64,
    failing: AtomicBool,
    /// Index into [`STATES`].
    state: AtomicU8,
    /// What it said of batches, in this process's life.
    courier: AtomicU8,
    /// Ends its stream of batches to us.
    stream: Mutex<CancellationToken>,
    lists: Lists,
    health: Mutex<Health>,
    nonces: Mutex<Nonces>,
}

impl Peer {
    /// `queued`: events and bytes that wait already.
    pub fn new(row: Arc<PeerRow>, commands: mpsc::Sender<Box<Command>>, newest: u64, queued: (u64, u64)) -> Self {
        let health =
            Health { outbound_ok_at: row.outbound_ok_at, inbound_ok_at: row.inbound_ok_at, ..Health::default() };
        Self {
            row_id: row.id,
            row: RwLock::new(row),
            commands,
            newest: watch::Sender::new(newest),
            queued_events: AtomicU64::new(queued.0),
            queued_bytes: AtomicU64::new(queued.1),
            failing: AtomicBool::new(false),
            state: AtomicU8::new(0),
            courier: AtomicU8::new(UNHEARD),
            stream: Mutex::default(),
            lists: Lists::default(),
            health: Mutex::new(health),
            nonces: Mutex::default(),
        }
    }

    pub fn row_id(&self) -> PeerId {
        self.row_id
    }

    /// A copy of its row as it is now.
    pub fn row(&self) -> PeerRow {
        PeerRow::clone(&self.shared_row())
    }

    fn shared_row(&self) -> Arc<PeerRow> {
        self.row.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_row(&self, row: Arc<PeerRow>) {
        let (key, removed) = (row.key.map(|key| key.key), row.removed);
        let was = std::mem::replace(&mut *self.row.write().unwrap_or_else(PoisonError::into_inner), row);
        if removed || key != was.key.map(|key| key.key) {
            self.lock_stream().cancel();
        }
    }

    // ----- its batches

    pub(super) fn has_courier(&self) -> bool {
        self.courier.load(Relaxed) == TAKES
    }

    pub(super) fn set_courier(&self, takes_batches: bool) {
        self.courier.store(if takes_batches { TAKES } else { TAKES_NOT }, Relaxed);
    }

    /// How events go to it: "courier" (batches) or "push" (one at a time); "unknown"
    /// before this process has heard what a pillarbox takes.
    pub fn lane(&self) -> &'static str {
        let row = self.shared_row();
        match (row.kind, self.courier.load(Relaxed)) {
            (PeerKind::Unknown, _) | (PeerKind::Pillarbox, UNHEARD) => "unknown",
            (PeerKind::Pillarbox, TAKES) if row.transport != PeerTransport::Hrpc => "courier",
            _ => "push",
        }
    }

    /// A stream of the peer begins, and the one before it ends: what is half dead
    /// must not be in the way. Cancelled when this one is to end.
    pub(super) fn begin_stream(&self) -> CancellationToken {
        let mut stream = self.lock_stream();
        stream.cancel();
        *stream = CancellationToken::new();
        stream.clone()
    }

    fn lock_stream(&self) -> MutexGuard<'_, CancellationToken> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn server_id(&self) -> ServerId {
        self.shared_row().server_id.clone()
    }

    pub fn key(&self) -> Option<PublicKey> {
        self.shared_row().key.map(|key| key.key)
    }

    pub fn transport(&self) -> Transport {
        self.shared_row().transport
    }

    /// The id by which it still knows this node, if it has not heard of a new one.
    pub fn known_as(&self) -> Option<ServerId> {
        self.shared_row().known_as.clone()
    }

    /// Where and how to connect.
    pub fn target(&self) -> Target {
        use crate::store::{KeyOrigin, PeerOrigin};
        let row = self.row();
        let pinned = row.key.filter(|key| key.origin == KeyOrigin::Operator).map(|key| key.key);
        Target {
            id: row.server_id,
            address: row.address.map(|address| (address.host, address.port)),
            plaintext: row.plaintext,
            http1: false,
            pinned,
            trusted: row.origin == PeerOrigin::Operator,
        }
    }

    // ----- its queue

    /// Takes room in the queue, or says which bound is in the way.
    pub fn reserve(&self, bounds: QueueBounds, events: u64, bytes: u64) -> Result<(), Error> {
        let id = || self.server_id();
        if self.queued_events.fetch_add(events, Relaxed) + events > bounds.events {
            self.queued_events.fetch_sub(events, Relaxed);
            return Err(Error::exhausted(format!(
                "the queue for {} is full: federation.queue_max_events = {}",
                id(),
                bounds.events
            )));
        }
        if self.queued_bytes.fetch_add(bytes, Relaxed) + bytes > bounds.bytes {
            self.release(events, bytes);
            return Err(Error::exhausted(format!(
                "the queue for {} is full: federation.queue_max_bytes = {} bytes",
                id(),
                bounds.bytes
            )));
        }
        Ok(())
    }

    /// Takes room whether there is any or not.
    pub(super) fn occupy(&self, events: u64, bytes: u64) {
        self.queued_events.fetch_add(events, Relaxed);
        self.queued_bytes.fetch_add(bytes, Relaxed);
    }

    /// Gives room back: rows left the queue, or never came into it.
    pub fn release(&self, events: u64, bytes: u64) {
        let less = |value: &AtomicU64, by: u64| {
            // Never below zero, should a count ever be off.
            let _ = value.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(by)));
        };
        less(&self.queued_events, events);
        less(&self.queued_bytes, bytes);
    }

    /// Sets what waits to what was counted in the store. Room that is being
    /// taken at this moment is left out: the bound is off by that much for a while.
    pub(super) fn recount(&self, queued: (u64, u64)) {
        self.queued_events.store(queued.0, Relaxed);
        self.queued_bytes.store(queued.1, Relaxed);
    }

    /// Events and bytes that wait.
    pub fn queued(&self) -> (u64, u64) {
        (self.queued_events.load(Relaxed), self.queued_bytes.load(Relaxed))
    }

    /// Rows through this number are committed.
    pub fn stored(&self, newest: u64) {
        self.newest.send_if_modified(|now| {
            let later = newest > *now;
            *now = newest.max(*now);
            later
        });
    }

    pub(super) fn watch_newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What it has added to the guild and invite lists.
    pub(super) fn lists(&self) -> &Lists {
        &self.lists
    }

    // ----- its driver

    /// Hands a command to the driver; UNAVAILABLE when too many wait.
    pub(super) fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.try_send(Box::new(command)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::unavailable(format!("too many calls of {} wait", self.server_id()))
            }
            mpsc::error::TrySendError::Closed(_) => Error::unavailable("the peer is being removed, or the node stops"),
        })
    }

    /// Hands over the operator's word, which waits its turn.
    pub(super) async fn tell(&self, command: Command) -> Result<(), Error> {
        match self.commands.send_timeout(Box::new(command), TELL_PATIENCE).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::unavailable(format!("{} is busy or being removed; try again", self.server_id()))),
        }
    }

    /// Asks the driver and waits for its answer, at most `patience`.
    pub(super) async fn ask<T>(
        &self,
        patience: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.command(command(reply))?;
        match timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Error::unavailable("the node stops, or another call went first")),
            Err(_) => Err(Error::unavailable(format!("not taken within {} s", patience.as_secs()))),
        }
    }

    // ----- how it fares

    pub fn health(&self) -> Health {
        self.lock_health().clone()
    }

    pub fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Relaxed);
    }

    /// "live", "retrying" or "queued", as its driver told last.
    pub fn state(&self) -> &'static str {
        STATES[usize::from(self.state.load(Relaxed)) % STATES.len()]
    }

    pub(super) fn set_state(&self, state: State) {
        let index = match state {
            State::Live => 0,
            State::Retrying { .. } => 1,
            State::Queued => 2,
        };
        self.state.store(index, Relaxed);
    }

    pub(super) fn note_outbound(&self, error: Option<&str>) {
        let mut health = self.lock_health();
        match error {
            None => {
                health.outbound_ok_at = Some(Millis::now());
                health.outbound_error.clear();
            }
            Some(text) => text.clone_into(&mut health.outbound_error),
        }
    }

    pub(super) fn note_inbound(&self, bound: bool) {
        let mut health = self.lock_health();
        health.inbound_ok_at = Some(Millis::now());
        health.bound_tokens = Some(bound);
    }

    fn lock_health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a nonce that was used.
    pub(super) fn use_nonce(&self, nonce: &[u8], now: Instant) -> Result<(), Error> {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce, now)
    }
}

/// A Pull of the peer as it came.
pub struct PullAsked {
    /// Absent from a stock peer.
    pub state: Option<Mark>,
    pub waiting: bool,
    /// Absent when the call came by no socket.
    pub evidence: Option<Evidence>,
}

/// What tells whether an answer reached a peer that cannot say so itself.
pub struct Evidence {
    /// Id of the connection.
    pub connection: u64,
    sent: Sent,
    ended: watch::Receiver<End>,
}

/// An answer on its way out.
#[derive(Clone)]
pub struct Sent {
    answer: Answer,
    progress: watch::Receiver<Progress>,
}

impl Sent {
    /// It was written whole and nobody has given it up. On a connection that
    /// then carries another request it has arrived.
    pub fn is_written(&self) -> bool {
        *self.progress.borrow() == Progress::Written && !self.answer.doubtful()
    }
}

/// No answer is under way for longer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

impl Evidence {
    /// To be called before the answer is given: nobody looks back.
    pub fn of(answer: &Answer) -> Self {
        let connection = answer.connection();
        Self {
            connection: connection.id(),
            sent: Sent { answer: answer.clone(), progress: answer.progress() },
            ended: connection.ended(),
        }
    }

    pub fn sent(&self) -> Sent {
        self.sent.clone()
    }

    /// The answer was written whole, and its connection lived on for `settle`
    /// (within which the system would have broken one that does not
    /// acknowledge) or ended in good order.
    pub async fn arrived(mut self, settle: Duration) -> bool {
        let over = self.sent.progress.wait_for(|progress| *progress != Progress::Pending);
        let written = match timeout(ANSWER_PATIENCE, over).await {
            Ok(Ok(progress)) => *progress == Progress::Written,
            Ok(Err(_)) | Err(_) => false,
        };
        if !written {
            return false;
        }
        let end = match timeout(settle, self.ended.wait_for(|end| *end != End::Open)).await {
            Ok(Ok(end)) => *end,
            Ok(Err(_)) => End::Broken,
            Err(_) => End::Open,
        };
        end != End::Broken && !self.sent.answer.doubtful()
    }
}

/// A run of events as it is answered: bodies and where each stands.
#[derive(Debug, Default)]
pub struct Page {
    pub rows: Vec<(super::stream::Position, Bytes)>,
    /// How far this node has applied the asker's stream.
    pub state: Mark,
}

impl From<PeerKind> for delivery::Kind {
    fn from(kind: PeerKind) -> Self {
        match kind {
            PeerKind::Unknown => Self::Unknown,
            PeerKind::Stock => Self::Stock,
            PeerKind::Pillarbox => Self::Ours,
        }
    }
}

impl From<delivery::Kind> for PeerKind {
    fn from(kind: delivery::Kind) -> Self {
        match kind {
            delivery::Kind::Unknown => Self::Unknown,
            delivery::Kind::Stock => Self::Stock,
            delivery::Kind::Ours => Self::Pillarbox,
        }
    }
}

/// Nonces used lately, oldest first.
#[derive(Debug, Default)]
struct Nonces {
    used: HashSet<Box<[u8]>>,
    order: VecDeque<(Instant, Box<[u8]>)>,
}

impl Nonces {
    fn insert(&mut self, nonce: &[u8], now: Instant) -> Result<(), Error> {
        while let Some((at, _)) = self.order.front()
            && now.saturating_duration_since(*at) > NONCE_KEPT
        {
            if let Some((_, old)) = self.order.pop_front() {
                self.used.remove(&old);
            }
        }
        if self.used.contains(nonce) {
            return Err(Error::Unauthenticated("the token was used before".into()));
        }
        if self.order.len() >= NONCES_MAX {
            return Err(Error::exhausted(format!("more than {NONCES_MAX} calls in {} s", NONCE_KEPT.as_secs())));
        }
        self.used.insert(nonce.into());
        self.order.push_back((now, nonce.into()));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
