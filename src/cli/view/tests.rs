//! JSON has the fields of the contract, by name and in order.

use super::*;
use crate::{
    cli::contract::{fields, keys},
    proto::pillarbox::{
        federation::v1::{Parcel, parcel::Body},
        relay::v1::Letter,
    },
};

#[test]
fn the_keys_are_the_fields_of_the_contract() {
    let admin = |name: &str| fields(&format!("pillarbox.admin.v1.{name}"));
    let postbox = |name: &str| fields(&format!("pillarbox.postbox.v1.{name}"));
    let table = [
        (keys(&ShowKeyResponse::from(&Default::default())), admin("ShowKeyResponse")),
        (keys(&Peer::from(&Default::default())), postbox("Peer")),
        (keys(&PeerDetail::from(&Default::default())), admin("PeerDetail")),
        (keys(&QueuedEvent::from(&Default::default())), admin("QueuedEvent")),
        (keys(&DeadLetter::from(&Default::default())), admin("DeadLetter")),
        (keys(&Received::from(&Default::default())), postbox("Received")),
        (keys(&TokenInfo::from(&Default::default())), admin("TokenInfo")),
        (keys(&NewTokenResponse { token: "", id: "" }), admin("NewTokenResponse")),
        (keys(&SendResponse { first_number: 1 }), postbox("SendResponse")),
        (keys(&Dead { dead: 1 }), admin("RemovePeerResponse")),
        (keys(&Dead { dead: 1 }), admin("DropQueueResponse")),
        (keys(&ResendDeadResponse { number: 1 }), admin("ResendDeadResponse")),
        (keys(&RevokeTokenResponse {}), admin("RevokeTokenResponse")),
        (keys(&UserInfo::from(&Default::default())), admin("UserInfo")),
        (keys(&DeleteUserResponse { sessions: 1 }), admin("DeleteUserResponse")),
        (keys(&RevokeSessionsResponse { revoked: 1 }), admin("RevokeSessionsResponse")),
    ];
    for (printed, contract) in table {
        assert_eq!(printed, contract);
    }
}

fn json(kind: event::Kind) -> String {
    let bytes = Event { kind: Some(kind) }.encode_to_vec();
    serde_json::to_string(&read_event(&bytes)).expect("plain values")
}

#[test]
fn an_event_is_an_object_named_by_its_kind() {
    let added = event::UserAddedToGuild { user_id: u64::MAX, guild_id: 2 };
    let expected = r#"{"user_added_to_guild":{"user_id":18446744073709551615,"guild_id":2}}"#;
    assert_eq!(json(event::Kind::UserAddedToGuild(added)), expected);
    let removed = event::UserRemovedFromGuild { user_id: 1, guild_id: 2 };
    let expected = r#"{"user_removed_from_guild":{"user_id":1,"guild_id":2}}"#;
    assert_eq!(json(event::Kind::UserRemovedFromGuild(removed)), expected);
    let invited = event::UserInvited { user_id: 1, inviter_id: 2, invite_id: "i".into() };
    let expected = r#"{"user_invited":{"user_id":1,"inviter_id":2,"invite_id":"i"}}"#;
    assert_eq!(json(event::Kind::UserInvited(invited)), expected);
    let parcel = Parcel { id: 9, body: Some(Body::Relay(Letter::default())) };
    assert_eq!(json(event::Kind::Parcel(parcel)), r#"{"parcel":{"id":9}}"#);
    let rejected = event::UserRejectedInvite { guild_id: 2, user_id: 1, invite_id: "i".into() };
    let expected = r#"{"user_rejected_invite":{"guild_id":2,"user_id":1,"invite_id":"i"}}"#;
    assert_eq!(json(event::Kind::UserRejectedInvite(rejected)), expected);
}

#[test]
fn what_cannot_be_read_is_shown_raw() {
    // A kind of another time (field 99), and bytes that are no message.
    for (bytes, base64) in [(&[0x9a, 0x06, 0x00][..], "mgYA"), (&[0xff][..], "/w==")] {
        assert_eq!(read_event(bytes), EventView::Raw(base64.into()));
    }
    assert!(read_event(&[0xff; 500]).text().chars().count() < 80);
}

#[test]
fn a_foreign_text_cannot_drive_the_terminal() {
    let invited = event::UserInvited { user_id: 1, inviter_id: 2, invite_id: "\u{1b}[2J".into() };
    let bytes = Event { kind: Some(event::Kind::UserInvited(invited)) }.encode_to_vec();
    assert!(!read_event(&bytes).text().contains('\u{1b}'));
}
