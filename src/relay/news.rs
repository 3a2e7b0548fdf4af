//! What users are told, through their gateways, of what the router has for
//! their parties.
//!
//! Never what is in a message, nor a token to join with. Pure.

use crate::{
    proto::mpc::router::v1::SessionEvent,
    store::{Change, push::NewEvent},
    types::{Millis, PeerId},
};
use serde::Serialize;

const MESSAGE: &str = "mpc.message_waiting";
const EVENT: &str = "mpc.session_event";

/// A message that was taken.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Message<'a> {
    pub message_id: &'a str,
    pub session_id: &'a str,
    /// With its server, if that is another one.
    pub from_party: &'a str,
    pub message_type: &'a str,
    pub round_number: i32,
    pub is_broadcast: bool,
}

#[derive(Serialize)]
struct ForParty<'a, T> {
    party_id: &'a str,
    #[serde(flatten)]
    what: T,
}

#[derive(Serialize)]
struct Event<'a> {
    event_id: &'a str,
    event_type: &'a str,
    session_id: &'a str,
    created_at: i64,
    expires_at: i64,
}

/// A message waits for a party. `origin`: the server it is from.
pub fn message(origin: PeerId, what: Message<'_>, party: &str, user: String, now: Millis) -> Option<Change> {
    let id = format!("mpc:message:{}:{}:{party}", origin.0, what.message_id);
    told(MESSAGE, id, &ForParty { party_id: party, what }, user, now)
}

/// A session event names a party. `owner`: the server it is from.
pub fn event(owner: PeerId, event: &SessionEvent, party: &str, user: String, now: Millis) -> Option<Change> {
    let id = format!("mpc:event:{}:{}:{}:{party}", owner.0, event.session_id, event.event_id);
    let what = Event {
        event_id: &event.event_id,
        event_type: &event.event_type,
        session_id: &event.session_id,
        created_at: event.created_at,
        expires_at: event.expires_at,
    };
    told(EVENT, id, &ForParty { party_id: party, what }, user, now)
}

fn told(kind: &str, event_id: String, payload: &impl Serialize, user: String, now: Millis) -> Option<Change> {
    let event = NewEvent {
        users: vec![user],
        session: String::new(),
        kind: kind.into(),
        payload: serde_json::to_vec(payload).ok()?.into(),
        event_id,
        request_id: String::new(),
        trace_id: String::new(),
        stored_at: now,
    };
    Some(event.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::push;
    use serde_json::{Value, json};

    fn shown(change: Change) -> (NewEvent, Value) {
        match change {
            Change::Push(push::Change::Event(event)) => {
                let payload = serde_json::from_slice(&event.payload).unwrap();
                (*event, payload)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_is_told_by_all_but_what_is_in_it() {
        let what = Message {
            message_id: "7",
            session_id: "s",
            from_party: "bob@b.example:7443",
            message_type: "commit",
            round_number: 2,
            is_broadcast: true,
        };
        let (event, payload) = shown(message(PeerId(3), what, "phone", "alice".into(), Millis(5)).unwrap());
        assert_eq!((event.users, event.kind.as_str()), (vec!["alice".to_owned()], "mpc.message_waiting"));
        assert_eq!(event.event_id, "mpc:message:3:7:phone");
        let expected = json!({"party_id": "phone", "message_id": "7", "session_id": "s", "from_party": "bob@b.example:7443",
            "message_type": "commit", "round_number": 2, "is_broadcast": true});
        assert_eq!(payload, expected);
    }

    #[test]
    fn a_session_event_is_told_without_a_token() {
        let happened = SessionEvent {
            event_id: "e".into(),
            event_type: "session_created".into(),
            session_id: "s".into(),
            join_tokens: [("phone".to_owned(), "secret".to_owned())].into(),
            created_at: 1,
            expires_at: 2,
            ..SessionEvent::default()
        };
        let (told, payload) = shown(event(PeerId::SELF, &happened, "phone", "alice".into(), Millis(5)).unwrap());
        assert_eq!((told.kind.as_str(), told.event_id.as_str()), ("mpc.session_event", "mpc:event:0:s:e:phone"));
        let expected = json!({"party_id": "phone", "event_id": "e", "event_type": "session_created", "session_id": "s",
            "created_at": 1, "expires_at": 2});
        assert_eq!(payload, expected);
    }
}
