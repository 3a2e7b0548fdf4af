//! Tests of `relay/progress`.

use super::*;
use crate::{store::relay::SessionDelivery, types::PeerId};

fn party(name: &str) -> PartyRef {
    PartyRef { peer: PeerId::SELF, name: name.into() }
}

fn message(round: i32, from: &str, at: i64, to: &[(&str, DeliveryState, i64)]) -> SessionMessage {
    let delivery = |(name, state, moment): &(&str, DeliveryState, i64)| SessionDelivery {
        seq: 0,
        party: party(name),
        state: *state,
        delivered_at: (*state != DeliveryState::Pending).then_some(Millis(*moment)),
        finished_at: state.is_final().then_some(Millis(*moment + 1)),
    };
    SessionMessage {
        number: 0,
        sender: party(from),
        round,
        accepted_at: Millis(at),
        deliveries: to.iter().map(delivery).collect(),
    }
}

use DeliveryState::{Acknowledged, Delivered, Failed, Pending};

fn waits(progress: &Progress) -> Vec<(i32, &str, &str, i64)> {
    let parts =
        progress.rounds.iter().flat_map(|(round, parts)| parts.iter().map(move |(party, part)| (round, party, part)));
    let waiting = parts.filter(|(_, _, part)| part.waiting != Waiting::Nothing);
    waiting.map(|(round, party, part)| (*round, &*party.name, part.waiting.name(), part.since.unwrap().0)).collect()
}

#[test]
fn a_party_is_waited_for_until_it_has_acknowledged() {
    for (state, expected) in [
        (Pending, Some(("fetch", 10))),
        (Delivered, Some(("acknowledgement", 20))),
        (Acknowledged, None),
        (Failed, None),
    ] {
        let progress = progress(None, &[message(1, "ann", 10, &[("bob", state, 20)])]);
        let expected: Vec<_> = expected.into_iter().map(|(what, since)| (1, "bob", what, since)).collect();
        assert_eq!(waits(&progress), expected);
        let bob = progress.rounds[&1][&party("bob")];
        let counts = (bob.addressed, bob.delivered, bob.acknowledged, bob.failed);
        assert_eq!(
            counts,
            (
                1,
                u32::from(state == Delivered || state == Acknowledged),
                u32::from(state == Acknowledged),
                u32::from(state == Failed)
            )
        );
    }
}

#[test]
fn what_lies_here_unfetched_is_said_before_what_is_not_acknowledged_and_the_oldest_counts() {
    let to = |state, at| [("bob", state, at)];
    let messages = [
        message(1, "ann", 30, &to(Pending, 0)),
        message(1, "ann", 5, &to(Delivered, 7)),
        message(1, "ann", 20, &to(Pending, 0)),
        message(1, "ann", 1, &to(Delivered, 2)),
    ];
    for turn in 0..messages.len() {
        let mut turned = messages.to_vec();
        turned.rotate_left(turn);
        assert_eq!(waits(&progress(None, &turned)), [(1, "bob", "fetch", 20)]);
    }
    assert_eq!(waits(&progress(None, &[messages[1].clone(), messages[3].clone()])), [(1, "bob", "acknowledgement", 2)]);
}

#[test]
fn a_party_of_a_settled_session_is_waited_for_in_the_first_round_it_did_not_send_in() {
    let everyone: BTreeSet<_> = ["ann", "bob", "cyd"].map(party).into();
    let rounds = [
        message(1, "ann", 10, &[]),
        message(1, "bob", 11, &[]),
        message(2, "ann", 20, &[]),
        message(3, "ann", 30, &[]),
    ];
    let settled = progress(Some(&everyone), &rounds);
    assert_eq!(waits(&settled), [(1, "cyd", "message", 10), (2, "bob", "message", 20)]);
    let parts: Vec<usize> = settled.rounds.values().map(BTreeMap::len).collect();
    assert_eq!(parts, [3, 2, 1], "who has no part in a round and is not waited for in it takes no room");
    // Nobody is expected in an open one.
    assert_eq!(waits(&progress(None, &rounds)), []);
    assert_eq!(progress(Some(&everyone), &[]), Progress::default());
}

#[test]
fn sending_fetching_and_acknowledging_are_signs_of_life_and_failing_is_none() {
    let messages = [
        message(1, "ann", 10, &[("bob", Delivered, 20), ("cyd", Acknowledged, 30), ("dan", Pending, 0)]),
        message(2, "ann", 15, &[("bob", Failed, 18)]),
    ];
    let seen = progress(None, &messages).seen;
    let seen: Vec<_> = seen.iter().map(|(party, at)| (&*party.name, at.0)).collect();
    assert_eq!(seen, [("ann", 15), ("bob", 20), ("cyd", 31)]);
}
