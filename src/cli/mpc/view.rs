//! The messages of `pillarbox.relay.v1.Sessions` as JSON: the fields of the
//! contract by name and in its order, bytes in padded base64.

use crate::{cli::output::base64, proto::pillarbox::relay::v1 as wire};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
pub struct Session<'a> {
    session_id: &'a str,
    owner: &'a str,
    settled: bool,
    parties: u32,
    messages: u64,
    round: i32,
    active_at: i64,
    expires_at: i64,
    equivocations: u32,
}

impl<'a> From<&'a wire::Session> for Session<'a> {
    fn from(it: &'a wire::Session) -> Self {
        Self {
            session_id: &it.session_id,
            owner: &it.owner,
            settled: it.settled,
            parties: it.parties,
            messages: it.messages,
            round: it.round,
            active_at: it.active_at,
            expires_at: it.expires_at,
            equivocations: it.equivocations,
        }
    }
}

#[derive(Serialize)]
pub struct View<'a> {
    session_id: &'a str,
    whole: bool,
    owner: &'a str,
    settled: bool,
    messages: u64,
    cut: bool,
    now: i64,
    expires_at: i64,
    parties: Vec<Party<'a>>,
    rounds: Vec<Round<'a>>,
    equivocations: Vec<Claim<'a>>,
    equivocation_count: u32,
}

#[derive(Serialize)]
struct Party<'a> {
    party: &'a str,
    member: bool,
    online: bool,
    last_seen_at: i64,
}

#[derive(Serialize)]
struct Round<'a> {
    round: i32,
    parties: Vec<Part<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    party: &'a str,
    sent: u32,
    sent_at: i64,
    addressed: u32,
    delivered: u32,
    acknowledged: u32,
    failed: u32,
    waiting_for: &'a str,
    waiting_since: i64,
}

#[derive(Serialize)]
struct Claim<'a> {
    round_number: i32,
    message_type: &'a str,
    sender: &'a str,
}

impl<'a> From<&'a wire::View> for View<'a> {
    fn from(it: &'a wire::View) -> Self {
        let party = |it: &'a wire::Party| Party {
            party: &it.party,
            member: it.member,
            online: it.online,
            last_seen_at: it.last_seen_at,
        };
        let part = |it: &'a wire::Part| Part {
            party: &it.party,
            sent: it.sent,
            sent_at: it.sent_at,
            addressed: it.addressed,
            delivered: it.delivered,
            acknowledged: it.acknowledged,
            failed: it.failed,
            waiting_for: &it.waiting_for,
            waiting_since: it.waiting_since,
        };
        let round = |it: &'a wire::Round| Round { round: it.round, parties: it.parties.iter().map(part).collect() };
        let claim = |it: &'a wire::Claim| Claim {
            round_number: it.round_number,
            message_type: &it.message_type,
            sender: &it.sender,
        };
        Self {
            session_id: &it.session_id,
            whole: it.whole,
            owner: &it.owner,
            settled: it.settled,
            messages: it.messages,
            cut: it.cut,
            now: it.now,
            expires_at: it.expires_at,
            parties: it.parties.iter().map(party).collect(),
            rounds: it.rounds.iter().map(round).collect(),
            equivocations: it.equivocations.iter().map(claim).collect(),
            equivocation_count: it.equivocation_count,
        }
    }
}

#[derive(Serialize)]
pub struct Slot<'a> {
    position: u64,
    round_number: i32,
    message_type: &'a str,
    sender: &'a str,
    message_id: &'a str,
    broadcast: bool,
    payload_sha256: String,
    before: String,
    link: String,
    key: String,
    signature: String,
    repeated: bool,
    equivocation: bool,
    accepted_at: i64,
}

impl<'a> From<&'a wire::Slot> for Slot<'a> {
    fn from(it: &'a wire::Slot) -> Self {
        Self {
            position: it.position,
            round_number: it.round_number,
            message_type: &it.message_type,
            sender: &it.sender,
            message_id: &it.message_id,
            broadcast: it.broadcast,
            payload_sha256: base64(&it.payload_sha256),
            before: base64(&it.before),
            link: base64(&it.link),
            key: base64(&it.key),
            signature: base64(&it.signature),
            repeated: it.repeated,
            equivocation: it.equivocation,
            accepted_at: it.accepted_at,
        }
    }
}

#[derive(Serialize)]
pub struct Head<'a> {
    session_id: &'a str,
    position: u64,
    link: String,
    server_id: &'a str,
    key: String,
    signature: String,
}

impl<'a> From<&'a wire::Head> for Head<'a> {
    fn from(it: &'a wire::Head) -> Self {
        Self {
            session_id: &it.session_id,
            position: it.position,
            link: base64(&it.link),
            server_id: &it.server_id,
            key: base64(&it.key),
            signature: base64(&it.signature),
        }
    }
}

/// Printed by `mpc evidence`, read by `mpc verify`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub session_id: String,
    pub round_number: i32,
    pub message_type: String,
    pub sender: String,
    pub message_id: String,
    pub payload_sha256: String,
    pub key: String,
    pub signature: String,
}

impl From<&wire::Record> for Record {
    fn from(it: &wire::Record) -> Self {
        Self {
            session_id: it.session_id.clone(),
            round_number: it.round_number,
            message_type: it.message_type.clone(),
            sender: it.sender.clone(),
            message_id: it.message_id.clone(),
            payload_sha256: base64(&it.payload_sha256),
            key: base64(&it.key),
            signature: base64(&it.signature),
        }
    }
}

/// What `mpc verify` found.
#[derive(Serialize)]
pub struct Verdict<'a> {
    pub records: usize,
    pub valid: usize,
    pub equivocation: bool,
    /// Under what two payloads were broadcast.
    pub equivocations: Vec<Twice<'a>>,
}

#[derive(Serialize)]
pub struct Twice<'a> {
    pub session_id: &'a str,
    pub round_number: i32,
    pub message_type: &'a str,
    pub sender: &'a str,
    pub message_ids: [&'a str; 2],
    pub payloads_sha256: [String; 2],
}

#[cfg(test)]
mod tests;
