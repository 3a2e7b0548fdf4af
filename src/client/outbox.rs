//! Messages on their way out: what one is, and a `Sink` that routes them one
//! after the other.

use super::{Client, error::Error};
use bytes::Bytes;
use futures_util::{Sink, future::BoxFuture};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// A message to be routed.
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub(super) session: String,
    pub(super) to: Vec<String>,
    pub(super) round: i32,
    pub(super) kind: String,
    pub(super) payload: Bytes,
    pub(super) key: Option<String>,
}

impl fmt::Debug for Outgoing {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("session", &self.session)
            .field("to", &self.to)
            .field("round", &self.round)
            .field("kind", &self.kind)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// To these parties: `name` of the same node, `name@host:port` of another.
    pub fn to<P: Into<String>>(session: &str, to: impl IntoIterator<Item = P>, payload: impl Into<Bytes>) -> Self {
        Self { to: to.into_iter().map(Into::into).collect(), ..Self::broadcast(session, payload) }
    }

    /// To all parties of the session but the sender: those of its latest
    /// event, or whoever sent or subscribed in a session nobody announced.
    pub fn broadcast(session: &str, payload: impl Into<Bytes>) -> Self {
        let (session, payload) = (session.to_owned(), payload.into());
        Self { session, to: vec![], round: 0, kind: String::new(), payload, key: None }
    }

    #[must_use]
    pub fn round(mut self, round: i32) -> Self {
        self.round = round;
        self
    }

    /// `message_type` of the contract: whatever the parties make of it.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.kind);
        self
    }

    /// A key of the caller's own, ASCII of 1 to 256 bytes: the same message
    /// under the same key is the same message, also from another process.
    /// Without it each message gets one that holds while the client tries.
    #[must_use]
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }
}

/// A `Sink` of [`Outgoing`]: one message is under way at a time, so they are
/// stored in the order in which they were given, whatever breaks in between.
/// Flushed means stored by the node. A message that failed is gone, with its
/// error; the next one may be sent.
pub struct Outbox {
    client: Client,
    under_way: Option<BoxFuture<'static, Result<String, Error>>>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("busy", &self.under_way.is_some()).finish_non_exhaustive()
    }
}

impl Outbox {
    pub(super) fn new(client: Client) -> Self {
        Self { client, under_way: None }
    }

    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(under_way) = &mut self.under_way {
            let done = ready!(under_way.as_mut().poll(cx));
            self.under_way = None;
            done?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink<Outgoing> for Outbox {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.settle(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Outgoing) -> Result<(), Error> {
        if self.under_way.is_some() {
            return Err(Error::invalid("start_send before poll_ready: a message is under way"));
        }
        let client = self.client.clone();
        self.under_way = Some(Box::pin(async move { client.route(message).await }));
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.settle(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.settle(cx)
    }
}
