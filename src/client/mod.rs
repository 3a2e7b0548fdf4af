//! The MPC router from Rust: a client of one node, as one of its parties
//! (floor 3; imports floors 0 to 2 only). The push channel, as one of its
//! gateways, is in `push.rs`.
//!
//! It outlives the node's restarts: calls are tried again (a message under the
//! key it had, so it stays one message), streams subscribe again and go on
//! where they were. Each outage is waited out for a stated time, then it is an
//! error. What it waits for it holds, never more: no unbounded queue, and no
//! task outlives the client and its streams by more than one attempt.

mod acks;
mod backoff;
mod connection;
mod error;
mod events;
mod live;
mod messages;
mod options;
mod outbox;
mod push;
#[cfg(feature = "round-based")]
pub mod round_based;
mod seen;

pub use crate::proto::mpc::router::v1::{
    GetMessageStatusResponse as Status, HeartbeatResponse as Heartbeat, MessageDeliveryStatus as Delivery, MpcMessage,
    RegisteredParty, SessionEvent,
};
pub use error::Error;
pub use events::Events;
pub use messages::{Acknowledge, Messages, Received};
pub use options::Options;
pub use outbox::{Outbox, Outgoing};
pub use push::{Fed, Feed, Push};

use crate::proto::mpc::router::v1::{
    GetMessageStatusRequest, GetPendingMessagesRequest, GetRegisteredPartiesRequest, HeartbeatRequest,
    PublishSessionEventRequest, RegisterPartyRequest, RouteMessageRequest,
};
use connection::{Api, Connection};
use std::sync::Arc;
use tonic::metadata::{Ascii, MetadataValue};

/// A party of a node, or a service beside it. Cheap to clone; clones share one
/// connection.
///
/// ```no_run
/// # async fn party() -> Result<(), Box<dyn std::error::Error>> {
/// use pillarbox::client::{Acknowledge, Client, Options, Outgoing};
/// use tokio_stream::StreamExt;
///
/// let token = std::env::var("PILLARBOX_TOKEN")?; // pillarbox token new party:alice
/// let node = Options::new("https://a.example:7443", "alice", &token)?.pinned("8Rb…=".parse()?);
/// let alice = Client::connect(node).await?;
///
/// alice.route(Outgoing::to("s1", ["bob@b.example:7443"], "hello").round(1)).await?;
/// let mut messages = alice.messages("s1", Acknowledge::WhenTaken);
/// while let Some(message) = messages.next().await {
///     let message = message?; // an error is the end: a refusal, or the node is away for too long
///     println!("{}: {} bytes", message.from_party, message.payload.len());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connection: Arc<Connection>,
    acks: acks::Sender,
}

