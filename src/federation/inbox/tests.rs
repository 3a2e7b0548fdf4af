//! What each kind of event changes, and what is buried instead.

use super::{plan as plan_with, *};
use crate::proto::{
    pillarbox::relay::v1::{Letter, Message as Said, letter},
    protocol::sync::v1::event::{UserAddedToGuild, UserInvited, UserRejectedInvite, UserRemovedFromGuild},
};

const PEER: PeerId = PeerId(7);
const NOW: Millis = Millis(1000);
const ROOM: Rows = Rows { guilds: 10, invites: 10, invite_bytes: 100 };

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
    plan_with(peer, mark, rows, ROOM, now, &mut |parcel| panic!("{parcel:?} is no parcel of the test"))
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
fn what_would_add_to_a_full_list_is_buried_and_everything_else_goes_on() {
    let invited = |user_id, invite_id: &str| {
        event(Kind::UserInvited(UserInvited { user_id, inviter_id: 3, invite_id: invite_id.into() }))
    };
    let removed = event(Kind::UserRemovedFromGuild(UserRemovedFromGuild { user_id: 1, guild_id: 2 }));
    let bodies =
        [added(1), added(2), removed, invited(1, "abc"), invited(2, "toolong"), invited(3, "d"), invited(4, "")];
    let rows: Vec<Row> = (1..).zip(bodies).map(|(number, body)| ours(number, body)).collect();
    let room = Rows { guilds: 1, invites: 2, invite_bytes: 5 };
    let plan = plan_with(PEER, Mark::default(), &rows, room, NOW, &mut |parcel| panic!("{parcel:?}"));
    assert_eq!((plan.taken, plan.mark.number, plan.dead), (7, 7, vec![LIST_FULL; 3]));
    assert_eq!(plan.added, Rows { guilds: 1, invites: 2, invite_bytes: 4 });
    let buried = plan.op.changes.iter().filter_map(|change| match change {
        Change::Bury(letter) => Some((letter.number, letter.reason.as_str(), letter.body.clone())),
        _ => None,
    });
    assert!(buried.eq([2, 5, 7].map(|number| (number, "list_full", rows[number as usize - 1].body.clone()))));
    let added = |change: &&Change| change.grows() && !matches!(change, Change::Inbound { .. });
    assert_eq!(plan.op.changes.iter().filter(added).count(), 3);
    assert_eq!(plan.op.changes.iter().filter(|change| matches!(change, Change::Inbound { .. })).count(), 4);
}

