//! `pillarbox.push.v1.Publisher`: backends tell users something through their
//! gateways.
//!
//! Verifies who calls and what it says, and submits one row.

use super::Push;
use crate::{
    error::Error,
    identity::{principal::Principal, tokens::Tokens, users::Users},
    proto::pillarbox::push::v1::{
        PublishRequest, PublishResponse,
        publisher_server::{Publisher as Face, PublisherServer},
    },
    store::{
        Change,
        push::{NewEvent, What},
    },
    types::{Cursor, Millis},
};
use serde::de::IgnoredAny;
use tonic::{Request, Response, Status};

/// Bytes of one payload.
pub const PAYLOAD_MAX: usize = 64 << 10;
const KIND_MAX: usize = 128;
const SESSION_MAX: usize = 64;
const ID_MAX: usize = 128;
/// A request has more beside its payload.
const REQUEST_MAX: usize = 256 << 10;
/// What kinds and ids of this node's own events begin with.
const OWN_KINDS: [&str; 3] = ["chat.", "mpc.", "harmony."];
const OWN_IDS: [&str; 3] = ["chat:", "mpc:", "harmony:"];

/// The service; hold it behind the node's one port.
#[derive(Clone)]
pub struct Publisher {
    push: Push,
    tokens: Tokens,
    users: Users,
}

impl Push {
    pub fn publisher_service(&self, tokens: Tokens, users: Users) -> PublisherServer<Publisher> {
        let service = Publisher { push: self.clone(), tokens, users };
        PublisherServer::new(service).max_decoding_message_size(REQUEST_MAX)
    }

    /// Something was published to the user under this event's id: it is a retry,
    /// whatever has become of the session since.
    async fn has(&self, event: &NewEvent) -> Result<bool, Error> {
        Ok(self.0.store.push_event(&event.event_id, &event.users[0]).await?.is_some())
    }

    /// Stores an event; when this returns it is on disk. Returns its cursor;
    /// none: nobody would read it, and nothing was kept.
    async fn publish(&self, event: NewEvent, named: bool) -> Result<Option<u64>, Error> {
        let done = self.0.store.submit(Change::from(event.clone())).await?;
        let pushed = done.pushed;
        if pushed.is_empty() {
            return Ok(None);
        }
        self.0.metrics.push_published.inc();
        let first = match named && done.push_repeats {
            true => self.0.store.push_event(&event.event_id, &event.users[0]).await?,
            false => None,
        };
        // It may have left the window since.
        let Some(first) = first else { return Ok(Some(pushed.start)) };
        let same = matches!(&first.what, What::Event { kind, payload, .. } if *kind == event.kind && *payload == event.payload);
        if !same || first.session != event.session {
            return Err(Error::Conflict(
                "event_id: another event was published to this user under this id; a retry is the same event".into(),
            ));
        }
        Ok(Some(first.cursor))
    }
}

/// The request, checked; all but whose it is.
fn checked(request: PublishRequest, now: Millis) -> Result<(NewEvent, bool), Error> {
    let PublishRequest { user_id, device_session_id, kind, payload, mut event_id, request_id, trace_id } = request;
    check_kind(&kind)?;
    for (field, text, limit) in [
        ("device_session_id", &device_session_id, SESSION_MAX),
        ("event_id", &event_id, ID_MAX),
        ("request_id", &request_id, ID_MAX),
        ("trace_id", &trace_id, ID_MAX),
    ] {
        if text.len() > limit {
            return Err(Error::invalid(format!("{field}: {} bytes; the limit is {limit}", text.len())));
        }
    }
    if OWN_IDS.iter().any(|own| event_id.starts_with(own)) {
        return Err(Error::invalid(format!("event_id: ids that begin with one of {OWN_IDS:?} are this node's own")));
    }
    if payload.len() > PAYLOAD_MAX {
        return Err(Error::invalid(format!("payload: {} bytes; the limit is {PAYLOAD_MAX}", payload.len())));
    }
    let text = std::str::from_utf8(&payload).map_err(|error| Error::invalid(format!("payload: {error}")))?;
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(Error::invalid(format!("payload: not JSON: {error}")));
    }
    let named = !event_id.is_empty();
    if !named {
        event_id = format!("{:016x}{:016x}", random()?, random()?);
    }
    let (users, session) = (vec![user_id], device_session_id);
    Ok((NewEvent { users, session, kind, payload, event_id, request_id, trace_id, stored_at: now }, named))
}

