//! What each kind of event changes, and what is buried instead.

use super::{plan as plan_with, *};
use crate::proto::protocol::sync::v1::event::{
    UserAddedToGuild, UserInvited, UserRejectedInvite, UserRemovedFromGuild,
};

const PEER: PeerId = PeerId(7);
const NOW: Millis = Millis(1000);

fn event(kind: Kind) -> Bytes {
    Event { kind: Some(kind) }.encode_to_vec().into()
}

fn added(user_id: u64) -> Bytes {
    event(Kind::UserAddedToGuild(UserAddedToGuild { user_id, guild_id: 2 }))
}

fn stock(body: Bytes) -> Row {
    Row { position: None, body }
}

fn ours(number: u64, body: Bytes) -> Row {
    let position = Position { epoch: 1, number, id: number * 10, after: number - 1 };
    Row { position: Some(position), body }
}

/// No row of the test is a parcel.
fn plan(peer: PeerId, mark: Mark, rows: &[Row], now: Millis) -> Plan {
    plan_with(peer, mark, rows, now, &mut |parcel| panic!("{parcel:?} is no parcel of the test"))
}

fn log(body: &Bytes) -> Change {
    Change::Inbound { peer: PEER, received_at: NOW, body: body.clone() }
}

#[test]
fn each_kind_has_its_effect_and_its_line_in_the_log() {
    let removed = event(Kind::UserRemovedFromGuild(UserRemovedFromGuild { user_id: 1, guild_id: 2 }));
    let invited = event(Kind::UserInvited(UserInvited { user_id: 1, inviter_id: 3, invite_id: "i".into() }));
    let rejected =
        event(Kind::UserRejectedInvite(UserRejectedInvite { guild_id: 2, user_id: 1, invite_id: "i".into() }));
    let guild = |member| Change::Guild { user: 1, guild: 2, peer: PEER, member };
    let invite = Change::Invite { user: 1, invite: "i".into(), peer: PEER, inviter: Some(3) };
    for (body, effect) in
        [(added(1), Some(guild(true))), (removed, Some(guild(false))), (invited, Some(invite)), (rejected, None)]
    {
        let plan = plan(PEER, Mark::default(), &[stock(body.clone())], NOW);
        let expected: Vec<Change> = effect.into_iter().chain([log(&body)]).collect();
        assert_eq!((plan.op.changes, plan.taken, plan.mark), (expected, 1, Mark::default()));
    }
}

#[test]
fn effect_and_mark_are_one_op() {
    let body = added(1);
    let plan = plan(PEER, Mark::default(), &[ours(1, body.clone()), ours(2, body.clone())], NOW);
    let mark = Mark { epoch: 1, number: 2, id: 20 };
    assert_eq!(plan.op.changes[0], Change::Mark { peer: PEER, was: (0, 0), now: mark });
    assert_eq!((plan.op.changes.len(), plan.taken, plan.mark), (5, 2, mark));
}

#[test]
fn a_row_that_was_applied_changes_nothing() {
    let mark = Mark { epoch: 1, number: 2, id: 20 };
    let plan = plan(PEER, mark, &[ours(1, added(1)), ours(2, added(1))], NOW);
    assert_eq!((plan.op.changes, plan.taken, plan.mark), (vec![], 0, mark));
}

#[test]
fn what_cannot_be_taken_is_buried_with_its_bytes_and_the_mark_moves_on() {
    let unknown = Bytes::from_static(&[0xfa, 0x01, 0x01, 0x00]); // field 31, one byte
    let garbage = Bytes::from_static(&[0x0a, 0x7f]);
    let huge = Bytes::from(vec![0; EVENT_MAX + 1]);
    for (body, reason) in
        [(unknown, "unknown_kind"), (garbage, "malformed"), (Bytes::new(), "malformed"), (huge, "malformed")]
    {
        let plan = plan(PEER, Mark::default(), &[ours(1, body.clone()), ours(2, added(1))], NOW);
        assert_eq!((plan.taken, plan.dead, plan.mark.number), (2, vec![reason], 2));
        let Change::Bury(letter) = &plan.op.changes[1] else { panic!("{:?}", plan.op.changes[1]) };
        assert_eq!((&letter.body, letter.reason.as_str(), letter.number, letter.row_id), (&body, reason, 1, 10));
    }
}

#[test]
fn an_invite_that_is_rejected_from_here_stands_open_no_longer() {
    let rejected =
        event(Kind::UserRejectedInvite(UserRejectedInvite { guild_id: 2, user_id: 1, invite_id: "i".into() }));
    let gone = Change::Invite { user: 1, invite: "i".into(), peer: PEER, inviter: None };
    assert_eq!(effect_of_sending(PEER, &rejected), Some(gone));
    assert_eq!(effect_of_sending(PEER, &added(1)), None);
    assert_eq!(effect_of_sending(PEER, &Bytes::from_static(&[0xff])), None);
}