#[test]
fn rows_overfill_a_list_if_one_of_them_would_find_it_full() {
    let invited = |invite_id: &str| {
        event(Kind::UserInvited(UserInvited { user_id: 1, inviter_id: 3, invite_id: invite_id.into() }))
    };
    let mark = Mark { epoch: 1, number: 1, id: 10 };
    let rows = [added(1), added(2), invited("abc"), parcels::event(9, small()), Bytes::new()];
    let rows: Vec<Row> = (1..).zip(rows).map(|(number, body)| ours(number, body)).collect();
    let room = Rows { guilds: 2, invites: 1, invite_bytes: 3 };
    assert!(!overfills(Mark::default(), &rows, room));
    for short in [Rows { guilds: 1, ..room }, Rows { invites: 0, ..room }, Rows { invite_bytes: 2, ..room }] {
        assert!(overfills(Mark::default(), &rows, short));
    }
    // The first was applied before.
    assert!(!overfills(mark, &rows, Rows { guilds: 1, ..room }));
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

fn letter(payload: Bytes) -> Letter {
    Letter { kind: Some(letter::Kind::Message(Said { payload, ..Said::default() })) }
}

fn small() -> Letter {
    letter(Bytes::from_static(b"hello"))
}

fn refused(reason: &str) -> Result<Vec<Change>, Refused> {
    Err(Refused { reason: reason.into(), row_id: 77 })
}

#[test]
fn a_parcel_is_opened_in_its_place_and_not_logged() {
    let guild = |guild| Change::Guild { user: 1, guild, peer: PEER, member: true };
    let rows = [ours(1, added(1)), ours(2, parcels::event(9, small())), ours(3, added(1))];
    let mut opened = vec![];
    let plan = plan_with(PEER, Mark::default(), &rows, ROOM, NOW, &mut |parcel| {
        opened.push((parcel.id, parcel.body));
        Ok(vec![guild(50), guild(51)])
    });
    assert_eq!(opened, [(9, Some(Body::Relay(small())))]);
    let body = added(1);
    assert_eq!(plan.op.changes[1..], [guild(2), log(&body), guild(50), guild(51), guild(2), log(&body)]);
    assert_eq!((plan.taken, plan.refused, plan.mark.number), (3, 0, 3));
}

#[test]
fn a_parcel_that_was_applied_is_not_opened_again() {
    let mark = Mark { epoch: 1, number: 1, id: 10 };
    let rows = [ours(1, parcels::event(9, small()))];
    assert_eq!(plan(PEER, mark, &rows, NOW).op.changes, []);
}

#[test]
fn a_refused_parcel_goes_back_with_the_mark_that_moves_on() {
    let rows = [ours(1, parcels::event(9, small())), ours(2, added(1))];
    let plan = plan_with(PEER, Mark::default(), &rows, ROOM, NOW, &mut |_| refused("no"));
    let back = Change::Enqueue { peer: PEER, id: 77, stored_at: NOW, body: parcels::refusal(9, Some(3), "no") };
    assert_eq!(plan.op.changes[1], back);
    assert_eq!((plan.taken, plan.refused, plan.mark.number, plan.dead.len()), (2, 1, 2, 0));
}

#[test]
fn a_refusal_is_never_refused_in_turn() {
    let plan = plan_with(PEER, Mark::default(), &[ours(1, parcels::refusal(9, None, "no"))], ROOM, NOW, &mut |_| {
        refused("what?")
    });
    assert_eq!((plan.op.changes.len(), plan.refused, plan.mark.number), (1, 1, 1));
}

#[test]
fn each_letter_knows_which_numbers_are_its_own() {
    let row = |id| Change::Enqueue { peer: PEER, id, stored_at: NOW, body: Bytes::from_static(b"x") };
    let rows = [1, 2, 3, 4].map(|number| ours(number, parcels::event(number, small())));
    let plan = plan_with(PEER, Mark::default(), &rows, ROOM, NOW, &mut |parcel| match parcel.id {
        1 => Ok(vec![row(1), row(2)]),
        2 => refused("takes a number, too"),
        3 => Ok(vec![]),
        _ => Ok(vec![row(3)]),
    });
    assert_eq!(plan.letters, [0..2, 3..3, 3..4]);
}

#[test]
fn a_parcel_of_a_sender_that_numbers_nothing_is_buried() {
    let plan = plan(PEER, Mark::default(), &[stock(parcels::event(9, small()))], NOW);
    assert_eq!((plan.dead, plan.refused, plan.op.changes.len()), (vec!["refused"], 0, 1));
}

#[test]
fn only_a_parcel_may_be_large_and_it_has_a_limit_too() {
    // The largest letter: what is around the payload takes a few bytes.
    let around = parcels::event(9, letter(Bytes::from(vec![1; PARCEL_MAX - 100]))).len() - (PARCEL_MAX - 100);
    let sized = |size: usize| parcels::event(9, letter(Bytes::from(vec![1; size - around])));
    let (largest, larger) = (sized(PARCEL_MAX), sized(PARCEL_MAX + 1));
    assert_eq!((largest.len(), limit(&largest)), (PARCEL_MAX, PARCEL_MAX));
    let taken = plan_with(PEER, Mark::default(), &[ours(1, largest)], ROOM, NOW, &mut |_| Ok(vec![]));
    assert_eq!((taken.letters.len(), taken.dead.len()), (1, 0));
    assert_eq!(plan(PEER, Mark::default(), &[ours(1, larger)], NOW).dead, ["malformed"]);
    let invite_id = "i".repeat(EVENT_MAX);
    let long = event(Kind::UserInvited(UserInvited { user_id: 1, inviter_id: 3, invite_id }));
    assert_eq!(limit(&long), EVENT_MAX);
    assert_eq!(plan(PEER, Mark::default(), &[ours(1, long)], NOW).dead, ["malformed"]);
}
