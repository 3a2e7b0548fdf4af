//! Tests of `relay/presence`.

use super::*;
use crate::store::relay::PartyRole;

fn row(name: &str, at: i64) -> PartyRow {
    PartyRow {
        name: name.into(),
        role: PartyRole::Persistent,
        version: String::new(),
        email: None,
        phone: None,
        push_token: None,
        registered_at: Millis(at),
        last_seen_at: Millis(at),
    }
}

#[test]
fn a_party_is_fresh_for_a_while_after_each_sign_of_life() {
    let mut presence = Presence::new(vec![row("alice", 1_000)], 0);
    let window = Duration::from_secs(30);
    assert!(presence.is_fresh("alice", Millis(30_999), window));
    assert!(!presence.is_fresh("alice", Millis(31_000), window));
    assert!(presence.seen("alice", Millis(31_000)));
    assert!(presence.is_fresh("alice", Millis(60_000), window));
    assert!(!presence.is_fresh("bob", Millis(1_000), window));
}

#[test]
fn only_the_registered_are_seen_and_each_is_written_once() {
    let mut presence = Presence::new(vec![row("alice", 1)], 0);
    assert!(!presence.seen("bob", Millis(2)));
    presence.seen("alice", Millis(3));
    // A clock that goes back takes nothing back.
    presence.seen("alice", Millis(2));
    assert_eq!(presence.take_seen(), [("alice".to_owned(), Millis(3))]);
    assert_eq!(presence.take_seen(), []);
}

#[test]
fn a_party_is_silent_a_while_after_its_last_contact_whatever_that_was() {
    let mut presence = Presence::new(vec![row("alice", 1_000)], 0);
    let window = Duration::from_secs(30);
    let silent_in = |presence: &Presence, now| presence.silent_in("alice", Millis(now), window).as_millis();
    for (now, left) in [(1_000, 30_000), (30_999, 1), (31_000, 0), (99_000, 0), (i64::MAX, 0)] {
        assert_eq!(silent_in(&presence, now), left, "at {now}");
    }
    presence.contact("alice", Millis(40_000));
    assert_eq!(silent_in(&presence, 41_000), 29_000);
    assert!(!presence.is_fresh("alice", Millis(41_000), window), "who only reads is not online");
    presence.seen("alice", Millis(50_000));
    assert_eq!(silent_in(&presence, 60_000), 20_000);
    presence.contact("alice", Millis(45_000));
    assert_eq!(presence.last_contact("alice"), Millis(50_000));
    assert_eq!(silent_in(&presence, 0), 30_000, "the clock went back: no longer than after a sign of life");
    assert_eq!(presence.silent_in("alice", Millis(i64::MIN), Duration::MAX), Duration::from_millis(i64::MAX as u64));
    assert_eq!(presence.silent_in("bob", Millis(40_000), window), Duration::ZERO);
}

#[test]
fn what_a_party_heard_only_grows_and_outlives_a_registration() {
    let mut presence = Presence::new(vec![row("alice", 1)], 7);
    assert_eq!((presence.heard_of("alice"), presence.heard_of("bob")), (7, 7));
    presence.heard("alice", 5);
    assert_eq!(presence.heard_of("alice"), 7, "what was there at the start waits for nobody");
    presence.heard("alice", 9);
    presence.heard("alice", 8);
    presence.heard("bob", 9);
    presence.contact("alice", Millis(4));
    presence.put(row("alice", 2));
    assert_eq!((presence.heard_of("alice"), presence.heard_of("bob")), (9, 7));
    assert_eq!(presence.last_contact("alice"), Millis(4));
}
