//! The admin service's messages as JSON: the fields of the contract by name
//! and in its order.
//!
//! Numbers stay numbers (64-bit ids too), bytes are padded base64, times are
//! Unix milliseconds. An event is an object with its kind's name; one that
//! cannot be read is `{"raw": base64}`.

use super::output::{base64, plain};
use crate::proto::{
    pillarbox::{admin::v1 as admin, postbox::v1 as postbox},
    protocol::sync::v1::{Event, event},
};
use prost::Message;
use serde::Serialize;

#[derive(Serialize)]
pub struct ShowKeyResponse<'a> {
    pub server_id: &'a str,
    pub key: String,
}

impl<'a> From<&'a admin::ShowKeyResponse> for ShowKeyResponse<'a> {
    fn from(it: &'a admin::ShowKeyResponse) -> Self {
        Self { server_id: &it.server_id, key: base64(&it.key) }
    }
}

#[derive(Serialize)]
pub struct Peer<'a> {
    server_id: &'a str,
    state: &'a str,
    queued: u64,
    queued_bytes: u64,
    outbound_ok_at: i64,
    inbound_ok_at: i64,
    outbound_error: &'a str,
}

impl<'a> From<&'a postbox::Peer> for Peer<'a> {
    fn from(it: &'a postbox::Peer) -> Self {
        Self {
            server_id: &it.server_id,
            state: &it.state,
            queued: it.queued,
            queued_bytes: it.queued_bytes,
            outbound_ok_at: it.outbound_ok_at,
            inbound_ok_at: it.inbound_ok_at,
            outbound_error: &it.outbound_error,
        }
    }
}

#[derive(Serialize)]
pub struct PeerDetail<'a> {
    peer: Option<Peer<'a>>,
    key: String,
    key_origin: &'a str,
    address: &'a str,
    plaintext: bool,
    held: bool,
    tokens: &'a str,
    kind: &'a str,
    transport: &'a str,
    epoch: u64,
    settled: u64,
    inbound_epoch: u64,
    inbound_mark: u64,
    next_attempt_at: i64,
    next_pull_at: i64,
    former_ids: &'a [String],
    known_as: &'a str,
    next_id: &'a str,
    parcels: bool,
    lane: &'a str,
}

impl<'a> From<&'a admin::PeerDetail> for PeerDetail<'a> {
    fn from(it: &'a admin::PeerDetail) -> Self {
        Self {
            peer: it.peer.as_ref().map(Peer::from),
            key: base64(&it.key),
            key_origin: &it.key_origin,
            address: &it.address,
            plaintext: it.plaintext,
            held: it.held,
            tokens: &it.tokens,
            kind: &it.kind,
            transport: &it.transport,
            epoch: it.epoch,
            settled: it.settled,
            inbound_epoch: it.inbound_epoch,
            inbound_mark: it.inbound_mark,
            next_attempt_at: it.next_attempt_at,
            next_pull_at: it.next_pull_at,
            former_ids: &it.former_ids,
            known_as: &it.known_as,
            next_id: &it.next_id,
            parcels: it.parcels,
            lane: &it.lane,
        }
    }
}

#[derive(Serialize)]
pub struct RenameServerResponse<'a> {
    pub former_ids: &'a [String],
    pub peers_to_tell: u64,
}

impl<'a> From<&'a admin::RenameServerResponse> for RenameServerResponse<'a> {
    fn from(it: &'a admin::RenameServerResponse) -> Self {
        Self { former_ids: &it.former_ids, peers_to_tell: it.peers_to_tell }
    }
}

#[derive(Serialize)]
pub struct QueuedEvent<'a> {
    number: u64,
    server_id: &'a str,
    stored_at: i64,
    event: EventView,
}

impl<'a> From<&'a admin::QueuedEvent> for QueuedEvent<'a> {
    fn from(it: &'a admin::QueuedEvent) -> Self {
        Self { number: it.number, server_id: &it.server_id, stored_at: it.stored_at, event: read_event(&it.event) }
    }
}

#[derive(Serialize)]
pub struct DeadLetter<'a> {
    id: u64,
    server_id: &'a str,
    direction: &'a str,
    reason: &'a str,
    died_at: i64,
    number: u64,
    last_number: u64,
    /// None of a hole.
    body: Option<EventView>,
    size: u64,
}

impl<'a> From<&'a admin::DeadLetter> for DeadLetter<'a> {
    fn from(it: &'a admin::DeadLetter) -> Self {
        Self {
            id: it.id,
            server_id: &it.server_id,
            direction: &it.direction,
            reason: &it.reason,
            died_at: it.died_at,
            number: it.number,
            last_number: it.last_number,
            body: (!it.body.is_empty()).then(|| read_event(&it.body)),
            size: it.size,
        }
    }
}

