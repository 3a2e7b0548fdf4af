//! What a user is told of an event of another server.
//!
//! Pure. Numbers of 64 bits are strings in the payload: not every reader of
//! JSON keeps them whole.

use crate::{
    proto::protocol::sync::v1::event::Kind,
    store::push::NewEvent,
    types::{Millis, ServerId},
};
use serde_json::json;

/// Whom an event is about; `None`: nobody.
pub fn user_of(kind: &Kind) -> Option<u64> {
    match kind {
        Kind::UserAddedToGuild(it) => Some(it.user_id),
        Kind::UserRemovedFromGuild(it) => Some(it.user_id),
        Kind::UserInvited(it) => Some(it.user_id),
        Kind::UserRejectedInvite(it) => Some(it.user_id),
        Kind::Parcel(_) => None,
    }
}

/// `user`: the name of the one it is about. `id`: of this event, of no other.
pub fn event(kind: &Kind, user: String, server: &ServerId, id: &str, now: Millis) -> Option<NewEvent> {
    let server = server.as_str();
    let (name, payload) = match kind {
        Kind::UserAddedToGuild(it) => {
            let payload = json!({ "server_id": server, "user_id": text(it.user_id), "guild_id": text(it.guild_id) });
            ("user_added_to_guild", payload)
        }
        Kind::UserRemovedFromGuild(it) => {
            let payload = json!({ "server_id": server, "user_id": text(it.user_id), "guild_id": text(it.guild_id) });
            ("user_removed_from_guild", payload)
        }
        Kind::UserInvited(it) => {
            let (user, inviter, invite) = (text(it.user_id), text(it.inviter_id), &it.invite_id);
            let payload = json!({ "server_id": server, "user_id": user, "inviter_id": inviter, "invite_id": invite });
            ("user_invited", payload)
        }
        Kind::UserRejectedInvite(it) => {
            let (user, guild, invite) = (text(it.user_id), text(it.guild_id), &it.invite_id);
            let payload = json!({ "server_id": server, "user_id": user, "guild_id": guild, "invite_id": invite });
            ("user_rejected_invite", payload)
        }
        Kind::Parcel(_) => return None,
    };
    Some(NewEvent {
        users: vec![user],
        session: String::new(),
        kind: format!("harmony.{name}"),
        payload: payload.to_string().into(),
        event_id: format!("harmony:{id}"),
        request_id: String::new(),
        trace_id: String::new(),
        stored_at: now,
    })
}

fn text(number: u64) -> String {
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::protocol::sync::v1::event::{
        UserAddedToGuild, UserInvited, UserRejectedInvite, UserRemovedFromGuild,
    };

    #[test]
    fn each_kind_has_a_name_and_a_payload_with_all_its_fields() {
        let (user_id, guild_id, inviter_id, invite_id) = (u64::MAX, 2, 3, "i\"1".to_owned());
        let server: ServerId = "b.example:7443".parse().unwrap();
        for (kind, name, payload) in [
            (
                Kind::UserAddedToGuild(UserAddedToGuild { user_id, guild_id }),
                "harmony.user_added_to_guild",
                json!({"server_id": "b.example:7443", "user_id": "18446744073709551615", "guild_id": "2"}),
            ),
            (
                Kind::UserRemovedFromGuild(UserRemovedFromGuild { user_id, guild_id }),
                "harmony.user_removed_from_guild",
                json!({"server_id": "b.example:7443", "user_id": "18446744073709551615", "guild_id": "2"}),
            ),
            (
                Kind::UserInvited(UserInvited { user_id, inviter_id, invite_id: invite_id.clone() }),
                "harmony.user_invited",
                json!({"server_id": "b.example:7443", "user_id": "18446744073709551615", "inviter_id": "3",
                    "invite_id": "i\"1"}),
            ),
            (
                Kind::UserRejectedInvite(UserRejectedInvite { guild_id, user_id, invite_id: invite_id.clone() }),
                "harmony.user_rejected_invite",
                json!({"server_id": "b.example:7443", "user_id": "18446744073709551615", "guild_id": "2",
                    "invite_id": "i\"1"}),
            ),
        ] {
            assert_eq!(user_of(&kind), Some(u64::MAX));
            let event = event(&kind, "alice".into(), &server, "7.1.2", Millis(5)).unwrap();
            assert_eq!((event.kind.as_str(), event.event_id.as_str()), (name, "harmony:7.1.2"));
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&event.payload).unwrap(), payload);
            assert_eq!((event.users, event.session.as_str()), (vec!["alice".to_owned()], ""));
        }
    }
}
