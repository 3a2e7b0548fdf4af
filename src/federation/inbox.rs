//! What an inbound event changes here.
//!
//! Pure: takes rows of a peer and the mark, gives the changes of one
//! transaction, the effect of every event and the new mark together. What
//! cannot be taken becomes a dead letter with its bytes, or if it is a parcel
//! goes back to its maker, and the mark moves on: nothing blocks the queue
//! behind it, nothing vanishes.

use super::{
    lists::Rows,
    parcels::{self, PARCEL_MAX},
    stream::{Mark, Position, Verdict, judge},
};
use crate::{
    proto::{
        pillarbox::federation::v1::{Parcel, parcel::Body},
        protocol::sync::v1::{Event, event::Kind},
    },
    store::{Change, DeadLetter, Direction, Op},
    types::{Millis, PeerId},
};
use bytes::Bytes;
use prost::Message;
use std::ops::Range;

/// Bytes of one Harmony event.
pub const EVENT_MAX: usize = 64 * 1024;

/// One row as it came.
#[derive(Debug, Clone)]
pub struct Row {
    /// Absent from a stock peer.
    pub position: Option<Position>,
    pub body: Bytes,
}

/// A parcel that was not taken.
#[derive(Debug)]
pub struct Refused {
    pub reason: String,
    /// Random: the id of the row that brings the refusal back.
    pub row_id: u64,
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
    /// What they may add to the lists.
    pub added: Rows,
    /// Parcels among them that were refused.
    pub refused: usize,
    /// For each parcel among them that was taken: which of the op's numbers
    /// are given to its changes.
    pub letters: Vec<Range<u64>>,
    /// The events among them that take effect, and where each stood.
    pub heard: Vec<(Option<Position>, Kind)>,
}

/// The reason of an event that would add to a list in which its sender has no room.
const LIST_FULL: &str = "list_full";

/// The largest event of its kind.
pub fn limit(body: &Bytes) -> usize {
    if body.len() > EVENT_MAX && parcels::read(body).is_some() { PARCEL_MAX } else { EVENT_MAX }
}

/// Whether some of these rows would find a list full. Opens no parcel: that
/// must be done once, by whoever applies them.
pub fn overfills(mark: Mark, rows: &[Row], mut room: Rows) -> bool {
    let due = due(mark, rows).0;
    let bytes = due.iter().map(|row| row.body.len()).sum();
    !room.is_ample(due.len(), bytes) && due.iter().any(|row| read(row).is_ok_and(|kind| !fits(&kind, &mut room)))
}

/// Judges the rows of `peer` against `mark`. Rows without positions are all
/// taken: their sender numbers nothing. `room`: what they may add to the lists.
/// `open`: what a parcel changes; asked for each that takes effect, in their
/// order.
pub fn plan(
    peer: PeerId,
    mark: Mark,
    rows: &[Row],
    room: Rows,
    now: Millis,
    open: &mut dyn FnMut(Parcel) -> Result<Vec<Change>, Refused>,
) -> Plan {
    let (due, reached) = due(mark, rows);
    let mut plan = Plan {
        op: Op { changes: Vec::with_capacity(2 * due.len() + 1) },
        mark: reached,
        taken: due.len(),
        dead: vec![],
        added: Rows::default(),
        refused: 0,
        letters: vec![],
        heard: vec![],
    };
    if reached != mark {
        plan.op.push(Change::Mark { peer, was: (mark.epoch, mark.number), now: reached });
    }
    let (mut left, mut number) = (room, 0);
    for row in due {
        match read(row) {
            Err(reason) => plan.bury(peer, row, now, reason),
            Ok(Kind::Parcel(parcel)) => plan.open(peer, parcel, now, &mut number, open),
            Ok(kind) if !fits(&kind, &mut left) => plan.bury(peer, row, now, LIST_FULL),
            Ok(kind) => {
                plan.heard.push((row.position, kind.clone()));
                plan.op.changes.extend(effect(peer, kind));
                plan.op.push(Change::Inbound { peer, received_at: now, body: row.body.clone() });
            }
        }
    }
    plan.added = room - left;
    plan
}

