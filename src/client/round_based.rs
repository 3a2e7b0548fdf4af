//! Protocols written on the `round-based` crate, over the router, unchanged.
//!
//! Party number i of the protocol is a name of the router. One session is one
//! run of one protocol: it is announced to its parties first, since a broadcast
//! goes to whom the session's latest event names. Messages travel as JSON, with
//! the protocol's round as `round_number`.
//!
//! Delivery, not agreement: a party that tells two others two things in one
//! broadcast is not stopped here (`enforce_reliable_broadcast` and the like do
//! that in the protocol). Who sent a message, its node vouches for; what it
//! says, both nodes can read: with a node for each party nobody else does.

use super::{Acknowledge, Client, Error, Messages, Outbox, Outgoing};
use futures_util::Sink;
use round_based::{Incoming, MessageDestination, MessageType, MpcParty, PartyIndex, ProtocolMessage};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio_stream::Stream;

/// A party that is connected: what the protocols of `round-based` ask for.
pub type Party<M> = MpcParty<M, (Incomings<M>, Outgoings<M>)>;

/// Why a protocol's message was not sent or not read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeliveryError {
    #[error(transparent)]
    Client(#[from] Error),
    /// A party of this run sent what is no message of this protocol.
    #[error("message {message_id} of {from}: {cause}")]
    Malformed { from: String, message_id: String, cause: String },
    /// The protocol's own message cannot be sent.
    #[error("{0}")]
    Unsendable(String),
}

/// Takes part in one run of a protocol.
///
/// `session`: of this run alone, announced with these parties. `protocol`: the
/// `message_type` of what is sent, for whoever looks on. `parties`: the name of
/// each by its index, all of them qualified (`name@host:port`), or those of
/// this client's own node without it; the same list at every party. `own`: the
/// index of the client's party.
///
/// [`Error::Invalid`] when the list makes no sense. Messages are acknowledged
/// when the protocol takes them; [`Client::flush`] waits until the node knows.
/// A run does not outlive its process: start another one, in another session.
///
/// ```no_run
/// # use pillarbox::client::{Client, round_based};
/// # async fn run<M>(client: &Client) -> Result<(), Box<dyn std::error::Error>>
/// # where M: ::round_based::ProtocolMessage + serde::Serialize + serde::de::DeserializeOwned + 'static {
/// # async fn keygen<P: ::round_based::Mpc>(_: u16, _: u16, _: P) {}
/// let parties = ["alice@a.example:7443", "bob@b.example:7443", "carol@c.example:7443"];
/// let party = round_based::connect::<M>(client, "keygen-1", "keygen", &parties, 0)?;
/// let share = keygen(0, 3, party).await;
/// client.flush().await?;
/// # Ok(()) }
/// ```
pub fn connect<M>(
    client: &Client,
    session: &str,
    protocol: &str,
    parties: &[impl AsRef<str>],
    own: PartyIndex,
) -> Result<Party<M>, Error>
where
    M: ProtocolMessage + Serialize + DeserializeOwned,
{
    let seats = Arc::new(Seats::new(client.party(), parties, own)?);
    if session.is_empty() {
        return Err(Error::invalid("session: it is empty; a run has a session of its own"));
    }
    let messages = client.messages(session, Acknowledge::WhenTaken);
    let incomings = Incomings { messages, seats: seats.clone(), protocol: PhantomData };
    let (session, kind) = (session.to_owned(), protocol.to_owned());
    let outgoings = Outgoings { outbox: client.outbox(), seats, session, kind, protocol: PhantomData };
    Ok(MpcParty::connected((incomings, outgoings)))
}

/// Who has which index.
#[derive(Debug)]
struct Seats {
    /// As they are written to the router.
    names: Vec<String>,
    own: usize,
    /// Of the own party, if its name has one.
    server: Option<String>,
}

/// Name, and server in lower case.
fn split(text: &str) -> (&str, Option<String>) {
    match text.rsplit_once('@') {
        Some((name, server)) => (name, Some(server.to_ascii_lowercase())),
        None => (text, None),
    }
}

impl Seats {
    fn new(party: &str, parties: &[impl AsRef<str>], own: PartyIndex) -> Result<Self, Error> {
        let names: Vec<String> = parties.iter().map(|name| name.as_ref().to_owned()).collect();
        let own = usize::from(own);
        let (name, server) = split(
            names
                .get(own)
                .ok_or_else(|| Error::invalid(format!("own: there is no party {own} among {}", names.len())))?,
        );
        if name != split(party).0 {
            return Err(Error::invalid(format!("own: party {own} is {name}, and the client is {party}")));
        }
        if PartyIndex::try_from(names.len()).is_err() {
            return Err(Error::invalid(format!("parties: {}; an index has 16 bits", names.len())));
        }
        let seats = Self { server, own, names };
        if let Some(twice) = seats.names.iter().enumerate().find(|(at, name)| seats.find(name) != Some(*at)) {
            return Err(Error::invalid(format!("parties: {} is there twice", twice.1)));
        }
        Ok(seats)
    }

