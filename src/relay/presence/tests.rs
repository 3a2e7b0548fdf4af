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
    let mut presence = Presence::new(vec![row("alice", 1_000)]);
    let window = Duration::from_secs(30);
    assert!(presence.is_fresh("alice", Millis(30_999), window));
    assert!(!presence.is_fresh("alice", Millis(31_000), window));
    assert!(presence.seen("alice", Millis(31_000)));
    assert!(presence.is_fresh("alice", Millis(60_000), window));
    assert!(!presence.is_fresh("bob", Millis(1_000), window));
}

#[test]
fn only_the_registered_are_seen_and_each_is_written_once() {
    let mut presence = Presence::new(vec![row("alice", 1)]);
    assert!(!presence.seen("bob", Millis(2)));
    presence.seen("alice", Millis(3));
    // A clock that goes back takes nothing back.
    presence.seen("alice", Millis(2));
    assert_eq!(presence.take_seen(), [("alice".to_owned(), Millis(3))]);
    assert_eq!(presence.take_seen(), []);
}
