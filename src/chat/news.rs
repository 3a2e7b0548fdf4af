//! What the users of this node are told, through their gateways, of a message
//! that has its place.
//!
//! Pure.

use super::room::Room;
use crate::{
    proto::chat::Message as Shown,
    store::{
        Change,
        chat::{Entry, Member},
        push::NewEvent,
    },
    types::{Millis, PeerId},
};
use serde::Serialize;

const KIND: &str = "chat.message";
/// Bytes of a text that is told; a longer one is left to the history.
const TEXT_MAX: usize = 64 << 10;

/// The payload of `chat.message`; the fields of `chat.Message`.
#[derive(Serialize)]
struct Payload<'a> {
    id: &'a str,
    client_id: &'a str,
    chat_id: &'a str,
    user_id: &'a str,
    sent_at: i64,
    subject: &'a str,
    text: &'a str,
    /// The text is left out for its length.
    cut: bool,
}

/// Tells every member of this node but the author; nobody, if there is none.
pub fn of(room: &Room, entry: &Entry, shown: &Shown, now: Millis) -> Option<Change> {
    let users = recipients(&room.members, entry.message.author);
    if users.is_empty() {
        return None;
    }
    let cut = shown.text.len() > TEXT_MAX;
    let payload = Payload {
        id: &shown.id,
        client_id: &shown.client_id,
        chat_id: &shown.chat_id,
        user_id: &shown.user_id,
        sent_at: shown.sent_at,
        subject: &shown.subject,
        text: if cut { "" } else { &shown.text },
        cut,
    };
    let event = NewEvent {
        users,
        session: String::new(),
        kind: KIND.into(),
        payload: serde_json::to_vec(&payload).ok()?.into(),
        // A message's id says which chat it is in.
        event_id: format!("chat:{}", shown.id),
        request_id: String::new(),
        trace_id: String::new(),
        stored_at: now,
    };
    Some(event.into())
}

fn recipients(members: &[Member], author: u32) -> Vec<String> {
    let others = (0..).zip(members).filter(|(place, member)| *place != author && member.peer == PeerId::SELF);
    others.map(|(_, member)| member.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_of_this_node_but_the_author_is_told() {
        let member = |peer, name: &str| Member { peer: PeerId(peer), name: name.into(), qualified: name.into() };
        let members = [member(0, "alice"), member(7, "alice"), member(0, "bob"), member(0, "carol")];
        assert_eq!(recipients(&members, 0), ["bob", "carol"]);
        assert_eq!(recipients(&members, 1), ["alice", "bob", "carol"]);
        assert_eq!(recipients(&members[..1], 0), [""; 0]);
    }
}
