//! One stream of `SubscribeMessages`: woken, it reads rows after what it has,
//! and hands them on as fast as its client reads.
//!
//! Order, repeats and giving up are `window.rs`'s word. What waits in memory
//! for a slow client is bounded for all streams of its party together
//! (`net/unread.rs`). A task of its own works on it (`net/feed.rs`): it ends, and its
//! subscription with it, when the client goes.

use super::{
    Relay,
    status::{Finish, Sent},
    window::{Due, Row as Seen, Window},
};
use crate::{
    error::Error,
    net::{
        feed::{Held, Room},
        unread::{PAGE_BYTES, pages},
    },
    proto::mpc::router::v1::MpcMessage,
    store::relay::OpenDelivery,
    types::Millis,
};
use futures_util::stream;
use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep_until,
};
use tokio_stream::Stream;
use tonic::Status;

/// Rows read in one go for one subscription.
const PAGE_ROWS: usize = 64;

pub type MessageStream = Pin<Box<dyn Stream<Item = Result<Held<MpcMessage>, Status>> + Send>>;

/// What the rest of the relay holds of a stream.
pub struct Subscription {
    pub party: String,
    /// `None`: all sessions.
    pub session: Option<String>,
    window: Mutex<Window>,
    wake: Notify,
    /// Why it is to end.
    ended: Mutex<Option<Error>>,
}

impl Subscription {
    pub fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New rows may be there, or the window has changed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn end(&self, why: Error) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.wake.notify_one();
    }

    fn why_ended(&self) -> Option<Error> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Gives the subscription up with the stream.
struct Reader {
    relay: Relay,
    id: u64,
    subscription: Arc<Subscription>,
    /// What the party's streams may hold.
    bound: Arc<Semaphore>,
    /// Read, to be handed on, with the room it takes.
    page: VecDeque<(OpenDelivery, Room)>,
    /// To be sent again, and which repeat it is.
    repeats: BTreeMap<u64, u32>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.relay.unsubscribe(self.id);
    }
}