impl Client {
    /// Connects, and waits until the node answers. [`Error::Untrusted`] and a
    /// refused token are told at once, what may pass is tried for the
    /// patience of the options. To be called on a tokio runtime.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let connection = Arc::new(Connection::new(options)?);
        let mut outage = connection.outage();
        loop {
            let deadline = tokio::time::Instant::now() + connection.attempt();
            let answered = match connection.link(deadline).await {
                Ok(link) => connection.answers(&link).await,
                Err(failure) => Err(failure),
            };
            match answered {
                Ok(()) => break,
                Err(failure) => outage.wait(failure).await?,
            }
        }
        let acks = acks::start(connection.clone());
        Ok(Self { shared: Arc::new(Shared { connection, acks }) })
    }

    /// The party this client acts as.
    pub fn party(&self) -> &str {
        self.shared.connection.party()
    }

    /// Registers the party, or changes its registration. `role`: persistent,
    /// delegate or temporary.
    pub async fn register(&self, role: &str) -> Result<(), Error> {
        let request = RegisterPartyRequest {
            party_id: self.party().to_owned(),
            party_role: role.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            notification: None,
        };
        let connection = &self.shared.connection;
        let call = |mut api: Api| {
            let request = connection.request(request.clone());
            async move { api.register_party(request).await }
        };
        connection.call(call).await.map(drop)
    }

    /// Says that the (registered) party is there; the answer, how much waits
    /// for it.
    pub async fn heartbeat(&self) -> Result<Heartbeat, Error> {
        let connection = &self.shared.connection;
        let call = |mut api: Api| {
            let request = connection.request(HeartbeatRequest { party_id: self.party().to_owned(), timestamp: 0 });
            async move { api.heartbeat(request).await }
        };
        connection.call(call).await
    }

    /// The parties registered at this node. `role`: empty for all.
    pub async fn parties(&self, role: &str, only_online: bool) -> Result<Vec<RegisteredParty>, Error> {
        let connection = &self.shared.connection;
        let call = |mut api: Api| {
            let request = GetRegisteredPartiesRequest { role_filter: role.to_owned(), only_online };
            let request = connection.request(request);
            async move { api.get_registered_parties(request).await }
        };
        connection.call(call).await.map(|answer| answer.parties)
    }

    /// Routes a message; returns its id once the node has it on disk. Tried
    /// again after a broken connection it stays one message.
    pub async fn route(&self, message: Outgoing) -> Result<String, Error> {
        let Outgoing { session, to, round, kind, payload, key } = message;
        let key = match key {
            Some(key) => key,
            None => random_id()?,
        };
        let key: MetadataValue<Ascii> =
            key.parse().map_err(|_| Error::invalid("idempotency_key: it is not visible ASCII"))?;
        let message = RouteMessageRequest {
            session_id: session,
            from_party: self.party().to_owned(),
            to_parties: to,
            round_number: round,
            message_type: kind,
            payload,
        };
        let connection = &self.shared.connection;
        let call = |mut api: Api| {
            let mut request = connection.request(message.clone());
            request.metadata_mut().insert("idempotency-key", key.clone());
            async move { api.route_message(request).await }
        };
        connection.call(call).await.map(|answer| answer.message_id)
    }

    /// [`route`](Self::route) as a `Sink`.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(self.clone())
    }

    /// The messages of a session, or with an empty one of all sessions that
    /// have no stream of their own: first what is not acknowledged, then as
    /// they come. Each once a stream, in the order in which they were stored,
    /// whatever connections break and nodes restart meanwhile.
    ///
    /// A party has one stream a session: another one, here or in another
    /// process, ends this one with [`Aborted`](tonic::Code::Aborted).
    pub fn messages(&self, session: &str, acknowledge: Acknowledge) -> Messages {
        Messages::new(self.shared.clone(), session.to_owned(), acknowledge)
    }

    /// Returns when all that was acknowledged by [`Acknowledge::WhenTaken`] is
    /// known to the node, with the last failure since the call before. To be
    /// called before a process ends: what is not acknowledged comes again.
    pub async fn flush(&self) -> Result<(), Error> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let gone = || Error::invalid("the runtime that the client was made on has ended");
        self.shared.acks.send(acks::Order::Flush(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// What waits for the party in a session (empty: in all), without taking
    /// it; at most one answer of the node (about 1 MiB), the oldest first.
    /// `after`: only what was stored after this, in milliseconds since 1970.
    pub async fn pending(&self, session: &str, after: i64) -> Result<Vec<MpcMessage>, Error> {
        let request = GetPendingMessagesRequest {
            session_id: session.to_owned(),
            party_id: self.party().to_owned(),
            after_timestamp: after,
        };
        let connection = &self.shared.connection;
        let call = |mut api: Api| {
            let request = connection.request(request.clone());
            async move { api.get_pending_messages(request).await }
        };
        connection.call(call).await.map(|answer| answer.messages)
    }

    /// Acknowledges a message by its id, as [`Received::acknowledge`] does.
    pub async fn acknowledge(&self, session: &str, message_id: &str) -> Result<(), Error> {
        acks::finish(&self.shared.connection, message_id.to_owned(), session.to_owned(), None).await
    }

    /// How a message fares with each of its recipients: pending, delivered,
    /// acknowledged or failed.
    pub async fn status(&self, message_id: &str) -> Result<Status, Error> {
        let request = GetMessageStatusRequest { message_id: message_id.to_owned(), session_id: String::new() };
        let connection = &self.shared.connection;
        let call = |mut api: Api| {
            let request = connection.request(request.clone());
            async move { api.get_message_status(request).await }
        };
        connection.call(call).await
    }

    /// Publishes a session event (a `service:` token may); returns how many
    /// streams of this node it concerns. Without an `event_id` it gets one
    /// here, so that trying again does not publish it twice.
    pub async fn publish(&self, mut event: SessionEvent) -> Result<i32, Error> {
        if event.event_id.is_empty() {
            event.event_id = random_id()?;
        }
        let connection = &self.shared.connection;
        let call = |mut api: Api| {
            let request = connection.request(PublishSessionEventRequest { event: Some(event.clone()) });
            async move { api.publish_session_event(request).await }
        };
        connection.call(call).await.map(|answer| answer.subscriber_count)
    }

    /// The session events that name the party (a service without one: all),
    /// first those that have not expired, then as they come; each once a
    /// stream. `types`: only these; empty for all.
    pub fn events<T: Into<String>>(&self, types: impl IntoIterator<Item = T>) -> Events {
        Events::new(self.shared.clone(), types.into_iter().map(Into::into).collect())
    }
}

fn random_id() -> Result<String, Error> {
    let half =
        || getrandom::u64().map_err(|cause| Error::invalid(format!("this machine gives no randomness: {cause}")));
    Ok(format!("{:016x}{:016x}", half()?, half()?))
}