/// Those of the rows whose turn it is, and the mark behind them.
fn due(mark: Mark, rows: &[Row]) -> (&[Row], Mark) {
    let positions: Option<Vec<Position>> = rows.iter().map(|row| row.position).collect();
    match positions.map(|positions| judge(mark, &positions)) {
        None => (rows, mark),
        Some(Verdict::Apply { skip, take, mark }) => (&rows[skip..skip + take], mark),
        Some(Verdict::Forked) => (&[], mark),
    }
}

/// Takes what an event adds to the lists out of the room; false: there is none.
fn fits(kind: &Kind, room: &mut Rows) -> bool {
    match kind {
        Kind::UserAddedToGuild(_) => room.take_guild(),
        Kind::UserInvited(invited) => room.take_invite(invited.invite_id.len()),
        Kind::UserRemovedFromGuild(_) | Kind::UserRejectedInvite(_) | Kind::Parcel(_) => true,
    }
}

/// The event of a row, or why there is none that could be taken.
fn read(row: &Row) -> Result<Kind, &'static str> {
    let body = &row.body;
    if body.is_empty() || body.len() > PARCEL_MAX {
        return Err("malformed");
    }
    match Event::decode(body.clone()) {
        Err(_) => Err("malformed"),
        Ok(Event { kind: None }) => Err("unknown_kind"),
        // It says "parcels/1" and numbers nothing? Nobody there could be told.
        Ok(Event { kind: Some(Kind::Parcel(_)) }) if row.position.is_none() => Err("refused"),
        Ok(Event { kind: Some(Kind::Parcel(parcel)) }) => Ok(Kind::Parcel(parcel)),
        Ok(Event { kind: Some(_) }) if body.len() > EVENT_MAX => Err("malformed"),
        Ok(Event { kind: Some(kind) }) => Ok(kind),
    }
}

impl Plan {
    fn bury(&mut self, peer: PeerId, row: &Row, now: Millis, reason: &'static str) {
        let number = row.position.map_or(0, |position| position.number);
        self.dead.push(reason);
        self.op.push(Change::Bury(DeadLetter {
            peer,
            direction: Direction::In,
            reason: reason.into(),
            died_at: now,
            number,
            last_number: number,
            row_id: row.position.map_or(0, |position| position.id),
            body: row.body.clone(),
        }));
    }

    /// A refusal goes back to the parcel's maker, but never one of a refusal.
    fn open(
        &mut self,
        peer: PeerId,
        parcel: Parcel,
        now: Millis,
        number: &mut u64,
        open: &mut dyn FnMut(Parcel) -> Result<Vec<Change>, Refused>,
    ) {
        let (id, is_refusal) = (parcel.id, matches!(parcel.body, Some(Body::Returned(_))));
        let body = parcel.body.as_ref().and_then(parcels::number_of);
        match open(parcel) {
            Ok(changes) => {
                let first = *number;
                *number += changes.iter().map(Change::numbers).sum::<u64>();
                self.letters.push(first..*number);
                self.op.changes.extend(changes);
            }
            Err(Refused { reason, row_id }) => {
                self.refused += 1;
                if !is_refusal {
                    let back =
                        Change::Enqueue { peer, id: row_id, stored_at: now, body: parcels::refusal(id, body, &reason) };
                    *number += back.numbers();
                    self.op.push(back);
                }
            }
        }
    }
}

/// What one event changes besides the log. The lists follow the semantics of
/// Harmony's postbox: the host of a guild is the server that sent the event,
/// never a field of it.
fn effect(peer: PeerId, kind: Kind) -> Option<Change> {
    match kind {
        Kind::UserAddedToGuild(added) => {
            Some(Change::Guild { user: added.user_id, guild: added.guild_id, peer, member: true })
        }
        Kind::UserRemovedFromGuild(removed) => {
            Some(Change::Guild { user: removed.user_id, guild: removed.guild_id, peer, member: false })
        }
        Kind::UserInvited(invited) => Some(Change::Invite {
            user: invited.user_id,
            invite: invited.invite_id,
            peer,
            inviter: Some(invited.inviter_id),
        }),
        // News for the inviter's client, who reads it from the log; a parcel is opened.
        Kind::UserRejectedInvite(_) | Kind::Parcel(_) => None,
    }
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
