//! The messages of the client's party, as a stream: each once, in order, over
//! any number of connections.
//!
//! Reads when polled. A message is acknowledged by a task, so that the last
//! one needs no further poll.

use super::{
    Shared, acks,
    acks::{Order, Permit},
    error::Error,
    live::Live,
    seen::{Key, Seen},
};
use crate::proto::mpc::router::v1::{MpcMessage, SubscribeMessagesRequest};
use futures_util::stream;
use std::{
    fmt,
    ops::Deref,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio_stream::Stream;

/// When a message counts as delivered, so that the node forgets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledge {
    /// When the stream hands it over: at once, by itself. A process that ends
    /// after that does not get the message again.
    WhenTaken,
    /// When [`Received::acknowledge`] is called. Until then the node keeps it,
    /// and the stream its id: another stream gets it again, this one does not.
    /// A node sends no more than `relay.max_unacknowledged` ahead, and gives a
    /// message up that a live stream does not acknowledge for long
    /// (`relay.redeliver_tries`).
    ByHand,
}

/// A stream of [`Received`]; made by [`Client::messages`](super::Client::messages).
///
/// After an error it ends.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Messages(Pin<Box<dyn Stream<Item = Result<Received, Error>> + Send>>);

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

impl Stream for Messages {
    type Item = Result<Received, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// A message of the router.
#[derive(Clone)]
pub struct Received {
    message: MpcMessage,
    shared: Arc<Shared>,
    seen: Arc<Mutex<Seen>>,
}

impl fmt::Debug for Received {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MpcMessage { message_id, session_id, from_party, payload, .. } = &self.message;
        f.debug_struct("Received")
            .field("message_id", message_id)
            .field("session_id", session_id)
            .field("from_party", from_party)
            .field("bytes", &payload.len())
            .finish_non_exhaustive()
    }
}

impl Deref for Received {
    type Target = MpcMessage;

    fn deref(&self) -> &MpcMessage {
        &self.message
    }
}

impl Received {
    pub fn into_inner(self) -> MpcMessage {
        self.message
    }

    /// Tells the node that the message is done with; returns when it knows.
    /// Doing it again is no error.
    pub async fn acknowledge(&self) -> Result<(), Error> {
        self.finish(None).await
    }

    /// Tells the node that the message cannot be used: it has failed, and is
    /// not sent again. The sender sees that in its status.
    pub async fn refuse(&self, why: &str) -> Result<(), Error> {
        self.finish(Some(why.to_owned())).await
    }

    async fn finish(&self, failed: Option<String>) -> Result<(), Error> {
        let MpcMessage { message_id, session_id, .. } = &self.message;
        acks::finish(&self.shared.connection, message_id.clone(), session_id.clone(), failed).await?;
        lock(&self.seen).settle(key(&self.message));
        Ok(())
    }
}

fn key(message: &MpcMessage) -> Key {
    (message.from_party.clone(), message.message_id.clone())
}

/// Held for one look.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reader {
    live: Live<MpcMessage>,
    shared: Arc<Shared>,
    session: String,
    acknowledge: Acknowledge,
    seen: Arc<Mutex<Seen>>,
}

impl Messages {
    pub(super) fn new(shared: Arc<Shared>, session: String, acknowledge: Acknowledge) -> Self {
        let live = Live::new(shared.connection.clone());
        let reader = Reader { live, shared, session, acknowledge, seen: Arc::default() };
        Self(Box::pin(stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(received) => Some((Ok(received), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Received, Error> {
        let connection = self.shared.connection.clone();
        let request =
            SubscribeMessagesRequest { session_id: self.session.clone(), party_id: connection.party().to_owned() };
        loop {
            let subscribe = |mut api: super::connection::Api| {
                let request = connection.request(request.clone());
                async move { api.subscribe_messages(request).await }
            };
            let message = self.live.next(subscribe).await?;
            // Nothing waits between the acknowledgement and its message's leaving.
            let room = match self.acknowledge {
                Acknowledge::WhenTaken => Some(self.room().await?),
                Acknowledge::ByHand => None,
            };
            let new = lock(&self.seen).note(key(&message));
            if let Some(room) = room {
                // A repeat, too: the node has not heard of the first.
                let (message_id, session_id) = (message.message_id.clone(), message.session_id.clone());
                room.send(Order::Acknowledge { message_id, session_id });
                if new {
                    lock(&self.seen).settle(key(&message));
                }
            }
            if new {
                return Ok(Received { message, shared: self.shared.clone(), seen: self.seen.clone() });
            }
        }
    }

    async fn room(&self) -> Result<Permit, Error> {
        let closed = |_| Error::invalid("the runtime that the client was made on has ended");
        self.shared.acks.clone().reserve_owned().await.map_err(closed)
    }
}