    /// The same party has the same identity, however its name is written.
    fn identity<'a>(&self, text: &'a str) -> (&'a str, Option<String>) {
        let (name, server) = split(text);
        (name, server.filter(|server| Some(server) != self.server.as_ref()))
    }

    fn find(&self, text: &str) -> Option<usize> {
        let wanted = self.identity(text);
        self.names.iter().position(|name| self.identity(name) == wanted)
    }

    /// The index of who sent a message; `None`: nobody of this run.
    fn sender(&self, from: &str) -> Option<PartyIndex> {
        self.find(from).filter(|at| *at != self.own).and_then(|at| PartyIndex::try_from(at).ok())
    }
}

/// What the other parties sent, as a stream.
#[derive(Debug)]
pub struct Incomings<M> {
    messages: Messages,
    seats: Arc<Seats>,
    protocol: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned> Stream for Incomings<M> {
    type Item = Result<Incoming<M>, DeliveryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(message) = ready!(Pin::new(&mut self.messages).poll_next(cx)) else { return Poll::Ready(None) };
            let message = match message {
                Ok(message) => message,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
            let Some(sender) = self.seats.sender(&message.from_party) else {
                tracing::warn!(from = message.from_party, "a message of nobody who takes part in this run");
                continue;
            };
            let msg_type = if message.is_broadcast { MessageType::Broadcast } else { MessageType::P2P };
            let read = serde_json::from_slice(&message.payload).map_err(|cause| DeliveryError::Malformed {
                from: message.from_party.clone(),
                message_id: message.message_id.clone(),
                cause: cause.to_string(),
            });
            let incoming = read.map(|msg| Incoming { id: number(&message.message_id), sender, msg_type, msg });
            return Poll::Ready(Some(incoming));
        }
    }
}

/// The number that an id of our nodes begins with: with the sender it names
/// the message. Of another router's id the hash of its text.
fn number(message_id: &str) -> u64 {
    let own = message_id.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    own.unwrap_or_else(|| {
        // FNV-1a: stable, and a name is all that is wanted.
        message_id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    })
}

/// What goes to the other parties, as a sink: one after the other, each stored
/// by the node before the next.
#[derive(Debug)]
pub struct Outgoings<M> {
    outbox: Outbox,
    seats: Arc<Seats>,
    session: String,
    kind: String,
    protocol: PhantomData<fn(M)>,
}

impl<M: ProtocolMessage + Serialize> Outgoings<M> {
    fn message(&self, message: round_based::Outgoing<M>) -> Result<Outgoing, DeliveryError> {
        let payload = serde_json::to_vec(&message.msg).map_err(|cause| {
            DeliveryError::Unsendable(format!("a message of round {} is no JSON: {cause}", message.msg.round()))
        })?;
        let outgoing = match message.recipient {
            MessageDestination::AllParties => Outgoing::broadcast(&self.session, payload),
            MessageDestination::OneParty(to) => {
                let name = self.seats.names.get(usize::from(to)).filter(|_| usize::from(to) != self.seats.own);
                let name = name.ok_or_else(|| DeliveryError::Unsendable(format!("there is no other party {to}")))?;
                Outgoing::to(&self.session, [name.as_str()], payload)
            }
        };
        Ok(outgoing.round(i32::from(message.msg.round())).kind(&self.kind))
    }
}

impl<M: ProtocolMessage + Serialize> Sink<round_based::Outgoing<M>> for Outgoings<M> {
    type Error = DeliveryError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        Pin::new(&mut self.outbox).poll_ready(cx).map_err(DeliveryError::from)
    }

    fn start_send(mut self: Pin<&mut Self>, message: round_based::Outgoing<M>) -> Result<(), DeliveryError> {
        let message = self.message(message)?;
        Ok(Pin::new(&mut self.outbox).start_send(message)?)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        Pin::new(&mut self.outbox).poll_flush(cx).map_err(DeliveryError::from)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        Pin::new(&mut self.outbox).poll_close(cx).map_err(DeliveryError::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTIES: [&str; 3] = ["alice@a.example:1", "alice@B.example:2", "bob@a.example:1"];

    #[test]
    fn a_sender_is_found_however_its_name_is_written() {
        let seats = Seats::new("alice", &PARTIES, 0).unwrap();
        for (from, seat) in [
            ("alice@b.example:2", Some(1)),
            ("bob", Some(2)),
            ("bob@A.example:1", Some(2)),
            ("bob@b.example:2", None),
            ("mallory", None),
            ("alice", None), // itself
        ] {
            assert_eq!(seats.sender(from), seat, "{from}");
        }
        let short = Seats::new("bob", &["alice@b.example:2", "bob", "carol"], 1).unwrap();
        assert_eq!((short.sender("carol"), short.sender("alice@b.example:2")), (Some(2), Some(0)));
        assert_eq!(short.sender("alice"), None);
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused() {
        for (party, parties, own) in [
            ("alice", &PARTIES[..], 3),
            ("alice", &PARTIES[..], 2),
            ("alice", &["alice@a.example:1", "alice@A.example:1"], 0),
            ("alice", &["alice@a.example:1", "bob", "bob@a.example:1"], 0),
        ] {
            assert!(matches!(Seats::new(party, parties, own), Err(Error::Invalid(_))), "{parties:?} {own}");
        }
    }

    #[test]
    fn the_number_of_a_message_is_read_from_its_id() {
        assert_eq!(number("00000000000000ff0123456789abcdef"), 255);
        assert_ne!(number("msg-1"), number("msg-2"));
    }
}
