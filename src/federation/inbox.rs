//! What an inbound event changes here.
//!
//! Pure: takes rows of a peer and the mark, gives the changes of one
//! transaction, the effect of every event and the new mark together. What
//! cannot be taken becomes a dead letter with its bytes, and the mark moves on:
//! nothing blocks the queue behind it, nothing vanishes.

use super::stream::{Mark, Position, Verdict, judge};
use crate::{
    proto::protocol::sync::v1::{Event, event::Kind},
    store::{Change, DeadLetter, Direction, Op},
    types::{Millis, PeerId},
};
use bytes::Bytes;
use prost::Message;

/// Bytes of one Harmony event.
pub const EVENT_MAX: usize = 64 * 1024;

/// One row as it came.
#[derive(Debug, Clone)]
pub struct Row {
    /// Absent from a stock peer.
    pub position: Option<Position>,
    pub body: Bytes,
}

/// What becomes of a run of rows.
#[derive(Debug)]
pub struct Plan {
    /// One transaction; empty when there is nothing to do.
    pub op: Op,
    /// The mark once it is committed.
    pub mark: Mark,
    /// Rows that take effect or are buried.
    pub taken: usize,
    /// Reasons of the dead letters among them.
    pub dead: Vec<&'static str>,
}

/// Judges the rows of `peer` against `mark`. Rows without positions are all
/// taken: their sender numbers nothing.
pub fn plan(peer: PeerId, mark: Mark, rows: &[Row], now: Millis) -> Plan {
    let positions: Option<Vec<Position>> = rows.iter().map(|row| row.position).collect();
    let (skip, take, reached) = match positions {
        None => (0, rows.len(), mark),
        Some(positions) => match judge(mark, &positions) {
            Verdict::Apply { skip, take, mark } => (skip, take, mark),
            Verdict::Forked => (0, 0, mark),
        },
    };
    let mut changes = Vec::with_capacity(2 * take + 1);
    let mut dead = vec![];
    if reached != mark {
        changes.push(Change::Mark { peer, was: (mark.epoch, mark.number), now: reached });
    }
    for row in &rows[skip..skip + take] {
        if let Some(reason) = effect(peer, row, now, &mut changes) {
            dead.push(reason);
        }
    }
    Plan { op: Op { changes }, mark: reached, taken: take, dead }
}

/// Adds the changes of one event; returns the reason if it is buried instead.
/// The lists follow the semantics of Harmony's postbox: the host of a guild is
/// the server that sent the event, never a field of it.
fn effect(peer: PeerId, row: &Row, now: Millis, changes: &mut Vec<Change>) -> Option<&'static str> {
    let body = &row.body;
    let kind = match Event::decode(body.clone()) {
        _ if body.is_empty() || body.len() > EVENT_MAX => Err("malformed"),
        Err(_) => Err("malformed"),
        Ok(Event { kind: None }) => Err("unknown_kind"),
        Ok(Event { kind: Some(kind) }) => Ok(kind),
    };
    let kind = match kind {
        Ok(kind) => kind,
        Err(reason) => {
            let number = row.position.map_or(0, |position| position.number);
            changes.push(Change::Bury(DeadLetter {
                peer,
                direction: Direction::In,
                reason: reason.into(),
                died_at: now,
                number,
                last_number: number,
                row_id: row.position.map_or(0, |position| position.id),
                body: body.clone(),
            }));
            return Some(reason);
        }
    };
    match kind {
        Kind::UserAddedToGuild(added) => {
            changes.push(Change::Guild { user: added.user_id, guild: added.guild_id, peer, member: true });
        }
        Kind::UserRemovedFromGuild(removed) => {
            changes.push(Change::Guild { user: removed.user_id, guild: removed.guild_id, peer, member: false });
        }
        Kind::UserInvited(invited) => changes.push(Change::Invite {
            user: invited.user_id,
            invite: invited.invite_id,
            peer,
            inviter: Some(invited.inviter_id),
        }),
        // News for the inviter's client, who reads it from the log.
        Kind::UserRejectedInvite(_) => {}
    }
    changes.push(Change::Inbound { peer, received_at: now, body: body.clone() });
    None
}

/// What sending an event to `peer` changes here besides the queue: an invite of
/// that server which a local user rejects is no longer open.
pub fn effect_of_sending(peer: PeerId, body: &Bytes) -> Option<Change> {
    match Event::decode(body.clone()).ok()?.kind? {
        Kind::UserRejectedInvite(rejected) => {
            Some(Change::Invite { user: rejected.user_id, invite: rejected.invite_id, peer, inviter: None })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