fn check_kind(kind: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'.';
    if kind.is_empty() || kind.len() > KIND_MAX || !kind.bytes().all(allowed) {
        return Err(Error::invalid(format!("kind: 1 to {KIND_MAX} characters of a-z, 0-9, \"_\" and \".\"")));
    }
    match OWN_KINDS.iter().any(|own| kind.starts_with(own)) {
        true => Err(Error::invalid(format!("kind: kinds that begin with one of {OWN_KINDS:?} are this node's own"))),
        false => Ok(()),
    }
}

fn random() -> Result<u64, Error> {
    getrandom::u64().map_err(Error::internal)
}

#[tonic::async_trait]
impl Face for Publisher {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let caller = self.tokens.authenticate(request.metadata()).await?;
        if !matches!(caller, Principal::Service(_)) {
            return Err(Error::Denied(format!("{caller} may not publish; a service: principal may")).into());
        }
        let (event, named) = checked(request.into_inner(), Millis::now())?;
        let user = self.users.acting(&caller, "user_id", &event.users[0]).await?;
        let for_session = !event.session.is_empty();
        if for_session && !self.users.has_session(&user, &event.session).await? && !self.push.has(&event).await? {
            return Err(Error::NotFound(format!(
                "device_session_id: user {} has no such session, or not any more; empty: all of the user's",
                user.name
            ))
            .into());
        }
        let event_id = event.event_id.clone();
        let cursor = self.push.publish(event, named).await?;
        Ok(Response::new(PublishResponse {
            event_id,
            cursor: cursor.map_or_else(String::new, |cursor| Cursor(cursor).to_string()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PublishRequest {
        PublishRequest {
            user_id: "alice".into(),
            device_session_id: "s".repeat(SESSION_MAX),
            kind: "orders.shipped_2".into(),
            payload: br#"{"order":17}"#[..].into(),
            event_id: "e".repeat(ID_MAX),
            request_id: "r".repeat(ID_MAX),
            trace_id: "t".repeat(ID_MAX),
        }
    }

    #[test]
    fn what_is_right_is_carried_as_it_is() {
        let (event, named) = checked(request(), Millis(5)).unwrap();
        let PublishRequest { device_session_id, kind, payload, event_id, request_id, trace_id, .. } = request();
        assert!(named);
        assert_eq!((event.users, event.session, event.kind), (vec!["alice".into()], device_session_id, kind));
        assert_eq!((event.payload, event.event_id), (payload, event_id));
        assert_eq!((event.request_id, event.trace_id, event.stored_at), (request_id, trace_id, Millis(5)));
        let unnamed = || checked(PublishRequest { event_id: String::new(), ..request() }, Millis(5)).unwrap();
        assert_ne!(unnamed().0.event_id, unnamed().0.event_id);
        assert!(!unnamed().1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = || "x".repeat(ID_MAX + 1);
        let table: [(&str, PublishRequest); 14] = [
            ("kind", PublishRequest { kind: String::new(), ..request() }),
            ("kind", PublishRequest { kind: "x".repeat(KIND_MAX + 1), ..request() }),
            ("kind", PublishRequest { kind: "Orders".into(), ..request() }),
            ("kind", PublishRequest { kind: "a b".into(), ..request() }),
            ("kind", PublishRequest { kind: "chat.message".into(), ..request() }),
            ("kind", PublishRequest { kind: "harmony.user_invited".into(), ..request() }),
            ("device_session_id", PublishRequest { device_session_id: "s".repeat(65), ..request() }),
            ("event_id", PublishRequest { event_id: long(), ..request() }),
            ("event_id", PublishRequest { event_id: "chat:1".into(), ..request() }),
            ("request_id", PublishRequest { request_id: long(), ..request() }),
            ("trace_id", PublishRequest { trace_id: long(), ..request() }),
            ("payload", PublishRequest { payload: vec![b' '; PAYLOAD_MAX + 1].into(), ..request() }),
            ("payload", PublishRequest { payload: (&b"{"[..]).into(), ..request() }),
            ("payload", PublishRequest { payload: (&b"\"\xff\""[..]).into(), ..request() }),
        ];
        for (field, request) in table {
            match checked(request.clone(), Millis(5)) {
                Err(Error::Invalid(text)) => assert!(text.starts_with(&format!("{field}: ")), "{text}"),
                other => panic!("{request:?}: {other:?}"),
            }
        }
        assert!(checked(PublishRequest { payload: "".into(), ..request() }, Millis(5)).is_err());
    }
}