impl Relay {
    /// Messages of a party in one session, or in all that have no subscription
    /// of their own: first what is not acknowledged, then live.
    pub async fn subscribe(&self, party: String, session: Option<String>) -> Result<MessageStream, Error> {
        if let Some(session) = &session {
            self.join(session, &party).await?;
        }
        let seed = getrandom::u64().map_err(Error::internal)?;
        let subscription = Arc::new(Subscription {
            party,
            session,
            window: Mutex::new(Window::new(self.redelivery(), seed)),
            wake: Notify::new(),
            ended: Mutex::new(None),
        });
        let id = self.open(subscription.clone())?;
        subscription.session.iter().for_each(|session| self.0.watchers.changed(session));
        let bound = self.0.unread.of(&subscription.party);
        let (page, repeats) = (VecDeque::new(), BTreeMap::new());
        let reader = Reader { relay: self.clone(), id, subscription, bound, page, repeats };
        Ok(Box::pin(stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(message) => Some((Ok(message), Some(reader))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }
}

impl Reader {
    /// The next message for the client; an error ends the stream.
    async fn next(&mut self) -> Result<Held<MpcMessage>, Error> {
        loop {
            if let Some(why) = self.subscription.why_ended() {
                return Err(why);
            }
            if let Some((row, room)) = self.page.pop_front() {
                if self.hand_on(&row) {
                    let answer = self.relay.message(row).await?;
                    return Ok(Held { answer, room: Some(room) });
                }
                continue;
            }
            if !self.read_due().await? && !self.read_repeats().await? && !self.read_new().await? {
                self.wait().await?;
            }
        }
    }

    /// Its time begins. `false`: it became final, or another subscription's,
    /// while it waited in the page.
    fn hand_on(&self, row: &OpenDelivery) -> bool {
        let mut window = self.subscription.window();
        if !window.holds(row.seq) {
            return false;
        }
        window.sent(Instant::now(), row.seq);
        drop(window);
        self.relay.note_sent(row.seq, &row.message.session, Sent { at: Millis::now(), retries: row.retries });
        true
    }

    /// Repeats what was not acknowledged in time, and gives up on what was sent
    /// often enough. Whether there was any.
    async fn read_due(&mut self) -> Result<bool, Error> {
        let due = self.subscription.window().due(Instant::now());
        let mut repeats = BTreeMap::new();
        for due in due {
            match due {
                Due::Repeat { seq, retries } => _ = repeats.insert(seq, retries),
                Due::GiveUp { seq } => self.relay.give_up(&self.subscription, seq).await?,
            }
        }
        if repeats.is_empty() {
            return Ok(false);
        }
        self.repeats.extend(repeats);
        Ok(true)
    }

    /// Reads some of what is to be repeated. Whether there was any.
    async fn read_repeats(&mut self) -> Result<bool, Error> {
        if self.repeats.is_empty() {
            return Ok(false);
        }
        let asked: Vec<u64> = self.repeats.keys().copied().take(PAGE_ROWS).collect();
        let read = || self.relay.0.store.open_deliveries(&asked, PAGE_BYTES);
        let (rows, room) = self.read_into_room(read, |rows| bytes(rows)).await?;
        // What was not read is final, or comes with the next page.
        let through = rows.last().filter(|_| rows.len() < asked.len()).map_or(u64::MAX, |row| row.seq);
        for seq in asked.into_iter().filter(|seq| *seq <= through) {
            let retries = self.repeats.remove(&seq).unwrap_or_default();
            match rows.iter().find(|row| row.seq == seq) {
                Some(row) => self.page.push_back((OpenDelivery { retries, ..row.clone() }, room.clone())),
                None => self.subscription.window().finished(seq),
            }
        }
        Ok(true)
    }

    /// Reads rows that this stream has not seen. Whether it read any.
    async fn read_new(&mut self) -> Result<bool, Error> {
        let Some((page, covered)) = self.relay.next_page(&self.subscription) else { return Ok(false) };
        let limit = page.limit.min(PAGE_ROWS);
        let Subscription { party, session, .. } = &*self.subscription;
        let (store, now) = (&self.relay.0.store, Millis::now());
        let read = || store.delivery_page(party, session.as_deref(), page.after, now, limit, PAGE_BYTES);
        let read = self.read_into_room(read, |(rows, _)| bytes(rows)).await;
        let ((rows, more), room) = read.inspect_err(|_| self.subscription.window().unread())?;
        let through = rows.last().map_or(page.after, |row| row.seq);
        let any = !rows.is_empty();
        let mine: Vec<OpenDelivery> = rows.into_iter().filter(|row| !covered.contains(&row.message.session)).collect();
        let held: Vec<Seen<'_>> =
            mine.iter().map(|row| Seen { seq: row.seq, session: &row.message.session, retries: row.retries }).collect();
        let fresh = self.subscription.window().read(&held, through, more);
        let fresh = mine.into_iter().filter(|row| fresh.binary_search(&row.seq).is_ok());
        self.page.extend(fresh.map(|row| (row, room.clone())));
        Ok(any)
    }

    /// Reads once there is room for what is read. A large row is let go of until
    /// there is.
    async fn read_into_room<T, F: Future<Output = Result<T, Error>>>(
        &self,
        read: impl Fn() -> F,
        bytes: impl Fn(&T) -> usize,
    ) -> Result<(T, Room), Error> {
        let mut room = self.room(1).await?;
        loop {
            let rows = read().await?;
            let needed = pages(bytes(&rows)).saturating_sub(u32::try_from(room.num_permits()).unwrap_or(u32::MAX));
            if needed == 0 {
                return Ok((rows, Arc::new(room)));
            }
            if let Ok(more) = self.bound.clone().try_acquire_many_owned(needed) {
                room.merge(more);
                return Ok((rows, Arc::new(room)));
            }
            let all = pages(bytes(&rows));
            drop((rows, room));
            room = self.room(all).await?;
        }
    }

    /// Waits for so many pages of room, unless the stream ends before.
    async fn room(&self, pages: u32) -> Result<OwnedSemaphorePermit, Error> {
        let mut room = std::pin::pin!(self.bound.clone().acquire_many_owned(pages));
        loop {
            tokio::select! {
                biased;
                room = &mut room => return room.map_err(Error::internal),
                () = self.subscription.wake.notified() => {
                    if let Some(why) = self.subscription.why_ended() {
                        return Err(why);
                    }
                }
                () = self.relay.0.stop.cancelled() => return Err(stops()),
            }
        }
    }

    async fn wait(&self) -> Result<(), Error> {
        let deadline = self.subscription.window().deadline();
        tokio::select! {
            () = self.subscription.wake.notified() => Ok(()),
            () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => Ok(()),
            () = self.relay.0.stop.cancelled() => {
                Err(stops())
            }
        }
    }
}

pub(super) fn stops() -> Error {
    Error::unavailable("the node stops; subscribe again, nothing is lost")
}

fn bytes(rows: &[OpenDelivery]) -> usize {
    rows.iter().map(|row| row.body.len()).sum()
}

impl Relay {
    /// A delivery whose last try went unanswered has failed.
    async fn give_up(&self, subscription: &Subscription, seq: u64) -> Result<(), Error> {
        let Some(row) = self.0.store.open_deliveries(&[seq], PAGE_BYTES).await?.into_iter().next() else {
            subscription.window().finished(seq);
            return Ok(());
        };
        let error = format!("not acknowledged after {} tries", self.0.config.redeliver_tries);
        let OpenDelivery { message, .. } = row;
        let (party, session) = (subscription.party.clone(), message.session);
        self.finish(Finish { seq, message: message.number, origin: message.origin, party, session }, true, error).await
    }
}