#[derive(Serialize)]
pub struct Received<'a> {
    cursor: u64,
    sender: &'a str,
    received_at: i64,
    event: EventView,
}

impl<'a> From<&'a postbox::Received> for Received<'a> {
    fn from(it: &'a postbox::Received) -> Self {
        Self { cursor: it.cursor, sender: &it.sender, received_at: it.received_at, event: read_event(&it.event) }
    }
}

#[derive(Serialize)]
pub struct TokenInfo<'a> {
    id: &'a str,
    principal: &'a str,
    created_at: i64,
    expires_at: i64,
    last_used_at: i64,
    user_agent: &'a str,
}

impl<'a> From<&'a admin::TokenInfo> for TokenInfo<'a> {
    fn from(it: &'a admin::TokenInfo) -> Self {
        Self {
            id: &it.id,
            principal: &it.principal,
            created_at: it.created_at,
            expires_at: it.expires_at,
            last_used_at: it.last_used_at,
            user_agent: &it.user_agent,
        }
    }
}

#[derive(Serialize)]
pub struct UserInfo<'a> {
    id: &'a str,
    name: &'a str,
    state: &'a str,
    created_at: i64,
}

impl<'a> From<&'a admin::UserInfo> for UserInfo<'a> {
    fn from(it: &'a admin::UserInfo) -> Self {
        Self { id: &it.id, name: &it.name, state: &it.state, created_at: it.created_at }
    }
}

#[derive(Serialize)]
pub struct DeleteUserResponse {
    pub sessions: u64,
}

#[derive(Serialize)]
pub struct RevokeSessionsResponse {
    pub revoked: u64,
}

#[derive(Serialize)]
pub struct NewTokenResponse<'a> {
    pub token: &'a str,
    pub id: &'a str,
}

#[derive(Serialize)]
pub struct SendResponse {
    pub first_number: u64,
}

/// Of RemovePeerResponse and DropQueueResponse.
#[derive(Serialize)]
pub struct Dead {
    pub dead: u64,
}

#[derive(Serialize)]
pub struct ResendDeadResponse {
    pub number: u64,
}

#[derive(Serialize)]
pub struct RevokeTokenResponse {}

/// One event of the contract.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum EventView {
    UserRemovedFromGuild {
        user_id: u64,
        guild_id: u64,
    },
    UserAddedToGuild {
        user_id: u64,
        guild_id: u64,
    },
    UserInvited {
        user_id: u64,
        inviter_id: u64,
        invite_id: String,
    },
    UserRejectedInvite {
        guild_id: u64,
        user_id: u64,
        invite_id: String,
    },
    /// Never what is in it.
    Parcel {
        id: u64,
    },
    Raw(String),
}

/// Reads an event's bytes for the eye; they themselves stay as they are.
pub fn read_event(bytes: &[u8]) -> EventView {
    match Event::decode(bytes).map(|event| event.kind) {
        Ok(Some(event::Kind::UserRemovedFromGuild(it))) => {
            EventView::UserRemovedFromGuild { user_id: it.user_id, guild_id: it.guild_id }
        }
        Ok(Some(event::Kind::UserAddedToGuild(it))) => {
            EventView::UserAddedToGuild { user_id: it.user_id, guild_id: it.guild_id }
        }
        Ok(Some(event::Kind::UserInvited(it))) => {
            EventView::UserInvited { user_id: it.user_id, inviter_id: it.inviter_id, invite_id: it.invite_id }
        }
        Ok(Some(event::Kind::UserRejectedInvite(it))) => {
            EventView::UserRejectedInvite { guild_id: it.guild_id, user_id: it.user_id, invite_id: it.invite_id }
        }
        Ok(Some(event::Kind::Parcel(it))) => EventView::Parcel { id: it.id },
        Ok(None) | Err(_) => EventView::Raw(base64(bytes)),
    }
}

impl EventView {
    /// As one line, in the words of `event send`.
    pub fn text(&self) -> String {
        match self {
            Self::UserRemovedFromGuild { user_id, guild_id } => format!("user-removed user={user_id} guild={guild_id}"),
            Self::UserAddedToGuild { user_id, guild_id } => format!("user-added user={user_id} guild={guild_id}"),
            Self::UserInvited { user_id, inviter_id, invite_id } => {
                format!("user-invited user={user_id} inviter={inviter_id} invite={}", plain(invite_id))
            }
            Self::UserRejectedInvite { guild_id, user_id, invite_id } => {
                format!("user-rejected user={user_id} guild={guild_id} invite={}", plain(invite_id))
            }
            Self::Parcel { id } => format!("parcel id={id:016x}"),
            Self::Raw(base64) if base64.chars().count() > 64 => format!("raw {}…", &base64[..64]),
            Self::Raw(base64) => format!("raw {base64}"),
        }
    }
}

#[cfg(test)]
mod tests;
